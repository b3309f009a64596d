"""What a stage of training gives to the trainer: batches, a loss, and what to measure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

Batch = Mapping[str, Tensor]


def stream_seed(seed: int, draw: int, stream: Literal["noise", "data"]) -> int:
    """Seed of one draw: data and noise must not read the same numbers, or one tells the other."""
    return 2 * (seed * 1_000_003 + draw) + (stream == "data")


class Stage(ABC):
    """What a stage of training gives to the trainer.

    Attributes:
        name: of its files and log lines.
        modules: everything that has weights; what requires a gradient is trained.
        origin: digests of the files that it starts from (see `origins.py`), for its checkpoints.
    """

    name: str
    modules: nn.ModuleDict
    origin: Mapping[str, str] = {}

    @abstractmethod
    def batch(self, draw: int) -> Batch:
        """Draw a batch from the stage's seed and the number of the draw alone (CPU tensors)."""

    @abstractmethod
    def loss(
        self, batch: Batch, generator: torch.Generator, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar to minimise and its parts for the log.

        Args:
            batch: of `batch`, on the device.
            generator: on the device, seeded from (seed, step): all noise comes from it.
            step: its number, from 0.
        """

    def measure(self) -> dict[str, float]:
        """Measure on unseen data with the averaged weights; runs at every log line."""
        return {}

    def sample_sheet(self, path: Path) -> None:  # noqa: B027 - a stage may show nothing
        """Draw a picture that shows what the stage can do, with the averaged weights."""
