"""A whole model, opened: checkpoint, VAE and audio encoder fit each other; no weight is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .config import EMOConfig
from .hallo_files import Variant
from .vae_files import VAEFile, vae_in
from .wav2vec import Wav2Vec2File, wav2vec2_in
from .weight_files import WeightFile
from .weights import Checkpoint, load_opened, open_checkpoint


@dataclass(frozen=True)
class OpenedModel:
    """All files of a model.

    Attributes:
        file: the checkpoint's.
        config: what the network is.
        vae: the VAE that takes the place of the checkpoint's own; None to leave that.
        audio_encoder: the same of the audio encoder.
    """

    file: WeightFile
    config: EMOConfig
    vae: VAEFile | None
    audio_encoder: Wav2Vec2File | None

    def load(self, device: torch.device, dtype: torch.dtype) -> Checkpoint:
        """Read the weights.

        Args:
            device: where they go.
            dtype: of the weights in memory; the audio encoder's are in single precision.

        Raises:
            ValueError: if the checkpoint lacks tensors; the groups are named.
        """
        checkpoint = load_opened(self.file, self.config, device, dtype)
        if self.vae is not None:
            checkpoint = replace(checkpoint, vae=self.vae.load(device, dtype))
        if self.audio_encoder is not None:
            encoder = self.audio_encoder.load(device).requires_grad_(False)
            checkpoint = replace(checkpoint, audio_encoder=encoder)
        return checkpoint


def open_model(
    path_or_name: str | Path,
    variant: Variant = "auto",
    vae: Path | None = None,
    audio_encoder: Path | None = None,
) -> OpenedModel:
    """Open everything that a film needs, and say what is missing or does not fit.

    Args:
        path_or_name: see weights.open_checkpoint().
        variant: of Hallo's weights; see hallo_files.decide().
        vae: see vae_files.vae_in(); None for the checkpoint's own.
        audio_encoder: see wav2vec.wav2vec2_in(); None for the checkpoint's own.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: if a file is something else, is not whole, does not fit the network, or none
            was given of a part that the checkpoint does not bring.
    """
    file, config = open_checkpoint(path_or_name, variant)
    if vae is None and "vae_config" not in file.header:
        raise no_vae(config)
    if audio_encoder is None and "audio_encoder" not in file.header:
        raise no_audio_encoder(config)
    return OpenedModel(
        file,
        config,
        None if vae is None else _vae_for(config, vae),
        None if audio_encoder is None else _audio_encoder_for(config, audio_encoder),
    )


def no_vae(config: EMOConfig) -> ValueError:
    """What to say of a checkpoint without a VAE."""
    return ValueError(
        f"the checkpoint of {config.name} brings no VAE; give SD 1.5's with --vae, for example "
        "stabilityai/sd-vae-ft-mse"
    )


def no_audio_encoder(config: EMOConfig) -> ValueError:
    """What to say of a checkpoint without an audio encoder."""
    return ValueError(
        f"the checkpoint of {config.name} brings no audio encoder; give "
        "facebook/wav2vec2-base-960h, downloaded into a folder, with --audio-encoder"
    )


def _vae_for(config: EMOConfig, path: Path) -> VAEFile:
    vae = vae_in(path)
    found = (vae.config.z_channels, vae.config.factor)
    wanted = (config.unet.latent_channels, config.latent_factor)
    if found != wanted:
        raise ValueError(
            f"the VAE {path} has {found[0]} latent channels and {found[1]} pixels a cell, "
            f"{config.name} needs {wanted[0]} and {wanted[1]}; give the VAE it was made for"
        )
    return vae


def _audio_encoder_for(config: EMOConfig, path: Path) -> Wav2Vec2File:
    found = wav2vec2_in(path, config.audio.alignment)
    heard = (found.encoder.num_layers, found.encoder.width)
    if heard != (config.audio.num_layers, config.audio.layer_width):
        raise ValueError(
            f"the audio encoder {path} gives {heard[0]} layers of {heard[1]}, {config.name} hears "
            f"{config.audio.num_layers} of {config.audio.layer_width}; give "
            "facebook/wav2vec2-base-960h, or what the weights were trained with"
        )
    return found
