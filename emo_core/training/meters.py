"""What measures a puppet: mouth, head pose, place and appearance read from a picture.

The meter is a small convolutional network trained on the world's ground truth
(`meter_training.py`). It shares no weights with the generator and never sees the generator's
pictures, so what it says about a film is not what the generator was trained to please.
EMO's paper measures its films with published networks for real faces (SyncNet, FaceNet);
they know nothing about puppets.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from ..weight_writer import save_whole
from .readings import SCALARS, Readings, readings_of

METERS_FILE = Path(__file__).with_name("meters.safetensors")
"""Where the trained meter lies."""

KIND = "emo-puppet-meter"

PICTURE_SIZE = 128
"""Side of the pictures the meter reads; others are resized to it."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        """Build the block; its second convolution starts at zero."""
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        hidden = self.conv1(functional.gelu(self.norm(hidden_states)))
        out: Tensor = hidden_states + self.conv2(functional.gelu(hidden))
        return out


class PuppetMeter(nn.Module):
    """Reads mouth, pose, place and appearance from pictures of puppets.

    The last feature map is flattened, not averaged: places and angles are read to a fraction of
    a degree from where things are.

    Args:
        num_identity: D, how many appearance numbers the world has.
        channels: widths at 64, 32, 16 and 8 cells a side.
        hidden: width of the layer before the numbers.
    """

    mean: Tensor
    deviation: Tensor
    residual: Tensor

    def __init__(
        self,
        num_identity: int,
        channels: tuple[int, int, int, int] = (24, 48, 96, 144),
        hidden: int = 192,
    ) -> None:
        """Build an untrained meter."""
        super().__init__()
        self.num_identity = num_identity
        self.channels = channels
        self.hidden = hidden
        first, second, third, fourth = channels
        self.features = nn.Sequential(
            nn.Conv2d(3, first, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1),
            ResidualBlock(second),
            nn.GELU(),
            nn.Conv2d(second, third, 3, stride=2, padding=1),
            ResidualBlock(third),
            nn.GELU(),
            nn.Conv2d(third, fourth, 3, stride=2, padding=1),
            ResidualBlock(fourth),
            nn.GroupNorm(8, fourth),
            nn.GELU(),
            nn.Conv2d(fourth, 24, 1),
            nn.Flatten(),
        )
        cells = (PICTURE_SIZE // 16) ** 2
        count = len(SCALARS) + num_identity
        self.numbers = nn.Sequential(
            nn.GELU(), nn.Linear(24 * cells, hidden), nn.GELU(), nn.Linear(hidden, count)
        )
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("deviation", torch.ones(count))
        self.register_buffer("residual", torch.ones(num_identity))

    def forward(self, frames: Tensor) -> Tensor:
        """Read pictures.

        Args:
            frames: (N, 3, 128, 128), 0..1.

        Returns:
            (N, 12 + D), SCALARS then the appearance numbers, each less its mean and divided by
            its deviation over the world.
        """
        result: Tensor = self.numbers(self.features(frames * 4 - 2))
        return result

    @torch.no_grad()
    def read(self, frames: Tensor, batch: int = 64) -> Readings:
        """Read a film.

        Args:
            frames: (F, 3, H, W), float 0..1 or uint8; resized to 128x128 where needed.
            batch: frames at once.

        Returns:
            Readings of F frames, on the CPU.

        Raises:
            ValueError: if frames have another shape.
        """
        if frames.ndim != 4 or frames.shape[1] != 3 or len(frames) == 0:
            raise ValueError(
                f"frames must have the shape (F, 3, H, W) with F at least 1, got "
                f"{tuple(frames.shape)}; put colours on the second axis"
            )
        parts = [self.forward(as_pictures(part, self.mean)) for part in torch.split(frames, batch)]
        values = (torch.cat(parts).float() * self.deviation + self.mean).cpu()
        return readings_of(values)

    def identity_distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Compare appearances.

        Args:
            first: (..., D), appearance numbers.
            second: (..., D), broadcast against first.

        Returns:
            (...), the root of the mean squared difference; numbers are weighed by how well
            the meter reads them (inverse squared error on unseen puppets), and 1 is the
            distance expected of a right answer.
        """
        return ((first - second) / self.residual.cpu()).square().mean(-1).sqrt()

    def identity_error(self, identity: Tensor, reference: Tensor) -> Tensor:
        """Give the error of appearances in parts of the world's variety.

        Args:
            identity: (..., D), appearance numbers as read.
            reference: (..., D), the true ones, or those read from the portrait.

        Returns:
            (...), the root of the mean squared difference, every number divided by its standard
            deviation over the world: 0 is the same person, about 1.4 somebody else.
        """
        spread = self.deviation[len(SCALARS) :].cpu()
        return ((identity - reference) / spread).square().mean(-1).sqrt()


def as_pictures(frames: Tensor, like: Tensor) -> Tensor:
    """Turn frames of any size and number type into what the meter reads.

    Args:
        frames: (N, 3, H, W), float 0..1 or uint8.
        like: a tensor whose device and dtype are wanted.

    Returns:
        (N, 3, 128, 128), 0..1.
    """
    pictures = frames.to(like.device, like.dtype)
    if not frames.is_floating_point():
        pictures = pictures / 255
    if pictures.shape[-2:] != (PICTURE_SIZE, PICTURE_SIZE):
        size = (PICTURE_SIZE, PICTURE_SIZE)
        pictures = functional.interpolate(pictures, size, mode="bilinear", antialias=True)
    return pictures.clamp(0, 1)


def save_meter(meter: PuppetMeter, path: Path, record: dict[str, Any]) -> None:
    """Write a meter in half precision.

    Args:
        meter: the meter.
        path: the file, .safetensors.
        record: how it was trained and what it measures; kept as JSON in the header.
    """
    half = {
        name: (value.half() if value.ndim > 1 else value.float()).contiguous()
        for name, value in meter.state_dict().items()
    }
    config = {
        "num_identity": meter.num_identity,
        "channels": list(meter.channels),
        "hidden": meter.hidden,
    }
    header = {"kind": KIND, "config": json.dumps(config), "record": json.dumps(record)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_whole(path, half, header)


def load_meter(path: Path = METERS_FILE) -> PuppetMeter:
    """Load a trained meter, ready to read.

    Args:
        path: a file of `save_meter`.

    Returns:
        The meter, float32, on the CPU, not to be trained further.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is something else.
    """
    record = _header(path)
    config = json.loads(record["config"])
    config["channels"] = tuple(config["channels"])
    meter = PuppetMeter(**config)
    with safe_open(path, framework="pt") as file:
        meter.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118
    return meter.eval().requires_grad_(False)


def meter_record(path: Path = METERS_FILE) -> dict[str, Any]:
    """Tell how a meter was trained and what it measured on unseen films.

    Args:
        path: a file of `save_meter`.

    Returns:
        The training record of the header.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is something else.
    """
    record: dict[str, Any] = json.loads(_header(path)["record"])
    return record


def _header(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise FileNotFoundError(
            f"the meters {path.name} are not in {path.parent}; train them with `emo train meters`"
        )
    with safe_open(path, framework="pt") as file:
        header: dict[str, str] = file.metadata() or {}
    if header.get("kind") != KIND:
        raise ValueError(
            f"{path.name} must be a puppet meter, got {header.get('kind', 'another file')}; "
            f"train one with `emo train meters`"
        )
    return header
