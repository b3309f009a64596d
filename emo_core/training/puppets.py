"""The puppet world: cartoon talking heads with ground truth for every frame.

Pictures are drawn from signed distances with soft edges, in batches, on any torch device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import features, hair, heads
from .identities import IDENTITY_NUMBERS, Identity, make_identity
from .scene import CHIN_DROP, gather_values, make_pose, make_scene

__all__ = [
    "CONTROLS",
    "IDENTITY_NUMBERS",
    "Identity",
    "face_boxes",
    "make_identity",
    "portrait_controls",
    "render",
]

CONTROLS: tuple[str, ...] = (
    "yaw",
    "pitch",
    "roll",
    "tx",
    "ty",
    "scale",
    "open",
    "width",
    "teeth",
    "tongue",
    "blink",
    "gaze_x",
    "gaze_y",
    "brow",
)
"""Columns of the controls: degrees (yaw > 0 turns to picture right, pitch > 0 looks up, roll > 0
is clockwise), offsets as fractions of the picture side, scale 1 for the identity's own, the rest
0..1 or -1..1 (gaze_y > 0 looks down)."""

_CHUNK = 16
_LAYERS = (
    heads.draw_backdrop,
    hair.draw_back_hair,
    heads.draw_body,
    heads.draw_ears,
    heads.draw_head,
    features.draw_beard,
    features.draw_nose,
    features.draw_mouth,
    features.draw_eyes,
    hair.draw_front_hair,
    features.draw_brows,
    features.draw_glasses,
    hair.draw_hat,
)


@torch.no_grad()
def render(identities: Identity | Sequence[Identity], controls: Tensor, size: int = 128) -> Tensor:
    """Draw frames.

    Args:
        identities: One puppet for all frames, or one a frame.
        controls: (F, 14), columns as in `CONTROLS`; the pictures are drawn on its device.
        size: Side of the pictures in pixels.

    Returns:
        (F, 3, size, size) float32 in 0..1.

    Raises:
        ValueError: The controls have another shape, or there is not one identity a frame.
    """
    people = _one_a_frame(identities, controls)
    if size < 8:
        raise ValueError(f"The picture size is {size}; it must be at least 8 pixels.")
    out = [
        _draw(people[start : start + _CHUNK], controls[start : start + _CHUNK].float(), size)
        for start in range(0, len(people), _CHUNK)
    ]
    return torch.cat(out) if out else torch.zeros(0, 3, size, size, device=controls.device)


@torch.no_grad()
def face_boxes(identities: Identity | Sequence[Identity], controls: Tensor) -> Tensor:
    """Find the box of every face: its oval with ears, without hair.

    Args:
        identities: One puppet for all frames, or one a frame.
        controls: (F, 14), columns as in `CONTROLS`.

    Returns:
        (F, 4): x, y of the upper left corner, width and height, as fractions of the picture side;
        clipped to the picture.

    Raises:
        ValueError: The controls have another shape, or there is not one identity a frame.
    """
    people = _one_a_frame(identities, controls)
    if not people:
        return torch.zeros(0, 4, device=controls.device)
    named = _by_name(controls.float())
    values = gather_values(people, controls.device)
    pose = make_pose(people, named)
    human = (values["species"] == 0) | (values["species"] == 3)
    ear = torch.where(human, values["ear"] * 0.85, torch.where(values["species"] == 2, 0.12, 0.0))
    wide = values["face_width"] + ear
    lower = 1.0 + CHIN_DROP * named["open"] - 0.30 * pose.sin_pitch
    upper = 1.0 + 0.16 * pose.sin_pitch
    middle, tall = (lower - upper) / 2, (lower + upper) / 2
    m = pose.head.matrix
    x, y = pose.head.x + m[:, 0, 1] * middle, pose.head.y + m[:, 1, 1] * middle
    half_x = torch.hypot(m[:, 0, 0] * wide, m[:, 0, 1] * tall)
    half_y = torch.hypot(m[:, 1, 0] * wide, m[:, 1, 1] * tall)
    left, top = (x - half_x).clamp(0, 1), (y - half_y).clamp(0, 1)
    right, bottom = (x + half_x).clamp(0, 1), (y + half_y).clamp(0, 1)
    return torch.stack([left, top, right - left, bottom - top], 1)


def portrait_controls(seed: int) -> Tensor:
    """Pose for a portrait: nearly frontal, eyes open, mouth closed or nearly.

    Args:
        seed: Any integer.

    Returns:
        Controls of one frame, (1, 14).
    """
    generator = torch.Generator().manual_seed((seed * 2654435761 + 97) % (2**63))
    noise = torch.rand(len(CONTROLS), generator=generator) * 2 - 1
    reach = torch.tensor([7.0, 4.0, 3.0, 0, 0, 0, 0.02, 0.12, 0, 0, 0, 0.25, 0.2, 0.15])
    middle = torch.tensor([0, 0, 0, 0, 0, 1.0, 0.02, 0.5, 0, 0, 0, 0, 0, 0.0])
    return (middle + reach * noise)[None]


def _draw(people: Sequence[Identity], controls: Tensor, size: int) -> Tensor:
    scene = make_scene(people, _by_name(controls), size, controls.device)
    for layer in _LAYERS:
        layer(scene)
    return scene.canvas.pixels.clamp_(0.0, 1.0)


def _by_name(controls: Tensor) -> dict[str, Tensor]:
    return {name: controls[:, i].contiguous() for i, name in enumerate(CONTROLS)}


def _one_a_frame(identities: Identity | Sequence[Identity], controls: Tensor) -> Sequence[Identity]:
    if controls.ndim != 2 or controls.shape[1] != len(CONTROLS):
        raise ValueError(
            f"Controls of shape {tuple(controls.shape)} came; "
            f"(frames, {len(CONTROLS)}) is expected."
        )
    if not math.isfinite(float(controls.abs().sum())):
        raise ValueError("The controls hold values that are not finite numbers.")
    people = [identities] * len(controls) if isinstance(identities, Identity) else identities
    if len(people) != len(controls):
        raise ValueError(
            f"{len(people)} identities came for {len(controls)} frames; "
            "give one for all frames or one a frame."
        )
    return people
