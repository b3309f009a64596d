"""Plain measurements on curves and pictures: correlation, lag, head speed, joins, drift, sharpness.

Nothing here knows a network. Speeds are in degrees per frame at 30 fps whatever the rate of the
film (EMO, "Speed Layers"), from pose smoothed by a box of 5 frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

SMOOTHED_FRAMES = 5
"""Frames of the box that pose is smoothed by before its speed is taken."""


class JoinJump(NamedTuple):
    """How much pictures change from frame to frame (mean absolute difference, 0..1).

    Attributes:
        joins: where clips meet.
        inside: elsewhere.
        ratio: joins / inside; nan where there is no join or no motion.
    """

    joins: float
    inside: float
    ratio: float


def pearson(a: Tensor, b: Tensor) -> float:
    """Correlate two curves.

    Args:
        a: (F,).
        b: (F,).

    Returns:
        r in -1..1; nan if one of them is constant or shorter than 2.
    """
    if len(a) < 2:
        return math.nan
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    scale = float((a.square().sum() * b.square().sum()).sqrt())
    return float((a * b).sum()) / scale if scale > 1e-12 else math.nan


def best_lag(a: Tensor, b: Tensor, max_lag: int = 5) -> tuple[int, float]:
    """Find the shift at which two curves agree best.

    Args:
        a: (F,), what is measured.
        b: (F,), what it should follow.
        max_lag: largest shift to try, in frames.

    Returns:
        Lag in frames (positive: a comes late) and r there; (0, nan) for constant curves.
    """
    scores: dict[int, float] = {}
    for lag in range(-max_lag, max_lag + 1):
        count = len(a) - abs(lag)
        if count >= 3:
            shifted = pearson(a[max(lag, 0) :][:count], b[max(-lag, 0) :][:count])
            if not math.isnan(shifted):
                scores[lag] = shifted
    if not scores:
        return 0, math.nan
    lag = max(scores, key=lambda shift: (scores[shift], -abs(shift)))
    return lag, scores[lag]


def smooth(curves: Tensor, window: int = SMOOTHED_FRAMES) -> Tensor:
    """Average over a sliding box of frames; the ends repeat.

    Args:
        curves: (F, K).
        window: odd number of frames.

    Returns:
        (F, K).
    """
    padded = functional.pad(curves.T[None], (window // 2, window // 2), mode="replicate")
    return functional.avg_pool1d(padded, window, stride=1)[0].T


def head_speed_of(pose: Tensor, fps: float | Fraction, window: int = SMOOTHED_FRAMES) -> Tensor:
    """Give the speed of a head, from pose smoothed by a box of 5 frames.

    The smoothing takes the meter's noise away, and with it what is faster than about 5 frames.

    Args:
        pose: (F, 3), yaw, pitch and roll in degrees.
        fps: frames per second of the film.
        window: odd number of frames to smooth over; 1 leaves the pose as it is.

    Returns:
        (F,), angle of the rotation from the frame before, degrees per frame at 30 fps; frame 0
        repeats frame 1.
    """
    if len(pose) < 2:
        return torch.zeros(len(pose))
    turns = _rotation(smooth(pose.double(), window))
    # The chord |R1 - R0| = 2 sqrt(2) sin(angle / 2) is exact where acos of a trace is not.
    chord = (turns[1:] - turns[:-1]).flatten(1).norm(dim=1) / (2 * math.sqrt(2))
    speed = torch.rad2deg(2 * torch.asin(chord.clamp(max=1))) * float(fps) / 30
    return torch.cat([speed[:1], speed]).float()


def _rotation(pose: Tensor) -> Tensor:
    """Head rotations (F, 3, 3): the head turns first, then nods, then rolls."""
    yaw, pitch, roll = torch.deg2rad(pose).unbind(1)
    return _axis(roll, 2) @ _axis(pitch, 0) @ _axis(yaw, 1)


def _axis(angle: Tensor, axis: int) -> Tensor:
    turn = torch.zeros(len(angle), 3, 3, dtype=angle.dtype)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    turn[:, axis, axis] = 1
    turn[:, first, first] = turn[:, second, second] = angle.cos()
    turn[:, second, first], turn[:, first, second] = angle.sin(), -angle.sin()
    return turn


def join_jump(frames: Tensor, clips: int | Sequence[int]) -> JoinJump:
    """Compare the picture's jumps where clips meet with those inside clips.

    Args:
        frames: (F, 3, H, W), float 0..1 or uint8.
        clips: frames of a clip, or every frame whose step from the one before is where two clips
            meet (`ClipPlan.seam`): several for clips that share frames.

    Returns:
        The mean step at joins, inside, and their ratio.
    """
    if len(frames) < 2:
        return JoinJump(math.nan, math.nan, math.nan)
    jumps = torch.stack(
        [(_unit(b) - _unit(a)).abs().mean() for a, b in pairwise(frames)]
    )
    numbers = torch.arange(1, len(frames))
    if isinstance(clips, int):
        at_join = numbers % clips == 0
    else:
        at_join = torch.isin(numbers, torch.tensor(list(clips), dtype=numbers.dtype))
    joins = float(jumps[at_join].mean()) if at_join.any() else math.nan
    inside = float(jumps[~at_join].mean()) if (~at_join).any() else math.nan
    return JoinJump(joins, inside, joins / inside if inside > 1e-9 else math.nan)


def drift(errors: Tensor, fps: float | Fraction, seconds: float = 5.0) -> float:
    """Compare the identity error at the end of a film with that at its beginning.

    Args:
        errors: (F,), identity error of every frame (`Meters.identity_error`).
        fps: frames per second.
        seconds: length of both ends; at most half of the film.

    Returns:
        Mean error of the last / of the first seconds; nan for films without error at the start.
    """
    count = max(1, min(round(seconds * float(fps)), len(errors) // 2))
    first, last = float(errors[:count].mean()), float(errors[-count:].mean())
    return last / first if first > 1e-9 else math.nan


def sharpness(frames: Tensor) -> float:
    """Give the mean absolute gradient of pictures.

    Args:
        frames: (F, 3, H, W), float 0..1 or uint8.

    Returns:
        Mean absolute difference of neighbouring pixels, down and across, 0..1.
    """
    total = 0.0
    for part in torch.split(frames, 64):
        pictures = _unit(part)
        across = (pictures[..., 1:] - pictures[..., :-1]).abs().mean()
        down = (pictures[..., 1:, :] - pictures[..., :-1, :]).abs().mean()
        total += len(part) * float(across + down) / 2
    return total / len(frames)


def loudness_of(waveform: Tensor, rate: int, fps: float | Fraction, num_frames: int) -> Tensor:
    """Give the loudness of a sound at the frames of a film.

    Args:
        waveform: (C, T) or (T,), -1..1.
        rate: samples per second.
        fps: frames per second.
        num_frames: F.

    Returns:
        (F,), 0 at -60 dB and below .. 1 at full scale, over 80 ms around the frame's middle.
    """
    mono = waveform.float().mean(0) if waveform.ndim == 2 else waveform.float()
    power = torch.cat([torch.zeros(1).double(), mono.double().square().cumsum(0)])
    middle = (torch.arange(num_frames).double() + 0.5) / float(fps)
    start = ((middle - 0.04) * rate).long().clamp(0, len(mono))
    end = ((middle + 0.04) * rate).long().clamp(0, len(mono))
    mean = (power[end] - power[start]) / (end - start).clamp_min(1)
    return (1 + 10 * torch.log10(mean.clamp_min(1e-12)) / 60).clamp(0, 1).float()


def _unit(frames: Tensor) -> Tensor:
    return frames.float() if frames.is_floating_point() else frames.float() / 255
