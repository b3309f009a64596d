"""A sound as it is before anything hears it: counted, cut, mixed and resampled."""

import logging
import math
from fractions import Fraction

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
"""Samples a second of every waveform that an encoder hears."""


def num_frames(num_samples: int, sample_rate: int, frame_rate: Fraction | int) -> int:
    """Count the frames of a film for a sound: ceil(samples * fps / rate), without rounding errors.

    Args:
        num_samples: samples of the source, at its own rate.
        sample_rate: samples a second.
        frame_rate: frames a second, exact (30000/1001 is a Fraction).
    """
    return math.ceil(Fraction(num_samples) * Fraction(frame_rate) / sample_rate)


def trim(
    waveform: Tensor, sample_rate: int, start_seconds: float, duration_seconds: float | None
) -> Tensor:
    """Cut a piece out of a sound; both times are rounded to samples first.

    Args:
        waveform: (..., T).
        sample_rate: samples a second.
        start_seconds: where the piece begins.
        duration_seconds: its length; None is all the rest. A longer one than the rest is cut.

    Raises:
        ValueError: if the start is negative or not inside the sound, or the duration is empty.
    """
    total = waveform.shape[-1]
    if not (math.isfinite(start_seconds) and start_seconds >= 0):
        raise ValueError(f"start must be 0 s or later, got {start_seconds:g} s")
    start = round(start_seconds * sample_rate)
    if start >= total:
        raise ValueError(
            f"start must lie before the end of the sound ({total / sample_rate:.2f} s), "
            f"got {start_seconds:g} s; give an earlier start"
        )
    if duration_seconds is None:
        return waveform[..., start:]
    if not math.isfinite(duration_seconds) or (count := round(duration_seconds * sample_rate)) < 1:
        raise ValueError(
            f"duration must be at least one sample of sound, got {duration_seconds:g} s; "
            "leave it out to take everything"
        )
    if start + count > total:
        logger.warning(
            "the sound ends %.2f s before the duration asked for; the film ends with the sound",
            (start + count - total) / sample_rate,
        )
    return waveform[..., start : start + count]


def to_mono_16k(waveform: Tensor, sample_rate: int) -> Tensor:
    """Mix to one channel and resample to 16 kHz.

    Args:
        waveform: (C, T) or (T,), any float or integer dtype; samples in -1..1.
        sample_rate: samples a second.

    Returns:
        (ceil(T * 16000 / rate),) float32.

    Raises:
        ValueError: if the sound is empty, of another shape, or holds NaN or infinity.
    """
    if waveform.ndim not in (1, 2) or waveform.numel() == 0:
        raise ValueError(
            "the sound must hold at least one sample, as (channels, samples), "
            f"got shape {tuple(waveform.shape)}"
        )
    if sample_rate < 1:
        raise ValueError(f"the sample rate must be positive, got {sample_rate}")
    mono = waveform.detach().float().cpu()
    if not bool(torch.isfinite(mono).all()):
        raise ValueError("the sound holds NaN or infinite samples; export it again")
    mono = mono.mean(0) if mono.ndim == 2 else mono
    if sample_rate == SAMPLE_RATE:
        return mono.contiguous()
    import soxr  # librosa's own resampler, without the minute that librosa takes to compile

    resampled = soxr.resample(mono.numpy(), sample_rate, SAMPLE_RATE, quality="HQ")
    length = -(-mono.numel() * SAMPLE_RATE // sample_rate)
    fixed = torch.zeros(length)
    fixed[: len(resampled)] = torch.from_numpy(resampled)[:length]
    return fixed
