"""Head speed from the sound: its range, its locality, what it follows."""

import math
import warnings

import pytest
import torch
from torch import Tensor

from emo_core.rhythm import FASTEST, SLOWEST, check_range, speed_from_sound

RATE = 16000


def bursts(seconds: float) -> Tensor:
    """Noise bursts, three a second (T,)."""
    time = torch.arange(int(seconds * RATE)) / RATE
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0)) * 0.2
    return noise * ((time * 3) % 1 < 0.4)


def test_silence_is_slowest_and_speech_is_livelier() -> None:
    sound = bursts(6)
    sound[3 * RATE :] = 0
    speeds = speed_from_sound(sound, RATE, 150, 25)
    assert speeds.shape == (150,)
    assert speeds[100:].tolist() == pytest.approx([SLOWEST] * 50)
    assert speeds[10:60].min() > 3 * SLOWEST and speeds.max() <= torch.tensor(FASTEST)


def test_louder_is_faster() -> None:
    sound = bursts(3)
    quiet = speed_from_sound(sound * 0.05, RATE, 75, 25)
    assert (speed_from_sound(sound, RATE, 75, 25) > quiet).all()


def test_accents_are_faster_than_a_steady_sound_as_loud() -> None:
    sound = bursts(4)
    steady = torch.randn(len(sound), generator=torch.Generator().manual_seed(1))
    steady *= sound.pow(2).mean().sqrt()
    # One accent after silence in the neighbourhood, against none.
    accented = steady.clone()
    accented[: 2 * RATE] = 0
    with_accent = speed_from_sound(accented, RATE, 100, 25)[50:60].max()
    assert with_accent > speed_from_sound(steady, RATE, 100, 25)[50:60].max()


def test_a_range_maps_the_same_liveliness() -> None:
    sound = bursts(3)
    usual, own = (speed_from_sound(sound, RATE, 75, 25, *r) for r in ((), (0.5, 2.0)))
    alive = (usual - SLOWEST) / (FASTEST - SLOWEST)
    torch.testing.assert_close(own, 0.5 + 1.5 * alive, atol=1e-5, rtol=0)
    assert own.min() >= 0.5 and own.max() <= 2.0
    flat = speed_from_sound(sound, RATE, 75, 25, 0.4, 0.4)
    assert flat.tolist() == pytest.approx([0.4] * 75)


def test_what_comes_later_changes_nothing_before() -> None:
    sound = bursts(50)
    changed = sound.clone()
    changed[40 * RATE :] = 0.9
    before, after = (speed_from_sound(s, RATE, 1250, 25) for s in (sound, changed))
    assert torch.equal(before[: 36 * 25], after[: 36 * 25])
    assert not torch.equal(before, after)


def test_frame_rates_read_one_curve() -> None:
    sound = bursts(3)
    slow, fast = speed_from_sound(sound, RATE, 75, 25), speed_from_sound(sound, RATE, 150, 50)
    torch.testing.assert_close(slow, fast[::2])


@pytest.mark.parametrize(
    ("slowest", "fastest", "sentence"),
    [
        (1.0, 0.5, "slowest must not be above fastest"),
        (-0.1, 0.5, "slowest must be 0 to 10"),
        (0.1, 10.5, "fastest must be 0 to 10"),
        (0.1, math.nan, "fastest must be 0 to 10"),
    ],
)
def test_ranges_that_are_none(slowest: float, fastest: float, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_range(slowest, fastest)
    with pytest.raises(ValueError, match=sentence):
        speed_from_sound(bursts(0.5), RATE, 12, 25, slowest, fastest)
    check_range(0.0, 10.0)


def test_a_sound_of_one_sample_has_a_speed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # librosa's, of a sound that is shorter than its windows
        assert SLOWEST <= float(speed_from_sound(torch.ones(1), RATE, 1, 25)) <= FASTEST


@pytest.mark.parametrize("sound", [torch.zeros(0), torch.full((9,), math.nan)])
def test_sounds_that_are_none(sound: Tensor) -> None:
    with pytest.raises(ValueError, match="sound"):
        speed_from_sound(sound, RATE, 2, 25)
