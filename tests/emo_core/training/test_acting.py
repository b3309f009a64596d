"""Acting: the drivers hear what is there, and the puppet follows them and nothing else."""

import functools
import itertools
import math

import pytest
import torch

from emo_core.training.acting import (
    Drivers,
    act,
    brow_emphasis,
    drivers,
    film_speed,
    head_energy,
    head_speed,
    truth,
)
from emo_core.training.phones import mouth_track, parse_phones

SEEDS = range(30)
FROZEN_MEANS = (-1.0224, -0.9729, -0.9507, -0.0042, 0.0083, 1.0031, 0.3030, 0.4411, 0.2760, 0.0428,
                0.0753, 0.0171, -0.0054, 0.0467)  # fmt: skip
FROZEN_SPREADS = (1.2705, 0.3801, 0.7572, 0.0039, 0.0014, 0.0037, 0.3432, 0.2830, 0.3049, 0.0593,
                  0.0226, 0.0183, 0.0195, 0.2466)  # fmt: skip


def test_acting_is_frozen() -> None:
    """What the trained model and the meters have learned rests on it: phones, drivers, motion."""
    time = torch.arange(48000) / 16000
    swell = 0.5 + 0.5 * torch.sin(4 * math.pi * time)
    sound = 0.3 * torch.sin(2 * math.pi * (120 * time + 20 * time * time)) * swell
    phones = parse_phones([(0.0, 0.4, "pau"), (0.4, 1.0, "AA"), (1.0, 1.4, "M"), (1.4, 2.2, "UW"),
                           (2.2, 2.6, "F"), (2.6, 3.0, "IY")])  # fmt: skip
    acted = act(mouth_track(phones, 75), drivers(sound), 11)
    expected = torch.tensor([FROZEN_MEANS, FROZEN_SPREADS])
    found = torch.stack([acted.mean(0), acted.std(0)])
    torch.testing.assert_close(found, expected, atol=5e-4, rtol=0.0)


def hum(frequency: float, seconds: float) -> torch.Tensor:
    time = torch.arange(int(16000 * seconds)) / 16000
    tones = [torch.sin(2 * math.pi * frequency * k * time) / k for k in range(1, 11)]
    return 0.1 * torch.stack(tones).sum(0)


@functools.cache
def speech(seed: int = 0, seconds: float = 6.0) -> torch.Tensor:
    """Syllables of random length, loudness and pitch, with pauses here and there."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    while sum(len(part) for part in parts) < 16000 * seconds:
        length, level, tone, gap = torch.rand(4, generator=generator).tolist()
        parts.append((0.3 + 2 * level) * hum(110 + 160 * tone, 0.12 + 0.2 * length))
        parts.append(torch.zeros(int(16000 * (1.2 * gap if gap > 0.8 else 0.1 * gap))))
    return torch.cat(parts)[: int(16000 * seconds)]


def played(sound: torch.Tensor, seed: int) -> tuple[Drivers, torch.Tensor]:
    heard = drivers(sound)
    return heard, act(torch.zeros(len(heard.loudness), 4), heard, seed)


def pearson(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


@pytest.mark.parametrize("samples", [1, 640, 641, 4480, 16001])
def test_drivers_have_a_frame_for_every_begun_640_samples(samples: int) -> None:
    heard = drivers(0.1 * torch.ones(samples))
    for values in (heard.loudness, heard.onset, heard.pitch, heard.voiced):
        assert values.shape == (math.ceil(samples / 640),)
        assert values.isfinite().all()


@pytest.mark.parametrize("frequency", [80.0, 120.0, 220.0, 400.0])
def test_pitch_is_heard_on_a_fixed_scale(frequency: float) -> None:
    heard = drivers(hum(frequency, 1.0))
    expected = math.log2(frequency / 160) / 1.5
    assert (heard.pitch[2:-2] - expected).abs().max() < 0.03
    assert heard.voiced[2:-2].min() > 0.9


def test_silence_and_noise_have_no_pitch() -> None:
    noise = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0))
    for sound in (torch.zeros(16000), noise):
        assert drivers(sound).voiced.max() < 0.2
        assert drivers(sound).pitch.abs().max() == 0
    assert drivers(torch.zeros(16000)).loudness.max() == 0
    assert drivers(torch.zeros(16000)).onset.max() == 0


def test_onsets_are_where_a_sound_begins() -> None:
    heard = drivers(torch.cat([torch.zeros(16000), hum(150, 1.0)]))

    assert heard.onset.argmax().item() in (24, 25)
    assert heard.onset[:23].max() == 0
    assert heard.onset[27:-1].max() < 0.15


def test_drivers_are_local() -> None:
    sound = speech()
    edited = sound.clone()
    edited[48000:] = hum(300, 3.0)
    before, after = drivers(sound), drivers(edited)
    for name in ("loudness", "onset", "pitch", "voiced"):
        assert torch.equal(getattr(before, name)[:72], getattr(after, name)[:72])
    assert torch.equal(head_energy(before)[:60], head_energy(after)[:60])
    assert torch.equal(brow_emphasis(before)[:43], brow_emphasis(after)[:43])


def test_acting_is_the_seeds_and_a_longer_film_begins_like_a_shorter_one() -> None:
    _, film = played(speech(), 3)
    assert torch.equal(film, played(speech(), 3)[1])
    assert not torch.equal(film, played(speech(), 4)[1])
    short = played(speech()[:64000], 3)[1]
    assert torch.allclose(short[:80], film[:80], atol=1e-4)


def test_controls_stay_in_range_and_carry_the_mouth() -> None:
    heard = drivers(speech())
    mouth = torch.rand(len(heard.loudness), 4, generator=torch.Generator().manual_seed(1))
    for seed in SEEDS:
        film = act(mouth, heard, seed)
        assert film.shape == (150, 14)
        assert torch.equal(film[:, 6:10], mouth)
        limits = torch.tensor([18.0, 10.0, 8.0, 0.12, 0.12])
        assert (film[:, :5].abs() <= limits).all()
        assert ((film[:, 5] - 1).abs() <= 0.06 + 1e-6).all()
        assert (film[:, 10] >= 0).all()
        assert (film[:, 10] <= 1).all()
        assert (film[:, 11:13].abs() <= 0.5).all()
        assert (film[:, 13].abs() <= 1).all()


def test_head_speed_is_a_films_own_and_films_cover_the_range() -> None:
    heard = drivers(speech())
    mouth = torch.zeros(150, 4)
    own = torch.tensor([film_speed(seed) for seed in SEEDS])
    measured = torch.stack([head_speed(act(mouth, heard, seed)).mean() for seed in SEEDS])
    assert pearson(own.log(), measured.log()) > 0.95
    assert measured.max() > 6 * measured.min()
    many = torch.tensor([film_speed(seed) for seed in range(1000)])
    assert 0.3 < many.median() < 0.43
    assert many.min() < 0.1
    assert many.max() > 1.4


def test_head_and_brows_follow_their_own_sound_only() -> None:
    sounds = [drivers(speech(seed)) for seed in SEEDS]
    films = [act(torch.zeros(150, 4), sounds[seed], seed) for seed in SEEDS]

    def median(other: int) -> tuple[float, float]:
        head, brows = [], []
        for seed in SEEDS:
            heard = sounds[(seed + other) % len(sounds)]
            head.append(pearson(head_speed(films[seed]), head_energy(heard)))
            brows.append(pearson(films[seed][:, 13], brow_emphasis(heard)))
        return sorted(head)[15], sorted(brows)[15]

    assert min(median(0)) > 0.6
    assert max(median(7)) < 0.2


def test_the_head_rests_in_silence_but_lives() -> None:
    for seed in SEEDS:
        _, film = played(torch.zeros(160000), seed)
        assert 0.004 < head_speed(film).mean() < 0.12
        assert film[:, 10].max() == 1


def test_blinks_last_a_few_frames_and_prefer_pauses() -> None:
    shut, lengths = [], []
    for seed in SEEDS:
        heard, film = played(speech(seed, 12.0), seed)
        closed = film[:, 10] > 0.3
        edges = torch.nonzero(closed[1:] != closed[:-1]).flatten()
        lengths += (edges[1::2] - edges[: len(edges) // 2 * 2 : 2]).tolist()
        shut.append(torch.stack([closed.float(), (heard.loudness < 0.1).float()]))
    both = torch.cat(shut, 1)
    assert 2 <= min(lengths) <= max(lengths) <= 5
    assert 1.5 < 12 * len(SEEDS) / len(lengths) < 4.5
    quiet = both[1] > 0
    assert both[0, quiet].mean() > 1.5 * both[0, ~quiet].mean()


def turn(angle: float, axis: int) -> torch.Tensor:
    """The rotation about one axis, by the exponential of its generator."""
    generator = torch.zeros(3, 3, dtype=torch.float64)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    generator[second, first], generator[first, second] = 1, -1
    return torch.linalg.matrix_exp(math.radians(angle) * generator)


def test_head_speed_is_the_angle_between_heads_that_turn_then_nod_then_roll() -> None:
    poses = 40 * torch.rand(6, 14, generator=torch.Generator().manual_seed(2)) - 20
    heads = [
        turn(roll, 2) @ turn(pitch, 0) @ turn(yaw, 1) for yaw, pitch, roll in poses[:, :3].tolist()
    ]
    angles = [
        math.degrees(math.acos((float((b @ a.T).trace()) - 1) / 2))
        for a, b in itertools.pairwise(heads)
    ]
    assert (head_speed(poses)[1:] * 30 / 25).tolist() == pytest.approx(angles, rel=1e-4)


def test_head_speed_is_degrees_per_frame_at_thirty() -> None:
    turning = torch.zeros(10, 14)
    turning[:, 0] = 1.2 * torch.arange(10)
    assert torch.allclose(head_speed(turning), torch.ones(10), atol=1e-4)
    assert head_speed(turning[:1]).tolist() == [0.0]
    assert head_speed(torch.zeros(5, 14)).max() == 0


def test_truth_has_the_frames_as_plain_numbers() -> None:
    _, film = played(speech(), 0)
    told = truth(1_000_001, film, torch.full((150, 4), 0.25))
    assert told["fps"] == 25
    assert told["seed"] == 1_000_001
    assert len(told["frames"]) == 150
    frame = told["frames"][7]
    assert frame["yaw"] == pytest.approx(float(film[7, 0]), abs=1e-3)
    assert frame["box"] == [0.25] * 4
    assert {"open", "width", "pitch", "roll", "brow", "blink"} <= set(frame)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        drivers(torch.zeros(0))
    with pytest.raises(ValueError, match="mix the channels"):
        drivers(torch.zeros(2, 100))
    with pytest.raises(ValueError, match="same sound"):
        act(torch.zeros(3, 4), drivers(torch.zeros(16000)), 0)
