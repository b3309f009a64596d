"""What the audio encoder hears in training: utterances as one stream, and disturbed crops of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..audio import ROW_RATE
from ..waveform import SAMPLE_RATE
from .acting import drivers
from .hearing_damage import Damage, damage_sound
from .phones import mouth_track, phone_track
from .voices import Utterance

TARGETS = ("open", "width", "teeth", "tongue", "loudness", "onset", "pitch", "voiced")
STRIDE = SAMPLE_RATE // ROW_RATE
"""Samples a row."""

_LOUDNESS, _PITCH, _VOICED = 4, 6, 7
_GAP = SAMPLE_RATE // 4  # silence between joined utterances


@dataclass(frozen=True)
class Stream:
    """Utterances joined to one long sound, with what is to be heard in it at 50 Hz.

    Attributes:
        sound: (T,) float16 at 16 kHz.
        targets: (R, 8) in the order of TARGETS.
        phones: (R,) indices into PHONES.
        starts: the row at which each utterance begins, and the number of rows.
    """

    sound: Tensor
    targets: Tensor
    phones: Tensor
    starts: tuple[int, ...]


def heard_truth(utterance: Utterance, rows: int) -> tuple[Tensor, Tensor]:
    """What is to be heard in an utterance.

    Args:
        utterance: with its phones.
        rows: rows at 50 Hz; row r tells the time r / 50 + 0.02 s, so that row 2i tells the middle
            of video frame i at 25 fps.

    Returns:
        Targets (rows, 8) and phone classes (rows,).
    """
    fine = mouth_track(utterance.phones, 2 * rows + 1, 2 * ROW_RATE)
    mouth = (fine[1::2] + fine[2::2]) / 2
    heard = drivers(utterance.waveform)
    tune = torch.stack([heard.loudness, heard.onset, heard.pitch, heard.voiced], dim=1)
    places = (torch.arange(rows) / 2).clamp(max=tune.shape[0] - 1)
    below, above = places.floor().long(), places.ceil().long()
    tune = torch.lerp(tune[below], tune[above], (places - below)[:, None])
    phones = phone_track(utterance.phones, 2 * rows + 1, 2 * ROW_RATE)[2::2]
    return torch.cat([mouth, tune], dim=1), phones


def join_stream(utterances: Sequence[Utterance]) -> Stream:
    """Join utterances to one sound, a quarter of a second apart.

    Raises:
        ValueError: if there is no utterance.
    """
    if not utterances:
        raise ValueError("training needs at least one utterance; run `emo train voices` first")
    sounds, targets, phones, starts = [], [], [], [0]
    for utterance in utterances:
        length = -(-(utterance.waveform.numel() + _GAP) // STRIDE) * STRIDE
        asked, said = heard_truth(utterance, length // STRIDE)
        missing = length - utterance.waveform.numel()
        sounds.append(nn.functional.pad(utterance.waveform.float(), (0, missing)).half())
        targets.append(asked)
        phones.append(said)
        starts.append(starts[-1] + length // STRIDE)
    return Stream(torch.cat(sounds), torch.cat(targets), torch.cat(phones), tuple(starts))


def draw_batch(
    stream: Stream, count: int, seconds: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw disturbed crops of a stream.

    Args:
        stream: the sound.
        count: B crops.
        seconds: of one crop.
        generator: of the draw.

    Returns:
        Sound (B, T), targets (B, R, 8) and phones (B, R), T = 320 R.
    """
    rows = seconds * ROW_RATE
    damage = Damage.draw(count, generator)
    sounds, targets, phones = [], [], []
    for pace in damage.pace.tolist():
        span = math.ceil(rows * pace) + 1
        last = max(1, stream.phones.shape[0] - span)
        start = int(torch.randint(last, (1,), generator=generator))
        index = (torch.arange(rows) * pace).long().clamp(max=span - 1) + start
        index = index.clamp(max=stream.phones.shape[0] - 1)
        place = torch.arange(rows * STRIDE) * pace
        below = place.long() + start * STRIDE
        below = below.clamp(max=stream.sound.shape[0] - 2)
        pair = stream.sound[below].float(), stream.sound[below + 1].float()
        sounds.append(torch.lerp(*pair, (place - place.floor())))
        targets.append(stream.targets[index])
        phones.append(stream.phones[index])
    sound, asked = torch.stack(sounds), torch.stack(targets)
    voiced = (asked[..., _VOICED] > 0.25).float()
    asked[..., _PITCH] += voiced * torch.log2(damage.pace)[:, None] / 1.5
    louder = asked[..., _LOUDNESS] + damage.gain_db[:, None] / 40
    asked[..., _LOUDNESS] = louder.clamp(0, 1) * (asked[..., _LOUDNESS] > 0)
    return damage_sound(sound, damage, generator), asked, torch.stack(phones)
