"""The bench a model of the puppet world is measured on: films made, read and compared."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..measurements import (
    best_lag,
    drift,
    head_speed_of,
    join_jump,
    pearson,
    sharpness,
    smooth,
)
from .acting import brow_emphasis, head_energy
from .meter_check import RoundTrip, gallery, picks_right
from .meters import PuppetMeter, Readings
from .truth_films import FRAME_RATE, TruthFilm

logger = logging.getLogger(__name__)

EVERYTHING = math.inf
"""Scale of the region that stands for the whole picture."""


class Animate(Protocol):
    """Makes a film with the model under test."""

    def __call__(
        self,
        portrait: Tensor,
        waveform: Tensor,
        speed: float | None = None,
        region_scale: float = 1.0,
        seed: int = 0,
    ) -> Tensor:
        """Animate a portrait.

        Args:
            portrait: (3, 128, 128), 0..1.
            waveform: (T,), 16 kHz.
            speed: degrees per frame at 30 fps; None asks for nothing.
            region_scale: size of the region against the portrait's face box; `EVERYTHING` is
                the whole picture.
            seed: of the noise.

        Returns:
            (F, 3, 128, 128), 0..1, at 25 fps.
        """


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
        clip_length: frames of a clip.
        speed_floor: head speed the meter reads on a still head (`meter_record`).
        first_seed: of the puppets.
    """

    num_films: int = 24
    num_controlled: int = 8
    num_silent: int = 6
    num_long: int = 2
    long_seconds: float = 60.0
    controlled_seconds: float = 4.0
    clip_length: int = 12
    speed_floor: float = 0.03
    first_seed: int = 3_000_000

    @property
    def speeds(self) -> tuple[float, ...]:
        """Four requests, evenly apart in ratio, between 3x the meter's floor and 1.5."""
        low = 3 * self.speed_floor
        return tuple(low * (1.5 / low) ** (step / 3) for step in range(4))


@dataclass
class Gathered:
    """Measurements of one group of films, and of its ceiling."""

    films: list[TruthFilm] = field(default_factory=list)
    reads: list[Readings] = field(default_factory=list)
    figures: list[dict[str, float]] = field(default_factory=list)

    def median(self, name: str) -> float:
        """Return the median over films; films where the figure has no value are left out."""
        values = [row[name] for row in self.figures if not math.isnan(row[name])]
        return float(torch.tensor(values).median()) if values else math.nan

    def mean(self, name: str) -> float:
        """Return the mean over films."""
        return sum(row[name] for row in self.figures) / max(1, len(self.figures))

    def swapped(self, figure: Callable[[Readings, TruthFilm], float]) -> float:
        """Return the median of a figure, each film against another film's truth."""
        others = self.films[1:] + self.films[:1]
        values = [figure(read, other) for read, other in zip(self.reads, others, strict=True)]
        known = [value for value in values if not math.isnan(value)]
        return float(torch.tensor(known).median()) if known else math.nan


class Bench:
    """Measures one model.

    Args:
        animate: the model.
        meter: what reads its films.
        round_trip: the model's VAE, there and back.
        settings: how much is measured.
    """

    def __init__(
        self, animate: Animate, meter: PuppetMeter, round_trip: RoundTrip, settings: ReportSettings
    ) -> None:
        """Keep what is needed."""
        self.animate = animate
        self.meter = meter
        self.round_trip = round_trip
        self.settings = settings
        self.strangers = gallery(99)

    def gather(self, films: Sequence[TruthFilm], **request: float) -> tuple[Gathered, Gathered]:
        """Make and measure films, and the same films' truth through the VAE.

        Args:
            films: puppets and sounds.
            request: speed or region_scale for all.

        Returns:
            The model's, and the ceiling's measurements.
        """
        made, ceiling = Gathered(), Gathered()
        for index, film in enumerate(films):
            portrait = film.portrait()
            started = time.perf_counter()
            frames = self.animate(portrait, film.waveform, seed=index, **request).float()
            seconds = time.perf_counter() - started
            truth = film.frames()
            best = self.round_trip(truth).clamp(0, 1)
            extra = {
                "cost": seconds / film.seconds,
                "psnr": -10 * math.log10(max(float((best - truth).square().mean()), 1e-10)),
                "sharpness_ratio": sharpness(frames) / sharpness(best),
            }
            own_best = {**extra, "sharpness_ratio": sharpness(best) / sharpness(truth)}
            self._add(made, film, frames, extra)
            self._add(ceiling, film, best, own_best)
            logger.info("film %d of %d: %s", index + 1, len(films), made.figures[-1])
        return made, ceiling

    def _add(
        self, group: Gathered, film: TruthFilm, frames: Tensor, extra: Mapping[str, float]
    ) -> None:
        read = self.meter.read(frames)
        group.films.append(film)
        group.reads.append(read)
        group.figures.append({**extra, **self._figures(film, frames, read)})

    def _figures(self, film: TruthFilm, frames: Tensor, read: Readings) -> dict[str, float]:
        count = min(len(frames), len(film.controls))
        own = film.identity.numbers
        opening, truth = read.mouth[:count, 0], film.truth.mouth[:count]
        errors = self.meter.identity_error(read.identity, own)
        portrait = self.meter.read(film.portrait()[None]).identity
        to_portrait = self.meter.identity_error(read.identity, portrait)
        centre = smooth(read.centre)
        jump = join_jump(frames, self.settings.clip_length)
        return {
            "missing_frames": float(len(film.controls) - len(frames)),
            "openness_r": openness_against(read, film),
            "openness_lag": float(best_lag(opening, truth[:, 0])[0]),
            "openness_amplitude": float(opening.std() / truth[:, 0].std().clamp_min(1e-6)),
            "openness_mean": float(read.mouth[:, 0].mean()),
            "openness_high": float(read.mouth[:, 0].quantile(0.95)),
            "width_r": pearson(read.mouth[:count, 1], truth[:, 1]),
            "right_puppet": float(picks_right(self.meter, read.identity, own, self.strangers)),
            "identity_error": float(errors.mean()),
            "drift": drift(errors, FRAME_RATE),
            "drift_to_portrait": drift(to_portrait, FRAME_RATE),
            "join_ratio": jump.ratio,
            "head_speed": float(head_speed_of(read.pose, FRAME_RATE).mean()),
            "centre_range": float((centre.amax(0) - centre.amin(0)).norm()),
            "inside": inside_share(read.box, film.portrait_box()),
            "brow_r": brows_against(read, film),
            "energy_r": energy_against(read, film),
        }


def openness_against(read: Readings, film: TruthFilm) -> float:
    """Correlate measured openness with a film's truth, over the length they share."""
    count = min(len(read.mouth), len(film.controls))
    return pearson(read.mouth[:count, 0], film.truth.mouth[:count, 0])


def brows_against(read: Readings, film: TruthFilm) -> float:
    """Correlate the brows with what lifts them in the sound (pitch, its rises, stress)."""
    driver = brow_emphasis(film.heard)
    count = min(len(read.brow), len(driver))
    return pearson(smooth(read.brow[:count, None])[:, 0], driver[:count])


def energy_against(read: Readings, film: TruthFilm) -> float:
    """Correlate head speed, smoothed over 9 frames, with what drives it (loudness, onsets)."""
    driver = head_energy(film.heard)
    speed = smooth(head_speed_of(read.pose, FRAME_RATE)[:, None], 9)[:, 0]
    count = min(len(speed), len(driver))
    return pearson(speed[:count], driver[:count])


def inside_share(boxes: Tensor, region: Tensor, part: float = 0.9) -> float:
    """Count the frames in which the head is inside the region.

    Args:
        boxes: (F, 4), measured face boxes x, y, w, h.
        region: (4,), x, y, w, h.
        part: how much of a box's area must lie in the region for the head to be inside.

    Returns:
        Part of the frames.
    """
    start = torch.maximum(boxes[:, :2], region[:2])
    end = torch.minimum(boxes[:, :2] + boxes[:, 2:], region[:2] + region[2:])
    shared = (end - start).clamp_min(0).prod(1) / boxes[:, 2:].prod(1).clamp_min(1e-6)
    return float((shared >= part).float().mean())
