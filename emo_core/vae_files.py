"""Stable Diffusion's VAE from the files it is published in: LDM's, diffusers', whole checkpoints.

Our AutoencoderKL has LDM's names. diffusers has the same layers under others and numbers the
decoder's levels the other way round; its linear layers are 1 x 1 convolutions here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from .vae import METADATA_KEY, AutoencoderKL
from .vae_config import VAEConfig
from .weight_files import WeightFile, kind_of, open_weights

_PREFIXES = ("first_stage_model.", "vae.")
_WANTED = "an SD 1.5 VAE such as stabilityai/sd-vae-ft-mse"
_SD_SCALE, _SD_GROUPS = 0.18215, 32

_RENAMED = (
    ("conv_norm_out", "norm_out"),
    ("conv_shortcut", "nin_shortcut"),
    ("mid_block.resnets.0", "mid.block_1"),
    ("mid_block.resnets.1", "mid.block_2"),
    ("mid_block.attentions.0", "mid.attn_1"),
    ("attn_1.group_norm", "attn_1.norm"),
    ("attn_1.to_q.", "attn_1.q."),
    ("attn_1.to_k.", "attn_1.k."),
    ("attn_1.to_v.", "attn_1.v."),
    ("attn_1.to_out.0.", "attn_1.proj_out."),
    ("attn_1.query.", "attn_1.q."),
    ("attn_1.key.", "attn_1.k."),
    ("attn_1.value.", "attn_1.v."),
    ("attn_1.proj_attn.", "attn_1.proj_out."),
    ("downsamplers.0.", "downsample."),
    ("upsamplers.0.", "upsample."),
    (".resnets.", ".block."),
    ("encoder.down_blocks.", "encoder.down."),
)


@dataclass(frozen=True)
class VAEFile:
    """A VAE's file, opened: known to be whole and of one shape, and no tensor of it is read.

    Attributes:
        file: its tensors.
        config: the VAE that they are.
        names: LDM's name of each tensor -> its name in the file.
    """

    file: WeightFile
    config: VAEConfig
    names: Mapping[str, str]

    def load(
        self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> AutoencoderKL:
        """The VAE itself; tensors are read memory-mapped and cast one by one.

        Args:
            device: where the weights go.
            dtype: of the weights in memory.
        """
        vae = AutoencoderKL(self.config, dtype, "meta")
        state = {
            name: self.file.read(self.names[name]).reshape(wanted.shape).to(device, dtype)
            for name, wanted in vae.state_dict().items()
        }
        vae.load_state_dict(state, assign=True)
        return vae.eval().requires_grad_(False)


def open_vae(
    path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> AutoencoderKL:
    """Load a VAE: vae_in() and VAEFile.load() in one."""
    return vae_in(path).load(device, dtype)


def vae_in(path: Path) -> VAEFile:
    """Open a VAE's file and see whether it is whole; nothing is loaded.

    Args:
        path: a file of emo_core, LDM (also inside a whole checkpoint) or diffusers, or diffusers'
            folder with such a file in it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is something else, or lacks tensors.
    """
    file = open_weights(file_in(Path(path)), "VAE file", _WANTED)
    names = ldm_names(file)
    if not names:
        raise ValueError(f"{file.path} is {kind_of(file.shapes)} and not a VAE; give {_WANTED}")
    config = _config(file, {name: file.shapes[source] for name, source in names.items()})
    needed = AutoencoderKL(config, device="meta").state_dict()
    for name, wanted in needed.items():
        if name not in names:
            raise ValueError(
                f"{file.path} lacks {name} of the VAE, it holds {len(names)} of {len(needed)} "
                "tensors; fetch it again"
            )
        shape = file.shapes[names[name]]
        if _shaped(shape, wanted.ndim) != tuple(wanted.shape):
            raise ValueError(
                f"{file.path} has {name} as {shape}, expected {tuple(wanted.shape)}; give "
                f"{_WANTED}"
            )
    return VAEFile(file, config, names)


def file_in(path: Path) -> Path:
    """The VAE's file: the path itself, or the usual one in a folder."""
    if not path.is_dir():
        return path
    for name in ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"):
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(
        f"the folder {path} holds no diffusion_pytorch_model.safetensors; give the VAE's file"
    )


def ldm_names(file: WeightFile) -> dict[str, str]:
    """The VAE's tensors in a file: LDM's name -> name in the file; empty if it holds no VAE."""
    prefix = next((p for p in _PREFIXES if any(n.startswith(p) for n in file.shapes)), "")
    inside = [name for name in file.shapes if name.startswith(prefix)]
    ups = {int(n) for name in inside for n in re.findall(r"decoder\.up_blocks\.(\d+)\.", name)}
    found = {
        _ldm_name(name.removeprefix(prefix), max(ups, default=0)): name
        for name in inside
        if name.removeprefix(prefix).startswith(("encoder.", "decoder.", "quant_", "post_quant_"))
    }
    needed = ("encoder.conv_in.weight", "decoder.conv_in.weight", "post_quant_conv.weight")
    return found if all(name in found for name in needed) else {}


def _ldm_name(name: str, last_up: int) -> str:
    """One name of diffusers' as LDM's; LDM's own stay what they are."""
    for theirs, ours in _RENAMED:
        name = name.replace(theirs, ours)
    return re.sub(
        r"decoder\.up_blocks\.(\d+)", lambda m: f"decoder.up.{last_up - int(m[1])}", name
    )


def _config(file: WeightFile, shapes: Mapping[str, tuple[int, ...]]) -> VAEConfig:
    """From the header, or read off the tensors: SD's VAE at any width."""
    text = file.header.get(METADATA_KEY)
    if text is not None:
        return VAEConfig.from_json(text)
    width = shapes["encoder.conv_in.weight"][0]
    places = [re.match(r"encoder\.down\.(\d+)\.block\.(\d+)\.", name) for name in shapes]
    blocks = {(int(place[1]), int(place[2])) for place in places if place}
    levels = sorted({level for level, _ in blocks})
    widths = [shapes[f"encoder.down.{level}.block.0.conv2.weight"][0] for level in levels]
    channels = shapes["post_quant_conv.weight"][0]
    return VAEConfig(
        ch=width,
        ch_mult=tuple(value // width for value in widths),
        num_res_blocks=1 + max(block for _, block in blocks),
        z_channels=channels,
        in_channels=shapes["encoder.conv_in.weight"][1],
        out_ch=shapes["decoder.conv_out.weight"][0],
        scaling_factor=_SD_SCALE,
        double_z=shapes["encoder.conv_out.weight"][0] == 2 * channels,
        norm_groups=_SD_GROUPS,
    )


def _shaped(shape: tuple[int, ...], wanted: int) -> tuple[int, ...]:
    """A linear layer's shape as that of the 1 x 1 convolution that it is."""
    return (*shape, 1, 1) if (len(shape), wanted) == (2, 4) else shape
