"""The report's journal: the figures of every film, in a file as soon as they are known."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .bench import Measured

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """What was measured, and by what.

    Attributes:
        checkpoint: digest of the model.
        meter: digest of the meter.
    """

    checkpoint: str = ""
    meter: str = ""


class Journal:
    """Films that were measured before, and those that are measured now.

    A line is a film: row, voice, index, the digests of `Origin`, and its figures; those without a
    value are null.

    Args:
        path: a JSONL file, which is read and appended to; None keeps films in memory alone.
        origin: films of other checkpoints or meters in the file are not seen.
    """

    def __init__(self, path: Path | None, origin: Origin) -> None:
        self.path, self.origin = path, origin
        self._films: dict[tuple[str, str, int], Measured] = {}
        if path is not None and path.exists():
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                self._remember(line, number)

    def find(self, row: str, voice: str, index: int) -> Measured | None:
        """Return a film's figures if it was measured before."""
        return self._films.get((row, voice, index))

    def add(self, row: str, voice: str, index: int, measured: Measured) -> None:
        """Keep a film's figures; they are in the file when this returns."""
        self._films[row, voice, index] = measured
        if self.path is None:
            return
        line = {
            "row": row, "voice": voice, "index": index, "checkpoint": self.origin.checkpoint,
            "meter": self.origin.meter, "film": _plain(measured.film),
            "ceiling": _plain(measured.ceiling),
        }  # fmt: skip
        with self.path.open("a+b") as file:
            file.seek(0, 2)
            if file.tell() > 0:  # a line that was cut off must not swallow the next one
                file.seek(-1, 2)
                file.write(b"" if file.read(1) == b"\n" else b"\n")
            file.write(json.dumps(line).encode() + b"\n")

    def _remember(self, text: str, number: int) -> None:
        try:
            line: dict[str, Any] = json.loads(text)
            key = (line["row"], line["voice"], int(line["index"]))
            measured = Measured(_numbers(line["film"]), _numbers(line["ceiling"]))
            origin = Origin(line["checkpoint"], line["meter"])
        except (ValueError, KeyError, TypeError, AttributeError):
            logger.warning("%s, line %d is not a whole film; it is left out", self.path, number)
            return
        if origin == self.origin:
            self._films[key] = measured


def _plain(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _numbers(figures: dict[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in figures.items()}
