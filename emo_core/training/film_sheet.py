"""A sheet of what a network in training makes of its held-out film pieces, above the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ..face import region_mask
from ..film import decode
from ..generate import Film, generate
from ..joins import plan_joins
from ..model import EMO
from ..sampling import Guidance, make_sampler
from ..vae import AutoencoderKL
from .dataset import FilmPieces
from .stages import write_png

_EVERY = 4


@torch.no_grad()
def film_sheet(
    model: EMO, vae: AutoencoderKL, pieces: FilmPieces, numbers: Sequence[int], path: Path
) -> None:
    """Write two rows for each piece, made and true: the portrait, then every fourth frame.

    Args:
        model: as it is; sampled with its own steps and guidance, from the portrait's face box.
        vae: that the pieces were encoded with.
        pieces: films.
        numbers: which of them.
        path: the .png file.
    """
    config, place = model.config, next(model.parameters())
    sampling, window, size = config.sampling, config.audio.window, config.picture_size
    guidance = Guidance(sampling.guidance_scale)
    sample = make_sampler(model.denoising_unet, sampling.num_inference_steps, guidance)
    vae, rows = vae.to(place.device), []
    for number in numbers:
        true = pieces.frames[number].to(place)
        x, y, width, height = pieces.faces[number, 0].tolist()
        region = region_mask((x, y, width, height), size, size)
        film = Film(
            portrait=pieces.portraits[number, :1].to(place),
            audio=pieces.audio[number, window : window + len(true)].float(),
            region=region.expand(config.locator.in_channels, -1, -1),
            seed=number,
        )
        plans = plan_joins("auto", len(true), config.temporal)
        made = torch.cat(list(generate(model, film, plans, sample)))
        for latents in (made, true):
            shown = torch.cat([film.portrait, latents[::_EVERY]])
            rows.append(torch.cat(list(decode(vae, shown)), 2))
    write_png(path, torch.cat(rows, 1))
