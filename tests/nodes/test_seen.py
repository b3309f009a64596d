"""Masks of the portrait as the model sees them: how bright they are painted does not matter."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
from published_hallo import tiny_hallo
from torch import Tensor

REFERENCE = {"latents": torch.zeros(1, 4, 16, 16), "picture": (40, 48), "window": (4, 0, 40, 40)}
STRETCHED = {**REFERENCE, "window": None}


@pytest.fixture
def seen(pack: Any) -> Any:
    """The module that is tested."""
    return import_module(f"{pack.__name__}.seen")


def block(top: int, bottom: int, left: int, right: int) -> Tensor:
    """A mask of the portrait's picture, 1 in a block with a soft edge around it."""
    mask = torch.zeros(1, 40, 48)
    mask[:, top - 1 : bottom + 1, left - 1 : right + 1] = 0.25
    mask[:, top:bottom, left:right] = 1
    return mask


@pytest.mark.parametrize("reference", [REFERENCE, STRETCHED], ids=["cut", "stretched"])
@pytest.mark.parametrize("grey", [0.4, 0.01])
def test_a_grey_mask_is_the_mask(seen: Any, reference: dict[str, Any], grey: float) -> None:
    config, face, lips = tiny_hallo(), block(8, 32, 14, 34), block(24, 28, 20, 28)
    made = []
    for share in (1.0, grey):
        region, whole = seen.region_of(face * share, reference, config, 9)
        made.append((region, *seen.masks_of(region, whole, lips * share, reference, config)))
    assert float(made[0][0].amax()) == 1
    for wanted, found in zip(*made, strict=True):
        # What is stretched is rounded to whole 255ths.
        torch.testing.assert_close(found, wanted, rtol=0, atol=1.1 / 255)


def test_the_face_and_the_lips_lie_where_they_are_painted(seen: Any) -> None:
    config = tiny_hallo()
    region, whole = seen.region_of(block(8, 32, 14, 34) * 0.3, REFERENCE, config, 9)
    full, face, lips = seen.masks_of(region, whole, block(24, 28, 20, 28), REFERENCE, config)[0]
    # In the square's 16 x 16 cells the face is 3..13 down and 4..12 across, its mouth 10..11.
    assert full[0, 0] > 0.9 and full[8, 8] < 0.2
    assert face[5, 8] > 0.6 and lips[5, 8] < 0.2 and lips[10, 8] > 0.8


def test_black_masks_are_refused(seen: Any) -> None:
    config, black = tiny_hallo(), torch.zeros(1, 40, 48)
    with pytest.raises(ValueError, match="the region mask is black in the square"):
        seen.region_of(black, REFERENCE, config, 9)
    region, whole = seen.region_of(None, REFERENCE, config, 9)
    beside = block(8, 20, 45, 47)  # in the picture, and not in the square
    for lips in (black, beside):
        with pytest.raises(ValueError, match="the lips mask is black in what the model sees"):
            seen.masks_of(region, whole, lips, REFERENCE, config)
