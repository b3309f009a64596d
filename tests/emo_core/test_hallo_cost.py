"""The work of one of Hallo's guided steps at full size, counted on the meta device."""

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from emo_core.model import EMO, ClipInputs
from emo_core.presets import hallo
from emo_core.sampling import Guidance, predict

PUBLISHED = 53.95e12
"""FLOP of the same step in Hallo's own code, counted the same way."""


def empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def test_a_step_leaves_out_what_cannot_matter() -> None:
    model = EMO(hallo(), device="meta").requires_grad_(False)
    inputs = ClipInputs(
        empty(1, 16, 5, 12, 768), empty(1, 3, 512, 512), None, empty(1, 512),
        tuple(empty(3, size, size) for size in (64, 32, 16, 8)),
    )  # fmt: skip
    clip = model.prepare(
        model.encode_portrait(empty(1, 4, 64, 64)),
        model.encode_motion(empty(1, 2, 4, 64, 64)),
        inputs,
    )
    counts = []
    for scale in (3.5, 1.0):
        with FlopCounterMode(display=False) as counter:
            predict(model.denoising_unet, empty(1, 16, 4, 64, 64), 999, clip, Guidance(scale))
        counts.append(counter.get_total_flops())
    guided, conditional = counts
    # 5.2 of the reference for the half that does not see it, 1.2 of sound for the half that hears
    # none, 0.7 of motion frames behind the last attention, 0.4 of keys that no step changes.
    assert 45.5e12 < guided <= 46.5e12 < PUBLISHED
    assert 0.5 < conditional / guided < 0.6
