"""The loop over clips in the host: each sampled or found, one progress bar, one text at the end."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor

from ..emo_core.clips import ClipPlan, num_clips
from ..emo_core.conditions import Conditions
from ..emo_core.films import FilmFacts
from ..emo_core.generate import Film, generate
from ..emo_core.given import Given
from ..emo_core.joins import plan_joins
from ..emo_core.kept import KeptClips
from ..emo_core.lock import lock_colours
from ..emo_core.spool import Spool
from .clip_sampler import ClipSampler, Settings
from .film import Inputs, clip_plan, film_of, frames_of, hand_over_of, say_what_is_missing
from .host import parts_of
from .keeping import clips_folder, facts_of, kept_clips
from .telling import Telling, counted

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
        plans = list(plan_joins(settings.joins, count, temporal, film.levels))
    else:
        plans = [clip_plan(conditioner.config, count, clip_index)]
        say_what_is_missing(film, clip_index)
    hand_over = hand_over_of(inputs, film, settings.noise)
    with Reel(inputs, settings, film, plans) as reel:
        if keep_clips:
            reel.keep(whole_film=clip_index is None)
        reel.foresee()
        for _ in generate(conditioner, film, plans, reel.sample, hand_over, reel):
            pass
        frames, last = reel.film()
    return {"samples": frames}, {"samples": last}, reel.text()


class Reel:
    """A film's clips as the host's sampler gave them; generate.Kept, and its SampleClip.

    The clips are kept unscaled too, for equal bits: nothing is scaled to the model's latents and
    back. Where clips are kept, a long film's frames are in no memory.

    Args:
        inputs: what the node is connected to.
        settings: its widgets.
        film: what the clips are made from.
        plans: the clips to be made.
    """

    def __init__(
        self, inputs: Inputs, settings: Settings, film: Film, plans: list[ClipPlan]
    ) -> None:
        self._inputs, self._settings, self._film, self._plans = inputs, settings, film, plans
        self._config = parts_of(inputs.model).config
        self._sampler = ClipSampler(
            inputs.model, settings, inputs.seed, len(plans), lambda done: self._telling.step(done)
        )
        self._telling = self._told(len(plans))
        self._kept: KeptClips | None = None
        self._keeping = False
        self._strangers: list[str] = []
        self._spool = Spool(None)
        self._clips = self._found = 0
        self._raw = self._beyond = self._last = film.portrait[:0]
        if film.motion is not None:
            self._last = inputs.model.model.process_latent_out(film.motion[0])

    def __enter__(self) -> Reel:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.__exit__()

    def keep(self, whole_film: bool) -> None:
        """Look for clips in the host's output folder, and keep there what is sampled.

        Args:
            whole_film: whether the clips are a film, which can be opened from that folder.
        """
        self._keeping = True
        self._kept, self._strangers = kept_clips(
            self._inputs, self._settings, self._film, self._skip
        )
        if self._kept is not None:
            self._spool = Spool(self._kept.folder)
            there = self._kept.expect(self._plans, self._facts() if whole_film else None)
            self._telling = self._told(len(self._plans) - there)
        if self._strangers:
            logger.info(self._about_strangers())

    def foresee(self) -> None:
        """Say what is needed, and what does not fit, before anything is sampled."""
        folder = None if self._kept is None else self._kept.folder
        factor = self._config.latent_factor
        rows, columns = (side * factor for side in self._film.portrait.shape[-2:])
        frames = sum(plan.kept for plan in self._plans)
        self._telling.foresee(frames, (rows, columns), folder)

    def sample(
        self, conditions: Conditions, noise: Tensor, plan: ClipPlan, *given: Given
    ) -> Tensor:
        """A clip's conditions and noise (1, F, C, h, w) to the model's latents (1, F, C, h, w).

        What is given of a clip comes last, where there is anything.
        """
        self._raw = self._sampler(conditions, noise, plan, *given)
        if self._settings.lock != "off":
            self._raw = self._locked(self._raw, *given)
        return self._taken(self._raw, plan)[None]

    def get(self, plan: ClipPlan) -> Tensor | None:
        """See generate.Kept."""
        raw = None if self._kept is None else self._kept.get(plan)
        if raw is not None:
            return self._taken(raw, plan)
        self._telling.begin(plan, self._found)
        return None

    def put(self, plan: ClipPlan, latents: Tensor) -> None:
        """See generate.Kept; what is kept are the sampler's own."""
        if self._kept is not None:
            self._kept.put(plan, self._raw)
        self._telling.end()

    def film(self) -> tuple[Tensor, Tensor]:
        """All frames (F, C, h, w), and the frames (n, C, h, w) before whatever goes on from them.

        A sound's last clip may keep fewer than n; then they reach back to the frames before the
        clip, and only in a film that is shorter than n on to what was sampled beyond its end.
        """
        count = self._config.temporal.num_motion_frames
        missing = max(0, count - len(self._last))
        last = torch.cat([self._last, self._beyond[:missing]])[-count:]
        return self._spool.frames(), last.clone()

    def text(self) -> str:
        """What was done, for the node to show."""
        done = f"{self._found} from cache, {self._clips - self._found} sampled"
        said = [f"{counted(self._clips)}: {done}", *self._telling.warnings]
        said += [self._about_strangers()] if self._strangers else []
        return "\n".join([*said, *self._trouble()])

    def _trouble(self) -> list[str]:
        """Why nothing is kept that should be; the film is whole all the same."""
        if self._kept is not None and self._kept.trouble is not None:
            return [f"not all clips are kept: {self._kept.trouble}"]
        if self._kept is None and self._keeping:
            return [f"no clip is kept: the folder {clips_folder()} cannot be made, and the log "
                    "says why"]  # fmt: skip
        return []

    def _facts(self) -> FilmFacts:
        """What a kept film's name and its decoding are to know."""
        noise = self._settings.noise
        known = {
            "seed": self._film.seed if noise is None else noise.seed,
            "vae": parts_of(self._inputs.model).vae,
        }
        # A NOISE of another pack may call anything its seed.
        notes = {name: value for name, value in known.items() if isinstance(value, int | str)}
        return replace(facts_of(self._inputs.model), notes=notes)

    def _told(self, to_sample: int) -> Telling:
        total = num_clips(len(self._film.audio), self._config.temporal.num_frames)
        whole = max(total, len(self._plans))  # clips may be shorter than they are sampled
        return Telling(self._inputs.model, self._settings, whole, to_sample)

    def _locked(self, raw: Tensor, given: Given | None = None) -> Tensor:
        model = self._inputs.model.model
        latents = model.process_latent_in(raw)[None]
        locked = lock_colours(latents, self._film.portrait, self._settings.lock, given)
        return torch.as_tensor(model.process_latent_out(locked[0]))

    def _taken(self, raw: Tensor, plan: ClipPlan) -> Tensor:
        frames, count = raw[: plan.kept], self._config.temporal.num_motion_frames
        self._spool.append(frames)
        self._last = torch.cat([self._last, frames])[-count:]
        self._beyond = raw[plan.kept :]
        self._clips += 1
        return torch.as_tensor(self._inputs.model.model.process_latent_in(raw))

    def _skip(self, _: ClipPlan) -> None:
        self._found += 1
        self._sampler.skip()

    def _about_strangers(self) -> str:
        return (
            f"what {', '.join(self._strangers)} does is known to its own pack alone, so these "
            "clips are reused only until this server ends"
        )
