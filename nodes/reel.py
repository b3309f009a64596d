"""The loop over clips in the host: each sampled or found, one progress bar, one text at the end."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ..emo_core.clips import ClipPlan, num_clips, plan_clips
from ..emo_core.conditions import Conditions
from ..emo_core.generate import Film, generate
from .clip_sampler import ClipSampler, Settings
from .film import Inputs, clip_plan, film_of, frames_of, hand_over_of, say_what_is_missing
from .host import parts_of
from .keeping import kept_clips

logger = logging.getLogger(__name__)

Latent = dict[str, Tensor]


def sample_film(
    inputs: Inputs, settings: Settings, keep_clips: bool, clip_index: int | None = None
) -> tuple[Latent, Latent, str]:
    """Make a film's clips, one after the other; those that are kept need not be sampled.

    Args:
        inputs: what the node is connected to.
        settings: its widgets.
        keep_clips: whether clips are kept and looked for.
        clip_index: the one clip to make; None for all of them.

    Returns:
        LATENT of the frames, LATENT of the film's last frames, which a next clip sees, and a text
        that says what was done.
    """
    conditioner, film = film_of(inputs)
    temporal, count = conditioner.config.temporal, frames_of(inputs)
    if clip_index is None:
        plans = list(plan_clips(count, temporal.num_frames))
    else:
        plans = [clip_plan(conditioner.config, count, clip_index)]
        say_what_is_missing(film, clip_index)
    hand_over = hand_over_of(inputs, film, settings.noise)
    reel = Reel(inputs, settings, film, len(plans))
    if keep_clips:
        reel.keep()
    for _ in generate(conditioner, film, plans, reel.sample, hand_over, reel):
        pass
    frames, last = reel.film()
    return {"samples": frames}, {"samples": last}, reel.text()


class Reel:
    """A film's clips as the host's sampler gave them; generate.Kept, and its SampleClip.

    The clips are kept unscaled too, for equal bits: nothing is scaled to the model's latents and
    back.

    Args:
        inputs: what the node is connected to.
        settings: its widgets.
        film: what the clips are made from.
        total_clips: how many clips are to be made.
    """

    def __init__(self, inputs: Inputs, settings: Settings, film: Film, total_clips: int) -> None:
        self._inputs, self._settings, self._film = inputs, settings, film
        self._config = parts_of(inputs.model).config
        self._sampler = ClipSampler(inputs.model, settings, inputs.seed, total_clips)
        self._kept, self._strangers = None, list[str]()
        self._frames: list[Tensor] = []
        self._raw = self._beyond = film.portrait[:0]
        self._found = 0

    def keep(self) -> None:
        """Look for clips in the host's output folder, and keep there what is sampled."""
        self._kept, self._strangers = kept_clips(
            self._inputs, self._settings, self._film, self._skip
        )
        if self._strangers:
            logger.info(self._about_strangers())

    def sample(self, conditions: Conditions, noise: Tensor, plan: ClipPlan) -> Tensor:
        """A clip's conditions and noise (1, F, C, h, w) to the model's latents (1, F, C, h, w)."""
        total = num_clips(frames_of(self._inputs), self._config.temporal.num_frames)
        rate = self._config.frame_rate
        logger.info(
            "clip %d of %d, %s-%s, %d from cache", plan.index + 1, total,
            _clock(plan.first / rate), _clock((plan.first + plan.kept) / rate), self._found,
        )  # fmt: skip
        self._raw = self._sampler(conditions, noise, plan)
        return self._taken(self._raw, plan)[None]

    def get(self, plan: ClipPlan) -> Tensor | None:
        """See generate.Kept."""
        raw = None if self._kept is None else self._kept.get(plan)
        return None if raw is None else self._taken(raw, plan)

    def put(self, plan: ClipPlan, latents: Tensor) -> None:
        """See generate.Kept; what is kept are the sampler's own."""
        if self._kept is not None:
            self._kept.put(plan, self._raw)

    def film(self) -> tuple[Tensor, Tensor]:
        """All frames (F, C, h, w), and the frames (n, C, h, w) before whatever goes on from them.

        A sound's last clip may keep fewer than n; then they reach back to the frames before the
        clip, and only in a film that is shorter than n on to what was sampled beyond its end.
        """
        frames = torch.cat(self._frames)
        seen, count = frames, self._config.temporal.num_motion_frames
        if self._film.motion is not None:
            before = self._inputs.model.model.process_latent_out(self._film.motion[0])
            seen = torch.cat([before, frames])
        missing = max(0, count - len(seen))
        return frames, torch.cat([seen, self._beyond[:missing]])[-count:].clone()

    def text(self) -> str:
        """What was done, for the node to show."""
        said = f"{len(self._frames)} clips, {self._found} from cache"
        return f"{said}\n{self._about_strangers()}" if self._strangers else said

    def _taken(self, raw: Tensor, plan: ClipPlan) -> Tensor:
        self._frames.append(raw[: plan.kept])
        self._beyond = raw[plan.kept :]
        return torch.as_tensor(self._inputs.model.model.process_latent_in(raw))

    def _skip(self, _: ClipPlan) -> None:
        self._found += 1
        self._sampler.skip()

    def _about_strangers(self) -> str:
        return (
            f"what {', '.join(self._strangers)} does is known to its own pack alone, so these "
            "clips are reused only until this server ends"
        )


def _clock(seconds: float) -> str:
    """Minutes, seconds and hundredths, as 0:02.24."""
    hundredths = round(seconds * 100)
    return f"{hundredths // 6000}:{hundredths // 100 % 60:02}.{hundredths % 100:02}"
