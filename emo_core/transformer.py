"""Spatial transformers: self-, reference- and audio-attention of every frame on its own.

EMO, "Backbone Network" and "Audio Layers": in each block self-attention, then reference attention
in the place of SD 1.5's text attention, then audio attention, then the feed-forward. Hallo appends
the portrait to the self-attention's keys instead, keeps the text attention for face tokens, and
has a transformer of its own for sound (`masked_audio.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from .attention import ALL_ROWS, Attention, Build, KeyValue, Rows
from .config import EMOConfig
from .layers import FeedForward
from .unet import Spot


@dataclass(frozen=True)
class Seen:
    """Keys and values of a condition, and the rows of the batch that see them.

    Attributes:
        context: (B, S, C) each; sound has them per frame, (B, F, S, C).
        rows: who sees which of the B.
        frames: (F,), what each frame adds to the number of the context that its row sees (Hallo's
            two portraits); None for nothing.
    """

    context: KeyValue
    rows: Rows = ALL_ROWS
    frames: Tensor | None = None

    def laid_out(self) -> KeyValue:
        """Keys and values for the rows that see them."""
        key, value = self.context
        return self.rows.condition(key), self.rows.condition(value)

    def laid_out_frames(self, num_rows: int, num_frames: int) -> KeyValue:
        """Keys and values (r * F, S, C) for every frame of the r rows that see them."""
        key, value = self.context
        rows = self.rows.source
        if rows is None:
            rows = torch.arange(num_rows, device=key.device)
        frames = rows.new_zeros(num_frames) if self.frames is None else self.frames
        index = (rows[:, None] + frames).flatten()
        return key[index], value[index]


@dataclass(frozen=True)
class SpatialInputs:
    """What a spatial transformer sees beside its frames; each None for none.

    Attributes:
        num_frames: F.
        reference: the portrait at this spot.
        face: tokens of a face embedding (Hallo).
        audio: the clip's sound, once for each audio attention of the spot.
        self_bias: (num_heads, N, N) added in self-attention.
        reference_bias: (num_heads, N, S) added in reference attention to S tokens.
        masks: (3, N) full, face and lip region at this level (Hallo).
        motion_weights: what is heard in each of these regions is multiplied by.
    """

    num_frames: int
    reference: Seen | None = None
    face: Seen | None = None
    audio: tuple[Seen, ...] = ()
    self_bias: Tensor | None = None
    reference_bias: Tensor | None = None
    masks: Tensor | None = None
    motion_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)


class TransformerBlock(nn.Module):
    """Attentions and feed-forward; which attentions there are is the configuration's choice.

    Args:
        width: of the tokens.
        config: the model.
        audio: whether an audio attention hangs here (EMO's backbone).
        reference: whether a reference attention of its own hangs here (EMO's backbone).
        build: where layers come from.
    """

    def __init__(
        self, width: int, config: EMOConfig, audio: bool, reference: bool, build: Build
    ) -> None:
        super().__init__()
        unet = config.unet
        heads = unet.num_heads
        self.norm1 = build.layer_norm(width)
        self.attn1 = Attention(width, width, heads, build)
        self.norm2: nn.Module | None = None
        self.attn2: Attention | None = None
        if reference or unet.face_tokens:
            context = width if reference else unet.face_token_width
            self.norm2 = build.layer_norm(width)
            self.attn2 = Attention(width, context, heads, build)
        self.norm_audio: nn.Module | None = None
        self.attn_audio: Attention | None = None
        if audio:
            self.norm_audio = build.layer_norm(width)
            self.attn_audio = Attention(width, config.audio.token_width, heads, build)
        self.norm3 = build.layer_norm(width)
        self.ff = FeedForward(width, unet.feed_forward_mult, build)
        self.concatenates = unet.reference_attention == "concat"

    def project_reference(self, features: Tensor) -> KeyValue:
        """Keys and values of the portrait's features (B, N, C) for this block."""
        attention = self.attn1 if self.concatenates or self.attn2 is None else self.attn2
        return attention.project_kv(features)

    def forward(self, tokens: Tensor, inputs: SpatialInputs) -> Tensor:
        """(R * F, N, C) to the same."""
        tokens = self.attend_self(tokens, inputs)
        if self.attn2 is not None and self.norm2 is not None:
            seen = inputs.face if self.concatenates else inputs.reference
            bias = None if self.concatenates else inputs.reference_bias
            if seen is not None and not seen.rows.empty:
                tokens = attend_shared(tokens, self.norm2, self.attn2, seen, inputs, bias)
        if self.attn_audio is not None and self.norm_audio is not None:
            for seen in inputs.audio:
                tokens = attend_per_frame(tokens, self.norm_audio, self.attn_audio, seen)
        out: Tensor = tokens + self.ff(self.norm3(tokens))
        return out

    def attend_self(self, tokens: Tensor, inputs: SpatialInputs) -> Tensor:
        """Self-attention; with `concat`, rows that see the portrait have its tokens as keys too."""
        normed = self.norm1(tokens)
        own = self.attn1.project_kv(normed)
        seen = inputs.reference
        if not self.concatenates or seen is None or seen.rows.empty:
            out: Tensor = tokens + self.attn1(normed, own, inputs.self_bias)
            return out
        frames = inputs.num_frames
        by_row = rearrange(torch.stack([normed, *own]), "k (R F) N C -> k R F N C", F=frames)
        blind = seen.rows.blind(by_row.shape[1])
        change = torch.empty_like(by_row[0])
        if len(blind):
            query, key, value = rearrange(by_row[:, blind], "k r F N C -> k (r F) N C")
            alone = self.attn1(query, (key, value))
            change[blind] = rearrange(alone, "(r F) N C -> r F N C", F=frames)
        index = slice(None) if seen.rows.index is None else seen.rows.index
        query, key, value = rearrange(by_row[:, index], "k r F N C -> k (r F) N C")
        portrait = seen.laid_out_frames(by_row.shape[1] - len(blind), frames)
        joined = (torch.cat([key, portrait[0]], dim=1), torch.cat([value, portrait[1]], dim=1))
        change[index] = rearrange(self.attn1(query, joined), "(r F) N C -> r F N C", F=frames)
        joint: Tensor = tokens + rearrange(change, "R F N C -> (R F) N C")
        return joint


def attend_shared(
    tokens: Tensor, norm: nn.Module, attention: Attention, seen: Seen,
    inputs: SpatialInputs, bias: Tensor | None,
) -> Tensor:
    """Cross-attention of all frames (R * F, N, C) to keys that the frames of a row share.

    Without a bias the frames become more queries of one call, so that nothing is repeated.
    """
    frames = inputs.num_frames
    by_row = rearrange(tokens, "(R F) N C -> R (F N) C", F=frames)
    query = norm(seen.rows.select(by_row))
    key, value = seen.laid_out()
    if bias is not None:
        query = rearrange(query, "r (F N) C -> (r F) N C", F=frames)
        key, value = (repeat(t, "r S C -> (r F) S C", F=frames) for t in (key, value))
    change = attention(query, (key, value), bias)
    if bias is not None:
        change = rearrange(change, "(r F) N C -> r (F N) C", F=frames)
    by_row = seen.rows.add(by_row, change)
    out: Tensor = rearrange(by_row, "R (F N) C -> (R F) N C", F=frames)
    return out


def attend_per_frame(
    tokens: Tensor, norm: nn.Module, attention: Attention, seen: Seen
) -> Tensor:
    """Cross-attention of every frame of (R * F, N, C) to keys of its own, (B, F, S, C)."""
    if seen.rows.empty:
        return tokens
    key, value = seen.laid_out()
    frames = key.shape[1]
    by_row = rearrange(tokens, "(R F) N C -> R F N C", F=frames)
    query = rearrange(norm(seen.rows.select(by_row)), "r F N C -> (r F) N C")
    change = attention(query, (key.flatten(0, 1), value.flatten(0, 1)))
    by_row = seen.rows.add(by_row, rearrange(change, "(r F) N C -> r F N C", F=frames))
    out: Tensor = rearrange(by_row, "R F N C -> (R F) N C")
    return out


class SpatialTransformer(nn.Module):
    """Entrance, one TransformerBlock, exit, residual (diffusers' Transformer2DModel by names).

    With `features_only` it ends at the block's first norm: all that ReferenceNet's last one is for.
    """

    def __init__(
        self, spot: Spot, config: EMOConfig, backbone: bool, build: Build,
        features_only: bool = False,
    ) -> None:
        super().__init__()
        unet, width = config.unet, spot.width
        self.norm = build.group_norm(unet.norm_groups, width, eps=1e-6)
        self.proj_in = build.conv(width, width, size=1)
        block: nn.Module
        if features_only:
            block = nn.Module()
            block.add_module("norm1", build.layer_norm(width))
        else:
            audio = backbone and config.audio.attention == "layer"
            reference = backbone and unet.reference_attention == "layer"
            block = TransformerBlock(width, config, audio, reference, build)
            self.proj_out = build.conv(width, width, size=1)
        self.transformer_blocks = nn.ModuleList([block])

    @property
    def block(self) -> TransformerBlock:
        """The only block of `transformer_blocks`, unless it is for features only."""
        block = self.transformer_blocks[0]
        assert isinstance(block, TransformerBlock)
        return block

    def enter(self, hidden_states: Tensor) -> Tensor:
        """(N, C, h, w) to tokens (N, h * w, C) at the block's entrance."""
        tokens: Tensor = rearrange(
            self.proj_in(self.norm(hidden_states)), "N C h w -> N (h w) C"
        )
        return tokens

    def features(self, tokens: Tensor) -> Tensor:
        """What ReferenceNet gives away: the input of its self-attention (see reference.py)."""
        out: Tensor = self.transformer_blocks[0].get_submodule("norm1")(tokens)
        return out

    def leave(self, hidden_states: Tensor, tokens: Tensor, inputs: SpatialInputs) -> Tensor:
        """From the block's entrance to the exit, added to what came in."""
        height, width = hidden_states.shape[-2:]
        picture = rearrange(self.block(tokens, inputs), "N (h w) C -> N C h w", h=height, w=width)
        out: Tensor = hidden_states + self.proj_out(picture)
        return out

    def forward(self, hidden_states: Tensor, inputs: SpatialInputs) -> Tensor:
        """(R * F, C, h, w) to the same."""
        return self.leave(hidden_states, self.enter(hidden_states), inputs)
