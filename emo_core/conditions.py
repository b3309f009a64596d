"""What drives a clip: its conditions, what the backbone makes of them, and which rows see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .attention import ALL_ROWS, KeyValue, Rows
from .reference import Bank, ReferenceFeatures
from .temporal import MotionState

CONDITIONS = frozenset({"reference", "audio", "region", "speed"})

MotionWeights = tuple[float, float, float]
EVEN_MOTION: MotionWeights = (1.0, 1.0, 1.0)
"""How far the sound moves the picture, the face and the lips: Hallo's pose, face and lip weight."""


@dataclass(frozen=True)
class Conditions:
    """What drives one clip, before projection. B videos at once.

    Attributes:
        reference: ReferenceNet's features of the portrait and the motion frames.
        audio_tokens: (B, F, T, D) of the clip's frames.
        region: (B, widths[0], h, w), what the face locator gave.
        speed: (B, F, l) speed features, or None where no speed is asked for.
        face_tokens: (2, B, face_tokens, width), those of no face and of the face (Hallo).
        masks: of each resolution level (3, h, w): Hallo's full, face and lip regions.
        motion_weights: what is heard in each of these regions is multiplied by.
    """

    reference: ReferenceFeatures
    audio_tokens: Tensor
    region: Tensor
    speed: Tensor | None = None
    face_tokens: Tensor | None = None
    masks: tuple[Tensor, ...] = ()
    motion_weights: MotionWeights = EVEN_MOTION

    def to(self, device: torch.device, dtype: torch.dtype) -> Conditions:
        """The same on another device and in another dtype."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, dtype)

        def bank(tensors: Bank) -> Bank:
            return {name: tensor.to(device, dtype) for name, tensor in tensors.items()}

        portrait, motion = self.reference.portrait, self.reference.motion
        return Conditions(
            ReferenceFeatures(bank(portrait), None if motion is None else bank(motion)),
            self.audio_tokens.to(device, dtype),
            self.region.to(device, dtype),
            moved(self.speed),
            moved(self.face_tokens),
            tuple(masks.to(device, dtype) for masks in self.masks),
            self.motion_weights,
        )


@dataclass(frozen=True)
class Clip:
    """A clip's conditions, projected for every spot: constant over the sampling steps.

    Dictionaries go by the name of the spot, lists by resolution level.
    """

    region: Tensor
    reference: dict[str, KeyValue]
    audio: dict[str, list[KeyValue]]
    motion: dict[str, MotionState]
    speed: dict[str, KeyValue]
    face: dict[str, KeyValue]
    masks: list[Tensor] = field(default_factory=list)
    self_bias: list[Tensor] = field(default_factory=list)
    reference_bias: list[Tensor] = field(default_factory=list)
    temporal_bias: list[Tensor] = field(default_factory=list)
    motion_weights: MotionWeights = EVEN_MOTION


@dataclass(frozen=True)
class Audience:
    """Which rows of a batch see which condition; motion frames are seen by all.

    Guidance runs the backbone on copies of the latents that see different conditions; training
    drops conditions from some of its samples. Both are this.
    """

    reference: Rows = ALL_ROWS
    audio: Rows = ALL_ROWS
    region: Rows = ALL_ROWS
    speed: Rows = ALL_ROWS

    @classmethod
    def of_branches(
        cls, branches: Sequence[frozenset[str]], batch: int, device: torch.device
    ) -> Audience:
        """Rows of a batch made of `branches` copies of `batch` videos, one copy after the other.

        Args:
            branches: for each copy the names of the conditions that it sees.
            batch: number of videos.
            device: where the latents are.
        """

        def rows(name: str) -> Rows:
            seeing = [k for k, seen in enumerate(branches) if name in seen]
            if len(seeing) == len(branches) == 1:
                return Rows()
            videos = torch.arange(batch, device=device)
            index = torch.cat([videos[:0], *(videos + k * batch for k in seeing)])
            blind = [k for k in range(len(branches)) if k not in seeing]
            rest = torch.cat([videos[:0], *(videos + k * batch for k in blind)])
            source = None if len(seeing) == 1 else videos.repeat(len(seeing))
            if not blind:
                return Rows(None, source)
            return Rows(index, source, rest)

        return cls(rows("reference"), rows("audio"), rows("region"), rows("speed"))
