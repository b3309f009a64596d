"""Frames that the puppet meter is trained and examined on, spoiled as coders and cameras do.

Every frame is of a puppet of its own, drawn on the fly; blur, noise, brightness and a block
transform that drops detail stand in for what any coder (a VAE, a video codec) does to pictures,
so that the meter needs no generator to be trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .identities import FIRST_UNSEEN_SEED, Identity, make_identity
from .puppets import CONTROLS, face_boxes, render
from .readings import SCALARS


@dataclass(frozen=True)
class Examples:
    """Drawn frames and what is true of them.

    Attributes:
        frames: (N, 3, 128, 128), uint8.
        targets: (N, 12 + D), SCALARS then appearance numbers.
    """

    frames: Tensor
    targets: Tensor


def examiner_controls(count: int, generator: torch.Generator) -> Tensor:
    """Draw controls of single frames, wider than acting draws them, the usual most often.

    Args:
        count: N.
        generator: source of randomness.

    Returns:
        (N, 14), in the order of `puppets.CONTROLS`.
    """

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    def normal(deviation: float, limit: float) -> Tensor:
        return (torch.randn(count, generator=generator) * deviation).clamp(-limit, limit)

    def chance(share: float) -> Tensor:
        return (torch.rand(count, generator=generator) < share).float()

    opening = uniform(0, 1) ** 1.3 * (1 - chance(0.2))
    blink = chance(0.2) * uniform(0, 1) + chance(0.1) + uniform(0, 0.15)
    columns = {
        "yaw": normal(8, 24),
        "pitch": normal(5, 14),
        "roll": normal(4.5, 12),
        "tx": normal(0.04, 0.13),
        "ty": normal(0.03, 0.13),
        "scale": 1 + normal(0.04, 0.12),
        "open": opening,
        "width": torch.where(chance(0.3) > 0, 0.5 + normal(0.1, 0.5), uniform(0, 1)),
        "teeth": uniform(0, 1) * chance(0.8),
        "tongue": uniform(0, 1) * chance(0.5),
        "blink": blink.clamp(0, 1),
        "gaze_x": normal(0.3, 1),
        "gaze_y": normal(0.25, 1),
        "brow": torch.where(chance(0.5) > 0, normal(0.4, 1), uniform(-1, 1)),
    }
    return torch.stack([columns[name] for name in CONTROLS], 1)


def targets_of(identities: Sequence[Identity], controls: Tensor) -> Tensor:
    """Put the truth of frames into the order the meter reads it.

    Args:
        identities: one puppet a frame, or one for all.
        controls: (F, 14).

    Returns:
        (F, 12 + D); scale is the head's size in the picture, framing included.
    """
    people = list(identities) * (len(controls) if len(identities) == 1 else 1)
    boxes = face_boxes(people, controls)
    named = {name: controls[:, index] for index, name in enumerate(CONTROLS)}
    named["x"], named["y"] = boxes[:, 0] + boxes[:, 2] / 2, boxes[:, 1] + boxes[:, 3] / 2
    named["w"], named["h"] = boxes[:, 2], boxes[:, 3]
    named["scale"] = named["scale"] * torch.stack([one.framing[2] for one in people])
    numbers = torch.stack([one.numbers for one in people])
    return torch.cat([torch.stack([named[name] for name in SCALARS], 1), numbers], 1)


def draw_people(
    count: int, generator: torch.Generator, first_seed: int = 0
) -> tuple[list[Identity], Tensor]:
    """Draw as many random puppets as frames: who they are, and their controls (N, 14)."""
    seeds = torch.randint(FIRST_UNSEEN_SEED, (count,), generator=generator) + first_seed
    identities = [make_identity(int(seed)) for seed in seeds]
    return identities, examiner_controls(count, generator)


def draw_examples(count: int, generator: torch.Generator, first_seed: int = 0) -> Examples:
    """Draw frames of as many random puppets.

    Args:
        count: N.
        generator: source of randomness.
        first_seed: puppets come from the million seeds from here on.

    Returns:
        N examples.
    """
    identities, controls = draw_people(count, generator, first_seed)
    frames = (render(identities, controls) * 255).round().to(torch.uint8)
    return Examples(frames, targets_of(identities, controls))


def soften(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Spoil frames as coders, cameras and codecs do.

    A quarter each stays as it is, is blurred, loses resolution, or loses detail in blocks of
    8x8 pixels; all change a little in brightness and contrast and half get noise.

    Args:
        frames: (N, 3, H, W), 0..1, H and W multiples of 8.
        generator: source of randomness.

    Returns:
        (N, 3, H, W), 0..1.
    """
    clean, blurred, coarse, blocks = torch.tensor_split(frames, 4)

    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    if len(blurred):
        blurred = _blur(blurred, draw(0.3, 1.5))
    if len(coarse):
        side = int(frames.shape[-1] / draw(1.1, 2.4))
        coarse = functional.interpolate(coarse, (side, side), mode="bilinear", antialias=True)
        coarse = functional.interpolate(coarse, frames.shape[-2:], mode="bicubic")
    if len(blocks):
        blocks = _drop_detail(blocks, draw(1.5, 6.0), draw(0.0, 0.04), generator)
    spoiled = torch.cat([clean, blurred, coarse, blocks])
    count = len(spoiled)
    gain = 1 + 0.08 * torch.randn(count, 1, 1, 1, generator=generator)
    shift = 0.03 * torch.randn(count, 3, 1, 1, generator=generator)
    amount = (torch.rand(count, 1, 1, 1, generator=generator) * 0.06 - 0.03).clamp_min(0)
    noise = torch.randn(spoiled.shape, generator=generator)
    return ((spoiled - 0.5) * gain + 0.5 + shift + amount * noise).clamp(0, 1)


def _blur(frames: Tensor, sigma: float) -> Tensor:
    reach = math.ceil(2.5 * sigma)
    kernel = torch.exp(-torch.arange(-reach, reach + 1).float().square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(3, 1)
    padded = functional.pad(frames, (reach, reach, reach, reach), mode="replicate")
    rows = functional.conv2d(padded, kernel[:, None, None, :], groups=3)
    return functional.conv2d(rows, kernel[:, None, :, None], groups=3)


def _drop_detail(frames: Tensor, cutoff: float, step: float, generator: torch.Generator) -> Tensor:
    """Fade and roughen the cosine coefficients of 8x8 blocks, as JPEG does."""
    index = torch.arange(8).float()
    basis = torch.cos(math.pi / 8 * (index[None] + 0.5) * index[:, None]) / 2
    basis[0] /= math.sqrt(2)
    count, channels, height, width = frames.shape
    blocks = frames.reshape(count, channels, height // 8, 8, width // 8, 8)
    freq = torch.einsum("ui,ncyixj,vj->ncyuxv", basis, blocks, basis)
    distance = (index[:, None].square() + index[None].square()).sqrt()
    fade = torch.sigmoid((cutoff - distance) * 2)
    freq = freq * fade[:, None, :]
    freq = freq + step * distance.clamp(max=1)[:, None, :] * torch.randn(
        freq.shape, generator=generator
    )
    back = torch.einsum("ui,ncyuxv,vj->ncyixj", basis, freq, basis)
    return back.reshape(frames.shape)
