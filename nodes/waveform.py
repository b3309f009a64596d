"""AUDIO of the host, whoever made it: checked, one recording, cut to the film, at 16 kHz."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..emo_core.waveform import to_mono_16k, trim

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sound:
    """A recording cut to its film.

    Attributes:
        waveform: (C, T), the cut part; floating point, -1..1.
        sample_rate: samples a second.
        start: samples of the recording before the cut part.
        total: samples of the whole recording.
    """

    waveform: Tensor
    sample_rate: int
    start: int
    total: int

    def as_audio(self) -> dict[str, Any]:
        """The cut part as the host's AUDIO, at its own rate and with all its channels."""
        return {"waveform": self.waveform[None], "sample_rate": self.sample_rate}


def cut_audio(audio: Any, start_seconds: float, duration_seconds: float) -> Sound:
    """Take the film's part of an AUDIO; both times are rounded to samples first.

    Args:
        audio: the host's AUDIO, a mapping of waveform (B, C, T) and sample_rate; (C, T) and (T,)
            are taken for one recording. Of a batch the first is taken, with a warning.
        start_seconds: where the film begins, 0 or later.
        duration_seconds: its length; 0 is all the rest, and more than the rest is cut to it.

    Raises:
        ValueError: if there is no sound, it is none, or its samples are not finite.
    """
    waveform, sample_rate = _read(audio)
    cut = trim(waveform, sample_rate, start_seconds, duration_seconds or None)
    if not bool(torch.isfinite(cut).all()):
        raise ValueError(
            "the audio holds NaN or infinite samples; make it again with the node it comes from"
        )
    return Sound(cut, sample_rate, round(start_seconds * sample_rate), waveform.shape[-1])


def hear_at_16k(sound: Sound) -> Tensor:
    """Mono at 16 kHz (T,), which every audio encoder hears.

    Raises:
        ValueError: if it needs resampling and soxr, which comes with librosa, is missing.
    """
    try:
        return to_mono_16k(sound.waveform, sound.sample_rate)
    except ImportError as error:
        raise ValueError(
            f"bringing {sound.sample_rate} Hz to 16000 Hz needs the package soxr of librosa, and "
            f"{error.name or 'it'} is not installed; run `pip install librosa` with the Python "
            "that runs ComfyUI, or give the audio at 16000 Hz"
        ) from error


def _read(audio: Any) -> tuple[Tensor, int]:
    """The first recording of an AUDIO (C, T), and its sample rate."""
    if audio is None:
        raise ValueError(
            "there is no audio: a video without sound gives none; connect LoadAudio or another "
            "node that gives AUDIO"
        )
    if not isinstance(audio, Mapping) or not {"waveform", "sample_rate"} <= set(audio):
        raise ValueError(
            f"the audio is a {type(audio).__name__} without waveform and sample_rate; connect a "
            "node that gives AUDIO, such as LoadAudio"
        )
    waveform, rate = audio["waveform"], audio["sample_rate"]
    if not isinstance(waveform, Tensor) or waveform.ndim not in (1, 2, 3):
        shape = tuple(waveform.shape) if isinstance(waveform, Tensor) else type(waveform).__name__
        raise ValueError(
            f"the audio's waveform must be (batch, channels, samples), got {shape}; connect a node "
            "that gives AUDIO, such as LoadAudio"
        )
    if waveform.numel() == 0:
        raise ValueError(
            f"the audio is empty, its waveform has the shape {tuple(waveform.shape)}; give a "
            "recording of at least one sample"
        )
    if not waveform.is_floating_point():
        raise ValueError(
            f"the audio's samples must be floating point from -1 to 1, got {waveform.dtype}; "
            "connect a node that gives AUDIO, such as LoadAudio"
        )
    if not isinstance(rate, Real) or rate < 1 or not float(rate).is_integer():
        raise ValueError(f"the audio's sample_rate must be a whole number above 0, got {rate!r}")
    if waveform.ndim == 3 and len(waveform) > 1:
        logger.warning(
            "the audio is a batch of %d recordings; the film takes the first", len(waveform)
        )
    first = waveform[0] if waveform.ndim == 3 else waveform
    return (first[None] if first.ndim == 1 else first).detach().float().cpu(), int(rate)
