"""Face box -> region mask -> locator embedding; tokens of a face embedding.

EMO, "Face Locator": the union of the face boxes over the clip as a mask, encoded by light
convolutions and added to the noisy latents. A box is (x, y, width, height) as fractions of the
picture, so that it survives every resize.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from .attention import Build
from .config import LocatorConfig, UNetConfig

Box = tuple[float, float, float, float]

# Where a face most likely is in a portrait when nobody says: upper middle, two thirds high.
CENTRED_PRIOR: Box = (0.22, 0.14, 0.56, 0.66)
WHOLE_PICTURE: Box = (0.0, 0.0, 1.0, 1.0)


def check_box(box: Box) -> Box:
    """Return the box, or say what is wrong with it.

    Raises:
        ValueError: if it has no area, is not finite, or reaches outside the picture.
    """
    x, y, width, height = box
    if not all(map(math.isfinite, box)) or width <= 0 or height <= 0:
        raise ValueError(f"a face box needs a width and a height above 0, got {box}")
    if x < 0 or y < 0 or x + width > 1 + 1e-6 or y + height > 1 + 1e-6:
        raise ValueError(
            f"the face box {box} reaches outside the picture; it is x, y, width, height as "
            "fractions of the picture, within 0 to 1"
        )
    return box


def expand_box(box: Box, horizontal: float, vertical: float) -> Box:
    """Scale a box about its middle by the two factors, cut at the picture's edges."""
    x, y, width, height = box
    half_width, half_height = width * horizontal / 2, height * vertical / 2
    middle_x, middle_y = x + width / 2, y + height / 2
    left, top = max(middle_x - half_width, 0.0), max(middle_y - half_height, 0.0)
    right, bottom = min(middle_x + half_width, 1.0), min(middle_y + half_height, 1.0)
    return left, top, right - left, bottom - top


def union_box(boxes: Tensor) -> Box:
    """The smallest box around boxes (F, 4): EMO's union over a clip."""
    left, top = boxes[:, 0].min().item(), boxes[:, 1].min().item()
    right = (boxes[:, 0] + boxes[:, 2]).max().item()
    bottom = (boxes[:, 1] + boxes[:, 3]).max().item()
    return left, top, right - left, bottom - top


def region_mask(box: Box, height: int, width: int) -> Tensor:
    """The box as a mask (1, height, width), 1 inside; cells at its edge are covered in part."""
    x, y, box_width, box_height = box

    def cover(first: float, extent: float, size: int) -> Tensor:
        edges = torch.arange(size + 1, dtype=torch.float32)
        inside = edges.clamp(first * size, (first + extent) * size)
        return inside[1:] - inside[:-1]

    return (cover(y, box_height, height)[:, None] * cover(x, box_width, width)[None, :])[None]


class FaceLocator(nn.Module):
    """Light convolutions from the region mask to what is added at the backbone's beginning.

    The paper adds the code to the noisy latents themselves, four channels; every published
    relative adds as many channels as the first convolution gives, and so do our presets
    (LocatorConfig.place). Names and strides are Hallo's.
    """

    def __init__(self, config: LocatorConfig, out_width: int, build: Build) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = build.conv(config.in_channels, widths[0])
        self.blocks = nn.ModuleList()
        for before, after in pairwise(widths):
            self.blocks.append(build.conv(before, before))
            self.blocks.append(build.conv(before, after, stride=2))
        self.conv_out = build.conv(widths[-1], out_width)

    def forward(self, mask: Tensor) -> Tensor:
        """(B, in_channels, H, W), 0..1, to (B, out_width, H / 8, W / 8)."""
        hidden = functional.silu(self.conv_in(mask))
        for convolution in self.blocks:
            hidden = functional.silu(convolution(hidden))
        out: Tensor = self.conv_out(hidden)
        return out


class FaceEmbeddingProjection(nn.Module):
    """A face embedding -> tokens for the text attention (Hallo's `imageproj`)."""

    def __init__(self, config: UNetConfig, build: Build) -> None:
        super().__init__()
        self.num_tokens = config.face_tokens
        self.proj = build.linear(
            config.face_embedding_width, config.face_tokens * config.face_token_width
        )
        self.norm = build.layer_norm(config.face_token_width)

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, face_embedding_width) to (B, face_tokens, face_token_width)."""
        tokens = rearrange(self.proj(embedding), "B (T D) -> B T D", T=self.num_tokens)
        out: Tensor = self.norm(tokens)
        return out
