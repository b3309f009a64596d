"""Training of the puppet meter on freshly drawn frames of the world.

Every frame is of a puppet of its own, drawn on the fly; blur, noise, brightness and a block
transform that drops detail stand in for what any coder (a VAE, a video codec) does to pictures,
so that the meter needs no generator to be trained.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from .identities import Identity, make_identity
from .meters import SCALARS, PuppetMeter, save_meter
from .puppets import CONTROLS, face_boxes, render

logger = logging.getLogger(__name__)

FIRST_UNSEEN_SEED = 1_000_000
"""Puppets from here on are never trained on."""

LOSS_WEIGHTS = {"open": 6.0, "width": 3.0, "yaw": 4.0, "pitch": 4.0, "roll": 4.0, "brow": 4.0}
"""Weights of the squared errors of the SCALARS (others 1); all appearance numbers together 12."""

IDENTITY_WEIGHT = 12.0


@dataclass(frozen=True)
class Examples:
    """Drawn frames and what is true of them.

    Attributes:
        frames: (N, 3, 128, 128), uint8.
        targets: (N, 12 + D), SCALARS then appearance numbers.
    """

    frames: Tensor
    targets: Tensor


def random_controls(count: int, generator: torch.Generator) -> Tensor:
    """Draw controls of single frames, wider than acting draws them.

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


def draw_examples(count: int, generator: torch.Generator, first_seed: int = 0) -> Examples:
    """Draw frames of as many random puppets.

    Args:
        count: N.
        generator: source of randomness.
        first_seed: puppets come from the million seeds from here on.

    Returns:
        N examples.
    """
    seeds = torch.randint(FIRST_UNSEEN_SEED, (count,), generator=generator) + first_seed
    identities = [make_identity(int(seed)) for seed in seeds]
    controls = random_controls(count, generator)
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


class ExamplePool:
    """A ring of drawn frames: new ones replace the oldest, batches are drawn from all.

    Drawing costs more than a step of the network; every frame is used a few times, spoiled in
    another way each time.

    Args:
        size: frames kept.
        generator: source of randomness.
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        """Draw the first frames."""
        self._generator = generator
        parts = [draw_examples(min(64, size - i), generator) for i in range(0, size, 64)]
        self.frames = torch.cat([part.frames for part in parts])
        self.targets = torch.cat([part.targets for part in parts])
        self._next = 0

    def renew(self, count: int) -> None:
        """Replace the oldest frames by new ones."""
        new = draw_examples(count, self._generator)
        places = (torch.arange(count) + self._next) % len(self.frames)
        self.frames[places] = new.frames
        self.targets[places] = new.targets
        self._next = (self._next + count) % len(self.frames)

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw a batch: (N, 3, 128, 128) spoiled frames in 0..1 and (N, 12 + D) targets."""
        places = torch.randint(len(self.frames), (count,), generator=self._generator)
        frames = self.frames[places].float() / 255
        return soften(frames, self._generator), self.targets[places]


@dataclass(frozen=True)
class MeterTraining:
    """Settings of the meter's training.

    Attributes:
        minutes: time to train; the learning rate falls to zero at its end.
        steps: or a number of steps, where minutes is 0.
        seed: of weights, puppets and order.
        batch: frames a step.
        fresh: frames drawn a step.
        pool: frames kept.
        learning_rate: the highest.
        ema: weight of the past in the averaged weights, which are what is kept.
        save_every: steps between checkpoints.
    """

    minutes: float = 27.0
    steps: int = 0
    seed: int = 0
    batch: int = 64
    fresh: int = 32
    pool: int = 6144
    learning_rate: float = 2e-3
    ema: float = 0.998
    save_every: int = 500

    def progress(self, step: int, started: float) -> float:
        """Return the part of the training that is done, 0..1, at a step."""
        if self.minutes:
            return min(1.0, (time.monotonic() - started) / (60 * self.minutes))
        return min(1.0, step / self.steps)


def train_meters(settings: MeterTraining, folder: Path) -> PuppetMeter:
    """Train a meter on the world as it is.

    Args:
        settings: how long and how.
        folder: checkpoints go to `folder/meters.safetensors`, every `save_every` steps.

    Returns:
        The trained meter (averaged weights), ready to read.
    """
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    pool = ExamplePool(settings.pool, generator)
    meter = new_meter(pool.targets)
    average = new_meter(pool.targets)
    average.load_state_dict(meter.state_dict())
    optimizer = torch.optim.AdamW(meter.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.02)
    weights = _target_weights(meter)
    started, step, part, smooth_loss = time.monotonic(), 0, 0.0, float("nan")
    while part < 1:
        part = settings.progress(step, started)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _rate(part, step)
        pool.renew(settings.fresh)
        loss = _step(meter, optimizer, pool.batch(settings.batch), weights)
        decay = min(settings.ema, (step + 1) / (step + 20))
        _follow(average, meter, decay)
        smooth_loss = loss if step == 0 else 0.98 * smooth_loss + 0.02 * loss
        step += 1
        if step % settings.save_every == 0:
            logger.info("meter step %d, %.0f %%, loss %.4f", step, 100 * part, smooth_loss)
            save_meter(average, folder / "meters.safetensors", {"steps": step})
    average.residual.copy_(identity_residual(average, seed=settings.seed + 1))
    record = {"steps": step, "frames": step * settings.batch, "seed": settings.seed}
    save_meter(average, folder / "meters.safetensors", record)
    return average.eval().requires_grad_(False)


def new_meter(targets: Tensor) -> PuppetMeter:
    """Build an untrained meter whose scale fits the world.

    Args:
        targets: (N, 12 + D), examples of the numbers to read.

    Returns:
        The meter.
    """
    meter = PuppetMeter(targets.shape[1] - len(SCALARS))
    meter.mean.copy_(targets.mean(0))
    meter.deviation.copy_(targets.std(0).clamp_min(1e-3))
    meter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return meter


def identity_residual(meter: PuppetMeter, seed: int, count: int = 512) -> Tensor:
    """Measure how well each appearance number is read on puppets never trained on.

    Args:
        meter: the meter.
        seed: of the frames.
        count: frames.

    Returns:
        (D,), root of the mean squared error, at least 0.02.
    """
    generator = torch.Generator().manual_seed(seed)
    examples = draw_examples(count, generator, FIRST_UNSEEN_SEED)
    read = meter.read(examples.frames).identity
    return (read - examples.targets[:, len(SCALARS) :]).square().mean(0).sqrt().clamp_min(0.02)


def _target_weights(meter: PuppetMeter) -> Tensor:
    scalars = torch.tensor([LOSS_WEIGHTS.get(name, 1.0) for name in SCALARS])
    identity = torch.full((meter.num_identity,), IDENTITY_WEIGHT / meter.num_identity)
    return torch.cat([scalars, identity])


def _rate(part: float, step: int) -> float:
    warm_up = min(1.0, (step + 1) / 100)
    return warm_up * 0.5 * (1 + math.cos(math.pi * part))


def _step(
    meter: PuppetMeter,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
    weights: Tensor,
) -> float:
    frames, targets = batch
    frames = frames.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        read = meter(frames)
    wanted = (targets - meter.mean) / meter.deviation
    # Half squared, half absolute: the absolute part is what makes small errors smaller still.
    error = functional.smooth_l1_loss(read.float(), wanted, reduction="none", beta=0.3)
    loss = (error * weights).sum(1).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(meter.parameters(), 5.0)
    optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def _follow(average: PuppetMeter, meter: PuppetMeter, decay: float) -> None:
    for slow, fast in zip(average.parameters(), meter.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)
