"""The work of a guided denoising step at full size, counted on the meta device."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from emo_core.conditions import Clip
from emo_core.model import EMO, ClipInputs
from emo_core.presets import emo
from emo_core.sampling import Guidance, predict

# Tokens, channels, transformer blocks, temporal modules of SD 1.5's levels at 512x512.
LEVELS = ((4096, 320, 5, 5), (1024, 640, 5, 5), (256, 1280, 5, 5), (64, 1280, 1, 6))
# Convolutions of SD 1.5's UNet for one picture, counted with diffusers' own.
CONVOLUTIONS = 443.9e9
FRAMES, MOTION, AUDIO_TOKENS, BRANCHES = 12, 4, 5, 2


def expected_flops() -> float:
    """FLOP of one guided step for each generated frame, a multiplication and addition being two.

    One branch sees all conditions, the other none: it skips reference, audio and speed attention.
    """
    total = BRANCHES * CONVOLUTIONS
    for n, c, blocks, modules in LEVELS:
        matrix = 2 * n * c * c  # one linear layer from c to c
        products = 4 * n * c  # one frame's queries on one key: scores and weighted sum
        # Self-attention q, k, v, out and products; GEGLU's two halves and the way back, 4c wide.
        unconditional = 4 * matrix + n * products + 12 * matrix
        # Reference: q, out (keys once per clip). Audio: the same on five tokens.
        reference = 2 * matrix + n * products
        audio = 2 * matrix + AUDIO_TOKENS * products
        total += blocks * (BRANCHES * unconditional + reference + audio)
        # Frames: entrance, exit, two attentions, feed-forward.
        frames = (1 + 1 + 4 + 4 + 12) * matrix
        # Motion frames: the entrance and the first attention's keys and values were projected once
        # per clip; they ask in the first (q, out) and are asked in the second (k, v), then leave.
        motion = 4 * matrix * MOTION / FRAMES
        seen = FRAMES + MOTION
        pairs = products * seen * (seen / FRAMES + 1)
        speed = 2 * matrix + products * FRAMES
        total += modules * (BRANCHES * (frames + motion + pairs) + speed)
    return total


def prepared_clip(model: EMO) -> Clip:
    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta")

    portrait = model.encode_portrait(empty(1, 4, 64, 64))
    motion = model.encode_motion(empty(1, MOTION, 4, 64, 64))
    inputs = ClipInputs(
        empty(1, FRAMES, 5, 12, 768), empty(1, 1, 512, 512), empty(1, FRAMES, 5)
    )
    return model.prepare(portrait, motion, inputs)


def test_a_guided_step_costs_what_it_must() -> None:
    model = EMO(emo(), device="meta").requires_grad_(False)
    clip = prepared_clip(model)

    def not_here(module: torch.nn.Module, *_: object) -> None:
        raise AssertionError(f"{type(module).__name__} ran inside the loop over steps")

    for name, child in model.named_children():
        if name != "denoising_unet":
            child.register_forward_hook(not_here)
    latents = torch.empty(1, FRAMES, 4, 64, 64, device="meta")
    with FlopCounterMode(display=False) as counter:
        predict(model.denoising_unet, latents, 999, clip, Guidance(3.5))
    per_frame = counter.get_total_flops() / FRAMES
    assert abs(per_frame / expected_flops() - 1) < 0.015
    assert per_frame <= 2.40e12


def test_one_branch_costs_what_the_conditions_do() -> None:
    """Without guidance only the branch that sees everything is run."""
    model = EMO(emo(), device="meta").requires_grad_(False)
    clip = prepared_clip(model)
    latents = torch.empty(1, FRAMES, 4, 64, 64, device="meta")
    counts = []
    for guidance in (Guidance(1.0), Guidance(3.5)):
        with FlopCounterMode(display=False) as counter:
            predict(model.denoising_unet, latents, 999, clip, guidance)
        counts.append(counter.get_total_flops())
    assert 0.5 < counts[0] / counts[1] < 0.56
