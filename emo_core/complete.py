"""A checkpoint's missing parts from files of their own: the VAE and the audio encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .vae_files import open_vae
from .wav2vec import load_wav2vec2
from .weights import Checkpoint


def complete(checkpoint: Checkpoint, vae: Path | None, audio_encoder: Path | None) -> Checkpoint:
    """Give a checkpoint a VAE and an audio encoder; None leaves its own.

    Args:
        checkpoint: on the device where they are to run.
        vae: see vae_files.open_vae().
        audio_encoder: see wav2vec.load_wav2vec2().

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: if a file is something else, or does not fit the network.
    """
    config = checkpoint.config
    weight = next(checkpoint.model.parameters())
    if vae is not None:
        coder = open_vae(vae, weight.device, weight.dtype)
        found = (coder.config.z_channels, coder.config.factor)
        wanted = (config.unet.latent_channels, config.latent_factor)
        if found != wanted:
            raise ValueError(
                f"the VAE {vae} has {found[0]} latent channels and {found[1]} pixels a cell, "
                f"{config.name} needs {wanted[0]} and {wanted[1]}; give the VAE it was made for"
            )
        checkpoint = replace(checkpoint, vae=coder)
    if audio_encoder is not None:
        encoder = load_wav2vec2(
            audio_encoder, config.audio.alignment, device=weight.device
        ).requires_grad_(False)
        heard = (encoder.num_layers, encoder.width)
        if heard != (config.audio.num_layers, config.audio.layer_width):
            raise ValueError(
                f"the audio encoder {audio_encoder} gives {heard[0]} layers of {heard[1]}, "
                f"{config.name} hears {config.audio.num_layers} of {config.audio.layer_width}; "
                "give facebook/wav2vec2-base-960h, or what the weights were trained with"
            )
        checkpoint = replace(checkpoint, audio_encoder=encoder)
    return checkpoint
