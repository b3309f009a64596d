"""Writing .safetensors tensor by tensor: nothing is in memory twice, the file appears whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .disk import appearing

Progress = Callable[[int, int], None]
"""Told of (bytes written, bytes in all) after every tensor."""

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL", torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip


def save_whole(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write tensors that are in memory; the file of that name is replaced only by a whole one."""
    with appearing(path) as partial:
        save_file(dict(tensors), partial, dict(header))


def write_safetensors(
    path: Path,
    names: Sequence[str],
    read: Callable[[str], Tensor],
    header: Mapping[str, str],
    progress: Progress | None = None,
) -> None:
    """Write tensors one after the other, as they are read.

    Args:
        path: the file.
        names: of the tensors.
        read: gives a tensor by its name; called twice for each.
        header: text entries.
        progress: told how far it is; what it raises leaves no file.

    Raises:
        ValueError: for a tensor of a type that the format does not know.
    """
    entries: dict[str, object] = {"__metadata__": dict(header)}
    offset = 0
    kinds = {name: read(name).dtype for name in names}
    for name in names:
        if kinds[name] not in _NAMES:
            raise ValueError(f"{name} is of {kinds[name]}, which .safetensors cannot hold")
    # Wide numbers first: every tensor then begins at a multiple of its own size.
    order = sorted(names, key=lambda name: (-kinds[name].itemsize, name))
    for name in order:
        tensor = read(name)
        end = offset + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }  # fmt: skip
        offset = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    with appearing(path) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        done = 0
        for name in order:
            bytes_of = read(name).contiguous().reshape(-1).view(torch.uint8).numpy()
            file.write(bytes_of.data)
            done += bytes_of.nbytes
            if progress is not None:
                progress(done, offset)
