"""How large a film is: the model's own square, a size asked for, or the portrait's own shape."""

from __future__ import annotations

import math
from itertools import product
from typing import Literal

from .config import EMOConfig
from .pictures import Size

STEP, LEAST, MOST = 64, 256, 1024
"""Sides are multiples of STEP, so that every level of SD 1.5's widths halves them without a rest;
LEAST to MOST is what networks that were trained at 512 can be asked for with any hope."""

Wanted = Size | Literal["portrait"] | None
"""Rows and columns; "portrait" for the portrait's own shape; None for the model's own square."""


def parse_size(text: str) -> Size | Literal["portrait"]:
    """WxH in pixels, or the word portrait.

    Returns:
        Rows and columns, or the word.

    Raises:
        ValueError: if it is neither, or a size that no model makes.
    """
    if text.strip().lower() == "portrait":
        return "portrait"
    width, cross, height = text.strip().lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise ValueError(
            f"a film's size is its width and height in pixels such as 512x768, or portrait for "
            f"the portrait's own shape, got {text!r}"
        )
    size = int(height), int(width)
    check_size(size)
    return size


def check_size(size: Size) -> None:
    """Say why no model makes films of this size.

    Raises:
        ValueError: unless both sides are multiples of 64 from 256 to 1024.
    """
    if any(side % STEP or not LEAST <= side <= MOST for side in size):
        nearest = (min(max(round(side / STEP) * STEP, LEAST), MOST) for side in reversed(size))
        raise ValueError(
            f"a film's sides are multiples of {STEP} from {LEAST} to {MOST} pixels, got "
            f"{size[1]}x{size[0]}; the nearest is {'x'.join(map(str, nearest))}"
        )


def film_size(config: EMOConfig, wanted: Wanted, picture: Size) -> Size:
    """Rows and columns of a model's film of a portrait.

    Args:
        config: the model.
        wanted: see Wanted.
        picture: rows and columns of the portrait.

    Raises:
        ValueError: if the model cannot make films of that size.
    """
    own = config.picture_size
    if wanted in (None, (own, own)):
        return own, own
    if config.unet.position_grid:
        raise ValueError(
            f"{config.name} was trained with the places of {own}x{own} pixels and makes films of "
            "that size only; ask for no other, which is a width and height of 0 in a node"
        )
    assert wanted is not None
    if wanted == "portrait":
        return size_like(picture, own)
    check_size(wanted)
    return wanted


def size_like(picture: Size, own: int) -> Size:
    """The size nearest to a picture's shape that has about as many pixels as own x own.

    A shape that is a hundredth wrong counts as much as an area that is four hundredths wrong.
    """
    sides = range(LEAST, MOST + 1, STEP)

    def error(size: Size) -> float:
        shape = math.log(size[1] * picture[0] / (size[0] * picture[1]))
        return abs(shape) + abs(math.log(size[0] * size[1] / own**2)) / 4

    return min(product(sides, sides), key=error)
