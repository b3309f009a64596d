"""Which files a trained file came from: a digest of weights, in the header of what they made.

A stage that goes on with films of another VAE, or with another predecessor than it began with,
trains on numbers that mean something else, and nothing but the result would show it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

logger = logging.getLogger(__name__)

_HEADER = "origin"
_LENGTH = 16


def digest(path: Path) -> str:
    """Give the fingerprint of a file's tensors, whatever its header says.

    Args:
        path: a .safetensors file.

    Returns:
        16 hexadecimal digits of a SHA-256 over names, shapes, types and values.
    """
    found = hashlib.sha256()
    with safe_open(path, "pt") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name).contiguous()
            found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            found.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:_LENGTH]


def digests(work: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Give the fingerprints of a folder's NAME.safetensors, without those that are missing."""
    paths = {name: work / f"{name}.safetensors" for name in names}
    return {name: digest(path) for name, path in paths.items() if path.exists()}


def origin_header(origin: Mapping[str, str]) -> dict[str, str]:
    """Write an origin as an entry of a .safetensors header."""
    return {_HEADER: json.dumps(dict(origin))}


def read_origin(path: Path) -> dict[str, str] | None:
    """Read the origin that a file's header states; None for files that state none."""
    with safe_open(path, "pt") as file:
        header = file.metadata() or {}
    origin: dict[str, str] | None = json.loads(header[_HEADER]) if _HEADER in header else None
    return origin


def read_training(path: Path) -> dict[str, Any]:
    """Read what a stage's file says of its training; nothing if it says nothing."""
    with safe_open(path, "pt") as file:
        header = file.metadata() or {}
    record: dict[str, Any] = json.loads(header.get("training", header.get("listening", "{}")))
    return record


def commit() -> str | None:
    """The version of the code in this checkout, "-dirty" where it was changed; None outside one."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip()


def check_origin(what: str, stated: Mapping[str, str] | None, expected: Mapping[str, str]) -> None:
    """Refuse something that came from other files than are there now.

    Args:
        what: its name, for the sentence.
        stated: its origin; None, and files that one side does not name, are accepted.
        expected: the fingerprints of the files that are there.

    Raises:
        ValueError: if a file that both name is another one.
    """
    if stated is None:
        if expected:
            logger.info("%s does not say what it was made from; taken as it is", what)
        return
    for name, there in expected.items():
        if stated.get(name, there) != there:
            raise ValueError(
                f"{what} was made from {name}.safetensors of digest {stated[name]}, but the work "
                f"folder goes with {there}; put the old file back, or make {what} again"
            )
