"""Latents that are there before a clip is sampled, and what of them is to be made anew.

One mechanism for image to image (an existing film voiced anew) and for frames that two clips share.
It is the inpainting of latent diffusion (Lugmayr et al., RePaint, arXiv 2201.09865, equation 8,
without its repeats), with masks between 0 and 1 too: at every step what stays follows the given
latents at the step's noise, and the prediction is blended with the one that leads to them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Given:
    """Latents of a film or of a clip.

    Attributes:
        latents: (B, F, C, h, w).
        mask: (B, F, 1, h, w), or F = 1 for all frames alike: 1 is to be made, 0 stays as it is,
            and between them both are blended; None makes everything.
        denoise: how much noise sampling begins with, 0 to 1: 1 is noise alone, and less keeps as
            much of the latents as the last part of the schedule does.
    """

    latents: Tensor
    mask: Tensor | None = None
    denoise: float = 1.0

    def clip(self, first: int, count: int) -> Given:
        """Of a film's latents those of one clip; the last frame is held."""
        frames = torch.arange(first, first + count, device=self.latents.device)
        mask = self.mask
        if mask is not None:
            mask = mask[:, frames.clamp(max=mask.shape[1] - 1)]
        return replace(
            self, latents=self.latents[:, frames.clamp(max=self.latents.shape[1] - 1)], mask=mask
        )

    def noised(self, noise: Tensor, left: Tensor) -> Tensor:
        """The latents under noise (B, F, C, h, w), `left` being their share of the variance."""
        return _root(left) * self.latents + _root(1 - left) * noise

    def hold(self, latents: Tensor, noise: Tensor, left: Tensor) -> Tensor:
        """What is being sampled, with what stays in its place, before a step."""
        if self.mask is None:
            return latents
        return latents * self.mask + self.noised(noise, left) * (1 - self.mask)

    def lead(self, prediction: Tensor, latents: Tensor, left: Tensor, kind: str) -> Tensor:
        """A prediction blended with the one that would give exactly these latents.

        Args:
            prediction: the network's.
            latents: what it was predicted from.
            left: share of the signal's variance there.
            kind: "epsilon" or "v_prediction".
        """
        if self.mask is None:
            return prediction
        a, b = _root(left), _root(1 - left)
        wanted = (latents - a * self.latents) / b
        if kind == "v_prediction":
            wanted = a * wanted - b * self.latents
        return prediction * self.mask + wanted * (1 - self.mask)

    def settle(self, latents: Tensor) -> Tensor:
        """What was sampled, and where nothing was to be made exactly what was given."""
        if self.mask is None:
            return latents
        return torch.where(self.mask == 0, self.latents, latents)


def _root(share: Tensor) -> float:
    return float(share.sqrt())
