"""Reading a sound, or the sound track of a film, with PyAV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .readable import check_readable

_STREAMED = 0x7FFF0000
"""Bytes from which on a WAV header only says that its writer did not know the length."""
_UNCOMPRESSED = (1, 3, 0xFFFE)
"""WAV's own numbers of integer, floating and extensible PCM."""
_EXACT = ("flac", "mov", "aiff", "w64", "caf")
"""Other containers that know their length to the sample."""
_SLACK_SECONDS = 0.1
_MAX_CHANNELS = 64


def read_sound(path: Path) -> tuple[Tensor, int]:
    """Read a file's first sound track.

    Args:
        path: any sound or film that PyAV reads.

    Returns:
        The waveform (C, T), float32, about -1..1, and its samples per second.

    Raises:
        OSError: if there is no such file, or it may not be read.
        ValueError: if it is a folder, of another kind, truncated, empty, or holds NaN or infinity.
    """
    import av

    check_readable(path, "sound", "a recording or a film")
    if path.stat().st_size == 0:
        raise ValueError(f"the sound {path} is an empty file; give a recording or a film")
    try:
        with av.open(str(path)) as file:
            if not file.streams.audio:
                kinds = ", ".join(sorted({stream.type for stream in file.streams})) or "nothing"
                raise ValueError(
                    f"{path} has no sound track, only {kinds}; give a recording or a film with one"
                )
            waveform, rate = _decode(file, path)
    except (av.FFmpegError, EOFError) as error:
        raise ValueError(
            f"{path} is not a sound that can be read ({_reason(error)}); give a WAV, FLAC or MP3 "
            "file, or a film"
        ) from None
    if waveform.shape[1] == 0:
        raise ValueError(f"the sound {path} holds no samples; give a recording that is not empty")
    if not bool(torch.isfinite(waveform).all()):
        raise ValueError(f"the sound {path} holds NaN or infinite samples; export it again")
    return waveform, rate


def _decode(file: Any, path: Path) -> tuple[Tensor, int]:
    """Decode the first sound track, hold it once in memory, and check its length."""
    import av

    stream = file.streams.audio[0]
    rate, channels = int(stream.rate or 0), int(stream.channels or 0)
    if rate < 1 or not 1 <= channels <= _MAX_CHANNELS:
        raise ValueError(f"the sound {path} names no usable rate or channels; export it as WAV")
    converter = av.AudioResampler(format="flt")  # packed: planes end at eight channels
    blocks: list[Tensor] = []
    count = 0
    try:
        for frame in file.decode(stream):
            for block in converter.resample(frame):
                blocks.append(torch.from_numpy(block.to_ndarray()).view(-1, channels))
                count += len(blocks[-1])
    except (av.FFmpegError, EOFError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"the sound {path} breaks off after {count / rate:.2f} s ({_reason(error)}); it may "
            "be truncated: fetch it again or export it as WAV"
        ) from None
    claimed = _claimed_samples(file, stream, rate, path)
    if claimed is not None and count < claimed - _SLACK_SECONDS * rate:
        raise ValueError(
            f"the sound {path} is truncated: it promises {claimed / rate:.2f} s and holds "
            f"{count / rate:.2f} s; fetch it again"
        )
    if claimed is not None and claimed < count <= claimed + 4096 and "mov" in file.format.name:
        count = claimed  # the last AAC packet is padded to 1024 samples
    return _joined(blocks, channels, count), rate


def _joined(blocks: list[Tensor], channels: int, count: int) -> Tensor:
    """Blocks (T, C) to one (C, count), letting each go once it is copied."""
    waveform = torch.empty(channels, count)
    first = 0
    for index, block in enumerate(blocks):
        part = block[: count - first]
        waveform[:, first : first + len(part)] = part.T
        first += len(part)
        blocks[index] = part[:0].clone()
    return waveform


def _claimed_samples(file: Any, stream: Any, rate: int, path: Path) -> int | None:
    """How many samples the container promises, where its promise can be trusted."""
    if file.format.name == "wav":  # libav has already cut the promise to the size of the file
        return _riff_samples(path)
    if "matroska" in file.format.name:  # each track's own length, where its writer noted it
        return _samples_of_clock(stream.metadata.get("DURATION", ""), rate)
    if stream.duration is None or not any(name in file.format.name for name in _EXACT):
        return None
    return int(stream.duration * stream.time_base * rate)


def _samples_of_clock(text: str, rate: int) -> int | None:
    """Samples in a length such as 00:01:02.500000000; None for anything else."""
    try:
        hours, minutes, seconds = text.split(":")
        return int((int(hours) * 3600 + int(minutes) * 60 + float(seconds)) * rate)
    except ValueError:
        return None


def _riff_samples(path: Path) -> int | None:
    """Samples that the header of a WAV file promises; None if its writer did not know."""
    block = 0
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            return None
        file.seek(12)
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            if head[:4] == b"data":
                return None if size >= _STREAMED or not block else size // block
            body = file.read(min(size, 16))
            if head[:4] == b"fmt " and int.from_bytes(body[:2], "little") in _UNCOMPRESSED:
                block = int.from_bytes(body[12:14], "little")
            file.seek(size + size % 2 - len(body), 1)
    return None


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()) or type(error).__name__
