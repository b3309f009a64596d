"""A film's frames as one tensor that the memory need not hold: a file of its own, mapped."""

from __future__ import annotations

import logging
import math
import mmap
import tempfile
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

IN_MEMORY = 1 << 24
"""Bytes up to which frames stay in memory: ten seconds of latents at 512x512."""

_PIECE = 1 << 20

logger = logging.getLogger(__name__)


class Spool:
    """Takes a film's frames in order and gives them back as one tensor; a context manager.

    A longer film lies in a file without a name, of which the tensor is a view that the system
    reads as it is used. Nobody else can open, change or remove that file, and it is gone with the
    tensor, also when the process is killed. Changes to the tensor do not reach it. What cannot be
    written stays in memory, and a warning says so.

    Args:
        folder: where the file is made, on a drive that does not go away: a network that does ends
            the process that reads. None to keep all frames in memory.
        in_memory: bytes of frames up to which no file is made.
    """

    def __init__(self, folder: Path | None, in_memory: int = IN_MEMORY) -> None:
        self._folder, self._in_memory = folder, in_memory
        self._frames: list[Tensor] = []
        self._waiting = self._written = 0
        self._file: IO[bytes] | None = None
        self._kind: tuple[torch.dtype, torch.Size] | None = None
        self.num_frames = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, frames: Tensor) -> None:
        """Take the next frames.

        Args:
            frames: (f, C, h, w), all of one dtype and size; they are not changed later.
        """
        frames = frames.detach().cpu().contiguous()
        self._frames.append(frames)
        self.num_frames += len(frames)
        self._waiting += frames.nbytes
        if self._file is not None or self._waiting > self._in_memory:
            self._write()

    def frames(self) -> Tensor:
        """All frames so far (F, C, h, w); they stay when the spool is closed.

        Raises:
            ValueError: if there are none.
        """
        if not self.num_frames:
            raise ValueError("a film without frames has no tensor; append some first")
        parts = [*self._mapped(), *self._frames]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _write(self) -> None:
        """Move the frames that wait into the file; if that fails they stay where they are."""
        folder, written = self._folder, self._written
        if folder is None:
            return
        try:
            if self._file is None:
                folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
            for frames in self._frames:
                rest = frames.reshape(-1).view(torch.uint8).numpy().data
                while rest:
                    count = self._file.write(rest)
                    written, rest = written + count, rest[count:]
        except OSError as error:
            logger.warning(
                "the film's latents cannot be written to the folder %s (%s) and stay in memory, of "
                "which they need more with every clip; make room there", folder,
                error.strerror or error,
            )  # fmt: skip
            self._folder = None
            return
        self._kind = (frames.dtype, frames.shape[1:])
        self._written, self._waiting = written, 0
        self._frames.clear()

    def _mapped(self) -> list[Tensor]:
        """The frames in the file, or nothing."""
        if self._file is None or self._kind is None:
            return []
        content: mmap.mmap | bytearray
        try:
            # Copy on write: others change tensors in place, and a read-only page ends the process.
            content = mmap.mmap(self._file.fileno(), self._written, access=mmap.ACCESS_COPY)
        except OSError as error:
            logger.warning(
                "the film's latents in the folder %s cannot be mapped (%s) and are read into the "
                "memory; choose a folder on a drive of this computer", self._folder,
                error.strerror or error,
            )  # fmt: skip
            content = self._content()
        dtype, shape = self._kind
        count = self._written // dtype.itemsize
        frames = torch.frombuffer(content, dtype=dtype, count=count)
        return [frames.view(count // math.prod(shape), *shape)]

    def _content(self) -> bytearray:
        assert self._file is not None
        self._file.seek(0)
        content = bytearray()
        while len(content) < self._written:
            content += self._file.read(min(_PIECE, self._written - len(content)))
        self._file.seek(self._written)
        return content
