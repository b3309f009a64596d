"""An existing film that is voiced anew: a LATENT, its noise mask and denoise, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.utils
import torch
from torch import Tensor

from ..emo_core.config import EMOConfig
from ..emo_core.given import Given

if TYPE_CHECKING:
    from .film import Inputs


def existing_film(inputs: Inputs, config: EMOConfig, count: int) -> Given | None:
    """The film of a node's `existing_film` and `denoise`, as the model's latents; None for none.

    Args:
        inputs: what the node is connected to.
        config: of its model.
        count: frames of the sound.

    Raises:
        ValueError: if it does not fit; the sentence says how it will.
    """
    if inputs.existing is None:
        if inputs.denoise < 1:
            raise ValueError(
                f"denoise {inputs.denoise:g} keeps a part of an existing film, and none is "
                "connected; connect its LATENT to existing_film, or set denoise to 1"
            )
        return None
    samples = inputs.existing["samples"]
    _check(samples, config, count, tuple(inputs.reference["latents"].shape[1:]))
    latents = inputs.model.model.process_latent_in(samples[:count].float().cpu())
    mask = _mask(inputs.existing.get("noise_mask"), samples)
    return Given(
        torch.as_tensor(latents)[None], None if mask is None else mask[None], inputs.denoise
    )


def _check(samples: Any, config: EMOConfig, count: int, wanted: tuple[int, ...]) -> None:
    rate = config.frame_rate
    height, width = (side * config.latent_factor for side in wanted[-2:])
    if not isinstance(samples, Tensor) or samples.ndim != 4 or tuple(samples.shape[1:]) != wanted:
        shape = tuple(getattr(samples, "shape", ()))
        raise ValueError(
            f"{config.name} makes films of latents {wanted}, and existing_film has {shape}; scale "
            f"the film's pictures to {width}x{height} and encode them "
            "with the VAE of this model"
        )
    if len(samples) < count:
        raise ValueError(
            f"the existing film has {len(samples)} frames and the sound {count}; set duration in "
            f"EMO Load Audio Embedding to {len(samples) / rate:g} seconds or less, or connect a "
            f"longer film at {rate} frames a second"
        )
    if not bool(torch.isfinite(samples).all()):
        raise ValueError("the existing film holds NaN or infinite numbers; encode it again")


def _mask(mask: Any, samples: Tensor) -> Tensor | None:
    """A LATENT's noise mask as core's samplers see it: (F, 1, h, w), or (1, 1, h, w) for all."""
    if mask is None:
        return None
    _, channels, height, width = samples.shape
    count = len(samples) if mask.reshape(-1, 1, *mask.shape[-2:]).shape[0] > 1 else 1
    shaped = comfy.utils.reshape_mask(mask.float().cpu(), (count, channels, height, width))
    return torch.as_tensor(shaped)[:, :1].clamp(0, 1)
