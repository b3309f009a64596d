"""What `emo train report` and `emo train joins` do: a checkpoint measured, film by film."""

from __future__ import annotations

import argparse
import json

from ..weights import find_checkpoint, load_model
from . import join_films
from .journal import Journal, Origin
from .meters import METERS_FILE, load_meter
from .origins import digest
from .release import measure
from .report import ROWS, chosen_rows, to_json, to_markdown, voices_of
from .speech import make_utterances
from .utterance_files import load_utterances, save_utterances
from .voices import FLITE_VOICES, HELD_OUT_VOICES


def report(args: argparse.Namespace) -> None:
    """Measure a checkpoint; goes on where an earlier call was."""
    rows = chosen_rows(args.rows or ",".join(ROWS))
    voices = {"espeak": HELD_OUT_VOICES, "flite": FLITE_VOICES}
    files = {name: args.work / f"voices-{name}.safetensors" for name in voices_of(rows)}
    for name, path in files.items():
        if not path.exists():
            save_utterances(path, make_utterances(36, 1, voices[name], "test"))
    table = measure(args.model, files, args.count or 24, args.work / "report.jsonl", rows)
    output = args.output or args.work / "report.md"
    output.write_text(to_markdown(table), encoding="utf-8")
    output.with_suffix(".json").write_text(json.dumps(to_json(table)), encoding="utf-8")


def measure_joins(args: argparse.Namespace) -> None:
    """Measure how clips may meet; goes on where an earlier call was."""
    voices = args.work / "voices-espeak.safetensors"
    if not voices.exists():
        save_utterances(voices, make_utterances(36, 1, HELD_OUT_VOICES, "test"))
    bench = join_films.JoinBench(load_model(args.model), load_meter())
    origin = Origin(digest(find_checkpoint(args.model)), digest(METERS_FILE))
    journal, seconds = Journal(args.work / "joins.jsonl", origin), 60 * (args.minutes or 1)
    options = join_films.chosen_options(args.rows or "")
    found = join_films.measure_joins(
        bench, load_utterances(voices), args.count or 4, seconds, journal, options
    )
    output = args.output or args.work / "joins.md"
    output.write_text(join_films.joins_table(found, seconds), encoding="utf-8")
