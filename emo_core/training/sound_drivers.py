"""What moves a speaker, heard in the sound: loudness, onsets, pitch, and what they add up to.

EMO leaves it to the network to hear this in wav2vec's features; the puppet world has to say it.
Every measure is local and on a fixed scale: no statistic of the whole file. Constants are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..waveform import SAMPLE_RATE

Array = NDArray[np.float64]

FRAME_RATE = 25
_HOP = SAMPLE_RATE // FRAME_RATE


@dataclass(frozen=True)
class Drivers:
    """What in a sound moves a speaker, one number a frame at 25 fps; all (F,) float32.

    A frame depends on less than 0.1 s of sound on either side, never on the whole file.

    Attributes:
        loudness: 0 at -52 dBFS and below, 1 at -12 dBFS and above.
        onset: 0..1, how much louder the bands become.
        pitch: octaves from 160 Hz over 1.5, clipped to -1..1; 0 where unvoiced.
        voiced: 0..1, how periodic the sound is.
    """

    loudness: Tensor
    onset: Tensor
    pitch: Tensor
    voiced: Tensor


def drivers(waveform: Tensor) -> Drivers:
    """Listen to a sound as an actor would: loudness, onsets, pitch.

    Args:
        waveform: (T,) float, 16 kHz, -1..1.

    Returns:
        Drivers of F = ceil(T * 25 / 16000) frames; frame i is heard around (i + 0.5) / 25 s.

    Raises:
        ValueError: if the sound is empty or not one-dimensional.
    """
    if waveform.ndim != 1 or waveform.numel() == 0:
        raise ValueError(
            f"waveform must be (T,) with at least one sample, got {tuple(waveform.shape)}; "
            "mix the channels down first"
        )
    sound = waveform.detach().to("cpu", torch.float32)
    num_frames = -(-sound.numel() * FRAME_RATE // SAMPLE_RATE)
    loudness = _loudness(sound, num_frames)
    audible = ((loudness - 0.08) / 0.15).clamp(0, 1)
    pitch, voiced = _pitch(sound, num_frames)
    voiced = voiced * audible
    onset = _onset(sound, num_frames) * audible
    return Drivers(loudness, onset, torch.where(voiced > 0.4, pitch, 0.0), voiced)


def head_energy(heard: Drivers) -> Tensor:
    """Say how strongly the sound moves the head: smoothed loudness and onsets, (F,) in 0..1."""
    drive = 0.5 * heard.loudness.numpy() + 0.8 * heard.onset.numpy()
    return as_tensor(np.clip(smooth(drive, 4.0), 0, 1))


def brow_emphasis(heard: Drivers) -> Tensor:
    """Say how strongly the sound moves the brows: pitch, its rises, and stress, (F,) in -1..1."""
    voiced, pitch = heard.voiced.numpy().astype(float), heard.pitch.numpy().astype(float)
    usual = smooth(voiced * pitch, 6.0) / (smooth(voiced, 6.0) + 0.05)
    tune = voiced * (0.35 * pitch + 1.8 * (pitch - usual))
    stress = voiced * np.clip((heard.loudness.numpy() - 0.45) * 1.4, 0, 1)
    lift = tune + 1.1 * stress + 0.3 * heard.onset.numpy() - 0.45 * voiced
    # Plain speech leaves the brows where silence does, so that only its music moves them.
    return as_tensor(np.clip(1.4 * smooth(lift, 2.5), -1, 1))


def gaussian(sigma: float) -> Array:
    """Weights of a Gaussian out to three sigma, 1 in the middle."""
    reach = max(1, math.ceil(3 * sigma))
    return np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)


def smooth(values: NDArray[Any], sigma: float) -> Array:
    """Blur a track of (F,) numbers by a Gaussian; the ends repeat."""
    kernel = gaussian(sigma)
    padded = np.pad(values.astype(float), len(kernel) // 2, mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")


def as_tensor(values: Array) -> Tensor:
    """Hand an array on as a float32 tensor."""
    return torch.from_numpy(values.astype(np.float32))


def _pieces(sound: Tensor, num_frames: int, length: int) -> Tensor:
    """Cut one window around the middle of each frame: (F, length)."""
    before = length // 2 - _HOP // 2
    after = num_frames * _HOP + length - sound.numel()
    return torch.nn.functional.pad(sound, (before, max(after, 0))).unfold(0, length, _HOP)[
        :num_frames
    ]


def _loudness(sound: Tensor, num_frames: int) -> Tensor:
    window = torch.hann_window(1600)
    power = (_pieces(sound, num_frames, 1600) ** 2 * window).sum(1) / window.sum()
    return ((10 * torch.log10(power + 1e-9) + 52) / 40).clamp(0, 1)


def _onset(sound: Tensor, num_frames: int) -> Tensor:
    # Ten milliseconds a step, four steps a frame; a rise is measured over 20 ms in 16 bands.
    steps = _pieces(sound, num_frames, 320 + 5 * 160).unfold(1, 320, 160)
    spectrum = torch.fft.rfft(steps * torch.hann_window(320), n=320).abs()[..., 1:129]
    bands = torch.log10(spectrum.reshape(num_frames, 6, 16, 8).mean(-1) + 0.05)
    rise = (bands[:, 2:] - bands[:, :-2]).clamp(min=0).mean(-1)
    return (rise.mean(1) / 0.35).clamp(0, 1)


def _pitch(sound: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
    # Autocorrelation of 64 ms, divided by the window's own; 65 to 430 Hz.
    shortest, longest, length = 37, 246, 1024
    window = torch.hann_window(length)
    pieces = _pieces(sound, num_frames, length)
    pieces = (pieces - pieces.mean(1, keepdim=True)) * window

    def correlate(signal: Tensor) -> Tensor:
        power: Tensor = torch.fft.rfft(signal, n=2048).abs() ** 2
        lags: Tensor = torch.fft.irfft(power)
        return lags[..., : longest + 2]

    own = correlate(window)
    scores = correlate(pieces)
    scores = scores / (scores[:, :1] + 1e-6) * (own[0] / own)
    inner = scores[:, shortest : longest + 1]
    peaks = (inner >= scores[:, shortest - 1 : longest]) & (
        inner >= scores[:, shortest + 1 : longest + 2]
    )
    inner = torch.where(peaks, inner, 0.0)
    best = inner.max(1).values
    # The first peak nearly as good as the best: a multiple of the period scores as high.
    lag = (inner >= 0.9 * best[:, None]).to(torch.uint8).argmax(1) + shortest
    octaves = torch.log2(SAMPLE_RATE / lag / 160.0) / 1.5
    edges = torch.nn.functional.pad(octaves[None], (1, 1), mode="replicate")[0]
    return edges.unfold(0, 3, 1).median(1).values.clamp(-1, 1), ((best - 0.5) / 0.25).clamp(0, 1)
