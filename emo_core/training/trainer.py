"""The trainer of the VAE and the paper's stages: a step follows from the seed and its number.

Batches and noise are drawn from (seed, step), so the order of the data needs no state: a run of a
given number of steps that is stopped and resumed takes the same steps as one that never stopped. (A
run limited by minutes alone follows the clock in its learning rate too.) `accelerate` spreads the
work over devices where it is installed; on one device plain torch does the same.
"""

import json
import logging
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

Batch = Mapping[str, Tensor]


def stream_seed(seed: int, draw: int, stream: Literal["noise", "data"]) -> int:
    """Seed of one draw: data and noise must not read the same numbers, or one tells the other."""
    return 2 * (seed * 1_000_003 + draw) + (stream == "data")


class Stage(ABC):
    """What a stage of training gives to the trainer.

    Attributes:
        name: of its files and log lines.
        modules: everything that has weights; what requires a gradient is trained.
    """

    name: str
    modules: nn.ModuleDict

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


class _Step(nn.Module):
    """A stage as one module, so that `accelerate` can wrap its weights and its loss together."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.modules_of_stage = stage.modules
        self.loss = stage.loss

    def forward(
        self, batch: Batch, generator: torch.Generator, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self.loss(batch, generator, step)


class Trainer:
    """Drives one stage from its start, or from its last checkpoint, to its end."""

    def __init__(self, stage: Stage, settings: TrainSettings) -> None:
        """Prepare the optimizer and resume from `settings.folder` if a checkpoint lies there."""
        self.stage, self.settings = stage, settings
        self.step, self.seconds = 0, 0.0
        self._saved = (0, 0.0)
        self._accelerator = _accelerator(settings)
        self.device = torch.device(
            settings.device if self._accelerator is None else self._accelerator.device
        )
        stage.modules.to(self.device)
        self._trained = {n: p for n, p in stage.modules.named_parameters() if p.requires_grad}
        self._ema = {name: p.detach().clone() for name, p in self._trained.items()}
        trained = list(self._trained.values())
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.dim() > 1]},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(
            groups,
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=settings.weight_decay,
        )
        self._driver: nn.Module = _Step(stage)
        settings.folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self._resume()
        if self._accelerator is not None:
            self._driver = self._accelerator.prepare(self._driver)

    @property
    def checkpoint(self) -> Path:
        """Where the run's state is kept."""
        return self.settings.folder / f"{self.stage.name}.pt"

    def run(self) -> None:
        """Train until the settings' steps or minutes are reached, then save."""
        settings = self.settings
        self._driver.train()
        began, logs = time.monotonic() - self.seconds, list[dict[str, Tensor]]()
        while not self._finished():
            rate = settings.rate(self.step, self.seconds)
            logs.append(self._train_step(rate))
            self.step += 1
            self.seconds = time.monotonic() - began
            if self.step % settings.log_every == 0 or self._finished():
                self._log(logs, rate)
                logs = []
            if self.step % settings.sheet_every == 0 or self._finished():
                self._sheet()
            if self._due():
                self.save()
        self.save()

    def _finished(self) -> bool:
        settings = self.settings
        return (settings.steps is not None and self.step >= settings.steps) or (
            settings.minutes is not None and self.seconds >= 60 * settings.minutes
        )

    def _due(self) -> bool:
        step, seconds = self._saved
        return (
            self.step - step >= self.settings.checkpoint_every
            or self.seconds - seconds >= 60 * self.settings.checkpoint_minutes
        )

    def _train_step(self, rate: float) -> dict[str, Tensor]:
        world, rank = 1, 0
        if self._accelerator is not None:
            world, rank = self._accelerator.num_processes, self._accelerator.process_index
        draw = self.step * world + rank
        batch = {name: t.to(self.device) for name, t in self.stage.batch(draw).items()}
        generator = torch.Generator(self.device).manual_seed(
            stream_seed(self.settings.seed, draw, "noise")
        )
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bf16):
            loss, parts = self._driver(batch, generator, self.step)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of step {self.step} of {self.stage.name} is {loss}")
        if self._accelerator is None:
            loss.backward()
        else:
            self._accelerator.backward(loss)
        nn.utils.clip_grad_norm_(self._trained.values(), self.settings.clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._average()
        return {"loss": loss.detach(), **{name: t.detach() for name, t in parts.items()}}

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged weights; faster at the start, so that they forget the random ones."""
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        live = [p.detach() for p in self._trained.values()]
        torch._foreach_lerp_(list(self._ema.values()), live, 1 - decay)

    @torch.no_grad()
    def swap_averaged(self) -> None:
        """Exchange the trained with the averaged weights; a second call exchanges them back."""
        for name, parameter in self._trained.items():
            kept = parameter.detach().clone()
            parameter.copy_(self._ema[name])
            self._ema[name].copy_(kept)

    def _log(self, logs: list[dict[str, Tensor]], rate: float) -> None:
        parts = {name: float(sum(log[name] for log in logs) / len(logs)) for name in logs[0]}
        line = {"step": self.step, **parts, "rate": rate, "seconds": round(self.seconds, 2)}
        if not self._is_main():
            return
        line.update(self._averaged(self.stage.measure))
        with (self.settings.folder / f"{self.stage.name}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        logger.info("%s", json.dumps(line))

    def _sheet(self) -> None:
        if self._is_main():
            path = self.settings.folder / f"{self.stage.name}-{self.step:06d}.png"
            self._averaged(lambda: self.stage.sample_sheet(path))

    def _averaged(self, act: Any) -> Any:
        """Call `act` with averaged weights, in evaluation mode, without gradients."""
        self.swap_averaged()
        self.stage.modules.eval()
        try:
            with torch.no_grad():
                return act()
        finally:
            self.stage.modules.train()
            self.swap_averaged()

    def _is_main(self) -> bool:
        return self._accelerator is None or bool(self._accelerator.is_main_process)

    def save(self) -> None:
        """Write the checkpoint: under another name first, so that no half-written one is left."""
        self._saved = (self.step, self.seconds)
        if not self._is_main():
            return
        state = {
            "modules": self.stage.modules.state_dict(),
            "averaged": self._ema,
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "random": torch.get_rng_state(),
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.stage.modules.load_state_dict(state["modules"])
        for name, tensor in state["averaged"].items():
            self._ema[name].copy_(tensor)
        self._optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"].cpu())
        self.step, self.seconds = state["step"], state["seconds"]
        self._saved = (self.step, self.seconds)
        logger.info("resumed %s at step %d", self.stage.name, self.step)


def _accelerator(settings: TrainSettings) -> Any:
    """An Accelerator where accelerate is installed, else None."""
    if find_spec("accelerate") is None:
        return None
    from accelerate import Accelerator

    return Accelerator(cpu=settings.device == "cpu")
