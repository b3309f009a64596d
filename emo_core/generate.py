"""The only loop over clips: portrait, sound, region and speed in, latents of clip after clip out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from .audio_tokens import window_features
from .clips import ClipPlan, clip_noise
from .denoiser import Clip
from .model import EMO, ClipInputs
from .speed import speed_windows

SampleClip = Callable[[Clip, Tensor, ClipPlan], Tensor]
HandOver = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Film:
    """What a whole film is made from.

    Attributes:
        portrait: (1, C, h, w), the portrait's latents.
        audio: (F, L, D), features of the sound at the frame rate.
        region: (channels, H, W), face region, 1 inside.
        speed: (F,), head speed in degrees per frame at 30 fps; None for no request.
        motion: (1, n, C, h, w), last latents of an earlier film that this one goes on from; None
            for a new film.
        seed: of the noise.
    """

    portrait: Tensor
    audio: Tensor
    region: Tensor
    speed: Tensor | None = None
    motion: Tensor | None = None
    seed: int = 0


def generate(
    model: EMO,
    film: Film,
    clips: Iterable[ClipPlan],
    sample_clip: SampleClip,
    hand_over: HandOver | None = None,
) -> Iterator[Tensor]:
    """Yield a film clip by clip; memory does not grow with its length.

    Args:
        model: the networks.
        film: what it is made from.
        clips: which clips, in order and without a gap.
        sample_clip: takes a clip's projected conditions, its noise (1, F, C, h, w) and its plan to
            its clean latents (1, F, C, h, w).
        hand_over: what happens to a clip's last latents (1, n, C, h, w) before the next clip sees
            them; None hands them on as they are.

    Yields:
        (kept, C, h, w), the frames of each clip that belong to the film.
    """
    config = model.config.temporal
    count, portrait = config.num_motion_frames, model.encode_portrait(film.portrait)
    motion = film.motion
    if motion is None and config.first_motion == "image":
        motion = film.portrait[:, None].repeat(1, count, 1, 1, 1)
    for plan in clips:
        seen = model.no_motion(portrait) if motion is None else model.encode_motion(motion)
        clip = model.prepare(portrait, seen, clip_inputs(model, film, plan))
        shape = (config.num_frames, *film.portrait.shape[1:])
        noise = clip_noise(film.seed, plan.index, shape).to(film.portrait)
        latents = sample_clip(clip, noise[None], plan)
        yield latents[0, : plan.kept]
        motion = latents[:, -count:]
        if hand_over is not None:
            motion = hand_over(motion)


def clip_inputs(model: EMO, film: Film, plan: ClipPlan) -> ClipInputs:
    """The part of a film's sound and speed that one clip sees, and the region."""
    config, frames = model.config, model.config.temporal.num_frames
    place = film.portrait
    audio = window_features(film.audio, plan.first, frames, config.audio.window)
    speed = None
    if film.speed is not None and config.speed is not None:
        speed = speed_windows(film.speed, plan.first, frames, config.speed.window)[None].to(place)
    return ClipInputs(audio=audio[None].to(place), region=film.region[None].to(place), speed=speed)
