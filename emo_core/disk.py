"""Files that appear whole or not at all, and what a killed process left of one."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # Windows, where no open file can be removed

    def _lock(file: BinaryIO) -> None:
        """Nothing: the system itself holds it."""

else:

    def _lock(file: BinaryIO) -> None:
        """Hold a file as long as its writer lives; raises OSError if another process does."""
        flock(file, LOCK_EX | LOCK_NB)


_SETTLED_SECONDS = 10.0
"""Between making a file and holding it there is a moment."""
_REPLACE_PAUSES = (0.02, 0.05, 0.1, 0.2)


def replace_file(source: Path, target: Path) -> None:
    """As os.replace(), which Windows refuses for the moments that another process reads target.

    Raises:
        PermissionError: if it still does so after a while.
    """
    for pause in _REPLACE_PAUSES:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            time.sleep(pause)
    os.replace(source, target)


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A file beside `path` to be written, which takes its place at the end or disappears."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        mask = os.umask(0)  # the only way to read it; safetensors lets nobody else read the file
        os.umask(mask)
        partial.chmod(0o666 & ~mask)
        replace_file(partial, path)
    finally:
        partial.unlink(missing_ok=True)


class Disk:
    """A file that remembers the first error of writing; libav overlooks some.

    While it is open, remove_left() of another process leaves it alone.

    Args:
        path: is made, or emptied.

    Raises:
        OSError: if it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.error: OSError | None = None
        self._file = path.open("w+b", buffering=0)
        with contextlib.suppress(OSError):  # a drive without locks, where none is removed either
            _lock(self._file)
        self.read, self.seek, self.tell = self._file.read, self._file.seek, self._file.tell

    def write(self, data: bytes) -> int:
        """Write all of the data.

        Raises:
            OSError: if it cannot be written; `error` keeps the first.
        """
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            self.error = self.error or error
            raise
        return len(data)

    def close(self) -> None:
        """Close the file when everything is on the disk."""
        if not self._file.closed:
            try:
                os.fsync(self._file.fileno())
            finally:
                self._file.close()


def reopened(url: str, flags: int, options: Any) -> BinaryIO:
    """What libav reads while it moves a film's index to the front."""
    return Path(url).open("rb")


def remove_left(folder: Path, name: re.Pattern[str]) -> None:
    """Remove files that Disk made and whose process was killed; whatever is in doubt stays.

    Args:
        folder: where they lie; others in it are not touched.
        name: matches the whole of their names.
    """
    with contextlib.suppress(OSError):
        for path in [path for path in folder.iterdir() if name.fullmatch(path.name)]:
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime < _SETTLED_SECONDS:
                    continue
                with path.open("r+b") as file:
                    _lock(file)
                path.unlink()
