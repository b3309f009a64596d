"""Where a face region comes from: a mask, boxes, or facexlib's detector in the host."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import folder_paths
import torch
from torch import Tensor
from torch.nn import functional

from ..emo_core.detection import (
    INSTALL,
    PAGE,
    WEIGHT_FILES,
    detector_installed,
    find_mouths,
    largest_face,
    largest_mouth,
    load_detector,
)
from ..emo_core.face import Box, union_box
from ..emo_core.face_masks import BLACK
from ..emo_core.pictures import LEAST_BOX
from .host import check_interrupted, on_device

FOLDERS = ("detection", "facedetection", "facexlib")
"""Folders below the host's models folder where packs keep the detector's weights; ours first."""

_BOX_KEYS = ("x", "y", "width", "height")


def pictures_of(image: Tensor) -> Tensor:
    """An IMAGE as (B, H, W, 3) in 0..1: transparency over white, NaN as black.

    Raises:
        ValueError: if it holds no picture.
    """
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or image.numel() == 0:
        raise ValueError(
            f"the image has the shape {tuple(image.shape)}, and an IMAGE is (batch, height, width, "
            "3 or 4 channels) with a picture in it; connect the IMAGE of Load Image"
        )
    image = torch.nan_to_num(image.detach().float().cpu(), 0.0).clamp(0, 1)
    if image.shape[-1] == 4:
        colours, alpha = image[..., :3], image[..., 3:]
        return colours * alpha + (1 - alpha)
    return image.expand(*image.shape[:3], 3)


def read_mask(mask: Tensor, height: int, width: int) -> Tensor | None:
    """The union over a MASK's batch at the picture's size, (1, H, W); None if it is black.

    Raises:
        ValueError: if it has another number of axes.
    """
    if mask.ndim == 4 and 1 in (mask.shape[1], mask.shape[3]):
        mask = mask.squeeze(1 if mask.shape[1] == 1 else 3)
    if mask.ndim not in (2, 3):
        raise ValueError(
            f"the mask has the shape {tuple(mask.shape)}, and a MASK is (batch, height, width) or "
            "(height, width); connect the MASK output of another node"
        )
    if mask.numel() == 0:
        return None
    union = torch.nan_to_num(mask.detach().float().cpu(), 0.0).clamp(0, 1)
    union = union.reshape(-1, *mask.shape[-2:]).amax(0)[None, None]
    if tuple(union.shape[-2:]) != (height, width):
        union = functional.interpolate(union, (height, width), mode="bilinear", antialias=True)
    return None if bool((union <= BLACK).all()) else union[0].clamp(0, 1)


def mask_edges(mask: Tensor) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom in pixels around what is not black in a mask (1, H, W)."""
    inside = mask[0] > BLACK
    rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
    if len(rows) == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def scale_mask(mask: Tensor, horizontal: float, vertical: float) -> Tensor | None:
    """Scale a mask (1, H, W) about its box's middle; its shape and soft edges stay.

    What leaves the picture is cut; None where nothing is left.
    """
    edges = mask_edges(mask)
    if edges is None or (horizontal == 1 and vertical == 1):
        return None if edges is None else mask
    left, top, right, bottom = edges
    height, width = mask.shape[-2:]
    middle_x, middle_y = (left + right) / width - 1, (top + bottom) / height - 1
    theta = torch.tensor([[[1 / horizontal, 0.0, middle_x * (1 - 1 / horizontal)],
                           [0.0, 1 / vertical, middle_y * (1 - 1 / vertical)]]])  # fmt: skip
    grid = functional.affine_grid(theta, [1, 1, height, width], align_corners=False)
    scaled = functional.grid_sample(mask[None], grid, align_corners=False)[0].clamp(0, 1)
    return None if mask_edges(scaled) is None else scaled


def cut_box(box: Box) -> Box | None:
    """The part of a box, in fractions, that is in the picture; None where nothing is."""
    if not all(map(math.isfinite, box)):
        return None
    x, y, width, height = box
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + width, 1.0), min(y + height, 1.0)
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None


def join_boxes(boxes: Sequence[Box]) -> Box | None:
    """EMO's union of face boxes; None of none."""
    return union_box(torch.tensor(boxes, dtype=torch.float64)) if boxes else None


def read_boxes(value: Any, height: int, width: int) -> Box | None:
    """The union of a BOUNDING_BOX's boxes as fractions of the picture; None if none is in it.

    Numbers are pixels, but a box whose four numbers all lie in 0..1 is read as fractions: no face
    is one pixel large.

    Args:
        value: {x, y, width, height}, (x, y, width, height), or lists of them, as core's face nodes
            give them: one list a frame, one box a face.
        height: of the picture, in pixels.
        width: of the picture, in pixels.

    Raises:
        ValueError: if it is something else, or a box is smaller than any face.
    """
    cut = []
    for x, y, box_width, box_height in _plain_boxes(value):
        fractions = all(0 <= number <= 1 for number in (x, y, box_width, box_height))
        across, down = (1, 1) if fractions else (width, height)
        if 0 < min(box_width / across * width, box_height / down * height) < LEAST_BOX:
            raise ValueError(
                f"the bounding box {x:g}, {y:g}, {box_width:g}, {box_height:g} is less than "
                f"{LEAST_BOX} pixels wide or high in a picture of {width}x{height}; give x, y, "
                "width and height in pixels, or all four as fractions of the picture"
            )
        cut.append(cut_box((x / across, y / down, box_width / across, box_height / down)))
    return join_boxes([box for box in cut if box is not None])


def _plain_boxes(value: Any) -> Iterator[Box]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping) and all(isinstance(value.get(k), Real) for k in _BOX_KEYS):
        x, y, width, height = (float(value[key]) for key in _BOX_KEYS)
        yield x, y, width, height
    elif isinstance(value, list | tuple):
        if len(value) == 4 and all(isinstance(number, Real) for number in value):
            x, y, width, height = map(float, value)
            yield x, y, width, height
            return
        for item in value:
            if item is not None:  # a frame without a face
                yield from _plain_boxes(item)
    else:
        what = f"entries {sorted(map(str, value))}" if isinstance(value, Mapping) else repr(value)
        raise ValueError(
            f"the bounding box is {what:.80}, and it should be x, y, width and height in pixels, "
            "or a list of such boxes; connect a node that gives BOUNDING_BOX"
        )


def detector_file() -> Path | None:
    """The detector's weights in the host's model folders, the better network first."""
    return next((f / n for n in WEIGHT_FILES for f in _folders() if (f / n).is_file()), None)


def _folders() -> list[Path]:
    """The folders to look into, those of extra_model_paths.yaml too; nothing is registered."""
    folders = [Path(folder_paths.models_dir) / name for name in FOLDERS]
    for name in FOLDERS:
        if name in folder_paths.folder_names_and_paths:
            folders += map(Path, folder_paths.get_folder_paths(name))
    return list(dict.fromkeys(folders))


def detector_missing() -> str | None:
    """What the detector lacks here and how to get it; None if it can run."""
    if not detector_installed():
        return (
            f"finding faces needs facexlib, which is not installed; run `{INSTALL}` in the Python "
            "that runs ComfyUI and start it again, or connect a mask"
        )
    if detector_file() is None:
        return (
            f"finding faces needs the file {WEIGHT_FILES[1]} (or {WEIGHT_FILES[3]}) in the folder "
            f"{_folders()[0]}; get it from {PAGE}, or connect a mask"
        )
    return None


def detect_face(pictures: Tensor) -> tuple[Box | None, Box | None]:
    """The union over pictures (B, H, W, 3) of each one's largest face, and of its lips.

    Both are None if there is none; the lips also where they lie outside the picture.

    Raises:
        FileNotFoundError: if the detector or its weights are not there; the sentence says where.
        ValueError: if the weights are broken.
    """
    file = detector_file()
    missing = detector_missing()
    if missing or file is None:
        raise FileNotFoundError(missing)
    patcher = comfy.model_patcher.ModelPatcher(
        load_detector(file),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    detector = on_device(patcher)
    faces, lips = list[Box | None](), list[Box | None]()
    for picture in pictures:
        check_interrupted()
        found = find_mouths(detector, picture.permute(2, 0, 1))
        faces.append(largest_face(found))
        mouth = largest_mouth(found, *picture.shape[:2])
        lips.append(None if mouth is None else cut_box(mouth))
    face, mouth = (join_boxes([box for box in boxes if box is not None]) for boxes in (faces, lips))
    return face, mouth
