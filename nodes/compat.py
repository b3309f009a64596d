"""What differs between the hosts that this pack runs on: ComfyUI 0.3.64 and newer."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from comfy_api.v0_0_2 import ComfyExtension, InputImpl, Types, io, ui

__all__ = ["ComfyExtension", "InputImpl", "Schema", "Types", "io", "ui"]

_KNOWN = {field.name for field in fields(io.Schema)}


def Schema(**arguments: Any) -> io.Schema:
    """A node's schema; an older host is not told what it does not know, such as search_aliases."""
    return io.Schema(**{name: value for name, value in arguments.items() if name in _KNOWN})
