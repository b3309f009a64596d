"""The trainer of all stages: a step follows from the seed and its number.

Batches and noise are drawn from (seed, step), so the order of the data needs no state: a run of a
given number of steps that is stopped and resumed takes the same steps as one that never stopped. (A
run limited by minutes alone follows the clock in its learning rate too.) `accelerate` spreads the
work over devices where it is installed; on one device plain torch does the same.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .origins import check_origin
from .resume import optimizer_by_order, parameter_groups, saved_names
from .stage import Batch, Stage, stream_seed
from .train_settings import TrainSettings

logger = logging.getLogger(__name__)


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
        self._names = parameter_groups(self._trained)
        matrices, vectors = ([self._trained[name] for name in group] for group in self._names)
        groups: list[dict[str, Any]] = [
            {"params": matrices},
            {"params": vectors, "weight_decay": 0.0},
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

    @property
    def _journal(self) -> Path:
        return self.settings.folder / f"{self.stage.name}.jsonl"

    def run(self) -> None:
        """Train until the settings' steps or minutes are reached, then save."""
        settings = self.settings
        self._driver.train()
        began, logs = time.monotonic() - self.seconds, list[dict[str, Tensor]]()
        while not self._finished():
            rate = settings.rate(self.step, self.seconds)
            logs.append(self._train_step(rate))
            self.step += 1
            self.seconds = self._agreed(time.monotonic() - began)
            if self.step % settings.log_every == 0 or self._finished():
                self._log(logs, rate)
                logs = []
            if self.step % settings.sheet_every == 0 or self._finished():
                self._sheet()
            if self._due():
                self.save()
        self.save()

    def _agreed(self, seconds: float) -> float:
        """The first process's clock: all end and slow down at the same step."""
        if self._accelerator is None or self._accelerator.num_processes == 1:
            return seconds
        from accelerate.utils import broadcast

        return float(broadcast(torch.tensor([seconds], device=self.device)))

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
        if loss.requires_grad:  # else chance dropped everything that is trained, in every sample
            backward = Tensor.backward if self._accelerator is None else self._accelerator.backward
            backward(loss)
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
        parts = {name: _mean([log[name] for log in logs]) for name in logs[0]}
        line = {"step": self.step, **parts, "rate": rate, "seconds": round(self.seconds, 2)}
        if not self._is_main():
            return
        line.update(self._averaged(self.stage.measure))
        with self._journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        logger.info("%s", json.dumps(line))

    def logged(self) -> list[dict[str, Any]]:
        """All lines of the log, the last the latest."""
        if not self._journal.exists():
            return []
        return [json.loads(line) for line in self._journal.read_text("utf-8").splitlines()]

    def _forget_later_steps(self) -> None:
        """Take steps out of the log that were taken after the checkpoint and will be again."""
        known = [json.dumps(line) for line in self.logged() if line["step"] <= self.step]
        if known and self._is_main():
            self._journal.write_text("\n".join(known) + "\n", encoding="utf-8")

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
            "names": self._names,
            "origin": dict(self.stage.origin),
            "step": self.step,
            "seconds": self.seconds,
            "random": torch.get_rng_state(),
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if "start" in (state.get("origin") or {}) and "start" not in self.stage.origin:
            raise ValueError(f"{self.checkpoint} began with --start; give it again to go on")
        check_origin(str(self.checkpoint), state.get("origin"), self.stage.origin)
        self.stage.modules.load_state_dict(state["modules"])
        for name, tensor in state["averaged"].items():
            self._ema[name].copy_(tensor)
        optimizer = optimizer_by_order(state["optimizer"], saved_names(state), self._names)
        self._optimizer.load_state_dict(optimizer)
        torch.set_rng_state(state["random"].cpu())
        self.step, self.seconds = state["step"], state["seconds"]
        self._saved = (self.step, self.seconds)
        self._forget_later_steps()
        logger.info("resumed %s at step %d", self.stage.name, self.step)


def _mean(values: list[Tensor]) -> float | None:
    """The mean of what the steps measured; None if no step could (nan)."""
    mean = float(torch.stack(values).nanmean())
    return None if math.isnan(mean) else mean


def _accelerator(settings: TrainSettings) -> Any:
    """An Accelerator where accelerate is installed, else None."""
    if find_spec("accelerate") is None:
        return None
    from accelerate import Accelerator, DistributedDataParallelKwargs

    # Which parameters take part changes from step to step: single frames pass by the temporal ones.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=settings.device == "cpu", kwargs_handlers=[unused])
