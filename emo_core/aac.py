"""A film's sound as AAC, written piece by piece beside the pictures (PyAV)."""

from __future__ import annotations

import logging
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200,
          96000)  # fmt: skip
_LAYOUTS = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "6.1", "7.1")


class SoundTrack:
    """A sound on its way into a film.

    Args:
        waveform: (C, T) or (T,). Up to eight channels are kept, more are mixed to one.
        rate: samples per second; resampled only where AAC lacks it. `rate` is the film's.

    Raises:
        ValueError: if the waveform has another shape, no samples, or NaN or infinite ones.
    """

    def __init__(self, waveform: Tensor, rate: int) -> None:
        self._waveform, self.rate = _for_aac(waveform, rate)
        self._layout = _LAYOUTS[self._waveform.shape[0] - 1]
        self._heard = 0

    def open(self, film: Any) -> None:
        """Add the track to a container of PyAV that is being written."""
        self._film = film
        self._stream: Any = film.add_stream("aac", rate=self.rate, layout=self._layout)
        self._stream.bit_rate = self._waveform.shape[0] * min(96_000, 5 * self.rate)

    def write(self, until: Fraction | None) -> None:
        """Write what is not written yet, up to a time in seconds; None for all that is left."""
        import av

        total = self._waveform.shape[1]
        end = total if until is None else min(int(until * self.rate), total)
        while self._heard < end:
            part = self._waveform[:, self._heard : min(end, self._heard + self.rate)]
            samples = part.T.clamp(-1, 1).contiguous().view(1, -1).numpy()
            block: Any = av.AudioFrame.from_ndarray(samples, format="flt", layout=self._layout)
            block.sample_rate, block.time_base = self.rate, Fraction(1, self.rate)
            block.pts = self._heard
            self._film.mux(self._stream.encode(block))
            self._heard += part.shape[1]

    def finish(self) -> None:
        """Write what the encoder still holds; call it once everything is written."""
        self._film.mux(self._stream.encode())


def _for_aac(waveform: Tensor, rate: int) -> tuple[Tensor, int]:
    """A waveform (C, T) with the channels and the rate that AAC can hold."""
    waveform = (waveform[None] if waveform.ndim == 1 else waveform).detach().float().cpu()
    if waveform.ndim != 2 or waveform.numel() == 0 or not bool(torch.isfinite(waveform).all()):
        raise ValueError(
            f"the sound must be (C, T) with finite samples, got {tuple(waveform.shape)}"
        )
    if waveform.shape[0] > len(_LAYOUTS):
        logger.info("the film's sound is mixed to mono: AAC has no %d channels", len(waveform))
        waveform = waveform.mean(0, keepdim=True)
    if rate in _RATES:
        return waveform, rate
    try:
        import soxr  # comes with librosa
    except ImportError as error:
        raise ValueError(
            f"AAC has no rate of {rate} samples per second, and to change it takes librosa: "
            "pip install librosa"
        ) from error
    better = next((known for known in _RATES if known >= rate), _RATES[-1])
    logger.info("the film's sound has %d samples a second: AAC has no rate of %d", better, rate)
    resampled = soxr.resample(waveform.T.numpy(), rate, better, quality="HQ")
    return torch.from_numpy(resampled).T.contiguous(), better
