"""What Hallo's weights add to the command line: options of emo animate, and emo convert."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

# hallo_files.VARIANTS, which comes with torch: help is to be there at once.
VARIANTS = ("auto", "hallo", "hallo2")
_PUBLISHED_SEED = 42


def box(text: str) -> tuple[float, ...]:
    """X,Y,W,H of an option.

    Raises:
        argparse.ArgumentTypeError: if they are no four numbers.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 4:
        raise argparse.ArgumentTypeError(
            f"expected four numbers X,Y,W,H in pixels such as 120,80,200,220, got {text!r}"
        )
    return values


def size(text: str) -> Any:
    """WxH or portrait of an option.

    Raises:
        argparse.ArgumentTypeError: if it is neither, or no size of a film.
    """
    from .film_size import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_hallo_options(parser: argparse.ArgumentParser) -> None:
    """Options of emo animate for checkpoints that bring no VAE and no audio encoder."""
    add = parser.add_argument
    add("--vae", type=Path, metavar="FILE",
        help="SD 1.5's VAE, LDM's or diffusers' layout; Hallo's weights need one (default: the "
        "checkpoint's own)")
    add("--audio-encoder", type=Path, metavar="FOLDER",
        help="wav2vec2-base-960h, a folder with config.json and model.safetensors; Hallo's "
        "weights need it (default: the checkpoint's own)")
    add("--variant", choices=VARIANTS, default="auto",
        help="which of Hallo's two sets of weights it is (default auto: by the header, else the "
        "name of file or folder, else hallo)")
    add("--lip-box", type=box, metavar="X,Y,W,H",
        help="where the lips are, for Hallo's weights, in pixels of the upright picture (default: "
        "the usual place in the face box)")
    add("--landmarks", type=Path, metavar="FILE",
        help="478, 468 or 68 landmarks as .npy, .json or .safetensors, x and y in pixels of the "
        "upright picture or as fractions of it, instead of the boxes")
    add("--face-embedding", type=Path, metavar="FILE",
        help="512 numbers as .npy, .json or .safetensors (of one tensor): InsightFace's "
        "`embedding` of the portrait, not the normalised one (default: zeros, the face of nobody)")
    for part, what in (("pose", "the picture outside the face"), ("face", "the face"),
                       ("lip", "the lips")):  # fmt: skip
        add(f"--{part}-weight", type=float, default=1.0, metavar="W",
            help=f"how far the sound moves {what}, with Hallo's weights, 0 to 10; 0 leaves it "
            "still (default 1)")  # fmt: skip
    add("--reproduce", action="store_true",
        help="as Hallo's own program samples: the whole picture stretched, its stream of "
        "noise with seed 42, ddim, colours cut to whole 255ths; not with --joins, --lock, "
        "--audio-cfg, --film, another solver or a film that is not square")  # fmt: skip


def hallo_options(args: argparse.Namespace) -> dict[str, Any]:
    """Those options as fields of an AnimateRequest."""
    names = (
        "vae", "audio_encoder", "variant", "reproduce", "lip_box", "landmarks", "face_embedding",
    )  # fmt: skip
    weights = (args.pose_weight, args.face_weight, args.lip_weight)
    return {"motion_weights": weights, **{name: getattr(args, name) for name in names}}


def default_seed(args: argparse.Namespace) -> int:
    """The given seed, or Hallo's own when its films are to be reproduced."""
    if args.seed is not None:
        return int(args.seed)
    return _PUBLISHED_SEED if args.reproduce else 0


def add_convert(commands: Any) -> None:
    """Add emo convert."""
    parser = commands.add_parser(
        "convert",
        allow_abbrev=False,
        help="write published weights as one .safetensors file, or back for this package",
        description="Write Hallo's net.pth as one .safetensors file with its configuration in the "
        "header, or a checkpoint's network under Hallo's names as .pth. Every tensor stays bit for "
        "bit what it is; those that cannot reach a film are left out.",
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="net.pth, or a .safetensors file")
    add("-o", "--output", type=Path, required=True, metavar="FILE",
        help="file to write: .safetensors, or .pth for the way back")
    add("--variant", choices=VARIANTS, default="auto",
        help="which of Hallo's two sets of weights it is (default auto: by the header, else the "
        "name of file or folder, else hallo)")
    add("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=_run_convert)  # fmt: skip


def _run_convert(args: argparse.Namespace) -> int:
    from tqdm import tqdm  # type: ignore[import-untyped]  # comes with transformers

    from .convert import convert

    bar: Any = None

    def advance(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, unit="B", unit_scale=True, disable=args.quiet, ascii=True,
                       file=sys.stderr)  # fmt: skip
        bar.update(done - bar.n)

    try:
        made = convert(args.source, args.output, args.variant, advance)
    finally:
        if bar is not None:
            bar.close()
    sys.stdout.write(
        f"{made.output}: {made.tensors} tensors of {made.name} ({made.origin}), "
        f"{made.left_out} left out that cannot matter\n"
    )
    return 0
