"""A clip's colours held to the portrait's, so that they do not drift over a long film.

What a clip sees of the one before it carries small errors on from clip to clip. The mean and spread
of the latents' channels hold most of a picture's colour and contrast; those of every clip are drawn
to the portrait's, as AdaIN does with a style (Huang and Belongie, arXiv 1703.06868, equation 8).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .clips import ClipPlan
from .conditions import Conditions
from .given import Given
from .sampling import SampleClip

LOCKS: Mapping[str, float] = {"off": 0.0, "weak": 0.25, "strong": 1.0}
"""How far each lock takes a clip's statistics to the portrait's."""

_LEAST_SPREAD = 1e-5


def check_lock(lock: str) -> None:
    """Say what is wrong with a lock.

    Raises:
        ValueError: if there is none of that name.
    """
    if lock not in LOCKS:
        raise ValueError(f"lock must be one of {', '.join(LOCKS)}, got {lock!r}")


def lock_colours(latents: Tensor, portrait: Tensor, lock: str, given: Given | None) -> Tensor:
    """Draw a clip's mean and spread of each channel to the portrait's.

    Args:
        latents: (1, F, C, h, w), the clip's.
        portrait: (r, C, h, w), of the pictures of the person.
        lock: a name of LOCKS.
        given: what of the clip was there before; it stays as it is.

    Returns:
        (1, F, C, h, w).
    """
    strength = LOCKS[lock]
    if strength == 0:
        return latents
    wanted = portrait.to(latents)[None]
    mean, spread = _statistics(latents, (1, 3, 4))
    wanted_mean, wanted_spread = _statistics(wanted, (1, 3, 4))
    matched = (latents - mean) * (wanted_spread / spread) + wanted_mean
    made: float | Tensor = 1.0 if given is None or given.mask is None else given.mask
    return latents + strength * made * (matched - latents)


def locked(sample_clip: SampleClip, portrait: Tensor, lock: str) -> SampleClip:
    """A sampler whose clips are locked to the portraits (r, C, h, w); "off" is the sampler itself.

    Raises:
        ValueError: if there is no such lock.
    """
    check_lock(lock)
    if lock == "off":
        return sample_clip

    def sample(
        conditions: Conditions, noise: Tensor, plan: ClipPlan, given: Given | None = None, /
    ) -> Tensor:
        latents = sample_clip(conditions, noise, plan, given)
        return lock_colours(latents, portrait, lock, given)

    return sample


def _statistics(latents: Tensor, over: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    mean = latents.mean(over, keepdim=True)
    spread = latents.std(over, correction=0, keepdim=True).clamp(min=_LEAST_SPREAD)
    return mean, torch.as_tensor(spread)
