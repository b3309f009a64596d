"""The person of a portrait as a model sees it: picture, face region, masks and face embedding."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .face import Box
from .face_masks import box_pixels, lip_box, masks_of_regions
from .landmark_boxes import boxes_of_landmarks
from .pictures import (
    Size,
    box_in_window,
    check_pixel_box,
    fit_portrait,
    portrait_window,
    stretch_portrait,
)
from .readable import check_readable
from .weight_files import open_weights

logger = logging.getLogger(__name__)

_FORMATS = "a .npy, .json or .safetensors file"
_EMBEDDING_WIDTH = 512


@dataclass(frozen=True)
class Subject:
    """A portrait at the film's size, and where its face is.

    Attributes:
        picture: (3, H, W), 0..1.
        box: face box as fractions of the picture; None for the usual place.
        lips: box of the lips as fractions of the picture; None for the usual place in the face.
        region: (1, H, W), 0..1, what the face's box covers; None to make it of `box`.
        masks: (3, 64, 64), uint8, of the full picture, face and lips; None to make them of boxes.
    """

    picture: Tensor
    box: Box | None = None
    lips: Box | None = None
    region: Tensor | None = None
    masks: Tensor | None = None


def cropped_subject(
    picture: Tensor, size: int | Size, face: Box | None, lips: Box | None = None
) -> Subject:
    """The largest part of the film's shape around the face, brought to the film's size.

    Args:
        picture: (3, H, W), 0..1.
        size: rows and columns of the film, or one number for a square.
        face: x, y, width, height in pixels of the picture; None for the usual place.
        lips: the same of the lips; they must reach into that part.

    Raises:
        ValueError: if a box has no area, or reaches outside the picture.
    """
    size = (size, size) if isinstance(size, int) else size
    portrait = fit_portrait(picture, size, face)
    if lips is None:
        return Subject(portrait.picture, portrait.box)
    height, width = picture.shape[-2:]
    check_pixel_box(lips, width, height, "lip")
    if face is None or portrait.box is None:
        raise ValueError("a lip box goes with a face box; give --face-box too")
    inside = box_in_window(lips, portrait_window(width, height, size, face))
    if min(inside[2:]) <= 0:
        raise ValueError("the lip box lies outside the part around the face; give both again")
    return Subject(portrait.picture, portrait.box, inside)


def stretched_subject(
    picture: Tensor, size: int | Size, face: Box | None, lips: Box | None = None
) -> Subject:
    """The whole picture stretched to the film's size, with masks drawn before that: Hallo's way.

    Args:
        picture: (3, H, W), 0..1.
        size: rows and columns of the film, or one number for a square.
        face: x, y, width, height in pixels of the picture; None for the usual place.
        lips: the same of the lips.

    Raises:
        ValueError: if a box has no area, or reaches outside the picture.
    """
    portrait = stretch_portrait(picture, size, face)
    if portrait.box is None:
        return Subject(portrait.picture)
    height, width = picture.shape[-2:]
    lips_inside = lip_box(portrait.box)
    if lips is not None:
        check_pixel_box(lips, width, height, "lip")
        lips_inside = (lips[0] / width, lips[1] / height, lips[2] / width, lips[3] / height)
    face_pixels = box_pixels(portrait.box, height, width)
    filled = (face_pixels.float() / 255).expand(3, -1, -1)
    return Subject(
        portrait.picture, portrait.box, lips_inside, stretch_portrait(filled, size).picture[:1],
        masks_of_regions(face_pixels, box_pixels(lips_inside, height, width)),
    )  # fmt: skip


def landmark_boxes(path: Path, height: int, width: int) -> tuple[Box, Box]:
    """Boxes of the face and the lips, in pixels, from a file of 478, 468 or 68 landmarks.

    Args:
        path: .npy or .json, rows of x and y in pixels of the picture.
        height: of the picture.
        width: of the picture.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds something else.
    """
    boxes = boxes_of_landmarks(read_numbers(path, "landmarks"), height, width)
    # They are whole pixels; fractions may lie a rounding error outside the picture.
    face, lips = (
        (float(round(x * width)), float(round(y * height)),
         float(round(w * width)), float(round(h * height)))
        for x, y, w, h in boxes
    )  # fmt: skip
    return face, lips


def read_embedding(path: Path, width: int | None = None) -> Tensor:
    """A face embedding from a file; that it is a normalised one, which nobody wants, is said.

    Args:
        path: see read_numbers().
        width: numbers that the model sees; None where no model is known, for any number.

    Returns:
        (width,), float32.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds something else, or another number of them.
    """
    embedding = read_numbers(path, "face embedding").flatten()
    if len(embedding) != (width or max(len(embedding), 2)):
        raise ValueError(
            f"{path.name} holds {len(embedding)} numbers, and a face embedding has "
            f"{width or _EMBEDDING_WIDTH}; give that of InsightFace"
        )
    if abs(float(embedding.norm()) - 1) < 0.05:
        logger.warning(
            "the face embedding %s has length 1: it is the normalised one, and Hallo's weights "
            "were trained with the longer one (InsightFace's `embedding`)", path.name,
        )  # fmt: skip
    return embedding


def read_numbers(path: Path, what: str) -> Tensor:
    """Numbers of a .npy, .json or .safetensors file of one tensor, float32.

    Raises:
        OSError: if there is no such file, or it may not be read.
        ValueError: if it holds no numbers, or some that are not finite.
    """
    import numpy as np

    check_readable(path, f"{what} file", _FORMATS)
    try:
        if path.suffix.lower() == ".safetensors":
            values = _only_tensor(path)
        elif path.suffix.lower() == ".json":
            values = torch.tensor(json.loads(path.read_text(encoding="utf-8")), dtype=torch.float32)
        else:
            with path.open("rb") as file:
                found = np.lib.format.read_array(file, allow_pickle=False)
            values = torch.from_numpy(found.astype(np.float32))
    except (ValueError, TypeError, OSError, EOFError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} holds no {what} ({reason}); give {_FORMATS}") from None
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{path} holds NaN or infinite numbers; make the {what} again")
    return values


def _only_tensor(path: Path) -> Tensor:
    file = open_weights(path)
    if len(file.shapes) != 1:
        raise ValueError(f"it has {len(file.shapes)} tensors and not one")
    return file.read(next(iter(file.shapes))).float()
