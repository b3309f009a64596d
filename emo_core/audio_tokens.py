"""Features of frames to audio tokens: the window of EMO, "Audio Layers", and its projections."""

import torch
from einops import rearrange
from torch import Tensor, nn

from .attention import Build
from .config import AudioConfig


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

    The paper does not say how many tokens a window makes; one a frame keeps the order of the
    frames, which the learned positions name. Hallo's way is `HalloAudioProjection`.
    """

    def __init__(self, config: AudioConfig, build: Build) -> None:
        super().__init__()
        features = config.num_layers * config.layer_width
        self.proj = build.linear(features, config.token_width)
        self.norm = build.layer_norm(config.token_width)
        self.position = build.embedding(2 * config.window + 1, config.token_width)

    def forward(self, features: Tensor) -> Tensor:
        """Project windows (B, F, 2m+1, L, D) to tokens (B, F, 2m+1, token_width)."""
        tokens: Tensor = self.norm(self.proj(rearrange(features, "B F W L D -> B F W (L D)")))
        places = torch.arange(features.shape[2], device=features.device)
        position: Tensor = self.position(places)
        return tokens + position.to(tokens.dtype)


class HalloAudioProjection(nn.Module):
    """Hallo's features to audio tokens: a window of frames becomes 32 tokens through an MLP."""

    def __init__(self, config: AudioConfig, build: Build) -> None:
        super().__init__()
        features = (2 * config.window + 1) * config.num_layers * config.layer_width
        hidden, width = config.hidden_width, config.token_width
        self.num_tokens = config.num_tokens
        self.proj1 = build.linear(features, hidden)
        self.proj2 = build.linear(hidden, hidden)
        self.proj3 = build.linear(hidden, config.num_tokens * width)
        self.norm = build.layer_norm(width)

    def forward(self, features: Tensor) -> Tensor:
        """Project windows (B, F, 2m+1, L, D) to tokens (B, F, num_tokens, token_width)."""
        hidden = rearrange(features, "B F W L D -> B F (W L D)")
        hidden = torch.relu(self.proj2(torch.relu(self.proj1(hidden))))
        tokens = rearrange(self.proj3(hidden), "B F (T D) -> B F T D", T=self.num_tokens)
        normed: Tensor = self.norm(tokens)
        return normed
