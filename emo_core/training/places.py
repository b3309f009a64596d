"""Where the loss looks closer: mouths, eyes and brows, as weights of pixels or latent cells.

A place is (x, y, radius) in parts of the picture; places of a face come in the order mouth, left
eye, right eye, and after `with_brows` left brow, right brow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BROW_RISE = 1.21
"""How far a brow at rest is above its eye, in radii of the eye's place."""


def closer_look(
    places: Tensor, size: Sequence[int], gains: Sequence[float], most: float = math.inf
) -> Tensor:
    """Weigh cells: 1, and more towards the middle of places.

    Args:
        places: (..., P, 3).
        size: rows and columns.
        gains: how much more the middle of each place weighs, at least P numbers.
        most: largest weight less 1.

    Returns:
        (..., 1, rows, columns).
    """
    gain = torch.tensor(gains, device=places.device)[: places.shape[-2], None, None]
    hills = gain * torch.exp(-2 * _squared_distance(places, size))
    return 1 + hills.sum(-3, keepdim=True).clamp(max=most)


def inside(places: Tensor, size: Sequence[int]) -> Tensor:
    """1 within any of the places' radii, 0 elsewhere: (..., P, 3) -> (..., 1, rows, columns)."""
    return (_squared_distance(places, size) < 1).any(-3, keepdim=True).float()


def with_brows(places: Tensor) -> Tensor:
    """Add the places of the brows: above the eyes, whichever way the head rolls.

    Args:
        places: (..., 3, 3), mouth, left and right eye.

    Returns:
        (..., 5, 3).
    """
    eyes = places[..., 1:3, :]
    across = eyes[..., 1, :2] - eyes[..., 0, :2]
    across = across / across.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    up = torch.stack([across[..., 1], -across[..., 0]], -1)
    middle = eyes[..., :2] + BROW_RISE * eyes[..., 2:] * up[..., None, :]
    return torch.cat([places, torch.cat([middle, eyes[..., 2:]], -1)], -2)


def _squared_distance(places: Tensor, size: Sequence[int]) -> Tensor:
    """Squared distance from each place in radii: (..., P, 3) -> (..., P, rows, columns)."""
    height, width = size
    y = (torch.arange(height, device=places.device) + 0.5) / height
    x = (torch.arange(width, device=places.device) + 0.5) / width
    middle_x, middle_y, radius = (part[..., None, None] for part in places.unbind(-1))
    squared: Tensor = ((x[None, :] - middle_x) ** 2 + (y[:, None] - middle_y) ** 2) / radius**2
    return squared
