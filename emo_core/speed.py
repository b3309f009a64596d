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
        weight = self.linear_1.weight
        assert isinstance(weight, Tensor)
        hidden = functional.gelu(self.linear_1(buckets.to(weight.dtype)))
        out: Tensor = self.linear_2(hidden)
        return out


def parse_speed(text: str) -> float | list[tuple[float, float]]:
    """Read a speed as people write it: "0.7", or keyframes in seconds "0:0.2, 50:1.1".

    Returns:
        A constant, or keyframes (seconds, speed) in rising order.

    Raises:
        ValueError: if the text is neither; the message shows both forms.
    """
    form = 'write a number such as 0.7, or keyframes in seconds such as "0:0.2, 50:1.1"'
    parts = [part.strip() for part in text.split(",") if part.strip()]
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


def _valid_speed(value: float, text: str) -> float:
    if not math.isfinite(value) or not 0 <= value <= 10:
        raise ValueError(
            f"speed must be 0 to 10 degrees per frame at 30 fps (0.1 to 1.5 looks natural), "
            f"got {value} in {text!r}"
        )
    return value
