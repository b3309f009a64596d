"""Single frames of random puppets in random poses, for the stages that need no films."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import puppets
from .features import EYE_Y, MOUTH_Y
from .identities import FIRST_UNSEEN_SEED, Identity
from .scene import make_scene
from .stage import stream_seed

CHUNK = 32
"""Samples of a chunk."""


@dataclass(frozen=True)
class Frames:
    """Pictures and where their eyes and mouths are.

    Attributes:
        pictures: (N, 3, H, W) uint8.
        places: (N, 3, 3): mouth, left and right eye; x, y and radius in parts of the picture.
    """

    pictures: Tensor
    places: Tensor


def random_controls(num_frames: int, generator: torch.Generator) -> Tensor:
    """Draw poses and expressions wider than films use: (F, 14), mouths often open.

    The meters see others (`meter_examples.examiner_controls`): a coder has to learn what is rare,
    a meter what is usual.
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(num_frames, generator=generator)

    def sometimes(chance: float, values: Tensor) -> Tensor:
        return values * (torch.rand(num_frames, generator=generator) < chance)

    return torch.stack(
        [
            uniform(-20, 20),
            uniform(-12, 12),
            uniform(-10, 10),
            uniform(-0.05, 0.05),
            uniform(-0.05, 0.05),
            uniform(0.94, 1.06),
            sometimes(0.8, uniform(0, 1)),
            uniform(0, 1),
            sometimes(0.6, uniform(0, 1)),
            sometimes(0.4, uniform(0, 1)),
            sometimes(0.2, uniform(0, 1).sqrt()),
            uniform(-1, 1),
            uniform(-1, 1),
            uniform(-1, 1),
        ],
        1,
    )


def find_places(people: Sequence[Identity], controls: Tensor) -> Tensor:
    """Find mouths and eyes: (F, 3, 3), as in `Frames.places`."""
    named = dict(zip(puppets.CONTROLS, controls.unbind(1), strict=True))
    scene = make_scene(people, named, 8, controls.device)
    gap, eye_y = scene.values["eye_gap"], scene.constant(EYE_Y)
    anchors = [
        scene.anchor(scene.constant(0.0), scene.constant(MOUTH_Y) + 0.15 * named["open"]),
        scene.anchor(-gap, eye_y),
        scene.anchor(gap, eye_y),
    ]
    unit = scene.pose.head.matrix.det().abs().sqrt()
    radii = [0.45 * unit, 0.28 * unit, 0.28 * unit]
    return torch.stack(
        [torch.stack([a.x, a.y, r], 1) for a, r in zip(anchors, radii, strict=True)], 1
    )


def draw_frames(first_seed: int, num_frames: int, size: int = 128) -> Frames:
    """Draw one frame each of the identities `first_seed`, `first_seed + 1`, ..."""
    people = [puppets.make_identity(first_seed + i) for i in range(num_frames)]
    controls = random_controls(num_frames, torch.Generator().manual_seed(first_seed))
    pictures = puppets.render(people, controls, size)
    return Frames((pictures * 255).round().to(torch.uint8), find_places(people, controls))


class ChunkPool:
    """A growing store of drawn samples, the same for every run of the same seed.

    It begins with `first` chunks, gains one every `fresh_every` draws, and once it holds `largest`
    chunks the newest replaces the oldest.

    Args:
        draw_chunk: draws chunk number k, `CHUNK` samples: tensors (32, ...).
        first: chunks at the start.
        largest: chunks kept.
        fresh_every: draws between new chunks.
    """

    def __init__(
        self,
        draw_chunk: Callable[[int], tuple[Tensor, ...]],
        first: int,
        largest: int,
        fresh_every: int,
    ) -> None:
        """Draw nothing yet."""
        self._draw_chunk = draw_chunk
        self._first, self._largest, self._fresh_every = first, largest, fresh_every
        self._chunks: dict[int, tuple[Tensor, ...]] = {}

    def batch(self, draw: int, batch_size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return samples from all that are alive at a draw, picked by the generator."""
        newest = self._first + draw // self._fresh_every
        alive = range(max(0, newest - self._largest), newest)
        kept = self._chunks
        self._chunks = {k: kept[k] if k in kept else self._draw_chunk(k) for k in alive}
        chosen = torch.randint(len(alive) * CHUNK, (batch_size,), generator=generator).tolist()
        picks = [(self._chunks[alive[i // CHUNK]], i % CHUNK) for i in chosen]
        number = len(picks[0][0])
        return tuple(torch.stack([chunk[n][i] for chunk, i in picks]) for n in range(number))


class FramePool:
    """Frames of random puppets from a `ChunkPool`; identities spread over all that may be seen."""

    def __init__(
        self, seed: int, first: int = 64, largest: int = 768, fresh_every: int = 4, size: int = 128
    ) -> None:
        """Draw nothing yet; see `ChunkPool` for the arguments, `size` is the pictures' side."""
        self._seed, self._size = seed, size
        self._pool = ChunkPool(self._draw, first, largest, fresh_every)

    def batch(self, draw: int, batch_size: int) -> Frames:
        """Return the batch of one draw, which depends on the seed and `draw` only."""
        generator = torch.Generator().manual_seed(stream_seed(self._seed, draw, "data"))
        return Frames(*self._pool.batch(draw, batch_size, generator))

    def _draw(self, index: int) -> tuple[Tensor, Tensor]:
        start = (self._seed * 7_919 + index * CHUNK) % (FIRST_UNSEEN_SEED - CHUNK)
        drawn = draw_frames(start, CHUNK, self._size)
        return drawn.pictures, drawn.places
