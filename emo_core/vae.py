"""The picture autoencoder: Stable Diffusion's KL autoencoder at any width, by LDM's names.

EMO works in the latent space of Stable Diffusion's VAE (EMO, "Preliminaries"). The same classes
build SD 1.5's and the small one that emo-tiny trains for itself. A state dict of SD 1.5's widths
loads into every program that reads LDM checkpoints; of others, see `VAEConfig.ddconfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from einops import rearrange
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from .attention import attend
from .vae_config import VAEConfig
from .weight_writer import save_whole

METADATA_KEY = "vae_config"
_FRAMES_AT_ONCE, _PIXELS_AT_ONCE = 4, 4 * 512 * 512
"""What decode_in_parts() decodes together at most: four frames, and no larger than SD 1.5's."""


class ResnetBlock(nn.Module):
    """Two normalised convolutions added to their input."""

    def __init__(self, num_in: int, num_out: int, factory: dict[str, Any], ops: Any) -> None:
        """Build a block from `num_in` to `num_out` channels."""
        super().__init__()
        self.norm1 = ops.GroupNorm(num_in, eps=1e-6, **factory)
        self.conv1 = ops.Conv2d(num_in, num_out, 3, padding=1, **factory)
        self.norm2 = ops.GroupNorm(num_out, eps=1e-6, **factory)
        self.conv2 = ops.Conv2d(num_out, num_out, 3, padding=1, **factory)
        if num_in != num_out:
            self.nin_shortcut = ops.Conv2d(num_in, num_out, 1, **factory)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H, W)."""
        residual = self.conv1(functional.silu(self.norm1(hidden_states)))
        residual = self.conv2(functional.silu(self.norm2(residual)))
        if hasattr(self, "nin_shortcut"):
            hidden_states = self.nin_shortcut(hidden_states)
        return torch.as_tensor(hidden_states + residual)


class AttnBlock(nn.Module):
    """Every pixel attends to every pixel, one head, added to its input."""

    def __init__(self, channels: int, factory: dict[str, Any], ops: Any) -> None:
        """Build the attention over `channels` channels."""
        super().__init__()
        self.norm = ops.GroupNorm(channels, eps=1e-6, **factory)
        self.q = ops.Conv2d(channels, channels, 1, **factory)
        self.k = ops.Conv2d(channels, channels, 1, **factory)
        self.v = ops.Conv2d(channels, channels, 1, **factory)
        self.proj_out = ops.Conv2d(channels, channels, 1, **factory)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        normed = self.norm(hidden_states)
        query, key, value = (
            rearrange(conv(normed), "n c h w -> n (h w) c") for conv in (self.q, self.k, self.v)
        )
        attended = attend(query, key, value, num_heads=1)
        attended = rearrange(attended, "n (h w) c -> n c h w", h=hidden_states.shape[2])
        return torch.as_tensor(hidden_states + self.proj_out(attended))


class Resample(nn.Module):
    """Halves the picture by a strided convolution, or repeats pixels and convolves."""

    def __init__(self, channels: int, down: bool, factory: dict[str, Any], ops: Any) -> None:
        """Build for `channels` channels; `down` chooses the direction."""
        super().__init__()
        self.down = down
        stride, padding = (2, 0) if down else (1, 1)
        self.conv = ops.Conv2d(channels, channels, 3, stride, padding, **factory)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H/2, W/2) or (N, C, 2H, 2W)."""
        if self.down:  # LDM pads right and bottom only
            return torch.as_tensor(self.conv(functional.pad(hidden_states, (0, 1, 0, 1))))
        return torch.as_tensor(self.conv(functional.interpolate(hidden_states, scale_factor=2.0)))


class Level(nn.Module):
    """The ResNet blocks of one resolution and the way to the next."""

    def __init__(
        self, widths: list[int], down: bool, last: bool, factory: dict[str, Any], ops: Any
    ) -> None:
        """Build blocks through `widths`; the `last` level of a direction does not resample."""
        super().__init__()
        self.block = nn.ModuleList(
            ResnetBlock(a, b, factory, ops) for a, b in pairwise(widths)
        )
        if not last:
            name = "downsample" if down else "upsample"
            self.add_module(name, Resample(widths[-1], down, factory, ops))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        for block in self.block:
            hidden_states = block(hidden_states)
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                hidden_states = getattr(self, name)(hidden_states)
        return hidden_states


class Middle(nn.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, channels: int, factory: dict[str, Any], ops: Any) -> None:
        """Build for `channels` channels."""
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, factory, ops)
        self.attn_1 = AttnBlock(channels, factory, ops)
        self.block_2 = ResnetBlock(channels, channels, factory, ops)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        return torch.as_tensor(self.block_2(self.attn_1(self.block_1(hidden_states))))


class Encoder(nn.Module):
    """Picture -> mean and log-variance, before the 1x1 `quant_conv`."""

    def __init__(self, config: VAEConfig, factory: dict[str, Any], ops: Any) -> None:
        """Build by the configuration's widths."""
        super().__init__()
        widths = [config.ch * multiple for multiple in (1, *config.ch_mult)]
        last = len(config.ch_mult) - 1
        self.conv_in = ops.Conv2d(config.in_channels, config.ch, 3, padding=1, **factory)
        blocks = config.num_res_blocks
        self.down = nn.ModuleList(
            Level([widths[i]] + [widths[i + 1]] * blocks, True, i == last, factory, ops)
            for i in range(last + 1)
        )
        self.mid = Middle(widths[-1], factory, ops)
        self.norm_out = ops.GroupNorm(widths[-1], eps=1e-6, **factory)
        num_moments = config.z_channels * (1 + config.double_z)
        self.conv_out = ops.Conv2d(widths[-1], num_moments, 3, padding=1, **factory)

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 2z, H/8, W/8)."""
        hidden_states = self.conv_in(pictures)
        for level in self.down:
            hidden_states = level(hidden_states)
        hidden_states = functional.silu(self.norm_out(self.mid(hidden_states)))
        return torch.as_tensor(self.conv_out(hidden_states))


class Decoder(nn.Module):
    """Latents, after the 1x1 `post_quant_conv` -> picture."""

    def __init__(self, config: VAEConfig, factory: dict[str, Any], ops: Any) -> None:
        """Build by the configuration's widths, mirrored."""
        super().__init__()
        widths = [config.ch * multiple for multiple in (*config.ch_mult, config.ch_mult[-1])]
        self.conv_in = ops.Conv2d(config.z_channels, widths[-1], 3, padding=1, **factory)
        self.mid = Middle(widths[-1], factory, ops)
        blocks = config.num_res_blocks + 1
        self.up = nn.ModuleList(
            Level([widths[i + 1]] + [widths[i]] * blocks, False, i == 0, factory, ops)
            for i in range(len(config.ch_mult))
        )
        self.norm_out = ops.GroupNorm(widths[0], eps=1e-6, **factory)
        self.conv_out = ops.Conv2d(widths[0], config.out_ch, 3, padding=1, **factory)

    def forward(self, latents: Tensor) -> Tensor:
        """(N, z, h, w) -> (N, 3, 8h, 8w)."""
        hidden_states = self.mid(self.conv_in(latents))
        for level in reversed(self.up):
            hidden_states = level(hidden_states)
        return torch.as_tensor(self.conv_out(functional.silu(self.norm_out(hidden_states))))


class AutoencoderKL(nn.Module):
    """Turns pictures into latents and back; deterministic both ways."""

    def __init__(
        self,
        config: VAEConfig,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        """Build untrained weights.

        Args:
            config: the widths.
            dtype: of the weights.
            device: of the weights.
            operations: namespace with Conv2d and GroupNorm.
        """
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.config = config
        grouped = partial(operations.GroupNorm, config.norm_groups)
        layers = SimpleNamespace(Conv2d=operations.Conv2d, GroupNorm=grouped)
        self.encoder = Encoder(config, factory, layers)
        self.decoder = Decoder(config, factory, layers)
        z = config.z_channels
        num_moments = z * (1 + config.double_z)
        self.quant_conv = operations.Conv2d(num_moments, num_moments, 1, **factory)
        self.post_quant_conv = operations.Conv2d(z, z, 1, **factory)

    def encode(self, pictures: Tensor) -> Tensor:
        """Encode pictures: the posterior's mean times the scaling factor.

        Args:
            pictures: (N, 3, H, W) in -1..1; H and W multiples of `config.factor`.

        Returns:
            (N, z, H / factor, W / factor).

        Raises:
            ValueError: if H or W is not a multiple of the factor.
        """
        height, width = pictures.shape[-2:]
        if height % self.config.factor or width % self.config.factor:
            raise ValueError(
                f"the VAE needs sides that are multiples of {self.config.factor}, "
                f"got {width}x{height}; resize or crop the picture"
            )
        moments = self.quant_conv(self.encoder(pictures))
        mean: Tensor = moments[:, : self.config.z_channels]
        return mean * self.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents to pictures of about -1..1, not clamped.

        Args:
            latents: (N, z, h, w), as `encode` gives them.

        Returns:
            (N, 3, h * factor, w * factor).
        """
        pictures: Tensor = self.decoder(
            self.post_quant_conv(latents / self.config.scaling_factor)
        )
        return pictures


def decode_in_parts(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Decode frames (F, z, h, w) to float32 pictures (F, 3, H, W), a few at a time.

    The widest layers take 0.4 GB a frame of 512 x 512 in half precision; four frames keep a GPU
    as busy as sixteen, and a CPU reads them from its caches: emo-tiny's twelve frames at once took
    it half as long again.
    """
    height, width = (side * vae.config.factor for side in latents.shape[-2:])
    count = min(_FRAMES_AT_ONCE, _PIXELS_AT_ONCE // (height * width))
    parts = torch.split(latents, max(count, 1))
    return torch.cat([vae.decode(part).float() for part in parts])


def save_vae(vae: AutoencoderKL, path: Path, metadata: Mapping[str, str]) -> None:
    """Write weights and configuration to one .safetensors file.

    Args:
        vae: what is saved, in its own dtype.
        path: the file.
        metadata: further entries of the file's header.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in vae.state_dict().items()}
    save_whole(path, tensors, {**metadata, METADATA_KEY: vae.config.to_json()})


def load_vae(path: Path, device: torch.device | str = "cpu") -> AutoencoderKL:
    """Read a file that `save_vae` wrote.

    Raises:
        ValueError: if the file carries no VAE configuration.
    """
    with safe_open(path, "pt", device=str(device)) as file:
        header = file.metadata() or {}
        if METADATA_KEY not in header:
            raise ValueError(f"{path} has no {METADATA_KEY} in its header; give an emo VAE file")
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    dtype = next(iter(state.values())).dtype
    vae = AutoencoderKL(VAEConfig.from_json(header[METADATA_KEY]), dtype=dtype, device="meta")
    vae.load_state_dict(state, assign=True)
    return vae.eval()
