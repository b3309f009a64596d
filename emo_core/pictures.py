"""Reading pictures, and bringing a portrait of any size and shape to that of a film."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .face import Box
from .readable import check_readable

logger = logging.getLogger(__name__)

LEAST_BOX = 2
"""Pixels of a box's side; what is smaller is no face and no mouth, but most likely fractions."""
_TOP_BIAS = 0.25
"""Where the window lies in a tall picture: a quarter of the surplus is above it, for heads are."""

Size = tuple[int, int]
"""Rows and columns of a picture."""
Square = tuple[int, int, int]
"""Left, top and side of a part of a picture, in pixels."""
Window = tuple[int, int, int, int]
"""Left, top, width and height of a part of a picture, in pixels."""


@dataclass(frozen=True)
class Portrait:
    """A portrait as a model sees it.

    Attributes:
        picture: (3, H, W), 0..1.
        box: the face box in it as fractions of its sides, or None where nobody gave one.
    """

    picture: Tensor
    box: Box | None


def read_picture(path: Path) -> Tensor:
    """Read any picture that Pillow reads, upright, as RGB.

    Transparency is laid over white, EXIF rotation is applied, 16 bits a channel are kept where
    Pillow keeps them, and of an animation the first picture is taken.

    Args:
        path: the file.

    Returns:
        (3, H, W) float32 in 0..1.

    Raises:
        OSError: if there is none, or it may not be read.
        ValueError: if it is a folder, no picture, too large, truncated, or holds NaN.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    check_readable(path, "portrait", "a picture file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pictures above 89 megapixels, and odd EXIF
            with Image.open(path) as image:
                return _to_rgb(ImageOps.exif_transpose(image), path)
    except UnidentifiedImageError:
        raise ValueError(
            f"the portrait {path} is not a picture that Pillow reads; give a PNG or JPEG"
        ) from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"the portrait {path} is too large ({error}); make it smaller") from None
    except (OSError, SyntaxError, EOFError) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise ValueError(
            f"the portrait {path} cannot be read ({reason}); save it again as PNG or JPEG"
        ) from None


def _to_rgb(image: Any, path: Path) -> Tensor:
    """A Pillow image of any mode to (3, H, W) in 0..1."""
    import numpy as np
    from PIL import Image

    if image.mode == "F" or image.mode.startswith("I"):
        values = torch.from_numpy(np.asarray(image).astype(np.float32))
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"the portrait {path} holds NaN or infinite values; export it again")
        top = float(values.max())
        full = 65535.0 if image.mode != "F" or top > 255 else 255.0 if top > 1 else 1.0
        return (values / full).clamp(0, 1).expand(3, -1, -1).contiguous()
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        layer = image.convert("RGBA")
        if layer.getextrema()[3][0] < 255:
            logger.info("%s is transparent in places; they become white", path)
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, layer)
    pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def fit_portrait(picture: Tensor, size: int | Size, face_box: Box | None = None) -> Portrait:
    """Crop a picture to the shape of a film and resize it to the film's size.

    The window is as large as the picture allows. It lies around the face box if one is given;
    else in the middle of a wide picture, and a little above the middle of a tall one.

    Args:
        picture: (3, H, W), 0..1.
        size: rows and columns of the result, or one number for a square.
        face_box: x, y, width, height in pixels of the picture.

    Raises:
        ValueError: if the face box has no area or reaches outside the picture.
    """
    size = (size, size) if isinstance(size, int) else size
    height, width = picture.shape[-2:]
    window = portrait_window(width, height, size, face_box)
    box = None if face_box is None else box_in_window(face_box, window)
    return Portrait(cut_window(picture, window, size).contiguous(), box)


def stretch_portrait(picture: Tensor, size: int | Size, face_box: Box | None = None) -> Portrait:
    """Resize a whole picture to a film's size, whatever its shape, in whole 255ths: Hallo's way.

    A face becomes wider or narrower than it is; fit_portrait() keeps its shape.

    Args:
        picture: (3, H, W), 0..1.
        size: rows and columns of the result, or one number for a square.
        face_box: x, y, width, height in pixels of the picture.

    Raises:
        ValueError: if the face box has no area or reaches outside the picture.
    """
    import numpy as np
    from PIL import Image

    rows, columns = (size, size) if isinstance(size, int) else size
    height, width = picture.shape[-2:]
    box = None
    if face_box is not None:
        check_pixel_box(face_box, width, height)
        x, y, box_width, box_height = face_box
        box = (x / width, y / height, box_width / width, box_height / height)
    pixels = (picture * 255).round().to(torch.uint8).permute(1, 2, 0)
    image = Image.fromarray(pixels.numpy()).resize((columns, rows), Image.Resampling.BILINEAR)
    out = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return Portrait(out.contiguous(), box)


def portrait_window(width: int, height: int, size: Size, face_box: Box | None = None) -> Window:
    """The part of a picture that fit_portrait() cuts for a film of `size`, rows and columns.

    Raises:
        ValueError: if the face box has no area or reaches outside the picture.
    """
    rows, columns = size
    scale = min(width / columns, height / rows)
    across, down = min(round(columns * scale), width), min(round(rows * scale), height)
    left, top = (width - across) / 2, (height - down) * _TOP_BIAS
    if face_box is not None:
        check_pixel_box(face_box, width, height)
        x, y, box_width, box_height = face_box
        left, top = x + box_width / 2 - across / 2, y + box_height / 2 - down / 2
    left, top = min(max(left, 0), width - across), min(max(top, 0), height - down)
    return round(left), round(top), max(across, 1), max(down, 1)


def cut_window(picture: Tensor, window: Window, size: Size) -> Tensor:
    """Cut a window out of a picture or mask (C, H, W) in 0..1 and resize it: (C, *size)."""
    left, top, width, height = window
    cut = picture[:, top : top + height, left : left + width]
    if (height, width) == size:
        return cut
    return functional.interpolate(
        cut[None], size, mode="bicubic", antialias=True, align_corners=False
    )[0].clamp(0, 1)


def portrait_square(width: int, height: int, face_box: Box | None = None) -> Square:
    """Left, top and side, in pixels, of the square that fit_portrait() cuts.

    Raises:
        ValueError: if the face box has no area or reaches outside the picture.
    """
    return portrait_window(width, height, (1, 1), face_box)[:3]


def cut_square(picture: Tensor, square: Square, size: int) -> Tensor:
    """Cut a square out of a picture or mask (C, H, W) in 0..1 and resize it: (C, size, size)."""
    left, top, side = square
    return cut_window(picture, (left, top, side, side), (size, size))


def box_in_window(box: Box, window: Window) -> Box:
    """A box in pixels of a picture as fractions of a window of it, cut at the window's edges.

    Its width or height is 0 or less where it lies outside.
    """
    left, top, across, down = window
    x, y, width, height = box
    first_x, first_y = max(x - left, 0) / across, max(y - top, 0) / down
    last_x, last_y = min(x + width - left, across) / across, min(y + height - top, down) / down
    return first_x, first_y, last_x - first_x, last_y - first_y


def check_pixel_box(box: Box, width: int, height: int, what: str = "face") -> None:
    """Say what is wrong with a box of a face or of lips, in pixels of a picture of this size.

    Raises:
        ValueError: if it is smaller than LEAST_BOX or reaches outside; fractions are told.
    """
    x, y, box_width, box_height = box
    if min(box_width, box_height) < LEAST_BOX:
        way = "give X,Y,W,H in pixels of the upright picture"
        if min(box) >= 0 and max(box) <= 1:
            pixels = (x * width, y * height, box_width * width, box_height * height)
            way = (
                "these look like fractions, which in pixels are "
                f"{','.join(str(round(side)) for side in pixels)}"
            )
        raise ValueError(
            f"a {what} box is at least {LEAST_BOX} pixels wide and high, got {_text(box)} in a "
            f"picture of {width}x{height}; {way}"
        )
    if x < 0 or y < 0 or x + box_width > width or y + box_height > height:
        raise ValueError(
            f"the {what} box {_text(box)} (X,Y,W,H in pixels) reaches outside the picture of "
            f"{width}x{height} pixels; keep X and Y at 0 or above, X+W within {width} and Y+H "
            f"within {height}"
        )


def _text(box: Box) -> str:
    return ",".join(f"{value:g}" for value in box)
