"""Single frames of random puppets in random poses, for the stages that need no films."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import puppets
from .features import EYE_Y, MOUTH_Y
from .identities import Identity
from .scene import make_scene
from .trainer import stream_seed

UNSEEN_SEED = 1_000_000
"""Identities from this seed on are never trained on."""

CHUNK = 32


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
    """Draw poses and expressions wider than films use: (F, 14), mouths often open."""

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


class FramePool:
    """A growing store of frames, the same for every run of the same seed.

    It begins with `first` chunks of 32 frames, gains one every `fresh_every` draws, and once it
    holds `largest` chunks the newest replaces the oldest.
    """

    def __init__(
        self, seed: int, first: int = 64, largest: int = 768, fresh_every: int = 4, size: int = 128
    ) -> None:
        """Draw nothing yet; see the class for the arguments."""
        self._seed, self._size = seed, size
        self._first, self._largest, self._fresh_every = first, largest, fresh_every
        self._chunks: dict[int, Frames] = {}

    def batch(self, draw: int, batch_size: int) -> Frames:
        """Return the batch of one draw, which depends on the seed and `draw` only."""
        newest = self._first + draw // self._fresh_every
        alive = range(max(0, newest - self._largest), newest)
        self._chunks = {k: self._chunks[k] if k in self._chunks else self._draw(k) for k in alive}
        generator = torch.Generator().manual_seed(stream_seed(self._seed, draw, "data"))
        chosen = torch.randint(len(alive) * CHUNK, (batch_size,), generator=generator).tolist()
        picks = [(self._chunks[alive[i // CHUNK]], i % CHUNK) for i in chosen]
        return Frames(
            torch.stack([chunk.pictures[i] for chunk, i in picks]),
            torch.stack([chunk.places[i] for chunk, i in picks]),
        )

    def _draw(self, index: int) -> Frames:
        """Chunk `index`: identities are spread over all that may be trained on."""
        start = (self._seed * 7_919 + index * CHUNK) % (UNSEEN_SEED - CHUNK)
        return draw_frames(start, CHUNK, self._size)
