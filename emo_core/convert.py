"""`emo convert`: published weights into one file of ours, and back into their own names."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from .disk import appearing
from .hallo_files import ORIGIN, Variant
from .weight_fit import check_fit
from .weight_writer import Progress, write_safetensors
from .weights import FORMAT, open_checkpoint, skeleton

_NETWORK = "model."


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        output: the file.
        name: of the model.
        tensors: how many there are.
        left_out: tensors of the source that cannot matter.
        origin: which weights it was taken for, and why.
    """

    output: str
    name: str
    tensors: int
    left_out: int
    origin: str


def convert(
    source: Path, output: Path, variant: Variant = "auto", progress: Progress | None = None
) -> Converted:
    """Write a checkpoint in the layout that the output's ending names; every tensor stays as it is.

    Args:
        source: Hallo's net.pth, a .safetensors file of its tensors, or a checkpoint of ours.
        output: .safetensors for a checkpoint of ours with its configuration in the header; .pth
            for the network alone under Hallo's names.
        variant: which of Hallo's two it is; see hallo_files.decide().
        progress: told of (bytes written, bytes in all).

    Raises:
        ValueError: if the source is something else or incomplete, or the ending is another, or
            .pth for weights that are not Hallo's.
        OSError: if a file is missing or cannot be written.
    """
    endings = (".safetensors", ".pth")
    if output.suffix.lower() not in endings:
        raise ValueError(f"the output must end in {' or '.join(endings)}, got {output.name}")
    if output.exists() and source.exists() and os.path.samefile(source, output):
        raise ValueError(f"the output would replace its own source {source}; choose another name")
    if not output.absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder {output.absolute().parent} does not exist; make it")
    file, config = open_checkpoint(source, variant)
    check_fit(file, skeleton(file, config))
    names = list(file.shapes)
    if output.suffix.lower() == ".pth":
        if config.audio.attention != "masked3":
            raise ValueError(
                f"a .pth holds the network of Hallo's weights alone, and {config.name} is no such "
                "model; choose a name that ends in .safetensors"
            )
        names = [name for name in names if name.startswith(_NETWORK)]
        with appearing(output) as partial:
            torch.save({name.removeprefix(_NETWORK): file.read(name) for name in names}, partial)
    else:
        header = {name: text for name, text in file.header.items() if name != ORIGIN}
        header |= {"format": FORMAT, "emo_config": config.to_json()}
        header.setdefault("training", json.dumps({"converted_from": source.name}))
        write_safetensors(output, names, file.read, header, progress)
    origin = file.header.get(ORIGIN, f"a checkpoint of {config.name}")
    return Converted(str(output), config.name, len(names), file.unused, origin)
