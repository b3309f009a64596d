"""The rows of the behaviour table: what is asked of a model, and how films answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from .bench import Measured
from .report_films import REGIONS, ReportSettings, region_name, speed_name


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: what is measured.
        must: the demand, in words.
        aim: what would be better, in words.
        value: the median over films; nan where nothing was measured.
        ceiling: the same on truth films through the VAE; nan where that has no meaning.
        good: whether the demand is met; None where no film was measured.
        films: how many films were measured,
        planned: and how many are asked for.
        note: further figures.
    """

    what: str
    must: str
    aim: str
    value: float
    ceiling: float
    good: bool | None
    films: int
    planned: int
    note: str = ""


@dataclass(frozen=True)
class Group:
    """The films of a set that were measured.

    Attributes:
        films: their figures.
        planned: how many the set has.
    """

    films: tuple[Measured, ...]
    planned: int

    def median(self, name: str) -> float:
        """Return a figure's median over films; films in which it has no value are left out."""
        return _median([one.film.get(name, math.nan) for one in self.films])

    def largest(self, name: str) -> float:
        """Return a figure's largest value; a median of a few films hides the worst."""
        return max((one.film.get(name, math.nan) for one in self.films), default=math.nan)

    def best(self, name: str) -> float:
        """Return the median over the truth through the VAE."""
        return _median([one.ceiling.get(name, math.nan) for one in self.films])

    def mean(self, name: str) -> float:
        """Return a figure's mean over films."""
        return _mean([one.film.get(name, math.nan) for one in self.films])

    def best_mean(self, name: str) -> float:
        """Return the mean over the truth through the VAE."""
        return _mean([one.ceiling.get(name, math.nan) for one in self.films])


Groups = Mapping[str, Group]
"""Groups by the names of `report_films.film_sets`."""


def speech_rows(groups: Groups, settings: ReportSettings) -> list[Row]:
    """Lips against the sound."""
    made, other = groups["espeak"], groups["flite"]
    openness, width = "openness_r", "width_r"
    amplitude, swapped, lag = "openness_amplitude", "openness_r_swapped", "openness_lag"
    return [
        _of(made, "openness r, espeak-ng voices left out", "0.90", "0.95", openness, _least(0.9)),
        _of(other, "openness r, flite, never trained on", "0.75", "0.85", openness, _least(0.75)),
        _of(made, "mouth width r, voices left out", "0.6", "0.8", width, _least(0.6),
            f"flite {other.median(width):.3f}"),
        _of(made, "amplitude of openness, film / truth", "0.8 to 1.3", "0.9 to 1.1", amplitude,
            _within(0.8, 1.3), f"flite {other.median(amplitude):.2f}"),
        _of(made, "openness r, sound swapped (control)", "below 0.2", "", swapped, _below(0.2),
            f"flite {other.median(swapped):.3f}"),
        _of(made, "best lag, frames", "within +-1", "0", lag, _within(-1, 1),
            f"flite {other.median(lag):+.0f}"),
    ]  # fmt: skip


def picture_rows(groups: Groups, settings: ReportSettings) -> list[Row]:
    """Sharpness, the person, joins."""
    made, other = groups["espeak"], groups["flite"]
    both = Group(made.films + other.films, made.planned + other.planned)
    identity = "identity_error"
    vae = _row(made, "VAE alone, PSNR in dB", ("32", ""), (made.best("psnr"), math.nan), _least(32))
    right = (both.mean("right_puppet"), both.best_mean("right_puppet"))
    return [
        _of(made, "sharpness, film / truth through the VAE", "0.9", "1.0", "sharpness_ratio",
            _least(0.9), "ceiling: VAE / truth"),
        vae,
        _row(both, "right puppet out of 100", ("95 %", "100 %"), right, _least(0.95),
            f"identity error {made.median(identity):.3f}, ceiling {made.best(identity):.3f}"),
        _of(made, "jump at joins / inside clips", "at most 1.5", "1.1", "join_ratio", _most(1.5)),
    ]  # fmt: skip


def silence_rows(groups: Groups, settings: ReportSettings) -> list[Row]:
    """A mouth that stays closed."""
    made = groups["silence"]
    note = f"95th percentile of frames {made.median('openness_high'):.3f}"
    what = "openness in silence"
    return [_of(made, what, "below 0.15", "", "openness_mean", _below(0.15), note)]


def expression_rows(groups: Groups, settings: ReportSettings) -> list[Row]:
    """Brows and head against what drives them in the sound."""
    made, rows = groups["espeak"], []
    for what, name in (("brows", "brow_r"), ("head energy", "energy_r")):
        swapped = made.median(f"{name}_swapped")
        rows.append(
            _of(made, f"{what} against what drives them in the sound, r",
                "0.3; swapped below 0.1", "0.5", name,
                lambda r, swapped=swapped: r >= 0.3 and swapped < 0.1,  # type: ignore[misc]
                f"swapped {swapped:.3f}, ceiling {made.best(f'{name}_swapped'):.3f}")
        )  # fmt: skip
    return rows


def speed_rows(groups: Groups, settings: ReportSettings) -> list[Row]:
    """Head speed with and without a request."""
    sets = [groups[speed_name(speed)] for speed in settings.speeds]
    measured = [group.median("head_speed") for group in sets]
    heard = [
        f"{speed:.2f}: {value:.3f} (r {group.median('openness_r'):.3f})"
        for speed, value, group in zip(settings.speeds, measured, sets, strict=True)
    ]
    rising = all(a < b for a, b in pairwise(measured))
    note = ("rising strictly; " if rising else "NOT rising strictly; ") + ", ".join(heard)
    main = groups["espeak"]
    own, world = main.mean("head_speed"), main.best_mean("head_speed")
    return [
        _row(_fewest(sets), "head speed, last request / first", ("rising, at least 2", "4"),
             (_ratio(measured[-1], measured[0]), math.nan), lambda r: rising and r >= 2, note),
        _row(main, "mean head speed without a request / the world's", ("0.7 to 1.3", ""),
             (_ratio(own, world), 1.0), _within(0.7, 1.3),
             f"{own:.3f} and {world:.3f} degrees per frame at 30 fps"),
    ]  # fmt: skip


def region_rows(groups: Groups, settings: ReportSettings) -> list[Row]:
    """Scale of the face region against the amplitude of head motion."""
    sets = [groups[region_name(scale)] for scale in REGIONS]
    ranges = [group.median("centre_range") for group in sets]
    rising = all(a < b for a, b in pairwise(ranges))
    note = ", ".join(f"{value:.4f}" for value in ranges)
    return [
        _row(_fewest(sets), "range of the head's centre, everything / x1.0",
             ("rising, at least 1.5", ""), (_ratio(ranges[-1], ranges[0]), math.nan),
             lambda r: rising and r >= 1.5, f"x1.0, x1.5, everything: {note} of the picture"),
        _row(groups["espeak"], "frames with the head inside the region", ("90 %", ""),
             (groups["espeak"].mean("inside"), groups["espeak"].best_mean("inside")), _least(0.9),
             "90 % of the face box within the portrait's; the truth was not drawn for that region"),
    ]  # fmt: skip


def prior_rows(groups: Groups, settings: ReportSettings) -> list[Row]:
    """The centred prior in place of the face box, as for a portrait in which no face was found."""
    prior, box = groups["prior"], groups[region_name(1.0)]
    names = {"identity error": "identity_error", "centre's range": "centre_range"}
    compared = [
        f"{label} {prior.median(name):.3f} ({box.median(name):.3f})"
        for label, name in names.items()
    ]
    note = (
        f"same films with the face box: r {box.median('openness_r'):.3f}; "
        f"{', '.join(compared)}; the demand is that of the first row"
    )
    what = "openness r, centred prior for the face box"
    return [_of(prior, what, "0.90", "", "openness_r", _least(0.9), note)]


def long_rows(groups: Groups, settings: ReportSettings) -> list[Row]:
    """The person after a minute."""
    made, portrait = groups["long"], "drift_to_portrait"
    note = (
        f"against the portrait as read: {made.median(portrait):.3f}, ceiling "
        f"{made.best(portrait):.3f}; openness r {made.median('openness_r'):.3f}; the largest of "
        f"{len(made.films)} films {made.largest('drift'):.3f}"
    )
    what = f"identity error, last 5 s / first 5 s of {settings.long_seconds:.0f} s"
    return [_of(made, what, "at most 1.25", "1.05", "drift", _most(1.25), note)]


def cost_rows(groups: Groups, settings: ReportSettings) -> list[Row]:
    """Time."""
    made = groups["espeak"]
    threads = sorted({round(one.film["threads"]) for one in made.films})
    note = f"CPU threads: {' and '.join(map(str, threads))}"
    row = (made.median("cost"), math.nan)
    return [_row(made, "seconds per second of film", ("2.5", "1.0"), row, _most(2.5), note)]


def _of(
    group: Group, what: str, must: str, aim: str, name: str, good: Callable[[float], bool],
    note: str = "",
) -> Row:  # fmt: skip
    """A row of one figure: its median, and the ceiling's."""
    return _row(group, what, (must, aim), (group.median(name), group.best(name)), good, note)


def _row(
    group: Group, what: str, asked: tuple[str, str], values: tuple[float, float],
    good: Callable[[float], bool], note: str = "",
) -> Row:  # fmt: skip
    """A row of given values: (must, aim), (value, ceiling)."""
    count = len(group.films)
    return Row(
        what, *asked, *values, good(values[0]) if count else None, count, group.planned,
        note if count else "",
    )  # fmt: skip


def _fewest(groups: list[Group]) -> Group:
    """The group of which the fewest films were measured: the row knows no more than that."""
    return min(groups, key=lambda group: len(group.films))


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else math.nan


def _least(limit: float) -> Callable[[float], bool]:
    return lambda value: value >= limit


def _most(limit: float) -> Callable[[float], bool]:
    return lambda value: value <= limit


def _below(limit: float) -> Callable[[float], bool]:
    return lambda value: value < limit


def _within(low: float, high: float) -> Callable[[float], bool]:
    return lambda value: low <= value <= high


def _median(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return median(known) if known else math.nan


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
