"""A whole checkpoint at the smallest size: every part there, nothing trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from emo_core.audio_encoder import AudioEncoderConfig, build_audio_encoder
from emo_core.config import AudioConfig, EMOConfig, LocatorConfig, TemporalConfig
from emo_core.model import EMO
from emo_core.presets import tiny
from emo_core.vae import AutoencoderKL
from emo_core.vae_config import VAEConfig
from emo_core.weights import save_checkpoint


def smallest_config() -> EMOConfig:
    """Every module of emo-tiny at a few channels, 32 x 32 pixels, f = 4, n = 2."""
    config = tiny()
    return replace(
        config,
        name="smallest",
        picture_size=32,
        unet=replace(
            config.unet, latent_channels=4, widths=(8, 16), num_heads=2, norm_groups=4,
            time_width=16, position_grid=4,
        ),
        audio=AudioConfig("layer", 2, 8, 1, 3, 8, 0, "logmel", "after", "grid"),
        temporal=TemporalConfig((0, 1), 1, 8, 4, 2, "zeros", "latents"),
        locator=LocatorConfig(1, (4, 4, 8, 8)),
        sampling=replace(config.sampling, num_inference_steps=2),
    )  # fmt: skip


def save_smallest(path: Path, vae_width: int = 8) -> Path:
    """Write the smallest checkpoint; hosts build VAEs of multiples of 32 channels only."""
    torch.manual_seed(0)
    heard = AudioEncoderConfig("logmel", 2, 8, "after", False, {"dilations": [1, 1]})
    save_checkpoint(
        path,
        EMO(smallest_config()),
        AutoencoderKL(VAEConfig(vae_width, (1, 1, 1, 1), 1, 4, 3, 3, 1.0, True, 4)),
        build_audio_encoder(heard),
        heard,
        {"steps": 0, "data_seed": 7},
    )
    return path
