"""The behaviour table: everything a model of the puppet world is asked to do, measured.

Unseen puppets say unseen texts in unseen voices; beside every result stands the ceiling, the
same measurement on the truth films after the model's own VAE.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict

from . import report_rows
from .bench import Bench
from .journal import Journal
from .report_films import REGIONS, FilmSet, ReportSettings, film_sets, region_name, speed_name
from .report_rows import Group, Groups, Row
from .voices import Utterance

logger = logging.getLogger(__name__)

_MAIN = ("espeak", "flite")
_REGIONS = tuple(map(region_name, REGIONS))

ROWS: dict[str, Callable[[Groups, ReportSettings], list[Row]]] = {
    "speech": report_rows.speech_rows,
    "picture": report_rows.picture_rows,
    "silence": report_rows.silence_rows,
    "expression": report_rows.expression_rows,
    "region": report_rows.region_rows,
    "prior": report_rows.prior_rows,
    "speed": report_rows.speed_rows,
    "long": report_rows.long_rows,
    "cost": report_rows.cost_rows,
}
"""The rows by the names that `emo train report --rows` takes."""


def chosen_rows(words: str) -> tuple[str, ...]:
    """Read a choice of rows.

    Args:
        words: names with commas between, such as "speech,cost".

    Returns:
        The names, in the table's order.

    Raises:
        ValueError: if a name is unknown or there is none.
    """
    names = {word.strip() for word in words.split(",") if word.strip()}
    unknown = sorted(names - set(ROWS))
    if unknown or not names:
        raise ValueError(
            f"--rows takes names out of {','.join(ROWS)}, got "
            f"{','.join(unknown) or 'none'}; leave it out for all"
        )
    return tuple(name for name in ROWS if name in names)


def voices_of(rows: Collection[str]) -> tuple[str, ...]:
    """Name the synthesisers whose voices the films of these rows need."""
    return _MAIN if {"speech", "picture"} & set(rows) else _MAIN[:1]


def measure_rows(
    bench: Bench,
    utterances: Mapping[str, Sequence[Utterance]],
    settings: ReportSettings,
    journal: Journal,
    rows: Collection[str] = tuple(ROWS),
) -> list[Row]:
    """Measure a model.

    Args:
        bench: the model.
        utterances: of each of `voices_of(rows)` at least one: test sentences of voices that were
            never trained on. They are used in turn where more films are asked for.
        settings: how much is measured.
        journal: films in it are not made again; the others come into it one by one.
        rows: names of `ROWS`; of the others only what the journal knows is shown.

    Returns:
        All rows of the table.
    """
    sets = film_sets(utterances, settings)
    wanted = {name for row in rows for name in _sets_of(row, settings)}
    for name in sets:
        if name in wanted:
            _measure(bench, name, sets[name], journal)
    groups = {name: _known(one, journal) for name, one in sets.items()}
    return [line for make in ROWS.values() for line in make(groups, settings)]


def _sets_of(row: str, settings: ReportSettings) -> tuple[str, ...]:
    """Names of the film sets a row reads."""
    speeds = tuple(map(speed_name, settings.speeds))
    read: dict[str, tuple[str, ...]] = {
        "speech": _MAIN, "picture": _MAIN, "expression": ("espeak",), "cost": ("espeak",),
        "speed": ("espeak", *speeds), "region": ("espeak", *_REGIONS),
        "prior": ("prior", region_name(1.0)), "silence": ("silence",), "long": ("long",),
    }  # fmt: skip
    return read[row]


def _measure(bench: Bench, name: str, films: FilmSet, journal: Journal) -> None:
    """Measure the films of a set that the journal does not know."""
    for index in range(films.count):
        if journal.find(films.row, films.voice, index) is not None:
            continue
        other = films.make(index + 1) if films.swapped else None
        measured = bench.measure(films.make(index), index, films.request, films.ceiling, other)
        journal.add(films.row, films.voice, index, measured)
        logger.info("%s: film %d of %d", name, index + 1, films.count)


def _known(films: FilmSet, journal: Journal) -> Group:
    found = (journal.find(films.row, films.voice, index) for index in range(films.count))
    return Group(tuple(one for one in found if one is not None), films.count)


def to_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Give the rows as plain values; None where a number has no value."""
    return [
        {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(row).items()
        }
        for row in rows
    ]


def to_markdown(rows: Sequence[Row]) -> str:
    """Write the table.

    Args:
        rows: its lines.

    Returns:
        A sentence on how many demands are met, and a Markdown table: what, must, aim, measured,
        ceiling, verdict (met, missed, not measured), films, notes.
    """
    known = [row for row in rows if row.good is not None]
    missed = sum(not row.good for row in known)
    lines = [
        f"{len(known) - missed} of {len(known)} measured demands are met, {missed} missed; "
        f"{len(rows) - len(known)} were not measured.",
        "",
        "| what | must | aim | measured | ceiling | verdict | films | notes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        value, ceiling = (
            "" if math.isnan(number) or row.good is None else f"{number:.3f}"
            for number in (row.value, row.ceiling)
        )
        verdict = {True: "met", False: "**missed**", None: "not measured"}[row.good]
        lines.append(
            f"| {row.what} | {row.must} | {row.aim} | {value} | {ceiling} | {verdict} "
            f"| {row.films} of {row.planned} | {row.note} |"
        )
    return "\n".join(lines) + "\n"
