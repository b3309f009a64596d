"""Bytes of the tensors that are alive, counted as PyTorch's operators make them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts while it is entered, on any device, also on meta, where nothing is computed.

    Views, changes in place and tensors that were there before cost nothing; so do files that are
    mapped. What an operator needs for itself and gives back is not seen.

    Attributes:
        now: bytes that are alive.
        peak: the most that ever were.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._alive: dict[int, weakref.finalize[Any, Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator and count what it made."""
        given = {_address(tensor) for tensor in _tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            address = _address(tensor)
            if address not in given and address not in self._alive:
                self._count(tensor.untyped_storage(), address)
        return out

    def _count(self, storage: torch.UntypedStorage, address: int) -> None:
        size = storage.nbytes()
        self._alive[address] = weakref.finalize(storage, self._forget, address, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _forget(self, address: int, size: int) -> None:
        del self._alive[address]
        self.now -= size


def bytes_of(tensors: object) -> int:
    """Bytes of all tensors in nested lists, tuples, dictionaries and dataclasses, each once."""
    storages = {_address(tensor): tensor.untyped_storage() for tensor in _inside(tensors)}
    return sum(storage.nbytes() for storage in storages.values())


def _inside(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _inside(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _inside(item)
    elif hasattr(value, "__dataclass_fields__"):
        yield from _inside(vars(value))


def _tensors(values: object) -> Iterable[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def _address(tensor: Tensor) -> int:
    """Of the storage's own object: on meta no storage has data."""
    return int(tensor.untyped_storage()._cdata)
