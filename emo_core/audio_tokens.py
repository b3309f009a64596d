"""Features of frames to audio tokens: the window of EMO, "Audio Layers", and its projections."""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn


def window_features(features: Tensor, first: int, count: int, m: int) -> Tensor:
    """Give every frame of a clip its neighbours: EMO's A_gen, 2m+1 frames of features.

    Args:
        features: (F, L, D) of the film.
        first: the clip's first frame; may lie before or after the film (the ends are held).
        count: frames of the clip.
        m: neighbours on each side.

    Returns:
        (count, 2m+1, L, D).
    """
    frames = torch.arange(first, first + count)[:, None] + torch.arange(-m, m + 1)
    return features[frames.clamp(0, features.shape[0] - 1)]


class AudioProjection(nn.Module):
    """EMO's features to audio tokens: one token per frame of the window.

    The paper does not say how many tokens a window makes; five tokens keep the order of the
    frames, which the learned positions name. Hallo's way is `HalloAudioProjection`.

    Args:
        num_layers: L, blocks of the audio encoder.
        width: D, numbers per block.
        window: 2m+1 frames.
        token_dim: numbers per token.
        operations: namespace of the leaf layers.
        dtype: of the parameters.
        device: of the parameters.
    """

    def __init__(
        self,
        num_layers: int,
        width: int,
        window: int,
        token_dim: int,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.proj = operations.Linear(num_layers * width, token_dim, dtype=dtype, device=device)
        self.norm = operations.LayerNorm(token_dim, dtype=dtype, device=device)
        self.position = operations.Embedding(window, token_dim, dtype=dtype, device=device)

    def forward(self, features: Tensor) -> Tensor:
        """Project windows (B, F, 2m+1, L, D) to tokens (B, F, 2m+1, token_dim)."""
        tokens: Tensor = self.norm(self.proj(rearrange(features, "b f w l d -> b f w (l d)")))
        places = torch.arange(features.shape[2], device=features.device)
        position: Tensor = self.position(places)
        return tokens + position.to(tokens.dtype)


class HalloAudioProjection(nn.Module):
    """Hallo's features to audio tokens: a window of frames becomes 32 tokens through an MLP.

    Args:
        in_features: numbers of a window, (2m+1) L D (Hallo: 5 * 12 * 768).
        hidden: width of the two hidden layers (Hallo: 512).
        num_tokens: tokens per frame (Hallo: 32).
        token_dim: numbers per token (Hallo: 768).
        operations: namespace of the leaf layers.
        dtype: of the parameters.
        device: of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        num_tokens: int,
        token_dim: int,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        place = {"dtype": dtype, "device": device}
        self.num_tokens = num_tokens
        self.proj1 = operations.Linear(in_features, hidden, **place)
        self.proj2 = operations.Linear(hidden, hidden, **place)
        self.proj3 = operations.Linear(hidden, num_tokens * token_dim, **place)
        self.norm = operations.LayerNorm(token_dim, **place)

    def forward(self, features: Tensor) -> Tensor:
        """Project windows (B, F, 2m+1, L, D) to tokens (B, F, num_tokens, token_dim)."""
        hidden = rearrange(features, "b f w l d -> b f (w l d)")
        hidden = torch.relu(self.proj2(torch.relu(self.proj1(hidden))))
        tokens = rearrange(self.proj3(hidden), "b f (t d) -> b f t d", t=self.num_tokens)
        normed: Tensor = self.norm(tokens)
        return normed
