"""Both ends of the loop over clips: what was read to a film's inputs, latents to pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .audio import AudioEncoder, encode_sound
from .clips import ClipNoise, Noise, StreamNoise
from .complete import no_audio_encoder, no_vae
from .conditions import EVEN_MOTION, MotionWeights
from .config import EMOConfig
from .face import CENTRED_PRIOR, Box, region_mask
from .face_masks import blur_grid, lip_box, mask_levels, region_masks
from .generate import Film, HandOver
from .hand_over import Greyed, PixelHandOver
from .joins import sound_levels
from .pictures import Size
from .subject import Subject
from .vae import AutoencoderKL, decode_in_parts
from .waveform import num_frames, to_mono_16k
from .weights import Checkpoint


@dataclass(frozen=True)
class Material:
    """What a film is made from, in plain tensors.

    Attributes:
        picture: (3, H, W), 0..1, the portrait at the film's size; see film_size.py.
        waveform: (C, T) or (T,), the sound.
        sample_rate: of the sound.
        box: face box as fractions of the picture; None for the usual place.
        speed: (F,), head speed in degrees per frame at 30 fps; None to leave it to the model.
        seed: of the noise.
        subject: more of the portrait's face than its box, in the same picture.
        face: (face_embedding_width,), for weights that see one; None for zeros.
        motion_weights: how far the sound moves the picture, the face and the lips (Hallo).
    """

    picture: Tensor
    waveform: Tensor
    sample_rate: int
    box: Box | None = None
    speed: Tensor | None = None
    seed: int = 0
    subject: Subject | None = None
    face: Tensor | None = None
    motion_weights: MotionWeights = EVEN_MOTION


def film_from(checkpoint: Checkpoint, material: Material) -> Film:
    """Everything that the loop over clips needs.

    Raises:
        ValueError: if the checkpoint has no VAE or audio encoder.
    """
    config, vae, encoder = checkpoint.config, own_vae(checkpoint), own_audio_encoder(checkpoint)
    count = num_frames(material.waveform.shape[-1], material.sample_rate, config.frame_rate)
    whole_clips = config.audio.windows != "grid"
    heard = encode_sound(
        encoder, to_mono_16k(material.waveform, material.sample_rate), count, config.frame_rate,
        config.audio.windows, config.temporal.num_frames if whole_clips else 1,
    )  # fmt: skip
    box = CENTRED_PRIOR if material.box is None else material.box
    height, width = material.picture.shape[-2:]
    region = region_mask(box, height, width)
    if material.subject is not None and material.subject.region is not None:
        region = material.subject.region
    picture = material.picture.to(next(checkpoint.model.parameters()))
    return Film(
        portrait=vae.encode(picture[None] * 2 - 1),
        # Hallo's last frames hear the silence that fills its last clip.
        audio=heard.features if whole_clips else heard.features[:count],
        region=region.expand(config.locator.in_channels, -1, -1),
        speed=material.speed,
        seed=material.seed,
        face=None if material.face is None else material.face.flatten()[None].to(picture),
        masks=_masks(config, box, material.subject, (height, width)),
        levels=sound_levels(material.waveform, material.sample_rate, count, config.frame_rate),
        motion_weights=material.motion_weights,
    )


def _masks(
    config: EMOConfig, face: Box, subject: Subject | None, size: Size
) -> tuple[Tensor, ...]:
    """What Film.masks is; () for a model that needs none."""
    if config.audio.attention != "masked3":
        return ()
    subject = subject or Subject(torch.empty(0))
    masks = subject.masks
    if masks is None:
        masks = region_masks(face, subject.lips or lip_box(face), *size, blur_grid(*size))
    rows, columns = (side // config.latent_factor for side in size)
    return mask_levels(masks, rows, columns, len(config.unet.widths))


def film_noise(config: EMOConfig, seed: int, stream: bool, size: Size | None = None) -> Noise:
    """The random numbers of a film: of every clip's own seed, or in one stream as Hallo draws.

    Args:
        config: the model.
        seed: of the film.
        stream: whether they come in one stream.
        size: rows and columns of the film; None for the model's own.
    """
    if not stream:
        return ClipNoise(seed)
    size = size or (config.picture_size, config.picture_size)
    rows, columns = (side // config.latent_factor for side in size)
    shape = (config.temporal.num_frames, config.unet.latent_channels, rows, columns)
    return StreamNoise(seed, shape, size if config.temporal.motion_mask else None)


def hand_over(checkpoint: Checkpoint, greyed: Greyed | None = None) -> HandOver | None:
    """Motion frames go on as latents (None), or as Hallo does: decoded, clamped, encoded.

    Args:
        checkpoint: the model and its VAE.
        greyed: what models with a motion_mask need (Hallo2).
    """
    config = checkpoint.config.temporal
    if config.hand_over == "latents":
        return None
    vae = own_vae(checkpoint)
    return PixelHandOver(vae.decode, vae.encode, config, greyed)


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Decode a clip's latents (F, C, h, w) to pictures (F, 3, H, W) in 0..1.

    Raises:
        ValueError: if they are not numbers.
    """
    frames = decode_in_parts(vae, latents)
    if not bool(torch.isfinite(frames).all()):
        raise ValueError(
            "the model gave pictures that are not numbers; use the checkpoint's own steps and cfg, "
            "or --device cpu"
        )
    return (frames / 2 + 0.5).clamp(0, 1)


def own_vae(checkpoint: Checkpoint) -> AutoencoderKL:
    """The VAE of a checkpoint, its own or one that it was given.

    Raises:
        ValueError: if it has none.
    """
    if checkpoint.vae is None:
        raise no_vae(checkpoint.config)
    return checkpoint.vae


def own_audio_encoder(checkpoint: Checkpoint) -> AudioEncoder:
    """The audio encoder of a checkpoint, its own or one that it was given.

    Raises:
        ValueError: if it has none.
    """
    if checkpoint.audio_encoder is None:
        raise no_audio_encoder(checkpoint.config)
    return checkpoint.audio_encoder
