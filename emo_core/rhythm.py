"""Head speed from the sound: livelier heads where the sound is louder and has more onsets.

The paper drives speed by hand. This curve is ours: librosa's onset strength against its own
neighbourhood, times the loudness. It uses no statistic of the whole file, so what is said at
second 40 does not change the head at second 10.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional

from .speed import FASTEST_ASKED, smooth
from .waveform import SAMPLE_RATE, to_mono_16k

SLOWEST, FASTEST = 0.1, 1.2
"""Degrees per frame at 30 fps, in silence and in the loudest, most accented sound."""

_HOP, _FFT, _RATE = 320, 1024, 50
_PIECE_SECONDS, _CONTEXT_SECONDS = 20, 4
_QUIET, _LOUD = -50.0, -15.0
"""Decibels of full scale that stand for 0 and 1 of loudness."""
_ACCENT_SECONDS, _NEIGHBOURS_SECONDS = 0.15, 1.0
"""Widths (standard deviations) of what is smoothed, and of what it is compared with."""


def speed_from_sound(
    waveform: Tensor,
    sample_rate: int,
    num_frames: int,
    frame_rate: Fraction | int,
    slowest: float = SLOWEST,
    fastest: float = FASTEST,
) -> Tensor:
    """Give every frame a head speed from the rhythm and loudness of the sound.

    Args:
        waveform: (C, T) or (T,).
        sample_rate: samples a second.
        num_frames: frames of the film.
        frame_rate: frames a second.
        slowest: degrees per frame at 30 fps in silence, 0 to 10.
        fastest: the same in the loudest, most accented sound; not below `slowest`.

    Returns:
        (num_frames,), slowest to fastest degrees per frame at 30 fps. A frame depends on less
        than 4 s of sound around it.

    Raises:
        ValueError: if the sound is empty or holds NaN, or the range is none.
    """
    check_range(slowest, fastest)
    mono = to_mono_16k(waveform, sample_rate)
    starts = range(0, len(mono), _PIECE_SECONDS * SAMPLE_RATE)
    liveliness = torch.cat([_liveliness(mono, first) for first in starts])
    rows = (slowest + (fastest - slowest) * liveliness).clamp(slowest, fastest)
    positions = torch.arange(num_frames, dtype=torch.float64) * _RATE / float(frame_rate)
    positions = positions.clamp(max=len(rows) - 1)
    below = positions.floor().long()
    above = (below + 1).clamp(max=len(rows) - 1)
    return torch.lerp(rows[below], rows[above], (positions - below).float())


def check_range(slowest: float, fastest: float) -> None:
    """Say what is wrong with a range of head speeds.

    Args:
        slowest: degrees per frame at 30 fps.
        fastest: the same.

    Raises:
        ValueError: if one is outside 0..10, or slowest is above fastest.
    """
    for name, speed in (("slowest", slowest), ("fastest", fastest)):
        if not 0 <= speed <= FASTEST_ASKED:
            raise ValueError(
                f"{name} must be 0 to {FASTEST_ASKED:g} degrees per frame at 30 fps, got "
                f"{speed:g}; {SLOWEST} and {FASTEST} are usual for slowest and fastest"
            )
    if slowest > fastest:
        raise ValueError(
            f"slowest must not be above fastest, got slowest {slowest:g} and fastest {fastest:g} "
            "degrees per frame; swap the two"
        )


def _liveliness(mono: Tensor, first: int) -> Tensor:
    """0..1 at 50 a second of the 20 s from sample `first` on, heard with 4 s on both sides."""
    import librosa
    from librosa.onset import onset_strength

    last = min(first + _PIECE_SECONDS * SAMPLE_RATE, len(mono))
    start = max(0, first - _CONTEXT_SECONDS * SAMPLE_RATE)
    heard = mono[start : last + _CONTEXT_SECONDS * SAMPLE_RATE]
    sound = functional.pad(heard, (0, max(0, _FFT - len(heard)))).numpy()
    mel = librosa.feature.melspectrogram(
        y=sound, sr=SAMPLE_RATE, n_fft=_FFT, hop_length=_HOP, n_mels=40, pad_mode="constant"
    )
    # A floor of its own: librosa's default one hangs on the loudest moment of the file.
    decibels = librosa.power_to_db(mel, ref=1.0, amin=1e-5, top_db=None)
    onsets = torch.from_numpy(
        onset_strength(S=decibels, sr=SAMPLE_RATE, hop_length=_HOP, n_fft=_FFT)
    ).float()
    power = librosa.feature.rms(y=sound, frame_length=_FFT, hop_length=_HOP, pad_mode="constant")
    level = 20 * torch.from_numpy(power[0]).float().clamp(min=1e-6).log10()
    loud = smooth(((level - _QUIET) / (_LOUD - _QUIET)).clamp(0, 1), _RATE, _ACCENT_SECONDS)
    accents = smooth(onsets, _RATE, _ACCENT_SECONDS)
    usual = smooth(onsets, _RATE, _NEIGHBOURS_SECONDS)
    accents = (accents / (2 * usual + 0.5)).clamp(0, 1)
    liveliness = loud * (0.4 + 0.6 * accents)
    skipped = (first - start) // _HOP
    return liveliness[skipped : skipped + -(-(last - first) // _HOP)]
