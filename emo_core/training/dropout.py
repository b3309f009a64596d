"""What condition dropout drops in training, so that guidance has something to go by."""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention import Rows
from ..conditions import Audience

# Chance that a sample sees no condition at all, only no sound, only no portrait: what guidance
# needs. The paper mentions no condition dropout; Hallo's is 0.05 for each.
_DROP_ALL, _DROP_AUDIO, _DROP_REFERENCE = 0.08, 0.05, 0.02
_DROP_SPEED = 0.25


def draw_audience(count: int, generator: torch.Generator, device: torch.device) -> Audience:
    """Draw which samples see which condition."""
    luck = torch.rand(count, generator=generator, device=device)
    slow = torch.rand(count, generator=generator, device=device)
    nothing = luck < _DROP_ALL
    no_audio = nothing | (luck > 1 - _DROP_AUDIO)
    no_reference = nothing | ((luck > _DROP_ALL) & (luck < _DROP_ALL + _DROP_REFERENCE))

    def rows(dropped: Tensor) -> Rows:
        index = (~dropped).nonzero().flatten()
        return Rows() if len(index) == count else Rows(index, index)

    return Audience(
        reference=rows(no_reference),
        audio=rows(no_audio),
        region=rows(nothing),
        speed=rows(nothing | (slow < _DROP_SPEED)),
    )
