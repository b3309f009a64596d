"""animate(): one portrait and one sound to a film in a file, from end to end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib.metadata import version

import torch
from torch import Tensor

from .animate_request import AnimateRequest, check_request
from .clip_keys import FilmConstants, file_digest, film_key
from .clips import ClipPlan, Noise
from .complete import complete
from .conditions import EVEN_MOTION
from .devices import dtype_for, find_device
from .existing import existing_film, region_of_latents
from .film import Material, decode, film_from, film_noise, hand_over, own_vae
from .film_size import film_size
from .films import FilmFacts
from .generate import Film, HandOver, generate
from .given import Given
from .hand_over import Greyed
from .joins import plan_joins
from .kept import KeptClips, open_store, still_region, tracks_of
from .lock import locked
from .pictures import Size, portrait_square, read_picture
from .rhythm import speed_from_sound
from .sampling import Guidance, make_sampler
from .sound_files import read_sound
from .speed import parse_speed, speed_curve
from .subject import Subject, cropped_subject, landmark_boxes, read_numbers, stretched_subject
from .vae_files import file_in
from .video import VideoWriter
from .waveform import num_frames, trim
from .weights import Checkpoint, find_checkpoint, load_model

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


def animate(request: AnimateRequest, progress: Progress | None = None) -> AnimateReport:
    """Let the person of a portrait speak a sound; the film appears whole or not at all.

    Args:
        request: what and how.
        progress: told of every step; what it raises ends the work and leaves no file.

    Returns:
        What was made.

    Raises:
        ValueError: if a file, a value or the checkpoint does not fit; one sentence.
        OSError: if a file is missing or cannot be written.
    """
    device = find_device(request.device)
    check_request(request)
    waveform, rate = read_sound(request.sound)
    waveform = trim(waveform, rate, request.start, request.duration)
    picture = read_picture(request.portrait)
    checkpoint = load_model(request.model, device, dtype_for(device), variant=request.variant)
    checkpoint = complete(checkpoint, request.vae, request.audio_encoder)
    config = checkpoint.config
    _say_what_is_missing(request, checkpoint)
    count = num_frames(waveform.shape[-1], rate, config.frame_rate)
    size = film_size(config, request.size, (picture.shape[-2], picture.shape[-1]))
    subject = _subject(request, picture, size)
    speed = _speeds(request, waveform, rate, count, config.frame_rate)
    face = None
    if request.face_embedding is not None:
        face = read_numbers(request.face_embedding, "face embedding")
    material = Material(
        subject.picture, waveform, rate, subject.box, speed, request.seed, subject, face,
        request.motion_weights,
    )  # fmt: skip
    with torch.inference_mode():
        film = film_from(checkpoint, material)
        if request.film is not None:
            film = replace(film, given=_given(request, checkpoint, film, picture, count))
        plans = list(plan_joins(request.joins, count, config.temporal, film.levels))
        report = _report(request, checkpoint, count, len(plans), size)
        logger.info(
            "%d frames (%.2f s at %d fps) in %d clips of %d steps",
            report.frames, report.frames / report.fps, report.fps, report.clips, report.steps,
        )  # fmt: skip
        meter = _Meter(report, progress)
        noise = film_noise(config, request.seed, request.reproduce, size)
        shown = subject.picture.to(film.portrait)[None] * 2 - 1
        onward = hand_over(checkpoint, Greyed(shown, film.region, noise))
        kept = _kept(request, checkpoint, film, report, meter)
        parts = (film, plans, onward, noise)
        if kept is not None:
            kept.expect(plans, _facts(checkpoint, report))
        latents = _latents(request, checkpoint, parts, report, meter, kept)
        with _what_is_kept(kept, report):
            _write(request, checkpoint, material, (plans, latents), report)
    return report if kept is None else replace(report, reused=kept.found)


def _subject(request: AnimateRequest, picture: Tensor, size: Size) -> Subject:
    face, lips = request.face_box, request.lip_box
    if request.landmarks is not None:
        face, lips = landmark_boxes(request.landmarks, *picture.shape[-2:])
    make = stretched_subject if request.reproduce else cropped_subject
    return make(picture, size, face, lips)


def _say_what_is_missing(request: AnimateRequest, checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    theirs = config.audio.attention == "masked3"
    if request.reproduce and not theirs:
        raise ValueError(
            f"reproduce does what Hallo's own program does, and {config.name} is no such model; "
            "leave it out"
        )
    if config.unet.face_tokens and request.face_embedding is None:
        logger.info(
            "no face embedding was given: the weights see the face of nobody there, and keep the "
            "person's likeness from the picture alone (--face-embedding says better)"
        )
    if request.face_embedding is not None and not config.unet.face_tokens:
        logger.info("%s sees no face embedding: --face-embedding changes nothing", config.name)
    if request.motion_weights != EVEN_MOTION and not theirs:
        logger.info("%s hears without masks: motion weights change nothing", config.name)
    if request.face_box is None and request.landmarks is None:
        logger.info(
            "no face box was given: the head is expected at the usual place of a portrait, upper "
            "middle (--face-box X,Y,W,H says better)"
        )
    if request.speed is not None and "speed" not in checkpoint.training.get("stages", {"speed": 1}):
        logger.info(
            "the speed layers of this checkpoint are not trained: --speed changes nothing"
        )


def _given(
    request: AnimateRequest, checkpoint: Checkpoint, film: Film, portrait: Tensor, count: int
) -> Given:
    """The existing film that is voiced anew."""
    assert request.film is not None
    config, vae = checkpoint.config, own_vae(checkpoint)
    face = request.face_box
    height, width = portrait.shape[-2:]
    if request.landmarks is not None:
        face, _ = landmark_boxes(request.landmarks, height, width)
    latents = existing_film(
        request.film, count, config.frame_rate, config.picture_size,
        (portrait_square(width, height, face), width, height),
        lambda pictures: vae.encode(pictures.to(film.portrait)),
    )  # fmt: skip
    mask = None
    if request.only_region:
        mask = region_of_latents(film.region, *latents.shape[-2:]).to(latents)
    return Given(latents, mask, request.denoise)


def _report(
    request: AnimateRequest, checkpoint: Checkpoint, count: int, clips: int, size: Size
) -> AnimateReport:
    config = checkpoint.config
    sampling = config.sampling
    return AnimateReport(
        output=str(request.output),
        frames=count,
        fps=config.frame_rate,
        clips=clips,
        clip_length=config.temporal.num_frames,
        seed=request.seed,
        model=config.name,
        steps=sampling.num_inference_steps if request.steps is None else request.steps,
        cfg=sampling.guidance_scale if request.cfg is None else request.cfg,
        width=size[1],
        height=size[0],
    )


def _speeds(
    request: AnimateRequest, waveform: Tensor, sample_rate: int, count: int, frame_rate: int
) -> Tensor | None:
    if request.speed is None:
        return None
    if request.speed.strip() == "sound":
        return speed_from_sound(waveform, sample_rate, count, frame_rate)
    return speed_curve(parse_speed(request.speed), count, frame_rate)


def _write(
    request: AnimateRequest,
    checkpoint: Checkpoint,
    material: Material,
    clips: tuple[list[ClipPlan], Iterator[Tensor]],
    report: AnimateReport,
) -> None:
    """Decode clip after clip as it is sampled, and write it at once."""
    size, vae = (report.width, report.height), own_vae(checkpoint)
    plans, made = clips
    notes = {
        "software": "EMO Portrait", "model": report.model, "clip_length": report.clip_length,
        "seed": report.seed, "steps": report.steps, "cfg": report.cfg, "speed": request.speed,
    }  # fmt: skip
    if request.joins != "plain":
        notes["clip_starts"] = [plan.first for plan in plans]
    sound = (material.waveform, material.sample_rate)
    with VideoWriter(request.output, Fraction(report.fps), size, sound, notes) as writer:
        for latents in made:
            pictures = decode(vae, latents)
            writer.write((pictures * 255).floor() / 255 if request.reproduce else pictures)


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


def _kept(
    request: AnimateRequest,
    checkpoint: Checkpoint,
    film: Film,
    report: AnimateReport,
    meter: _Meter,
) -> KeptClips | None:
    """The clips of this film that were sampled before."""
    store = None if request.clips is None else open_store(request.clips, request.clips_limit)
    if store is None:
        return None
    constants = FilmConstants(
        model=file_digest(find_checkpoint(request.model)),
        portrait=film.portrait,
        region=still_region(film),
        sampler={
            "solver": request.solver, "steps": report.steps, "cfg": float(report.cfg),
            "audio_cfg": None if request.audio_cfg is None else float(request.audio_cfg),
        },
        noise=f"stream of {request.seed}" if request.reproduce else "clip_noise",
        dtype=next(checkpoint.model.parameters()).dtype,
        hand_over=_way_on(request, checkpoint),
        extra={
            # Whether a file is Hallo's or Hallo2's is chosen, and no byte of it says so.
            "config": checkpoint.config.to_json(), "face": film.face, "masks": film.masks,
            "motion_weights": film.motion_weights,
            "device": film.portrait.device.type, "torch": torch.__version__,
            "diffusers": version("diffusers"), "lock": request.lock, "denoise": request.denoise,
        },
    )  # fmt: skip
    return KeptClips(
        store, film_key(constants), tracks_of(film, checkpoint.config), on_found=meter.on_found
    )


def _facts(checkpoint: Checkpoint, report: AnimateReport) -> FilmFacts:
    """What is to be known of the film that is kept; its latents are as the model sees them."""
    config = checkpoint.config
    notes = {"seed": report.seed, "steps": report.steps, "cfg": report.cfg}
    return FilmFacts(
        config.name, Fraction(report.fps), config.unet.latent_channels,
        own_vae(checkpoint).config.scaling_factor, notes,
    )  # fmt: skip


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


def _way_on(request: AnimateRequest, checkpoint: Checkpoint) -> str:
    """How motion frames go on; the VAE is in the model's file unless another was given."""
    way = checkpoint.config.temporal.hand_over
    if way == "latents" or request.vae is None:
        return way
    return f"{way} {file_digest(file_in(request.vae))}"


def _latents(
    request: AnimateRequest,
    checkpoint: Checkpoint,
    film_parts: tuple[Film, list[ClipPlan], HandOver | None, Noise],
    report: AnimateReport,
    meter: _Meter,
    kept: KeptClips | None,
) -> Iterator[Tensor]:
    """The film's latents, clip by clip."""
    sample_clip = make_sampler(
        checkpoint.model.denoising_unet,
        report.steps,
        Guidance(report.cfg, request.audio_cfg),
        request.solver,
        meter.on_step,
    )
    film, plans, onward, noise = film_parts
    sample = locked(sample_clip, film.portrait, request.lock)
    return generate(checkpoint.model, film, plans, sample, onward, kept, noise)
