"""Whether all numbers of a tensor are numbers, without a copy of it."""

from __future__ import annotations

import torch
from torch import Tensor

_PIECE_ITEMS = 1 << 20


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor (N, ...) holds no NaN and nothing infinite.

    It is looked through in pieces of its first axis: a film may be longer than the memory, and
    torch.isfinite() makes a copy of what it is given.
    """
    rows = max(1, _PIECE_ITEMS * len(tensor) // max(1, tensor.numel()))
    return all(bool(torch.isfinite(piece).all()) for piece in torch.split(tensor, rows))
