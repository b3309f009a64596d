"""Landmarks of a face from other nodes, as boxes of the face and the lips.

Taken are core's FACE_LANDMARKS of newer hosts (a mapping of `frames`, each a list of faces with
`landmarks_xy` in pixels, and `image_size`), and arrays or lists of 68, 468 or 478 points of x and
y, one face a frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..emo_core.face import Box, union_box
from ..emo_core.landmark_boxes import boxes_of_landmarks

_COUNTS = (68, 468, 478)


def boxes_from_landmarks(value: Any, height: int, width: int) -> tuple[Box, Box] | None:
    """Boxes around face and lips in all frames, as Hallo takes them; None if there is no face.

    Of several faces in a frame the largest is taken.

    Args:
        value: of the socket.
        height: of the picture, in pixels.
        width: of the picture, in pixels.

    Returns:
        Face and lips as fractions of the picture: the face 1.2 times as large as its landmarks',
        the lips twice.

    Raises:
        ValueError: if it is something else, or holds NaN.
    """
    found = [boxes_of_landmarks(points, height, width) for points in _faces(value, height, width)]
    if not found:
        return None
    face, lips = (
        union_box(torch.tensor(boxes, dtype=torch.float64)) for boxes in zip(*found, strict=True)
    )
    return face, lips


def _faces(value: Any, height: int, width: int) -> Iterator[Tensor]:
    """The points (N, 2) of one face of each frame, in pixels of a picture of this size.

    Plain ones may also be fractions of it: boxes_of_landmarks() knows them.
    """
    if not isinstance(value, Mapping):
        for points in _plain(value):
            yield points[:, :2]
        return
    if not {"frames", "image_size"} <= value.keys():
        raise ValueError(_not_landmarks(f"a mapping of {', '.join(sorted(map(str, value)))}"))
    rows, columns = value["image_size"]
    scale = torch.tensor([width / columns, height / rows])
    for faces in value["frames"]:
        points = [torch.as_tensor(face["landmarks_xy"]).float()[:, :2] * scale for face in faces]
        if points:
            yield max(points, key=_extent)


def _plain(value: Any) -> Iterator[Tensor]:
    try:
        points = torch.as_tensor(value).float()
    except (TypeError, ValueError, RuntimeError):
        points = torch.empty(0)
    if points.ndim < 2 or points.shape[-2] not in _COUNTS or points.shape[-1] < 2:
        what = tuple(points.shape) if points.numel() else type(value).__name__
        raise ValueError(_not_landmarks(str(what)))
    yield from points.flatten(0, -3) if points.ndim > 2 else points[None]


def _extent(points: Tensor) -> float:
    return float((points.amax(0) - points.amin(0)).prod())


def _not_landmarks(got: str) -> str:
    return (
        f"the landmarks are {got}, and they should be FACE_LANDMARKS of core, or 68, 468 or 478 "
        "points of x and y; connect core's face landmark node, or connect nothing"
    )
