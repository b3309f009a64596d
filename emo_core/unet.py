"""The block structure that the backbone and ReferenceNet share: SD 1.5's UNet without its layers.

A UNet is a walk: at each spot of it a ResNet block, then whatever layers the network has at that
spot. `walk()` is the only walk; the networks differ in the layers they hang at the spots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attention import Build
from .config import UNetConfig
from .layers import Downsample, ResnetBlock, TimestepEmbedding, Upsample


@dataclass(frozen=True)
class Spot:
    """A place of the walk where layers may hang, behind a ResNet block.

    Attributes:
        name: such as "down_blocks.0.1"; the same in both networks.
        level: resolution level, 0 the finest.
        in_width: channels that enter the ResNet block.
        width: channels that leave it.
        neighbour_width: channels before the block (down) or of the level above (up); Hallo's
            audio widths follow from these.
    """

    name: str
    level: int
    in_width: int
    width: int
    neighbour_width: int

    def has_attention(self, config: UNetConfig) -> bool:
        """Whether a spatial transformer hangs here: SD 1.5's middle block always has one."""
        return self.level in config.attention_levels or self.name.startswith("mid_block")


MakeLayer = Callable[[Spot], nn.Module | None]


class Stratum(nn.Module):
    """A down, mid or up block: ResNet blocks, the layers hung behind each, and resampling."""

    def __init__(
        self,
        spots: list[Spot],
        layers: Mapping[str, MakeLayer],
        config: UNetConfig,
        build: Build,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.spots = spots
        groups, time_width = config.norm_groups, config.time_width
        self.resnets = nn.ModuleList(
            [ResnetBlock(s.in_width, s.width, time_width, groups, build) for s in spots]
        )
        for name, make in layers.items():
            made = [layer for layer in map(make, spots) if layer is not None]
            if made:
                self.add_module(name, nn.ModuleList(made))
        if isinstance(resample, Downsample):
            self.downsamplers = nn.ModuleList([resample])
        elif isinstance(resample, Upsample):
            self.upsamplers = nn.ModuleList([resample])

    def layer(self, name: str, index: int) -> nn.Module | None:
        """The layer called `name` behind ResNet block `index`, or None where there is none."""
        layers = self._modules.get(name)
        return None if layers is None else layers[index]  # type: ignore[index]


Visit = Callable[[Stratum, int, Tensor], Tensor]


class UNet(nn.Module):
    """SD 1.5's down, mid and up blocks with given layers behind their ResNet blocks.

    Args:
        config: widths and levels.
        layers: for each kind of layer (diffusers' or Hallo's name) what to hang at a spot.
        build: where layers come from.
    """

    def __init__(
        self, config: UNetConfig, layers: Mapping[str, MakeLayer], build: Build
    ) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = build.conv(config.latent_channels, widths[0])
        self.time_embedding = TimestepEmbedding(widths[0], config.time_width, build)
        self.down_blocks = nn.ModuleList()
        for level, spots in enumerate(down_spots(config)):
            last = level == len(widths) - 1
            shrink = None if last else Downsample(widths[level], build)
            self.down_blocks.append(Stratum(spots, layers, config, build, shrink))
        self.mid_block = Stratum([middle_spot(config)], layers, config, build)
        self.mid_block.resnets.append(
            ResnetBlock(widths[-1], widths[-1], config.time_width, config.norm_groups, build)
        )
        self.up_blocks = nn.ModuleList()
        for index, spots in enumerate(up_spots(config)):
            last = index == len(widths) - 1
            grow = None if last else Upsample(spots[0].width, build)
            self.up_blocks.append(Stratum(spots, layers, config, build, grow))

    def walk(self, hidden_states: Tensor, time_features: Tensor, visit: Visit) -> Tensor:
        """Take features down, through the middle and up again.

        Args:
            hidden_states: (N, widths[0], h, w), what conv_in gave.
            time_features: (N, time_width).
            visit: called behind each ResNet block with (block, index of the spot, features);
                returns the features that go on.

        Returns:
            (N, widths[0], h, w).
        """
        skips = [hidden_states]
        for block in self.down_blocks:
            assert isinstance(block, Stratum)
            for index, resnet in enumerate(block.resnets):
                hidden_states = visit(block, index, resnet(hidden_states, time_features))
                skips.append(hidden_states)
            for sampler in getattr(block, "downsamplers", ()):
                hidden_states = sampler(hidden_states)
                skips.append(hidden_states)
        before, after = self.mid_block.resnets
        hidden_states = visit(self.mid_block, 0, before(hidden_states, time_features))
        hidden_states = after(hidden_states, time_features)
        for block in self.up_blocks:
            assert isinstance(block, Stratum)
            for index, resnet in enumerate(block.resnets):
                joined = torch.cat([hidden_states, skips.pop()], dim=1)
                hidden_states = visit(block, index, resnet(joined, time_features))
            for sampler in getattr(block, "upsamplers", ()):
                height, width = skips[-1].shape[-2:]
                hidden_states = sampler(hidden_states, (height, width))
        return hidden_states


def down_spots(config: UNetConfig) -> list[list[Spot]]:
    """The spots of each down block."""
    widths = config.widths
    blocks = []
    for level, width in enumerate(widths):
        before = widths[max(level - 1, 0)]
        inputs = [before] + [width] * (config.layers_per_block - 1)
        blocks.append(
            [
                Spot(f"down_blocks.{level}.{j}", level, in_width, width, in_width)
                for j, in_width in enumerate(inputs)
            ]
        )
    return blocks


def up_spots(config: UNetConfig) -> list[list[Spot]]:
    """The spots of each up block; a skip connection joins the input of every one."""
    widths, count = config.widths, config.layers_per_block + 1
    blocks, before = [], widths[-1]
    for index, width in enumerate(reversed(widths)):
        level = len(widths) - 1 - index
        above = widths[max(level - 1, 0)]
        skips = [width] * (count - 1) + [above]
        inputs = [before] + [width] * (count - 1)
        blocks.append(
            [
                Spot(f"up_blocks.{index}.{j}", level, a + b, width, above)
                for j, (a, b) in enumerate(zip(inputs, skips, strict=True))
            ]
        )
        before = width
    return blocks


def middle_spot(config: UNetConfig) -> Spot:
    """The spot between the two ResNet blocks of the middle block."""
    width = config.widths[-1]
    return Spot("mid_block.0", len(config.widths) - 1, width, width, width)


def all_spots(config: UNetConfig) -> list[Spot]:
    """Every spot in the order of the walk."""
    down = [spot for block in down_spots(config) for spot in block]
    up = [spot for block in up_spots(config) for spot in block]
    return [*down, middle_spot(config), *up]
