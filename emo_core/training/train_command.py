"""`emo train STAGE`: the stages in order, each with what the one before left in the work folder.

voices     synthetic voices with phone times (needs espeak-ng)
vae        the picture autoencoder
listening  the audio encoder, on phones and mouths
meters     what measures puppets, apart from everything else
films      puppets that speak, as latents and sound features
images     stage 1: backbone, ReferenceNet, face locator, sound
video      stage 2: temporal modules and motion frames
speed      stage 3: temporal modules and speed layers
speed-layers  more of stage 3 for the speed layers alone; optional
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

from ..devices import find_device
from ..weights import find_checkpoint
from . import measure_stages
from . import train_stages as run
from .identities import FIRST_UNSEEN_SEED
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
    "speed-layers": run.train_on_films,
    "decoder": run.train_vae,
    "pack": run.pack_checkpoint,
    "report": measure_stages.report,
    "joins": measure_stages.measure_joins,
}
_ON_FILMS = ("images", "video", "speed", "speed-layers")
_TRAINED = ("vae", "listening", "meters", *_ON_FILMS, "decoder")
# Trained until they are told to stop; the others of _TRAINED know how long they take.
_ENDLESS = ("vae", *_ON_FILMS, "decoder")
_MEASURED = ("report", "joins")
# Which stages look at an option; another would leave it out in silence.
_ONLY_FOR: dict[str, tuple[str, ...]] = {
    "count": ("voices", "films", *_MEASURED),
    "device": ("films", *_TRAINED),
    "first": ("films",),
    "minutes": (*_TRAINED, "joins"),
    "model": _MEASURED,
    "output": ("pack", *_MEASURED),
    "rows": _MEASURED,
    "sound_only": ("films",),
    "start": _ON_FILMS,
    "steps": _TRAINED,
}
_DEFAULTS = {"device": "cpu", "first": 0, "model": "emo-tiny"}


def add_train(subparsers: Any) -> None:
    """Add `emo train` to the command line."""
    parser = subparsers.add_parser(
        "train",
        allow_abbrev=False,
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
        help="minutes of training, resumptions included; these or --steps are needed for vae, "
        "images, video, speed, speed-layers and decoder (meters: 25); joins: of each film (1)",
    )
    parser.add_argument(
        "--steps", type=int, help="steps of training, resumptions included (listening: 4000)"
    )
    parser.add_argument(
        "--count",
        type=int,
        help="voices: utterances (2600); films: puppets, in hundreds (2600); report: films (24); "
        "joins: films of each option (4)",
    )
    parser.add_argument(
        "--start",
        type=Path,
        metavar="FILE",
        help="images, video, speed, speed-layers: weights to begin with, such as video.safetensors "
        "of another work folder with the same films (default: those of the stage before); give it "
        "again to go on",
    )
    parser.add_argument("--first", type=int, help="films: seed of the first puppet (0)")
    parser.add_argument(
        "--sound-only",
        action="store_true",
        help="films: only the sound features of files that are there, after a new audio encoder",
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights, data order and noise")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, auto, ... (default: cpu)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="pack: the checkpoint to write; report, joins: the Markdown file",
    )
    parser.add_argument("--model", help="report, joins: name or file of a checkpoint (emo-tiny)")
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
        ValueError: if a number is out of range, the stage does not know an option, needs an end,
            or could not write its result.
        FileNotFoundError: if there is no such checkpoint.
        NotADirectoryError: if the work folder is a file.
    """
    _check(args)
    given = {name: getattr(args, name) for name in _DEFAULTS}
    vars(args).update({name: _DEFAULTS[name] for name, value in given.items() if value is None})
    if args.stage in _MEASURED:
        _check_report(args)
    device = find_device(args.device)
    args.device = str(device)
    if device.index:
        torch.cuda.set_device(device)  # accelerate takes the current one
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.stage != "pack":
        args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    STAGES[args.stage](args)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is made; see run_train()."""
    for name in ("minutes", "steps", "count", "threads"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name} must be above 0, got {value}")
    for name in ("seed", "first"):
        if not 0 <= (getattr(args, name) or 0) < 2**63:
            raise ValueError(f"--{name} must be 0 to 2^63 - 1, got {getattr(args, name)}")
    for name, stages in _ONLY_FOR.items():
        if getattr(args, name) not in (None, False) and args.stage not in stages:
            option, known = name.replace("_", "-"), ", ".join(stages)
            raise ValueError(f"--{option} is for {known}, not for {args.stage}; leave it out")
    if args.stage in _ENDLESS and args.steps is None and args.minutes is None:
        raise ValueError(
            f"{args.stage} is trained until it is told to stop; give --minutes, --steps or both"
        )
    made = -(-(args.count or 2600) // run.SHARD) * run.SHARD
    if args.stage == "films" and (last := (args.first or 0) + made - 1) >= FIRST_UNSEEN_SEED:
        raise ValueError(
            f"--first and --count reach seed {last}, and from {FIRST_UNSEEN_SEED} on puppets are "
            "kept for tests; take a smaller --first"
        )
    if args.work.exists() and not args.work.is_dir():
        raise NotADirectoryError(f"--work {args.work} is a file; give a folder")
    output = args.output
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise ValueError(
            f"-o {output} must be a file in a folder that exists; make the folder or change the "
            "name"
        )


def _check_report(args: argparse.Namespace) -> None:
    """Refuse what would cost hours of measuring."""
    if args.output is not None and args.output.suffix == ".json":
        raise ValueError(f"-o {args.output} is to be Markdown; choose another ending")
    if args.rows is not None:
        check = chosen_options if args.stage == "joins" else chosen_rows
        check(args.rows)
    if not (path := find_checkpoint(args.model)).is_file():
        raise FileNotFoundError(f"--model {path} does not exist; give a checkpoint or emo-tiny")
