"""A film being made: its clips sampled or found, decoded and written as they come."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib.metadata import version

import torch
from torch import Tensor

from .animate_request import AnimateRequest
from .clip_keys import FilmConstants, file_digest, film_key
from .clips import ClipPlan
from .film import Material, decode, film_noise, hand_over, own_vae
from .films import FilmFacts
from .generate import Film, generate
from .hand_over import Greyed
from .kept import KeptClips, open_store, still_region, tracks_of
from .lock import locked
from .sampling import Guidance, make_sampler
from .vae_files import file_in
from .video import VideoWriter
from .weights import Checkpoint, find_checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """How far the work is, after a sampling step.

    Attributes:
        done: steps done, of all clips.
        total: steps of the whole film.
        clip: the clip at work, 1 for the first.
        clips: clips of the film.
        found: steps of clips that were kept from before, among those that are done.
    """

    done: int
    total: int
    clip: int
    clips: int
    found: int = 0


Progress = Callable[[Step], None]


@dataclass(frozen=True)
class AnimateReport:
    """What was made.

    Attributes:
        output: the film.
        frames: its frames.
        fps: frames per second.
        clips: clips it was sampled in.
        clip_length: frames of a clip.
        seed: of the noise.
        model: name of the model.
        steps: sampling steps of a clip.
        cfg: guidance scale.
        reused: clips that were kept from before and not sampled again.
        width: of the film, in pixels.
        height: of the film, in pixels.
    """

    output: str
    frames: int
    fps: int
    clips: int
    clip_length: int
    seed: int
    model: str
    steps: int
    cfg: float
    reused: int = 0
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Take:
    """Everything that a film is made of, read and checked.

    Attributes:
        request: what was asked for.
        checkpoint: the model, with VAE and audio encoder.
        material: portrait and sound.
        film: what generate() makes it from.
        plans: its clips.
        report: what is said of it.
    """

    request: AnimateRequest
    checkpoint: Checkpoint
    material: Material
    film: Film
    plans: list[ClipPlan]
    report: AnimateReport

    def make(self, progress: Progress | None = None) -> AnimateReport:
        """Sample, decode and write the film.

        Args:
            progress: told of every step; what it raises ends the work and leaves no file.

        Returns:
            The report, with the number of clips that were there before.
        """
        meter = _Meter(self.report, progress)
        kept = self._kept(meter)
        if kept is not None:
            kept.expect(self.plans, self._facts())
        with _what_is_kept(kept, self.report):
            self._write(self._latents(meter, kept))
        return self.report if kept is None else replace(self.report, reused=kept.found)

    def _latents(self, meter: _Meter, kept: KeptClips | None) -> Iterator[Tensor]:
        """The film's latents, clip by clip."""
        request, film, report = self.request, self.film, self.report
        sampler = make_sampler(
            self.checkpoint.model.denoising_unet, report.steps,
            Guidance(report.cfg, request.audio_cfg), request.solver, meter.on_step,
        )  # fmt: skip
        size = (report.height, report.width)
        noise = film_noise(self.checkpoint.config, request.seed, request.reproduce, size)
        shown = self.material.picture.to(film.portrait)[None] * 2 - 1
        onward = hand_over(self.checkpoint, Greyed(shown, film.region, noise))
        sample = locked(sampler, film.portrait, request.lock)
        return generate(self.checkpoint.model, film, self.plans, sample, onward, kept, noise)

    def _write(self, clips: Iterator[Tensor]) -> None:
        """Decode clip after clip as it is sampled, and write it at once."""
        request, report, vae = self.request, self.report, own_vae(self.checkpoint)
        notes = {
            "software": "EMO Portrait", "model": report.model, "clip_length": report.clip_length,
            "seed": report.seed, "steps": report.steps, "cfg": report.cfg, "speed": request.speed,
        }  # fmt: skip
        if any(plan.first != plan.index * report.clip_length for plan in self.plans):
            notes["clip_starts"] = [plan.first for plan in self.plans]
            notes["clip_shared"] = max(plan.shared for plan in self.plans)
        sound = (self.material.waveform, self.material.sample_rate)
        size = (report.width, report.height)
        with VideoWriter(request.output, Fraction(report.fps), size, sound, notes) as writer:
            for latents in clips:
                pictures = decode(vae, latents)
                writer.write((pictures * 255).floor() / 255 if request.reproduce else pictures)

    def _kept(self, meter: _Meter) -> KeptClips | None:
        """The clips of this film that were sampled before."""
        request, film, checkpoint = self.request, self.film, self.checkpoint
        store = None if request.clips is None else open_store(request.clips, request.clips_limit)
        if store is None:
            return None
        constants = FilmConstants(
            model=file_digest(find_checkpoint(request.model)),
            portrait=film.portrait,
            region=still_region(film),
            sampler={
                "solver": request.solver, "steps": self.report.steps, "cfg": float(self.report.cfg),
                "audio_cfg": None if request.audio_cfg is None else float(request.audio_cfg),
            },
            noise=f"stream of {request.seed}" if request.reproduce else "clip_noise",
            dtype=next(checkpoint.model.parameters()).dtype,
            hand_over=self._way_on(),
            extra={
                # Whether a file is Hallo's or Hallo2's is chosen, and no byte of it says so.
                "config": checkpoint.config.to_json(), "face": film.face, "masks": film.masks,
                "motion_weights": film.motion_weights,
                "device": film.portrait.device.type, "torch": torch.__version__,
                "diffusers": version("diffusers"), "lock": request.lock,
                "denoise": request.denoise,
            },
        )  # fmt: skip
        tracks = tracks_of(film, checkpoint.config)
        return KeptClips(store, film_key(constants), tracks, on_found=meter.on_found)

    def _way_on(self) -> str:
        """How motion frames go on; the VAE is in the model's file unless another was given."""
        way = self.checkpoint.config.temporal.hand_over
        if way == "latents" or self.request.vae is None:
            return way
        return f"{way} {file_digest(file_in(self.request.vae))}"

    def _facts(self) -> FilmFacts:
        """What is to be known of the film that is kept; its latents are as the model sees them."""
        config, report = self.checkpoint.config, self.report
        notes = {"seed": report.seed, "steps": report.steps, "cfg": report.cfg}
        return FilmFacts(
            config.name, Fraction(report.fps), config.unet.latent_channels,
            own_vae(self.checkpoint).config.scaling_factor, notes,
        )  # fmt: skip


class _Meter:
    """Counts the steps of all clips, those of kept ones too."""

    def __init__(self, report: AnimateReport, progress: Progress | None) -> None:
        self._report, self._progress = report, progress
        self._done = self._found = 0

    def on_step(self, _step: int, _latents: Tensor) -> None:
        self._advance(1)

    def on_found(self, _plan: ClipPlan) -> None:
        self._found += self._report.steps
        self._advance(self._report.steps)

    def _advance(self, steps: int) -> None:
        self._done += steps
        if self._progress is not None:
            clips, each = self._report.clips, self._report.steps
            clip = -(-self._done // each)
            self._progress(Step(self._done, clips * each, clip, clips, self._found))


@contextmanager
def _what_is_kept(kept: KeptClips | None, report: AnimateReport) -> Iterator[None]:
    """Whatever ends the work early, say what is not lost."""
    try:
        yield
    except BaseException:
        if kept is not None and kept.stored:
            logger.info(
                "%d of %d clips are kept in %s: the same command goes on from there",
                kept.stored, report.clips, kept.folder,
            )  # fmt: skip
        raise
