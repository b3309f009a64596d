"""A file that libav writes to, and that remembers what went wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO


class Disk:
    """A file that remembers the first error of writing; libav overlooks some.

    Args:
        path: is made, or emptied.

    Raises:
        OSError: if it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.error: OSError | None = None
        self._file = path.open("w+b", buffering=0)
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
