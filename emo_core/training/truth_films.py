"""Puppet films whose truth is known: what meters and models are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from ..truth import Truth
from ..waveform import SAMPLE_RATE
from .acting import FRAME_RATE, Drivers, act, drivers
from .identities import Identity, make_identity
from .phones import mouth_track
from .puppets import face_boxes, portrait_controls, render
from .speech import join
from .voices import Utterance


@dataclass(frozen=True)
class TruthFilm:
    """One puppet saying one thing, as the world says it is.

    Attributes:
        identity: the puppet.
        waveform: (T,), 16 kHz.
        heard: what moves the head and the brows, at 25 fps.
        controls: (F, 14).
    """

    identity: Identity
    waveform: Tensor
    heard: Drivers
    controls: Tensor

    @property
    def truth(self) -> Truth:
        """Mouth and pose of every frame."""
        return Truth(Fraction(FRAME_RATE), self.controls[:, 6:8], self.controls[:, :3])

    @property
    def seconds(self) -> float:
        """Length of the film."""
        return len(self.controls) / FRAME_RATE

    def frames(self) -> Tensor:
        """Draw the film, (F, 3, 128, 128), 0..1."""
        return torch.cat([render(self.identity, part) for part in torch.split(self.controls, 64)])

    def portrait(self) -> Tensor:
        """Draw the portrait, (3, 128, 128), 0..1."""
        return render(self.identity, portrait_controls(self.identity.seed))[0]

    def portrait_box(self) -> Tensor:
        """Return the face box of the portrait, (4,): x, y, w, h in parts of the picture."""
        return face_boxes([self.identity], portrait_controls(self.identity.seed))[0]


def make_film(utterance: Utterance, seed: int) -> TruthFilm:
    """Let a puppet act an utterance.

    Args:
        utterance: sound and phones.
        seed: of the puppet and its acting.

    Returns:
        The film's truth; `frames` draws it.
    """
    count = -(-len(utterance.waveform) * FRAME_RATE // SAMPLE_RATE)
    heard = drivers(utterance.waveform)
    controls = act(mouth_track(utterance.phones, count), heard, seed)
    return TruthFilm(make_identity(seed), utterance.waveform, heard, controls)


def make_films(utterances: Sequence[Utterance], first_seed: int) -> list[TruthFilm]:
    """Let a new puppet act each utterance; seeds count up from the first."""
    return [make_film(one, first_seed + index) for index, one in enumerate(utterances)]


def long_utterance(utterances: Sequence[Utterance], seconds: float) -> Utterance:
    """Join utterances, over and over, with pauses of 0.3 s, into a long one.

    Args:
        utterances: at least one.
        seconds: length to cut to.

    Returns:
        One utterance of exactly that length.
    """
    parts: list[Utterance] = []
    total = 0.0
    while total < seconds:
        parts.append(utterances[len(parts) % len(utterances)])
        total += len(parts[-1].waveform) / SAMPLE_RATE + 0.3
    whole = join(parts, [0.0] + [0.3] * (len(parts) - 1) + [0.3])
    count = round(seconds * SAMPLE_RATE)
    phones = tuple(phone for phone in whole.phones if phone[0] < seconds)
    return replace(whole, waveform=whole.waveform[:count], phones=phones)
