"""Where a film's clips meet: at equal distances, in quiet moments, or over frames that they share.

EMO joins clips by motion frames alone ("Temporal Modules") and says nothing of how the joins look.
Here clips are always sampled at full length; how many of their frames the film keeps varies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from .clips import ClipPlan, check_num_frames, plan_clips
from .config import TemporalConfig
from .given import Given

JoinKind = Literal["auto", "plain", "quiet", "overlap"]
JOINS: tuple[JoinKind, ...] = ("auto", "plain", "quiet", "overlap")

_FULL_SCALE = 32767
_BLOCK = 500
"""Frames whose loudness is counted at a time."""


def check_joins(joins: str) -> None:
    """Say what is wrong with a kind of join.

    Raises:
        ValueError: if there is none of that name.
    """
    if joins not in JOINS:
        raise ValueError(f"joins must be one of {', '.join(JOINS)}, got {joins!r}")


def plan_joins(
    joins: str, num_frames: int, config: TemporalConfig, levels: Tensor | None = None
) -> Iterator[ClipPlan]:
    """The clips of a film, which cover every frame of it once.

    A clip's plan depends on nothing that follows the frame behind its last one, but for the film's
    end, where it keeps all frames that are left.

    Args:
        joins: "plain" for joins at equal distances; "quiet" for joins where the sound is quietest,
            in the last third of a clip; "overlap" for clips that share their ends; "auto" for what
            the weights were measured to do best, `config.joins`.
        num_frames: frames of the film.
        config: how long clips and their motion frames are.
        levels: sound_levels() of the film, for "quiet".

    Raises:
        ValueError: if there are no such joins, no frame, or "quiet" has no levels.
    """
    check_joins(joins)
    check_num_frames(num_frames)
    joins = config.joins if joins == "auto" else joins
    if joins == "overlap":
        return _plan_overlap(num_frames, config.num_frames, overlap_of(config))
    if joins == "quiet":
        if levels is None or len(levels) < num_frames:
            raise ValueError(
                "quiet joins need to know how loud each frame's sound is, and this sound does not "
                "say; encode it again with EMO Load Audio Embedding, or take plain joins"
            )
        return _plan_quiet(levels.tolist(), num_frames, config)
    return plan_clips(num_frames, config.num_frames)


def overlap_of(config: TemporalConfig) -> int:
    """Frames that neighbours share: a sixth of a clip, with room for the motion frames.

    A quarter was measured to join emo-tiny's clips no better, at more work (docs/joins.md).
    """
    room = min(config.num_frames // 2, config.num_frames - config.num_motion_frames)
    return max(0, min(max(1, config.num_frames // 6), room))


def _plan_overlap(num_frames: int, length: int, overlap: int) -> Iterator[ClipPlan]:
    # What the last clip shares with none is no reason for another clip.
    for plan in plan_clips(max(1, num_frames - overlap), length - overlap):
        behind = plan.first + length >= num_frames
        kept = num_frames - plan.first if behind else length - overlap
        yield replace(plan, kept=kept, shared=overlap if plan.index else 0)


def _plan_quiet(levels: list[int], num_frames: int, config: TemporalConfig) -> Iterator[ClipPlan]:
    length = config.num_frames
    least = max(config.num_motion_frames, -(-2 * length // 3))
    index = first = 0
    while first + length < num_frames:
        # Both frames at a join are to be quiet; of equal places the last makes the fewest clips.
        joins = range(first + length, first + least - 1, -1)
        join = min(joins, key=lambda frame: levels[frame - 1] + levels[frame])
        yield ClipPlan(index, first, join - first)
        index, first = index + 1, join
    yield ClipPlan(index, first, num_frames - first)


def sound_levels(
    waveform: Tensor, sample_rate: int, num_frames: int, frame_rate: Fraction | int
) -> Tensor:
    """How loud each frame's own sound is, in whole steps of 3 dB, 0 for silence.

    Counted in integers, so that a change elsewhere in the sound changes no frame's level.

    Args:
        waveform: (C, T) or (T,), -1..1.
        sample_rate: samples a second.
        num_frames: F; frames behind the sound's end are silent.
        frame_rate: frames a second.

    Returns:
        (F,) int64: the number of binary digits of the mean power of 16-bit samples.
    """
    rate = Fraction(frame_rate)
    # Frame f has the samples from f * sample_rate / fps on, rounded down.
    starts = torch.arange(num_frames + 1) * (sample_rate * rate.denominator) // rate.numerator
    starts = starts.clamp(max=waveform.shape[-1])
    levels = [torch.empty(0, dtype=torch.long)]
    for first in range(0, num_frames, _BLOCK):  # hours of sound would be gigabytes of powers
        edges = starts[first : first + _BLOCK + 1]
        part = waveform[..., int(edges[0]) : int(edges[-1])].cpu().float()
        mono = part.mean(0) if part.ndim == 2 else part
        power = (mono.clamp(-1, 1) * _FULL_SCALE).round().long().square().cumsum(0)
        power = torch.cat([power.new_zeros(1), power])
        mean = power[edges - edges[0]].diff() // edges.diff().clamp(min=1)
        levels.append(torch.frexp(mean.double()).exponent.long())
    return torch.cat(levels)


def clip_given(
    film: Given | None, plan: ClipPlan, num_frames: int, surplus: Tensor | None
) -> Given | None:
    """What is there of a clip before it is sampled: an existing film's frames, and shared ones.

    In shared frames the clip before fades out: of their o frames, frame j is made to the part
    (j + 1) / (o + 1), and the rest stays as that clip has it.

    Args:
        film: latents of an existing film; None for none.
        plan: which clip.
        num_frames: F, frames that every clip is sampled at.
        surplus: (S, C, h, w), sampled frames of the clip before that the film did not keep.

    Raises:
        ValueError: if the clip shares frames and the clip before it was not made.
    """
    given = None if film is None else film.clip(plan.first, num_frames)
    if not plan.shared:
        return given
    if surplus is None or len(surplus) < plan.shared:
        raise ValueError(
            f"clip {plan.index} shares {plan.shared} frames with the clip before it, which is not "
            "there; begin with clip 0, or take plain joins"
        )
    before = surplus[None, : plan.shared]
    _, count, _, height, width = before.shape
    if given is None:
        rest = before.new_zeros(1, num_frames - count, *before.shape[2:])
        given = Given(torch.cat([before, rest], 1))
    latents = torch.cat([before, given.latents[:, count:]], 1)
    mask = given.mask
    if mask is None:
        mask = latents.new_ones(1, num_frames, 1, height, width)
    ramp = torch.arange(1, num_frames + 1, device=mask.device).clamp(max=count + 1) / (count + 1)
    return replace(given, latents=latents, mask=mask * ramp.to(mask)[:, None, None, None])
