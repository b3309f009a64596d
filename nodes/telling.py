"""What a sampling node says while it runs: what the film needs, the clip at work, the time left."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..emo_core.clips import ClipPlan
from ..emo_core.forecast import Room, forecast, step_bytes, what_does_not_fit
from ..emo_core.pace import Pace, minutes
from ..emo_core.pictures import Size
from ..emo_core.sampling import Guidance
from .clip_sampler import Settings
from .host import EMOParts, free_memory, parts_of, show_text

logger = logging.getLogger(__name__)

_GUIDANCE = (Guidance(1.0), Guidance(2.0), Guidance(2.0, 2.0))
"""With one, two and three branches."""


class Telling:
    """Tells the node's text and the log.

    Args:
        model: MODEL.
        settings: widgets and sockets of the node.
        total_clips: clips of the whole film.
        to_sample: how many of them are not there yet.
    """

    def __init__(self, model: Any, settings: Settings, total_clips: int, to_sample: int) -> None:
        self._model, self._settings, self._total = model, settings, total_clips
        self._to_sample = to_sample
        self._pace = Pace(to_sample, settings.num_steps)
        self._line = ""
        self.warnings: list[str] = []

    def foresee(self, num_frames: int, size: Size, folder: Path | None) -> None:
        """Count what the film needs, before its first step.

        Args:
            num_frames: of the film.
            size: its rows and columns in pixels.
            folder: where clips are kept; None if they are not.
        """
        if not self._to_sample:
            return
        parts, device = parts_of(self._model), self._model.load_device
        step = self._step(parts, size)
        needs = forecast(parts.config, step, num_frames, self._to_sample, size)
        cpu = torch.device("cpu")
        room = Room(free_memory(device), free_memory(cpu), _free_disk(folder), device.type == "cpu")
        self.warnings = what_does_not_fit(needs, room)
        verb = "is" if self._to_sample == 1 else "are"
        said = f"{self._to_sample} of {counted(self._total)} {verb} to be sampled, which {needs}"
        logger.info(said)
        for warning in self.warnings:
            logger.warning(warning)
        self._show(said)

    def begin(self, plan: ClipPlan, found: int) -> None:
        """A clip is sampled from now on, and `found` were there."""
        rate = parts_of(self._model).config.frame_rate
        self._line = (
            f"clip {plan.index + 1} of {self._total}, {_clock(plan.first / rate)}-"
            f"{_clock((plan.first + plan.kept) / rate)}, {found} from cache"
        )
        self._pace.begin()
        logger.info(self._with_time(0))
        self._show(self._with_time(0))

    def step(self, done: int) -> None:
        """So many steps of the clip are done."""
        self._pace.step(done)
        self._show(self._with_time(done))

    def end(self) -> None:
        """The clip is sampled."""
        self._pace.end()

    def _with_time(self, done: int) -> str:
        left = self._pace.remaining(done)
        return self._line if left is None else f"{self._line}, about {minutes(left)} left"

    def _show(self, text: str) -> None:
        show_text("\n".join([text, *self.warnings]))

    def _step(self, parts: EMOParts, size: Size) -> Any:
        guider = self._settings.guider
        branches = 1 + (self._settings.cfg != 1)
        if guider is not None:
            branches = min(len(guider.original_conds), len(_GUIDANCE))
        counted = step_bytes(
            parts.config, _GUIDANCE[branches - 1], parts.compute_dtype, size
        )
        # As they are kept, which may be another precision, and with what patches add.
        weights = self._model.model_size() + parts.conditioner.model_size()
        return replace(counted, weights=weights)


def _free_disk(folder: Path | None) -> int | None:
    """None also for a drive that is gone, which the store says itself."""
    try:
        return None if folder is None else shutil.disk_usage(folder).free
    except OSError:
        return None


def counted(clips: int) -> str:
    """A number of clips for people."""
    return f"{clips} clip" if clips == 1 else f"{clips} clips"


def _clock(seconds: float) -> str:
    """Minutes, seconds and hundredths, as 0:02.24."""
    hundredths = round(seconds * 100)
    return f"{hundredths // 6000}:{hundredths // 100 % 60:02}.{hundredths % 100:02}"
