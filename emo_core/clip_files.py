"""The files of a store of clips: found, read, set aside, removed, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from .clip_keys import digest
from .disk import replace_file

# Count clip_keys.CODE_VERSION up with it, or versions that share a folder set each other's clips
# aside.
_CLIP_FORMAT = "emo-clip 1"
_FILM_FORMAT = "emo-film 1"

FILMS = "films"
FILM_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
# Nothing else is ever counted or removed: people give folders that hold other things.
FILM_FILE = re.compile(rf"{FILMS}/film-({FILM_ID.pattern})\.json")

_YOUNG_SECONDS = 60

NOT_OURS = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading bytes that somebody else wrote may raise."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """Which clips make a film, so that it can be opened before it is finished.

    Attributes:
        keys: of all its clips in order, also of those that are not sampled yet.
        kept: frames of each clip that belong to the film.
        frame_rate: frames per second as "numerator/denominator" or a whole number.
        channels: of its latents.
        scale: what its latents are divided by before a VAE decodes them.
        began: when the first clip was made, in seconds since 1970.
        notes: plain JSON values, whatever else is wanted when it is opened.
    """

    keys: tuple[str, ...]
    kept: tuple[int, ...]
    frame_rate: str
    channels: int
    scale: float
    began: float
    notes: Mapping[str, Any] = field(default_factory=dict)


class KeptFile(NamedTuple):
    """A file of ours: its path, its name below the store's folder, bytes, seconds of last use."""

    path: Path
    name: str
    size: int
    used: float

    def remove(self) -> bool:
        """Whether it is gone now; another process may have it open on Windows."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError:
            return False
        return True


def files_of(folder: Path, pattern: re.Pattern[str]) -> Iterator[KeptFile]:
    """The store's files of one kind; those that vanish meanwhile are left out."""
    for place in _entries(folder):
        if place.name == FILMS or len(place.name) == 2:
            yield from _files_in(place.path, place.name, pattern)


def films_of(folder: Path) -> Iterator[KeptFile]:
    """The store's files of films, without a look at its clips; the folder may not exist."""
    return _files_in(folder / FILMS, FILMS, FILM_FILE)


def _files_in(folder: Path | str, place: str, pattern: re.Pattern[str]) -> Iterator[KeptFile]:
    for entry in _entries(folder):
        name = f"{place}/{entry.name}"
        if pattern.fullmatch(name):
            with contextlib.suppress(FileNotFoundError):
                found = entry.stat()
                yield KeptFile(Path(entry.path), name, found.st_size, found.st_mtime)


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """What lies in a folder; nothing if it cannot be listed."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return list(entries)
    return []


def evict(files: list[KeptFile], stay: Callable[[Path], bool], max_bytes: int) -> int:
    """Remove the files that were not used for longest; gives the bytes that are left.

    Args:
        files: all of them.
        stay: whether a file stays in any case, as does what was used in the last minute.
        max_bytes: what they may take together.
    """
    total, now = sum(file.size for file in files), time.time()
    # What was set aside is worth least.
    for file in sorted(files, key=lambda file: (not file.name.endswith(".damaged"), file.used)):
        if total <= max_bytes:
            break
        # A file of a clock that runs ahead must not stay for ever, so the distance counts.
        young = abs(now - file.used) < _YOUNG_SECONDS
        if not young and not stay(file.path) and file.remove():
            total -= file.size
    return total


def read_used(path: Path) -> bytes | None:
    """What a file holds, whose use is noted; None if it is not there or cannot be read now."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("%s cannot be read (%s) and is left out", path, error.strerror or error)
        return None
    note_use(path)
    return data


def note_use(path: Path) -> None:
    """Say that a file was used now, if it is there: what was not used for longest goes first."""
    with contextlib.suppress(OSError):
        os.utime(path)


def set_aside(path: Path, error: Exception) -> None:
    """Say what is wrong with a file, and give its place free."""
    logger.warning(
        "%s is damaged or foreign (%s: %s); it is set aside with the ending .damaged, and what it "
        "held is made anew", path, type(error).__name__, error,
    )  # fmt: skip
    with contextlib.suppress(OSError):
        os.replace(path, f"{path}.damaged")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there as a whole or not at all, even when the power fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Its name is its own: another process may write the same file.
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        replace_file(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    # Its name is on the disk when its folder is; Windows opens no folders.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def packed(key: str, latents: Tensor, header: str) -> bytes:
    """A clip's file: latents (F, C, h, w), and what plain_json() made, under a checksum."""
    known = {"format": _CLIP_FORMAT, "key": key, "header": header}
    checked = {"sha256": digest({**known, "latents": latents})}
    return bytes(safetensors.torch.save({"latents": latents}, known | checked))


def unpacked(key: str, data: bytes) -> tuple[Tensor, dict[str, Any]]:
    """What packed() was given.

    Raises:
        SafetensorError: or one of NOT_OURS, if it is damaged, foreign or of another key.
    """
    length = int.from_bytes(data[:8], "little")
    known = json.loads(data[8 : 8 + length])["__metadata__"]
    if known["format"] != _CLIP_FORMAT:
        raise ValueError("it is no clip of this version")
    if known["key"] != key:
        raise ValueError(f"it is the clip of another key, {known['key']}")
    latents = safetensors.torch.load(data)["latents"]
    if known.pop("sha256") != digest({**known, "latents": latents}):
        raise ValueError("its checksum is wrong")
    return torch.as_tensor(latents), json.loads(known["header"])


def packed_film(film: Manifest) -> bytes:
    """A film's file, under a checksum.

    Raises:
        ValueError: if its notes are no plain JSON values.
    """
    content = plain_json(asdict(film))
    known = {"format": _FILM_FORMAT, "film": content, "sha256": digest(content)}
    return json.dumps(known).encode()


def unpacked_film(data: bytes) -> Manifest:
    """What packed_film() was given.

    Raises:
        ValueError: or another of NOT_OURS, if it is damaged or foreign.
    """
    known = json.loads(data)
    if known["format"] != _FILM_FORMAT:
        raise ValueError("it is not a film of this version")
    if known["sha256"] != digest(known["film"]):
        raise ValueError("its checksum is wrong")
    film = json.loads(known["film"])
    film.update(keys=tuple(film["keys"]), kept=tuple(film["kept"]))
    return Manifest(**film)


def plain_json(values: Mapping[str, Any]) -> str:
    """Values as text, the same for equal values.

    Raises:
        ValueError: if they are no plain JSON values.
    """
    try:
        return json.dumps(dict(values), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"only plain JSON values are kept beside clips, and {error}") from None
