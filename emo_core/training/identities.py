"""Who the puppets are: appearance drawn from a seed, as visible numbers and as drawing values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .palettes import (
    BACKDROP_COLORS,
    CLOTHES_COLORS,
    FANTASY_HAIRS,
    FANTASY_SKINS,
    FRAMES,
    FURS,
    HAIRS,
    IRISES,
    METALS,
    SKINS,
    STONES,
    Color,
)

FIRST_UNSEEN_SEED = 1_000_000
"""Puppets and films from here on are never trained on."""

SPECIES = ("human", "cat", "robot", "statue")
HAIR = ("bald", "short", "parted", "bob", "long", "afro", "bun", "fringe", "pigtails", "quiff")
GLASSES = ("none", "round", "square")
BEARDS = ("none", "full", "goatee", "moustache")
HATS = ("none", "beanie", "brim", "cap")
CLOTHES = ("crew", "vee", "collar")
BACKDROPS = ("plain", "disc", "band", "hills")

_GROUPS = {"species": SPECIES, "hair": HAIR, "glasses": GLASSES, "beard": BEARDS, "hat": HATS}
_COLORS = ("skin", "hair", "iris", "clothes", "backdrop")
_SHAPES = {
    "face_width": (0.74, 0.90),
    "jaw": (0.02, 0.26),
    "eye_size": (0.15, 0.20),
    "eye_gap": (0.31, 0.38),
    "brow_thick": (0.035, 0.065),
    "nose": (0.08, 0.14),
    "mouth_width": (0.90, 1.12),
    "lip_full": (0.055, 0.095),
    "ear": (0.13, 0.21),
    "blush": (0.0, 1.0),
    "light": (-1.0, 1.0),
}
"""Continuous shape values and their ranges, in units of half a face height."""

IDENTITY_NUMBERS: tuple[str, ...] = (
    *(f"{name}_{channel}" for name in _COLORS for channel in "rgb"),
    *_SHAPES,
    *(f"{group}={name}" for group, names in _GROUPS.items() for name in names),
)
"""Names of `Identity.numbers`, in order."""


@dataclass(frozen=True)
class Identity:
    """One puppet.

    Attributes:
        seed: What it was drawn from.
        numbers: Visible appearance, (len(IDENTITY_NUMBERS),), each in 0..1.
        framing: Offset of the head from the usual place as fractions of the picture side, and
            size of the head (x, y, scale), (3,).
        values: Everything the renderer needs, by name; colours are three values.
    """

    seed: int
    numbers: Tensor
    framing: Tensor
    values: dict[str, tuple[float, ...]] = field(repr=False)


def make_identity(seed: int) -> Identity:
    """Draw a puppet.

    Args:
        seed: Any integer; the same seed gives the same person and framing.

    Returns:
        The puppet.
    """
    rng = _Dice(seed)
    reach = ((-0.1, 0.1), (-0.1, 0.1), (0.85, 1.15))
    framing = torch.tensor([rng.between(low, high) for low, high in reach])
    kinds = _draw_kinds(rng)
    values: dict[str, tuple[float, ...]] = {name: (float(k),) for name, k in kinds.items()}
    for name, (low, high) in _SHAPES.items():
        values[name] = (rng.between(low, high),)
    for name, (low, high) in {
        "square": (0.05, 0.35),
        "part": (-1.0, 1.0),
        "volume": (0.0, 0.06),
        "smile": (0.25, 0.80),
        "brow_tilt": (-0.10, 0.06),
        "eye_tall": (1.05, 1.25),
        "neck": (0.36, 0.48),
        "backdrop_x": (-1.0, 1.0),
    }.items():
        values[name] = (rng.between(low, high),)
    values["freckles"] = (float(kinds["species"] == 0 and rng.chance(0.15)),)
    if kinds["species"] == 2:
        values["square"] = (0.80,)
        values["jaw"] = (_SHAPES["jaw"][0],)
    if kinds["species"] in (2, 3):
        values["blush"] = (0.0,)
    values.update(_draw_colors(rng, kinds["species"]))
    return Identity(seed, _numbers(values), framing, values)


class _Dice:
    """Draws from one seeded stream; only uniform numbers are used, so the stream is stable."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng([0 if seed >= 0 else 1, abs(seed)])

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self._rng.random())

    def chance(self, probability: float) -> bool:
        return float(self._rng.random()) < probability

    def index(self, weights: Sequence[float]) -> int:
        mark = float(self._rng.random()) * sum(weights)
        for i, weight in enumerate(weights):
            mark -= weight
            if mark < 0:
                return i
        return len(weights) - 1

    def color(self, palette: Sequence[Color], spread: float = 0.04) -> Color:
        base = palette[self.index([1.0] * len(palette))]
        r, g, b = (min(max(c + self.between(-spread, spread), 0.02), 0.98) for c in base)
        return r, g, b


def _draw_kinds(rng: _Dice) -> dict[str, int]:
    species = rng.index((0.82, 0.07, 0.06, 0.05))
    hair = rng.index((0.6, 1.3, 1.3, 1.2, 1.3, 1.0, 1.0, 1.1, 0.8, 1.0))
    glasses = (1 + rng.index((1.0, 1.0))) if rng.chance(0.25) else 0
    bearded = rng.chance(0.18 / 0.55)
    beard = 1 + rng.index((0.4, 0.25, 0.35))
    hat = (1 + rng.index((1.0, 1.0, 1.0))) if rng.chance(0.18) else 0
    if HAIR[hair] not in ("bald", "short", "parted", "afro", "quiff", "bun"):
        bearded = False
    if species in (1, 2):
        hair, bearded, hat = 0, False, 0
    if species == 3:
        glasses, hat = 0, 0
    if HAIR[hair] in ("afro", "bun", "quiff"):
        hat = 0
    return {
        "species": species,
        "hair": hair,
        "glasses": glasses,
        "beard": beard if bearded else 0,
        "hat": hat,
        "outfit": rng.index((1.0, 1.0, 1.0)),
        "scenery": rng.index((1.0, 1.0, 0.8, 0.8)),
    }


def _draw_colors(rng: _Dice, species: int) -> dict[str, tuple[float, ...]]:
    """Colours that stand out from each other: redrawn until skin, hair and backdrop differ."""
    for _ in range(200):
        if species == 0:
            skin = rng.color(FANTASY_SKINS if rng.chance(0.1) else SKINS, 0.025)
        else:
            skin = rng.color((FURS, METALS, STONES)[species - 1], 0.03)
        hair = rng.color(FANTASY_HAIRS if rng.chance(0.15) else HAIRS)
        if species == 3:
            hair = _scale(skin, 0.66)
        elif species:
            hair = _scale(skin, 0.45) if _light(skin) > 0.45 else _mix(skin, (1.0, 1.0, 1.0), 0.6)
        backdrop, clothes = rng.color(BACKDROP_COLORS), rng.color(CLOTHES_COLORS)
        pairs = (
            (skin, hair, 0.26 if species != 3 else 0.1),
            (skin, backdrop, 0.26),
            (hair, backdrop, 0.26),
            (clothes, backdrop, 0.22),
            (clothes, skin, 0.24),
        )
        if all(_distance(a, b) >= need for a, b, need in pairs):
            break
    hat = rng.color(CLOTHES_COLORS)
    for _ in range(50):
        if min(_distance(hat, c) for c in (skin, hair, backdrop)) >= 0.22:
            break
        hat = rng.color(CLOTHES_COLORS)
    lip = _lips(rng, skin, species)
    accent = rng.color(((0.97, 0.95, 0.90), _scale(clothes, 0.6), (0.95, 0.80, 0.35)), 0.02)
    iris = _scale(skin, 0.62) if species == 3 else rng.color(IRISES)
    if species == 2:
        iris = rng.color(((0.10, 0.75, 0.90), (0.95, 0.45, 0.20), (0.35, 0.85, 0.40)), 0.03)
    return {
        "skin": skin,
        "hair_color": hair,
        "iris": iris,
        "lip": lip,
        "clothes": clothes,
        "accent": accent,
        "hat_color": hat,
        "backdrop": backdrop,
        "backdrop_low": _mix(backdrop, rng.color(BACKDROP_COLORS), 0.25),
        "frame": rng.color(FRAMES, 0.03) if _light(skin) > 0.4 else (0.92, 0.80, 0.48),
    }


def _lips(rng: _Dice, skin: Color, species: int) -> Color:
    if species == 3:
        return _scale(skin, 0.74)
    if species == 2:
        return _scale(skin, 0.58)
    red = rng.color(((0.80, 0.26, 0.28), (0.72, 0.20, 0.32), (0.86, 0.38, 0.34)), 0.04)
    share = rng.between(0.45, 0.85)
    lip = _mix(skin, red, share)
    return lip if _distance(lip, skin) >= 0.16 else _mix(skin, red, 1.0)


def _numbers(values: dict[str, tuple[float, ...]]) -> Tensor:
    names = {"hair": "hair_color"}
    out: list[float] = []
    for name in _COLORS:
        out.extend(values[names.get(name, name)])
    for name, (low, high) in _SHAPES.items():
        out.append((values[name][0] - low) / (high - low))
    for group, options in _GROUPS.items():
        out.extend(float(int(values[group][0]) == i) for i in range(len(options)))
    return torch.tensor(out)


def _mix(a: Color, b: Color, share: float) -> Color:
    return tuple(p + (q - p) * share for p, q in zip(a, b, strict=True))  # type: ignore[return-value]


def _scale(a: Color, factor: float) -> Color:
    return a[0] * factor, a[1] * factor, a[2] * factor


def _light(a: Color) -> float:
    return 0.3 * a[0] + 0.55 * a[1] + 0.15 * a[2]


def _distance(a: Color, b: Color) -> float:
    weights = (0.3, 0.45, 0.25)
    return math.sqrt(sum(w * (p - q) ** 2 for w, p, q in zip(weights, a, b, strict=True)))
