"""From the sockets that three nodes share to a film for `generate()`: what fits, and what not."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..emo_core.clips import ClipPlan, num_clips
from ..emo_core.config import EMOConfig
from ..emo_core.face import CENTRED_PRIOR, region_mask
from ..emo_core.face_masks import masks_for_region
from ..emo_core.generate import Film, HandOver
from ..emo_core.pictures import cut_square
from .conditioner import HostConditioner
from .existing import existing_film
from .host import EMOParts, parts_of
from .patches import check_model
from .sockets import unpack_audio, unpack_levels, unpack_reference, unpack_speed

logger = logging.getLogger(__name__)

_ASPECT_TOLERANCE = 0.02


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
    region = _region(inputs.region, reference, config, len(audio))
    film = Film(
        portrait=reference["latents"],
        audio=audio,
        region=region.expand(*region.shape[:-3], config.locator.in_channels, -1, -1),
        speed=speed,
        motion=_motion(inputs, parts),
        seed=inputs.seed,
        masks=masks_for_region(region, config),
        given=existing_film(inputs, config, len(audio)),
        levels=unpack_levels(inputs.audio),
    )
    return HostConditioner(parts, reference["features"]), film


def hand_over_of(inputs: Inputs) -> HandOver | None:
    """What happens to motion frames between clips: nothing (None), or through the VAE and back.

    Raises:
        ValueError: if the weights want them through pixels and no VAE is connected.
    """
    parts = parts_of(inputs.model)
    if parts.config.temporal.hand_over == "latents":
        return None
    if inputs.vae is None:
        raise ValueError(
            f"{parts.config.name} sees the last frames of a clip as pictures; connect a VAE to vae"
        )
    model, vae = inputs.model.model, inputs.vae

    def through_pixels(latents: Tensor | None, _: ClipPlan) -> Tensor | None:
        if latents is None:
            return None
        pictures = vae.decode(model.process_latent_out(latents[0]))
        return torch.as_tensor(model.process_latent_in(vae.encode(pictures).float().cpu())[None])

    return through_pixels


def _region(
    mask: Tensor | None, reference: dict[str, Any], config: EMOConfig, count: int
) -> Tensor:
    """The region of the face in the portrait's square: (1, size, size), 1 inside.

    (count, 1, size, size) of a mask for each frame of the film, where it moves.
    """
    size = config.picture_size
    if mask is None:
        return region_mask(CENTRED_PRIOR, size, size)
    mask = mask.float().cpu()
    mask = mask[None] if mask.ndim == 2 else mask
    height, width = reference["picture"]
    if mask.ndim != 3 or mask.numel() == 0 or not bool(torch.isfinite(mask).all()):
        raise ValueError(
            f"the region must be a MASK (masks, height, width) without NaN, got "
            f"{tuple(mask.shape)}; connect FaceLocatorMask"
        )
    rows, columns = mask.shape[-2:]
    if abs(rows * width - columns * height) > _ASPECT_TOLERANCE * columns * height:
        raise ValueError(
            f"the region mask has {columns}x{rows} pixels and the portrait {width}x{height}, "
            "which is another shape; make the mask from the same picture as the reference (Load "
            "Image gives an empty one of 64x64 for a picture without transparency)"
        )
    if len(mask) == count > 1 and config.audio.attention != "masked3":
        frames = torch.stack([_in_square(frame[None], reference, size) for frame in mask])
        _say_where_it_is_black(frames, config.temporal.num_frames)
        return frames
    if len(mask) > 1:
        logger.info(
            "the region is the union of %d masks (a film of %d frames has a moving region where "
            "there is a mask for each%s)", len(mask), count,
            ", but not with weights that hear by masks" if len(mask) == count else "",
        )  # fmt: skip
    cut = _in_square(mask.amax(0, keepdim=True), reference, size)
    _say_where_it_is_black(cut[None], 1)
    return cut


def _in_square(mask: Tensor, reference: dict[str, Any], size: int) -> Tensor:
    """A mask (1, H, W) of the portrait's picture in its square: (1, size, size), 0 to 1."""
    mask = mask.clamp(0, 1)
    if mask.shape[-2:] != reference["picture"]:
        mask = nn.functional.interpolate(mask[None], reference["picture"], mode="bilinear")[0]
    return cut_square(mask, reference["square"], size)


def _say_where_it_is_black(frames: Tensor, clip: int) -> None:
    """Refuse a region (F, 1, size, size) with a clip that has no place for a face."""
    inside = (frames > 0).flatten(1).any(1)
    for first in range(0, len(frames), clip):
        if not bool(inside[first : first + clip].any()):
            where = f" in the frames {first} to {first + clip - 1}" if len(frames) > 1 else ""
            raise ValueError(
                "the region mask is black in the square that is cut from the portrait"
                f"{where}, so there is no place for a face; connect FaceLocatorMask, or nothing "
                "for the usual place"
            )


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
        samples = _encoded(inputs.motion_images, inputs.vae, parts.config)
    config = parts.config
    count, size = config.temporal.num_motion_frames, config.latent_size
    wanted = (config.unet.latent_channels, size, size)
    if samples.ndim != 4 or len(samples) < count or tuple(samples.shape[1:]) != wanted:
        raise ValueError(
            f"{config.name} sees the last {count} frames before a clip as latents {wanted}, got "
            f"{tuple(samples.shape)}; connect the motion frames of EMOSampler or MotionFrameLooper"
        )
    if not bool(torch.isfinite(samples).all()):
        raise ValueError("the motion frames hold NaN or infinite numbers; sample them again")
    scaled = inputs.model.model.process_latent_in(samples[-count:].float().cpu())
    return torch.as_tensor(scaled)[None]


def _encoded(images: Tensor, vae: Any, config: EMOConfig) -> Tensor:
    """The last pictures of an IMAGE as latents, of as many as the model sees."""
    count, size = config.temporal.num_motion_frames, config.picture_size
    if vae is None:
        raise ValueError("motion frames as IMAGE need the VAE that encodes them; connect it to vae")
    if images.ndim != 4 or len(images) < count or tuple(images.shape[1:3]) != (size, size):
        raise ValueError(
            f"{config.name} sees the last {count} pictures before a clip, of {size}x{size} pixels, "
            f"got an IMAGE (pictures, height, width, colours) of {tuple(images.shape)}; connect "
            "frames that this model made"
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
