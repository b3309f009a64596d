"""emo animate: portrait and sound to a film, with a bar over the steps of all clips."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .cli_hallo import add_hallo_options, box, default_seed, hallo_options, size
from .cli_info import write_json

PUPPETS_ONLY = (
    "emo-tiny knows the puppets it was trained on, not photographs; `emo puppet` draws some."
)


def add_animate(commands: Any) -> None:
    """Add emo animate."""
    parser = commands.add_parser(
        "animate",
        allow_abbrev=False,
        help="let the person of a portrait speak a sound",
        description="Let the person of a portrait speak or sing a sound. The film has "
        f"ceil(samples * fps / rate) frames and the given sound. {PUPPETS_ONLY}",
    )
    add = parser.add_argument
    add("portrait", type=Path, metavar="PORTRAIT",
        help="any picture Pillow reads; cropped to the film's shape around the face box, or the "
        "middle")
    add("sound", type=Path, metavar="SOUND", help="any sound or film PyAV reads")
    add("-o", "--output", type=Path, required=True, metavar="VIDEO",
        help="film to write: .mp4, .mov or .mkv (H.264 and AAC)")
    add("--model", default="emo-tiny", metavar="M",
        help="emo-tiny, a .safetensors checkpoint, or Hallo's net.pth (default emo-tiny)")
    add("--seed", type=int, metavar="N",
        help="of the noise, 0 to 2^64-1; the same seed gives the same film (default 0; 42 with "
        "--reproduce)")
    add("--steps", type=int, metavar="N",
        help="sampling steps of a clip, 1 to 1000 (default: the model's own; emo-tiny's is 4)")
    add("--cfg", type=float, metavar="X",
        help="guidance scale, 0 to 30; 1 is none, at nearly half the work (default: the model's "
        "own)")
    add("--audio-cfg", type=float, metavar="X",
        help="guidance scale of the sound alone, 0 to 30; --cfg is then that of the rest "
        "(default: one scale for all)")
    add("--solver", choices=("ddim", "dpmpp_2m"), default="ddim",
        help="ddim, or dpmpp_2m for fewer steps (default ddim)")
    add("--speed", metavar="SPEC",
        help="head speed in degrees per frame at 30 fps, 0 to 10 (0.1 to 1.5 looks natural): a "
        'number, keyframes in seconds "0:0.2,50:1.1", or "sound" for its rhythm and loudness '
        "(default: left to the model)")
    add("--face-box", type=box, metavar="X,Y,W,H",
        help="where the face is, in pixels of the upright picture; a larger box leaves the "
        "head more room, and it goes farther (default: the usual place of a portrait)")
    add("--size", type=size, metavar="WxH",
        help="width and height of the film, multiples of 64 from 256 to 1024, or portrait for the "
        "portrait's own shape; not for emo-tiny (default: the model's own square)")
    add("--start", type=float, default=0.0, metavar="S",
        help="seconds of the sound to skip, 0 or more (default 0)")
    add("--duration", type=float, metavar="S",
        help="seconds of the sound to take, above 0 (default: all)")
    add("--device", default="auto", metavar="D",
        help="auto, cpu, cuda, cuda:1, mps (default auto: cuda where there is one, else cpu)")
    add_hallo_options(parser)
    _add_joins(parser)
    _add_clips(parser)
    add("--json", action="store_true", help="report on stdout as JSON")
    add("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=_run_animate)  # fmt: skip


def _add_joins(parser: argparse.ArgumentParser) -> None:
    """How clips meet, and an existing film."""
    add = parser.add_argument
    add("--joins", choices=("auto", "plain", "quiet", "overlap"), default="auto",
        help="where clips meet: at equal distances, where the sound is quietest, or over frames "
        "that both share (default auto: what suits the model; emo-tiny overlap, Hallo plain)")
    add("--lock", choices=("off", "weak", "strong"), default="off",
        help="hold the colours of every clip to the portrait's, against drift (default off)")
    add("--film", type=Path, metavar="FILE",
        help="an existing film of the person, to be voiced anew with --denoise, --only-region or "
        "both; of the portrait's shape or square, and at least as long as the sound")
    add("--denoise", type=float, default=1.0, metavar="X",
        help="with --film: how much of its pictures is made anew, above 0 up to 1 (default 1)")
    add("--only-region", action="store_true",
        help="with --film: leave what lies outside the face box as it is")  # fmt: skip


def _add_clips(parser: argparse.ArgumentParser) -> None:
    """Where sampled clips are kept."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--clips", type=Path, metavar="DIR",
        help="folder where sampled clips are kept: after an interruption, or a change in the sound "
        "or speed, only clips that it changes are sampled (default: in the user's cache folder)")
    either.add_argument("--no-clips", action="store_true", help="keep no clips")
    parser.add_argument("--clips-limit", type=float, default=2.0, metavar="GB",
        help="what the folder may take, above 0; clips that were not used for longest go first "
        "(default 2)")  # fmt: skip


def _run_animate(args: argparse.Namespace) -> int:
    from .animate import animate
    from .animate_request import AnimateRequest
    from .kept import user_folder

    clips = None if args.no_clips else args.clips or user_folder()
    request = AnimateRequest(
        portrait=args.portrait, sound=args.sound, output=args.output, model=args.model,
        seed=default_seed(args), steps=args.steps, cfg=args.cfg, audio_cfg=args.audio_cfg,
        solver=args.solver, speed=args.speed, face_box=args.face_box, start=args.start,
        duration=args.duration, device=args.device, clips=clips, clips_limit=args.clips_limit,
        joins=args.joins, lock=args.lock, film=args.film, denoise=args.denoise,
        only_region=args.only_region, size=args.size, **hallo_options(args),
    )  # fmt: skip
    began = time.monotonic()
    with progress_bar(args.quiet) as progress:
        report = animate(request, progress)
    seconds = time.monotonic() - began
    if args.json:
        write_json({**asdict(report), "seconds": round(seconds, 2)})
    else:
        sys.stdout.write(
            f"{report.output}: {report.frames} frames ({report.frames / report.fps:.2f} s), seed "
            f"{report.seed}, made in {seconds:.1f} s, {report.reused} of {report.clips} clips kept "
            "from before\n"
        )
    return 0


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[Any], None]]:
    """A bar over the steps of all clips, from the first step on."""
    from tqdm import tqdm  # type: ignore[import-untyped]  # comes with transformers

    bar: Any = None

    def advance(step: Any) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=step.total, unit="step", disable=quiet, ascii=True, file=sys.stderr,
                       smoothing=0)
        # What was kept from before tells nothing of the time that is left, nor does the first
        # step, in whose time networks are loaded and kept clips decoded.
        sampled = step.done - step.found
        bar.initial = step.found + min(sampled, 1)
        bar.set_description(f"clip {step.clip}/{step.clips}", refresh=False)
        bar.update(step.done - bar.n)
        if sampled == 1:
            bar.start_t = bar.last_print_t = time.time()
            bar.refresh()

    try:
        yield advance
    finally:
        if bar is not None:
            bar.close()
