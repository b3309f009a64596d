"""EMO's conditions as ComfyUI's samplers carry them: one object for all steps of a clip.

A CONDITIONING of this pack holds `emo_conditions` and, in `emo_sees`, which of them this branch of
guidance sees: the positive all, the negative none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..emo_core.conditions import CONDITIONS, Conditions
from .patches import mark

Conditioning = list[list[Any]]


@dataclass(frozen=True, eq=False)
class Branches:
    """What the rows of a batch see: a video's conditions, and which of them each row does."""

    conditions: Conditions
    sees: tuple[frozenset[str], ...]


class ClipCond:
    """One branch, in the form of comfy.conds.CONDRegular.

    Args:
        conditions: of the clip.
        sees: which of them this branch does.
        apart: whether it must run in a batch of its own.
    """

    def __init__(self, conditions: Conditions, sees: frozenset[str], apart: bool = False) -> None:
        self.conditions, self.sees, self.apart = conditions, sees, apart

    def process_cond(self, batch_size: int, **kwargs: Any) -> ClipCond:
        """The same for every batch: nothing is repeated over frames."""
        return self

    def can_concat(self, other: ClipCond) -> bool:
        """Branches of the same clip may run as one batch."""
        return self.conditions is other.conditions and not self.apart

    def concat(self, others: Sequence[ClipCond]) -> Branches:
        """All branches of a batch, in its order."""
        return Branches(self.conditions, tuple(cond.sees for cond in (self, *others)))

    def size(self) -> list[int]:
        """Nothing that grows with the batch."""
        return [1]


def conditioning(conditions: Conditions, sees: frozenset[str]) -> Conditioning:
    """A CONDITIONING of one branch; core's nodes want a tensor first, which EMO does not read."""
    return [[mark(), {"emo_conditions": conditions, "emo_sees": sees}]]


def positive_and_negative(conditions: Conditions) -> tuple[Conditioning, Conditioning]:
    """The two branches of plain guidance: everything, and nothing but the motion frames."""
    return conditioning(conditions, CONDITIONS), conditioning(conditions, frozenset())
