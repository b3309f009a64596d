"""What a model sees of the portrait's picture: a square of it, or the whole of it stretched."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..emo_core.config import EMOConfig
from ..emo_core.face_masks import masks_for_region
from ..emo_core.pictures import Square, cut_square, portrait_square, stretch_portrait

_ASPECT_TOLERANCE = 0.02


def see(picture: Tensor, size: int, whole: bool) -> tuple[Tensor, Square | None]:
    """A picture (3, H, W) as the model sees it.

    Args:
        picture: 0..1.
        size: S, pixels of the model's square.
        whole: whether all of it is stretched, as Hallo's own program does.

    Returns:
        (3, S, S), and left, top and side of the square that was cut; None where none was.
    """
    if whole:
        return stretch_portrait(picture, size).picture, None
    square = portrait_square(picture.shape[-1], picture.shape[-2])
    return cut_square(picture, square, size), square


def in_view(mask: Tensor, reference: dict[str, Any], size: int) -> Tensor:
    """A mask (1, H, W) of the portrait's picture in what the model sees of it: (1, S, S)."""
    square = reference["square"]
    if square is None:
        return stretch_portrait(mask.expand(3, -1, -1), size).picture[:1]
    return cut_square(mask, square, size)


def union_of(mask: Tensor, reference: dict[str, Any], what: str, node_output: str) -> Tensor:
    """The union of a MASK's pictures at the size of the portrait's picture: (1, H, W), 0..1.

    Args:
        mask: MASK, of any size in the picture's shape.
        reference: the portrait.
        what: name of the mask, for errors.
        node_output: where such masks come from, for errors.

    Raises:
        ValueError: if it is no mask of this picture.
    """
    mask = mask.float().cpu()
    mask = mask[None] if mask.ndim == 2 else mask
    height, width = reference["picture"]
    if mask.ndim != 3 or mask.numel() == 0 or not bool(torch.isfinite(mask).all()):
        raise ValueError(
            f"the {what} must be a MASK (masks, height, width) without NaN, got "
            f"{tuple(mask.shape)}; connect {node_output}"
        )
    rows, columns = mask.shape[-2:]
    if abs(rows * width - columns * height) > _ASPECT_TOLERANCE * columns * height:
        raise ValueError(
            f"the {what} mask has {columns}x{rows} pixels and the portrait {width}x{height}, "
            "which is another shape; make the mask from the same picture as the reference (Load "
            "Image gives an empty one of 64x64 for a picture without transparency)"
        )
    # EMO takes one region for the whole clip, the union of its frames'.
    union = mask.amax(0, keepdim=True).clamp(0, 1)
    if (rows, columns) != (height, width):
        union = nn.functional.interpolate(union[None], (height, width), mode="bilinear")[0]
    return union


def masks_of(
    region: Tensor, given: Tensor | None, lips: Tensor | None, reference: dict[str, Any],
    config: EMOConfig,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Film.masks: where Hallo's weights hear the face and the lips; () for weights without.

    Args:
        region: (1, S, S), the face's region as the model sees it.
        given: (1, H, W), the same in the portrait's picture; None for the usual place.
        lips: MASK of the lips in the portrait's picture; None for their usual place in the face.
        reference: the portrait.
        config: of the model.

    Raises:
        ValueError: if the lips' mask does not fit, or is black where the model looks.
    """
    if config.audio.attention != "masked3":
        return ()
    mouth = None
    if lips is not None:
        mouth = union_of(lips, reference, "lips", "the lips of FaceLocatorMask")
    size = config.picture_size
    if given is not None and reference["square"] is None:
        # Hallo draws its masks before it stretches the picture.
        return masks_for_region(given, config, _filled(mouth), (size, size))
    if mouth is not None:
        mouth = in_view(mouth, reference, size)
    return masks_for_region(region, config, _filled(mouth))


def _filled(lips: Tensor | None) -> Tensor | None:
    if lips is not None and not bool((lips > 0.5).any()):
        raise ValueError(
            "the lips mask is black in what the model sees of the portrait; connect the lips of "
            "FaceLocatorMask, or nothing for their usual place"
        )
    return lips
