"""Finished clips on disk by key, so that a film is never sampled twice and never lost.

A folder holds `<first two digits>/<key>.safetensors` for each clip and `films/<name>.json` for each
film. Several processes may share it: a file appears whole or not at all and is never changed after.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
from torch import Tensor

from .clip_files import (
    FILM_FILE,
    FILM_ID,
    FILMS,
    NOT_OURS,
    Manifest,
    evict,
    files_of,
    films_of,
    note_use,
    packed,
    packed_film,
    plain_json,
    read_used,
    set_aside,
    unpacked,
    unpacked_film,
    write_whole,
)

_LEFT_OVER_SECONDS = 24 * 60 * 60
_LISTING_SHARE = 16
_KEY = re.compile(r"[0-9a-f]{64}")
_KEPT_FILE = re.compile(
    rf"([0-9a-f]{{2}}/{_KEY.pattern}\.safetensors|{FILM_FILE.pattern})(\.damaged)?"
)
_PARTIAL_FILE = re.compile(rf"([0-9a-f]{{2}}|{FILMS})/\..+\.partial")


class Usage(NamedTuple):
    """What a store holds: bytes of all its files, and the number of clips."""

    num_bytes: int
    num_clips: int


def known_films(folder: Path) -> list[str]:
    """The names of the films that a store's folder knows, last used first; it may not exist."""
    files = sorted(films_of(folder), key=lambda file: file.used, reverse=True)
    return [str(FILM_FILE.sub(r"\1", file.name)) for file in files]


class ClipStore:
    """Keeps clips up to a size; those that were not used for longest go first.

    Reading also works in a folder that cannot be written. No error of the disk harms a clip in
    memory: whoever catches put()'s OSError goes on without the store.

    Args:
        folder: is made if it does not exist; on any drive.
        max_bytes: what its files may take together. It is exceeded by the newest file, by clips
            that are held, by files used in the last 60 s, which other processes may be about to
            use, and by a sixteenth for each further process that writes into the folder.

    Raises:
        OSError: if the folder cannot be made.
        ValueError: if max_bytes is below 1.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        if max_bytes < 1:
            raise ValueError(f"a store needs room for at least 1 byte, got {max_bytes}")
        self.folder, self.max_bytes = folder, max_bytes
        self._before_listing = 0
        self._held: frozenset[Path] = frozenset()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"the folder {folder} cannot be made ({error.strerror or error}); choose another"
            ) from error
        for file in files_of(folder, _PARTIAL_FILE):
            if abs(time.time() - file.used) > _LEFT_OVER_SECONDS:
                file.remove()

    def hold(self, keys: Iterable[str]) -> None:
        """Clips that stay whatever the bound: those of the film at work, in place of any before.

        A film larger than the bound would otherwise lose its begin before its end is made.
        """
        self._held = frozenset(self._clip_path(key) for key in keys)

    def check_writable(self) -> None:
        """Raise put()'s OSError before any work is done, if a small file cannot be written."""
        path = self.folder / FILMS / f".{secrets.token_hex(8)}.partial"
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
        data = packed(key, latents.detach().cpu().contiguous(), plain_json(header))
        if self._read_clip(key) is not None:
            return
        try:
            self._write(path, data)
        except OSError:
            # Windows replaces no file that another process reads; then the clip is there.
            if self._read_clip(key) is None:
                raise

    def get(self, key: str) -> Tensor | None:
        """A clip's latents (F, C, h, w) on the CPU, as they were put; None if they are not there.

        A file that is damaged, truncated or foreign is logged by name and set aside with the
        ending `.damaged`, and counts as not there.

        Args:
            key: of clip_keys.
        """
        found = self._read_clip(key)
        return None if found is None else found[0]

    def has(self, key: str) -> bool:
        """Whether a clip's file is there; whether it is whole, get() says."""
        return self._clip_path(key).is_file()

    def header(self, key: str) -> dict[str, Any] | None:
        """The plain values that were put beside a clip; None if it is not there."""
        found = self._read_clip(key)
        return None if found is None else found[1]

    def film_clips(self, keys: Iterable[str]) -> Iterator[Tensor]:
        """Yield a film's clips (F, C, h, w) in order up to the first that is not there."""
        for key in keys:
            latents = self.get(key)
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
        self._write(self._film_path(film_id), packed_film(film))

    def read_manifest(self, film_id: str) -> Manifest | None:
        """What is known of a film; None if there is nothing, or it is damaged and was set aside."""
        path = self._film_path(film_id)
        data = read_used(path)
        if data is None:
            return None
        try:
            return unpacked_film(data)
        except NOT_OURS as error:
            set_aside(path, error)
            return None

    def films(self) -> list[str]:
        """The films that are known, last used first."""
        return known_films(self.folder)

    def use_film(self, film_id: str) -> None:
        """Say that a film is being made or seen, so that it stays as long as its clips do."""
        note_use(self._film_path(film_id))

    def usage(self) -> Usage:
        """How much the store holds now, files of other processes included."""
        files = list(files_of(self.folder, _KEPT_FILE))
        clips = sum(file.name.endswith(".safetensors") for file in files)
        return Usage(sum(file.size for file in files), clips)

    def _clip_path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"a clip's key is 64 hexadecimal digits in lower case, got {key!r}")
        return self.folder / key[:2] / f"{key}.safetensors"

    def _film_path(self, film_id: str) -> Path:
        if not FILM_ID.fullmatch(film_id):
            raise ValueError(
                f"a film is named by 1 to 100 letters, digits, - and _, got {film_id!r}; "
                "clip_keys.digest() makes such a name of any text"
            )
        # Behind a prefix, since Windows has no files called con or nul.
        return self.folder / FILMS / f"film-{film_id}.json"

    def _read_clip(self, key: str) -> tuple[Tensor, dict[str, Any]] | None:
        path = self._clip_path(key)
        data = read_used(path)
        if data is None:
            return None
        try:
            return unpacked(key, data)
        except (*NOT_OURS, safetensors.SafetensorError) as error:
            set_aside(path, error)
            return None

    def _write(self, path: Path, data: bytes) -> None:
        try:
            write_whole(path, data)
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
        files = list(files_of(self.folder, _KEPT_FILE))
        total, share = sum(file.size for file in files), self.max_bytes // _LISTING_SHARE
        if total > self.max_bytes:
            aim = self.max_bytes - share
            total = evict(files, lambda path: path == newest or path in self._held, aim)
        # Where a film is larger than the bound, the folder is not listed for every clip either.
        left = self.max_bytes - total
        self._before_listing = min(share, left) if left > 0 or not self._held else share
