"""The films that the behaviour table is measured on: puppets, sounds and requests."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..waveform import SAMPLE_RATE
from .bench import EVERYTHING
from .truth_films import TruthFilm, long_utterance, make_film
from .voices import Utterance


@dataclass(frozen=True)
class ReportSettings:
    """How much is measured.

    Attributes:
        num_films: films of each synthesiser.
        num_controlled: films of each request of speed and of each region.
        num_silent: films of 4 s of silence.
        num_long: films of `long_seconds`.
        long_seconds: their length.
        controlled_seconds: length of the films with requests.
        speed_floor: head speed the meter reads on a still head (`meter_record`).
        first_seed: of the puppets.
    """

    num_films: int = 24
    num_controlled: int = 8
    num_silent: int = 6
    num_long: int = 2
    long_seconds: float = 60.0
    controlled_seconds: float = 4.0
    speed_floor: float = 0.03
    first_seed: int = 3_000_000

    @property
    def speeds(self) -> tuple[float, ...]:
        """Four requests, evenly apart in ratio, between 3x the meter's floor and 1.5."""
        low = 3 * self.speed_floor
        return tuple(low * (1.5 / low) ** (step / 3) for step in range(4))


@dataclass(frozen=True)
class FilmSet:
    """Films that are made with one request.

    Attributes:
        row: name in the journal.
        voice: whose sound it is, for the journal.
        count: how many films.
        make: gives film number k; one more than `count` can be asked for.
        request: for `bench.Animate`.
        ceiling: whether the truth through the VAE is measured too.
        swapped: whether films are compared with the next film's truth too.
    """

    row: str
    voice: str
    count: int
    make: Callable[[int], TruthFilm]
    request: Mapping[str, Any] = field(default_factory=dict)
    ceiling: bool = True
    swapped: bool = False


def film_sets(
    utterances: Mapping[str, Sequence[Utterance]], settings: ReportSettings
) -> dict[str, FilmSet]:
    """Name all films of the table.

    Args:
        utterances: "espeak", and "flite" where its films are made: at least one each. They are used
            in turn where more films are asked for.
        settings: how many.

    Returns:
        Sets by name: "espeak" and "flite" are the main films, which several rows read; "silence",
        "long", "prior" and one for each request of speed ("speed 0.09") and region ("region x1.5").
    """
    first, espeak = settings.first_seed, utterances["espeak"]
    sets = {
        name: _speaking(name, utterances.get(name, ()), settings) for name in ("espeak", "flite")
    }
    sets["silence"] = FilmSet("silence", "", settings.num_silent, lambda k: _silent(first, k))
    length = settings.long_seconds
    sets["long"] = FilmSet(
        "long", "espeak", settings.num_long,
        lambda k: make_film(long_utterance(_turned(espeak, k), length), first + 30_000 + k),
    )  # fmt: skip
    requests: dict[str, Mapping[str, Any]] = {
        **{speed_name(speed): {"speed": speed} for speed in settings.speeds},
        **{region_name(scale): {"region_scale": scale} for scale in REGIONS},
        "prior": {"prior": True},
    }
    for name, request in requests.items():
        sets[name] = FilmSet(
            name, "espeak", settings.num_controlled, lambda k: _short(espeak, settings, k),
            request, ceiling=False,
        )  # fmt: skip
    return sets


REGIONS = (1.0, 1.5, EVERYTHING)
"""Scales of the region against the portrait's face box."""


def speed_name(speed: float) -> str:
    """Name of the films with a request of speed."""
    return f"speed {speed:.2f}"


def region_name(scale: float) -> str:
    """Name of the films with a region of a scale."""
    return "region everything" if math.isinf(scale) else f"region x{scale:g}"


def _speaking(name: str, utterances: Sequence[Utterance], settings: ReportSettings) -> FilmSet:
    def make(index: int) -> TruthFilm:
        return make_film(utterances[index % len(utterances)], settings.first_seed + index)

    return FilmSet("speech", name, settings.num_films, make, swapped=True)


def _short(utterances: Sequence[Utterance], settings: ReportSettings, index: int) -> TruthFilm:
    """A film for the requests: other puppets than in the main films."""
    utterance = utterances[index % len(utterances)]
    cut = long_utterance([utterance], settings.controlled_seconds)
    return make_film(cut, settings.first_seed + 20_000 + index)


def _silent(first_seed: int, index: int) -> TruthFilm:
    silence = Utterance(torch.zeros(4 * SAMPLE_RATE), ((0.0, 4.0, "PAU"),), "", "", "silence")
    return make_film(silence, first_seed + 10_000 + index)


def _turned(utterances: Sequence[Utterance], index: int) -> list[Utterance]:
    start = index % len(utterances)
    return [*utterances[start:], *utterances[:start]]
