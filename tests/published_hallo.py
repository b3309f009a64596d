"""Hallo at tiny width with seeded weights, and what its own code gave for seeded inputs.

`fixtures/hallo-parity.safetensors` holds numbers that Hallo's published code (commit 8fd7c57) gave
on a CPU in single precision, for the weights and inputs that draw() and weight() make here;
`fixtures/hallo-full-width.safetensors` the same at full width, thinned. hallo_numbers.py made both.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from emo_core.config import AudioConfig, EMOConfig, LocatorConfig
from emo_core.model import EMO
from emo_core.presets import hallo
from emo_core.vae import AutoencoderKL
from emo_core.vae_config import VAEConfig
from emo_core.vae_files import open_vae
from emo_core.wav2vec import Wav2Vec2Encoder, load_wav2vec2

FIXTURES = Path(__file__).parent / "fixtures"
FIXTURE = FIXTURES / "hallo-parity.safetensors"
FULL_FIXTURE = FIXTURES / "hallo-full-width.safetensors"
SIZE, LATENT, FRAMES, MOTION = 128, 16, 4, 2
PICTURE = (72, 90)
GAIN = 0.8
TIMESTEPS = (999, 474, 24)
MOTION_WEIGHTS = (0.6, 1.5, 0.0)
"""Pose, face and lip weight of `prediction_weighted`, at the second of TIMESTEPS."""


def published() -> dict[str, Tensor]:
    """What Hallo's own code gave."""
    return load_file(FIXTURE)


def thinned(tensor: Tensor, most: int = 8192) -> Tensor:
    """Numbers of a tensor at equal distances, `most` of them at most.

    The distance is odd, so that every row, column and channel has its turn.
    """
    flat = tensor.flatten()
    return flat[:: -(-len(flat) // most) | 1] if len(flat) > most else flat


def tiny_hallo() -> EMOConfig:
    """The preset with four different widths, 128 x 128 pixels, f = 4."""
    config = hallo()
    return replace(
        config,
        picture_size=SIZE,
        unet=replace(
            config.unet, widths=(32, 64, 96, 96), time_width=128, face_token_width=12,
            face_embedding_width=10,
        ),
        audio=AudioConfig("masked3", 2, 16, 2, 4, 16, 20, "wav2vec2", "before", "whole_file"),
        temporal=replace(config.temporal, num_frames=FRAMES),
        locator=LocatorConfig(3, (8, 8, 16, 16)),
    )  # fmt: skip


def full_hallo() -> EMOConfig:
    """The preset itself, with the small pictures and short clips of tiny_hallo()."""
    config = hallo()
    temporal = replace(config.temporal, num_frames=FRAMES)
    return replace(config, picture_size=SIZE, temporal=temporal)


def draw(name: str, *shape: int) -> Tensor:
    """Seeded normal numbers."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator)


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """A seeded weight; no layer is zero."""
    for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
        name = name.replace(f"parametrizations.weight.{new}", old)
    drawn = draw(name, *shape)
    if len(shape) < 2:
        scaled = 0.1 * drawn
        return 1 + scaled if "norm" in name and name.endswith("weight") else scaled
    return GAIN * drawn / math.sqrt(drawn[0].numel())


def seed(module: nn.Module, prefix: str = "") -> None:
    """Seeded weights under the module's own names behind `prefix`; none is in memory twice."""
    for name, tensor in module.state_dict().items():
        if not name.endswith(".pe") and tensor.is_floating_point():
            tensor.copy_(weight(prefix + name, tuple(tensor.shape)))


def seeded_model(config: EMOConfig | None = None) -> EMO:
    """The network."""
    model = EMO(config or tiny_hallo())
    seed(model)
    return model.eval().requires_grad_(False)


def published_state(config: EMOConfig | None = None) -> dict[str, Tensor]:
    """All tensors of a net.pth, also those that cannot matter, seeded, under its names.

    The dictionary is the caller's, the tensors are everybody's.
    """
    return dict(_published_state(config or tiny_hallo()))


@lru_cache(maxsize=2)
def _published_state(config: EMOConfig) -> dict[str, Tensor]:
    levels = tuple(range(len(config.unet.widths)))
    everywhere = replace(config, temporal=replace(config.temporal, levels=levels))
    state = dict(seeded_model(everywhere).state_dict())
    last = f"up_blocks.{levels[-1]}.attentions.{config.unet.layers_per_block}."
    for name in list(state):
        if name.startswith(f"denoising_unet.{last}"):
            name_there = name.replace("denoising_unet", "reference_unet")
            state.setdefault(name_there, weight(name_there, tuple(state[name].shape)))
    return state


_DIFFUSERS = (
    ("mid.block_1.", "mid_block.resnets.0."), ("mid.block_2.", "mid_block.resnets.1."),
    ("mid.attn_1.norm.", "mid_block.attentions.0.group_norm."),
    ("mid.attn_1.proj_out.", "mid_block.attentions.0.to_out.0."),
    ("mid.attn_1.", "mid_block.attentions.0.to_"),
    (".nin_shortcut.", ".conv_shortcut."), (".norm_out.", ".conv_norm_out."),
    (".downsample.", ".downsamplers.0."), (".upsample.", ".upsamplers.0."),
    (".block.", ".resnets."), ("encoder.down.", "encoder.down_blocks."),
)  # fmt: skip


def diffusers_name(name: str, levels: int) -> str:
    """LDM's name of a VAE's tensor as diffusers'."""
    for ours, theirs in _DIFFUSERS:
        name = name.replace(ours, theirs)
    for level in range(levels):
        name = name.replace(f"decoder.up.{level}.", f"decoder.up_blocks.{levels - 1 - level}.")
    return name


TINY_VAE = VAEConfig(32, (1, 1, 1, 1), 1, 4, 3, 3, 0.18215, True, 32)


def write_vae(path: Path, config: VAEConfig = TINY_VAE) -> Path:
    """A seeded VAE in diffusers' layout."""
    state = {}
    for name, tensor in AutoencoderKL(config).state_dict().items():
        theirs = diffusers_name(name, len(config.ch_mult))
        flat = "attentions" in theirs and tensor.ndim == 4
        shape = tuple(tensor.shape[:2] if flat else tensor.shape)
        state[theirs] = weight("vae." + theirs, shape)
    save_file(state, path)
    return path


def seeded_vae(folder: Path, config: VAEConfig = TINY_VAE) -> AutoencoderKL:
    """The VAE, loaded from a file in diffusers' layout."""
    return open_vae(write_vae(folder / "vae.safetensors", config))


WAV2VEC: dict[str, object] = {
    "model_type": "wav2vec2", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "conv_dim": [8] * 7, "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2, "vocab_size": 32,
}  # fmt: skip


WAV2VEC_BASE: dict[str, object] = {"model_type": "wav2vec2"}
"""transformers' defaults are those of wav2vec2-base-960h."""


@dataclass(frozen=True)
class Width:
    """All networks at a width, and the steps of its film."""

    config: EMOConfig
    vae: VAEConfig
    wav2vec: dict[str, object]
    steps: int


WIDTHS: dict[str, Callable[[], Width]] = {
    "tiny": lambda: Width(tiny_hallo(), TINY_VAE, WAV2VEC, 4),
    "full": lambda: Width(full_hallo(), VAEConfig.sd15(), WAV2VEC_BASE, 2),
}


def write_wav2vec(folder: Path, settings: dict[str, object] = WAV2VEC) -> Path:
    """A folder with a seeded wav2vec2."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    net = Wav2Vec2Encoder(settings, "before", True).wav2vec2
    seed(net, "wav2vec.")
    save_file(net.state_dict(), folder / "model.safetensors")
    return folder


def seeded_encoder(folder: Path, settings: dict[str, object] = WAV2VEC) -> Wav2Vec2Encoder:
    """The audio encoder, loaded from a folder in Hugging Face's layout."""
    return load_wav2vec2(write_wav2vec(folder / "wav2vec2", settings))


def sound() -> Tensor:
    """0.29 s at 16 kHz: 8 frames of 25 a second."""
    count = int(16000 * 0.29)
    return draw("wave", count) * torch.linspace(0.2, 1, count)


def picture() -> Tensor:
    """(3, H, W) in 0..1, in whole 255ths."""
    small = (draw("picture", 3, PICTURE[0] // 6, PICTURE[1] // 6) * 0.25 + 0.45).clamp(0, 1)
    large = nn.functional.interpolate(small[None], PICTURE, mode="bilinear")[0]
    return (large * 255).round() / 255


def landmarks(lips: Sequence[int]) -> Tensor:
    """478 points in the picture, those of the lips close together."""
    points = draw("landmarks", 478, 2) * torch.tensor([9.0, 8.0]) + torch.tensor([47.0, 33.0])
    points = points.clamp(min=3)
    mouth = draw("lips", len(lips), 2) * torch.tensor([3.0, 1.5]) + torch.tensor([48.0, 44.0])
    points[list(lips)] = mouth
    return points
