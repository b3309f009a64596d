"""The trainer's commands: `emo puppet` draws people of the puppet world and lets them speak."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..disk import appearing
from ..readable import check_readable
from ..sound_files import read_sound
from ..video import FILM_SUFFIXES, VideoWriter
from ..waveform import SAMPLE_RATE, num_frames, to_mono_16k
from .acting import FRAME_RATE, act, drivers, truth
from .phones import Phone, mouth_track, parse_phones
from .puppets import face_boxes, make_identity, portrait_controls, render
from .voices import FLITE_VOICES, speak, speak_flite

logger = logging.getLogger(__name__)

PICTURES = (".png",)
FILMS = FILM_SUFFIXES


@dataclass(frozen=True)
class _Recording:
    """A sound as it goes into the film, (C, T) at its own rate, and its phones."""

    waveform: Tensor
    sample_rate: int
    phones: tuple[Phone, ...]


def add_puppet(subparsers: Any) -> argparse.ArgumentParser:
    """Add `emo puppet` to the command line.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` returned.

    Returns:
        The command's parser; its default `run` is `run_puppet`.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "puppet",
        allow_abbrev=False,
        help="draw a puppet of the training world, still or speaking, with its truth",
        description="Draw a puppet of the training world. A .png is its portrait; a film shows "
        "it saying a text (espeak-ng or flite must be installed) or a sound whose phones are "
        "known, at 25 frames a second.",
    )
    parser.add_argument(
        "--seed",
        type=int,
        required=True,
        metavar="N",
        help="which puppet, 0 or more; from 1000000 on none is trained on",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--say", metavar="TEXT", help="what it says")
    source.add_argument(
        "--sound", type=Path, metavar="FILE", help="a recording that it says; needs --phones"
    )
    parser.add_argument(
        "--voice",
        metavar="V",
        help="voice of --say: espeak-ng's (en-us+f4) or flite's "
        f"({', '.join(FLITE_VOICES)}); en-us if left out",
    )
    parser.add_argument(
        "--phones",
        type=Path,
        metavar="FILE.tsv",
        help="phones of --sound: lines start<TAB>end<TAB>phone, in seconds, "
        "ARPABET or IPA; pau is silence",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help=f"portrait ({', '.join(PICTURES)}) or film ({', '.join(FILMS)})",
    )
    parser.add_argument(
        "--truth",
        type=Path,
        metavar="FILE.json",
        help="also write mouth, pose and face box of every frame",
    )
    parser.add_argument(
        "--size",
        type=int,
        default=128,
        metavar="PIXELS",
        help="side of the picture, 32 to 1024, even (default 128)",
    )
    parser.set_defaults(run=run_puppet)
    return parser  # fmt: skip


def run_puppet(args: argparse.Namespace) -> int:
    """Draw the portrait or the film that the command line asks for.

    Args:
        args: what `add_puppet`'s parser read.

    Returns:
        0.

    Raises:
        ValueError: if the arguments or the files given do not fit; one sentence.
        OSError: if a synthesiser is missing or a file cannot be written.
    """
    _check(args)
    recording = _recording(args)
    controls = portrait_controls(args.seed) if recording is None else _perform(recording, args.seed)
    identity = make_identity(args.seed)
    with ExitStack() as truth_appears:  # when the picture or the film is there
        if args.truth is not None:
            told = truth(args.seed, controls, face_boxes(identity, controls))
            partial = truth_appears.enter_context(appearing(args.truth))
            partial.write_text(json.dumps(told), encoding="utf-8")
        pictures = (render(identity, part, args.size) for part in torch.split(controls, 64))
        if recording is None:
            _write_picture(args.output, next(pictures)[0])
        else:
            _write_film(args.output, pictures, args.size, recording)
    box = [round(args.size * side) for side in face_boxes(identity, controls)[0].tolist()]
    logger.info(
        "wrote %s: %d frame%s; the face%s: --face-box %d,%d,%d,%d",
        args.output, len(controls), "s" * (len(controls) > 1),
        " in the first" * (len(controls) > 1), *box,
    )  # fmt: skip
    return 0


def read_phones(path: Path) -> tuple[Phone, ...]:
    """Read timed phones, one a line: start, end (seconds), phone, with tabs between.

    Args:
        path: a text file in UTF-8; empty lines are skipped.

    Returns:
        (start_s, end_s, name) with names from `phones.PHONES`.

    Raises:
        ValueError: with the line's number, if a line is malformed or out of order.
        OSError: if there is no such file, or it may not be read.
    """
    check_readable(path, "phones file", "lines start<TAB>end<TAB>phone")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not a text file in UTF-8; give lines start<TAB>end<TAB>phone"
        ) from error
    phones: list[Phone] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            phones.append(_phone(line, f"{path}, line {number}", phones))
    if not phones:
        raise ValueError(f"{path} has no phones; give lines start<TAB>end<TAB>phone")
    return parse_phones(phones)


def _phone(line: str, where: str, before: list[Phone]) -> Phone:
    fields = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
    try:
        start, end, name = float(fields[0]), float(fields[1]), fields[2].strip()
    except (ValueError, IndexError):
        name = ""
    if not name or len(fields) != 3:
        raise ValueError(
            f"{where}: expected start<TAB>end<TAB>phone with times in seconds, got {line!r}; "
            "a line of silence is 0.0<TAB>0.2<TAB>pau"
        )
    earliest = before[-1][0] if before else 0.0
    if not earliest <= start <= end < float("inf"):
        raise ValueError(
            f"{where}: expected a phone that starts at {earliest:g} s or later and then ends, "
            f"got {start:g} to {end:g} s; sort the lines by time"
        )
    return start, end, name


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot work before any work is done."""
    speaks = args.say is not None or args.sound is not None
    suffix = args.output.suffix.lower()
    if args.seed < 0:
        raise ValueError(f"--seed must be 0 or more, got {args.seed}")
    if not 32 <= args.size <= 1024 or args.size % 2:
        raise ValueError(f"--size must be an even number from 32 to 1024, got {args.size}")
    if speaks and suffix not in FILMS:
        raise ValueError(
            f"a speaking puppet is a film ({', '.join(FILMS)}), got the name {args.output}; "
            "leave --say and --sound out for a portrait"
        )
    if not speaks and suffix not in PICTURES:
        raise ValueError(
            f"a silent puppet is a portrait ({', '.join(PICTURES)}), got the name {args.output}; "
            "give --say TEXT, or --sound and --phones, for a film"
        )
    if (args.sound is None) != (args.phones is None):
        raise ValueError("--sound and --phones belong together, got one; give both, or --say TEXT")
    if args.voice is not None and args.say is None:
        raise ValueError(f"--voice {args.voice} speaks a text, but none came; give --say TEXT")
    for path in (args.output, args.truth):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise ValueError(
                f"{path} must be a file in a folder that exists; make the folder or change the name"
            )
    if args.truth is not None and args.truth.resolve() == args.output.resolve():
        raise ValueError(f"--truth and --output both name {args.output}; give two names")


def _recording(args: argparse.Namespace) -> _Recording | None:
    """Speak the text, or read the sound and its phones; None for a portrait."""
    if args.say is not None:
        voice = args.voice or "en-us"
        spoken = speak_flite(args.say, voice) if voice in FLITE_VOICES else speak(args.say, voice)
        return _Recording(spoken.waveform[None], SAMPLE_RATE, spoken.phones)
    if args.sound is None:
        return None
    phones = read_phones(args.phones)
    waveform, sample_rate = read_sound(args.sound)
    seconds = waveform.shape[1] / sample_rate
    if phones[-1][1] > seconds + 0.5:
        logger.warning(
            "%s ends at %.2f s, but its phones at %.2f s: do they belong together?",
            args.sound, seconds, phones[-1][1],
        )  # fmt: skip
    return _Recording(waveform, sample_rate, phones)


def _perform(recording: _Recording, seed: int) -> Tensor:
    """Act the recording: controls (F, 14), F = ceil(samples * 25 / rate)."""
    count = num_frames(recording.waveform.shape[1], recording.sample_rate, FRAME_RATE)
    heard = drivers(to_mono_16k(recording.waveform, recording.sample_rate))
    return act(mouth_track(recording.phones, count), heard, seed)


def _write_picture(path: Path, picture: Tensor) -> None:
    from PIL import Image

    with appearing(path) as partial:
        Image.fromarray(_bytes(picture[None])[0]).save(partial, "PNG")


def _write_film(path: Path, pictures: Iterator[Tensor], size: int, recording: _Recording) -> None:
    """Write the puppet and its sound as they come."""
    sound = (recording.waveform, recording.sample_rate)
    with VideoWriter(path, FRAME_RATE, (size, size), sound) as film:
        for batch in pictures:
            film.write(batch)


def _bytes(pictures: Tensor) -> Any:
    """(F, 3, H, W) in 0..1 to (F, H, W, 3) bytes."""
    return (pictures * 255).round().to(torch.uint8).movedim(1, -1).contiguous().numpy()
