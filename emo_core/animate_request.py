"""What `emo animate` is asked for, and what of it can work with no portrait, sound or model.

animate() asks check_request() before it reads anything; what depends on the portrait, the sound or
the model it checks before it reads a weight, but for the length of an existing film.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from .conditions import EVEN_MOTION, MotionWeights
from .face import Box
from .film_pieces import film_facts
from .film_size import Wanted, check_size
from .hallo_files import VARIANTS, Variant
from .joins import JoinKind, check_joins
from .lock import check_lock
from .sampling import SOLVERS, Solver, sampling_timesteps
from .speed import parse_speed
from .video import check_film_path
from .weights import find_checkpoint

MAX_CFG = 30.0
MAX_MOTION_WEIGHT = 10.0


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
        vae: file of the VAE; None for the checkpoint's own.
        audio_encoder: folder or file of a wav2vec2; None for the checkpoint's own.
        variant: which of Hallo's two sets of weights; see hallo_files.decide().
        reproduce: do everything as Hallo's own program does: the whole picture stretched, one
            stream of noise over all clips, pictures cut to whole 255ths.
        lip_box: x, y, width, height in pixels of the upright picture; None for a usual place.
        landmarks: file of 478, 468 or 68 landmarks in the upright picture, for both boxes.
        face_embedding: file of the portrait's face embedding; None for zeros.
        clips: folder where sampled clips are kept, so that none is sampled twice; None for none.
        clips_limit: what that folder may take, in GB, above 0.
        joins: "auto", "plain", "quiet" or "overlap"; see joins.plan_joins().
        lock: "off", "weak" or "strong"; see lock.lock_colours().
        film: an existing film of the person, to be voiced anew from its beginning; None for none.
        denoise: how much of its pictures is made anew, above 0 up to 1.
        only_region: whether what lies outside the face's region stays as it is in that film.
        size: rows and columns of the film; "portrait" for the portrait's own shape; None for the
            model's own square.
        motion_weights: how far the sound moves the picture, the face and the lips, 0 to 10 each,
            for Hallo's weights.
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
    vae: Path | None = None
    audio_encoder: Path | None = None
    variant: Variant = "auto"
    reproduce: bool = False
    lip_box: Box | None = None
    landmarks: Path | None = None
    face_embedding: Path | None = None
    clips: Path | None = None
    clips_limit: float = 2.0
    joins: JoinKind = "auto"
    lock: str = "off"
    film: Path | None = None
    denoise: float = 1.0
    only_region: bool = False
    size: Wanted = None
    motion_weights: MotionWeights = EVEN_MOTION


def check_request(request: AnimateRequest) -> None:
    """Say what cannot work whatever the portrait, the sound and the model are.

    Nothing is read but what an existing film says of itself.

    Raises:
        ValueError: if a value is out of its range, or the film would replace its own input.
        OSError: if the film cannot be written where it is wanted.
    """
    check_film_path(request.output)
    for name, path in (("portrait", request.portrait), ("sound", request.sound)):
        if path.exists() and request.output.exists() and os.path.samefile(path, request.output):
            raise ValueError(f"the film would replace its own {name} {path}; choose another name")
    if not 0 <= request.seed < 1 << 64:
        raise ValueError(f"seed must be 0 to 2^64 - 1, got {request.seed}; choose another")
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
        raise ValueError(
            f"start must be 0 s or later, got {request.start:g} s; leave it out for the beginning"
        )
    for name, box in (("face", request.face_box), ("lip", request.lip_box)):
        if box is not None and not all(map(math.isfinite, box)):
            raise ValueError(
                f"a {name} box is four finite numbers X,Y,W,H in pixels, got "
                f"{','.join(map(str, box))}, of which not all are finite; give it again"
            )
    if request.landmarks is not None and (request.face_box or request.lip_box):
        raise ValueError("landmarks say where face and lips are; leave out the boxes of both")
    if request.lip_box is not None and request.face_box is None:
        raise ValueError("a lip box goes with a face box; give --face-box too")
    _check_size_and_weights(request)
    if request.variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {request.variant!r}")
    if not (math.isfinite(request.clips_limit) and request.clips_limit > 0):
        raise ValueError(
            f"clips limit must be above 0 GB, got {request.clips_limit:g}; --no-clips keeps nothing"
        )
    if request.face_embedding is not None and not request.face_embedding.is_file():
        raise FileNotFoundError(
            f"the face embedding {request.face_embedding} does not exist; give a file, or leave it "
            "out"
        )
    check_joins(request.joins)
    check_lock(request.lock)
    if request.reproduce and (
        request.joins not in ("auto", "plain") or request.lock != "off"
    ):
        raise ValueError(
            "--reproduce does what Hallo's own program does, whose joins are plain; leave out "
            "--joins and --lock"
        )
    if request.reproduce and (request.solver != "ddim" or request.audio_cfg is not None):
        raise ValueError(
            "--reproduce does what Hallo's own program does, which samples with ddim and one "
            "guidance scale; leave out --solver and --audio-cfg"
        )
    _check_film(request)
    find_checkpoint(request.model)


def _check_film(request: AnimateRequest) -> None:
    """What cannot work with an existing film, or without one."""
    if not 0 < request.denoise <= 1:
        raise ValueError(f"denoise must be above 0 and up to 1, got {request.denoise:g}")
    if request.film is None:
        if request.denoise < 1 or request.only_region:
            raise ValueError(
                "--denoise and --only-region are for an existing film, and none was given; give "
                "--film, or leave them out"
            )
        return
    film_facts(request.film)
    if request.denoise == 1 and not request.only_region:
        raise ValueError(
            "--film needs --denoise below 1, such as 0.6, or --only-region, or both: with neither "
            "nothing of the film would stay"
        )
    if request.reproduce:
        raise ValueError("--reproduce does what Hallo's own program does, which has no --film")
    if request.size is not None:
        raise ValueError(
            "an existing film is voiced anew in the model's own square; leave --size out"
        )
    both = request.output.exists() and request.film.exists()
    if both and os.path.samefile(request.film, request.output):
        raise ValueError(
            f"the film would replace the film {request.film} that it is made from; choose another "
            "name"
        )


def _check_size_and_weights(request: AnimateRequest) -> None:
    size = request.size
    if size is not None and size != "portrait":
        check_size(size)
    if request.reproduce and size is not None and (size == "portrait" or size[0] != size[1]):
        raise ValueError(
            "reproduce does what Hallo's own program does, which makes squares only; leave the "
            "size out, or give a square such as 512x512"
        )
    weights = request.motion_weights
    if not all(0 <= weight <= MAX_MOTION_WEIGHT for weight in weights):
        raise ValueError(
            f"pose, face and lip weight must be 0 to {MAX_MOTION_WEIGHT:g} each (1 is what the "
            f"weights were trained with), got {', '.join(f'{w:g}' for w in weights)}"
        )
