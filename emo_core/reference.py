"""ReferenceNet: the portrait and the motion frames, encoded outside the sampling loop.

EMO, "ReferenceNet": the backbone's block structure without time or sound, run on the portrait and
the motion frames. The paper takes "outputs from the self-attention layers"; every published
relative takes the *input* of self-attention (its first norm's output), and so do we. Blocks of the
two nets correspond by name. Where a level has no attention, motion frames give the ResNet block's
output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from .attention import Build, RelativePositions
from .config import EMOConfig
from .transformer import Seen, SpatialInputs, SpatialTransformer
from .unet import Spot, Stratum, UNet, all_spots

Bank = dict[str, Tensor]


@dataclass(frozen=True)
class ReferenceFeatures:
    """What ReferenceNet saw, by the name of the spot.

    Attributes:
        portrait: (B, C, h, w) at every spot with attention; the same for the whole video. Of r
            pictures of one person (B, C, r * h, w), one below the other. With reference order
            "published" (2B, ...): first all B that frames of even number read.
        motion: (B, n, C, h, w) at every spot with a temporal module; of one clip. With face tokens
            (2B, ...): first those for rows that do not see the portrait.
            None for single pictures: temporal modules are left out.
    """

    portrait: Bank
    motion: Bank | None


class ReferenceNet(UNet):
    """The backbone's structure with self-attention (and Hallo's face tokens) only.

    Its last transformer ends at the first norm: nothing behind it can reach the film.
    """

    def __init__(self, config: EMOConfig, build: Build) -> None:
        spots = all_spots(config.unet)
        with_attention = [spot for spot in spots if spot.has_attention(config.unet)]
        last = with_attention[-1]

        def attention(spot: Spot) -> SpatialTransformer | None:
            if spot not in with_attention:
                return None
            return SpatialTransformer(spot, config, False, build, features_only=spot == last)

        super().__init__(config.unet, {"attentions": attention}, build)
        self.config = config
        self.last = last.name
        grid = config.unet.position_grid
        self.positions = torch.nn.ModuleList(
            [RelativePositions(config.unet.num_heads, grid, build) for _ in config.unet.widths]
            if grid
            else []
        )

    def forward(self, latents: Tensor, face: dict[str, Seen] | None = None) -> Bank:
        """Run pictures through the net and keep what the backbone reads.

        Args:
            latents: (N, C, h, w), portraits and motion frames as one batch.
            face: at each spot the face tokens that the pictures see (Hallo).

        Returns:
            For each spot (N, C, h', w').
        """
        timestep = latents.new_zeros(latents.shape[0])
        features = self.time_embedding(timestep, latents.dtype)
        bank: Bank = {}
        biases = self.biases(latents.shape[-2], latents.shape[-1], latents.device)

        def visit(block: Stratum, index: int, hidden_states: Tensor) -> Tensor:
            spot = block.spots[index]
            transformer = block.layer("attentions", index)
            if transformer is None:
                bank[spot.name] = hidden_states
                return hidden_states
            assert isinstance(transformer, SpatialTransformer)
            height = hidden_states.shape[-2]
            tokens = transformer.enter(hidden_states)
            bank[spot.name] = rearrange(
                transformer.features(tokens), "N (h w) C -> N C h w", h=height
            )
            if spot.name == self.last:
                return hidden_states
            inputs = SpatialInputs(
                num_frames=1,
                face=None if face is None else face[spot.name],
                self_bias=biases[spot.level] if biases else None,
            )
            return transformer.leave(hidden_states, tokens, inputs)

        self.walk(self.conv_in(latents), features, visit)
        return bank

    def project_face(self, tokens: Tensor) -> dict[str, Seen]:
        """What forward() takes for face tokens (N, T, D), a face for every picture."""
        seen = {}
        for block in [*self.down_blocks, self.mid_block, *self.up_blocks]:
            assert isinstance(block, Stratum)
            for index, spot in enumerate(block.spots):
                layer = block.layer("attentions", index)
                if isinstance(layer, SpatialTransformer) and spot.name != self.last:
                    attention = layer.block.attn2
                    assert attention is not None
                    seen[spot.name] = Seen(attention.project_kv(tokens))
        return seen

    def biases(self, height: int, width: int, device: torch.device) -> list[Tensor]:
        """Relative positions of each level for latents of this size."""
        return [
            positions(halved(height, level), halved(width, level), device)
            for level, positions in enumerate(self.positions)
        ]


def halved(size: int, times: int) -> int:
    """Rows or columns after `times` strided convolutions, which round up."""
    for _ in range(times):
        size = (size + 1) // 2
    return size
