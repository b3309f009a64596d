"""What is true of a puppet film, frame by frame, and the file it is written to."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from .readable import check_readable


@dataclass(frozen=True)
class Truth:
    """What is true of a puppet film, frame by frame.

    Attributes:
        fps: frames per second.
        mouth: (F, 2), openness and width, 0..1.
        pose: (F, 3), yaw, pitch and roll in degrees.
    """

    fps: Fraction
    mouth: Tensor
    pose: Tensor

    def at(self, fps: Fraction, num_frames: int) -> Truth:
        """Resample to another frame rate, at most `num_frames` long."""
        count = min(num_frames, math.ceil(len(self.mouth) * fps / self.fps))
        index = [min(len(self.mouth) - 1, round(i * self.fps / fps)) for i in range(count)]
        return Truth(fps, self.mouth[index], self.pose[index])


def read_truth(path: Path) -> Truth:
    """Read the truth of a puppet film.

    Args:
        path: truth.json as `emo puppet --truth` writes it.

    Returns:
        The truth.

    Raises:
        OSError: if there is no such file, or it may not be read.
        ValueError: if it is not such a file.
    """
    check_readable(path, "truth", "what `emo puppet --truth` writes")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        rows = data["frames"]
        mouth = torch.tensor([[row["open"], row["width"]] for row in rows]).float()
        pose = torch.tensor([[row["yaw"], row["pitch"], row["roll"]] for row in rows]).float()
        fps = Fraction(str(data["fps"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"truth {path} must be JSON with fps and frames of open, width, yaw, pitch, roll, got "
            f"something else ({error}); `emo puppet --truth` writes one"
        ) from error
    if len(mouth) == 0 or fps <= 0:
        raise ValueError(f"truth {path} must have at least one frame and a positive fps")
    return Truth(fps, mouth, pose)
