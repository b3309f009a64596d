"""Which frames, sound, speeds and noise each clip of a film sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_SEED_STEP = 0x9E3779B97F4A7C15
_SEED_RANGE = 1 << 64


@dataclass(frozen=True)
class ClipPlan:
    """One clip of a film.

    Attributes:
        index: k, 0 for the first.
        first: index of its first frame in the film.
        kept: frames of it that belong to the film; the last clip is sampled at full length like
            every other and its surplus left out, so that no clip depends on what follows it.
    """

    index: int
    first: int
    kept: int


def plan_clips(num_frames: int, clip_length: int) -> Iterator[ClipPlan]:
    """The clips of a film of num_frames frames, one after the other without overlap.

    Raises:
        ValueError: if the film has no frame.
    """
    if num_frames < 1:
        raise ValueError(f"a film needs at least one frame, got {num_frames}")
    for index, first in enumerate(range(0, num_frames, clip_length)):
        yield ClipPlan(index, first, min(clip_length, num_frames - first))


def num_clips(num_frames: int, clip_length: int) -> int:
    """How many clips plan_clips() gives."""
    return -(-num_frames // clip_length)


def clip_seed(seed: int, index: int) -> int:
    """The seed of clip `index`: the film's own for the first, spread over 64 bits for the rest."""
    return (seed + index * _SEED_STEP) % _SEED_RANGE


def clip_noise(seed: int, index: int, shape: tuple[int, ...]) -> Tensor:
    """A clip's noise (F, C, h, w), drawn on the CPU: the same on every machine."""
    generator = torch.Generator().manual_seed(clip_seed(seed, index))
    return torch.randn(shape, generator=generator)
