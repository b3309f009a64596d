"""emo info: what a weight file is, and what a film of it takes in memory."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from .cli_hallo import VARIANTS, size

_DTYPES = ("float16", "bfloat16", "float32")


def add_info(commands: Any) -> None:
    """Add emo info."""
    parser = commands.add_parser(
        "info",
        help="what a checkpoint is",
        description="Say what a weight file is: kind, parameters, frame rate, speed buckets, how "
        "it was trained. Files of other projects are recognised by their tensors.",
    )
    parser.add_argument("file", nargs="?", metavar="FILE",
                        help="a weight file (default: the embedded emo-tiny)")
    parser.add_argument("--variant", choices=VARIANTS, default="auto",
                        help="which of Hallo's two sets of weights it is (default auto, as emo "
                        "animate decides)")
    parser.add_argument("--memory", nargs="?", const="float16", metavar="DTYPE",
                        help="also what a film takes in memory, in MB by part, counted: float16, "
                        "bfloat16 or float32 (float16 if none is named)")
    parser.add_argument("--size", type=size, metavar="WxH",
                        help="with --memory: size of that film (default: the model's own square)")
    parser.add_argument("--seconds", type=int, metavar="N",
                        help="with --memory: length of its sound, which Hallo's weights hear as a "
                        "whole (default 60)")
    parser.add_argument("--json", action="store_true", help="everything on stdout as JSON")
    parser.set_defaults(run=_run_info)  # fmt: skip


def _run_info(args: argparse.Namespace) -> int:
    from .describe import describe_checkpoint, describe_memory

    file, dtype = _file_and_dtype(args.file, args.memory)
    if dtype is None and (args.size, args.seconds) != (None, None):
        raise ValueError("--size and --seconds are asked for with --memory; give it too")
    if args.size == "portrait":
        raise ValueError("no portrait is given here; give --size as WxH, such as 512x768")
    facts = describe_checkpoint(file, args.variant)
    if dtype is not None:
        import torch

        seconds = 60 if args.seconds is None else args.seconds
        facts["memory"] = describe_memory(
            file, getattr(torch, dtype), args.size, args.variant, seconds
        )
    if args.json:
        write_json(facts)
        return 0
    _write_facts({name: value for name, value in facts.items() if name != "config"})
    return 0


def _file_and_dtype(file: str | None, dtype: str | None) -> tuple[str, str | None]:
    """What emo info looks at and counts in; --memory may stand right before the file."""
    if dtype is not None and dtype not in _DTYPES:
        if file is not None:
            raise ValueError(f"--memory must be one of {', '.join(_DTYPES)}, got {dtype!r}")
        file, dtype = dtype, _DTYPES[0]
    return file or "emo-tiny", dtype


def _write_facts(facts: dict[str, Any], indent: int = 0) -> None:
    """One fact a line; those of facts are indented below their name."""
    wide = max(18 - indent, *(len(str(name)) + 1 for name in facts))
    for name, value in facts.items():
        label = f"{' ' * indent}{str(name).replace('_', ' '):<{wide}}"
        if isinstance(value, dict) and value:
            sys.stdout.write(f"{label.rstrip()}\n")
            _write_facts(value, indent + 2)
        else:
            sys.stdout.write(f"{label} {_flat(value)}\n")


def _flat(value: Any) -> str:
    if value is None or value == {}:
        return "-"
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def write_json(values: dict[str, Any]) -> None:
    """Values on stdout, for programs."""
    sys.stdout.write(json.dumps(values, indent=2) + "\n")
