"""Measurements on a film: lip sync, head speed, identity, joins and drift.

The paper (EMO, "Experiments") measures FID, SyncNet, F-SIM, FVD and Expression-FID with networks
for real faces. Here the mouth, the head and the appearance are read by the meters of the puppet
world (`training/meters.py`), whose truth is known; on pictures of anybody but puppets the figures
are proxies, and the result says so. Speeds are in degrees per frame at 30 fps whatever the rate
of the film, as everywhere in this project.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .figures import PROXY_FIGURES, PUPPET_FIGURES
from .measurements import (
    best_lag,
    drift,
    head_speed_of,
    join_jump,
    loudness_of,
    pearson,
    sharpness,
)
from .pictures import fit_portrait, read_picture
from .truth import Truth, read_truth

logger = logging.getLogger(__name__)

_DRIFT_SECONDS = 10  # below, the first and the last 5 s would be the same frames


class Read(Protocol):
    """What meters say about F frames (see `training.meters.Readings`)."""

    @property
    def mouth(self) -> Tensor:
        """(F, 2), openness and width."""

    @property
    def pose(self) -> Tensor:
        """(F, 3), yaw, pitch and roll in degrees."""

    @property
    def identity(self) -> Tensor:
        """(F, D), appearance."""


class Meters(Protocol):
    """Anything that reads films; `training.meters.PuppetMeter` is one."""

    def read(self, frames: Tensor) -> Read:
        """Read (F, 3, H, W) frames."""

    def identity_error(self, identity: Tensor, reference: Tensor) -> Tensor:
        """Compare appearances (..., D); 0 is the same."""


def load_meters() -> Meters:
    """Load the meters of the puppet world from the training package.

    Returns:
        The trained meter.

    Raises:
        FileNotFoundError: if this installation has no training package, or no trained meter.
    """
    try:
        module = import_module(".training.meters", __package__)
    except ModuleNotFoundError as error:
        if "training" not in (error.name or ""):
            raise
        raise FileNotFoundError(
            "the meters of the puppet world are in emo_core/training, which this installation "
            "leaves out; evaluate from a checkout of the repository"
        ) from error
    meter: Meters = module.load_meter()
    return meter


def evaluate_film(
    frames: Tensor,
    fps: Fraction,
    portrait: Tensor,
    sound: tuple[Tensor, int],
    truth: Truth | None = None,
    clips: int | Sequence[int] | None = None,
    meters: Meters | None = None,
) -> dict[str, Any]:
    """Measure a film.

    Args:
        frames: (F, 3, H, W), float 0..1 or uint8.
        fps: frames per second.
        portrait: (3, H, W), the picture the film was made from, framed like the film.
        sound: waveform (C, T) or (T,) and samples per second.
        truth: what is true, for a film of a puppet whose truth is known.
        clips: frames of a clip, or where clips meet (see `join_jump`), for the jump at joins.
        meters: what reads the film; by default that of the training package.

    Returns:
        Plain numbers, None where one cannot be given, and the sentence `figures` that says what
        they are worth. `figures.FIGURES` names each with its unit.

    Raises:
        ValueError: if the film has no frames.
        FileNotFoundError: if meters are wanted and not installed.
    """
    if frames.ndim != 4 or len(frames) == 0:
        raise ValueError(
            f"frames must have the shape (F, 3, H, W) with F at least 1, got {tuple(frames.shape)}"
        )
    meters = meters or load_meters()
    waveform, rate = sound
    read = meters.read(frames)
    own = meters.read(portrait[None]).identity
    errors = meters.identity_error(read.identity, own)
    expected = math.ceil(waveform.shape[-1] * Fraction(fps) / rate)
    _compare_lengths(len(frames), expected, "its sound")
    speed = head_speed_of(read.pose, fps)
    result: dict[str, Any] = {
        "figures": PUPPET_FIGURES if truth else PROXY_FIGURES,
        "frames": len(frames),
        "frames_of_the_sound": expected,
        "fps": float(fps),
        "identity_error": float(errors.mean()),
        "identity_drift": drift(errors, fps) if len(frames) >= _DRIFT_SECONDS * fps else math.nan,
        "head_speed": float(speed.mean()),
        "sharpness": sharpness(frames),
    }
    if truth is None:
        loudness = loudness_of(waveform, rate, fps, len(frames))
        result |= _follow("mouth_against_loudness", read.mouth[:, 0], loudness)
    else:
        _compare_lengths(len(frames), math.ceil(len(truth.mouth) * fps / truth.fps), "the truth")
        result |= _against_truth(read, truth.at(Fraction(fps), len(frames)), fps)
    if clips:
        jump = join_jump(frames, clips)
        result |= {"join_jump": jump.joins, "inside_jump": jump.inside, "join_ratio": jump.ratio}
    return {name: _plain(value) for name, value in result.items()}


def _compare_lengths(count: int, other: int, what: str) -> None:
    if abs(count - other) > 1:
        logger.warning(
            "the film has %d frames, but %s asks for %d: do they belong together?",
            count, what, other,
        )  # fmt: skip


def _follow(name: str, measured: Tensor, wanted: Tensor) -> dict[str, float]:
    lag, score = best_lag(measured, wanted)
    return {
        f"{name}_r": pearson(measured, wanted),
        f"{name}_best_lag": math.nan if math.isnan(score) else lag,
        f"{name}_best_lag_r": score,
    }


def _against_truth(read: Read, truth: Truth, fps: Fraction) -> dict[str, float]:
    count = len(truth.mouth)
    mouth, pose = read.mouth[:count], read.pose[:count]
    spread = float(truth.mouth[:, 0].std()) if count > 1 else 0.0
    amplitude = float(mouth[:, 0].std()) / spread if spread > 1e-6 else math.nan
    return {
        **_follow("mouth_openness", mouth[:, 0], truth.mouth[:, 0]),
        "mouth_openness_amplitude": amplitude,
        "mouth_openness_mean": float(mouth[:, 0].mean()),
        "mouth_width_r": pearson(mouth[:, 1], truth.mouth[:, 1]),
        "head_speed_of_truth": float(head_speed_of(truth.pose, fps).mean()),
        "pose_difference": float((pose - truth.pose).square().mean().sqrt()),
    }


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluate_file(
    video: Path, portrait: Path, sound: Path, truth: Path | None = None
) -> dict[str, Any]:
    """Measure a film in a file.

    Args:
        video: a film PyAV reads; where its clips meet is taken from its metadata.
        portrait: the picture it was made from; cut as `emo animate` does if the shapes differ.
        sound: its sound, or any film or sound PyAV reads.
        truth: truth.json of a puppet film.

    Returns:
        As `evaluate_film`.

    Raises:
        OSError: if a file is missing or unreadable.
        ValueError: if a file is not what it should be.
    """
    files = import_module(".video", __package__)
    known = read_truth(truth) if truth else None
    frames, fps, metadata = files.read_video(video)
    frames = torch.as_tensor(frames).permute(0, 3, 1, 2)
    picture = fit_portrait(read_picture(portrait), (frames.shape[-2], frames.shape[-1])).picture
    clips = _clips(metadata)
    return evaluate_film(frames, Fraction(fps), picture, files.read_sound(sound), known, clips)


def _clips(metadata: Mapping[str, Any]) -> int | list[int] | None:
    """Find the clips that `emo animate` wrote down, plain or as JSON in the comment."""
    notes: dict[str, Any] = dict(metadata)
    with contextlib.suppress(ValueError, TypeError):  # a comment of somebody else
        notes |= json.loads(str(metadata.get("comment", "{}")))
    starts, shared = notes.get("clip_starts"), notes.get("clip_shared", 0)
    if isinstance(starts, list) and all(isinstance(value, int) for value in [shared, *starts]):
        return [first + step for first in starts if first for step in range(shared + 1)]
    value = str(notes.get("clip_length", ""))
    return int(value) if value.isdigit() and int(value) > 0 else None
