"""MODEL, SAMPLER, GUIDER, NOISE and VAE in plain values, for the keys of clips.

An object of a class of core or of this pack is its class and its attributes, a function its place
in the source and what it holds. What another pack made may change with that pack: it gets a nonce,
the same for as long as the object lives, so that what depends on it is reused in this server only.
"""

from __future__ import annotations

import secrets
import sys
import weakref
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import comfy.samplers
import torch
from torch import Tensor, nn

from .host import ATTACHMENT

_HOST = Path(comfy.samplers.__file__).resolve().parents[1]
_TORCH = Path(torch.__file__).resolve().parent
_OURS = Path(__file__).resolve().parents[1]
_KNOWN = (_HOST / "comfy", _HOST / "comfy_extras", _OURS / "nodes", _OURS / "emo_core")
_MOST_WEIGHTS = 1_000_000
_BASES = {"abc", "builtins", "typing"}
_PLAIN = (bool, int, float, str, bytes, torch.dtype)
_STATE = (
    "patches", "object_patches", "weight_wrapper_patches", "model_options", "wrappers",
    "callbacks", "injections", "additional_models", "hook_patches", "current_hooks",
    "forced_hooks",
)  # fmt: skip
"""What of a ModelPatcher changes what its model computes."""
_NOT_A_GUIDERS_OWN = {"model_patcher", "original_conds", "conds", "inner_model", "loaded_models"}
_NOT_A_CONDS_OWN = {"emo_conditions", "uuid"}
"""What is put there for each clip, and what is drawn anew each time."""


class _Nonces:
    """A random text for each object, for as long as the object lives."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], str]] = {}

    def of(self, thing: Any) -> str:
        """The same for the same object; always another for one that cannot be watched."""
        place, nonce = id(thing), secrets.token_hex(16)
        found = self._known.get(place)
        if found is not None and found[0]() is thing:
            return found[1]
        try:
            watched = weakref.ref(thing, lambda _: self._known.pop(place, None))
        except TypeError:
            return nonce
        self._known[place] = watched, nonce
        return nonce


_nonces = _Nonces()


class Fingerprint:
    """Turns objects to plain values.

    Attributes:
        strangers: kinds of what could only be given a nonce, in the order they were met.
    """

    def __init__(self) -> None:
        self.strangers: list[str] = []
        self._inside: list[int] = []

    def of(self, value: Any) -> Any:
        """Plain values, lists, mappings and tensors that clip_keys.digest() takes."""
        if value is None or isinstance(value, _PLAIN):
            return value
        if id(value) in self._inside:
            return f"as {len(self._inside) - self._inside.index(id(value))} levels above"
        self._inside.append(id(value))
        try:
            return self._of_parts(value)
        finally:
            self._inside.pop()

    def model(self, patcher: Any) -> dict[str, Any]:
        """What was done to a MODEL since its file was loaded."""
        state = {name: self.of(getattr(patcher, name, None)) for name in _STATE}
        attached = dict(getattr(patcher, "attachments", None) or {})
        attached.pop(ATTACHMENT, None)
        return {**state, "attachments": self.of(attached)}

    def guider(self, guider: Any) -> Any:
        """A GUIDER without the conditions that each clip puts in."""
        own = {name: one for name, one in vars(guider).items() if name not in _NOT_A_GUIDERS_OWN}
        conds = {
            name: [
                {key: self.of(one) for key, one in cond.items() if key not in _NOT_A_CONDS_OWN}
                for cond in conds
            ]
            for name, conds in guider.original_conds.items()
        }
        kind = _names(type(guider)) if _is_known(type(guider)) else self._stranger(guider)
        return [kind, self.of(own), conds, self.model(guider.model_patcher)]

    def vae(self, vae: Any) -> Any:
        """A VAE by its weights."""
        module = vae.first_stage_model
        return [
            type(module).__name__, dict(module.state_dict()), getattr(vae, "vae_dtype", None),
            self.model(vae.patcher),
        ]  # fmt: skip

    def _of_parts(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            plain = type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided
            return value if plain and not value.is_quantized else self._stranger(value)
        if isinstance(value, torch.device):
            return value.type
        if isinstance(value, Enum):
            return [type(value).__qualname__, value.name]
        if type(value) in (list, tuple):
            return [self.of(item) for item in value]
        if isinstance(value, (set, frozenset)) and all(isinstance(item, str) for item in value):
            return sorted(value)
        if isinstance(value, Mapping) and type(value).__module__ in ("builtins", "collections"):
            return [[self.of(name), self.of(item)] for name, item in value.items()]
        if isinstance(value, FunctionType):
            return self._of_function(value)
        if isinstance(value, MethodType):
            return [self.of(value.__func__), self.of(value.__self__)]
        if isinstance(value, type):
            return _names(value) if _is_known(value) else self._stranger(value)
        return self._of_object(value)

    def _of_function(self, function: FunctionType) -> Any:
        inner = getattr(function, "__wrapped__", None)
        if inner is not None and _below(function.__code__.co_filename, (_TORCH,)):
            # torch.no_grad() and its like around a function.
            return self.of(inner)
        if not _below(function.__code__.co_filename, _KNOWN):
            return self._stranger(function)
        held = [cell.cell_contents for cell in function.__closure__ or ()]
        given = [function.__defaults__, function.__kwdefaults__]
        return [function.__qualname__, function.__code__.co_firstlineno, self.of([held, given])]

    def _of_object(self, value: Any) -> Any:
        if _is_large(value) or not hasattr(value, "__dict__") or not _is_known(type(value)):
            return self._stranger(value)
        return [_names(type(value)), self.of(dict(vars(value)))]

    def _stranger(self, value: Any) -> str:
        named = value if isinstance(value, (type, FunctionType)) else type(value)
        name = f"{named.__module__.split('.')[-1]}.{named.__qualname__}"
        if name not in self.strangers:
            self.strangers.append(name)
        return f"nonce {_nonces.of(value)}"


def _is_large(value: Any) -> bool:
    """Whether it is a patcher or a network, whose weights are too many to be read each time."""
    if isinstance(value, nn.Module):
        return sum(part.numel() for part in value.parameters()) > _MOST_WEIGHTS
    return hasattr(value, "model_patches_to")


def _names(kind: type) -> list[str]:
    return [one.__qualname__ for one in kind.__mro__]


def _is_known(kind: type) -> bool:
    """Whether all code of a class is core's, torch's or ours."""
    own = _below(_file_of(kind), _KNOWN) or (
        issubclass(kind, nn.Module) and _below(_file_of(kind), (_TORCH,))
    )
    return own and all(
        base.__module__ in _BASES or _below(_file_of(base), (*_KNOWN, _TORCH))
        for base in kind.__mro__
    )


def _file_of(kind: type) -> str | None:
    # The host imports its extras by path, so names of modules say nothing.
    return getattr(sys.modules.get(kind.__module__), "__file__", None)


def _below(file: str | None, folders: tuple[Path, ...]) -> bool:
    return file is not None and any(
        Path(file).resolve().is_relative_to(folder) for folder in folders
    )
