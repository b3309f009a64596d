"""Numbers are looked through in pieces."""

from __future__ import annotations

import pytest
import torch

from emo_core import finite
from emo_core.finite import all_finite
from emo_core.live_bytes import LiveBytes


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_last_number_counts(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    monkeypatch.setattr(finite, "_PIECE_ITEMS", 40)
    tensor = torch.zeros(101, 2, 5)
    assert all_finite(tensor)
    tensor[-1, -1, -1] = value
    assert not all_finite(tensor)
    assert all_finite(tensor[:0])


def test_it_makes_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite, "_PIECE_ITEMS", 100)
    tensor = torch.zeros(1000, 10)
    with LiveBytes() as live:
        assert all_finite(tensor)
    assert live.peak < tensor.nbytes / 50
