"""The phone table and its tracks: laws that need no synthesiser."""

from __future__ import annotations

import logging

import pytest
import torch

from emo_core.training.phones import (
    DIPHTHONGS,
    PHONES,
    VOWELS,
    mouth_shape,
    mouth_track,
    parse_phone,
    parse_phones,
    phone_track,
)


def test_every_phone_has_a_shape_in_range_and_silence_is_neutral() -> None:
    assert PHONES[0] == "PAU" and len(set(PHONES)) == len(PHONES)
    for name in PHONES:
        assert all(0 <= value <= 1 for value in mouth_shape(name)), name
    assert mouth_shape("PAU") == (0.0, 0.5, 0.0, 0.0)
    assert {"AA", "OE", "AY"} <= VOWELS and not VOWELS & {"P", "S", "PAU"}
    assert all(mouth_shape(lips)[0] == 0 for lips in ("P", "B", "M"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ah0", ("AH",)),
        ("IY1", ("IY",)),
        ("hh", ("HH",)),
        ("el", ("AX", "L")),
        ("\u0251\u02d0", ("AA",)),
        ("o\u028a", ("OW",)),
        ("a\u026a\u025a", ("AY", "ER")),
        ("t\u0283", ("CH",)),
        ("ts", ("T", "S")),
        ("\u0254\u0303", ("AO",)),
        ("y", ("YY",)),
        ("", ("PAU",)),
        ("_:", ("PAU",)),
        ("sil", ("PAU",)),
    ],
)
def test_both_alphabets_come_to_one_table(name: str, expected: tuple[str, ...]) -> None:
    assert parse_phone(name) == expected


def test_lone_y_follows_the_alphabet_of_its_list() -> None:
    assert parse_phones([(0, 1, "y"), (1, 2, "uw")])[0][2] == "Y"
    assert parse_phones([(0, 1, "y"), (1, 2, "\u0281")])[0][2] == "YY"


def test_unknown_phone_opens_a_little_and_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert parse_phone("\u2603") == ("AX",)
        assert parse_phone("\u2603") == ("AX",)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("times", [(1.0, 0.5), (0.0, float("nan"))])
def test_impossible_times_are_refused(times: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="must end after it starts"):
        mouth_track([(*times, "AA")], 25)


def test_silence_is_shut_and_a_held_vowel_reaches_its_shape() -> None:
    assert torch.equal(mouth_track([], 10)[:, 0], torch.zeros(10))
    assert torch.allclose(mouth_track([], 10)[:, 1], torch.full((10,), 0.5))
    for vowel in sorted(VOWELS - DIPHTHONGS.keys()):
        middle = mouth_track([(0.0, 1.0, vowel)], 25)[12]
        assert torch.allclose(middle, torch.tensor(mouth_shape(vowel)), atol=1e-5)


def test_lips_meet_between_open_vowels() -> None:
    for lips in ("M", "B", "P"):
        track = mouth_track([(0, 0.4, "AA"), (0.4, 0.48, lips), (0.48, 1, "AA")], 100, fps=100)
        assert track[44, 0] < 0.15 and track[30, 0] > 0.95


def test_diphthong_moves_from_its_first_to_its_second_half() -> None:
    track = mouth_track([(0.0, 0.6, "AY")], 15)
    assert track[2, 0] > 0.9 and track[11, 0] < 0.5 and track[11, 1] > 0.7


def test_track_belongs_to_the_middle_of_each_frame_and_is_local() -> None:
    phones = [(0.5, 1.02, "AA")]
    track = mouth_track(phones, 50)[:, 0]
    assert torch.allclose(track[:38], track[:38].flip(0), atol=1e-5)  # about 0.76 s
    later = mouth_track([*phones, (1.5, 2.0, "AA")], 50)[:, 0]
    assert torch.equal(track[:33], later[:33])
    fast = mouth_track(phones, 100, fps=50)[:, 0]
    assert torch.allclose((fast[0::2] + fast[1::2]) / 2, track, atol=0.03)


def test_track_lengths_and_bad_sizes() -> None:
    assert mouth_track([(0, 1, "AA")], 0).shape == (0, 4)
    assert mouth_track([(0, 1, "AA")], 1).shape == (1, 4)
    with pytest.raises(ValueError, match="num_frames"):
        mouth_track([], -1)
    with pytest.raises(ValueError, match="fps"):
        mouth_track([], 1, fps=0)


def test_phone_track_names_the_phone_at_each_step() -> None:
    track = phone_track([(0.02, 0.06, "s"), (0.06, 0.1, "AA1")], 6, rate=50)
    assert [PHONES[i] for i in track.tolist()] == ["PAU", "S", "S", "AA", "AA", "PAU"]
