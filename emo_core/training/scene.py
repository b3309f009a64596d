"""One batch of puppets being drawn: their values, pose and the frames features sit in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .drawing import Affine, Canvas
from .identities import Identity

HEAD_UNIT = 0.315
"""Half a face height as a fraction of the picture side, at scale 1."""
HEAD_X = 0.5
HEAD_Y = 0.47
DEPTH = 0.80
"""Half depth of the head in units of half a face height."""
CHIN_DROP = 0.17
"""How far the chin sinks with the mouth widest open, in units of half a face height."""


@dataclass(frozen=True)
class Pose:
    """Where the heads are: rotation terms (B,) and the frame of the head in the picture."""

    sin_yaw: Tensor
    cos_yaw: Tensor
    sin_pitch: Tensor
    cos_pitch: Tensor
    head: Affine
    body: Affine


@dataclass(frozen=True)
class Scene:
    """What the drawing functions need.

    Attributes:
        canvas: The pictures.
        people: One identity a picture.
        values: Drawing values by name, (B,) or colours (B, 3).
        controls: Controls by name, (B,).
        pose: Rotation and frames.
    """

    canvas: Canvas
    people: Sequence[Identity]
    values: dict[str, Tensor]
    controls: dict[str, Tensor]
    pose: Pose

    def where(self, name: str, *kinds: int) -> list[int]:
        """Pictures whose value `name` is one of `kinds`."""
        return [i for i, who in enumerate(self.people) if int(who.values[name][0]) in kinds]

    def anchor(self, x: Tensor, y: Tensor, lift: float = 0.0, bend: float = 0.6) -> Affine:
        """Frame on the surface of the head, turned and foreshortened with it.

        Args:
            x: Place at rest, (B,), right positive, in head units.
            y: Place at rest, (B,), down positive.
            lift: Height above the surface.
            bend: How much of the surface's slope foreshortens the feature, 0..1.

        Returns:
            The frame.
        """
        pose, width = self.pose, self.values["face_width"]
        z = DEPTH * (1.0 - (x / width) ** 2 - (y / 1.1) ** 2).clamp(min=0.06).sqrt()
        slope_x = -bend * DEPTH**2 * x / (width**2 * z)
        slope_y = -bend * DEPTH**2 * y / (1.21 * z)
        z = z + lift
        deep = -x * pose.sin_yaw + z * pose.cos_yaw
        place_x = x * pose.cos_yaw + z * pose.sin_yaw
        place_y = y * pose.cos_pitch - deep * pose.sin_pitch
        deep_u = -pose.sin_yaw + slope_x * pose.cos_yaw
        deep_v = slope_y * pose.cos_yaw
        matrix = torch.stack(
            [
                pose.cos_yaw + slope_x * pose.sin_yaw,
                slope_y * pose.sin_yaw,
                -(deep_u - slope_x) * pose.sin_pitch,
                pose.cos_pitch - deep_v * pose.sin_pitch,
            ],
            1,
        ).view(-1, 2, 2)
        return self.pose.head.child(place_x, place_y, matrix)

    def constant(self, value: float) -> Tensor:
        """The same number for every picture, (B,)."""
        return torch.full_like(self.pose.sin_yaw, value)

    def color(self, red: float, green: float, blue: float) -> Tensor:
        """The same colour for every picture, (B, 3)."""
        return self.pose.sin_yaw.new_tensor([[red, green, blue]]).expand(len(self.people), 3)


def make_scene(
    people: Sequence[Identity], controls: dict[str, Tensor], size: int, device: torch.device
) -> Scene:
    """Set up the pictures of a batch.

    Args:
        people: One identity a picture.
        controls: Controls by name, (B,), on `device`.
        size: Side of the pictures in pixels.
        device: Where to draw.

    Returns:
        The scene with a black canvas.
    """
    values = gather_values(people, device)
    return Scene(
        Canvas(len(people), size, device), people, values, controls, make_pose(people, controls)
    )


def gather_values(people: Sequence[Identity], device: torch.device) -> dict[str, Tensor]:
    """Stack the identities' values: (B,) for numbers, (B, 3) for colours."""
    first = people[0].values
    flat = torch.tensor([[x for v in who.values.values() for x in v] for who in people])
    flat = flat.to(device)
    values, at = {}, 0
    for name, value in first.items():
        block = flat[:, at : at + len(value)]
        values[name] = block[:, 0].contiguous() if len(value) == 1 else block.contiguous()
        at += len(value)
    return values


def make_pose(people: Sequence[Identity], controls: dict[str, Tensor]) -> Pose:
    """Rotation terms and frames of the heads and bodies."""
    framing = torch.stack([who.framing for who in people]).to(controls["yaw"].device)
    yaw, pitch, roll = (controls[name] * (math.pi / 180.0) for name in ("yaw", "pitch", "roll"))
    body_unit = HEAD_UNIT * framing[:, 2]
    unit = body_unit * controls["scale"]
    body_x, body_y = HEAD_X + framing[:, 0], HEAD_Y + framing[:, 1]
    turn = torch.stack([roll.cos(), -roll.sin(), roll.sin(), roll.cos()], 1).view(-1, 2, 2)
    # The head turns about the neck, not about its own middle.
    sway = 0.5 * unit * roll.sin()
    eye = torch.eye(2, device=roll.device)[None]
    return Pose(
        yaw.sin(),
        yaw.cos(),
        pitch.sin(),
        pitch.cos(),
        Affine(body_x + controls["tx"] + sway, body_y + controls["ty"], turn * unit[:, None, None]),
        Affine(body_x, body_y, eye * body_unit[:, None, None]),
    )
