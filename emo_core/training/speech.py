"""The sound of the puppet world: speech, singing, pauses, silence and noise, with their truth.

Utterances are made once, where espeak-ng is installed, and stored (`utterance_files.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..waveform import SAMPLE_RATE
from .phones import PAUSE, Phone
from .texts import SYLLABLES, TEST_SENTENCES, training_text
from .voices import (
    FLITE_VOICES,
    TRAIN_VOICES,
    Utterance,
    speak,
    speak_flite,
)

KINDS: tuple[str, ...] = ("speech", "singing", "silence", "pauses", "test", "mixture")
_MIXTURE = {"speech": 0.82, "singing": 0.08, "silence": 0.05, "pauses": 0.05}


def join(parts: Sequence[Utterance], gaps: Sequence[float]) -> Utterance:
    """Put utterances one after the other.

    Args:
        parts: one or more; voice, kind and text are the first one's, texts joined.
        gaps: seconds of silence before each part and after the last: one more than parts.

    Returns:
        One utterance, the phones moved with their sounds, gaps labelled as silence.
    """
    pieces: list[Tensor] = []
    phones: list[Phone] = []
    samples = 0
    for part, gap in zip([*parts, None], gaps, strict=True):
        count = round(gap * SAMPLE_RATE)
        if count > 0:
            phones.append((samples / SAMPLE_RATE, (samples + count) / SAMPLE_RATE, PAUSE))
            pieces.append(torch.zeros(count))
            samples += count
        if part is not None:
            start = samples / SAMPLE_RATE
            phones.extend((start + a, start + b, name) for a, b, name in part.phones)
            pieces.append(part.waveform)
            samples += len(part.waveform)
    text = " ".join(part.text for part in parts)
    return replace(parts[0], waveform=torch.cat(pieces), phones=tuple(phones), text=text)


def coloured_noise(rng: np.random.Generator, num_samples: int, exponent: float) -> Tensor:
    """Noise of power 1 / frequency^exponent: 0 white, 1 pink, 2 brown.

    Returns:
        (num_samples,) float32 with a root mean square of 1.
    """
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    frequency = np.fft.rfftfreq(num_samples, 1 / SAMPLE_RATE)
    spectrum *= np.maximum(frequency, 30.0) ** (-exponent / 2)
    noise = np.fft.irfft(spectrum, num_samples)
    noise /= np.sqrt(np.mean(noise**2)) + 1e-12
    return torch.from_numpy(noise.astype(np.float32))


def quiet(rng: np.random.Generator, seconds: float) -> Utterance:
    """Sound in which nobody speaks: silence, or noise of a random colour and level."""
    count = round(seconds * SAMPLE_RATE)
    exponent = float(rng.choice([0.0, 1.0, 2.0]))
    level = 0.0 if rng.random() < 0.3 else float(10 ** (rng.uniform(-60, -14) / 20))
    sound = (coloured_noise(rng, count, exponent) * level).clamp_(-1, 1)
    return Utterance(sound, ((0.0, count / SAMPLE_RATE, PAUSE),), "", "", "silence")


def sing(rng: np.random.Generator, voice: str = "en-us", seconds: float = 3.0) -> Utterance:
    """Sing: slow syllables with held vowels, each on one tone of a random melody.

    Args:
        rng: the source of randomness.
        voice: an English espeak-ng voice.
        seconds: sing at least this long.

    Returns:
        The syllables joined without pauses but for some breaths.
    """
    pitch = int(rng.integers(25, 75))
    notes: list[Utterance] = []
    gaps: list[float] = []
    total = 0.0
    while total < seconds:
        pitch = int(np.clip(pitch + rng.integers(-14, 15), 10, 95))
        syllable = str(rng.choice(SYLLABLES))
        note = _trim(speak(f"[[{syllable}]]", voice, int(rng.integers(80, 150)), pitch, 0))
        gaps.append(float(rng.uniform(0.15, 0.4)) if rng.random() < 0.15 else 0.0)
        notes.append(note)
        total += len(note.waveform) / SAMPLE_RATE + gaps[-1]
    return replace(join(notes, [*gaps, 0.0]), kind="singing")


def _trim(note: Utterance) -> Utterance:
    """Cut the silence after the last phone and soften both ends."""
    spoken = tuple(phone for phone in note.phones if phone[2] != PAUSE)
    end = max((phone[1] for phone in spoken), default=0.0)
    sound = note.waveform[: round(end * SAMPLE_RATE)].clone()
    ramp = torch.linspace(0, 1, 160)[: len(sound)]
    sound[: len(ramp)] *= ramp
    sound[len(sound) - len(ramp) :] *= ramp.flip(0)
    return replace(note, waveform=sound, phones=spoken)


def _say(rng: np.random.Generator, voice: str, text: str, rate: tuple[int, int]) -> Utterance:
    if voice in FLITE_VOICES:
        return speak_flite(text, voice)
    return speak(text, voice, int(rng.integers(*rate)), int(rng.integers(20, 86)))


def _language(voice: str) -> str:
    return "en" if voice in FLITE_VOICES else voice.partition("+")[0].partition("-")[0]


def _speech(rng: np.random.Generator, voice: str) -> Utterance:
    """Three seconds or so of words, with a short silence at either end."""
    rate = int(rng.integers(120, 201))
    count = max(2, round(float(rng.uniform(2.4, 3.8)) * rate / 72))
    text = training_text(rng, count, _language(voice))
    spoken = _say(rng, voice, text, (rate, rate + 1))
    missing = max(0.0, 2.2 - len(spoken.waveform) / SAMPLE_RATE)
    return join([spoken], [float(rng.uniform(0, 0.3)), missing + float(rng.uniform(0, 0.2))])


def _pauses(rng: np.random.Generator, voice: str) -> Utterance:
    """Short phrases with long silences between them."""
    count = int(rng.integers(2, 4))
    words = [int(rng.integers(1, 4)) for _ in range(count)]
    rate = int(rng.integers(120, 200))
    parts = [
        _say(rng, voice, training_text(rng, number, _language(voice)), (rate, rate + 1))
        for number in words
    ]
    gaps = [float(rng.uniform(0.3, 1.0)) for _ in range(count + 1)]
    return replace(join(parts, gaps), kind="pauses")


def _test(rng: np.random.Generator, voice: str) -> Utterance:
    """Test sentences in random order until there are 4 to 5.5 s of them."""
    parts: list[Utterance] = []
    seconds = float(rng.uniform(4.0, 5.5))
    rate = int(rng.integers(140, 176))
    for index in rng.permutation(len(TEST_SENTENCES)):
        parts.append(_say(rng, voice, TEST_SENTENCES[int(index)], (rate, rate + 1)))
        if sum(len(part.waveform) for part in parts) > seconds * SAMPLE_RATE:
            break
    return replace(join(parts, [0.1, *[0.0] * (len(parts) - 1), 0.1]), kind="test")


def _level(rng: np.random.Generator, made: Utterance) -> Utterance:
    """Give a random loudness, and every third recording some background noise."""
    sound = made.waveform
    sound = sound * float(rng.uniform(0.3, 0.9)) / max(float(sound.abs().max()), 1e-6)
    if made.kind != "test" and rng.random() < 0.3:
        power = float(sound.square().mean().sqrt())
        noise = coloured_noise(rng, len(sound), float(rng.choice([0.0, 1.0, 2.0])))
        sound = sound + noise * power * float(10 ** (-rng.uniform(15, 40) / 20))
    return replace(made, waveform=sound.clamp(-1, 1))


def make_utterance(rng: np.random.Generator, voice: str, kind: str) -> Utterance:
    """Make one utterance of a kind of KINDS other than mixture."""
    if kind == "silence":
        return quiet(rng, float(rng.uniform(2.5, 4.0)))
    if kind == "singing":
        english = voice if _language(voice) == "en" else f"en-us+{voice.partition('+')[2]}"
        return _level(rng, sing(rng, english, float(rng.uniform(2.4, 3.6))))
    makers = {"speech": _speech, "pauses": _pauses, "test": _test}
    return _level(rng, makers[kind](rng, voice))


def make_utterances(
    count: int, seed: int, voices: Sequence[str] = TRAIN_VOICES, kind: str = "mixture"
) -> list[Utterance]:
    """Make utterances of random voices (test: each voice in turn), rates and pitches.

    Args:
        count: how many.
        seed: the same texts, voices and numbers for the same seed.
        voices: espeak-ng or flite names; flite's can neither sing nor be pitched.
        kind: one of KINDS; mixture is 82 % speech, 8 % singing, 5 % silence or noise and 5 %
            speech with long pauses.

    Returns:
        2.5 to 4 s each (test: 4 to 8 s).

    Raises:
        ValueError: if kind is not one of KINDS or voices is empty.
        OSError: if a synthesiser is not installed.
    """
    if kind not in KINDS or not voices:
        raise ValueError(
            f"kind must be one of {', '.join(KINDS)} and voices not empty, "
            f"got {kind!r} and {len(voices)} voices"
        )
    made = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        voice = voices[index % len(voices)] if kind == "test" else str(rng.choice(voices))
        drawn = str(rng.choice(list(_MIXTURE), p=list(_MIXTURE.values())))
        made.append(make_utterance(rng, voice, drawn if kind == "mixture" else kind))
    return made
