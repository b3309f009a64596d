"""What a mouth does while a phone sounds: the table of the puppet world and its tracks.

One table serves every voice. espeak-ng names its phones in IPA and flite in ARPABET; both, and
hand-written label files, are brought to the names in PHONES (ARPABET and a few additions for
other languages) by parse_phones. The numbers are ours, in the spirit of viseme tables.
"""

from __future__ import annotations

import functools
import logging
import math
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Phone = tuple[float, float, str]
"""Start in seconds, end in seconds, name."""

PAUSE = "PAU"

MOUTH_COLUMNS: tuple[str, ...] = ("open", "width", "teeth", "tongue")

# open (0 shut, 1 widest), width (0 round, 0.5 neutral, 1 spread), teeth, tongue: all 0..1.
_SHAPES: dict[str, tuple[float, float, float, float]] = {
    "PAU": (0.00, 0.50, 0.00, 0.00),
    "AA": (1.00, 0.50, 0.30, 0.15), "AE": (0.90, 0.75, 0.50, 0.15),
    "AH": (0.70, 0.50, 0.35, 0.10), "AO": (0.75, 0.22, 0.10, 0.05),
    "AX": (0.45, 0.50, 0.35, 0.10), "EH": (0.65, 0.75, 0.60, 0.15),
    "ER": (0.40, 0.25, 0.35, 0.15), "IH": (0.40, 0.80, 0.60, 0.10),
    "IY": (0.30, 1.00, 0.75, 0.10), "UH": (0.35, 0.18, 0.15, 0.05),
    "UW": (0.25, 0.05, 0.05, 0.00), "YY": (0.22, 0.08, 0.10, 0.00),
    "OE": (0.45, 0.15, 0.15, 0.05), "OO": (0.50, 0.15, 0.05, 0.05),
    "P": (0.00, 0.45, 0.00, 0.00), "B": (0.00, 0.45, 0.00, 0.00),
    "M": (0.00, 0.45, 0.00, 0.00), "F": (0.06, 0.55, 0.80, 0.00),
    "V": (0.06, 0.55, 0.80, 0.00), "TH": (0.20, 0.60, 0.70, 0.90),
    "DH": (0.20, 0.60, 0.65, 0.80), "T": (0.20, 0.60, 0.60, 0.40),
    "D": (0.20, 0.60, 0.60, 0.50), "N": (0.20, 0.60, 0.45, 0.60),
    "L": (0.35, 0.60, 0.40, 0.90), "S": (0.15, 0.75, 0.95, 0.05),
    "Z": (0.15, 0.75, 0.95, 0.05), "SH": (0.20, 0.20, 0.80, 0.00),
    "ZH": (0.20, 0.20, 0.80, 0.00), "CH": (0.18, 0.22, 0.75, 0.10),
    "JH": (0.18, 0.22, 0.75, 0.10), "K": (0.30, 0.55, 0.35, 0.10),
    "G": (0.30, 0.55, 0.35, 0.10), "NG": (0.28, 0.55, 0.30, 0.10),
    "HH": (0.45, 0.50, 0.30, 0.05), "X": (0.30, 0.50, 0.35, 0.05),
    "Q": (0.25, 0.50, 0.25, 0.05), "R": (0.28, 0.22, 0.40, 0.20),
    "W": (0.12, 0.03, 0.00, 0.00), "Y": (0.25, 0.90, 0.65, 0.10),
}  # fmt: skip

DIPHTHONGS: dict[str, tuple[str, str]] = {
    "AY": ("AA", "IH"),
    "AW": ("AA", "UH"),
    "EY": ("EH", "IY"),
    "OW": ("OO", "UW"),
    "OY": ("AO", "IY"),
}

PHONES: tuple[str, ...] = (*_SHAPES, *DIPHTHONGS)
"""Every name a parsed phone can have; index 0 is silence. The classes of the audio encoder."""

VOWELS = frozenset((*tuple(_SHAPES)[1:15], *DIPHTHONGS))

# How strongly a phone holds its own openness and width against its neighbours (after Cohen and
# Massaro 1993): lips must meet for P, B, M; the tongue's consonants take the vowel's width.
_OPEN_HOLD = {"P": 3.0, "B": 3.0, "M": 3.0, "F": 2.5, "V": 2.5, "W": 1.5, "HH": 0.3, "Q": 0.4}
_LOOSE = ("HH", "X", "Q", "K", "G", "NG", "T", "D", "N", "L", "TH", "DH", "AX", "P", "B", "M")
_WIDTH_HOLD = dict.fromkeys(_LOOSE, 0.35)

_ALIASES = {
    "IX": ("IH",), "UX": ("UW",), "AXR": ("ER",), "DX": ("D",), "NX": ("N",), "EL": ("AX", "L"),
    "EM": ("AX", "M"), "EN": ("AX", "N"), "WH": ("W",), "HV": ("HH",), "SIL": ("PAU",),
    "SSIL": ("PAU",), "SP": ("PAU",), "SPN": ("PAU",), "H#": ("PAU",), "BRTH": ("PAU",),
}  # fmt: skip

_IPA_DIGRAPHS = {
    "t\u0283": "CH", "t\u0255": "CH", "d\u0292": "JH", "d\u0291": "JH",
    "a\u026a": "AY", "a\u028a": "AW", "e\u026a": "EY", "o\u028a": "OW", "\u0259\u028a": "OW",
    "\u0254\u026a": "OY", "\u0254\u00f8": "OY", "ai": "AY", "au": "AW", "ei": "EY", "ou": "OW",
}  # fmt: skip

_IPA = {
    "p": "P", "b": "B", "m": "M", "\u0271": "M", "f": "F", "v": "V", "\u0278": "F",
    "\u03b2": "V", "\u028b": "V", "\u03b8": "TH", "\u00f0": "DH", "t": "T", "\u0288": "T",
    "d": "D", "\u0256": "D", "\u027e": "D", "n": "N", "\u0272": "N", "\u0273": "N", "l": "L",
    "\u026b": "L", "\u026d": "L", "\u028e": "L", "\u026c": "L", "\u026e": "L", "s": "S",
    "z": "Z", "\u0283": "SH", "\u0255": "SH", "\u0282": "SH", "\u0292": "ZH", "\u0291": "ZH",
    "\u0290": "ZH", "k": "K", "c": "K", "q": "K", "g": "G", "\u0261": "G", "\u025f": "G",
    "\u0262": "G", "\u0263": "G", "\u014b": "NG", "h": "HH", "\u0266": "HH", "x": "X",
    "\u00e7": "X", "\u03c7": "X", "\u0281": "X", "\u0280": "X", "\u0294": "Q", "\u0279": "R",
    "r": "R", "\u027b": "R", "w": "W", "\u028d": "W", "\u0265": "W", "j": "Y", "\u029d": "Y",
    "\u02b2": "Y",
    "i": "IY", "\u026a": "IH", "\u1d7b": "IH", "\u0268": "IH", "\u026f": "IH", "e": "EH",
    "\u025b": "EH", "\u00e6": "AE", "a": "AA", "\u0251": "AA", "\u0252": "AO", "\u0254": "AO",
    "o": "OO", "\u028a": "UH", "\u0275": "UH", "u": "UW", "\u0289": "UW", "\u028c": "AH",
    "\u0250": "AH", "\u0264": "AH", "\u0259": "AX", "\u0258": "AX", "\u025c": "ER",
    "\u025d": "ER", "\u025a": "ER", "\u025e": "ER", "y": "YY", "\u028f": "YY", "\u00f8": "OE",
    "\u0153": "OE", "\u0276": "OE",
}  # fmt: skip


def _arpabet(name: str) -> tuple[str, ...] | None:
    """The names of an ARPABET phone (any case, with or without stress digits), or None."""
    upper = name.upper().rstrip("0123456789")
    if upper in PHONES:
        return (upper,)
    return _ALIASES.get(upper)


@functools.cache
def parse_phone(name: str, arpabet: bool = False) -> tuple[str, ...]:
    """Bring one phone's name to the names in PHONES.

    Args:
        name: ARPABET in any case, or IPA; stress and length marks are ignored. An IPA name of
            several sounds gives several names. Empty, "_", "pau" and "sil" are silence.
        arpabet: read a lone lower-case letter as ARPABET ("y" is then the sound of "yes" and
            not the IPA's front rounded vowel).

    Returns:
        One or more names; an unknown phone gives ("AX",), a small opening, with one warning.
    """
    bare = name.strip().strip("_:#|!;'%,")
    if not bare:
        return (PAUSE,)
    known = _arpabet(bare)
    if known and (arpabet or len(bare) > 1 or bare.isupper()):
        return known
    text = "".join(c for c in unicodedata.normalize("NFC", bare) if c not in "\u02d0\u02d1\u02c8")
    names: list[str] = []
    while text:
        if text[:2] in _IPA_DIGRAPHS:
            names.append(_IPA_DIGRAPHS[text[:2]])
            text = text[2:]
            continue
        base = unicodedata.normalize("NFD", text[0])[0]
        found = _IPA.get(text[0]) or _IPA.get(base)
        if found:
            names.append(found)
        text = text[1:]
    if not names:
        logger.warning("phone %r is not known; the mouth opens a little for it", name)
        return ("AX",)
    return tuple(names)


def parse_phones(phones: Iterable[Phone]) -> tuple[Phone, ...]:
    """Rename timed phones to PHONES; a name of several sounds shares its time between them.

    Args:
        phones: (start_s, end_s, name) in ARPABET or IPA. When every name of the list is
            ARPABET, a lower-case "y" is the consonant.

    Returns:
        The same times with names from PHONES.

    Raises:
        ValueError: if a time is not finite or a phone ends before it starts.
    """
    listed = list(phones)
    arpabet = all(not name.strip("_:#") or _arpabet(name) for _, _, name in listed)
    result: list[Phone] = []
    for start, end, name in listed:
        if not (math.isfinite(start) and math.isfinite(end) and end >= start):
            raise ValueError(
                f"phone {name!r} must end after it starts, got {start} to {end} s; "
                "give start, end (seconds) and the phone's name in this order"
            )
        parts = parse_phone(name, arpabet)
        step = (end - start) / len(parts)
        for index, part in enumerate(parts):
            result.append((start + index * step, start + (index + 1) * step, part))
    return tuple(result)


def mouth_shape(name: str) -> tuple[float, float, float, float]:
    """The table's open, width, teeth and tongue of a phone in PHONES (diphthongs: first half)."""
    return _SHAPES[DIPHTHONGS.get(name, (name,))[0]]


def phone_track(phones: Sequence[Phone], num_steps: int, rate: float = 50.0) -> Tensor:
    """Which phone sounds at the middle of every step.

    Args:
        phones: (start_s, end_s, name), ARPABET or IPA; gaps are silence.
        num_steps: length of the track.
        rate: steps in a second.

    Returns:
        (num_steps,) int64 indices into PHONES.
    """
    track = np.zeros(num_steps, dtype=np.int64)
    for start, end, name in parse_phones(phones):
        first, last = _steps(start, end, rate)
        track[first:last] = PHONES.index(name)
    return torch.from_numpy(track)


def mouth_track(phones: Sequence[Phone], num_frames: int, fps: float = 25) -> Tensor:
    """The mouth of every frame of a film, from timed phones.

    Phones set a 100-Hz step track, diphthongs as two halves; Gaussians of 32 ms (open) and
    42 ms (width, teeth, tongue) smooth it, each phone weighted by how firmly it holds its
    shape. Frame i shows the time (i + 0.5) / fps, the middle of its interval.

    Args:
        phones: (start_s, end_s, name), ARPABET or IPA; gaps are silence, the mouth shut.
        num_frames: frames of the film.
        fps: frames in a second.

    Returns:
        (num_frames, 4) float32 in 0..1: open, width, teeth, tongue.
    """
    if num_frames < 0 or fps <= 0:
        raise ValueError(
            f"num_frames must be 0 or more and fps above 0, got {num_frames} and {fps}"
        )
    rate = 100.0
    num_steps = math.ceil(num_frames / fps * rate) + 2
    shape = np.tile(np.array(_SHAPES[PAUSE]), (num_steps, 1))
    hold = np.ones((num_steps, 4))
    for start, end, name in _halve(parse_phones(phones)):
        first, last = _steps(start, end, rate)
        width_hold = _WIDTH_HOLD.get(name, 1.0)
        shape[first:last] = _SHAPES[name]
        hold[first:last] = (_OPEN_HOLD.get(name, 1.0), width_hold, 1.0, 1.0)
    smooth = np.empty_like(shape)
    for column, sigma in enumerate((0.032, 0.042, 0.042, 0.042)):
        top = _blur(shape[:, column] * hold[:, column], sigma * rate)
        smooth[:, column] = top / _blur(hold[:, column], sigma * rate)
    times = (np.arange(num_frames) + 0.5) / fps
    steps = (np.arange(num_steps) + 0.5) / rate
    frames = np.stack([np.interp(times, steps, smooth[:, c]) for c in range(4)], axis=1)
    return torch.from_numpy(frames.astype(np.float32)).clamp_(0, 1)


def _halve(phones: Sequence[Phone]) -> Iterable[Phone]:
    for start, end, name in phones:
        if name in DIPHTHONGS:
            middle = (start + end) / 2
            yield start, middle, DIPHTHONGS[name][0]
            yield middle, end, DIPHTHONGS[name][1]
        else:
            yield start, end, name


def _steps(start: float, end: float, rate: float) -> tuple[int, int]:
    """The steps whose middles lie in [start, end); at least 0."""
    return max(0, math.ceil(start * rate - 0.5)), max(0, math.ceil(end * rate - 0.5))


def _blur(track: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian smoothing of a (T,) track; the ends repeat their last value."""
    radius = math.ceil(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    padded = np.pad(track, radius, mode="edge")
    blurred: np.ndarray = np.convolve(padded, kernel / kernel.sum(), mode="valid")
    return blurred
