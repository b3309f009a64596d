"""Head speed: the paper's formula, windows, curves, what people write."""

import math

import pytest
import torch
from small_models import randomise

from emo_core.attention import Build
from emo_core.config import SpeedConfig, emo
from emo_core.speed import SpeedEncoder, parse_speed, speed_curve, speed_vector, speed_windows

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
    windows = torch.full((1, 2, 5), 0.4)
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
    ],
)
def test_what_people_write(text: str, value: object) -> None:
    assert parse_speed(text) == value


@pytest.mark.parametrize(
    "text",
    ["", ",", "fast", "speed", "0.5,0.7", "0:0.2,50", "1:2:3", "0:0.2;5:1", ":", "0:", "0:x"],
)
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
