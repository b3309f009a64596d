"""The command line: emo animate | info | evaluate | convert | puppet | train.

A mistake of the user ends with one sentence on stderr and exit code 2, Ctrl-C with 130, SIGTERM
with 143 and SIGHUP with 129. Everything heavy is imported inside the commands, so that help is
there at once.
"""

from __future__ import annotations

import argparse
import errno
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from .cli_animate import PUPPETS_ONLY, add_animate
from .cli_hallo import add_convert
from .cli_info import add_info, write_json
from .cli_signals import Ended, signals_end

_TRAINING = {
    "puppet": "draw a puppet of the training world, still or speaking, with its truth",
    "train": "train emo-tiny, stage by stage",
}
_LEFT = "no unfinished file was left"
_CPU_MEMORY = "DefaultCPUAllocator"
"""PyTorch says so, in an error of no class of its own, where the machine's memory is full."""
_WAYS_OUT = {
    errno.ENOSPC: "; make room, or choose another folder",
    errno.EACCES: "; change its rights, or choose another",
}
_LEFT_BY_TRAINING = "finished files stay; the same command goes on from its last checkpoint, if any"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: words after `emo`; sys.argv's by default.

    Returns:
        The exit code: 0, 2 for a mistake of the user, 130 for Ctrl-C, 128 and its number for
        another signal that ends a program, 1 for a bug of ours.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    show_trace = "--traceback" in words
    left = _LEFT_BY_TRAINING if words[:1] == ["train"] else _LEFT
    try:
        args = _parser(words).parse_args(words)
        with _notices(args.command), signals_end():
            code: int = args.run(args)
            return code
    except SystemExit as end:  # argparse: help, or a mistake it has told
        return end.code if isinstance(end.code, int) else 2
    except Ended as end:
        return _say(f"{end}; {left}", end.code)
    except KeyboardInterrupt:
        return _say(f"interrupted; {left}", 130)
    except Exception as error:
        if show_trace:
            traceback.print_exc()
        return _say(*_told(error, next((word for word in words if word[:1] != "-"), "")))


def _say(sentence: str, code: int) -> int:
    sys.stderr.write(f"emo: {sentence}\n")
    return code


def _told(error: Exception, command: str) -> tuple[str, int]:
    """One sentence for an error, and the exit code."""
    package = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package and package != "emo_core":
        extra = "train" if command in _TRAINING else "standalone"
        return (
            f"emo {command} needs the package {package}, which is not installed; in a clone of "
            f'the repository run: pip install -e ".[{extra}]"'
        ), 2
    if type(error).__name__ == "OutOfMemoryError":
        return f"the device ran out of memory ({_line(error)}); use --device cpu", 2
    if isinstance(error, MemoryError) or _CPU_MEMORY in str(error):
        shorter = "take a shorter --duration, or " if command == "animate" else ""
        return f"there is not enough memory for this; {shorter}close other programs", 2
    if isinstance(error, (ValueError, OSError)):
        return _line(error), 2
    return (
        f"{type(error).__name__}: {_line(error)}; this is a bug, please report it with the output "
        "of the same command and --traceback"
    ), 1


def _line(error: Exception) -> str:
    """An error as one line; what the system alone says is told with a way out."""
    if isinstance(error, OSError) and error.errno is not None:
        where = f": {error.filename}" if error.filename is not None else ""
        way = _WAYS_OUT.get(error.errno, "")
        return f"{error.strerror or type(error).__name__}{where}{way}"
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _notices(command: str) -> Iterator[None]:
    """Send what the package logs to stderr; the trainer has a log of its own."""
    logger = logging.getLogger("emo_core")
    if command == "train":
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of all commands; the trainer's are imported only when one of them is called."""
    parser = _Parser(
        prog="emo",
        allow_abbrev=False,
        description="One portrait and one recording become a video of that person speaking: EMO "
        f"(Tian et al., ECCV 2024). {PUPPETS_ONLY}",
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    add_animate(commands)
    add_info(commands)
    _add_evaluate(commands)
    add_convert(commands)
    wanted = next((word for word in words if not word.startswith("-")), "")
    for name, summary in _TRAINING.items():
        if name == wanted:
            _training_command(name)(commands)
        else:
            commands.add_parser(name, help=summary)
    for command in commands.choices.values():
        command.add_argument("--traceback", action="store_true", help=argparse.SUPPRESS)
    return parser


def _training_command(name: str) -> Callable[[Any], Any]:
    try:
        if name == "puppet":
            from .training.commands import add_puppet

            return add_puppet
        from .training.train_command import add_train

        return add_train
    except ModuleNotFoundError as error:
        if ".training" not in (error.name or ""):
            raise
        raise OSError(
            f"emo {name} belongs to the trainer (emo_core/training), which this installation "
            "leaves out; run it from a checkout of the repository"
        ) from None


def _add_evaluate(commands: Any) -> None:
    parser = commands.add_parser(
        "evaluate",
        allow_abbrev=False,
        help="measure a film: lip sync, head speed, identity, joins, drift",
        description="Measure a film of a puppet. The mouth is compared with the truth (Pearson r, "
        "best lag in frames), or, without a truth, with the loudness of the sound, which is a "
        "proxy; head speed is in degrees per frame at 30 fps.",
    )
    add = parser.add_argument
    add("video", type=Path, metavar="VIDEO", help="the film")
    add("--portrait", type=Path, required=True, metavar="P", help="picture it was made from")
    add("--sound", type=Path, required=True, metavar="S", help="sound it was made from")
    add("--truth", type=Path, metavar="T", help="truth.json of emo puppet --truth")
    add("--json", action="store_true", help="figures on stdout as JSON")
    parser.set_defaults(run=_run_evaluate)


def _run_evaluate(args: argparse.Namespace) -> int:
    from .evaluation import evaluate_file
    from .figures import format_report

    figures = evaluate_file(args.video, args.portrait, args.sound, args.truth)
    if args.json:
        write_json(figures)
    else:
        sys.stdout.write(format_report(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
