"""Small models of every variant with random weights, and conditions for them. No layer is zero."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from emo_core.conditions import Conditions
from emo_core.config import EMOConfig, LocatorConfig, SpeedConfig, TemporalConfig, hallo, tiny
from emo_core.model import EMO
from emo_core.reference import ReferenceFeatures
from emo_core.transformer import Seen, SpatialTransformer

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
    portrait = model.encode_portrait(draw(batch, LATENT[0], *size, seed=seed))
    past = model.encode_motion(draw(batch, MOTION, LATENT[0], *size, seed=seed + 1))
    windows = draw(batch, FRAMES, window, audio.num_layers, audio.layer_width, seed=seed + 2)
    picture = (size[0] * 8, size[1] * 8)
    region = draw(batch, config.locator.in_channels, *picture, seed=seed + 3).sigmoid()
    speed = None
    if config.speed is not None:
        speeds = draw(batch, FRAMES, 2 * config.speed.window + 1, seed=seed + 4).abs()
        speed = model.speed_encoder(speeds)
    face = masks = None
    if config.unet.face_tokens:
        embeddings = draw(batch, config.unet.face_embedding_width, seed=seed + 5)
        face = torch.stack([model.imageproj(e) for e in (torch.zeros_like(embeddings), embeddings)])
        masks = draw(3, *size, seed=seed + 6).sigmoid()
    return Conditions(
        ReferenceFeatures(portrait, past if motion else None), model.audioproj(windows),
        model.face_locator(region), speed, face, masks,
    )


def pick(conditions: Conditions, video: int) -> Conditions:
    """The conditions of one video of a batch."""
    one = slice(video, video + 1)
    reference = conditions.reference
    motion = reference.motion
    return replace(
        conditions,
        reference=ReferenceFeatures(
            {name: tensor[one] for name, tensor in reference.portrait.items()},
            None if motion is None else {name: tensor[one] for name, tensor in motion.items()},
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
    clip = model.denoising_unet.prepare(conditions)
    if "audio" in dropped and not masked:
        clip = replace(clip, audio={})
    if "reference" in dropped:
        clip = replace(clip, reference={})
    return model.denoising_unet(latents, timestep, clip)


def reference_face(model: EMO, tokens: Tensor) -> dict[str, Seen]:
    """Face tokens (N, T, D) as the portrait's net takes them."""
    net, seen = model.reference_unet, {}
    for block in [*net.down_blocks, net.mid_block, *net.up_blocks]:
        for index, spot in enumerate(block.spots):
            layer = block.layer("attentions", index)
            if isinstance(layer, SpatialTransformer) and spot.name != net.last:
                seen[spot.name] = Seen(layer.transformer_blocks[0].attn2.project_kv(tokens))
    return seen
