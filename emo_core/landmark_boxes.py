"""Landmarks of MediaPipe, dlib or facexlib to the boxes of face and lips that Hallo takes."""

from __future__ import annotations

import torch
from torch import Tensor

from .face import Box

FACE_RATIO, LIP_RATIO = 1.2, 2.0
"""How much larger than the landmarks' boxes the face and the lips are (Hallo)."""

# Of MediaPipe's 478 landmarks.
_SILHOUETTE_478 = (
    10, 21, 54, 58, 67, 93, 103, 109, 127, 132, 136, 148, 149, 150, 152, 162, 172, 176, 234, 251,
    284, 288, 297, 323, 332, 338, 356, 361, 365, 377, 378, 379, 389, 397, 400, 454,
)  # fmt: skip
_LIPS_478 = (
    0, 17, 37, 39, 40, 61, 84, 91, 146, 181, 185, 267, 269, 270, 291, 314, 321, 375, 405, 409,
)  # fmt: skip
# Of the 68 of dlib and facexlib: jaw and brows, which reach as high as a forehead's middle; lips.
_SILHOUETTE_68, _LIPS_68 = tuple(range(27)), tuple(range(48, 68))
_LANDMARKS = (
    "they are x and y in pixels of this picture as it stands upright, or fractions of it; make "
    "them again of the same picture, or give a face box instead"
)
_FOREHEAD = 0.35
"""68 landmarks end at the brows; MediaPipe's oval ends at the hairline, that much higher."""


def boxes_of_landmarks(landmarks: Tensor, height: int, width: int) -> tuple[Box, Box]:
    """Boxes of the face and the lips as Hallo takes them, as fractions of the picture.

    Args:
        landmarks: (478, 2), (468, 2) or (68, 2), x and y in pixels, or as fractions of the picture
            if all lie in 0..1; further columns are ignored.
        height: of the picture.
        width: of the picture.

    Returns:
        The face's box, 1.2 times as large as its landmarks', and the lips', twice as large.

    Raises:
        ValueError: for another number of landmarks, some that are not finite, or more than half of
            them outside of the picture or in one spot.
    """
    count = len(landmarks)
    if landmarks.ndim != 2 or count not in (68, 468, 478) or landmarks.shape[1] < 2:
        raise ValueError(
            f"expected 478, 468 or 68 landmarks as rows of x and y, got {tuple(landmarks.shape)}; "
            "give a face box instead"
        )
    if not bool(torch.isfinite(landmarks).all()):
        raise ValueError("the landmarks hold NaN or infinite numbers; give a face box instead")
    face_rows, lip_rows = (
        (_SILHOUETTE_68, _LIPS_68) if count == 68 else (_SILHOUETTE_478, _LIPS_478)
    )
    points = landmarks[:, :2].double().cpu()
    sides = torch.tensor([width, height], dtype=torch.float64)
    if bool(((points >= 0) & (points <= 1)).all()):
        points = points * sides
    outside = int(((points < 0) | (points > sides)).any(1).sum())
    if 2 * outside > count:
        raise ValueError(
            f"{outside} of {count} landmarks lie outside of the picture of {width}x{height} "
            f"pixels; {_LANDMARKS}"
        )
    face, lips = _bounds(points[list(face_rows)]), _bounds(points[list(lip_rows)])
    if count == 68:
        left, top, right, bottom = face
        face = (left, max(top - round(_FOREHEAD * (bottom - top)), 0), right, bottom)
    boxes = (
        _expanded(face, height, width, FACE_RATIO),
        _expanded(lips, height, width, LIP_RATIO),
    )
    if min(boxes[0][2:] + boxes[1][2:]) <= 0:
        raise ValueError(
            f"the landmarks of face or lips lie in one spot of the picture of {width}x{height} "
            f"pixels; {_LANDMARKS}"
        )
    return boxes


def _bounds(points: Tensor) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of points (P, 2), in whole pixels."""
    (left, top), (right, bottom) = points.amin(0).round(), points.amax(0).round()
    return int(left), int(top), int(right), int(bottom)


def _expanded(bounds: tuple[int, int, int, int], height: int, width: int, ratio: float) -> Box:
    """Scale about the middle, and move back inside the picture, in whole pixels as Hallo counts."""
    left, top, right, bottom = bounds
    columns, rows = _stretch(left, right, width, ratio), _stretch(top, bottom, height, ratio)
    return (
        columns[0] / width, rows[0] / height,
        (columns[1] - columns[0]) / width, (rows[1] - rows[0]) / height,
    )  # fmt: skip


def _stretch(first: int, last: int, size: int, ratio: float) -> tuple[int, int]:
    middle, half = (first + last) // 2, ((last - first) * ratio) // 2
    low, high = middle - half, middle + half
    if low < 0:
        low, high = 0.0, high - low
    if high > size:
        low, high = low - (high - size), float(size)
    return max(round(low), 0), min(round(high), size)
