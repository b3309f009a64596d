"""Head speed: the paper's formula, windows, curves, what people write."""

import math

import pytest
import torch
from small_models import randomise

from emo_core.attention import Build
from emo_core.config import SpeedConfig
from emo_core.presets import emo
from emo_core.speed import (
    KEYFRAME_RATE,
    SpeedEncoder,
    check_speeds,
    parse_speed,
    smooth,
    smooth_keyframes,
    speed_curve,
    speed_vector,
    speed_windows,
)

CONFIG = SpeedConfig((0.0, 0.5, 1.0), (0.1, 0.5, 0.25), 2, 6)


def test_buckets_are_the_papers_formula() -> None:
    for speed in (0.0, 0.2, 0.5, 1.3):
        expected = [
            math.tanh((speed - c) / r * 3)
            for c, r in zip(CONFIG.centres, CONFIG.radii, strict=True)
        ]
        found = speed_vector(torch.tensor(speed, dtype=torch.float64), CONFIG)
        assert found.tolist() == pytest.approx(expected)


def test_buckets_are_a_thermometer() -> None:
    config = emo().speed
    vectors = speed_vector(torch.linspace(0, 2.5, 40, dtype=torch.float64), config)
    assert vectors.shape == (40, 9)
    assert (vectors.diff(dim=0) >= 0).all()
    # Different speeds are told apart everywhere in the range.
    assert (vectors.diff(dim=0).sum(-1) > 1e-3).all()


def test_windows_hold_the_ends() -> None:
    speeds = torch.tensor([1.0, 2.0, 3.0, 4.0])
    windows = speed_windows(speeds, 2, 3, 2)
    assert windows.tolist() == [[1, 2, 3, 4, 4], [2, 3, 4, 4, 4], [3, 4, 4, 4, 4]]
    assert speed_windows(speeds, 0, 1, 2).tolist() == [[1, 1, 1, 2, 3]]


def test_the_encoder_sees_the_whole_window() -> None:
    encoder = SpeedEncoder(CONFIG, Build(dtype=torch.float64))
    randomise(encoder, scale=1.0)
    windows = torch.full((1, 2, 5), 0.4, dtype=torch.float64)
    before = encoder(windows)
    assert before.shape == (1, 2, 6) and before.dtype == torch.float64
    for place in range(5):
        changed = windows.clone()
        changed[0, 1, place] = 0.6
        after = encoder(changed)
        torch.testing.assert_close(after[0, 0], before[0, 0])
        assert not torch.allclose(after[0, 1], before[0, 1])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.7", 0.7), (" 1 ", 1.0), ("0", 0.0), ("0:0.2", [(0.0, 0.2)]),
        ("0:0.2,50:1.1", [(0.0, 0.2), (50.0, 1.1)]), ("0:0.2, 1.5 : 1", [(0.0, 0.2), (1.5, 1.0)]),
        ("0:0.2\n5:1.1", [(0.0, 0.2), (5.0, 1.1)]),
        ("\n0:0.2,\r\n5:1.1\n\n", [(0.0, 0.2), (5.0, 1.1)]),
    ],
)
def test_what_people_write(text: str, value: object) -> None:
    assert parse_speed(text) == value


@pytest.mark.parametrize(
    "text",
    ["", ",", "fast", "speed", "0.5,0.7", "0.5\n0.7", "0:0.2,50", "1:2:3", "0:0.2;5:1", ":", "0:",
     "0:x"],
)  # fmt: skip
def test_typos_show_how_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"0:0\.2, 50:1\.1"):
        parse_speed(text)


@pytest.mark.parametrize("text", ["-0.1", "11", "nan", "inf", "0:0.2,3:99", "0:nan"])
def test_speeds_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="0 to 10 degrees per frame"):
        parse_speed(text)


@pytest.mark.parametrize("text", ["5:1,0:1", "1:1,1:0.5", "nan:1", "inf:1", "0:1,inf:2"])
def test_times_must_rise(text: str) -> None:
    with pytest.raises(ValueError, match="rising times"):
        parse_speed(text)


def test_curves() -> None:
    assert speed_curve(0.5, 3, 25).tolist() == [0.5] * 3
    assert speed_curve(1, 2, 25).tolist() == [1.0] * 2
    assert speed_curve([(2.0, 0.5)], 3, 1).tolist() == [0.5] * 3
    curve = speed_curve([(1.0, 0.0), (3.0, 1.0), (4.0, 0.0)], 7, 1)
    assert curve.tolist() == pytest.approx([0, 0, 0.5, 1, 0, 0, 0])


def test_a_curve_is_in_seconds_whatever_the_frame_rate() -> None:
    keyframes = [(0.0, 0.2), (2.0, 1.2)]
    slow, fast = speed_curve(keyframes, 60, 25), speed_curve(keyframes, 120, 50)
    torch.testing.assert_close(slow, fast[::2])


def test_smoothing_is_a_gaussian_of_seconds() -> None:
    impulse = torch.zeros(401, dtype=torch.float64)
    impulse[200] = 1
    even = smooth(impulse, 50, 0.4)
    places = (torch.arange(401, dtype=torch.float64) - 200) / 50
    assert float(even.sum()) == pytest.approx(1)
    assert float((even * places**2).sum().sqrt()) == pytest.approx(0.4, rel=0.02)
    assert (even[places.abs() > 1.25] == 0).all() and torch.equal(even, even.flip(0))
    assert smooth(impulse, 50, 0) is impulse


def test_smoothing_in_pieces_is_smoothing_in_one() -> None:
    values = torch.rand(10000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = smooth(values, 25, 1.0)
    assert whole.shape == (10000,)
    # The join of two pieces lies at 4096 and 8192.
    for first, last in ((3900, 4300), (8000, 8400)):
        part = smooth(values[first - 100 : last + 100], 25, 1.0)[100:-100]
        torch.testing.assert_close(whole[first:last], part)


def test_smoothing_of_one_value_and_of_a_constant() -> None:
    assert smooth(torch.tensor([0.5]), 25, 2.0).tolist() == pytest.approx([0.5])
    flat = smooth(torch.full((90,), 0.7, dtype=torch.float64), 25, 2.0)
    torch.testing.assert_close(flat, torch.full_like(flat, 0.7))


def test_smoothed_keyframes_start_and_rest_at_theirs() -> None:
    keyframes = [(1.0, 0.2), (4.01, 1.0)]
    times, speeds = smooth_keyframes(keyframes, 0.3)
    assert times[0] == 0 and (times.diff() - 1 / KEYFRAME_RATE).abs().max() < 1e-9
    assert times[-1] >= 4.01 + 0.9
    assert float(speeds[0]) == pytest.approx(0.2) and float(speeds[-1]) == pytest.approx(1.0)
    # A straight line far from its ends stays one.
    straight = speed_curve(keyframes, len(times), KEYFRAME_RATE)
    torch.testing.assert_close(speeds[55:70], straight[55:70], atol=1e-6, rtol=0)


@pytest.mark.parametrize("seconds", [-0.1, math.nan, math.inf])
def test_smoothing_must_be_a_time(seconds: float) -> None:
    with pytest.raises(ValueError, match="smoothing must be 0 s or more"):
        smooth(torch.zeros(3), 25, seconds)
    with pytest.raises(ValueError, match="smoothing must be 0 s or more"):
        smooth_keyframes([(0.0, 0.2), (5.0, 1.0)], seconds)


def test_keyframes_after_a_day_are_not_sampled() -> None:
    with pytest.raises(ValueError, match="within 86400 s"):
        smooth_keyframes([(0.0, 0.2), (1e9, 1.0)], 1.0)


def test_speeds_that_no_head_has_are_named() -> None:
    fine = torch.tensor([0.0, 10.0])
    assert check_speeds(fine) is fine
    for bad in (-0.1, 10.1, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"got {bad:g} at place 1 of 3"):
            check_speeds(torch.tensor([0.5, bad, bad]))
