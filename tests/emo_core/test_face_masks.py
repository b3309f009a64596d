"""The three masks: what they cover, and that nothing but the boxes decides."""

from __future__ import annotations

import pytest
import torch

from emo_core.face_masks import (
    box_of_region,
    lip_box,
    mask_levels,
    masks_for_region,
    region_masks,
)
from emo_core.presets import hallo, tiny

FACE, LIPS = (0.25, 0.25, 0.5, 0.5), (0.4, 0.55, 0.2, 0.15)


def test_they_cover_their_regions() -> None:
    full, face, lips = region_masks(FACE, LIPS, 512, 512).int()
    assert full[0, 0] == 255 and lips.max() == 255
    assert int(full[32, 32]) <= 1 and int(full[26, 32]) < 60
    assert face[24, 24] > 100 and face[40, 32] < face[24, 32]
    # The face without its lips is what the blurred face has over the blurred lips.
    assert (face - (255 - full - lips).clamp(0, 255)).abs().max() <= 1


def test_the_pictures_size_hardly_matters() -> None:
    small, large = (region_masks(FACE, LIPS, s, s).int() for s in (256, 1024))
    assert (small - large).abs().max() <= 12


def test_levels_halve() -> None:
    masks = region_masks(FACE, LIPS, 512, 512)
    levels = mask_levels(masks, 64, 64, 4)
    assert [tuple(m.shape) for m in levels] == [(3, s, s) for s in (64, 32, 16, 8)]
    assert torch.equal((levels[0] * 255).round().to(torch.uint8), masks)
    assert all(float(m.min()) >= 0 and float(m.max()) <= 1 for m in levels)
    odd = mask_levels(region_masks(FACE, LIPS, 640, 320), 80, 40, 4)
    assert [tuple(m.shape[1:]) for m in odd] == [(80, 40), (40, 20), (20, 10), (10, 5)]


def test_a_face_that_fills_nothing_or_all_is_no_division_by_zero() -> None:
    masks = region_masks((0.0, 0.0, 1.0, 1.0), LIPS, 64, 64)
    assert masks.shape == (3, 64, 64)


@pytest.mark.parametrize("grey", [1.0, 0.4, 0.01])
def test_a_grey_region_is_the_region(grey: float) -> None:
    region = torch.zeros(1, 64, 64)
    region[:, 16:48, 16:48] = grey
    region[:, 8:16, 16:48] = 0.4 * grey  # a soft edge, less than half of the brightest
    assert box_of_region(region) == FACE


def test_a_region_alone_is_enough() -> None:
    region = torch.zeros(3, 512, 512)
    region[:, 128:384, 128:384] = 1
    assert box_of_region(region) == FACE
    expected = mask_levels(region_masks(FACE, lip_box(FACE), 512, 512), 64, 64, 4)
    for found, wanted in zip(masks_for_region(region, hallo()), expected, strict=True):
        assert torch.equal(found, wanted)
    assert masks_for_region(region, tiny()) == ()
    with pytest.raises(ValueError, match="region is empty"):
        box_of_region(torch.zeros(1, 8, 8))
