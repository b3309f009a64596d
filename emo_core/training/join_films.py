"""The ways in which clips may meet, measured on long puppet films: jumps, drift and lip sync.

Films of one puppet and sound differ in nothing but the option, so that the figures can be compared.
Pictures are read as they are made; memory does not grow with the length of a film.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..clips import ClipPlan
from ..film import decode, hand_over, own_vae
from ..generate import generate
from ..joins import JoinKind, plan_joins
from ..lock import locked
from ..measurements import drift, pearson
from ..weights import Checkpoint
from .acting import FRAME_RATE
from .bench import Measured
from .journal import Journal
from .meters import PuppetMeter
from .readings import Readings
from .release import PuppetAnimator
from .truth_films import TruthFilm, long_utterance, make_film
from .voices import Utterance

logger = logging.getLogger(__name__)

_FIRST_SEED = 3_040_000
_END_FRAMES = 5 * FRAME_RATE


@dataclass(frozen=True)
class JoinOption:
    """One way in which clips may meet.

    Attributes:
        joins: see joins.plan_joins().
        lock: see lock.LOCKS.
        pixels: whether motion frames are decoded and encoded on their way, as Hallo's are.
    """

    joins: JoinKind = "plain"
    lock: str = "off"
    pixels: bool = False


OPTIONS: Mapping[str, JoinOption] = {
    "plain": JoinOption(),
    "plain, through pixels": JoinOption(pixels=True),
    "quiet": JoinOption("quiet"),
    "overlap": JoinOption("overlap"),
    "plain, weak lock": JoinOption(lock="weak"),
    "plain, strong lock": JoinOption(lock="strong"),
}

FIGURES: Mapping[str, tuple[str, str]] = {
    "join_ratio": ("jump at joins / inside", ".3f"),
    "join_jump": ("jump at joins, of 255", ".2f"),
    "high_jump": ("95th percentile of all jumps, of 255", ".2f"),
    "drift": ("identity error, last 5 s / first 5 s", ".3f"),
    "identity_error": ("identity error", ".3f"),
    "colour_error": ("colour error of the last 5 s, of 255", ".2f"),
    "openness_r": ("openness r", ".3f"),
    "clips": ("clips per second of film", ".2f"),
    "cost": ("seconds per second of film", ".2f"),
}
"""What is measured of a film, how its column is called, and its format.

A jump is the mean absolute difference of two neighbouring pictures; the colour error is that of a
picture's mean colour from the portrait's.
"""


class JoinBench:
    """Makes films with one checkpoint and measures them.

    Args:
        checkpoint: the model, with its VAE and audio encoder.
        meter: what reads its films.
    """

    def __init__(self, checkpoint: Checkpoint, meter: PuppetMeter) -> None:
        self._checkpoint, self._meter = checkpoint, meter
        self._animator = PuppetAnimator(checkpoint, meter)

    @torch.inference_mode()
    def measure(self, truth: TruthFilm, seed: int, option: JoinOption) -> Measured:
        """Make one film and measure it.

        Args:
            truth: puppet and sound.
            seed: of the noise.
            option: how clips meet.
        """
        watch = _Watch(self._meter, truth.portrait())
        began = time.perf_counter()
        for plan, pictures in self._clips(truth, seed, option):
            watch.take(plan, pictures)
        spent = time.perf_counter() - began
        return Measured({**watch.figures(truth), "cost": spent / truth.seconds}, {})

    def _clips(
        self, truth: TruthFilm, seed: int, option: JoinOption
    ) -> Iterator[tuple[ClipPlan, Tensor]]:
        checkpoint = self._checkpoint
        if option.pixels:
            temporal = replace(checkpoint.config.temporal, hand_over="pixels")
            checkpoint = replace(checkpoint, config=replace(checkpoint.config, temporal=temporal))
        film = self._animator.film(truth.portrait(), truth.waveform, seed=seed)
        count, config = len(film.audio), checkpoint.config.temporal
        plans = list(plan_joins(option.joins, count, config, film.levels))
        sample = locked(self._animator.sample, film.portrait, option.lock)
        clips = generate(checkpoint.model, film, plans, sample, hand_over(checkpoint))
        for plan, latents in zip(plans, clips, strict=True):
            yield plan, decode(own_vae(checkpoint), latents)


class _Watch:
    """Reads a film clip by clip and keeps numbers alone."""

    def __init__(self, meter: PuppetMeter, portrait: Tensor) -> None:
        self._meter = meter
        self._colour = portrait.mean((1, 2))
        self._last: Tensor | None = None
        self._read: list[Readings] = []
        self._colours: list[Tensor] = []
        self._jumps: dict[bool, list[float]] = {True: [], False: []}

    def take(self, plan: ClipPlan, pictures: Tensor) -> None:
        """Read a clip's pictures (kept, 3, H, W)."""
        self._read.append(self._meter.read(pictures))
        self._colours.append((pictures.mean((2, 3)) - self._colour).abs().mean(1))
        before = pictures[:1] if self._last is None else self._last
        jumps = (pictures - torch.cat([before, pictures[:-1]])).abs().mean((1, 2, 3)).tolist()
        self._jumps[True].extend(jumps[: len(plan.seam)])
        self._jumps[False].extend(jumps[max(1, len(plan.seam)) :])
        self._last = pictures[-1:]

    def figures(self, truth: TruthFilm) -> dict[str, float]:
        """The film's figures, by the names of FIGURES."""
        read = _joined(self._read)
        errors = self._meter.identity_error(read.identity, truth.identity.numbers)
        count = min(len(read.mouth), len(truth.controls))
        joins, inside = (torch.tensor(self._jumps[there]) * 255 for there in (True, False))
        end = torch.cat(self._colours)[-_END_FRAMES:]
        return {
            "join_ratio": float(joins.mean() / inside.mean()),
            "join_jump": float(joins.mean()),
            "high_jump": float(torch.cat([joins, inside]).quantile(0.95)),
            "drift": drift(errors, FRAME_RATE),
            "identity_error": float(errors.mean()),
            "colour_error": float(end.mean()) * 255,
            "openness_r": pearson(read.mouth[:count, 0], truth.truth.mouth[:count, 0]),
            "clips": len(self._read) / truth.seconds,
        }


def chosen_options(names: str) -> list[str]:
    """Read the names of OPTIONS, with semicolons in between; nothing stands for all.

    Raises:
        ValueError: if there is no such option.
    """
    chosen = [name.strip() for name in names.split(";") if name.strip()] or list(OPTIONS)
    for name in chosen:
        if name not in OPTIONS:
            raise ValueError(f"there are no joins {name!r}; choose of {'; '.join(OPTIONS)}")
    return chosen


def measure_joins(
    bench: JoinBench, utterances: Sequence[Utterance], films: int, seconds: float,
    journal: Journal, options: Sequence[str] = tuple(OPTIONS),
) -> dict[str, list[Measured]]:  # fmt: skip
    """Measure options on the same films.

    Args:
        bench: the model.
        utterances: at least one; a film begins with another one each.
        films: how many films.
        seconds: their length.
        journal: films in it are not made again; the others come into it one by one.
        options: names of OPTIONS.

    Returns:
        The films' figures by the names of the options.
    """
    found: dict[str, list[Measured]] = {name: [] for name in options}
    for index in range(films):
        turned = [*utterances[index % len(utterances) :], *utterances]
        truth = make_film(long_utterance(turned, seconds), _FIRST_SEED + index)
        for name in options:
            row = f"joins {name}, {seconds:g} s"
            measured = journal.find(row, "espeak", index)
            if measured is None:
                measured = bench.measure(truth, index, OPTIONS[name])
                journal.add(row, "espeak", index, measured)
                logger.info("%s: film %d of %d", row, index + 1, films)
            found[name].append(measured)
    return found


def joins_table(found: Mapping[str, Sequence[Measured]], seconds: float) -> str:
    """Write the mean figures as a Markdown table."""
    films = max(map(len, found.values()), default=0)
    lines = [
        f"Mean of {films} films of {seconds:g} s for each option, the same puppets and sounds.",
        "",
        "| joins | " + " | ".join(label for label, _ in FIGURES.values()) + " |",
        "| --- |" + " --- |" * len(FIGURES),
    ]
    for name, films_of in found.items():
        if films_of:
            cells = [format(_mean(films_of, key), form) for key, (_, form) in FIGURES.items()]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _mean(films: Sequence[Measured], name: str) -> float:
    known = [one.film[name] for one in films if not math.isnan(one.film.get(name, math.nan))]
    return sum(known) / len(known) if known else math.nan


def _joined(parts: Sequence[Readings]) -> Readings:
    return Readings(
        *(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Readings))
    )
