"""The remaining time: only what was sampled counts."""

from __future__ import annotations

import pytest

from emo_core.pace import Pace, minutes


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def sampled(pace: Pace, clock: Clock, seconds: float) -> None:
    pace.begin()
    clock.now += seconds
    pace.end()


def test_the_first_step_loads_and_the_clock_begins_at_its_end() -> None:
    clock = Clock()
    pace = Pace(4, 6, clock)
    assert pace.remaining(0) is None
    pace.begin()
    clock.now += 300
    assert pace.remaining(0) is None
    pace.step(1)
    assert pace.remaining(1) is None
    clock.now += 2
    pace.step(2)
    assert pace.remaining(2) == pytest.approx(2 * (4 + 3 * 6))
    clock.now += 8
    pace.step(6)
    assert pace.remaining(6) == pytest.approx(2 * 3 * 6)
    pace.end()
    assert pace.remaining(0) == pytest.approx(2 * 3 * 6)


def test_finished_clips_tell_and_the_first_that_loads_the_networks_does_not() -> None:
    clock = Clock()
    pace = Pace(5, 6, clock)
    sampled(pace, clock, 60)
    assert pace.remaining(0) == pytest.approx(240)
    sampled(pace, clock, 10)
    assert pace.remaining(0) == pytest.approx(30)
    sampled(pace, clock, 14)
    pace.begin()
    clock.now += 4
    assert pace.remaining(3) == pytest.approx(12 - 4 + 12)
    clock.now += 100
    assert pace.remaining(5) == pytest.approx(12), "a clip that takes longer ends any moment"


def test_what_is_found_in_between_takes_no_time() -> None:
    clock = Clock()
    pace = Pace(3, 2, clock)
    sampled(pace, clock, 10)
    clock.now += 1000
    sampled(pace, clock, 10)
    clock.now += 1000
    assert pace.remaining(0) == pytest.approx(10)
    sampled(pace, clock, 10)
    assert pace.remaining(0) == 0


def test_a_clip_more_than_expected_is_counted() -> None:
    """One that was damaged."""
    clock = Clock()
    pace = Pace(0, 2, clock)
    pace.begin()
    pace.step(1)
    clock.now += 5
    assert pace.remaining(2) == 0
    pace.end()
    assert pace.remaining(0) == 0
    with pytest.raises(ValueError, match=r"call begin\(\) first"):
        pace.end()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (8.6, "0:09"),
        (80, "1:20"),
        (3599.6, "1:00:00"),
        (7500, "2:05:00"),
        (-1, "0:00"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert minutes(seconds) == text
