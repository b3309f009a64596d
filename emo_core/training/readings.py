"""The numbers that are read from a frame of a puppet film, and their names."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

SCALARS = (
    "open",
    "width",
    "yaw",
    "pitch",
    "roll",
    "x",
    "y",
    "w",
    "h",
    "scale",
    "brow",
    "blink",
)
"""The numbers read from a frame, in this order, before the appearance numbers.

open 0..1, width 0..1 (0.5 neutral), yaw, pitch and roll in degrees (yaw > 0 turns to picture
right), x, y the centre and w, h the size of the face box in parts of the picture, scale the size
of the head (1 is usual; framing and camera together), brow -1..1, blink 0..1.
"""


@dataclass(frozen=True)
class Readings:
    """What the meter says about F frames.

    Attributes:
        mouth: (F, 2), openness and width, 0..1.
        pose: (F, 3), yaw, pitch and roll in degrees.
        box: (F, 4), x, y, w, h of the face (left upper corner) in parts of the picture.
        scale: (F,), size of the head, 1 is usual.
        brow: (F,), -1 lowered .. 1 raised.
        blink: (F,), 0 open .. 1 shut.
        identity: (F, D), appearance numbers, 0..1 each.
    """

    mouth: Tensor
    pose: Tensor
    box: Tensor
    scale: Tensor
    brow: Tensor
    blink: Tensor
    identity: Tensor

    @property
    def centre(self) -> Tensor:
        """(F, 2), the middle of the face box in parts of the picture."""
        return self.box[:, :2] + self.box[:, 2:] / 2

    def __getitem__(self, frames: slice) -> Readings:
        """Return the readings of a run of frames."""
        return Readings(*(getattr(self, field.name)[frames] for field in fields(self)))


def readings_of(values: Tensor) -> Readings:
    """Sort a table of numbers into readings.

    Args:
        values: (F, 12 + D), SCALARS then the appearance numbers.

    Returns:
        The same numbers by name.
    """
    column = {name: values[:, index] for index, name in enumerate(SCALARS)}
    corner = torch.stack(
        [column["x"] - column["w"] / 2, column["y"] - column["h"] / 2, column["w"], column["h"]], 1
    )
    return Readings(
        mouth=values[:, :2],
        pose=values[:, 2:5],
        box=corner,
        scale=column["scale"],
        brow=column["brow"],
        blink=column["blink"],
        identity=values[:, len(SCALARS) :],
    )
