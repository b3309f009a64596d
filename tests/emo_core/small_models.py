"""Small models of every variant with random weights, and conditions for them. No layer is zero."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from emo_core.conditions import Conditions
from emo_core.config import EMOConfig, LocatorConfig, SpeedConfig, TemporalConfig
from emo_core.model import EMO
from emo_core.presets import hallo, tiny
from emo_core.reference import Bank, ReferenceFeatures, halved

FRAMES, MOTION = 3, 2
LATENT = (4, 8, 8)
VARIANTS = ("emo", "positions", "hallo")


def small_config(variant: str = "emo") -> EMOConfig:
    """EMO, emo-tiny's kind with position tables, or Hallo, a few channels wide.

    Three levels, of which the coarsest has no attention in its blocks, as in SD 1.5.
    """
    base = hallo() if variant == "hallo" else tiny()
    unet = replace(
        base.unet, latent_channels=LATENT[0], widths=(8, 16, 16), attention_levels=(0, 1),
        layers_per_block=1, num_heads=2, norm_groups=4, time_width=32, feed_forward_mult=4,
        face_token_width=12 if variant == "hallo" else 0,
        face_embedding_width=10 if variant == "hallo" else 0,
        position_grid=5 if variant == "positions" else 0,
        reference_order="conditional", reference_rounding="none",
    )
    tokens = 4 if variant == "hallo" else 3
    audio = replace(
        base.audio, num_layers=2, layer_width=6, window=1, num_tokens=tokens, token_width=8,
        hidden_width=7 if variant == "hallo" else 0,
    )
    levels = (0, 1) if variant == "hallo" else (0, 1, 2)
    first = "image" if variant == "hallo" else "zeros"
    speed = None if variant == "hallo" else SpeedConfig((0.0, 0.5, 1.2), (0.3, 0.5, 0.6), 1, 6)
    return replace(
        base, picture_size=64, unet=unet, audio=audio, speed=speed,
        temporal=TemporalConfig(levels, 2, 8, FRAMES, MOTION, first, "latents"),
        locator=LocatorConfig(base.locator.in_channels, (4, 4, 6, 6)),
    )


def randomise(module: nn.Module, seed: int = 0, scale: float = 0.4) -> None:
    """Give every parameter random values, so that no layer is silent."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 1
            parameter.copy_(noise * scale / fan_in**0.5 if parameter.dim() > 1 else noise * scale)
    for part in module.modules():
        if isinstance(part, (nn.GroupNorm, nn.LayerNorm)):
            part.weight.data.add_(1)


def small_model(variant: str = "emo", dtype: torch.dtype = torch.float64, seed: int = 0) -> EMO:
    model = EMO(small_config(variant), dtype=dtype)
    randomise(model, seed, scale=1.0)
    return model.eval().requires_grad_(False)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make_conditions(
    model: EMO, batch: int = 1, seed: int = 1, motion: bool = True, size: tuple[int, int] = (8, 8)
) -> Conditions:
    """Conditions of `batch` different videos, all of them given."""
    config = model.config
    audio, window = config.audio, 2 * config.audio.window + 1
    faces = None
    if config.unet.face_tokens:
        faces = draw(batch, config.unet.face_embedding_width, seed=seed + 5)
    portrait = model.encode_portrait(draw(batch, LATENT[0], *size, seed=seed), faces)
    past = model.encode_motion(draw(batch, MOTION, LATENT[0], *size, seed=seed + 1), faces)
    windows = draw(batch, FRAMES, window, audio.num_layers, audio.layer_width, seed=seed + 2)
    picture = (size[0] * 8, size[1] * 8)
    region = draw(batch, config.locator.in_channels, *picture, seed=seed + 3).sigmoid()
    speed = None
    if config.speed is not None:
        speeds = draw(batch, FRAMES, 2 * config.speed.window + 1, seed=seed + 4).abs()
        speed = model.speed_encoder(speeds)
    face, masks = model.face_tokens(faces, windows), ()
    if config.unet.face_tokens:
        drawn = draw(3, *size, seed=seed + 6).sigmoid()[None]
        sizes = [(halved(size[0], i), halved(size[1], i)) for i in range(len(config.unet.widths))]
        masks = tuple(nn.functional.interpolate(drawn, s, mode="area")[0] for s in sizes)
    return Conditions(
        ReferenceFeatures(portrait, past if motion else None), model.audioproj(windows),
        model.face_locator(region), speed, face, masks,
    )


def pick(conditions: Conditions, video: int) -> Conditions:
    """The conditions of one video of a batch."""
    one, batch = slice(video, video + 1), len(conditions.region)
    reference = conditions.reference
    motion = reference.motion

    def rows(bank: Bank) -> Bank:
        return {name: tensor[video::batch] for name, tensor in bank.items()}

    return replace(
        conditions,
        reference=ReferenceFeatures(
            rows(reference.portrait), None if motion is None else rows(motion)
        ),
        audio_tokens=conditions.audio_tokens[one],
        region=conditions.region[one],
        speed=None if conditions.speed is None else conditions.speed[one],
        face_tokens=None if conditions.face_tokens is None else conditions.face_tokens[:, one],
    )


def predict_without(
    model: EMO, latents: Tensor, timestep: Tensor, conditions: Conditions, dropped: frozenset[str]
) -> Tensor:
    """A forward whose model never heard of the dropped conditions: no audience is involved."""
    if "region" in dropped:
        conditions = replace(conditions, region=torch.zeros_like(conditions.region))
    if "speed" in dropped:
        conditions = replace(conditions, speed=None)
    if "reference" in dropped and conditions.face_tokens is not None:
        nobody = conditions.face_tokens[0]
        conditions = replace(conditions, face_tokens=torch.stack([nobody, nobody]))
    masked = model.config.audio.attention == "masked3"
    if "audio" in dropped and masked:
        silence = torch.zeros_like(conditions.audio_tokens)
        conditions = replace(conditions, audio_tokens=silence)
    motion = conditions.reference.motion
    if "reference" in dropped and model.config.unet.face_tokens and motion is not None:
        half = len(conditions.region)
        blind = {name: tensor[:half].repeat(2, 1, 1, 1, 1) for name, tensor in motion.items()}
        conditions = replace(conditions, reference=replace(conditions.reference, motion=blind))
    clip = model.denoising_unet.prepare(conditions)
    if "audio" in dropped and not masked:
        clip = replace(clip, audio={})
    if "reference" in dropped:
        clip = replace(clip, reference={})
    return model.denoising_unet(latents, timestep, clip)
