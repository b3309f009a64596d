"""Sound in, features per video frame out: EMO, "Audio Layers", up to the audio tokens.

A waveform is cut on a fixed grid of windows, each window goes through an audio encoder
(`audio_encoder.py`), the hidden states of all its blocks are resampled to the frame rate, and
every frame takes its neighbours along (EMO's m = 2, five frames; `audio_tokens.py`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn

from .waveform import SAMPLE_RATE, num_frames

ROW_RATE = 50
"""Rows a second of an encoder's own time axis; row r begins at sample 320 r."""

_ROW_STRIDE, _ROW_SPAN = SAMPLE_RATE // ROW_RATE, 400
_WINDOW_SECONDS, _CONTEXT_SECONDS, _PIECE_SECONDS = 20, 2, 60

Windows = Literal["grid", "whole_file", "pieces_60s"]
Resample = Callable[[Tensor], Tensor]


class AudioEncoder(nn.Module, ABC):
    """What every audio encoder is: sound in, one row per time step and block out.

    Attributes:
        num_layers: number of blocks whose outputs are kept (L).
        width: numbers a block gives per row (D).
        alignment: where rows become frames: `before` or `after` the transformer.
        normalise: whether the encoder expects zero mean and unit variance in its window.
        description: the encoder in one word, to tell features of different encoders apart.
    """

    num_layers: int
    width: int
    alignment: str
    normalise: bool
    description: str

    @abstractmethod
    def forward(self, waveform: Tensor, resample: Resample) -> Tensor:
        """Hear a batch of waveforms.

        Args:
            waveform: (B, T) at 16 kHz; `T = 320 (rows - 1) + 400` gives that many rows at least.
            resample: turns (B, rows, C) at 50 Hz into (B, F, C) at the frame rate.

        Returns:
            (B, F, L, D).
        """


@dataclass(frozen=True)
class AudioFeatures:
    """What the audio encoder heard, frame by frame.

    Attributes:
        features: (F', L, D) on the CPU; F' exceeds `num_frames` only where padding was asked for.
        num_frames: frames of the film.
        frame_rate: frames a second.
        encoder: the encoder's description.
        alignment: the encoder's alignment.
    """

    features: Tensor
    num_frames: int
    frame_rate: Fraction
    encoder: str
    alignment: str


def rows_at(rows: Tensor, positions: Tensor) -> Tensor:
    """Read rows (B, R, C) at fractional positions (F,), linearly between, held at the ends."""
    positions = positions.cpu().clamp(0, rows.shape[1] - 1)  # float64, which MPS does not know
    below = positions.floor().long()
    above = (below + 1).clamp(max=rows.shape[1] - 1)
    weight = (positions - below).to(rows.dtype).to(rows.device)[:, None]
    return rows[:, below] * (1 - weight) + rows[:, above] * weight


def stretch_rows(rows: Tensor, count: int) -> Tensor:
    """Stretch rows (B, R, C) to (B, count, C), first on first and last on last, as Hallo does."""
    stretched = nn.functional.interpolate(
        rows.transpose(1, 2), size=count, mode="linear", align_corners=True
    )
    return stretched.transpose(1, 2)


def _normalised(waveform: Tensor) -> Tensor:
    """Zero mean and unit variance, as transformers' Wav2Vec2FeatureExtractor."""
    variance = waveform.var(correction=0)
    return (waveform - waveform.mean()) / torch.sqrt(variance + 1e-7)


def _hear(encoder: AudioEncoder, sound: Tensor, length: int, resample: Resample) -> Tensor:
    """Encode one window (T,), padded with silence to `length` after normalisation: (F, L, D)."""
    sound = _normalised(sound) if encoder.normalise and sound.numel() else sound
    sound = nn.functional.pad(sound, (0, max(0, length - sound.shape[0])))
    parameter = next(encoder.parameters())
    heard: Tensor = encoder(sound[None].to(parameter.device, parameter.dtype), resample)
    return heard[0]


def _grid_window(
    encoder: AudioEncoder, waveform: Tensor, first: int, stop: int, frame_rate: Fraction
) -> Tensor:
    """Encode frames first..stop of one grid window, from its 20 s and 2 s on both sides."""
    window = math.floor(first / frame_rate) // _WINDOW_SECONDS
    start = max(0, window * _WINDOW_SECONDS - _CONTEXT_SECONDS)
    end = (window + 1) * _WINDOW_SECONDS + _CONTEXT_SECONDS
    sound = waveform[start * SAMPLE_RATE : end * SAMPLE_RATE]
    # The frames of the context too: with alignment "before" they are what the transformer hears.
    last = math.ceil((start + Fraction(len(sound), SAMPLE_RATE)) * frame_rate)
    frames = range(math.ceil(start * frame_rate), max(stop, last))
    positions = [float((i / frame_rate - start) * ROW_RATE) for i in frames]
    at = torch.tensor(positions, dtype=torch.float64)
    length = _ROW_STRIDE * math.ceil(positions[-1]) + _ROW_SPAN
    heard = _hear(encoder, sound, length, lambda rows: rows_at(rows, at))
    return heard[first - frames.start : stop - frames.start]


def _piece(
    encoder: AudioEncoder, sound: Tensor, frame_rate: Fraction, pad_frames_to: int
) -> Tensor:
    """Encode a whole sound or a 60-s piece the way Hallo does: padded, first on first."""
    count = num_frames(sound.shape[0], SAMPLE_RATE, frame_rate)
    missing = -count % pad_frames_to
    length = sound.shape[0] + missing * math.floor(SAMPLE_RATE / frame_rate)
    return _hear(
        encoder,
        sound,
        max(length, _ROW_SPAN),
        lambda rows: stretch_rows(rows, count + missing),
    )


def encode_windows(
    encoder: AudioEncoder,
    waveform: Tensor,
    num_frames: int,
    frame_rate: Fraction | int,
    windows: Windows = "grid",
    pad_frames_to: int = 1,
) -> Iterator[tuple[int, Tensor]]:
    """Encode a sound window after window; `encode_sound` explains the arguments.

    Yields:
        The number of the window's first frame and its features (F, L, D): one window in memory.
    """
    rate = Fraction(frame_rate)
    if waveform.ndim != 1 or waveform.shape[0] == 0 or num_frames < 1 or rate <= 0:
        raise ValueError(
            f"expected a waveform (T,) with sound in it, one frame or more and a positive frame "
            f"rate, got shape {tuple(waveform.shape)}, {num_frames} frames at {rate} per second"
        )
    if windows == "grid":
        first = 0
        while first < num_frames:
            window = math.floor(first / rate) // _WINDOW_SECONDS
            stop = min(num_frames, math.ceil((window + 1) * _WINDOW_SECONDS * rate))
            with torch.no_grad():
                heard = _grid_window(encoder, waveform, first, stop, rate)
            yield first, heard
            first = stop
        return
    if windows not in ("whole_file", "pieces_60s"):
        raise ValueError(f"windows must be grid, whole_file or pieces_60s, got {windows!r}")
    if windows == "pieces_60s" and (_PIECE_SECONDS * rate).denominator != 1:
        raise ValueError(f"pieces of 60 s need a whole number of frames, got {rate} per second")
    step = waveform.shape[0] if windows == "whole_file" else _PIECE_SECONDS * SAMPLE_RATE
    for index, start in enumerate(range(0, waveform.shape[0], step)):
        last = start + step >= waveform.shape[0]
        with torch.no_grad():
            heard = _piece(
                encoder, waveform[start : start + step], rate, pad_frames_to if last else 1
            )
        yield int(index * _PIECE_SECONDS * rate), heard


def encode_sound(
    encoder: AudioEncoder,
    waveform: Tensor,
    num_frames: int,
    frame_rate: Fraction | int,
    windows: Windows = "grid",
    pad_frames_to: int = 1,
    dtype: torch.dtype = torch.float32,
) -> AudioFeatures:
    """Turn a sound into the features of every frame.

    Frame i stands at i / fps seconds, row 50 i / fps of the encoder's 50 Hz axis: at 25 fps it
    takes row 2i. The paper does not say how sound and frames are aligned; Hallo stretches the
    rows of the whole file to the frames, first on first and last on last, which is the same to
    a fraction of a row.

    Args:
        encoder: the audio encoder, on the device it is to run on.
        waveform: (T,) at 16 kHz.
        num_frames: frames of the film, counted on the source's samples.
        frame_rate: frames a second.
        windows: `grid` encodes windows of 20 s with 2 s of context on both sides, normalised
            inside the window, so that a frame's features depend on its own window only.
            `whole_file` (Hallo) and `pieces_60s` (Hallo2) reproduce published weights; they
            count their own frames and memory grows with the file or the minute.
        pad_frames_to: Hallo's modes pad with silence to a multiple of this many frames
            (Hallo: its clip length, 16); of pieces only the last one is.
        dtype: of the result, which stays on the CPU.

    Raises:
        ValueError: if the waveform is empty or not (T,), or a window or rate is impossible.
    """
    pieces = [
        heard.to("cpu", dtype)
        for _, heard in encode_windows(
            encoder, waveform, num_frames, frame_rate, windows, pad_frames_to
        )
    ]
    features = torch.cat(pieces)
    missing = num_frames - features.shape[0]
    if missing > 0:
        features = torch.cat([features, features[-1:].expand(missing, -1, -1)])
    return AudioFeatures(
        features, num_frames, Fraction(frame_rate), encoder.description, encoder.alignment
    )
