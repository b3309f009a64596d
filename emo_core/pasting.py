"""A square around a face cut out of a picture, and a film of it laid back into that picture.

Neither the paper nor Hallo says how a film of a square comes back into its picture; here it fades
in from the square's edge, or from the edge of a mask, and outside of that nothing changes by a bit.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .face import Box, check_box
from .pictures import Square

FACE_SHARE = 0.6
"""Of the square's side that the face takes; Hallo's authors ask for a half to seven tenths."""


def square_around(face: Box, height: int, width: int, share: float = FACE_SHARE) -> Square:
    """Left, top and side, in pixels, of a square around a face.

    Args:
        face: its box, as fractions of the picture.
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        share: of the square's side that the face's longer side takes, where the picture is large
            enough; else the square is as large as the picture allows.

    Raises:
        ValueError: if the box or the share is impossible.
    """
    x, y, box_width, box_height = check_box(face)
    if not 0 < share <= 1:
        raise ValueError(f"the face takes a share of the square above 0 and up to 1, got {share:g}")
    longest = max(box_width * width, box_height * height)
    side = max(min(round(longest / share), height, width), 1)
    left = round((x + box_width / 2) * width - side / 2)
    top = round((y + box_height / 2) * height - side / 2)
    return min(max(left, 0), width - side), min(max(top, 0), height - side), side


def fading(mask: Tensor, feather: int) -> Tensor:
    """How much of a film shows, from nothing at a mask's edge to all of it `feather` pixels inside.

    Args:
        mask: (H, W), 0..1, 1 inside; what the picture's own edge cuts off does not fade.
        feather: pixels, 0 or more.

    Returns:
        (H, W), 0..1, 0 wherever the mask is.
    """
    if not feather:
        return mask
    means = _means(_means(mask.double(), feather).T, feather).T
    # Half of what is around an edge is inside.
    return torch.minimum((2 * means - 1).clamp(0, 1).to(mask), mask)


def _means(rows: Tensor, reach: int) -> Tensor:
    """The mean of `reach` numbers before and behind each of rows (H, W), their ends held.

    By sums from the left, so that it takes no longer the farther it reaches.
    """
    around = functional.pad(rows[None], (reach + 1, reach), mode="replicate")[0]
    sums = around.cumsum(1)
    size = 2 * reach + 1
    return (sums[:, size:] - sums[:, :-size]) / size


def square_mask(square: Square, height: int, width: int) -> Tensor:
    """(height, width), 1 inside the square."""
    left, top, side = square
    mask = torch.zeros(height, width)
    mask[top : top + side, left : left + side] = 1
    return mask


def paste(frames: Tensor, picture: Tensor, square: Square, shows: Tensor) -> Tensor:
    """Lay frames into the square of a picture that their film was made of.

    Args:
        frames: (F, 3, S, S), 0..1, of any size S.
        picture: (3, H, W), 0..1.
        square: left, top and side in its pixels.
        shows: (H, W), 0..1, from fading(), 0 outside of the square.

    Returns:
        (F, 3, H, W); where `shows` is 0 the picture's own numbers.
    """
    left, top, side = square
    place = (slice(None), slice(top, top + side), slice(left, left + side))
    below, share = picture[place], shows[place[1:]].expand(3, -1, -1)
    if frames.shape[-1] != side:
        frames = functional.interpolate(
            frames, (side, side), mode="bicubic", antialias=True, align_corners=False
        ).clamp(0, 1)
    out = picture.expand(len(frames), -1, -1, -1).clone()
    out[(slice(None), *place)] = torch.lerp(below, frames, share)
    return out
