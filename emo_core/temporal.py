"""Temporal modules: frames attend over themselves, the motion frames and the head speed.

EMO, "Temporal Modules" and "Motion Frames": AnimateDiff's module at every resolution, whose input
is the motion frames' features (ReferenceNet's, of matching resolution) before the clip's frames.
EMO, "Speed Layers": a cross-attention to the speed features inside it. The paper does not say where
inside; ours comes after the self-attentions and before the feed-forward.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from .attention import ALL_ROWS, Attention, Build, KeyValue, Rows
from .config import EMOConfig
from .layers import FeedForward, sinusoids


@dataclass(frozen=True)
class MotionState:
    """What a temporal module keeps of the motion frames, the same at every sampling step.

    Attributes:
        hidden_states: (B * N, n, C), after the module's entrance.
        context: first attention's keys and values of them, (B * N, n, C) each.
        variants: 2 if they are there twice, (2B * N, n, C), first for rows that do not see the
            portrait.
    """

    hidden_states: Tensor
    context: KeyValue
    variants: int = 1


@dataclass(frozen=True)
class TemporalInputs:
    """What a temporal module sees beside its frames.

    Attributes:
        motion: the motion frames, laid out for the R rows of the batch; None for none.
        speed: keys and values of the clip's speeds, (B, F, C) each; None for none.
        speed_rows: the rows that see the speed.
        bias: (num_heads, n + F, n + F), relative positions in time; None for none.
    """

    motion: MotionState | None = None
    speed: KeyValue | None = None
    speed_rows: Rows = ALL_ROWS
    bias: Tensor | None = None


class PositionalEncoding(nn.Module):
    """A fixed table of positions, added to the tokens; `pe` is AnimateDiff's name of it."""

    pe: Tensor

    def __init__(self, width: int, length: int, device: torch.device | str | None) -> None:
        super().__init__()
        self.register_buffer("pe", sinusoids(length, width, device)[None])

    def forward(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Add positions first, first + 1, ... to tokens (B, F, width)."""
        return tokens + self.pe[:, first : first + tokens.shape[1]].to(tokens)


class TemporalAttention(Attention):
    """Self-attention over time with positions: motion frames 0..n-1, then the clip's frames."""

    def __init__(self, width: int, config: EMOConfig, build: Build) -> None:
        super().__init__(width, width, config.unet.num_heads, build)
        self.pos_encoder = PositionalEncoding(width, config.temporal.max_positions, build.device)


class TemporalBlock(nn.Module):
    """Self-attentions over time, speed attention, feed-forward."""

    def __init__(self, width: int, config: EMOConfig, build: Build) -> None:
        super().__init__()
        heads, count = config.unet.num_heads, config.temporal.num_attentions
        self.attention_blocks = nn.ModuleList(
            [TemporalAttention(width, config, build) for _ in range(count)]
        )
        self.norms = nn.ModuleList([build.layer_norm(width) for _ in range(count)])
        if config.speed is not None:
            self.speed_norm = build.layer_norm(width)
            self.speed_attention = Attention(width, config.speed.width, heads, build)
        self.ff = FeedForward(width, config.unet.feed_forward_mult, build)
        self.ff_norm = build.layer_norm(width)

    def attend_time(self, tokens: Tensor, inputs: TemporalInputs) -> Tensor:
        """Self-attentions of frames (R * N, F, C) over [motion frames ; frames].

        Motion frames leave as soon as nothing reads them any more: in the last attention they give
        keys and values but ask nothing, and the feed-forward never sees them. Same numbers.
        """
        past = None if inputs.motion is None else inputs.motion.hidden_states
        n = 0 if past is None else past.shape[1]
        asked = None if inputs.bias is None else inputs.bias[:, n:]
        last = len(self.attention_blocks) - 1
        for index, (attention, norm) in enumerate(
            zip(self.attention_blocks, self.norms, strict=True)
        ):
            assert isinstance(attention, TemporalAttention)
            normed = attention.pos_encoder(norm(tokens), first=n)
            context = attention.project_kv(normed)
            if past is not None and inputs.motion is not None:
                normed_past = attention.pos_encoder(norm(past))
                before = inputs.motion.context if index == 0 else attention.project_kv(normed_past)
                context = (
                    torch.cat([before[0], context[0]], dim=1),
                    torch.cat([before[1], context[1]], dim=1),
                )
                if index < last:
                    given = None if inputs.bias is None else inputs.bias[:, :n]
                    past = past + attention(normed_past, context, given)
            tokens = tokens + attention(normed, context, asked)
        return tokens

    def attend_speed(self, tokens: Tensor, num_places: int, inputs: TemporalInputs) -> Tensor:
        """Cross-attention of frames (R * N, F, C) to the speeds of the clip.

        The paper repeats the speed features over all places; keys do not depend on the place, so
        attending from all places at once to one copy gives the same numbers.
        """
        rows, speed = inputs.speed_rows, inputs.speed
        assert speed is not None
        frames = tokens.shape[1]
        grouped = rearrange(tokens, "(R N) F C -> R (N F) C", N=num_places)
        seen = rearrange(rows.select(grouped), "r (N F) C -> (r N) F C", F=frames)
        normed = _with_positions(self.speed_norm(seen))
        query = rearrange(normed, "(r N) F C -> r (N F) C", N=num_places)
        context = (rows.condition(speed[0]), rows.condition(speed[1]))
        grouped = rows.add(grouped, self.speed_attention(query, context))
        out: Tensor = rearrange(grouped, "R (N F) C -> (R N) F C", F=frames)
        return out


class TemporalModule(nn.Module):
    """One temporal module; its parameters lie below `temporal_transformer`, as in AnimateDiff."""

    def __init__(self, width: int, config: EMOConfig, build: Build) -> None:
        super().__init__()
        self.temporal_transformer = TemporalTransformer(width, config, build)

    def prepare(self, motion: Tensor) -> MotionState:
        """See TemporalTransformer.prepare()."""
        return self.temporal_transformer.prepare(motion)

    def project_speed(self, features: Tensor) -> KeyValue:
        """Keys and values (B, F, C) of speed features (B, F, l).

        Only keys carry positions: which frame a speed belongs to decides who attends to it, not
        what it says. A constant speed thus adds the same to every frame, wherever it is.
        """
        attention = self.temporal_transformer.block.speed_attention
        return attention.to_k(_with_positions(features)), attention.to_v(features)

    def forward(self, hidden_states: Tensor, num_frames: int, inputs: TemporalInputs) -> Tensor:
        """See TemporalTransformer.forward()."""
        out: Tensor = self.temporal_transformer(hidden_states, num_frames, inputs)
        return out


class TemporalTransformer(nn.Module):
    """Entrance, one temporal block, exit, residual."""

    def __init__(self, width: int, config: EMOConfig, build: Build) -> None:
        super().__init__()
        self.norm = build.group_norm(config.unet.norm_groups, width, eps=1e-6)
        self.proj_in = build.linear(width, width)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(width, config, build)])
        self.proj_out = build.linear(width, width)

    @property
    def block(self) -> TemporalBlock:
        """The only block of `transformer_blocks`."""
        block = self.transformer_blocks[0]
        assert isinstance(block, TemporalBlock)
        return block

    def prepare(self, motion: Tensor) -> MotionState:
        """Project the motion frames once for all sampling steps.

        Args:
            motion: (B, n, C, h, w), ReferenceNet's features at this module.
        """
        batch = motion.shape[0]
        frames = self.norm(rearrange(motion, "B n C h w -> (B n) C h w"))
        hidden = self.proj_in(rearrange(frames, "(B n) C h w -> (B h w) n C", B=batch))
        block = self.block
        attention = block.attention_blocks[0]
        assert isinstance(attention, TemporalAttention)
        normed = attention.pos_encoder(block.norms[0](hidden))
        return MotionState(hidden, attention.project_kv(normed))

    def forward(self, hidden_states: Tensor, num_frames: int, inputs: TemporalInputs) -> Tensor:
        """Mix frames over time.

        Args:
            hidden_states: (R * F, C, h, w).
            num_frames: F.
            inputs: motion frames, speed and bias of this module.

        Returns:
            (R * F, C, h, w).
        """
        height, width = hidden_states.shape[-2:]
        block = self.block
        frames = rearrange(self.norm(hidden_states), "(R F) C h w -> (R h w) F C", F=num_frames)
        tokens = block.attend_time(self.proj_in(frames), inputs)
        if inputs.speed is not None and not inputs.speed_rows.empty:
            tokens = block.attend_speed(tokens, height * width, inputs)
        tokens = tokens + block.ff(block.ff_norm(tokens))
        out: Tensor = rearrange(
            self.proj_out(tokens), "(R h w) F C -> (R F) C h w", h=height, w=width
        )
        return hidden_states + out


class TemporalPositions(nn.Module):
    """A learned bias for each head and each distance in time (emo-tiny; see RelativePositions)."""

    def __init__(self, num_heads: int, length: int, build: Build) -> None:
        super().__init__()
        self.length = length
        self.table = build.embedding(2 * length - 1, num_heads)

    def reset_parameters(self) -> None:
        """Start head h as -|distance| / (1.5 * 2^h)."""
        weight = self.table.weight
        assert isinstance(weight, Tensor)
        distance = torch.arange(1 - self.length, self.length).abs().float()
        with torch.no_grad():
            for head in range(weight.shape[1]):
                weight[:, head] = -distance / (1.5 * 2**head)

    def forward(self, length: int, device: torch.device) -> Tensor:
        """The bias (num_heads, length, length) among consecutive positions."""
        places = torch.arange(length, device=device)
        index = places[None, :] - places[:, None] + self.length - 1
        bias: Tensor = rearrange(self.table(index), "N S H -> H N S")
        return bias.contiguous()


def _with_positions(tokens: Tensor) -> Tensor:
    """Add sinusoids to tokens (B, F, D).

    The paper mentions no positions for the speed attention; without them on both sides it could not
    tell which speed belongs to which frame.
    """
    return tokens + sinusoids(tokens.shape[1], tokens.shape[2], tokens.device).to(tokens)
