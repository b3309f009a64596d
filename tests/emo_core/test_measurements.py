"""Measurements on made-up curves and pictures, whose answers are known."""

import math

import pytest
import torch

from emo_core.measurements import (
    best_lag,
    drift,
    head_speed_of,
    join_jump,
    loudness_of,
    pearson,
    sharpness,
    smooth,
)


@pytest.fixture
def curve() -> torch.Tensor:
    return torch.randn(100, generator=torch.Generator().manual_seed(1))


def test_pearson_ignores_gain_and_offset(curve: torch.Tensor) -> None:
    assert pearson(curve, 3 * curve + 7) == pytest.approx(1, abs=1e-6)
    assert pearson(curve, -curve) == pytest.approx(-1, abs=1e-6)
    other = torch.randn(100, generator=torch.Generator().manual_seed(2))
    expected = float(torch.corrcoef(torch.stack([curve, other]))[0, 1])
    assert pearson(curve, other) == pytest.approx(expected, abs=1e-6)


def test_pearson_of_a_constant_is_undefined(curve: torch.Tensor) -> None:
    assert math.isnan(pearson(curve, torch.ones(100)))
    assert math.isnan(pearson(curve[:1], curve[:1]))


@pytest.mark.parametrize("late", [-4, -1, 0, 3])
def test_best_lag_finds_a_shift(curve: torch.Tensor, late: int) -> None:
    measured = curve.roll(late)
    lag, score = best_lag(measured, curve)
    assert lag == late
    assert score == pytest.approx(1, abs=1e-5)


def test_best_lag_of_short_and_constant_curves(curve: torch.Tensor) -> None:
    assert best_lag(curve[:4], curve[:4])[0] in (-1, 0, 1)
    lag, score = best_lag(torch.zeros(20), curve[:20])
    assert lag == 0 and math.isnan(score)


def test_smooth_keeps_constants_and_means() -> None:
    assert torch.allclose(smooth(torch.full((9, 2), 3.0)), torch.full((9, 2), 3.0))
    spike = torch.zeros(11, 1)
    spike[5] = 5.0
    assert smooth(spike)[:, 0].tolist() == pytest.approx([0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("fps", [25, 30, 50])
def test_head_speed_of_a_steady_turn(axis: int, fps: int) -> None:
    pose = torch.zeros(40, 3)
    pose[:, axis] = torch.arange(40) * 18.0 / fps  # 18 degrees a second
    speed = head_speed_of(pose, fps)
    assert speed.shape == (40,)
    assert speed[5:-5].tolist() == pytest.approx([0.6] * 30, abs=1e-3)


def test_head_speed_smooths_jitter_away() -> None:
    jitter = 0.5 * torch.randn(200, 3, generator=torch.Generator().manual_seed(3))
    raw, smoothed = head_speed_of(jitter, 25, window=1), head_speed_of(jitter, 25)
    assert float(smoothed.mean()) < 0.3 * float(raw.mean())
    assert head_speed_of(jitter[:1], 25).tolist() == [0]


def test_join_jump_sees_only_the_joins() -> None:
    frames = torch.zeros(12, 3, 8, 8)
    frames += torch.arange(12).reshape(-1, 1, 1, 1) * 0.01
    frames[4:] += 0.02
    frames[8:] += 0.02
    jump = join_jump(frames, 4)
    assert jump.joins == pytest.approx(0.03, abs=1e-6)
    assert jump.inside == pytest.approx(0.01, abs=1e-6)
    assert jump.ratio == pytest.approx(3, abs=1e-4)
    assert join_jump(frames, [0, 4, 8]) == jump
    assert join_jump(frames, [0, 4]).joins == pytest.approx(0.03, abs=1e-6)
    assert join_jump(frames, [0, 4]).inside > jump.inside
    assert math.isnan(join_jump(frames, 12).ratio)
    assert math.isnan(join_jump(frames[:1], 4).inside)


def test_drift_compares_the_ends() -> None:
    errors = torch.ones(500)
    errors[-125:] = 1.5
    assert drift(errors, 25) == pytest.approx(1.5)
    assert drift(errors[-200:], 25) > 1  # shorter than 10 s: both halves
    assert math.isnan(drift(torch.zeros(100), 25))


def test_sharpness_falls_with_blur_and_is_the_same_for_bytes() -> None:
    frames = torch.rand(70, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    blurred = torch.nn.functional.avg_pool2d(frames, 3, 1, 1)
    assert sharpness(blurred) < 0.6 * sharpness(frames)
    as_bytes = (frames * 255).round().to(torch.uint8)
    assert sharpness(as_bytes) == pytest.approx(sharpness(frames), rel=0.01)
    assert sharpness(torch.full((2, 3, 8, 8), 0.5)) == 0


def test_loudness_follows_the_sound() -> None:
    rate = 16000
    wave = torch.cat([torch.zeros(rate), torch.full((rate,), 0.1), torch.ones(rate)])
    loudness = loudness_of(wave, rate, 25, 75)
    assert float(loudness[5]) == 0
    assert float(loudness[37]) == pytest.approx(1 - 20 / 60, abs=1e-3)
    assert float(loudness[70]) == pytest.approx(1, abs=1e-3)
    stereo = loudness_of(torch.stack([wave, wave]), rate, 25, 80)
    assert torch.equal(stereo[:75], loudness)
    assert float(stereo[79]) == 0  # the film is longer than the sound
