"""Boxes, region masks, the locator, tokens of a face embedding."""

import pytest
import torch
from small_models import draw, randomise, small_config

from emo_core.attention import Build
from emo_core.face import (
    CENTRED_PRIOR,
    WHOLE_PICTURE,
    FaceEmbeddingProjection,
    FaceLocator,
    check_box,
    expand_box,
    region_mask,
    union_box,
)


def test_a_mask_covers_the_boxs_area() -> None:
    for box in [(0.1, 0.2, 0.33, 0.41), (0.0, 0.0, 0.001, 0.001), CENTRED_PRIOR]:
        mask = region_mask(box, 30, 50)
        assert mask.shape == (1, 30, 50)
        assert float(mask.mean()) == pytest.approx(box[2] * box[3], rel=1e-4)
        assert float(mask.min()) >= 0 and float(mask.max()) <= 1


def test_the_whole_picture_is_all_ones() -> None:
    assert (region_mask(WHOLE_PICTURE, 7, 9) == 1).all()


def test_a_mask_is_where_the_box_is() -> None:
    mask = region_mask((0.5, 0.0, 0.25, 1.0), 4, 8)[0]
    assert mask[0].tolist() == [0, 0, 0, 0, 1, 1, 0, 0]
    partly = region_mask((0.0, 0.0, 1.0, 0.375), 4, 2)[0]
    assert partly[:, 0].tolist() == [1, 0.5, 0, 0]


def test_boxes_grow_about_their_middle_and_stop_at_the_edges() -> None:
    assert expand_box((0.4, 0.4, 0.2, 0.2), 1.5, 2.0) == pytest.approx((0.35, 0.3, 0.3, 0.4))
    assert expand_box((0.0, 0.5, 0.4, 0.5), 2.0, 1.0) == pytest.approx((0.0, 0.5, 0.6, 0.5))
    assert expand_box((0.2, 0.2, 0.5, 0.5), 1.0, 1.0) == pytest.approx((0.2, 0.2, 0.5, 0.5))


def test_a_union_holds_every_box() -> None:
    boxes = torch.tensor([[0.2, 0.3, 0.1, 0.1], [0.25, 0.1, 0.2, 0.1]])
    assert union_box(boxes) == pytest.approx((0.2, 0.1, 0.25, 0.3))


@pytest.mark.parametrize(
    "box",
    [(0.1, 0.1, 0, 0.5), (0.1, 0.1, 0.5, -1), (float("nan"), 0, 1, 1), (0, 0, float("inf"), 1)],
)
def test_boxes_without_area_are_refused(box) -> None:
    with pytest.raises(ValueError, match="width and a height above 0"):
        check_box(box)


@pytest.mark.parametrize("box", [(-0.1, 0, 0.5, 0.5), (0.6, 0, 0.5, 0.5), (0, 0.2, 0.5, 0.9)])
def test_boxes_outside_are_refused(box) -> None:
    with pytest.raises(ValueError, match="outside the picture"):
        check_box(box)


def test_good_boxes_pass() -> None:
    assert check_box(WHOLE_PICTURE) == WHOLE_PICTURE
    assert check_box(CENTRED_PRIOR) == CENTRED_PRIOR


def test_the_locator_answers_at_the_latents_size() -> None:
    locator = FaceLocator(small_config().locator, 8, Build(dtype=torch.float64))
    randomise(locator, scale=1.5)
    left = locator(region_mask((0, 0, 0.5, 1), 64, 48)[None].double())
    whole = locator(region_mask(WHOLE_PICTURE, 64, 48)[None].double())
    assert left.shape == (1, 8, 8, 6)
    # It is local: the far left does not know where the region ends.
    torch.testing.assert_close(left[..., 0], whole[..., 0])
    assert not torch.allclose(left[..., -1], whole[..., -1])


def test_face_tokens_are_normed_pieces_of_one_projection() -> None:
    config = small_config("hallo").unet
    projection = FaceEmbeddingProjection(config, Build(dtype=torch.float64))
    tokens = projection(draw(2, config.face_embedding_width))
    assert tokens.shape == (2, config.face_tokens, config.face_token_width)
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(2, 4, dtype=torch.float64))
    assert sorted(projection.state_dict()) == [
        "norm.bias", "norm.weight", "proj.bias", "proj.weight"
    ]
