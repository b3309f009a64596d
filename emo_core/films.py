"""Films in a store, finished or not: their names for people, and their frames."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor

from .clip_files import FILM_ID, Manifest
from .clip_keys import digest
from .spool import Spool
from .store import ClipStore

_MARK_DIGITS = 12
_NAME_LETTERS = 32


@dataclass(frozen=True)
class FilmFacts:
    """What is to be known of a film beside its clips.

    Attributes:
        model: name of the model that makes it.
        frame_rate: frames per second.
        channels: of its latents.
        scale: what its latents are divided by before a VAE decodes them.
        notes: plain JSON values, whatever else is wanted when it is opened.
    """

    model: str
    frame_rate: Fraction
    channels: int
    scale: float
    notes: dict[str, Any] = field(default_factory=dict)

    def manifest(self, keys: Sequence[str], kept: Sequence[int]) -> Manifest:
        """A film that begins now, of clips with these keys and frames."""
        return Manifest(
            tuple(keys), tuple(kept), str(self.frame_rate), self.channels, self.scale,
            time.time(), {"model": self.model, **self.notes},
        )  # fmt: skip


@dataclass(frozen=True)
class OpenFilm:
    """What there is of a film.

    Attributes:
        frames: (F, C, h, w), the frames of its clips up to the first that is not there.
        clips: how many clips these are.
        film: all of it.
    """

    frames: Tensor
    clips: int
    film: Manifest

    @property
    def finished(self) -> bool:
        """Whether all of its clips are there."""
        return self.clips == len(self.film.keys)


def film_mark(keys: Sequence[str], kept: Sequence[int]) -> str:
    """What a film's name ends with: the same for the same clips, in any run."""
    # The last clip's key holds the keys before it.
    return digest([keys[-1], list(kept)])[:_MARK_DIGITS]


def film_name(film: Manifest) -> str:
    """A name that says what the film is: model, day and time of its begin, seconds, seed, mark."""
    model = re.sub(r"[^A-Za-z0-9]+", "-", str(film.notes.get("model", "film"))).strip("-")
    begun = time.strftime("%Y-%m-%d_%H-%M", time.localtime(film.began))
    seconds = round(sum(film.kept) / Fraction(film.frame_rate))
    seed = f"_seed{film.notes['seed']}" if isinstance(film.notes.get("seed"), int) else ""
    return f"{model[:_NAME_LETTERS]}_{begun}_{seconds}s{seed}_{film_mark(film.keys, film.kept)}"


def clips_there(folder: Path, name: str) -> int | None:
    """How many clips of a film are there from its begin on; None for a film that is not known."""
    known = _known(folder, name)
    if known is None:
        return None
    store, film = known
    missing = (index for index, key in enumerate(film.keys) if not store.has(key))
    return next(missing, len(film.keys))


def open_film(folder: Path, name: str) -> OpenFilm:
    """Open a film of a store, as much of it as there is; it may still be in the making.

    Args:
        folder: of the store.
        name: of store.known_films().

    Raises:
        ValueError: if there is no such film, or not a single clip of it.
    """
    known = _known(folder, name)
    if known is None:
        raise ValueError(
            f"the film {name!r} is not in {folder} any more; choose another, or sample it again"
        )
    store, film = known
    clips = 0
    with Spool(folder) as spool:
        for latents, kept in zip(store.film_clips(film.keys), film.kept, strict=False):
            spool.append(latents[:kept])
            clips += 1
        if not clips:
            raise ValueError(
                f"no clip of the film {name!r} is in {folder} any more; choose another, or sample "
                "it again"
            )
        return OpenFilm(spool.frames(), clips, film)


def _known(folder: Path, name: str) -> tuple[ClipStore, Manifest] | None:
    # Opening a store would make its folder.
    if not FILM_ID.fullmatch(name) or not folder.is_dir():
        return None
    store = ClipStore(folder, max_bytes=1)  # nothing is written, so nothing is evicted
    film = store.read_manifest(name)
    return None if film is None else (store, film)
