"""Hallo's three masks: where the picture, the face and the lips hear, from boxes.

The masks are made as Hallo's weights were trained: boxes filled in the picture, brought to 64 x 64,
blurred (8 cells the face, 5 the lips), stretched to the full range; the face without the lips, the
rest of the picture as the blurred face's complement. Everything is counted in whole 255ths with
OpenCV's rounding, which these numbers were made with, but without OpenCV.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .config import EMOConfig
from .face import Box, check_box
from .reference import halved

MASK_SIZE = 64
"""Rows and columns that Hallo blurs its masks on."""
BLACK = 1 / 512
"""The most that a mask has where nothing is inside: half of the least grey of eight bits."""

_FACE_KERNEL, _LIP_KERNEL = 51, 31


def lip_box(face: Box) -> Box:
    """Where the lips usually are in a face's box: its lower third, half as wide."""
    x, y, width, height = check_box(face)
    return x + 0.25 * width, y + 0.62 * height, 0.5 * width, 0.28 * height


def box_pixels(box: Box, height: int, width: int) -> Tensor:
    """A box (fractions) filled with 255 in a picture (height, width) of zeros, in whole pixels."""
    x, y, box_width, box_height = check_box(box)
    picture = torch.zeros(height, width, dtype=torch.uint8)
    rows = slice(round(y * height), max(round((y + box_height) * height), 1))
    columns = slice(round(x * width), max(round((x + box_width) * width), 1))
    picture[rows, columns] = 255
    return picture


def blur_grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns that the masks of a film are blurred on: 64 x 64 for a square, as Hallo.

    For another shape they are about as many cells of that shape, so that the blur reaches as far
    down as across. Hallo knows squares only.
    """
    shape = math.sqrt(height / width)
    return round(MASK_SIZE * shape), round(MASK_SIZE / shape)


def region_masks(
    face: Box, lips: Box, height: int, width: int,
    grid: tuple[int, int] = (MASK_SIZE, MASK_SIZE),
) -> Tensor:  # fmt: skip
    """Masks of the full picture, the face and the lips, from boxes.

    Args:
        face: box of the face, already as large as wanted.
        lips: box of the lips, already as large as wanted.
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        grid: rows and columns of the masks; blur_grid() for a film that is not square.

    Returns:
        (3, *grid), uint8.
    """
    face_pixels, lip_pixels = (box_pixels(box, height, width) for box in (face, lips))
    return masks_of_regions(face_pixels, lip_pixels, grid)


def masks_of_regions(
    face: Tensor, lips: Tensor, grid: tuple[int, int] = (MASK_SIZE, MASK_SIZE)
) -> Tensor:
    """Masks (3, *grid), uint8, of the full picture, the face and the lips, by Hallo's blur law.

    Args:
        face: (H, W), uint8, 255 inside the face.
        lips: (H, W), uint8, 255 inside the lips.
        grid: rows and columns of the masks; blur_grid() for a film that is not square.
    """
    soft_face, soft_lips = _soften(face, _FACE_KERNEL, grid), _soften(lips, _LIP_KERNEL, grid)
    full = ((1.0 - soft_face.double() / 255.0) * 255).to(torch.uint8)
    inner = (soft_face.int() - soft_lips.int()).clamp(min=0).to(torch.uint8)
    return torch.stack([full, inner, soft_lips])


def _soften(mask: Tensor, kernel: int, grid: tuple[int, int]) -> Tensor:
    """To the grid, blurred and stretched to 0..255: (H, W) uint8 to (*grid) uint8."""
    small = _shrink(mask, grid)
    weights = _gaussian_256ths(kernel)
    # Whole 256ths along each side and one rounding at the end, as OpenCV blurs bytes.
    blurred = _along_rows(_along_rows(small, weights).T, weights).T
    blurred = (blurred + (1 << 15)) >> 16
    low, high = int(blurred.min()), int(blurred.max())
    if high == low:
        return blurred.clamp(0, 0).to(torch.uint8)
    scale = 255.0 / (high - low)
    return (blurred.double() * scale - low * scale).round().clamp(0, 255).to(torch.uint8)


def _shrink(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """(H, W) bytes to (*grid) whole numbers by OpenCV's bilinear resize: 2048ths, rounded once."""
    above, below, upper, lower = _neighbours(mask.shape[0], grid[0])
    left, right, first, second = _neighbours(mask.shape[1], grid[1])
    values = mask.long()
    rows = values[:, left] * first + values[:, right] * second
    parts = [
        ((rows[place] >> 4) * share[:, None]) >> 16
        for place, share in ((above, upper), (below, lower))
    ]
    return (parts[0] + parts[1] + 2) >> 2


def _neighbours(size: int, cells: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of `cells` places along a side: the two pixels around each, and their shares in 2048ths."""
    at = ((torch.arange(cells).double() + 0.5) * (size / cells) - 0.5).float()
    first = at.floor()
    share = torch.where((first < 0) | (first >= size - 1), torch.zeros_like(at), at - first)
    first = first.clamp(0, size - 1).long()
    last = (first + 1).clamp(max=size - 1)
    return first, last, ((1 - share) * 2048).round().long(), (share * 2048).round().long()


def _gaussian_256ths(size: int) -> Tensor:
    """A Gaussian of OpenCV's usual width for `size` taps, in 256ths that add up to one."""
    sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    half = size // 2
    values = [math.exp(-((i - half) ** 2) / (2 * sigma * sigma)) for i in range(size)]
    total = sum(values)
    # What rounding one tap loses the next one gets, and the middle one the rest.
    taps, error = [], 0.0
    for value in values[:half]:
        exact = value / total * 256 + error
        taps.append(round(exact))
        error = exact - taps[-1]
    return torch.tensor([*taps, 256 - 2 * sum(taps), *reversed(taps)], dtype=torch.long)


def _along_rows(picture: Tensor, weights: Tensor) -> Tensor:
    """Convolve each row of whole numbers (H, W), mirrored at the ends without the end itself."""
    half, width = len(weights) // 2, picture.shape[1]
    places = torch.arange(-half, width + half).abs()
    period = 2 * (width - 1)
    places = places % period
    places = torch.where(places >= width, period - places, places)
    return (picture[:, places].unfold(1, len(weights), 1) * weights).sum(-1)


def mask_levels(masks: Tensor, height: int, width: int, levels: int) -> tuple[Tensor, ...]:
    """Masks for every resolution level of the backbone.

    Args:
        masks: (3, rows, columns), uint8, from region_masks().
        height: rows of the latents.
        width: columns of the latents.
        levels: resolution levels.

    Returns:
        For each level (3, rows, columns), float32 in 0..1.
    """
    import numpy as np
    from PIL import Image

    images = [Image.fromarray(mask.numpy()) for mask in masks.cpu()]
    out = []
    for level in range(levels):
        size = (halved(width, level), halved(height, level))
        small = [np.asarray(image.resize(size, Image.Resampling.BILINEAR)) for image in images]
        out.append(torch.from_numpy(np.stack(small)).float() / 255)
    return tuple(out)


def masks_for_region(
    region: Tensor,
    config: EMOConfig,
    lips: Tensor | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[Tensor, ...]:
    """Masks of every level from regions of any shape, for a model that hears by masks.

    The boxes around the regions count, since the weights were trained with boxes.

    Args:
        region: (channels, H, W), 1 inside the face.
        config: the model; one without such masks needs none and gets ().
        lips: (channels, H, W), 1 inside the lips; None for their usual place in the face.
        size: height and width in pixels of the picture that the model sees, where the regions are
            of another one that was stretched to it (Hallo); None for the regions' own.

    Returns:
        What Film.masks is.

    Raises:
        ValueError: if a region is empty.
    """
    if config.audio.attention != "masked3":
        return ()
    height, width = region.shape[-2:]
    face = box_of_region(region)
    mouth = lip_box(face) if lips is None else box_of_region(lips)
    seen = size or (height, width)
    masks = region_masks(face, mouth, height, width, blur_grid(*seen))
    rows, columns = (side // config.latent_factor for side in seen)
    return mask_levels(masks, rows, columns, len(config.unet.widths))


def box_of_region(region: Tensor) -> Box:
    """The smallest box around a region (channels, H, W), as fractions of the picture.

    A mask may be grey and its edges soft: inside is what has more than half of its brightest.

    Raises:
        ValueError: if all of it is BLACK.
    """
    union = region.amax(0)
    inside = union > union.amax() / 2
    rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
    if union.amax() <= BLACK:
        raise ValueError("the face's region is empty; give a face box or a mask with a face in it")
    height, width = inside.shape
    top, bottom, left, right = (int(i) for i in (rows[0], rows[-1], columns[0], columns[-1]))
    return (
        left / width, top / height, (right + 1 - left) / width, (bottom + 1 - top) / height
    )  # fmt: skip
