"""How a puppet moves to its sound: head, gaze, blinks and brows.

EMO, "Speed Layers" and its figures: the head, the brows and the eyes of a speaker follow the
sound, with much that the sound does not decide. In the puppet world both halves are known: head
speed follows loudness and onsets along a random path, brows follow pitch and stress, blinks
prefer pauses. The paper has no such world; every constant here is ours.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

from ..measurements import head_speed_of
from .sound_drivers import (
    FRAME_RATE,
    Array,
    Drivers,
    as_tensor,
    brow_emphasis,
    drivers,
    gaussian,
    head_energy,
    smooth,
)

__all__ = [
    "FRAME_RATE",
    "POSE_LIMITS",
    "SPEED_RANGE",
    "Drivers",
    "act",
    "brow_emphasis",
    "drivers",
    "film_speed",
    "head_energy",
    "head_speed",
    "truth",
]

SPEED_RANGE = (0.09, 1.5)  # a film's own head speed while it speaks, degrees per frame at 30 fps
POSE_LIMITS = (18.0, 10.0, 8.0)  # yaw, pitch, roll in degrees
NUM_CONTROLS = 14

_YAW, _PITCH, _ROLL, _TX, _TY, _SCALE, _OPEN, _BLINK, _GAZE_X, _GAZE_Y, _BROW = (
    *range(7), 10, 11, 12, 13,
)  # fmt: skip
_PATH_SIGMA = 12  # grid points over which the head's path stays smooth
_BLINKS = ((0.6, 1.0, 0.5), (0.5, 1.0, 0.95, 0.4), (0.4, 0.95, 1.0, 0.7, 0.3))
_POSE_SHARE = np.array([1.0, 0.55, 0.45])  # how far pitch and roll go, relative to yaw


def act(mouth: Tensor, heard: Drivers, seed: int) -> Tensor:
    """Let a puppet perform its sound: head, gaze, blinks and brows around a given mouth.

    The head follows a smooth random path at a speed that the sound sets; the film's own speed is
    drawn log-uniformly from SPEED_RANGE, and range and sway grow with it. In silence the head
    nearly rests. The same seed acts the same; a longer film begins like a shorter one.

    Args:
        mouth: (F, 4) open, width, teeth, tongue.
        heard: drivers of the sound, F frames.
        seed: of this film's acting.

    Returns:
        (F, 14) controls of `puppets.CONTROLS`.

    Raises:
        ValueError: if mouth and drivers disagree about the number of frames.
    """
    num_frames = heard.loudness.shape[0]
    if mouth.shape != (num_frames, 4):
        raise ValueError(
            f"mouth must be ({num_frames}, 4) to fit the drivers, got {tuple(mouth.shape)}; "
            "make both from the same sound"
        )
    controls = np.zeros((num_frames, NUM_CONTROLS))
    controls[:, _YAW : _SCALE + 1] = _head(heard, seed)
    controls[:, _OPEN : _OPEN + 4] = mouth.detach().cpu().numpy()
    emphasis = brow_emphasis(heard).numpy()
    mood = _rng(seed, 20).uniform(-0.2, 0.1)
    restless = 0.08 * _noise(_rng(seed, 21), num_frames, 15)
    controls[:, _BROW] = np.clip(mood + 0.95 * emphasis + restless, -1, 1)
    controls[:, _BLINK] = _lids(heard, emphasis, seed)
    controls[:, _GAZE_X : _GAZE_Y + 1] = _gaze(controls[:, :2], seed)
    return as_tensor(controls)


def film_speed(seed: int) -> float:
    """Draw a film's own head speed while it speaks, in degrees per frame at 30 fps."""
    low, high = SPEED_RANGE
    return float(low * (high / low) ** _rng(seed, 0).random())


def head_speed(controls: Tensor) -> Tensor:
    """Measure the head's rotation between frames, in degrees per frame at 30 fps.

    EMO, "Speed Layers": the unit of head speed everywhere in this project. The angle between
    frames at 25 fps is multiplied by 25 / 30; frame 0 repeats frame 1.

    Args:
        controls: (F, 3 or more); yaw, pitch, roll in degrees at 25 fps.

    Returns:
        (F,) float32.
    """
    return head_speed_of(controls[:, :3], FRAME_RATE, window=1)


def truth(identity_seed: int, controls: Tensor, boxes: Tensor) -> dict[str, Any]:
    """Write down what a film really shows, in the layout of truth.json.

    Args:
        identity_seed: the puppet's seed.
        controls: (F, 14).
        boxes: (F, 4) face boxes x, y, w, h as fractions of the picture.

    Returns:
        {"fps": 25, "seed": ..., "frames": [{"open", "width", "yaw", "pitch", "roll", "brow",
        "blink", "box"}, ...]}; angles in degrees.
    """
    names = {"open": _OPEN, "width": _OPEN + 1, "yaw": _YAW, "pitch": _PITCH, "roll": _ROLL,
             "brow": _BROW, "blink": _BLINK}  # fmt: skip
    frames = []
    for row, box in zip(controls.tolist(), boxes.tolist(), strict=True):
        frame: dict[str, Any] = {name: round(row[column], 4) for name, column in names.items()}
        frame["box"] = [round(side, 4) for side in box]
        frames.append(frame)
    return {"fps": FRAME_RATE, "seed": identity_seed, "frames": frames}


def _head(heard: Drivers, seed: int) -> Array:
    """Move the head: (F, 6) yaw, pitch, roll, tx, ty, scale."""
    num_frames = heard.loudness.shape[0]
    own = film_speed(seed)
    reach = 2.7 * (own / 0.09) ** 0.4  # degrees of yaw, one standard deviation
    energy = head_energy(heard).numpy()
    whim = np.exp(0.25 * _noise(_rng(seed, 1), num_frames, 10))
    pace = own * 30 / FRAME_RATE * (0.06 + 2.0 * energy) * whim  # degrees per frame at 25 fps
    travel = np.cumsum(pace)

    usual = 0.9 * reach / (math.sqrt(2) * _PATH_SIGMA)  # degrees a grid point
    length = int(travel[-1] / (0.45 * usual)) + 8 * _PATH_SIGMA
    path = np.stack([_noise(_rng(seed, 2 + i), length, _PATH_SIGMA) for i in range(3)], 1)
    path *= reach * _POSE_SHARE
    # Nearly by arc length: the sound, not the path, decides the speed; turns stay smooth.
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(0.75 * steps + 0.45 * usual)])
    where = np.interp(travel, along, np.arange(length))

    breath = np.sin(2 * np.pi * np.arange(num_frames) / 92 + _rng(seed, 5).uniform(0, 6.28))
    head = np.zeros((num_frames, 6))
    for column in range(3):
        head[:, column] = np.interp(where, np.arange(length), path[:, column])
    head[:, _PITCH] += _nods(heard, own, seed) + 0.25 * breath
    head[:, :3] = np.tanh(head[:, :3] / POSE_LIMITS) * POSE_LIMITS

    sway = 0.0095 * (own / 0.09) ** 0.62  # fraction of the picture
    spread = np.array([sway, 0.6 * sway, 0.6 * sway])
    for column, amount in zip((_TX, _TY, _SCALE), spread, strict=True):
        drift = _noise(_rng(seed, 30 + column), length, 1.5 * _PATH_SIGMA)
        head[:, column] = amount * np.interp(where, np.arange(length), drift)
    head[:, _TX] += 0.0012 * head[:, _YAW]
    head[:, _TY] += 0.0015 * breath
    head[:, _TX : _TY + 1] = np.tanh(head[:, _TX : _TY + 1] / 0.11) * 0.11
    head[:, _SCALE] = 1 + np.clip(head[:, _SCALE], -0.06, 0.06)
    return head


def _nods(heard: Drivers, own: float, seed: int) -> Array:
    """Dip the head on some stressed onsets: (F,) degrees of pitch."""
    num_frames = heard.onset.shape[0]
    stress = smooth(heard.onset.numpy() * (0.3 + heard.loudness.numpy()), 1.5)
    padded = np.pad(stress, 1)
    peak = (stress >= padded[:-2]) & (stress > padded[2:]) & (stress > 0.2)
    luck = _rng(seed, 10).random((num_frames, 2))
    depth = 1.3 * (own / 0.35) ** 0.6 * (0.5 + luck[:, 1]) * peak * (luck[:, 0] < 0.5)
    spread = np.exp(-0.5 * (np.arange(-9, 10) / 3.0) ** 2)
    # A nod is deepest two frames after its onset.
    return -np.convolve(np.pad(depth, (11, 7)), spread, mode="valid")


def _lids(heard: Drivers, emphasis: Array, seed: int) -> Array:
    """Rest, widen and blink the lids: (F,) 0 open .. 1 shut."""
    rng = _rng(seed, 11)
    num_frames = emphasis.shape[0]
    lids = np.clip(rng.uniform(0.04, 0.12) - 0.12 * np.clip(emphasis, -0.3, 1), 0, 0.16)
    pause = 1 - np.clip(smooth(heard.loudness.numpy(), 2.0) / 0.4, 0, 1)
    luck = rng.random((num_frames, 2))
    free = 4
    for frame in range(num_frames):
        if frame >= free and luck[frame, 0] < 0.011 + 0.05 * pause[frame]:
            shape = _BLINKS[int(luck[frame, 1] * len(_BLINKS))][: num_frames - frame]
            shown = lids[frame : frame + len(shape)]
            lids[frame : frame + len(shape)] = np.maximum(shown, shape)
            free = frame + 25
    return lids


def _gaze(pose: Array, seed: int) -> Array:
    """Look at the camera, and past it now and then: (F, 2) within -0.5..0.5."""
    rng = _rng(seed, 12)
    num_frames = pose.shape[0]
    gaze = np.zeros((num_frames, 2))
    frame = 0
    while frame < num_frames:
        camera = rng.random() < 0.65
        target = rng.normal(0, 0.04 if camera else 0.22, 2) * (1.0, 0.6)
        held = int(rng.uniform(25, 75) if camera else rng.uniform(10, 30))
        gaze[frame : frame + held] = np.clip(target, -0.4, 0.4)
        frame += held
    gaze = np.stack([smooth(gaze[:, i], 0.6) for i in range(2)], 1)
    # The eyes stay on the camera while the head turns a little.
    gaze[:, 0] -= 0.012 * pose[:, 0]
    gaze[:, 1] += 0.012 * pose[:, 1]
    return np.clip(gaze, -0.5, 0.5)


def _rng(seed: int, stream: int) -> np.random.Generator:
    """One stream of chance a purpose, so that none depends on how much another drew."""
    return np.random.default_rng([seed, stream])


def _noise(rng: np.random.Generator, length: int, sigma: float) -> Array:
    """Smooth noise of variance 1; a longer one begins like a shorter one."""
    kernel = gaussian(sigma)
    white = rng.standard_normal(length + len(kernel) - 1)
    return np.convolve(white, kernel / np.sqrt((kernel**2).sum()), mode="valid")
