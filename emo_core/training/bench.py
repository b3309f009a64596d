"""The bench a model of the puppet world is measured on: films made, read and compared."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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
from .acting import FRAME_RATE, brow_emphasis, head_energy
from .meter_check import RoundTrip, gallery, picks_right
from .meters import PuppetMeter
from .readings import Readings
from .truth_films import TruthFilm

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
        prior: bool = False,
        seed: int = 0,
    ) -> Tensor:
        """Animate a portrait.

        Args:
            portrait: (3, 128, 128), 0..1.
            waveform: (T,), 16 kHz.
            speed: degrees per frame at 30 fps; None asks for nothing.
            region_scale: size of the region against the portrait's face box; `EVERYTHING` is
                the whole picture.
            prior: whether to take the centred prior for the region, as for a portrait in which no
                face was found, and not the portrait's face box.
            seed: of the noise.

        Returns:
            (F, 3, 128, 128), 0..1, at 25 fps.
        """


@dataclass(frozen=True)
class Measured:
    """Figures of one film.

    Attributes:
        film: of what the model made.
        ceiling: of the film's truth through the model's VAE; empty where it was not asked for.
    """

    film: dict[str, float]
    ceiling: dict[str, float]


class Bench:
    """Measures one model, film by film.

    Args:
        animate: the model.
        meter: what reads its films.
        round_trip: the model's VAE, there and back.
        seams: where clips meet in a film of so many frames; see ClipPlan.seam.
    """

    def __init__(
        self,
        animate: Animate,
        meter: PuppetMeter,
        round_trip: RoundTrip,
        seams: Callable[[int], Sequence[int]],
    ) -> None:
        """Keep what is needed."""
        self.animate = animate
        self.meter = meter
        self.round_trip = round_trip
        self.seams = seams
        self.strangers = gallery(meter, 99)

    def measure(
        self,
        film: TruthFilm,
        seed: int,
        request: Mapping[str, Any],
        ceiling: bool = True,
        other: TruthFilm | None = None,
    ) -> Measured:
        """Make one film and measure it.

        Args:
            film: puppet and sound.
            seed: of the noise.
            request: speed, region_scale or prior, for `animate`.
            ceiling: whether to measure the film's truth through the VAE too.
            other: the truth of another film, which the swapped figures are against.

        Returns:
            The figures.
        """
        portrait = film.portrait()
        started = time.perf_counter()
        frames = self.animate(portrait, film.waveform, seed=seed, **request).float()
        cost = (time.perf_counter() - started) / film.seconds
        spent = {"cost": cost, "threads": float(torch.get_num_threads())}
        made = spent | self._read(film, frames, other)
        if not ceiling:
            return Measured(made, {})
        truth = film.frames()
        best = self.round_trip(truth).clamp(0, 1)
        made["sharpness_ratio"] = sharpness(frames) / sharpness(best)
        error = max(float((best - truth).square().mean()), 1e-10)
        own = {
            "psnr": -10 * math.log10(error),
            "sharpness_ratio": sharpness(best) / sharpness(truth),
        }
        return Measured(made, own | self._read(film, best, other))

    def _read(self, film: TruthFilm, frames: Tensor, other: TruthFilm | None) -> dict[str, float]:
        """Read a film and compare it with its truth, and with another's."""
        read = self.meter.read(frames)
        figures = self._figures(film, frames, read)
        if other is not None:
            figures |= {
                "openness_r_swapped": openness_against(read, other),
                "brow_r_swapped": brows_against(read, other),
                "energy_r_swapped": energy_against(read, other),
            }
        return figures

    def _figures(self, film: TruthFilm, frames: Tensor, read: Readings) -> dict[str, float]:
        count = min(len(frames), len(film.controls))
        own = film.identity.numbers
        opening, truth = read.mouth[:count, 0], film.truth.mouth[:count]
        errors = self.meter.identity_error(read.identity, own)
        portrait = self.meter.read(film.portrait()[None]).identity
        to_portrait = self.meter.identity_error(read.identity, portrait)
        centre = smooth(read.centre)
        jump = join_jump(frames, self.seams(len(frames)))
        return {
            "missing_frames": float(len(film.controls) - len(frames)),
            "openness_r": openness_against(read, film),
            "openness_lag": float(best_lag(opening, truth[:, 0])[0]),
            "openness_amplitude": float(opening.std() / truth[:, 0].std().clamp_min(1e-6)),
            "openness_mean": float(read.mouth[:, 0].mean()),
            "openness_high": float(read.mouth[:, 0].quantile(0.95)),
            "width_r": pearson(read.mouth[:count, 1], truth[:, 1]),
            "right_puppet": float(
                picks_right(self.meter, read.identity, portrait[0], self.strangers)
            ),
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
