"""Every intermediate can be had by public functions, and equals what Hallo's own code gave."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hallo_stages import LIMITS, error, stages
from published_hallo import WIDTHS, published, thinned


def test_every_stage_at_tiny_width(tmp_path: Path) -> None:
    theirs = published()
    errors = {name: error(ours, theirs[name]) for name, ours in stages(WIDTHS["tiny"](), tmp_path)}
    assert errors.keys() == theirs.keys()
    assert {n: e for n, e in errors.items() if not e <= LIMITS.get(n, 3e-5)} == {}


def test_thinned_numbers_are_compared_at_their_places() -> None:
    numbers = torch.arange(100_000).float()
    kept = thinned(numbers)
    assert 2000 <= len(kept) <= 8192 and torch.equal(thinned(numbers[:50]), numbers[:50])
    assert error(numbers.view(100, 10, 100), kept) == 0
    assert error(numbers.roll(1), kept) >= 1
    some = numbers.clone()
    some[: len(some) // 2] = torch.nan
    assert error(some, kept) == 0
    with pytest.raises(RuntimeError):
        error(numbers[:-100], kept)
