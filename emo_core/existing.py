"""An existing film's pictures as latents, to be voiced anew."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from .pictures import Square, cut_square
from .readable import check_readable

logger = logging.getLogger(__name__)

_AT_ONCE = 16
_ASPECT_TOLERANCE = 0.02


def existing_film(
    path: Path, count: int, frame_rate: int, size: int, portrait: tuple[Square, int, int],
    encode: Callable[[Tensor], Tensor],
) -> Tensor:  # fmt: skip
    """Read a film from its beginning and encode it, a few pictures at a time.

    Pictures of the portrait's shape are cut as the portrait is; square ones are taken whole, as
    they come from another film of ours. At another frame rate each frame is the picture that is
    shown at its middle.

    Args:
        path: the film.
        count: frames that are needed; what follows is not read.
        frame_rate: frames a second of the model.
        size: side of its pictures in pixels.
        portrait: left, top and side of the square in the portrait, and its width and height.
        encode: pictures (N, 3, S, S) in -1..1 to latents (N, C, h, w).

    Returns:
        (1, count, C, h, w).

    Raises:
        FileNotFoundError: if there is no such film.
        ValueError: if it is none, is shorter than `count` frames, or has another shape.
    """
    latents: list[Tensor] = []
    waiting: list[Tensor] = []
    found = 0
    for picture in _pictures(path, frame_rate):
        square = _square(picture, portrait, path)
        waiting.append(cut_square(picture.permute(2, 0, 1).float() / 255, square, size))
        found += 1
        if len(waiting) == _AT_ONCE or found == count:
            latents.append(encode(torch.stack(waiting) * 2 - 1))
            waiting = []
        if found == count:
            return torch.cat(latents)[None]
    raise ValueError(
        f"the film {path} has {found} frames at {frame_rate} frames a second, and the sound is of "
        f"{count}; give --duration {found / frame_rate:g} or less, or a longer film"
    )


def check_existing(path: Path, frame_rate: int, portrait: tuple[Square, int, int]) -> None:
    """See by its first picture whether existing_film() can read a film.

    Raises:
        FileNotFoundError: if there is no such film.
        ValueError: if it is none, or has another shape.
    """
    for picture in _pictures(path, frame_rate):
        _square(picture, portrait, path)
        return


def region_of_latents(region: Tensor, height: int, width: int) -> Tensor:
    """The latent cells that a region (channels, H, W) touches, as a mask (1, 1, 1, h, w)."""
    touched = functional.adaptive_max_pool2d(region.amax(0)[None, None], (height, width)) > 0
    return touched[None].to(region.dtype)


def _pictures(path: Path, frame_rate: int) -> Iterator[Tensor]:
    """The film's pictures (H, W, 3), uint8, at another frame rate."""
    import av

    check_readable(path, "film", "a film")
    try:
        with av.open(str(path)) as file:
            if not file.streams.video:
                raise ValueError(f"{path} has no pictures; give a film")
            stream = file.streams.video[0]
            step = Fraction(stream.average_rate or stream.guessed_rate or frame_rate) / frame_rate
            if step != 1:
                logger.info("%s has %g frames a second; it is read at %d", path,
                            float(step * frame_rate), frame_rate)  # fmt: skip
            given = 0
            for number, frame in enumerate(file.decode(stream)):
                # Picture `number` is shown while frames whose middle lies in it are given.
                while (given + Fraction(1, 2)) * step < number + 1:
                    yield torch.from_numpy(frame.to_ndarray(format="rgb24"))
                    given += 1
    except (av.FFmpegError, EOFError) as error:
        raise ValueError(f"{path} is not a film that can be read ({error}); give another") from None


def _square(picture: Tensor, portrait: tuple[Square, int, int], path: Path) -> Square:
    """The part of a picture (H, W, 3) that the model sees."""
    (left, top, side), width, height = portrait
    rows, columns = picture.shape[:2]
    if rows == columns:
        return 0, 0, rows
    if abs(rows * width - columns * height) > _ASPECT_TOLERANCE * columns * height:
        raise ValueError(
            f"the film {path} has {columns}x{rows} pixels and the portrait {width}x{height}, which "
            "is another shape; take a picture of the film itself as portrait, or a square film"
        )
    scale = rows / height
    wide = min(round(side * scale), rows, columns)
    return (
        min(round(left * scale), columns - wide), min(round(top * scale), rows - wide), wide,
    )  # fmt: skip
