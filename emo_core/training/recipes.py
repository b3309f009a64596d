"""How each stage of emo-tiny is trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Settings of one stage.

    Attributes:
        learning_rate: at the top of the schedule.
        floor: of the cosine, as a part of it.
        warm_up: steps of linear rise.
        batch: frames, clips, or seconds of sound a step.
        ema_decay: of the averaged weights; 0 keeps the last ones.
        weight_decay: of matrices and kernels.
        clip: largest norm of the gradient.
        pictures: single frames of every other step of stage 2; 0 for clips alone.
        brows: how much more the loss weighs the middle of a brow (`FilmStage`); eyes have 1.5.
    """

    learning_rate: float
    floor: float
    warm_up: int
    batch: int
    ema_decay: float
    weight_decay: float = 0.01
    clip: float = 1.0
    pictures: int = 0
    brows: float = 0.0


RECIPES = {
    "vae": Recipe(2e-3, 0.02, 100, 16, 0.999),
    "decoder": Recipe(1e-3, 0.02, 50, 16, 0.999),
    "listening": Recipe(2e-3, 0.0, 40, 64, 0.0),
    "meters": Recipe(2e-3, 0.0, 100, 64, 0.998, weight_decay=0.02, clip=5.0),
    "images": Recipe(1.5e-3, 0.05, 60, 48, 0.998),
    "video": Recipe(1e-3, 0.05, 60, 5, 0.998, pictures=40, brows=20.0),
    "speed": Recipe(1e-3, 0.05, 60, 6, 0.998, brows=4.0),
    "speed-layers": Recipe(1e-3, 0.05, 60, 6, 0.998),
}
