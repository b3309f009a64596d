"""Which device a model runs on, and in which precision."""

from __future__ import annotations

import torch


def find_device(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        ValueError: if there is no such device here.
    """
    known = "cpu" + ", cuda" * torch.cuda.is_available() + ", mps" * _has_mps()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is unknown; here there is auto, {known}") from None
    there = {
        "cpu": device.index in (None, 0),
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": _has_mps(),
    }
    if there.get(device.type, False):
        return device
    if device.type == "cuda" and torch.version.cuda is None and torch.version.hip is None:
        raise ValueError(
            f"device {name!r} is out of reach: this PyTorch is built for the CPU alone; install "
            "the build for your graphics card (pytorch.org/get-started/locally)"
        )
    raise ValueError(f"device {name!r} does not exist on this machine; here there is auto, {known}")


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def dtype_for(device: torch.device) -> torch.dtype:
    """What a model computes in on a device: half precision on CUDA, single elsewhere."""
    return torch.float16 if device.type == "cuda" else torch.float32
