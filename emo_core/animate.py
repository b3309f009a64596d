"""animate(): one portrait and one sound to a film in a file, from end to end."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor

from .animate_request import AnimateRequest, check_request
from .complete import OpenedModel, open_model
from .conditions import EVEN_MOTION
from .config import EMOConfig
from .devices import dtype_for, find_device
from .existing import check_existing, existing_film, region_of_latents
from .face import Box
from .film import Material, film_from, own_vae
from .film_size import film_size
from .generate import Film
from .given import Given
from .joins import plan_joins
from .pictures import Size, Square, portrait_square, portrait_window, read_picture
from .rhythm import speed_from_sound
from .sound_files import read_sound
from .speed import parse_speed, speed_curve
from .subject import Subject, cropped_subject, landmark_boxes, read_embedding, stretched_subject
from .take import AnimateReport, Progress, Take
from .waveform import num_frames, trim
from .weights import Checkpoint, training_record

logger = logging.getLogger(__name__)

_SLOW_ON_CPU = 500_000_000
"""Parameters; SD 1.5's UNet alone has 860 million."""
_MUCH_OF_IT = 0.8
"""A film that shows less of its portrait says so."""


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
    opened = open_model(request.model, request.variant, request.vae, request.audio_encoder)
    config = opened.config
    _say_what_is_missing(request, opened)
    if device.type == "cpu" and opened.file.num_parameters > _SLOW_ON_CPU:
        logger.info(
            "networks of this size are very slow on a CPU; for a graphics card PyTorch must be "
            "built for it (pytorch.org/get-started/locally)"
        )
    count = num_frames(waveform.shape[-1], rate, config.frame_rate)
    size = film_size(config, request.size, (picture.shape[-2], picture.shape[-1]))
    _say_what_is_shown(request, picture, size)
    subject = _subject(request, picture, size)
    speed = _speeds(request, waveform, rate, count, config.frame_rate)
    material = Material(
        subject.picture, waveform, rate, subject.box, speed, request.seed, subject,
        _face(request, config), request.motion_weights,
    )  # fmt: skip
    if request.film is not None:
        check_existing(request.film, config.frame_rate, _portrait_of(request, picture))
    # What can be seen without weights is seen; the long part begins here.
    checkpoint = opened.load(device, dtype_for(device))
    with torch.inference_mode():
        film = film_from(checkpoint, material)
        if request.film is not None:
            film = replace(film, given=_given(request, checkpoint, film, picture, count))
        joins = "plain" if request.reproduce else request.joins
        plans = list(plan_joins(joins, count, config.temporal, film.levels))
        report = _report(request, checkpoint, count, len(plans), size)
        logger.info(
            "%d frames (%.2f s at %d fps) in %d clips of %d steps, on %s",
            report.frames, report.frames / report.fps, report.fps, report.clips, report.steps,
            device,
        )  # fmt: skip
        return Take(request, checkpoint, material, film, plans, report).make(progress)


def _boxes(request: AnimateRequest, picture: Tensor) -> tuple[Box | None, Box | None]:
    """Of the face and the lips, in pixels of the portrait's picture."""
    if request.landmarks is not None:
        return landmark_boxes(request.landmarks, *picture.shape[-2:])
    return request.face_box, request.lip_box


def _portrait_of(request: AnimateRequest, picture: Tensor) -> tuple[Square, int, int]:
    """The square of the portrait that the model sees, and the picture's width and height."""
    height, width = picture.shape[-2:]
    return portrait_square(width, height, _boxes(request, picture)[0]), width, height


def _subject(request: AnimateRequest, picture: Tensor, size: Size) -> Subject:
    face, lips = _boxes(request, picture)
    make = stretched_subject if request.reproduce else cropped_subject
    return make(picture, size, face, lips)


def _say_what_is_shown(request: AnimateRequest, picture: Tensor, size: Size) -> None:
    height, width = picture.shape[-2:]
    if min(height, width) < min(size) // 2:
        logger.info(
            "the portrait has only %dx%d pixels; it is enlarged, and the film is blurred",
            width, height,
        )  # fmt: skip
    if request.reproduce:
        return
    left, top, across, down = portrait_window(width, height, size, _boxes(request, picture)[0])
    if across * down < _MUCH_OF_IT * width * height:
        logger.info(
            "of the portrait's %dx%d pixels the film shows %dx%d, from %d,%d on; the part lies "
            "around the face where --face-box says where it is",
            width, height, across, down, left, top,
        )  # fmt: skip


def _face(request: AnimateRequest, config: EMOConfig) -> Tensor | None:
    """The face embedding, for weights that see one."""
    if request.face_embedding is None or not config.unet.face_tokens:
        return None
    return read_embedding(request.face_embedding, config.unet.face_embedding_width)


def _say_what_is_missing(request: AnimateRequest, opened: OpenedModel) -> None:
    config = opened.config
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
    if request.speed is not None and config.speed is None:
        logger.info("%s knows no head speed: --speed changes nothing", config.name)
    if request.face_box is None and request.landmarks is None:
        logger.info(
            "no face box was given: the head is expected at the usual place of a portrait, upper "
            "middle (--face-box X,Y,W,H says better)"
        )
    stages = training_record(opened.file.header).get("stages", {"speed": 1})
    if request.speed is not None and "speed" not in stages:
        logger.info(
            "the speed layers of this checkpoint are not trained: --speed changes nothing"
        )


def _given(
    request: AnimateRequest, checkpoint: Checkpoint, film: Film, portrait: Tensor, count: int
) -> Given:
    """The existing film that is voiced anew."""
    assert request.film is not None
    config, vae = checkpoint.config, own_vae(checkpoint)
    latents = existing_film(
        request.film, count, config.frame_rate, config.picture_size,
        _portrait_of(request, portrait),
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
