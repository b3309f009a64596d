"""The only loop over clips: portrait, sound, region and speed in, clip after clip out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .audio_tokens import window_features
from .clips import ClipNoise, ClipPlan, Noise, shared_noise
from .conditions import EVEN_MOTION, Conditions, MotionWeights
from .given import Given
from .joins import clip_given
from .model import ClipInputs, Conditioner
from .reference import Bank
from .sampling import SampleClip
from .speed import speed_windows

HandOver = Callable[["Tensor | None", ClipPlan], "Tensor | None"]
"""Takes the last latents (1, n, C, h, w) before a clip, as they were sampled, and the clip's plan
to what the clip sees of them. Both are None where a film begins, if the model has a beginning of
its own; then `first_motion` of its configuration says what the first clip sees."""


@dataclass(frozen=True)
class Film:
    """What a whole film is made from.

    Attributes:
        portrait: (1, C, h, w), the portrait's latents; (r, C, h, w) for r pictures of the person,
            of which the first is the one that the region and the first motion frames belong to.
        audio: (F, L, D), features of the sound at the frame rate; may go on behind the film.
        region: (channels, H, W), face region, 1 inside; (F, channels, H, W) where it moves, and
            then each clip sees the union over its frames (EMO, "Face Locator"); the last is held.
        speed: (F,), head speed in degrees per frame at 30 fps; None for no request.
        motion: (1, n, C, h, w), last latents of the clip before the first one that is made here,
            as it was sampled: `hand_over` is still to come; None for a new film.
        seed: of the noise.
        face: (1, face_embedding_width), face embedding; None for zeros, the face of nobody (Hallo).
        masks: of each resolution level (3, h, w), from face_masks.mask_levels() (Hallo).
        given: an existing film's latents (1, F, C, h, w), to be voiced anew; None for a new film.
        levels: (F,), joins.sound_levels(); None where nobody said how loud the sound is.
        motion_weights: how far the sound moves the picture, the face and the lips (Hallo).
    """

    portrait: Tensor
    audio: Tensor
    region: Tensor
    speed: Tensor | None = None
    motion: Tensor | None = None
    seed: int = 0
    face: Tensor | None = None
    masks: tuple[Tensor, ...] = ()
    given: Given | None = None
    levels: Tensor | None = None
    motion_weights: MotionWeights = EVEN_MOTION


class Kept(Protocol):
    """Clips that were sampled before: kept.KeptClips is one."""

    def get(self, plan: ClipPlan) -> Tensor | None:
        """All latents that a clip was sampled with, or None; asked clip by clip.

        They are (F, C, h, w) with the F frames of a clip, of which the film keeps `plan.kept`.
        """
        ...

    def put(self, plan: ClipPlan, latents: Tensor) -> None:
        """Take a sampled clip's latents (F, C, h, w); called after get() of the same clip."""
        ...


@torch.no_grad()
def generate(
    model: Conditioner,
    film: Film,
    clips: Iterable[ClipPlan],
    sample_clip: SampleClip,
    hand_over: HandOver | None = None,
    kept: Kept | None = None,
    noise: Noise | None = None,
) -> Iterator[Tensor]:
    """Yield a film clip by clip; memory does not grow with its length, gradients are not kept.

    Args:
        model: the networks that make conditions.
        film: what it is made from.
        clips: which clips, in order and without a gap; each but the last keeps at least as many
            frames as motion frames are handed on. joins.plan_joins() makes them.
        sample_clip: takes a clip's conditions, its noise (1, F, C, h, w), its plan and what is
            given of it to its clean latents (1, F, C, h, w); sampling.make_sampler() makes one.
        hand_over: what happens to a clip's last latents (1, n, C, h, w) before the next clip sees
            them; None hands them on as they are.
        kept: clips that need not be sampled again, and where sampled ones are put before they are
            yielded; None to sample all.
        noise: random numbers of every clip; None for ClipNoise(film.seed).

    Yields:
        (kept, C, h, w), the frames of each clip that belong to the film.
    """
    config = model.config.temporal
    source = noise or ClipNoise(film.seed)
    portrait: Bank | None = None
    last, surplus = film.motion, None
    shape = (config.num_frames, *film.portrait.shape[1:])
    for plan in clips:
        latents = None if kept is None else kept.get(plan)
        if latents is None:
            # A film whose clips are all kept needs no network.
            if portrait is None:
                portrait = model.encode_portrait(film.portrait[None], film.face)
            if hand_over is not None:
                last = hand_over(last, plan)
            start = shared_noise(lambda index: source.latents(index, shape), plan)
            given = clip_given(film.given, plan, config.num_frames, surplus)
            # No name keeps a clip's conditions: they are gone before the next clip's are made.
            latents = sample_clip(
                clip_conditions(model, film, plan, portrait, last),
                start.to(film.portrait)[None], plan, *(() if given is None else (given,)),
            )[0]  # fmt: skip
            if kept is not None:
                kept.put(plan, latents)
        latents = latents.to(film.portrait.device)
        yield latents[: plan.kept]
        last = latents[None, max(0, plan.kept - config.num_motion_frames) : plan.kept]
        surplus = latents[plan.kept :]


def clip_conditions(
    model: Conditioner, film: Film, plan: ClipPlan, portrait: Bank, last: Tensor | None
) -> Conditions:
    """What drives one clip of a film.

    Args:
        model: the networks that make conditions.
        film: what it is made from.
        plan: which clip.
        portrait: ReferenceNet's features of the film's portrait.
        last: (1, n, C, h, w), the latents before the clip, handed over; None where there are none.
    """
    motion = motion_features(model, film, portrait, last)
    return model.conditions(portrait, motion, clip_inputs(model, film, plan))


def motion_features(model: Conditioner, film: Film, portrait: Bank, last: Tensor | None) -> Bank:
    """What a clip sees of the frames before it; `last` is None where there are none.

    The paper's first clip sees zero maps, Hallo's the portrait in the place of every motion frame.
    """
    if last is not None:
        return model.encode_motion(last, film.face)
    config = model.config.temporal
    if config.first_motion == "zeros":
        pictures = len(film.portrait)
        one = {name: f[..., : f.shape[-2] // pictures, :] for name, f in portrait.items()}
        return model.no_motion(one)
    first = film.portrait[:1, None].repeat(1, config.num_motion_frames, 1, 1, 1)
    return model.encode_motion(first, film.face)


def clip_inputs(model: Conditioner, film: Film, plan: ClipPlan) -> ClipInputs:
    """The part of a film's sound and speed that one clip sees, and the region."""
    config, frames = model.config, model.config.temporal.num_frames
    place = film.portrait
    audio = window_features(film.audio, plan.first, frames, config.audio.window)
    speed = None
    if film.speed is not None and config.speed is not None:
        speed = speed_windows(film.speed, plan.first, frames, config.speed.window)[None].to(place)
    return ClipInputs(
        audio=audio[None].to(place),
        region=region_during(film.region, plan.first, frames)[None].to(place),
        speed=speed,
        face=None if film.face is None else film.face.to(place),
        masks=tuple(masks.to(place) for masks in film.masks),
        motion_weights=film.motion_weights,
    )


def region_during(region: Tensor, first: int, count: int) -> Tensor:
    """The face region (channels, H, W) of `count` frames from `first` on; see Film.region."""
    if region.ndim == 3:
        return region
    return region[min(first, len(region) - 1) : first + count].amax(0)
