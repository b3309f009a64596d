"""What a clip sees of the frames before it when they go through pixels, as Hallo's do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .clips import ClipPlan, Noise
from .config import TemporalConfig

Coder = Callable[[Tensor], Tensor]


class PixelHandOver:
    """Motion frames decoded, clamped, with Hallo2 partly greyed, and encoded again.

    Args:
        decode: latents (n, C, h, w) to pictures (n, 3, H, W) of about -1..1.
        encode: the way back.
        config: how many motion frames, and the share of pixels that is greyed.
        greyed: what Hallo2's share needs; None where it is 0.
    """

    def __init__(
        self, decode: Coder, encode: Coder, config: TemporalConfig, greyed: Greyed | None = None
    ) -> None:
        if config.motion_mask and greyed is None:
            raise ValueError(
                f"motion_mask={config.motion_mask:g} greys pixels outside the face, which needs "
                "the portrait's picture, its region and random numbers; give them as Greyed"
            )
        self._decode, self._encode, self._config = decode, encode, config
        self._greyed = greyed if config.motion_mask else None

    def __call__(self, last: Tensor | None, plan: ClipPlan) -> Tensor | None:
        """Latents (1, n, C, h, w) before a clip, None at a film's beginning, to what it sees.

        See emo_core.generate.HandOver.
        """
        if self._greyed is None:
            if last is None:
                return None
            return self._encode(self._decode(last[0]).clamp(-1, 1))[None]
        count = self._config.num_motion_frames
        if last is None:
            pictures = self._greyed.picture.expand(count, -1, -1, -1)
        else:
            pictures = self._decode(last[0]).clamp(-1, 1)
        keep = self._greyed.keep(plan.index, self._config.motion_mask).to(pictures)
        return self._encode(pictures * keep)[None]


class Greyed:
    """Which pixels of a clip's motion frames Hallo2 keeps: a share at random, and the face.

    Args:
        picture: (1, 3, H, W) in -1..1, the portrait: a film's first motion frames.
        region: (channels, H, W), face region, above 0 inside.
        noise: random numbers of every clip.
    """

    def __init__(self, picture: Tensor, region: Tensor, noise: Noise) -> None:
        self.picture, self._region, self._noise = picture, region, noise

    def keep(self, index: int, share: float) -> Tensor:
        """(H, W), 1 where a pixel of clip `index` stays and 0 where it becomes grey."""
        height, width = self.picture.shape[-2:]
        numbers = self._noise.pixels(index, (height, width))
        inside = self._region.amax(0).cpu() > 0
        return torch.logical_or(numbers > share, inside).float()
