"""attend(), the only call of scaled-dot-product attention, and the Attention layer around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

KeyValue = tuple[Tensor, Tensor]
Attend = Callable[[Tensor, Tensor, Tensor, int, Tensor | None], Tensor]


def attend(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, bias: Tensor | None = None
) -> Tensor:
    """Attend from every query token to every key token.

    Args:
        query: (B, N, D).
        key: (B, S, D).
        value: (B, S, D).
        num_heads: divides D.
        bias: (num_heads, N, S), added to the scaled products before the softmax; None for none.

    Returns:
        (B, N, D), in the query's dtype.

    Raises:
        ValueError: if D is not divisible by num_heads.
    """
    if query.shape[-1] % num_heads:
        raise ValueError(f"width {query.shape[-1]} must be divisible by num_heads={num_heads}")
    query, key, value = (
        rearrange(tokens, "B N (H d) -> B H N d", H=num_heads) for tokens in (query, key, value)
    )
    mask = None if bias is None else bias.to(query.dtype)[None]
    mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    out: Tensor = rearrange(mixed, "B H N d -> B N (H d)")
    return out


@dataclass(frozen=True)
class Build:
    """Where layers come from: the namespace of their classes, their dtype and their device.

    ComfyUI gives its own namespace, so that its casting, offloading and LoRA reach every weight;
    an attribute `attend` of that namespace replaces attend() by the host's attention.
    """

    operations: Any = nn
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None

    def linear(self, in_width: int, out_width: int, bias: bool = True) -> nn.Module:
        """A linear layer."""
        layer: nn.Module = self.operations.Linear(
            in_width, out_width, bias=bias, dtype=self.dtype, device=self.device
        )
        return layer

    def conv(self, in_width: int, out_width: int, size: int = 3, stride: int = 1) -> nn.Module:
        """A two-dimensional convolution that keeps the size (divided by the stride)."""
        layer: nn.Module = self.operations.Conv2d(
            in_width, out_width, size, stride=stride, padding=size // 2,
            dtype=self.dtype, device=self.device,
        )
        return layer

    def group_norm(self, groups: int, width: int, eps: float) -> nn.Module:
        """A GroupNorm with scale and shift."""
        layer: nn.Module = self.operations.GroupNorm(
            groups, width, eps=eps, dtype=self.dtype, device=self.device
        )
        return layer

    def layer_norm(self, width: int) -> nn.Module:
        """A LayerNorm over the last axis."""
        layer: nn.Module = self.operations.LayerNorm(width, dtype=self.dtype, device=self.device)
        return layer

    def embedding(self, count: int, width: int) -> nn.Module:
        """A table of `count` learned vectors."""
        layer: nn.Module = self.operations.Embedding(
            count, width, dtype=self.dtype, device=self.device
        )
        return layer

    @property
    def attend(self) -> Attend:
        """The attention function of this namespace, attend() unless it brings its own."""
        backend: Attend = getattr(self.operations, "attend", attend)
        return backend


class Attention(nn.Module):
    """Multi-head attention with diffusers' names, keys and values apart from the attending.

    Keys and values of a context that does not change between sampling steps are projected once,
    by project_kv(), and handed to forward() at every step.
    """

    def __init__(self, width: int, context_width: int, num_heads: int, build: Build) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attend = build.attend
        self.to_q = build.linear(width, width, bias=False)
        self.to_k = build.linear(context_width, width, bias=False)
        self.to_v = build.linear(context_width, width, bias=False)
        self.to_out = nn.ModuleList([build.linear(width, width)])

    def project_kv(self, context: Tensor) -> KeyValue:
        """Keys and values, (..., S, width) each, of a context (..., S, context_width)."""
        return self.to_k(context), self.to_v(context)

    def forward(self, tokens: Tensor, context: KeyValue, bias: Tensor | None = None) -> Tensor:
        """Attend from tokens (B, N, width) to projected keys and values (B, S, width)."""
        key, value = context
        out = self.attend(self.to_q(tokens), key, value, self.num_heads, bias)
        projected: Tensor = self.to_out[0](out)
        return projected


@dataclass(frozen=True)
class Rows:
    """Which rows of a batch see a condition: that is all that dropping a condition means.

    A dropped condition's layer adds nothing to the rows that do not see it, and costs nothing.

    Attributes:
        index: (r,) the rows that see it; None for all.
        source: (r,) for each of them the row of the condition it sees; None for the same order.
        rest: the rows that do not see it; None to be found from `index`, which waits for a GPU.
    """

    index: Tensor | None = None
    source: Tensor | None = None
    rest: Tensor | None = None

    @property
    def empty(self) -> bool:
        """Whether no row sees the condition."""
        return self.index is not None and len(self.index) == 0

    def blind(self, count: int) -> Tensor:
        """The rows of a batch of `count` that do not see the condition."""
        if self.rest is not None:
            return self.rest
        if self.index is None:
            return torch.empty(0, dtype=torch.long)
        unseen = torch.ones(count, dtype=torch.bool, device=self.index.device)
        unseen[self.index] = False
        return unseen.nonzero().flatten()

    def select(self, rows: Tensor) -> Tensor:
        """The rows (r, ...) of a batch (R, ...) that see the condition."""
        return rows if self.index is None else rows[self.index]

    def condition(self, condition: Tensor) -> Tensor:
        """The condition (B, ...) laid out for the rows that see it, (r, ...)."""
        return condition if self.source is None else condition[self.source]

    def add(self, rows: Tensor, change: Tensor) -> Tensor:
        """Add change (r, ...) to the rows of (R, ...) that see the condition."""
        if self.index is None:
            return rows + change
        return rows.index_add(0, self.index, change.to(rows.dtype))


ALL_ROWS = Rows()


class RelativePositions(nn.Module):
    """A learned bias for each head and each offset between two places of a grid.

    EMO has none: SD 1.5 learns positions from billions of pictures. A small model trained from
    nothing finds the portrait's matching place some ten times sooner when each head starts as a
    Gaussian of the distance, which is why emo-tiny has them.

    Args:
        num_heads: heads of the attentions it serves.
        grid: largest number of rows or columns told apart; farther offsets share the last entry.
        build: where the table comes from.
    """

    def __init__(self, num_heads: int, grid: int, build: Build) -> None:
        super().__init__()
        self.grid = grid
        self.table = build.embedding((2 * grid - 1) ** 2, num_heads)

    def reset_parameters(self, scales: tuple[float, ...]) -> None:
        """Start head h as -(dy^2 + dx^2) / (2 scales[h]^2), not below -6."""
        offsets = torch.arange(1 - self.grid, self.grid, dtype=torch.float32)
        square = (offsets[:, None] ** 2 + offsets[None, :] ** 2).flatten()
        start = torch.stack([(-square / (2 * s * s)).clamp(min=-6.0) for s in scales], dim=-1)
        with torch.no_grad():
            weight = self.table.weight
            assert isinstance(weight, Tensor)
            weight.copy_(start)

    def forward(self, height: int, width: int, device: torch.device) -> Tensor:
        """The bias (num_heads, height * width, height * width) of a grid onto itself."""
        index = offset_index(height, width, self.grid).to(device)
        bias: Tensor = rearrange(self.table(index), "N S H -> H N S")
        return bias.contiguous()


def offset_index(height: int, width: int, grid: int) -> Tensor:
    """Entry of a RelativePositions table for every pair of the N = height * width places (N, N)."""
    span = 2 * grid - 1
    rows, columns = torch.arange(height), torch.arange(width)
    dy = (rows[None, :] - rows[:, None]).clamp(1 - grid, grid - 1) + grid - 1
    dx = (columns[None, :] - columns[:, None]).clamp(1 - grid, grid - 1) + grid - 1
    index: Tensor = rearrange(
        dy[:, None, :, None] * span + dx[None, :, None, :], "y x v u -> (y x) (v u)"
    )
    return index
