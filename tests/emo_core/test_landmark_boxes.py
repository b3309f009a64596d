"""Boxes of face and lips from 478, 468 and 68 landmarks, as Hallo takes them, and refusals."""

from __future__ import annotations

import pytest
import torch
from published_hallo import PICTURE, landmarks, published

from emo_core.face_masks import region_masks
from emo_core.landmark_boxes import _LIPS_478, _SILHOUETTE_478, boxes_of_landmarks


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
