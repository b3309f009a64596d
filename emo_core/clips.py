"""Which frames, sound, speeds and noise each clip of a film sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
        shared: frames at its beginning that the clip before it was sampled with too.
    """

    index: int
    first: int
    kept: int
    shared: int = 0

    @property
    def seam(self) -> range:
        """Frames that differ from the one before them by another clip too.

        Behind shared frames, in which the clip before fades out step by step, it is one more than
        those; the first clip has none.
        """
        return range(self.first, self.first + self.shared + 1) if self.index else range(0)


def plan_clips(num_frames: int, clip_length: int) -> Iterator[ClipPlan]:
    """The clips of a film of num_frames frames, one after the other without overlap.

    Raises:
        ValueError: if the film has no frame.
    """
    check_num_frames(num_frames)
    for index, first in enumerate(range(0, num_frames, clip_length)):
        yield ClipPlan(index, first, min(clip_length, num_frames - first))


def check_num_frames(num_frames: int) -> None:
    """Say that a film without frames is none.

    Raises:
        ValueError: if it has none.
    """
    if num_frames < 1:
        raise ValueError(f"a film needs at least one frame, got {num_frames}")


def num_clips(num_frames: int, clip_length: int) -> int:
    """How many clips plan_clips() gives."""
    return -(-num_frames // clip_length)


def clip_seed(seed: int, index: int) -> int:
    """The seed of clip `index`: the film's own for the first, spread over 64 bits for the rest."""
    return (seed + index * _SEED_STEP) % _SEED_RANGE


class ClipNoise:
    """Random numbers of a film, each clip's from a seed of its own: no clip depends on another.

    Args:
        seed: of the film.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def latents(self, index: int, shape: tuple[int, ...]) -> Tensor:
        """A clip's noise (F, C, h, w)."""
        return clip_noise(self._seed, index, shape)

    def pixels(self, index: int, size: tuple[int, int]) -> Tensor:
        """A number in 0..1 for each pixel (H, W), for a clip's mask of its motion frames."""
        generator = torch.Generator().manual_seed(clip_seed(~self._seed % _SEED_RANGE, index))
        return torch.rand(size, generator=generator)


class StreamNoise:
    """Random numbers of a film as Hallo draws them: one stream over all clips, channels first.

    Hallo2 draws a mask of the pixels before each clip's noise from the same stream. A clip may be
    asked for in any order; those before it are drawn again only when going back.

    Args:
        seed: of the stream (Hallo's is 42).
        shape: (F, C, h, w) of a clip.
        mask_size: (H, W) of Hallo2's mask; None for Hallo.
    """

    def __init__(
        self, seed: int, shape: tuple[int, ...], mask_size: tuple[int, int] | None = None
    ) -> None:
        self._seed, self._shape, self._mask_size = seed, shape, mask_size
        self._rewind()

    def latents(self, index: int, shape: tuple[int, ...]) -> Tensor:
        """A clip's noise (F, C, h, w)."""
        if shape != self._shape:
            raise ValueError(f"this stream is of clips {self._shape}, asked for {shape}")
        return self._at(index)[0]

    def pixels(self, index: int, size: tuple[int, int]) -> Tensor:
        """A number in 0..1 for each pixel (H, W), for a clip's mask of its motion frames."""
        mask = self._at(index)[1]
        if mask is None or mask.shape != size:
            raise ValueError(f"this stream has masks of {self._mask_size}, asked for {size}")
        return mask

    def _rewind(self) -> None:
        self._generator = torch.Generator().manual_seed(self._seed)
        self._index = -1
        self._drawn: tuple[Tensor, Tensor | None] = (torch.empty(0), None)

    def _at(self, index: int) -> tuple[Tensor, Tensor | None]:
        if index < self._index:
            self._rewind()
        frames, channels, height, width = self._shape
        while self._index < index:
            mask = None
            if self._mask_size is not None:
                mask = torch.rand(self._mask_size, generator=self._generator)
            noise = torch.randn((channels, frames, height, width), generator=self._generator)
            self._drawn = (noise.transpose(0, 1).contiguous(), mask)
            self._index += 1
        return self._drawn


Noise = ClipNoise | StreamNoise


def shared_noise(draw: Callable[[int], Tensor], plan: ClipPlan) -> Tensor:
    """A clip's noise (F, C, h, w); the frames that it shares begin with those of the clip before.

    At most half of a clip's frames are shared, so that these are the other's own.

    Args:
        draw: a clip's own noise by its index.
        plan: which clip.
    """
    if not plan.shared:
        return draw(plan.index)
    before = draw(plan.index - 1)[-plan.shared :]
    return torch.cat([before, draw(plan.index)[plan.shared :]])


def clip_noise(seed: int, index: int, shape: tuple[int, ...]) -> Tensor:
    """A clip's noise (F, C, h, w), drawn on the CPU: the same on every machine."""
    generator = torch.Generator().manual_seed(clip_seed(seed, index))
    return torch.randn(shape, generator=generator)
