"""A checkpoint's own VAE as the host's VAE object, and its latents' colours for the preview."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.latent_formats
import comfy.sd
import torch
from torch import Tensor, nn

from ..emo_core.clip_keys import digest
from ..emo_core.vae_config import VAEConfig

_HOST_GROUPS = 32
"""Groups of every GroupNorm in the host's VAE."""
_WEIGHTS = "emo_weights"


def build_vae(config: VAEConfig, state: Mapping[str, Tensor]) -> Any:
    """The host's VAE object around a checkpoint's own autoencoder.

    Args:
        config: its widths.
        state: its weights by LDM's names.

    Raises:
        ValueError: if a weight is missing, or the host cannot build its widths.
    """
    if any(config.ch * multiple % _HOST_GROUPS for multiple in config.ch_mult):
        raise ValueError(
            f"ComfyUI builds VAEs whose widths are multiples of {_HOST_GROUPS}, and the "
            f"checkpoint's has ch={config.ch} times {config.ch_mult}; it runs with `emo animate`"
        )
    parameters = {"ddconfig": config.ddconfig(), "embed_dim": config.z_channels}
    vae = comfy.sd.VAE(sd=dict(state), config={"params": parameters})
    lacking = vae.first_stage_model.state_dict().keys() - state.keys()
    if lacking:
        raise ValueError(
            f"the checkpoint's VAE lacks {len(lacking)} weights (first: {sorted(lacking)[0]}); "
            "fetch the file again"
        )
    for module in vae.first_stage_model.modules():
        if isinstance(module, nn.GroupNorm):
            # The host builds 32 groups whatever the width; the statistics would be others.
            module.num_groups = config.norm_groups
    vae.latent_channels = config.z_channels
    vae.downscale_ratio = vae.upscale_ratio = config.factor
    setattr(vae, _WEIGHTS, digest(dict(state)))
    return vae


def weights_of(vae: Any) -> str | None:
    """The digest of the weights that build_vae() was given; None for any other VAE."""
    return getattr(vae, _WEIGHTS, None)


def latent_format(
    config: VAEConfig | None, colours: Tensor | None
) -> comfy.latent_formats.LatentFormat:
    """How latents are scaled and shown while sampling.

    Args:
        config: of the checkpoint's own VAE; None for SD 1.5's, which the host knows.
        colours: (C + 1, 3), from latent_colours(); None for no preview.
    """
    if config is None:
        return comfy.latent_formats.SD15()
    form = comfy.latent_formats.LatentFormat()
    # The host's VAE objects do not scale; the model's latents are scaled here.
    form.scale_factor = config.scaling_factor
    form.latent_channels = config.z_channels
    if colours is not None:
        form.latent_rgb_factors = colours[:-1].tolist()
        form.latent_rgb_factors_bias = colours[-1].tolist()
    return form


def latent_colours(vae: Any, picture: Tensor, scale: float) -> Tensor:
    """The linear map from latents to colours that is nearest on one picture, for the preview.

    Args:
        vae: the host's VAE.
        picture: (1, H, W, 3) in 0..1.
        scale: of the model's latents over the VAE's.

    Returns:
        (C + 1, 3), weights of the channels and, last, the constant; colours are -1..1.
    """
    latents = vae.encode(picture)[0].float().cpu() * scale
    size = latents.shape[-2:]
    small = nn.functional.interpolate(picture.movedim(-1, 1).float(), size, mode="area")[0]
    inputs = torch.cat([latents.flatten(1), torch.ones(1, latents[0].numel())]).T
    # Ridge, so that channels which one picture does not show are left at little weight.
    square = inputs.T @ inputs + 1e-2 * len(inputs) * torch.eye(inputs.shape[1])
    solved = torch.linalg.solve(square, inputs.T @ (small.flatten(1).T * 2 - 1))
    return torch.as_tensor(solved)
