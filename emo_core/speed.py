"""Head speed -> buckets -> speed features (EMO, "Speed Layers"), and curves of it over time.

Unit everywhere: degrees of head rotation per frame at 30 frames per second, as the paper labels it
(supplement B.2), whatever the frame rate of the film.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention import Build
from .config import SpeedConfig

KEYFRAME_RATE = 25
"""Speeds a second that smoothed keyframes are sampled at."""

FASTEST_ASKED = 10.0
"""Degrees per frame at 30 fps; more is taken for a mistake."""

_DAY_SECONDS = 86400
_PIECE_ROWS = 4096


def speed_vector(speeds: Tensor, config: SpeedConfig) -> Tensor:
    """Encode speeds as s_i = tanh((w - c_i) / r_i * 3), a soft thermometer.

    Args:
        speeds: (...), degrees per frame at 30 fps.
        config: the bucket table; d buckets.

    Returns:
        (..., d), each in -1..1.
    """
    centres = torch.tensor(config.centres, dtype=speeds.dtype, device=speeds.device)
    radii = torch.tensor(config.radii, dtype=speeds.dtype, device=speeds.device)
    return torch.tanh((speeds[..., None] - centres) / radii * 3)


def speed_windows(speeds: Tensor, first: int, count: int, window: int) -> Tensor:
    """The speeds of frames -window..window around each frame of a clip, clamped at the ends.

    Args:
        speeds: (F,), the film's.
        first: index of the clip's first frame.
        count: frames of the clip; frames past the film's end repeat its last speed.
        window: m.

    Returns:
        (count, 2 * window + 1).
    """
    frames = torch.arange(first, first + count)[:, None]
    index = frames + torch.arange(-window, window + 1)[None]
    return speeds[index.clamp(0, len(speeds) - 1)]


class SpeedEncoder(nn.Module):
    """MLP from a window of bucket vectors to speed features.

    The paper says "an MLP" and neither its depth nor its widths; ours has two layers.
    """

    def __init__(self, config: SpeedConfig, build: Build) -> None:
        super().__init__()
        self.config = config
        inputs = (2 * config.window + 1) * len(config.centres)
        self.linear_1 = build.linear(inputs, config.width)
        self.linear_2 = build.linear(config.width, config.width)

    def forward(self, windows: Tensor) -> Tensor:
        """Speeds (B, F, 2m + 1) to features (B, F, width)."""
        buckets = speed_vector(windows.float(), self.config).flatten(-2)
        hidden = functional.gelu(self.linear_1(buckets.to(windows.dtype)))
        out: Tensor = self.linear_2(hidden)
        return out


def parse_speed(text: str) -> float | list[tuple[float, float]]:
    """Read a speed as people write it: "0.7", or keyframes in seconds "0:0.2, 50:1.1".

    Keyframes may also stand on lines of their own.

    Returns:
        A constant, or keyframes (seconds, speed) in rising order.

    Raises:
        ValueError: if the text is neither; the message shows both forms.
    """
    form = (
        'write a number such as 0.7, or keyframes in seconds such as "0:0.2, 50:1.1" (decimals '
        "take a point, times are plain seconds)"
    )
    parts = [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]
    try:
        if len(parts) == 1 and ":" not in parts[0]:
            constant = float(parts[0])
            pairs = []
        else:
            pairs = [(float(time), float(value))
                     for time, value in (part.split(":") for part in parts)]
    except ValueError:
        raise ValueError(f"speed {text!r} is not understood; {form}") from None
    if len(parts) == 1 and not pairs:
        return _valid_speed(constant, text)
    frames = [(time, _valid_speed(value, text)) for time, value in pairs]
    times = [time for time, _ in frames]
    if not frames or times != sorted(set(times)) or not all(map(math.isfinite, times)):
        raise ValueError(f"speed {text!r} must have keyframes at rising times; {form}")
    return frames


def speed_curve(
    speed: float | Sequence[tuple[float, float]], num_frames: int, frame_rate: float
) -> Tensor:
    """A speed for every frame: constant, or linear between keyframes and held at the ends.

    Args:
        speed: degrees per frame at 30 fps, or keyframes (seconds, speed) in rising order.
        num_frames: frames of the film.
        frame_rate: frames per second.

    Returns:
        (num_frames,).
    """
    if isinstance(speed, (int, float)):
        return torch.full((num_frames,), float(speed))
    times = torch.tensor([time for time, _ in speed], dtype=torch.float64)
    values = torch.tensor([value for _, value in speed], dtype=torch.float64)
    if len(times) == 1:
        return torch.full((num_frames,), float(values[0]))
    seconds = torch.arange(num_frames, dtype=torch.float64) / frame_rate
    right = torch.searchsorted(times, seconds, right=True).clamp(1, len(times) - 1)
    part = ((seconds - times[right - 1]) / (times[right] - times[right - 1])).clamp(0, 1)
    return torch.lerp(values[right - 1], values[right], part).float()


def smooth(values: Tensor, rate: float, seconds: float) -> Tensor:
    """Smooth a curve by a Gaussian; nothing further away than three standard deviations counts.

    Args:
        values: (T,), evenly spaced in time; its ends are taken as repeated.
        rate: values a second.
        seconds: standard deviation of the Gaussian; 0 changes nothing.

    Returns:
        (T,), in the values' dtype.

    Raises:
        ValueError: if `seconds` is negative or not a number.
    """
    _check_smoothing(seconds)
    sigma = seconds * rate
    if sigma == 0:
        return values
    reach = math.ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, dtype=values.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum())[None, None]
    padded = functional.pad(values[None, None], (reach, reach), mode="replicate")
    # Piece by piece: a convolution unfolds its input, which takes gigabytes for a long film.
    pieces = [
        functional.conv1d(padded[..., first : first + _PIECE_ROWS + 2 * reach], kernel)[0, 0]
        for first in range(0, len(values), _PIECE_ROWS)
    ]
    return torch.cat(pieces)


def smooth_keyframes(
    keyframes: Sequence[tuple[float, float]], seconds: float
) -> tuple[Tensor, Tensor]:
    """Round the corners of a curve through keyframes.

    Args:
        keyframes: (seconds, speed) in rising order.
        seconds: standard deviation of the Gaussian.

    Returns:
        Times (T,) at KEYFRAME_RATE a second from 0 to where the curve has come to rest after the
        last keyframe, and the speeds (T,) there.

    Raises:
        ValueError: if a keyframe is later than a day, which nobody means, or `seconds` is
            negative or not a number.
    """
    _check_smoothing(seconds)
    last = max(0.0, keyframes[-1][0])
    if last > _DAY_SECONDS:
        raise ValueError(
            f"keyframes that are smoothed must lie within {_DAY_SECONDS} s (a day), got one at "
            f"{last:g} s; write times in seconds or set smoothing to 0"
        )
    count = math.ceil(last * KEYFRAME_RATE) + math.ceil(3 * seconds * KEYFRAME_RATE) + 1
    curve = speed_curve(keyframes, count, KEYFRAME_RATE).double()
    times = torch.arange(count, dtype=torch.float64) / KEYFRAME_RATE
    return times, smooth(curve, KEYFRAME_RATE, seconds).float()


def check_speeds(speeds: Tensor) -> Tensor:
    """Give the speeds back if a head can be asked for them.

    Args:
        speeds: (T,), degrees per frame at 30 fps.

    Raises:
        ValueError: if one is NaN or outside 0..10; the first such one is named.
    """
    bad = ~((speeds >= 0) & (speeds <= FASTEST_ASKED))
    if bool(bad.any()):
        place = int(bad.nonzero()[0])
        raise ValueError(
            f"a head speed must be 0 to {FASTEST_ASKED:g} degrees per frame at 30 fps (the paper "
            f"recommends 0.1 to 1.3), got {float(speeds[place]):g} at place {place} of "
            f"{len(speeds)}; scale the values into that range"
        )
    return speeds


def _check_smoothing(seconds: float) -> None:
    if not 0 <= seconds < math.inf:
        raise ValueError(f"smoothing must be 0 s or more, got {seconds:g} s; 0 changes nothing")


def _valid_speed(value: float, text: str) -> float:
    if not math.isfinite(value) or not 0 <= value <= FASTEST_ASKED:
        raise ValueError(
            f"speed must be 0 to 10 degrees per frame at 30 fps (0.1 to 1.5 looks natural), "
            f"got {value} in {text!r}"
        )
    return value
