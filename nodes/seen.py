"""What a model sees of the portrait's picture: a part of it, or the whole of it stretched."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from ..emo_core.config import EMOConfig
from ..emo_core.face import CENTRED_PRIOR, region_mask
from ..emo_core.face_masks import BLACK, masks_for_region
from ..emo_core.pictures import (
    Size,
    Window,
    cut_window,
    portrait_window,
    stretch_portrait,
)

logger = logging.getLogger(__name__)

_ASPECT_TOLERANCE = 0.02


def see(picture: Tensor, size: Size, whole: bool) -> tuple[Tensor, Window | None]:
    """A picture (3, H, W) as the model sees it.

    Args:
        picture: 0..1.
        size: rows and columns of the film.
        whole: whether all of it is stretched, as Hallo's own program does.

    Returns:
        (3, *size), and the window that was cut; None where none was.
    """
    if whole:
        return stretch_portrait(picture, size).picture, None
    window = portrait_window(picture.shape[-1], picture.shape[-2], size)
    return cut_window(picture, window, size), window


def in_view(mask: Tensor, reference: dict[str, Any], size: Size) -> Tensor:
    """A mask (1, H, W) of the portrait's picture in what the model sees of it: (1, *size)."""
    if reference["window"] is None:
        return stretch_portrait(mask.expand(3, -1, -1), size).picture[:1]
    return cut_window(mask, reference["window"], size)


def size_of(reference: dict[str, Any], config: EMOConfig) -> Size:
    """Rows and columns of a reference's film, in pixels."""
    rows, columns = (side * config.latent_factor for side in reference["latents"].shape[-2:])
    return rows, columns


def region_of(
    mask: Tensor | None, reference: dict[str, Any], config: EMOConfig, count: int
) -> tuple[Tensor, Tensor | None]:
    """Where the face may be, as the model sees the portrait.

    Args:
        mask: MASK of the portrait's picture; None for a portrait's usual place.
        reference: the portrait.
        config: of the model.
        count: frames of the film.

    Returns:
        (1, *size), 1 inside, or (count, 1, *size) of a mask for each frame of the film; the union
        of the masks (1, H, W) in the portrait's own picture, where the region does not move.

    Raises:
        ValueError: if it is no mask of this picture, or black where the model looks.
    """
    size = size_of(reference, config)
    if mask is None:
        return region_mask(CENTRED_PRIOR, *size), None
    masks = _checked(mask, reference, "region", "EMO Face Locator Mask")
    if len(masks) == count > 1 and config.audio.attention != "masked3":
        frames = [in_view(_at_picture(one[None], reference), reference, size) for one in masks]
        _say_where_it_is_black(torch.stack(frames), config.temporal.num_frames)
        return torch.stack(frames), None
    if len(masks) > 1:
        logger.info(
            "the region is the union of %d masks (a film of %d frames has a moving region where "
            "there is a mask for each%s)", len(masks), count,
            ", but not with weights that hear by masks" if len(masks) == count else "",
        )  # fmt: skip
    # EMO takes one region for a whole clip, the union of its frames'.
    union = _at_picture(masks.amax(0, keepdim=True), reference)
    seen = in_view(union, reference, size)
    _say_where_it_is_black(seen[None], 1)
    return seen, union


def _checked(mask: Tensor, reference: dict[str, Any], what: str, source: str) -> Tensor:
    """A MASK (n, h, w) of the portrait's picture in 0..1, brought to 1 where it is brightest."""
    mask = mask.float().cpu()
    mask = mask[None] if mask.ndim == 2 else mask
    height, width = reference["picture"]
    if mask.ndim != 3 or mask.numel() == 0 or not bool(torch.isfinite(mask).all()):
        raise ValueError(
            f"the {what} must be a MASK (masks, height, width) without NaN, got "
            f"{tuple(mask.shape)}; connect {source}"
        )
    rows, columns = mask.shape[-2:]
    if abs(rows * width - columns * height) > _ASPECT_TOLERANCE * columns * height:
        raise ValueError(
            f"the {what} mask has {columns}x{rows} pixels and the portrait {width}x{height}, "
            "which is another shape; make the mask from the same picture as the reference (Load "
            "Image gives an empty one of 64x64 for a picture without transparency)"
        )
    mask = mask.clamp(0, 1)
    # The weights know regions that are 1 inside; one that was painted grey means the same.
    brightest = float(mask.amax())
    return mask / brightest if brightest > BLACK else mask


def _at_picture(mask: Tensor, reference: dict[str, Any]) -> Tensor:
    """A mask (1, h, w) at the size of the portrait's picture, 0..1."""
    if tuple(mask.shape[-2:]) != tuple(reference["picture"]):
        mask = nn.functional.interpolate(mask[None], reference["picture"], mode="bilinear")[0]
    return mask


def _say_where_it_is_black(frames: Tensor, clip: int) -> None:
    """Refuse a region (F, 1, S, S) with a clip that has no place for a face."""
    inside = (frames > BLACK).flatten(1).any(1)
    for first in range(0, len(frames), clip):
        if not bool(inside[first : first + clip].any()):
            where = f" in the frames {first} to {first + clip - 1}" if len(frames) > 1 else ""
            raise ValueError(
                "the region mask is black in the square that is cut from the portrait"
                f"{where}, so there is no place for a face; connect EMO Face Locator Mask, or "
                "nothing for the usual place"
            )


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
        masks = _checked(lips, reference, "lips", "the lips of EMO Face Locator Mask")
        mouth = _at_picture(masks.amax(0, keepdim=True), reference)
    size = size_of(reference, config)
    if given is not None and reference["window"] is None:
        # Hallo draws its masks before it stretches the picture.
        return masks_for_region(given, config, _filled(mouth), size)
    if mouth is not None:
        mouth = in_view(mouth, reference, size)
    return masks_for_region(region, config, _filled(mouth))


def _filled(lips: Tensor | None) -> Tensor | None:
    if lips is not None and not bool((lips > BLACK).any()):
        raise ValueError(
            "the lips mask is black in what the model sees of the portrait; connect the lips of "
            "EMO Face Locator Mask, or nothing for their usual place"
        )
    return lips
