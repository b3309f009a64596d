"""What the meter is worth: its errors on truth films it has never seen, as drawn or coded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor

from ..film import decode
from ..measurements import head_speed_of, pearson
from ..vae import AutoencoderKL
from .acting import FRAME_RATE
from .identities import make_identity
from .meters import PuppetMeter
from .readings import Readings
from .truth_films import TruthFilm, make_films
from .voices import Utterance

RoundTrip = Callable[[Tensor], Tensor]
"""(F, 3, H, W) to the same: what a coder makes of frames."""

NUM_POSE = 6  # yaw, pitch, roll, tx, ty, scale
GALLERY_FIRST_SEED = 7_000_000
_NUM_FILMS, _FIRST_FILM = 24, 2_000_000


def check_meter(
    meter: PuppetMeter, films: Sequence[TruthFilm], round_trip: RoundTrip | None = None
) -> dict[str, float]:
    """Measure the meter on truth films.

    Args:
        meter: the meter.
        films: films of puppets it has not seen.
        round_trip: what is done to the frames before they are read, such as a VAE's coding.

    Returns:
        Medians over films: r of openness, width and brow and the ratio of openness amplitudes;
        root mean squared errors of pose (degrees), head centre (part of the picture), identity
        error (standard deviations); measured / true mean head speed; the floor of head speed
        (degrees per frame at 30 fps, heads still, mouths talking); the part of puppets picked
        right out of 100.
    """
    strangers = gallery(meter, 99)
    rows = [_check_film(meter, film, strangers, round_trip) for film in films]
    result = {name: median(row[name] for row in rows) for name in rows[0]}
    result["right_puppet_of_100"] = sum(row["right_puppet"] for row in rows) / len(rows)
    del result["right_puppet"]
    result["films"] = float(len(films))
    return result


def meter_worth(
    meter: PuppetMeter, utterances: Sequence[Utterance], vae: AutoencoderKL
) -> dict[str, dict[str, float]]:
    """What a meter's file says of it: check_meter() on frames as drawn and after the VAE.

    Args:
        meter: the meter.
        utterances: what the puppets of the films say; the first 24 are taken.
        vae: the model's, whose pictures the meter is to read.

    Returns:
        "truth", frames as drawn, and "coded", the same through the VAE.
    """
    films = make_films(utterances[:_NUM_FILMS], _FIRST_FILM)
    return {
        "truth": check_meter(meter, films),
        "coded": check_meter(meter, films, lambda frames: through_vae(vae, frames)),
    }


@torch.inference_mode()
def through_vae(vae: AutoencoderKL, frames: Tensor) -> Tensor:
    """Frames (F, 3, H, W), 0..1, as the VAE gives them back."""
    return torch.cat([decode(vae, vae.encode(part * 2 - 1)) for part in torch.split(frames, 16)])


def read_film(meter: PuppetMeter, frames: Tensor, round_trip: RoundTrip | None) -> Readings:
    """Read frames, coded first where a coder is given."""
    return meter.read(frames if round_trip is None else round_trip(frames))


def gallery(meter: PuppetMeter, num_people: int, first_seed: int = GALLERY_FIRST_SEED) -> Tensor:
    """Read the portraits of strangers.

    A film is looked up among pictures and not among true numbers, as faces are looked up in a
    gallery: what the meter misreads of a person it misreads in the portrait and in the film alike.

    Args:
        meter: the meter.
        num_people: N, how many.
        first_seed: of the first.

    Returns:
        (N, D), appearance as read.
    """
    from .puppets import portrait_controls, render

    seeds = range(first_seed, first_seed + num_people)
    portraits = [render(make_identity(seed), portrait_controls(seed))[0] for seed in seeds]
    return meter.read(torch.stack(portraits)).identity


def picks_right(meter: PuppetMeter, identity: Tensor, own: Tensor, strangers: Tensor) -> bool:
    """Say whether a film's mean appearance is nearest to that of its own portrait.

    Args:
        meter: the meter, for its distance.
        identity: (F, D), of the film.
        own: (D,), of its portrait, read by the same meter.
        strangers: (N, D), of other portraits, from `gallery`.

    Returns:
        True if no stranger is as near.
    """
    distances = meter.identity_distance(identity.mean(0), torch.cat([own[None], strangers]))
    return int(distances.argmin()) == 0


def still(film: TruthFilm) -> TruthFilm:
    """Hold the head of a film still at its first pose; mouth, eyes and brows go on."""
    controls = film.controls.clone()
    controls[:, :NUM_POSE] = controls[:1, :NUM_POSE]
    return replace(film, controls=controls)


def _check_film(
    meter: PuppetMeter, film: TruthFilm, strangers: Tensor, round_trip: RoundTrip | None
) -> dict[str, float]:
    from .puppets import face_boxes

    read = read_film(meter, film.frames(), round_trip)
    quiet = read_film(meter, still(film).frames(), round_trip)
    truth = film.truth
    boxes = face_boxes(film.identity, film.controls)
    centre = boxes[:, :2] + boxes[:, 2:] / 2
    own = film.identity.numbers
    portrait = meter.read(film.portrait()[None]).identity[0]
    pose_error = read.pose - truth.pose
    speed = head_speed_of(read.pose, FRAME_RATE)
    true_speed = head_speed_of(truth.pose, FRAME_RATE)
    return {
        "openness_r": pearson(read.mouth[:, 0], truth.mouth[:, 0]),
        "openness_amplitude": float(read.mouth[:, 0].std() / truth.mouth[:, 0].std()),
        "openness_error": _rms(read.mouth[:, 0] - truth.mouth[:, 0]),
        "width_r": pearson(read.mouth[:, 1], truth.mouth[:, 1]),
        "brow_r": pearson(read.brow, film.controls[:, 13]),
        "yaw_error": _rms(pose_error[:, 0]),
        "pitch_error": _rms(pose_error[:, 1]),
        "roll_error": _rms(pose_error[:, 2]),
        "centre_error": _rms(read.centre - centre),
        "head_speed_r": pearson(speed, true_speed),
        "head_speed_ratio": float(speed.mean() / true_speed.mean()),
        "head_speed_floor": float(head_speed_of(quiet.pose, FRAME_RATE).mean()),
        "identity_error": float(meter.identity_error(read.identity, own).mean()),
        "right_puppet": float(picks_right(meter, read.identity, portrait, strangers)),
    }


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
