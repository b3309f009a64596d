"""A picture of a head speed over time and of the buckets it is told in, drawn with Pillow alone."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..emo_core.config import SpeedConfig
from ..emo_core.speed import speed_curve, speed_vector

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

CURVE = (255, 196, 61)
"""Colour of the curve; nothing else in the picture has it."""

_BACKGROUND, _PLOT, _GRID = (26, 27, 31), (36, 38, 44), (62, 65, 73)
_TEXT, _NATURAL, _JITTER = (226, 228, 232), (40, 58, 56), (214, 92, 92)
_COLD, _MIDDLE, _HOT = (34, 66, 124), (70, 73, 80), (240, 140, 60)
"""Of a bucket at -1, 0 and +1."""
_WIDTH, _LEFT, _RIGHT = 800, 70, 20
_TOP, _HEIGHT, _ROW, _GAP, _BOTTOM = 84, 240, 20, 76, 44
_LETTERS, _NOTE_COLUMNS = 15, 100
_COLUMNS = _WIDTH - _LEFT - _RIGHT
_LEAST_SPAN_SECONDS, _LEAST_TOP_SPEED = 10.0, 1.7
_NATURAL_RANGE, _JITTER_SPEED = (0.1, 1.3), 1.5
"""EMO's recommendation for speech and singing, and where it warns of rapid, jittery movements."""


def draw_speed(times: Tensor, speeds: Tensor, buckets: SpeedConfig, note: str) -> Tensor:
    """Draw a head speed over time, and below it how far each bucket is on.

    Args:
        times: (N,) seconds, rising.
        speeds: (N,) degrees per frame at 30 fps, linear between the times, held at both ends.
        buckets: the table for the heat map.
        note: a sentence above the curve.

    Returns:
        IMAGE (1, H, W, 3) in 0..1.
    """
    from PIL import Image, ImageDraw, ImageFont

    span = float(times[-1]) if float(times[-1]) > 0 else _LEAST_SPAN_SECONDS
    top_speed = max(_LEAST_TOP_SPEED, 1.1 * float(speeds.max()))
    shown = _columns(times, speeds, span)
    heat = heat_colours(speed_vector(shown[:, 0], buckets)).flip(1).transpose(0, 1)
    num_rows = len(buckets.centres)
    size = (_WIDTH, _TOP + _HEIGHT + _GAP + num_rows * _ROW + _BOTTOM)

    picture = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    draw.font = ImageFont.load_default(_LETTERS)
    for line, text in enumerate(textwrap.wrap(note, _NOTE_COLUMNS)[:2]):
        draw.text((12, 10 + 20 * line), text, fill=_TEXT)
    _draw_axes(draw, span, top_speed)
    _draw_curve(draw, shown, top_speed)
    below = _TOP + _HEIGHT + _GAP
    rows = heat.repeat_interleave(_ROW, 0).contiguous()
    picture.paste(Image.fromarray(rows.numpy()), (_LEFT, below))
    _draw_legend(draw, buckets, below)
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]


def heat_colours(activations: Tensor) -> Tensor:
    """Colours of bucket activations: blue at -1, grey at 0, orange at +1.

    Args:
        activations: (...), -1..1.

    Returns:
        (..., 3) uint8.
    """
    cold, middle, hot = (torch.tensor(colour).float() for colour in (_COLD, _MIDDLE, _HOT))
    part = activations[..., None].float()
    colours = middle + part.clamp(0, 1) * (hot - middle) + (-part).clamp(0, 1) * (cold - middle)
    return colours.round().to(torch.uint8)


def _columns(times: Tensor, speeds: Tensor, span: float) -> Tensor:
    """The speed at four places inside each of the plot's columns, (columns, 4)."""
    count = 4 * _COLUMNS
    frames = list(zip(times.tolist(), speeds.tolist(), strict=True))
    return speed_curve(frames, count, (count - 1) / span).reshape(_COLUMNS, 4)


def _draw_axes(draw: ImageDraw, span: float, top_speed: float) -> None:
    right, bottom = _LEFT + _COLUMNS, _TOP + _HEIGHT
    low, high = (_row(speed, top_speed) for speed in _NATURAL_RANGE)
    draw.rectangle((_LEFT, _TOP, right, bottom), fill=_PLOT)
    draw.rectangle((_LEFT, high, right, low), fill=_NATURAL)
    for speed in _ticks(top_speed, 6):
        row = _row(speed, top_speed)
        draw.line((_LEFT, row, right, row), fill=_GRID)
        draw.text((_LEFT - 8, row), f"{speed:g}", fill=_TEXT, anchor="rm")
    for seconds in _ticks(span, 10):
        column = _LEFT + round(seconds / span * (_COLUMNS - 1))
        draw.line((column, _TOP, column, bottom), fill=_GRID)
        draw.text((column, bottom + 6), f"{seconds:g}", fill=_TEXT, anchor="mt")
    row = _row(_JITTER_SPEED, top_speed)
    draw.line((_LEFT, row, right, row), fill=_JITTER)
    draw.text((right - 6, row - 3), "above 1.5: may jitter (paper)", fill=_JITTER, anchor="rs")
    draw.text((right - 6, high + 4), "0.1 to 1.3: recommended (paper)", fill=_TEXT, anchor="rt")
    draw.text((12, _TOP - 24), "head speed, degrees per frame at 30 fps", fill=_TEXT)
    draw.text((right, bottom + 26), "seconds", fill=_TEXT, anchor="rt")


def _draw_curve(draw: ImageDraw, shown: Tensor, top_speed: float) -> None:
    points = [
        (_LEFT + index / 4, _row(speed, top_speed))
        for index, speed in enumerate(shown.flatten().tolist())
    ]
    draw.line(points, fill=CURVE, width=3)


def _draw_legend(draw: ImageDraw, buckets: SpeedConfig, below: int) -> None:
    """What stands around the heat map: the bucket centres, and what the colours mean."""
    draw.text((12, below - 26), "buckets, by their centre", fill=_TEXT)
    bottom = below + len(buckets.centres) * _ROW
    for place, centre in enumerate(buckets.centres):
        row = bottom - place * _ROW - _ROW // 2
        draw.text((_LEFT - 8, row), f"{centre:g}", fill=_TEXT, anchor="rm")
    column = _LEFT
    for value, text in ((-1, "-1, speed below"), (0, "0, at the centre"), (1, "+1, speed above")):
        colour: Any = tuple(heat_colours(torch.tensor(float(value))).tolist())
        draw.rectangle((column, bottom + 14, column + 20, bottom + 30), fill=colour)
        draw.text((column + 28, bottom + 22), text, fill=_TEXT, anchor="lm")
        column += 190


def _row(speed: float, top_speed: float) -> int:
    return _TOP + round((1 - speed / top_speed) * _HEIGHT)


def _ticks(end: float, most: int) -> Iterator[float]:
    """Round numbers from 0 to `end`, at most so many steps."""
    power = 10 ** math.floor(math.log10(end / most))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * most >= end)
    return (place * step for place in range(math.floor(end / step + 1e-9) + 1))
