"""Layers whose gradients are fast on a CPU."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from einops import rearrange
from torch import Tensor, nn

from . import fast_norm


def operations() -> SimpleNamespace:
    """Layers for training on a CPU: a GroupNorm and an attention whose gradients are fast there."""
    return SimpleNamespace(**{**vars(fast_norm.operations), "attend": _attend})


def _attend(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, bias: Tensor | None = None
) -> Tensor:
    """attend() by plain matrix products: 2 to 5 times faster than the fused one on a CPU."""
    query, key, value = (
        rearrange(tokens, "B N (H d) -> (B H) N d", H=num_heads) for tokens in (query, key, value)
    )
    scores = torch.bmm(query * query.shape[-1] ** -0.5, key.transpose(1, 2))
    if bias is not None:
        by_head = rearrange(scores, "(B H) N S -> B H N S", H=num_heads)
        scores = (by_head + bias.to(scores.dtype)).flatten(0, 1)
    out: Tensor = rearrange(
        torch.bmm(scores.softmax(dim=-1), value), "(B H) N d -> B N (H d)", H=num_heads
    )
    return out


def channels_last(module: nn.Module) -> None:
    """Lay out kernels as the convolutions of a CPU like them; changes the module in place."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
