"""SD 1.5's building blocks: ResNet block, feed-forward, resampling, timestep embedding.

Names are those of diffusers' UNet, so that SD 1.5, its LoRAs and Hallo load by name.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention import Build


class ResnetBlock(nn.Module):
    """Two convolutions with the timestep added between them, per frame."""

    def __init__(
        self, in_width: int, out_width: int, time_width: int, groups: int, build: Build
    ) -> None:
        super().__init__()
        self.norm1 = build.group_norm(groups, in_width, eps=1e-5)
        self.conv1 = build.conv(in_width, out_width)
        self.time_emb_proj = build.linear(time_width, out_width)
        self.norm2 = build.group_norm(groups, out_width, eps=1e-5)
        self.conv2 = build.conv(out_width, out_width)
        self.conv_shortcut = (
            build.conv(in_width, out_width, size=1) if in_width != out_width else None
        )

    def forward(self, hidden_states: Tensor, time_features: Tensor) -> Tensor:
        """(N, in_width, H, W) and timestep features (N, time_width) to (N, out_width, H, W)."""
        out = self.conv1(functional.silu(self.norm1(hidden_states)))
        out = out + self.time_emb_proj(functional.silu(time_features))[:, :, None, None]
        out = self.conv2(functional.silu(self.norm2(out)))
        if self.conv_shortcut is not None:
            hidden_states = self.conv_shortcut(hidden_states)
        added: Tensor = hidden_states + out
        return added


class Downsample(nn.Module):
    """Half the rows and columns by a strided convolution."""

    def __init__(self, width: int, build: Build) -> None:
        super().__init__()
        self.conv = build.conv(width, width, stride=2)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H / 2, W / 2)."""
        out: Tensor = self.conv(hidden_states)
        return out


class Upsample(nn.Module):
    """Twice the rows and columns by repetition, then a convolution."""

    def __init__(self, width: int, build: Build) -> None:
        super().__init__()
        self.conv = build.conv(width, width)

    def forward(self, hidden_states: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, C, H, W) to (N, C, *size): size is that of the skip connection it meets."""
        out: Tensor = self.conv(functional.interpolate(hidden_states, size, mode="nearest"))
        return out


class GEGLU(nn.Module):
    """A linear layer whose second half gates the first by an exact GELU."""

    def __init__(self, width: int, inner_width: int, build: Build) -> None:
        super().__init__()
        self.proj = build.linear(width, 2 * inner_width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., width) to (..., inner_width)."""
        value, gate = self.proj(tokens).chunk(2, dim=-1)
        out: Tensor = value * functional.gelu(gate)
        return out


class FeedForward(nn.Module):
    """GEGLU and a linear layer back; `net.1` is diffusers' dropout, which we never need."""

    def __init__(self, width: int, mult: int, build: Build) -> None:
        super().__init__()
        inner = width * mult
        self.net = nn.ModuleList(
            [GEGLU(width, inner, build), nn.Identity(), build.linear(inner, width)]
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        for layer in self.net:
            tokens = layer(tokens)
        return tokens


class TimestepEmbedding(nn.Module):
    """Timestep -> [cos, sin] of SD 1.5's frequencies -> two linear layers."""

    def __init__(self, width: int, time_width: int, build: Build) -> None:
        super().__init__()
        self.width = width
        self.linear_1 = build.linear(width, time_width)
        self.linear_2 = build.linear(time_width, time_width)

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        """Timesteps (N,), 0..999, to features (N, time_width) in `dtype`."""
        half = self.width // 2
        rates = torch.exp(
            torch.arange(half, device=timestep.device) * (-math.log(10000.0) / half)
        )
        angles = timestep.float()[:, None] * rates[None]
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype)
        out: Tensor = self.linear_2(functional.silu(self.linear_1(waves)))
        return out


def sinusoids(length: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """Positions (length, width) as interleaved sines and cosines (AnimateDiff's table)."""
    position = torch.arange(length, dtype=torch.float32, device=device)[:, None]
    step = torch.arange(0, width, 2, dtype=torch.float32, device=device)
    angles = position * torch.exp(step * (-math.log(10000.0) / width))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
