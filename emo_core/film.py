"""Both ends of the loop over clips: what was read to a film's inputs, latents to pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .audio import AudioEncoder, encode_sound, num_frames, to_mono_16k
from .clips import Noise
from .face import CENTRED_PRIOR, Box, region_mask
from .generate import Film, HandOver
from .hand_over import Greyed, PixelHandOver
from .vae import AutoencoderKL
from .weights import Checkpoint


@dataclass(frozen=True)
class Material:
    """What a film is made from, in plain tensors.

    Attributes:
        picture: (3, S, S), 0..1, the portrait at the model's size.
        waveform: (C, T) or (T,), the sound.
        sample_rate: of the sound.
        box: face box as fractions of the picture; None for the usual place.
        speed: (F,), head speed in degrees per frame at 30 fps; None to leave it to the model.
        seed: of the noise.
    """

    picture: Tensor
    waveform: Tensor
    sample_rate: int
    box: Box | None = None
    speed: Tensor | None = None
    seed: int = 0


def film_from(checkpoint: Checkpoint, material: Material) -> Film:
    """Everything that the loop over clips needs.

    Raises:
        ValueError: if the checkpoint has no VAE or audio encoder of its own.
    """
    config, vae, encoder = checkpoint.config, own_vae(checkpoint), own_audio_encoder(checkpoint)
    count = num_frames(material.waveform.shape[-1], material.sample_rate, config.frame_rate)
    heard = encode_sound(
        encoder, to_mono_16k(material.waveform, material.sample_rate), count, config.frame_rate,
        config.audio.windows,
    )  # fmt: skip
    box = CENTRED_PRIOR if material.box is None else material.box
    region = region_mask(box, config.picture_size, config.picture_size)
    picture = material.picture.to(next(checkpoint.model.parameters()))
    return Film(
        portrait=vae.encode(picture[None] * 2 - 1),
        audio=heard.features[:count],
        region=region.expand(config.locator.in_channels, -1, -1),
        speed=material.speed,
        seed=material.seed,
    )


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Decode a clip's latents (F, C, h, w) to pictures (F, 3, H, W) in 0..1.

    Raises:
        ValueError: if they are not numbers.
    """
    frames = vae.decode(latents).float()
    if not bool(torch.isfinite(frames).all()):
        raise ValueError(
            "the model gave pictures that are not numbers; use the checkpoint's own steps and cfg, "
            "or --device cpu"
        )
    return (frames / 2 + 0.5).clamp(0, 1)


def hand_over(checkpoint: Checkpoint, material: Material, film: Film, noise: Noise
              ) -> HandOver | None:
    """Motion frames go on as latents (None), or as Hallo does: decoded, clamped, encoded."""
    config = checkpoint.config.temporal
    if config.hand_over == "latents":
        return None
    vae = own_vae(checkpoint)
    picture = material.picture.to(film.portrait)[None] * 2 - 1
    return PixelHandOver(vae.decode, vae.encode, config, Greyed(picture, film.region, noise))


def own_vae(checkpoint: Checkpoint) -> AutoencoderKL:
    """The VAE that a checkpoint brings.

    Raises:
        ValueError: if it brings none.
    """
    if checkpoint.vae is None:
        raise ValueError(
            f"the checkpoint of {checkpoint.config.name} brings no VAE, and this version runs "
            "checkpoints that do; give such a one, or emo-tiny"
        )
    return checkpoint.vae


def own_audio_encoder(checkpoint: Checkpoint) -> AudioEncoder:
    """The audio encoder that a checkpoint brings.

    Raises:
        ValueError: if it brings none.
    """
    if checkpoint.audio_encoder is None:
        raise ValueError(
            f"the checkpoint of {checkpoint.config.name} brings no audio encoder, and this version "
            "runs checkpoints that do; give such a one, or emo-tiny"
        )
    return checkpoint.audio_encoder
