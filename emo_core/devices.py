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
    if not there.get(device.type, False):
        raise ValueError(f"device {name!r} does not exist on this machine; here there is auto, "
                         f"{known}")
    return device


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def dtype_for(device: torch.device) -> torch.dtype:
    """What a model computes in on a device: half precision on CUDA, single elsewhere."""
    return torch.float16 if device.type == "cuda" else torch.float32
