"""Utterances: what needs a synthesiser is skipped where it is missing; storage never is."""

from __future__ import annotations

import ctypes.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from emo_core.training import voices
from emo_core.training.phones import PHONES, mouth_track
from emo_core.training.speech import coloured_noise, make_utterances, quiet, sing
from emo_core.training.texts import TEST_SENTENCES
from emo_core.training.utterance_files import (
    load_mouth_tracks,
    load_utterances,
    save_utterances,
)
from emo_core.training.voices import (
    FLITE_VOICES,
    HELD_OUT_VOICES,
    TRAIN_VOICES,
    Utterance,
    speak,
    speak_flite,
)

needs_espeak = pytest.mark.skipif(
    ctypes.util.find_library("espeak-ng") is None, reason="libespeak-ng is not installed"
)
needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")


def loudness(made: Utterance) -> torch.Tensor:
    """Root mean square of each frame, (F,)."""
    missing = made.num_frames * 640 - len(made.waveform)
    padded = torch.nn.functional.pad(made.waveform, (0, missing))
    return padded.reshape(-1, 640).square().mean(1).sqrt()


def best_lag(made: list[Utterance]) -> tuple[float, int]:
    """Mean correlation of openness with loudness, and the lag in frames where it is largest."""
    rows = []
    for one in made:
        mouth, sound = mouth_track(one.phones, one.num_frames)[:, 0], loudness(one)
        rows.append(
            [
                torch.corrcoef(torch.stack([mouth[3 + k : len(mouth) - 3 + k], sound[3:-3]]))[0, 1]
                for k in range(-3, 4)
            ]
        )
    mean = torch.tensor(rows).mean(0)
    return float(mean[3]), int(mean.argmax()) - 3


def check(made: Utterance) -> None:
    assert made.waveform.dtype == torch.float32 and made.waveform.abs().max() <= 1
    assert all(name in PHONES for _, _, name in made.phones)
    ends = [time for start, end, _ in made.phones for time in (start, end)]
    assert np.diff(ends).min() > -1e-6 and ends[-1] <= len(made.waveform) / 16000 + 0.002


def test_no_voice_of_the_tests_is_trained_on() -> None:
    held_out = {voice.partition("+")[2] for voice in HELD_OUT_VOICES}
    assert len(held_out) == 9 and len(set(TRAIN_VOICES)) >= 60
    assert not held_out & {voice.partition("+")[2] for voice in TRAIN_VOICES}
    assert not set(FLITE_VOICES) & set(TRAIN_VOICES)


def test_noise_is_seeded_level_and_coloured() -> None:
    white, brown = (coloured_noise(np.random.default_rng(0), 16000, e) for e in (0.0, 2.0))
    assert float(white.square().mean()) == pytest.approx(1, rel=1e-3)
    assert brown.diff().square().mean() < 0.2 * white.diff().square().mean()
    made = quiet(np.random.default_rng(3), 1.0)
    assert torch.equal(made.waveform, quiet(np.random.default_rng(3), 1.0).waveform)
    assert mouth_track(made.phones, made.num_frames)[:, 0].max() == 0


def test_stored_utterances_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wave = torch.from_numpy(rng.uniform(-1, 1, 16100).astype(np.float32))
    spoken = Utterance(wave, ((0.0, 0.25, "AA"), (0.25, 1.0, "PAU")), "en-us+f2", "ah")
    path = tmp_path / "voices.safetensors"
    save_utterances(path, [spoken, quiet(rng, 0.5)])
    first, second = load_utterances(path)
    assert torch.allclose(first.waveform, wave, atol=1 / 32767)
    assert (first.phones, first.voice, first.text) == (spoken.phones, "en-us+f2", "ah")
    assert second.kind == "silence"
    mouths = load_mouth_tracks(path)
    assert [len(mouth) for mouth in mouths] == [26, 13] == [first.num_frames, second.num_frames]
    assert torch.equal(mouths[0], mouth_track(first.phones, 26))


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"not a safetensors file")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_utterances(path)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, str(path))
    with pytest.raises(ValueError, match="holds no utterances"):
        load_utterances(path)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="kind must be"):
        make_utterances(1, 0, kind="opera")
    with pytest.raises(ValueError, match="voices not empty"):
        make_utterances(1, 0, voices=())
    with pytest.raises(ValueError, match="rate must be"):
        speak("hello", "en-us", rate=5)
    with pytest.raises(ValueError, match="voice must be"):
        speak_flite("hello", "nobody")
    with pytest.raises(ValueError, match="something to say"):
        speak_flite(" ", "slt")


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices.shutil, "which", lambda name: None)
    with pytest.raises(OSError, match="flite is not installed"):
        speak_flite("hello", "slt")
    monkeypatch.setattr(voices.ctypes.util, "find_library", lambda name: "libnothing.so.99")
    with pytest.raises(OSError, match="libespeak-ng is not installed"):
        voices._Espeak()


@needs_espeak
def test_all_espeak_voices_exist_and_unknown_ones_are_refused() -> None:
    for voice in (*TRAIN_VOICES, *HELD_OUT_VOICES):
        voices._espeak().set_voice(voice)
    for voice in ("en-us+nobody", "xx"):
        with pytest.raises(ValueError, match="not known to espeak-ng"):
            speak("hello", voice)


@needs_espeak
def test_spoken_phones_follow_the_word() -> None:
    made = speak("papa", "en-us+m3")
    check(made)
    names = [name for _, _, name in made.phones if name != "PAU"]
    assert names == ["P", "AA", "P", "AA"] or names == ["P", "AA", "P", "AX"]
    slow = speak("papa", "en-us+m3", rate=100)
    assert len(slow.waveform) > len(made.waveform)


@needs_espeak
def test_mouth_opens_with_the_sound_of_unseen_espeak_voices() -> None:
    made = make_utterances(9, 5, HELD_OUT_VOICES, "test")
    for one in made:
        check(one)
        assert 4 <= len(one.waveform) / 16000 <= 9
        assert any(sentence in one.text for sentence in TEST_SENTENCES)
    correlation, lag = best_lag(made)
    assert correlation > 0.45 and lag == 0


@needs_flite
def test_mouth_opens_with_the_sound_of_flite_voices() -> None:
    made = make_utterances(4, 5, FLITE_VOICES, "test")
    for one in made:
        check(one)
        assert abs(one.phones[-1][1] - len(one.waveform) / 16000) < 0.2
    correlation, lag = best_lag(made)
    assert correlation > 0.45 and lag == 0


@needs_espeak
def test_mixture_is_seeded_and_holds_every_kind() -> None:
    made = make_utterances(60, 2)
    assert {one.kind for one in made} == {"speech", "singing", "silence", "pauses"}
    again = make_utterances(60, 2)
    assert [(one.text, one.voice) for one in made] == [(one.text, one.voice) for one in again]
    for one in made:
        check(one)


@needs_espeak
def test_singing_holds_vowels() -> None:
    song = sing(np.random.default_rng(1), "en-us+f2", 3.0)
    check(song)
    held = [end - start for start, end, name in song.phones if name[0] in "AEIOU"]
    assert max(held) > 0.3 and song.kind == "singing"
    assert mouth_track(song.phones, song.num_frames)[:, 0].max() > 0.4


@needs_espeak
def test_a_text_without_words_is_refused_and_not_one_frame_long() -> None:
    for text in ("...", " "):
        with pytest.raises(ValueError, match="something to say"):
            speak(text, "en-us")
