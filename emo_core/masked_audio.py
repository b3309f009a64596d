"""Hallo's transformer for sound: the whole picture, the face and the lips hear apart, by masks.

EMO's sound is an attention inside of the spatial transformer (`transformer.py`); Hallo gives it a
module of its own beside it ("Hierarchical Audio-Driven Visual Synthesis", arXiv 2406.08801).
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from .attention import Attention, Build, KeyValue
from .config import EMOConfig
from .layers import FeedForward
from .transformer import Seen, SpatialInputs
from .unet import Spot


class MaskedAudioBlock(nn.Module):
    """Hallo's audio block: self-attention, three masked attentions to sound, feed-forward."""

    REGIONS = ("full", "face", "lip")

    def __init__(self, width: int, config: EMOConfig, build: Build) -> None:
        super().__init__()
        heads, token_width = config.unet.num_heads, config.audio.token_width
        self.norm1 = build.layer_norm(width)
        self.attn1 = Attention(width, width, heads, build)
        self.norm2 = build.layer_norm(width)
        self.attn2_0 = Attention(width, token_width, heads, build)
        self.attn2_1 = Attention(width, token_width, heads, build)
        self.attn2_2 = Attention(width, token_width, heads, build)
        self.zero_conv_full = build.conv(width, width, size=1)
        self.zero_conv_face = build.conv(width, width, size=1)
        self.zero_conv_lip = build.conv(width, width, size=1)
        self.norm3 = build.layer_norm(width)
        self.ff = FeedForward(width, config.unet.feed_forward_mult, build)

    @property
    def attentions(self) -> tuple[Attention, Attention, Attention]:
        """The attentions of the whole picture, the face and the lips."""
        return self.attn2_0, self.attn2_1, self.attn2_2

    def forward(self, tokens: Tensor, height: int, inputs: SpatialInputs) -> Tensor:
        """(R * F, N, C) to the same."""
        normed = self.norm1(tokens)
        tokens = tokens + self.attn1(normed, self.attn1.project_kv(normed))
        normed = self.norm2(tokens)
        convolutions = (self.zero_conv_full, self.zero_conv_face, self.zero_conv_lip)
        assert inputs.masks is not None
        for attention, seen, mask, convolution, weight in zip(
            self.attentions, inputs.audio, inputs.masks, convolutions, inputs.motion_weights,
            strict=True,
        ):  # fmt: skip
            if weight:
                heard = hear(normed, (attention, convolution), seen, mask, height)
                tokens = tokens + (heard if weight == 1 else weight * heard)
        out: Tensor = tokens + self.ff(self.norm3(tokens))
        return out


def hear(
    normed: Tensor, layers: tuple[Attention, nn.Module], seen: Seen, mask: Tensor, height: int
) -> Tensor:
    """What a region's attention to sound and its convolution give for frames (R * F, N, C).

    Rows without sound attend to zero keys and values, which gives the output's bias whatever is
    asked: of them only one place is computed.

    Args:
        normed: frames, of which some rows hear.
        layers: attention and 1 x 1 convolution.
        seen: sound of each frame.
        mask: (N,), of the region.
        height: rows of the N places.
    """
    attention, convolution = layers
    key, value = seen.laid_out()
    by_row = rearrange(normed, "(R F) N C -> R F N C", F=seen.context[0].shape[1])
    mask = mask.to(normed)[:, None]
    out = torch.empty_like(by_row)
    blind = seen.rows.blind(by_row.shape[0])
    if len(blind):
        bias = attention.to_out[0](torch.zeros_like(normed[0, :1]))
        ends = convolution(torch.cat([torch.zeros_like(bias), bias])[:, :, None, None])[..., 0, 0]
        out[blind] = (ends[0] + mask * (ends[1] - ends[0])).expand_as(by_row[blind])
    if not seen.rows.empty:
        query = rearrange(seen.rows.select(by_row), "r F N C -> (r F) N C")
        heard = attention(query, (key.flatten(0, 1), value.flatten(0, 1))) * mask
        heard = convolution(rearrange(heard, "M (h w) C -> M C h w", h=height))
        index = slice(None) if seen.rows.index is None else seen.rows.index
        out[index] = rearrange(heard, "(r F) C h w -> r F (h w) C", F=by_row.shape[1])
    folded: Tensor = rearrange(out, "R F N C -> (R F) N C")
    return folded


class MaskedAudioTransformer(nn.Module):
    """Hallo's audio module: entrance to a width of its own, MaskedAudioBlock, exit, residual.

    That width is irregular in the published weights: before the block in down blocks' first
    modules, the block's own in the others, the next finer level's in up blocks.
    """

    def __init__(self, spot: Spot, config: EMOConfig, build: Build) -> None:
        super().__init__()
        inner = spot.neighbour_width
        self.norm = build.group_norm(config.unet.norm_groups, spot.width, eps=1e-6)
        self.proj_in = build.conv(spot.width, inner, size=1)
        self.transformer_blocks = nn.ModuleList([MaskedAudioBlock(inner, config, build)])
        self.proj_out = build.conv(inner, spot.width, size=1)

    def project_audio(self, tokens: Tensor) -> list[KeyValue]:
        """Keys and values of a clip's audio tokens (B, F, T, D) for the three attentions."""
        block = self.transformer_blocks[0]
        assert isinstance(block, MaskedAudioBlock)
        return [attention.project_kv(tokens) for attention in block.attentions]

    def forward(self, hidden_states: Tensor, inputs: SpatialInputs) -> Tensor:
        """(R * F, C, h, w) to the same."""
        height = hidden_states.shape[-2]
        tokens = rearrange(self.proj_in(self.norm(hidden_states)), "M C h w -> M (h w) C")
        tokens = self.transformer_blocks[0](tokens, height, inputs)
        out: Tensor = self.proj_out(rearrange(tokens, "M (h w) C -> M C h w", h=height))
        return hidden_states + out
