"""`emo train STAGE`: the stages in order, each with what the one before left in the work folder.

voices     synthetic voices with phone times (needs espeak-ng)
vae        the picture autoencoder
listening  the audio encoder, on phones and mouths
meters     what measures puppets, apart from everything else
films      puppets that speak, as latents and sound features
images     stage 1: backbone, ReferenceNet, face locator, sound
video      stage 2: temporal modules and motion frames
speed      stage 3: temporal modules and speed layers
decoder    the autoencoder's decoder alone, for sharper pictures
pack       everything into one checkpoint
report     the behaviour table of a checkpoint
joins      how clips may meet, measured with a checkpoint
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import train_stages as run
from .join_films import chosen_options
from .report import chosen_rows

STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    "voices": run.make_voices,
    "vae": run.train_vae,
    "listening": run.train_listening,
    "meters": run.train_meters,
    "films": run.make_films,
    "images": run.train_on_films,
    "video": run.train_on_films,
    "speed": run.train_on_films,
    "decoder": run.train_vae,
    "pack": run.pack_checkpoint,
    "report": run.report,
    "joins": run.measure_joins,
}
# Options that only these stages look at; another would leave them out in silence.
_ONLY_FOR = {
    "start": ("images", "video", "speed"),
    "sound_only": ("films",),
    "output": ("pack", "report", "joins"),
    "rows": ("report", "joins"),
}


def add_train(subparsers: Any) -> None:
    """Add `emo train` to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="train emo-tiny, stage by stage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=tuple(STAGES), help="which stage to run, or to go on with")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("emo-work"),
        metavar="DIR",
        help="folder of everything the stages make (default: emo-work)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help="minutes of training, resumptions included; joins: of each film (1)",
    )
    parser.add_argument("--steps", type=int, help="steps of training, resumptions included")
    parser.add_argument(
        "--count",
        type=int,
        help="voices: utterances (2600); films: puppets (2600); report: films (24); joins: films "
        "of each option (4)",
    )
    parser.add_argument(
        "--start",
        type=Path,
        metavar="FILE",
        help="images, video, speed: weights to begin with, such as video.safetensors of another "
        "work folder with the same films (default: those of the stage before)",
    )
    parser.add_argument("--first", type=int, default=0, help="films: seed of the first puppet")
    parser.add_argument(
        "--sound-only",
        action="store_true",
        help="films: only the sound features, after a new audio encoder",
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights, data order and noise")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="pack: the checkpoint to write; report, joins: the Markdown file",
    )
    parser.add_argument(
        "--model", default="emo-tiny", help="report, joins: name or file of a checkpoint"
    )
    parser.add_argument(
        "--rows",
        metavar="NAMES",
        help="report: rows to measure, with commas: speech, picture, silence, "
        "expression, region, prior, speed, long, cost (default: all); films "
        "measured before are not measured again; joins: options, with semicolons",
    )
    parser.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> int:
    """Run one stage; see add_train().

    Raises:
        ValueError: if a number is not above 0, or the stage does not know an option.
        NotADirectoryError: if the work folder is a file.
    """
    for name in ("minutes", "steps", "count", "threads"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name} must be above 0, got {value}")
    for name, stages in _ONLY_FOR.items():
        if getattr(args, name) and args.stage not in stages:
            option, known = name.replace("_", "-"), ", ".join(stages)
            raise ValueError(f"--{option} is for {known}, not for {args.stage}; leave it out")
    if args.work.exists() and not args.work.is_dir():
        raise NotADirectoryError(f"--work {args.work} is a file; give a folder")
    if args.rows is not None:
        check = chosen_options if args.stage == "joins" else chosen_rows
        check(args.rows)  # a typo must not cost an hour
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    STAGES[args.stage](args)
    return 0
