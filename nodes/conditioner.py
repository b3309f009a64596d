"""emo_core's Conditioner as the loop over clips calls it, loaded by the host for every call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..emo_core.conditions import Conditions
from ..emo_core.model import ClipInputs, Conditioner
from ..emo_core.reference import Bank
from .host import EMOParts, on_device


class HostConditioner:
    """Stands in the place of a Conditioner in `generate()`; what it gives rests on the CPU.

    Between two clips the sampler may have pushed its weights off the device, so every call asks
    the host for them again; where they still lie there that costs nothing.

    Args:
        parts: of the MODEL.
        portrait: ReferenceNet's features of the portrait, encoded before.
    """

    def __init__(self, parts: EMOParts, portrait: Bank) -> None:
        self.config = parts.config
        self._patcher, self._dtype = parts.conditioner, parts.compute_dtype
        self._portrait = portrait

    def encode_portrait(self, latents: Tensor, face: Tensor | None = None) -> Bank:
        """ReferenceNetEncode has done it."""
        return self._portrait

    def encode_motion(self, latents: Tensor, face: Tensor | None = None) -> Bank:
        """See Conditioner.encode_motion()."""
        seen = None if face is None else self._moved(face)
        return _rest(self._module().encode_motion(self._moved(latents), seen))

    def no_motion(self, portrait: Bank) -> Bank:
        """See Conditioner.no_motion(), which needs no weights."""
        module: Conditioner = self._patcher.model
        return module.no_motion(portrait)

    def conditions(self, portrait: Bank, motion: Bank | None, inputs: ClipInputs) -> Conditions:
        """See Conditioner.conditions()."""
        speed, face = (
            None if tensor is None else self._moved(tensor)
            for tensor in (inputs.speed, inputs.face)
        )
        moved = ClipInputs(
            self._moved(inputs.audio), self._moved(inputs.region), speed, face, inputs.masks
        )
        made = self._module().conditions({}, None, moved)
        made = made.to(torch.device("cpu"), self._dtype)
        return replace(made, reference=replace(made.reference, portrait=portrait, motion=motion))

    def _module(self) -> Any:
        return on_device(self._patcher)

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._patcher.load_device, self._dtype)


@torch.no_grad()
def encode_portrait(parts: EMOParts, latents: Tensor, face: Tensor | None = None) -> Bank:
    """ReferenceNet's features of a person's pictures, on the CPU.

    Args:
        parts: of the MODEL.
        latents: (r, C, h, w), of the pictures.
        face: (1, D), the person's face embedding; None for the face of nobody.
    """
    module = on_device(parts.conditioner)
    place = (parts.conditioner.load_device, parts.compute_dtype)
    seen = None if face is None else face.to(*place)
    return _rest(module.encode_portrait(latents[None].to(*place), seen))


def _rest(bank: Bank) -> Bank:
    return {name: tensor.cpu() for name, tensor in bank.items()}
