"""A film read a few frames at a time, so that memory does not grow with its length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from .readable import check_readable


@dataclass(frozen=True)
class FilmFacts:
    """What a film says of itself.

    Attributes:
        rate: frames per second.
        frames: as many as its header promises; 0 where it promises none.
        seconds: its length by its header; 0 where it says none.
        sound: whether it has a sound track.
    """

    rate: Fraction
    frames: int
    seconds: float
    sound: bool


def film_facts(path: Path) -> FilmFacts:
    """Open a film and read what it says of itself.

    Raises:
        OSError: if there is no such file, or it may not be read.
        ValueError: if it is no film.
    """
    import av

    check_readable(path, "film", "a film")
    try:
        with av.open(str(path)) as file:
            if not file.streams.video:
                raise ValueError(f"{path} has no pictures; give a film")
            stream = file.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate
            seconds = float((file.duration or 0) / av.time_base)
            sound = bool(file.streams.audio)
    except (av.FFmpegError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a film that can be read ({error}); give another") from None
    if not rate:
        raise ValueError(f"{path} names no frame rate; save it again")
    return FilmFacts(Fraction(rate), stream.frames, seconds, sound)


def film_pieces(path: Path, length: int = 16) -> Iterator[Tensor]:
    """A film's pictures, at most `length` at a time, (f, 3, H, W) in 0..1.

    Raises:
        ValueError: if it breaks off.
    """
    import av

    frames: list[Tensor] = []
    try:
        with av.open(str(path)) as file:
            for frame in file.decode(video=0):
                frames.append(torch.from_numpy(frame.to_ndarray(format="rgb24")))
                if len(frames) == length:
                    yield _floats(frames)
                    frames = []
    except (av.FFmpegError, EOFError) as error:
        raise ValueError(f"the film {path} breaks off ({error}); give another") from None
    if frames:
        yield _floats(frames)


def _floats(frames: list[Tensor]) -> Tensor:
    return torch.stack(frames).permute(0, 3, 1, 2).float() / 255
