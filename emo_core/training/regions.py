"""What the face region means in training: nothing, or how far the head goes in the film."""

from __future__ import annotations

import torch
from torch import Tensor

from ..face import CENTRED_PRIOR, Box, union_box

# Chances of a region that is the centred prior, the portrait's face box, or the union box of the
# piece; else it is that of the whole film. By how much the middle two are enlarged at most.
_KINDS, _MARGIN = (0.15, 0.2, 0.3), 0.03
# Chance of a region of everything for films whose heads have this much room and more, as a part of
# a face box; with less room it falls with its square.
_EVERYTHING, _FARTHEST = 0.8, 1 / 6


def draw_region(face: Tensor, boxes: Tensor, whole: Tensor, generator: torch.Generator) -> Box:
    """A region that says nothing of the film, or one that tells how far the head goes in it.

    What most people have says nothing: the portrait's face box, at most 3 % larger on each side,
    or the centred prior, in which the head need not be. The union box of the piece is the paper's
    ("Face Locator"). That of the whole film is enlarged at random on every side by up to twice the
    room that it leaves the face, or it is everything, the more often the more room there is.

    Args:
        face: (4,), x, y, width and height of the portrait's face as parts of the picture.
        boxes: (F, 4), the same of the piece's frames.
        whole: (4,), the union box of the whole film.
        generator: of the draw.
    """
    room = max(0.0, float((whole[2:] / face[2:]).mean()) - 1)
    luck = torch.rand(4, generator=generator)
    kind = int((luck[2] > torch.tensor(_KINDS).cumsum(0)).sum())
    box, grow = whole, 2 * room * luck[:2]
    if kind == 0:
        box, grow = torch.tensor(CENTRED_PRIOR), torch.zeros(2)
    elif kind == 1:
        box, grow = face, _MARGIN * luck[:2]
    elif kind == 2:
        box, grow = torch.tensor(union_box(boxes)), _MARGIN * luck[:2]
    elif luck[3] < _EVERYTHING * min(1.0, (room / _FARTHEST) ** 2):
        grow = torch.ones(2) / box[2:]
    low, high = box[:2] - grow * box[2:], box[:2] + (1 + grow) * box[2:]
    low, high = low.clamp(0, 1), high.clamp(0, 1)
    x, y, width, height = torch.cat([low, high - low]).tolist()
    return x, y, width, height
