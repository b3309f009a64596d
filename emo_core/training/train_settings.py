"""How long, how fast and where to a stage is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainSettings:
    """How long, how fast and where to.

    Attributes:
        folder: receives STAGE.pt, STAGE.jsonl and sample sheets, named by the stage.
        steps: the step at which training ends; None for no limit.
        minutes: of training, over all resumptions, after which it ends; None for no limit.
        schedule_steps: steps over which the cosine falls; None for `steps`, and if that is None
            too the cosine follows the clock and reaches its floor after `minutes`.
        learning_rate: at the top of the schedule.
        floor: of the cosine, as a part of `learning_rate`.
        warm_up: steps of linear rise.
        weight_decay: of matrices and kernels; biases and norms have none.
        ema_decay: of the averaged weights.
        clip: largest norm of the gradient.
        seed: of the noise.
        bf16: whether to compute in bfloat16 where autocast allows it.
        device: "cpu", "cuda", ...
        log_every: steps between log lines.
        checkpoint_every: steps between checkpoints.
        checkpoint_minutes: minutes between checkpoints.
        sheet_every: steps between sample sheets.
    """

    folder: Path
    steps: int | None = None
    minutes: float | None = None
    schedule_steps: int | None = None
    learning_rate: float = 1e-3
    floor: float = 0.02
    warm_up: int = 100
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    clip: float = 1.0
    seed: int = 0
    bf16: bool = True
    device: str = "cpu"
    log_every: int = 20
    checkpoint_every: int = 500
    checkpoint_minutes: float = 5.0
    sheet_every: int = 500

    def __post_init__(self) -> None:
        """Refuse a run without an end."""
        if self.steps is None and self.minutes is None:
            raise ValueError("training needs an end: give steps, minutes or both")

    def rate(self, step: int, seconds: float) -> float:
        """Learning rate of a step that begins after `seconds` of training."""
        planned = self.schedule_steps or self.steps
        if planned is not None:
            progress = step / planned
        else:
            progress = seconds / (60 * float(self.minutes or 1))
        cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        rise = min(1.0, (step + 1) / max(self.warm_up, 1))
        return self.learning_rate * rise * (self.floor + (1 - self.floor) * cosine)
