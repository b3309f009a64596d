"""The three masks: what they cover, that nothing but the boxes decides, and landmarks' boxes."""

from __future__ import annotations

import pytest
import torch
from published_hallo import PICTURE, landmarks, published

from emo_core.face_masks import (
    _LIPS_478,
    _SILHOUETTE_478,
    box_of_region,
    boxes_of_landmarks,
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


def test_mediapipes_landmarks_as_hallo_takes_them() -> None:
    points = landmarks(_LIPS_478)
    face, lips = boxes_of_landmarks(points, *PICTURE)
    assert torch.equal(region_masks(face, lips, *PICTURE), published()["masks"])
    assert (len(_SILHOUETTE_478), len(_LIPS_478)) == (36, 20)
    # A third column, depth, and the 468 without irises say the same.
    deep = torch.cat([points, torch.ones(478, 1)], dim=1)
    assert boxes_of_landmarks(deep, *PICTURE) == boxes_of_landmarks(points[:468], *PICTURE)


def test_a_box_that_grows_over_the_edge_is_moved_back() -> None:
    points = torch.full((478, 2), 50.0)
    points[list(_SILHOUETTE_478)] = torch.stack(
        [torch.linspace(0, 80, 36), torch.linspace(10, 90, 36)], dim=1
    )
    points[_LIPS_478[0]] = 60.0
    (x, y, width, height), _ = boxes_of_landmarks(points, 100, 100)
    assert x == 0 and width == pytest.approx(0.96) and (y, height) == (0.02, 0.96)


def test_sixty_eight_landmarks() -> None:
    points = torch.zeros(68, 2)
    points[:17] = torch.stack([torch.linspace(30, 70, 17), torch.linspace(40, 80, 17)], dim=1)
    points[17:27] = torch.tensor([50.0, 40.0])
    points[27:48] = torch.tensor([50.0, 50.0])
    points[48:] = torch.stack([torch.linspace(42, 58, 20), torch.linspace(64, 70, 20)], dim=1)
    face, lips = boxes_of_landmarks(points, 100, 100)
    assert face[1] < 0.3, "the forehead belongs to the face"
    assert face[0] < 0.3 and face[0] + face[2] > 0.7
    assert lips[0] < 0.42 and lips[0] + lips[2] > 0.58 and lips[2] == pytest.approx(0.32)


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        (torch.zeros(5, 2), r"expected 478, 468 or 68 landmarks"),
        (torch.zeros(68), r"expected 478, 468 or 68 landmarks"),
        (torch.full((68, 2), float("nan")), "NaN or infinite"),
        (torch.rand(68, 2) * 100 + 101, "68 of 68 landmarks lie outside of the picture of 100x100"),
        (-100 * torch.rand(478, 2) - 1, "give a face box instead"),
        (torch.full((478, 2), 50.0), "lie in one spot of the picture"),
    ],
)
def test_other_landmarks_are_refused(points: torch.Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        boxes_of_landmarks(points, 100, 100)


def test_landmarks_may_be_fractions_and_reach_over_the_edge() -> None:
    points = landmarks(_LIPS_478)
    sides = torch.tensor([PICTURE[1], PICTURE[0]])
    assert boxes_of_landmarks(points.double() / sides, *PICTURE) == boxes_of_landmarks(
        points, *PICTURE
    )
    # A face that the picture's edge cuts is one, as long as half of it is there.
    (x, _, width, _), _ = boxes_of_landmarks(points - torch.tensor([40.0, 0.0]), *PICTURE)
    assert x == 0 and width > 0.2


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
