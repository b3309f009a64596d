"""From the sockets that three nodes share to a film for `generate()`: what fits, and what not."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..emo_core.clips import ClipNoise, ClipPlan, Noise, num_clips
from ..emo_core.config import EMOConfig
from ..emo_core.generate import Film, HandOver
from ..emo_core.hand_over import Greyed, PixelHandOver
from ..emo_core.pictures import Size
from .conditioner import HostConditioner
from .existing import existing_film
from .hallo_noise import HalloNoise
from .host import EMOParts, parts_of
from .patches import check_model
from .seen import masks_of, region_of, size_of
from .sockets import unpack_audio, unpack_levels, unpack_reference, unpack_speed, with_beyond

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What EMOConditioning, EMOSampler and MotionFrameLooper are connected to.

    Attributes:
        model: MODEL.
        reference: EMO_REFERENCE.
        audio: EMO_AUDIO.
        region: MASK in the portrait's picture, or None.
        speed: EMO_SPEED, or None.
        motion: LATENT whose last frames come before the film, or None.
        motion_images: IMAGE of such frames, or None.
        vae: VAE, for `motion_images` and weights that hand motion frames on through pixels.
        seed: of the noise.
        lips: MASK of the lips in the portrait's picture, or None.
        existing: LATENT of an existing film, or None.
        denoise: how much of it is made anew, 0 to 1.
    """

    model: Any
    reference: Any
    audio: Any
    region: Tensor | None
    speed: Any
    motion: Any
    motion_images: Tensor | None
    vae: Any
    seed: int
    lips: Tensor | None = None
    existing: Any = None
    denoise: float = 1.0


def film_of(inputs: Inputs) -> tuple[HostConditioner, Film]:
    """The networks that make conditions and the film they are to make, for `generate()`.

    Raises:
        ValueError: if two inputs do not fit; both are named.
    """
    parts = parts_of(inputs.model)
    config = parts.config
    check_model(inputs.model, config.temporal.num_frames)
    encoder = None if parts.hearing is None else parts.hearing.model.description
    reference = unpack_reference(inputs.reference, parts.identity)
    audio = unpack_audio(inputs.audio, config, encoder)
    speed = None
    if inputs.speed is not None:
        speed = unpack_speed(inputs.speed, len(audio), config.frame_rate)
    region, whole = region_of(inputs.region, reference, config, len(audio))
    film = Film(
        portrait=reference["latents"],
        audio=with_beyond(audio, inputs.audio),
        region=region.expand(*region.shape[:-3], config.locator.in_channels, -1, -1),
        speed=speed,
        motion=_motion(inputs, parts),
        seed=inputs.seed,
        face=reference.get("face"),
        masks=masks_of(region, whole, inputs.lips, reference, config),
        given=existing_film(inputs, config, len(audio)),
        levels=unpack_levels(inputs.audio),
    )
    return HostConditioner(parts, reference["features"]), film


def frames_of(inputs: Inputs) -> int:
    """Frames of the film; what is heard may go on behind its end."""
    return len(inputs.audio["features"])


def hand_over_of(inputs: Inputs, film: Film, noise: Any = None) -> HandOver | None:
    """What happens to motion frames between clips: nothing (None), or through the VAE and back.

    Args:
        inputs: what the node is connected to.
        film: what film_of() made of that.
        noise: NOISE, or None for the film's own.

    Raises:
        ValueError: if the weights want them through pixels and no VAE is connected, or want the
            portrait's own pixels and the reference has none.
    """
    parts = parts_of(inputs.model)
    config = parts.config.temporal
    if config.hand_over == "latents":
        return None
    if inputs.vae is None:
        raise ValueError(
            f"{parts.config.name} sees the last frames of a clip as pictures; connect a VAE to vae"
        )
    model, vae = inputs.model.model, inputs.vae

    def decode(latents: Tensor) -> Tensor:
        pictures: Tensor = vae.decode(model.process_latent_out(latents))
        return pictures.movedim(-1, 1) * 2 - 1

    def encode(pictures: Tensor) -> Tensor:
        latents = vae.encode((pictures / 2 + 0.5).movedim(1, -1))
        return torch.as_tensor(model.process_latent_in(latents.float().cpu()))

    greyed = _greyed(inputs, film, noise) if config.motion_mask else None
    return PixelHandOver(decode, encode, config, greyed)


def _greyed(inputs: Inputs, film: Film, noise: Any) -> Greyed:
    """What Hallo2 greys its motion frames by."""
    pixels = inputs.reference.get("pixels")
    if pixels is None:
        raise ValueError(
            "the reference lacks the portrait's pixels, which Hallo2's weights see as first "
            "motion frames; make it again with EMO ReferenceNet Encode"
        )
    config = parts_of(inputs.model).config
    numbers: Noise
    if isinstance(noise, HalloNoise):
        numbers = noise.stream((config.temporal.num_frames, *film.portrait.shape[1:]))
    else:
        numbers = ClipNoise(inputs.seed if noise is None else noise.seed)
    return Greyed(pixels * 2 - 1, film.region, numbers)


def _motion(inputs: Inputs, parts: EMOParts) -> Tensor | None:
    """The frames before the film, as the model's latents (1, n, C, h, w)."""
    if inputs.motion is not None and inputs.motion_images is not None:
        raise ValueError(
            "motion frames come as LATENT or as IMAGE, and both are connected; disconnect one"
        )
    if inputs.motion is not None:
        samples = inputs.motion["samples"]
    elif inputs.motion_images is None:
        return None
    else:
        size = size_of(inputs.reference, parts.config)
        samples = _encoded(inputs.motion_images, inputs.vae, parts.config, size)
    config = parts.config
    count = config.temporal.num_motion_frames
    wanted = tuple(inputs.reference["latents"].shape[1:])
    if samples.ndim != 4 or len(samples) < count or tuple(samples.shape[1:]) != wanted:
        raise ValueError(
            f"{config.name} sees the last {count} frames before a clip as latents {wanted}, got "
            f"{tuple(samples.shape)}; connect the motion frames of EMO Sampler or EMO Motion Frame "
            "Looper"
        )
    if not bool(torch.isfinite(samples).all()):
        raise ValueError("the motion frames hold NaN or infinite numbers; sample them again")
    scaled = inputs.model.model.process_latent_in(samples[-count:].float().cpu())
    return torch.as_tensor(scaled)[None]


def _encoded(images: Tensor, vae: Any, config: EMOConfig, size: Size) -> Tensor:
    """The last pictures of an IMAGE as latents, of as many as the model sees."""
    count = config.temporal.num_motion_frames
    if vae is None:
        raise ValueError("motion frames as IMAGE need the VAE that encodes them; connect it to vae")
    if images.ndim != 4 or len(images) < count or tuple(images.shape[1:3]) != size:
        raise ValueError(
            f"{config.name} sees the last {count} pictures before a clip, of {size[1]}x{size[0]} "
            "pixels, got an IMAGE (pictures, height, width, colours) of "
            f"{tuple(images.shape)}; connect frames that this model made"
        )
    return torch.as_tensor(vae.encode(images[-count:, :, :, :3]))


def say_what_is_missing(film: Film, index: int) -> None:
    """A clip in the middle of a film that sees no frames before it begins with a jump."""
    if index > 0 and film.motion is None:
        logger.warning(
            "clip %d sees no frames before it, so it begins like a new film; connect the "
            "motion_frames of the clip before", index,
        )  # fmt: skip


def clip_plan(config: EMOConfig, count: int, index: int) -> ClipPlan:
    """Which frames clip `index` of a film of `count` frames has.

    Raises:
        ValueError: if the sound ends before it.
    """
    length = config.temporal.num_frames
    clips = num_clips(count, length)
    if not 0 <= index < clips:
        raise ValueError(
            f"the sound has {count} frames, which are {clips} clips of {length}; clip_index must "
            f"be 0 to {clips - 1}, got {index}"
        )
    return ClipPlan(index, index * length, min(length, count - index * length))
