"""Where a film's clips are kept, and everything that they depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import comfy.ldm.modules.attention
import comfy.samplers
import comfyui_version
import folder_paths
import torch
from torch import Tensor

from ..emo_core.clip_keys import FilmConstants, digest, film_key
from ..emo_core.clips import ClipPlan
from ..emo_core.config import EMOConfig
from ..emo_core.films import FilmFacts
from ..emo_core.generate import Film
from ..emo_core.kept import KeptClips, open_store, still_region, tracks_of
from .clip_sampler import Settings
from .film import Inputs
from .fingerprint import Fingerprint
from .host import parts_of

FOLDER = "emo_clips"


def clips_folder() -> Path:
    """The folder of finished clips; the host empties its temp folder at every start."""
    return Path(folder_paths.get_output_directory()) / FOLDER


def kept_clips(
    inputs: Inputs, settings: Settings, film: Film, on_found: Callable[[ClipPlan], None]
) -> tuple[KeptClips | None, list[str]]:
    """The clips of a film that were sampled before; ClipSampler has checked the settings.

    Args:
        inputs: what the node is connected to.
        settings: its widgets.
        film: what is made of them.
        on_found: told of every clip that was there.

    Returns:
        None if there is no folder for them; and the kinds of what only this server knows.
    """
    store = open_store(clips_folder())
    if store is None:
        return None, []
    seen = Fingerprint()
    key = film_key(_constants(inputs, settings, film, seen))
    seed = film.seed if settings.noise is None else settings.noise.seed
    tracks = tracks_of(film, parts_of(inputs.model).config, seed)
    return KeptClips(store, key, tracks, film.motion, on_found), seen.strangers


def facts_of(model: Any) -> FilmFacts:
    """What is to be known of a film that a MODEL makes; LATENTs are what VAEs decode."""
    config = parts_of(model).config
    return FilmFacts(
        config.name, Fraction(config.frame_rate), config.unet.latent_channels, scale=1.0
    )


def _constants(inputs: Inputs, settings: Settings, film: Film, seen: Fingerprint) -> FilmConstants:
    parts, model = parts_of(inputs.model), inputs.model
    noise = "clip_noise"
    if settings.noise is not None:
        noise = f"noise {digest(seen.of(settings.noise))}"
    hand_over = parts.config.temporal.hand_over
    if hand_over != "latents" and inputs.vae is not None:
        hand_over += f" {digest(seen.vae(inputs.vae))}"
    return FilmConstants(
        model=parts.digest,
        portrait=film.portrait,
        region=still_region(film),
        sampler=_sampling(model, settings, inputs.denoise, seen),
        noise=noise,
        dtype=parts.compute_dtype,
        hand_over=hand_over,
        patches=seen.model(model),
        extra={
            "features": _features(inputs.reference),
            "weights": model.model.get_dtype(),
            "device": model.load_device.type,
            "attention": comfy.ldm.modules.attention.optimized_attention.__name__,
            "torch": torch.__version__,
            "comfyui": comfyui_version.__version__,
            "denoise": inputs.denoise,
            "lock": settings.lock,
            **_hallos(film, parts.config),
        },
    )


def _hallos(film: Film, config: EMOConfig) -> dict[str, object]:
    """What else clips of Hallo's weights depend on; no byte of the file says which set it is."""
    if config.audio.attention != "masked3":
        return {}
    return {"config": config.to_json(), "face": film.face, "masks": film.masks}


def _sampling(
    model: Any, settings: Settings, denoise: float, seen: Fingerprint
) -> Mapping[str, object]:
    """What rules the sampling, by what the names of samplers and schedulers stand for.

    An existing film is sampled with the end of a longer schedule, and schedules that are alike may
    be the beginnings of others that are not.
    """
    guided = model if settings.guider is None else settings.guider.model_patcher
    sigmas: Tensor | None = settings.sigmas
    if sigmas is None:
        sigmas = comfy.samplers.KSampler(
            guided, settings.num_steps, model.load_device, settings.sampler_name,
            settings.scheduler, denoise=denoise,
        ).sigmas  # fmt: skip
    sampler = settings.sampler or comfy.samplers.sampler_object(settings.sampler_name)
    guidance: Any = float(settings.cfg)
    if settings.guider is not None:
        guidance = seen.guider(settings.guider)
    return {"sampler": seen.of(sampler), "sigmas": sigmas, "guidance": guidance}


def _features(reference: Mapping[str, Any]) -> dict[str, Tensor]:
    return {str(name): tensor for name, tensor in reference["features"].items()}
