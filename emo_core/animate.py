"""animate(): one portrait and one sound to a film in a file, from end to end."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from .audio import encode_sound, num_frames, to_mono_16k, trim
from .clips import ClipPlan, num_clips, plan_clips
from .denoiser import Clip
from .face import CENTRED_PRIOR, Box, region_mask
from .generate import Film, HandOver, generate
from .pictures import Portrait, fit_portrait, read_picture
from .rhythm import speed_from_sound
from .sampling import SOLVERS, Guidance, Solver, make_sampler, sampling_timesteps
from .sound_files import read_sound
from .speed import parse_speed, speed_curve
from .vae import AutoencoderKL
from .video import VideoWriter, check_film_path
from .weights import Checkpoint, find_checkpoint, load_model

logger = logging.getLogger(__name__)

MAX_CFG = 30.0


@dataclass(frozen=True)
class Step:
    """How far the work is, after a sampling step.

    Attributes:
        done: steps done, of all clips.
        total: steps of the whole film.
        clip: the clip at work, 1 for the first.
        clips: clips of the film.
    """

    done: int
    total: int
    clip: int
    clips: int


Progress = Callable[[Step], None]


@dataclass(frozen=True)
class AnimateRequest:
    """What a film is to be made from, and how.

    Attributes:
        portrait: a picture that Pillow reads.
        sound: a sound or film that PyAV reads.
        output: .mp4, .mov or .mkv.
        model: a checkpoint file, or "emo-tiny".
        seed: of the noise, 0 to 2^64 - 1; the same seed gives the same film.
        steps: sampling steps, 1 to 1000; None for the checkpoint's own number.
        cfg: guidance scale of all conditions, 0 to 30; None for the checkpoint's own.
        audio_cfg: guidance scale of the sound alone; then `cfg` is that of the rest.
        solver: "ddim" or "dpmpp_2m".
        speed: head speed as parse_speed() reads it, or "sound"; None to leave it to the model.
        face_box: x, y, width, height in pixels of the upright picture; None for a usual place.
        start: seconds of the sound to leave out.
        duration: seconds of the sound to take; None for all the rest.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
    """

    portrait: Path
    sound: Path
    output: Path
    model: str = "emo-tiny"
    seed: int = 0
    steps: int | None = None
    cfg: float | None = None
    audio_cfg: float | None = None
    solver: Solver = "ddim"
    speed: str | None = None
    face_box: Box | None = None
    start: float = 0.0
    duration: float | None = None
    device: str = "auto"


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


@dataclass(frozen=True)
class _Material:
    """What was read from the files, before any network runs."""

    waveform: Tensor
    sample_rate: int
    portrait: Portrait
    num_frames: int


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
    waveform, rate = _sound(request)
    picture = read_picture(request.portrait)
    checkpoint = load_model(request.model, device, _dtype_for(device))
    config = checkpoint.config
    material = _Material(
        waveform, rate, fit_portrait(picture, config.picture_size, request.face_box),
        num_frames(waveform.shape[-1], rate, config.frame_rate),
    )  # fmt: skip
    if request.face_box is None:
        logger.info(
            "no face box was given: the head is expected at the usual place of a portrait, upper "
            "middle (--face-box X,Y,W,H says better)"
        )
    if request.speed is not None and "speed" not in checkpoint.training.get("stages", {"speed": 1}):
        logger.info(
            "the speed layers of this checkpoint are not trained: --speed changes nothing"
        )
    report = _report(request, checkpoint, material)
    logger.info(
        "%d frames (%.2f s at %d fps) in %d clips of %d steps",
        report.frames, report.frames / report.fps, report.fps, report.clips, report.steps,
    )  # fmt: skip
    with torch.inference_mode():
        film = make_film(checkpoint, material, request)
        _write(request, checkpoint, material, film, report, progress)
    return report


def check_request(request: AnimateRequest) -> None:
    """Say what cannot work, before anything is read.

    Raises:
        ValueError: if a value is out of its range, or the film would replace its own input.
        OSError: if the film cannot be written where it is wanted.
    """
    check_film_path(request.output)
    for name, path in (("portrait", request.portrait), ("sound", request.sound)):
        if path.exists() and request.output.exists() and os.path.samefile(path, request.output):
            raise ValueError(f"the film would replace its own {name} {path}; choose another name")
    if not 0 <= request.seed < 1 << 64:
        raise ValueError(f"seed must be 0 to 2^64 - 1, got {request.seed}")
    if request.steps is not None:
        sampling_timesteps(request.steps)
    for name, scale in (("cfg", request.cfg), ("audio cfg", request.audio_cfg)):
        if scale is not None and not 0 <= scale <= MAX_CFG:
            raise ValueError(
                f"{name} must be 0 to {MAX_CFG:g} (1 is no guidance), got {scale:g}"
            )
    if request.solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {request.solver!r}")
    if request.speed is not None and request.speed.strip() != "sound":
        parse_speed(request.speed)
    if request.duration is not None and not request.duration > 0:
        raise ValueError(f"duration must be above 0 s, got {request.duration:g} s; leave it out "
                         "to take everything")
    if not (math.isfinite(request.start) and request.start >= 0):
        raise ValueError(f"start must be 0 s or later, got {request.start:g} s")
    if request.face_box is not None and not all(map(math.isfinite, request.face_box)):
        raise ValueError("a face box is X,Y,W,H in pixels, got a number that is not finite")
    find_checkpoint(request.model)


def find_device(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        ValueError: if there is no such device here.
    """
    known = "cpu" + ", cuda" * torch.cuda.is_available() + ", mps" * _has_mps()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is unknown; here there is auto, {known}") from None
    there = {
        "cpu": device.index in (None, 0),
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": _has_mps(),
    }
    if not there.get(device.type, False):
        raise ValueError(f"device {name!r} does not exist on this machine; here there is auto, "
                         f"{known}")
    return device


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def _dtype_for(device: torch.device) -> torch.dtype:
    return torch.float16 if device.type == "cuda" else torch.float32


def _sound(request: AnimateRequest) -> tuple[Tensor, int]:
    waveform, rate = read_sound(request.sound)
    return trim(waveform, rate, request.start, request.duration), rate


def _report(request: AnimateRequest, checkpoint: Checkpoint, material: _Material) -> AnimateReport:
    config = checkpoint.config
    length = config.temporal.num_frames
    sampling = config.sampling
    return AnimateReport(
        output=str(request.output),
        frames=material.num_frames,
        fps=config.frame_rate,
        clips=num_clips(material.num_frames, length),
        clip_length=length,
        seed=request.seed,
        model=config.name,
        steps=sampling.num_inference_steps if request.steps is None else request.steps,
        cfg=sampling.guidance_scale if request.cfg is None else request.cfg,
    )


def make_film(checkpoint: Checkpoint, material: _Material, request: AnimateRequest) -> Film:
    """Everything that the loop over clips needs, from what was read.

    Raises:
        ValueError: if the checkpoint has no VAE or audio encoder of its own.
    """
    config, vae = checkpoint.config, _vae(checkpoint)
    encoder = checkpoint.audio_encoder
    if encoder is None:
        raise ValueError(
            f"the checkpoint {request.model} brings no audio encoder, and this version runs "
            "checkpoints that do; give such a one, or emo-tiny"
        )
    place = next(checkpoint.model.parameters())
    picture = material.portrait.picture.to(place)
    heard = encode_sound(
        encoder, to_mono_16k(material.waveform, material.sample_rate), material.num_frames,
        config.frame_rate, config.audio.windows,
    )  # fmt: skip
    box = material.portrait.box or CENTRED_PRIOR
    region = region_mask(box, config.picture_size, config.picture_size)
    return Film(
        portrait=vae.encode(picture[None] * 2 - 1),
        audio=heard.features[: material.num_frames],
        region=region.expand(config.locator.in_channels, -1, -1),
        speed=_speeds(request, material, config.frame_rate),
        seed=request.seed,
    )


def _vae(checkpoint: Checkpoint) -> AutoencoderKL:
    if checkpoint.vae is None:
        raise ValueError(
            f"the checkpoint of {checkpoint.config.name} brings no VAE, and this version runs "
            "checkpoints that do; give such a one, or emo-tiny"
        )
    return checkpoint.vae


def _speeds(request: AnimateRequest, material: _Material, frame_rate: int) -> Tensor | None:
    if request.speed is None:
        return None
    if request.speed.strip() == "sound":
        return speed_from_sound(
            material.waveform, material.sample_rate, material.num_frames, frame_rate
        )
    return speed_curve(parse_speed(request.speed), material.num_frames, frame_rate)


def _write(
    request: AnimateRequest,
    checkpoint: Checkpoint,
    material: _Material,
    film: Film,
    report: AnimateReport,
    progress: Progress | None,
) -> None:
    """Sample clip after clip, decode each and write it at once."""
    size = checkpoint.config.picture_size
    notes = {
        "software": "EMO Portrait", "model": report.model, "clip_length": report.clip_length,
        "seed": report.seed, "steps": report.steps, "cfg": report.cfg, "speed": request.speed,
    }  # fmt: skip
    sound = (material.waveform, material.sample_rate)
    with VideoWriter(request.output, Fraction(report.fps), (size, size), sound, notes) as writer:
        for latents in _latents(request, checkpoint, film, report, progress):
            frames = _vae(checkpoint).decode(latents).float()
            if not bool(torch.isfinite(frames).all()):
                raise ValueError(
                    "the model gave pictures that are not numbers; use the checkpoint's own steps "
                    "and cfg, or --device cpu"
                )
            writer.write((frames + 1) / 2)


def _latents(
    request: AnimateRequest,
    checkpoint: Checkpoint,
    film: Film,
    report: AnimateReport,
    progress: Progress | None,
) -> Iterator[Tensor]:
    """The film's latents, clip by clip, with progress over all steps of all clips."""
    total = report.clips * report.steps
    done = 0

    def on_step(_step: int, _latents: Tensor) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(Step(done, total, -(-done // report.steps), report.clips))

    sample = make_sampler(
        checkpoint.model.denoising_unet,
        report.steps,
        Guidance(report.cfg, request.audio_cfg),
        request.solver,
        on_step,
    )

    def sample_clip(clip: Clip, noise: Tensor, plan: ClipPlan) -> Tensor:
        return sample(clip, noise)

    plans = plan_clips(report.frames, report.clip_length)
    yield from generate(checkpoint.model, film, plans, sample_clip, _hand_over(checkpoint))


def _hand_over(checkpoint: Checkpoint) -> HandOver | None:
    """Motion frames go on as latents, or as Hallo does: decoded, clamped, encoded."""
    if checkpoint.config.temporal.hand_over == "latents":
        return None
    vae = _vae(checkpoint)

    def through_pixels(latents: Tensor) -> Tensor:
        return vae.encode(vae.decode(latents[0]).clamp(-1, 1))[None]

    return through_pixels
