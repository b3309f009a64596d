"""Finished clips on disk by key, so that a film is never sampled twice and never lost.

A folder holds `<first two digits>/<key>.safetensors` for each clip and `films/<name>.json` for each
film. Several processes may share it: a file appears whole or not at all and is never changed after.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from .clip_keys import digest

# Count clip_keys.CODE_VERSION up with the first, or versions that share a folder set each other's
# clips aside.
_CLIP_FORMAT = "emo-clip 1"
_FILM_FORMAT = "emo-film 1"

_YOUNG_SECONDS = 60
_LEFT_OVER_SECONDS = 24 * 60 * 60
_LISTING_SHARE = 16
_REPLACE_PAUSES = (0.02, 0.05, 0.1, 0.2)
_KEY = re.compile(r"[0-9a-f]{64}")
_FILM_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
# Nothing else is ever counted or removed: people give folders that hold other things.
_FILM_FILE = re.compile(rf"films/film-{_FILM_ID.pattern}\.json")
_KEPT_FILE = re.compile(
    rf"([0-9a-f]{{2}}/{_KEY.pattern}\.safetensors|{_FILM_FILE.pattern})(\.damaged)?"
)
_PARTIAL_FILE = re.compile(r"([0-9a-f]{2}|films)/\..+\.partial")

_NOT_OURS = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading bytes that somebody else wrote may raise."""

logger = logging.getLogger(__name__)


class Usage(NamedTuple):
    """What a store holds: bytes of all its files, and the number of clips."""

    num_bytes: int
    num_clips: int


@dataclass(frozen=True)
class Manifest:
    """Which clips make a film, so that it can be opened before it is finished.

    Attributes:
        keys: of all its clips in order, also of those that are not sampled yet.
        kept: frames of each clip that belong to the film.
        clip_length: frames that its clips are sampled at.
        frame_rate: frames per second as "numerator/denominator" or a whole number.
        sound: digest of the sound that belongs to it.
        notes: plain JSON values, whatever else is wanted when it is opened.
    """

    keys: tuple[str, ...]
    kept: tuple[int, ...]
    clip_length: int
    frame_rate: str
    sound: str
    notes: Mapping[str, Any] = field(default_factory=dict)


class ClipStore:
    """Keeps clips up to a size; those that were not used for longest go first.

    Reading also works in a folder that cannot be written. No error of the disk harms a clip in
    memory: whoever catches put()'s OSError goes on without the store.

    Args:
        folder: is made if it does not exist; on any drive.
        max_bytes: what its files may take together. It is exceeded by the newest file and by
            files used in the last 60 s, which other processes may be about to use, and by a
            sixteenth for each further process that writes into the folder.

    Raises:
        OSError: if the folder cannot be made.
        ValueError: if max_bytes is below 1.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        if max_bytes < 1:
            raise ValueError(f"a store needs room for at least 1 byte, got {max_bytes}")
        self.folder, self.max_bytes = folder, max_bytes
        self._before_listing = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"the folder {folder} cannot be made ({error.strerror or error}); choose another"
            ) from error
        for file in _files(folder, _PARTIAL_FILE):
            if abs(time.time() - file.used) > _LEFT_OVER_SECONDS:
                file.remove()

    def check_writable(self) -> None:
        """Raise put()'s OSError before any work is done, if a small file cannot be written."""
        path = self.folder / "films" / f".{secrets.token_hex(8)}.partial"
        self._write(path, b"0")
        with contextlib.suppress(OSError):
            path.unlink()

    def put(self, key: str, latents: Tensor, header: Mapping[str, Any]) -> None:
        """Keep a clip; one that is already there and whole stays as it is.

        Args:
            key: of clip_keys.
            latents: (F, C, h, w), all frames that were sampled; on any device.
            header: plain JSON values to be kept beside them.

        Raises:
            OSError: if it cannot be written, such as on a full disk; nothing of it is left there.
            ValueError: if an argument is not as above.
        """
        path = self._clip_path(key)
        if latents.ndim != 4:
            raise ValueError(
                f"a clip's latents must be (F, C, h, w), got the shape {tuple(latents.shape)}"
            )
        data = _packed(key, latents.detach().cpu().contiguous(), _plain_json(header))
        if self._read_clip(key) is not None:
            return
        try:
            self._write(path, data)
        except OSError:
            # Windows replaces no file that another process reads; then the clip is there.
            if self._read_clip(key) is None:
                raise

    def get(self, key: str, mapped: bool = False) -> Tensor | None:
        """A clip's latents (F, C, h, w) on the CPU, as they were put; None if they are not there.

        A file that is damaged, truncated or foreign is logged by name and set aside with the
        ending `.damaged`, and counts as not there.

        Args:
            key: of clip_keys.
            mapped: leave them in the file, for films that are longer than the memory; the file is
                read and checked once, and changes to the tensor do not reach it. Not for network
                drives, where a file that vanishes ends the process that reads it.
        """
        found = self._read_clip(key)
        if found is None:
            return None
        if mapped:
            # Another process may have evicted it since; what was read is as good.
            with (
                contextlib.suppress(OSError, safetensors.SafetensorError),
                safetensors.safe_open(self._clip_path(key), "pt") as file,
            ):
                return torch.as_tensor(file.get_tensor("latents"))
        return found[0]

    def header(self, key: str) -> dict[str, Any] | None:
        """The plain values that were put beside a clip; None if it is not there."""
        found = self._read_clip(key)
        return None if found is None else found[1]

    def film_clips(self, keys: Iterable[str], mapped: bool = False) -> Iterator[Tensor]:
        """Yield a film's clips (F, C, h, w) in order up to the first that is not there."""
        for key in keys:
            latents = self.get(key, mapped)
            if latents is None:
                return
            yield latents

    def write_manifest(self, film_id: str, film: Manifest) -> None:
        """Keep which clips make a film, in the place of what was known of it.

        Args:
            film_id: 1 to 100 letters, digits, - and _.
            film: what is kept.

        Raises:
            OSError: if it cannot be written; what was known before stays.
            ValueError: for another film_id, or notes that are no plain JSON values.
        """
        path, content = self._film_path(film_id), _plain_json(asdict(film))
        known = {"format": _FILM_FORMAT, "film": content, "sha256": digest(content)}
        self._write(path, json.dumps(known).encode())

    def read_manifest(self, film_id: str) -> Manifest | None:
        """What is known of a film; None if there is nothing, or it is damaged and was set aside."""
        path = self._film_path(film_id)
        data = _read(path)
        if data is None:
            return None
        try:
            known = json.loads(data)
            if known["format"] != _FILM_FORMAT:
                raise ValueError("it is not a film of this version")
            if known["sha256"] != digest(known["film"]):
                raise ValueError("its checksum is wrong")
            film = json.loads(known["film"])
            film.update(keys=tuple(film["keys"]), kept=tuple(film["kept"]))
            return Manifest(**film)
        except _NOT_OURS as error:
            _set_aside(path, error)
            return None

    def films(self) -> list[str]:
        """The films that are known, last used first."""
        files = sorted(_files(self.folder, _FILM_FILE), key=lambda file: file.used, reverse=True)
        return [file.name.removeprefix("films/film-").removesuffix(".json") for file in files]

    def usage(self) -> Usage:
        """How much the store holds now, files of other processes included."""
        files = list(_files(self.folder, _KEPT_FILE))
        clips = sum(file.name.endswith(".safetensors") for file in files)
        return Usage(sum(file.size for file in files), clips)

    def _clip_path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"a clip's key is 64 hexadecimal digits in lower case, got {key!r}")
        return self.folder / key[:2] / f"{key}.safetensors"

    def _film_path(self, film_id: str) -> Path:
        if not _FILM_ID.fullmatch(film_id):
            raise ValueError(
                f"a film is named by 1 to 100 letters, digits, - and _, got {film_id!r}; "
                "clip_keys.digest() makes such a name of any text"
            )
        # Behind a prefix, since Windows has no files called con or nul.
        return self.folder / "films" / f"film-{film_id}.json"

    def _read_clip(self, key: str) -> tuple[Tensor, dict[str, Any]] | None:
        path = self._clip_path(key)
        data = _read(path)
        if data is None:
            return None
        try:
            return _unpacked(key, data)
        except (*_NOT_OURS, safetensors.SafetensorError) as error:
            _set_aside(path, error)
            return None

    def _write(self, path: Path, data: bytes) -> None:
        try:
            _write_whole(path, data)
        except OSError as error:
            raise OSError(
                f"nothing can be kept in the folder {self.folder} ({error.strerror or error}); "
                "make room there or choose another, or go on without keeping clips"
            ) from error
        self._before_listing -= len(data)
        if self._before_listing < 0:
            self._evict(path)

    def _evict(self, newest: Path) -> None:
        """Down to fifteen sixteenths, so that the folder is not listed after every clip."""
        files = list(_files(self.folder, _KEPT_FILE))
        total, share = sum(file.size for file in files), self.max_bytes // _LISTING_SHARE
        if total > self.max_bytes:
            now = time.time()
            # What was set aside is worth least.
            files.sort(key=lambda file: (not file.name.endswith(".damaged"), file.used))
            for file in files:
                if total <= self.max_bytes - share:
                    break
                # A file of a clock that runs ahead must not stay for ever, so the distance counts.
                young = abs(now - file.used) < _YOUNG_SECONDS
                if not young and file.path != newest and file.remove():
                    total -= file.size
        self._before_listing = min(share, self.max_bytes - total)


class _File(NamedTuple):
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


def _files(folder: Path, pattern: re.Pattern[str]) -> Iterator[_File]:
    """The store's files of one kind; those that vanish meanwhile are left out."""
    for place in _entries(folder):
        if place.name == "films" or len(place.name) == 2:
            for entry in _entries(place.path):
                name = f"{place.name}/{entry.name}"
                if pattern.fullmatch(name):
                    with contextlib.suppress(FileNotFoundError):
                        found = entry.stat()
                        yield _File(Path(entry.path), name, found.st_size, found.st_mtime)


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """What lies in a folder; nothing if it cannot be listed."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return list(entries)
    return []


def _read(path: Path) -> bytes | None:
    """What a file holds, whose use is noted; None if it is not there or cannot be read now."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("%s cannot be read (%s) and is left out", path, error.strerror or error)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return data


def _packed(key: str, latents: Tensor, header: str) -> bytes:
    known = {"format": _CLIP_FORMAT, "key": key, "header": header}
    checked = {"sha256": digest({**known, "latents": latents})}
    return bytes(safetensors.torch.save({"latents": latents}, known | checked))


def _unpacked(key: str, data: bytes) -> tuple[Tensor, dict[str, Any]]:
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


def _set_aside(path: Path, error: Exception) -> None:
    logger.warning(
        "%s is damaged or foreign (%s: %s); it is set aside with the ending .damaged, and what it "
        "held is made anew", path, type(error).__name__, error,
    )  # fmt: skip
    with contextlib.suppress(OSError):
        os.replace(path, f"{path}.damaged")


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there as a whole or not at all, even when the power fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Its name is its own: another process may write the same file.
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _replace(partial, path)
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


def _replace(source: Path, target: Path) -> None:
    """As os.replace(), which Windows refuses for the moments that another process reads target."""
    for pause in _REPLACE_PAUSES:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            time.sleep(pause)
    os.replace(source, target)


def _plain_json(values: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(values), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"only plain JSON values are kept beside clips, and {error}") from None
