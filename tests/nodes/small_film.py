"""A small model whose layers all speak, and everything that one of its films is made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from small_checkpoint import smallest_config
from torch import Tensor, nn

from emo_core.audio_encoder import AudioEncoderConfig, build_audio_encoder
from emo_core.config import EMOConfig
from emo_core.model import EMO
from emo_core.vae import AutoencoderKL
from emo_core.vae_config import VAEConfig
from emo_core.weights import save_checkpoint

VAE = VAEConfig(32, (1, 1, 1, 1), 1, 4, 3, 3, 1.0, True, 4)
HEARD = AudioEncoderConfig("logmel", 2, 8, "after", False, {"dilations": [1, 1]})
CLIP, MOTION, LATENT = 4, 2, (4, 4, 4)


def stir(module: nn.Module, seed: int) -> None:
    """Random values of about unit gain for every weight: an untrained model has silent layers."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
        parameter.data.copy_(noise / max(fan_in, 1) ** 0.5)
    for part in module.modules():
        if isinstance(part, (nn.GroupNorm, nn.LayerNorm)):
            part.weight.data.add_(1)


def save_model(
    path: Path, config: EMOConfig | None = None, vae: VAEConfig | None = VAE, seed: int = 0
) -> Path:
    """Write a checkpoint in single precision."""
    model, encoder = EMO(config or smallest_config()), build_audio_encoder(HEARD)
    stir(model, seed)
    stir(encoder, 1)
    own = None
    if vae is not None:
        own = AutoencoderKL(vae)
        stir(own, 2)
    save_checkpoint(path, model, own, encoder, HEARD, {"stages": {"speed": {}}}, torch.float32)
    return path


def sampled_as(schedule: Any, prediction: Any) -> EMOConfig:
    """The smallest model with another noise schedule and prediction."""
    config = smallest_config()
    sampling = replace(config.sampling, schedule=schedule, prediction=prediction)
    return replace(config, sampling=sampling)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def portrait(height: int = 40, width: int = 48) -> Tensor:
    """IMAGE of coloured blocks."""
    blocks = draw(1, 3, 5, 6).sigmoid()
    return nn.functional.interpolate(blocks, (height, width)).movedim(1, -1).contiguous()


def sound(frames: int) -> dict[str, Any]:
    """AUDIO of exactly so many frames at 25 fps."""
    time = torch.arange(frames * 640) / 16000
    wave = (0.3 + 0.2 * torch.sin(40 * time)) * torch.sin(2000 * time * (1 + time))
    return {"waveform": wave[None, None], "sample_rate": 16000}


def heard(frames: int, parts: Any, seed: int = 3) -> dict[str, Any]:
    """EMO_AUDIO of any numbers."""
    return {
        "version": 1, "features": draw(frames, 2, 8, seed=seed), "fps": 25.0,
        "encoder": parts.hearing.model.description, "alignment": "after",
    }  # fmt: skip


def speed() -> dict[str, Any]:
    """EMO_SPEED that rises."""
    return {
        "version": 1,
        "times": torch.tensor([0.0, 0.4]).double(),
        "speeds": torch.tensor([0.2, 1.5]),
    }


@dataclass(frozen=True)
class Small:
    """A loaded model and the nodes around it.

    Attributes:
        pack: the pack's `nodes`.
        run: runs a node with its widgets' defaults.
        model: MODEL.
        vae: VAE, of another checkpoint if this one brings none.
        reference: EMO_REFERENCE of portrait().
    """

    pack: Any
    run: Callable[..., tuple[Any, ...]]
    model: Any
    vae: Any
    reference: dict[str, Any]

    def part(self, name: str) -> Any:
        """One of the pack's modules."""
        return import_module(f"{self.pack.__name__}.{name}")

    def inputs(self, frames: int = 2 * CLIP + 1, **other: Any) -> dict[str, Any]:
        """What a sampling node is connected to, for a film of so many frames."""
        audio = heard(frames, self.part("host").parts_of(self.model))
        usual = {"model": self.model, "reference": self.reference, "audio_embedding": audio}
        return {**usual, "speed": speed(), "seed": 5, **other}

    def film(self, **inputs: Any) -> tuple[Tensor, dict[str, Any]]:
        """MotionFrameLooper: latents of the film, and the motion frames' LATENT."""
        given = {"steps": 2, "cfg": 2.0, **self.inputs(**inputs)}
        latent, motion = self.run(self.pack.MotionFrameLooper, **given)
        return latent["samples"], motion

    def clip(self, index: int, **inputs: Any) -> tuple[Tensor, dict[str, Any]]:
        """EMOSampler: latents of one clip, and the motion frames' LATENT."""
        given = {"steps": 2, "cfg": 2.0, **self.inputs(**inputs), "clip_index": index}
        latent, motion = self.run(self.pack.EMOSampler, **given)
        return latent["samples"], motion

    def conditioning(self, index: int = 0, **inputs: Any) -> tuple[Any, ...]:
        """EMOConditioning's outputs: model, positive, negative, latent, clip_seed, frames."""
        return self.run(self.pack.EMOConditioning, **self.inputs(**inputs), clip_index=index)


def open_small(
    pack: Any, run: Any, path: Path, vae: Any = None, dtype: torch.dtype | None = None
) -> Small:
    """Load a checkpoint and encode the portrait with it."""
    model, own = import_module(f"{pack.__name__}.load").load(path, dtype)
    vae = own if own is not None else vae
    reference, _ = run(pack.ReferenceNetEncode, model=model, vae=vae, image=portrait())
    return Small(pack, run, model, vae, reference)


def ksample(
    prepared: tuple[Any, ...], steps: int = 2, cfg: float = 2.0, sampler_name: str = "euler"
) -> Tensor:
    """Core's KSampler on the outputs of EMOConditioning; the frames that belong to the film."""
    host = import_module("nodes")
    model, positive, negative, latent, seed, frames = prepared
    sampled = host.common_ksampler(
        model, seed, steps, cfg, sampler_name, "simple", positive, negative, latent
    )
    kept: Tensor = sampled[0]["samples"][:frames]
    return kept
