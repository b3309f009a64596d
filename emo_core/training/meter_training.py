"""The stage that trains the puppet meter on freshly drawn frames of the world."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .frames import CHUNK, ChunkPool
from .identities import FIRST_UNSEEN_SEED
from .meter_examples import draw_examples, draw_people, soften, targets_of
from .meters import PuppetMeter
from .readings import SCALARS
from .stage import Batch, Stage, stream_seed

LOSS_WEIGHTS = {"open": 6.0, "width": 3.0, "yaw": 4.0, "pitch": 4.0, "roll": 4.0, "brow": 4.0}
"""Weights of the squared errors of the SCALARS (others 1); all appearance numbers together 12."""

IDENTITY_WEIGHT = 12.0


@dataclass(frozen=True)
class MeterPlan:
    """What the meter is shown.

    Attributes:
        seed: of weights, puppets and order.
        batch: frames a step.
        pool: frames kept; 32 are new in each step. Drawing costs more than a step of the network,
            so every frame is used a few times, spoiled in another way each time.
        examples: puppets whose numbers give the meter's scale.
    """

    seed: int = 0
    batch: int = 64
    pool: int = 6144
    examples: int = 6144


class MeterStage(Stage):
    """Trains a meter on the world as it is.

    Args:
        plan: what it is shown.
    """

    name = "meters"

    def __init__(self, plan: MeterPlan) -> None:
        torch.manual_seed(plan.seed)
        self.plan = plan
        people = draw_people(plan.examples, torch.Generator().manual_seed(plan.seed))
        self.meter = new_meter(targets_of(*people))
        self.modules = nn.ModuleDict({"meter": self.meter})
        self._weights = _target_weights(self.meter)
        kept = max(1, plan.pool // CHUNK)
        self._pool = ChunkPool(self._draw, kept, kept, 1)

    def batch(self, draw: int) -> Batch:
        """Draw spoiled frames (N, 3, 128, 128) in 0..1 and targets (N, 12 + D)."""
        generator = torch.Generator().manual_seed(stream_seed(self.plan.seed, draw, "data"))
        frames, targets = self._pool.batch(draw, self.plan.batch, generator)
        return {"frames": soften(frames.float() / 255, generator), "targets": targets}

    def loss(
        self, batch: Batch, generator: torch.Generator, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted errors of all numbers, half squared, half absolute.

        The absolute part is what makes small errors smaller still.
        """
        meter, targets = self.meter, batch["targets"]
        read = meter(batch["frames"].contiguous(memory_format=torch.channels_last))
        wanted = (targets - meter.mean) / meter.deviation
        error = functional.smooth_l1_loss(read.float(), wanted, reduction="none", beta=0.3)
        weighted = (error * self._weights.to(error.device)).mean(0)
        split = len(SCALARS)
        parts = {"numbers": weighted[:split].sum(), "identity": weighted[split:].sum()}
        return weighted.sum(), parts

    def finish(self) -> None:
        """Measure what appearance numbers are worth; with the weights that are to be kept."""
        residual = identity_residual(self.meter, seed=self.plan.seed + 1)
        self.meter.residual.copy_(residual)

    def _draw(self, index: int) -> tuple[Tensor, Tensor]:
        """Chunk `index` of the pool."""
        seed = stream_seed(self.plan.seed, index, "noise")
        drawn = draw_examples(CHUNK, torch.Generator().manual_seed(seed))
        return drawn.frames, drawn.targets


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
