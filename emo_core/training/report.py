"""The behaviour table: everything a model of the puppet world is asked to do, measured.

Unseen puppets say unseen texts in unseen voices; beside every result stands the ceiling, the
same measurement on the truth films after the model's own VAE.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch

from .bench import (
    EVERYTHING,
    Animate,
    Bench,
    Gathered,
    ReportSettings,
    brows_against,
    energy_against,
    openness_against,
)
from .meter_check import RoundTrip
from .meters import PuppetMeter, meter_record
from .speech import SAMPLE_RATE, Utterance
from .truth_films import TruthFilm, long_utterance, make_film, make_films


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: what is measured.
        must: the demand, in words.
        aim: what would be better, in words.
        value: the median over films; nan where nothing was measured.
        ceiling: the same on truth films through the VAE; nan where that has no meaning.
        good: whether the demand is met.
        films: how many films.
        note: further figures.
    """

    what: str
    must: str
    aim: str
    value: float
    ceiling: float
    good: bool
    films: int
    note: str = ""


def behaviour_table(
    animate: Animate,
    meter: PuppetMeter,
    round_trip: RoundTrip,
    utterances: Mapping[str, Sequence[Utterance]],
    settings: ReportSettings | None = None,
) -> dict[str, Any]:
    """Measure a model: every row of the behaviour table.

    Args:
        animate: the model.
        meter: what reads its films.
        round_trip: the model's VAE, there and back.
        utterances: "espeak" and "flite": at least one each; test sentences of voices that were
            never trained on. They are used in turn where more films are asked for.
        settings: how much is measured; by default 24 films of each synthesiser, and
            the floor of head speed that the meter's record states.

    Returns:
        {"rows": [...], "settings": {...}, "films": {group: [figures of each film]},
        "markdown": the table}.
    """
    bench = Bench(animate, meter, round_trip, settings or _usual_settings())
    settings = bench.settings
    groups: dict[str, Gathered] = {}
    rows: list[Row] = []
    for name in ("espeak", "flite"):
        films = make_films(_take(utterances[name], settings.num_films), settings.first_seed)
        groups[name], groups[f"{name}, ceiling"] = bench.gather(films)
    rows += _speech_rows(groups)
    rows += _picture_rows(groups)
    rows += _silence_rows(bench, groups)
    rows += _long_rows(bench, groups, utterances["espeak"])
    rows += _speed_rows(bench, groups, utterances["espeak"])
    rows += _region_rows(bench, groups, utterances["espeak"])
    rows += _expression_rows(groups)
    rows.append(_cost_row(groups))
    return {
        "rows": [asdict(row) for row in rows],
        "settings": asdict(settings),
        "films": {name: group.figures for name, group in groups.items()},
        "markdown": to_markdown(rows),
    }


def _usual_settings() -> ReportSettings:
    record = meter_record()
    return ReportSettings(speed_floor=record.get("coded", record["truth"])["head_speed_floor"])


def _take(utterances: Sequence[Utterance], count: int) -> list[Utterance]:
    return [utterances[index % len(utterances)] for index in range(count)]


def _short(utterances: Sequence[Utterance], settings: ReportSettings) -> list[TruthFilm]:
    """Films for the requests: other puppets than in the main films."""
    length = settings.controlled_seconds
    chosen = _take(utterances, settings.num_controlled)
    return [
        make_film(long_utterance([one], length), settings.first_seed + 20_000 + index)
        for index, one in enumerate(chosen)
    ]


def _speech_rows(groups: Mapping[str, Gathered]) -> list[Row]:
    made, best = groups["espeak"], groups["espeak, ceiling"]
    other, other_best = groups["flite"], groups["flite, ceiling"]
    count = len(made.films)
    r, r_best = made.median("openness_r"), best.median("openness_r")
    r_other, width = other.median("openness_r"), made.median("width_r")
    amplitude, lag = made.median("openness_amplitude"), made.median("openness_lag")
    swapped = made.swapped(openness_against)
    lags = f"flite {other.median('openness_lag'):+.0f}"
    return [
        Row("openness r, espeak-ng voices left out", "0.90", "0.95", r, r_best, r >= 0.9, count),
        Row("openness r, flite, never trained on", "0.75", "0.85", r_other,
            other_best.median("openness_r"), r_other >= 0.75, len(other.films)),
        Row("mouth width r, voices left out", "0.6", "0.8", width, best.median("width_r"),
            width >= 0.6, count, f"flite {other.median('width_r'):.3f}"),
        Row("amplitude of openness, film / truth", "0.8 to 1.3", "0.9 to 1.1", amplitude,
            best.median("openness_amplitude"), 0.8 <= amplitude <= 1.3, count,
            f"flite {other.median('openness_amplitude'):.2f}"),
        Row("openness r, sound swapped (control)", "below 0.2", "", swapped,
            best.swapped(openness_against), swapped < 0.2, count,
            f"flite {other.swapped(openness_against):.3f}"),
        Row("best lag, frames", "within +-1", "0", lag, best.median("openness_lag"),
            abs(lag) <= 1, count, lags),
    ]  # fmt: skip


def _picture_rows(groups: Mapping[str, Gathered]) -> list[Row]:
    made, best = groups["espeak"], groups["espeak, ceiling"]
    other, other_best = groups["flite"], groups["flite, ceiling"]
    count = len(made.films)
    sharp, psnr = made.median("sharpness_ratio"), best.median("psnr")
    right = (made.mean("right_puppet") + other.mean("right_puppet")) / 2
    right_best = (best.mean("right_puppet") + other_best.mean("right_puppet")) / 2
    joins = made.median("join_ratio")
    identity = f"identity error {made.median('identity_error'):.3f}, "
    return [
        Row("sharpness, film / truth through the VAE", "0.9", "1.0", sharp,
            best.median("sharpness_ratio"), sharp >= 0.9, count, "ceiling: VAE / truth"),
        Row("VAE alone, PSNR in dB", "32", "", psnr, math.nan, psnr >= 32, count),
        Row("right puppet out of 100", "95 %", "100 %", right, right_best, right >= 0.95,
            count + len(other.films),
            identity + f"ceiling {best.median('identity_error'):.3f}"),
        Row("jump at joins / inside clips", "at most 1.5", "1.1", joins,
            best.median("join_ratio"), joins <= 1.5, count),
    ]  # fmt: skip


def _silence_rows(bench: Bench, groups: dict[str, Gathered]) -> list[Row]:
    settings = bench.settings
    silence = Utterance(torch.zeros(4 * SAMPLE_RATE), ((0.0, 4.0, "PAU"),), "", "", "silence")
    films = make_films([silence] * settings.num_silent, settings.first_seed + 10_000)
    groups["silence"], groups["silence, ceiling"] = made, best = bench.gather(films)
    mean = made.median("openness_mean")
    note = f"95th percentile of frames {made.median('openness_high'):.3f}"
    return [
        Row("openness in silence", "below 0.15", "", mean, best.median("openness_mean"),
            mean < 0.15, len(films), note)
    ]  # fmt: skip


def _long_rows(
    bench: Bench, groups: dict[str, Gathered], utterances: Sequence[Utterance]
) -> list[Row]:
    settings = bench.settings
    films = [
        make_film(
            long_utterance([*utterances[index:], *utterances[:index]], settings.long_seconds),
            settings.first_seed + 30_000 + index,
        )
        for index in range(settings.num_long)
    ]
    groups["long"], groups["long, ceiling"] = made, best = bench.gather(films)
    value = made.median("drift")
    note = (
        f"against the portrait as read: {made.median('drift_to_portrait'):.3f}, "
        f"ceiling {best.median('drift_to_portrait'):.3f}; openness r "
        f"{made.median('openness_r'):.3f}"
    )
    what = f"identity error, last 5 s / first 5 s of {settings.long_seconds:.0f} s"
    return [
        Row(what, "at most 1.25", "1.05", value, best.median("drift"), value <= 1.25,
            len(films), note)
    ]  # fmt: skip


def _speed_rows(
    bench: Bench, groups: dict[str, Gathered], utterances: Sequence[Utterance]
) -> list[Row]:
    films = _short(utterances, bench.settings)
    measured, heard = [], []
    for speed in bench.settings.speeds:
        made, _ = groups[f"speed {speed:.2f}"], _ = bench.gather(films, speed=speed)
        measured.append(made.median("head_speed"))
        heard.append(f"{speed:.2f}: {measured[-1]:.3f} (r {made.median('openness_r'):.3f})")
    rising = all(a < b for a, b in pairwise(measured))
    ratio = measured[-1] / measured[0] if measured[0] > 0 else math.nan
    own, world = groups["espeak"].mean("head_speed"), groups["espeak, ceiling"].mean("head_speed")
    near = own / world if world > 0 else math.nan
    note = "rising strictly" if rising else "NOT rising strictly"
    return [
        Row("head speed, last request / first", "rising, at least 2", "4", ratio, math.nan,
            rising and ratio >= 2, len(films), f"{note}; " + ", ".join(heard)),
        Row("mean head speed without a request / the world's", "0.7 to 1.3", "", near, 1.0,
            0.7 <= near <= 1.3, len(groups["espeak"].films),
            f"{own:.3f} and {world:.3f} degrees per frame at 30 fps"),
    ]  # fmt: skip


def _region_rows(
    bench: Bench, groups: dict[str, Gathered], utterances: Sequence[Utterance]
) -> list[Row]:
    films = _short(utterances, bench.settings)
    ranges = []
    for scale in (1.0, 1.5, EVERYTHING):
        group = groups[f"region x{scale:g}"], _ = bench.gather(films, region_scale=scale)
        ranges.append(group[0].median("centre_range"))
    rising = ranges[0] < ranges[1] < ranges[2]
    ratio = ranges[2] / ranges[0] if ranges[0] > 0 else math.nan
    inside, best = groups["espeak"].mean("inside"), groups["espeak, ceiling"].mean("inside")
    note = ", ".join(f"{value:.4f}" for value in ranges)
    return [
        Row("range of the head's centre, everything / x1.0", "rising, at least 1.5", "", ratio,
            math.nan, rising and ratio >= 1.5, len(films),
            f"x1.0, x1.5, everything: {note} of the picture"),
        Row("frames with the head inside the region", "90 %", "", inside, best, inside >= 0.9,
            len(groups["espeak"].films),
            "90 % of the face box within the portrait's; the truth was not drawn for that region"),
    ]  # fmt: skip


def _expression_rows(groups: Mapping[str, Gathered]) -> list[Row]:
    made, best = groups["espeak"], groups["espeak, ceiling"]
    rows = []
    for what, name, against in (
        ("brows", "brow_r", brows_against),
        ("head energy", "energy_r", energy_against),
    ):
        value, swapped = made.median(name), made.swapped(against)
        rows.append(
            Row(f"{what} against what drives them in the sound, r", "0.3; swapped below 0.1",
                "0.5", value, best.median(name), value >= 0.3 and swapped < 0.1,
                len(made.films), f"swapped {swapped:.3f}, ceiling {best.swapped(against):.3f}")
        )  # fmt: skip
    return rows


def _cost_row(groups: Mapping[str, Gathered]) -> Row:
    cost = groups["espeak"].median("cost")
    count = torch.get_num_threads()
    return Row("seconds per second of film", "2.5", "1.0", cost, math.nan, cost <= 2.5,
               len(groups["espeak"].films), f"{count} threads")  # fmt: skip


def to_markdown(rows: Sequence[Row]) -> str:
    """Write the table.

    Args:
        rows: its lines.

    Returns:
        A Markdown table: what, must, aim, measured, ceiling, met, films, notes.
    """
    lines = [
        "| what | must | aim | measured | ceiling | met | films | notes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        value, ceiling = (
            "" if math.isnan(number) else f"{number:.3f}" for number in (row.value, row.ceiling)
        )
        met = "yes" if row.good else "**no**"
        lines.append(
            f"| {row.what} | {row.must} | {row.aim} | {value} | {ceiling} | {met} "
            f"| {row.films} | {row.note} |"
        )
    return "\n".join(lines) + "\n"
