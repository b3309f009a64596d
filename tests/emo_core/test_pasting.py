"""A square around a face, and its film back in the picture: nothing else changes by a bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from emo_core.pasting import fading, paste, square_around, square_mask

PICTURE = torch.rand(3, 60, 90, generator=torch.Generator().manual_seed(0))
SQUARE = (30, 10, 40)


def test_the_face_takes_its_share_of_the_square() -> None:
    # The face is 18 wide and 24 high, its middle at 45, 30.
    assert square_around((0.4, 0.3, 0.2, 0.4), 60, 90, 0.6) == (25, 10, 40)
    assert square_around((0.4, 0.3, 0.2, 0.4), 60, 90, 1.0) == (33, 18, 24)


@pytest.mark.parametrize("x, y", [(0.0, 0.0), (0.8, 0.6), (0.4, 0.6)])
def test_the_square_stays_in_the_picture(x: float, y: float) -> None:
    for share in (0.1, 0.5, 1.0):
        left, top, side = square_around((x, y, 0.2, 0.4), 60, 90, share)
        assert 0 <= left <= 90 - side and 0 <= top <= 60 - side and 24 <= side <= 60


def test_an_impossible_share_is_said() -> None:
    for share in (0.0, 1.1):
        with pytest.raises(ValueError, match=f"above 0 and up to 1, got {share:g}"):
            square_around((0.1, 0.1, 0.2, 0.2), 60, 90, share)


def test_the_picture_back_in_itself_is_itself() -> None:
    left, top, side = SQUARE
    frames = PICTURE[None, :, top : top + side, left : left + side]
    for feather in (0, 4):
        out = paste(frames, PICTURE, SQUARE, fading(square_mask(SQUARE, 60, 90), feather))
        torch.testing.assert_close(out[0], PICTURE, rtol=0, atol=1e-6)


@pytest.mark.parametrize("feather", [0, 1, 5, 20])
@pytest.mark.parametrize("size", [40, 16, 64])
def test_outside_of_the_mask_every_pixel_is_the_pictures(feather: int, size: int) -> None:
    mask = square_mask(SQUARE, 60, 90)
    mask[20:30] = 0
    mask *= torch.rand(60, 90, generator=torch.Generator().manual_seed(1))
    frames = torch.ones(3, 3, size, size)
    out = paste(frames, PICTURE, SQUARE, fading(mask, feather))
    outside = (mask == 0).expand(3, 3, -1, -1)
    assert torch.equal(out[outside], PICTURE.expand(3, -1, -1, -1)[outside])
    assert feather > 5 or not torch.equal(out[0], PICTURE)


def test_it_fades_in_from_the_edge() -> None:
    shows = fading(square_mask(SQUARE, 60, 90), 5)
    row = shows[30, 30:50]
    assert float(row[0]) < 0.1 and bool((row.diff() >= 0).all())
    assert torch.equal(row[5:], torch.ones(15))
    # The picture's own edge cuts the square off, and nothing is to be hidden there.
    edge = fading(square_mask((0, 0, 40), 60, 90), 5)
    assert float(edge[0, 0]) == 1.0 and float(edge[20, 39]) < 0.1


@pytest.mark.parametrize("feather", [1, 7, 19])
def test_the_fade_is_a_straight_line_as_wide_as_the_feather(feather: int) -> None:
    """By each pixel's mean over 2 * feather + 1 pixels, of which a straight edge cuts a part."""
    mask = torch.zeros(120, 120)
    mask[20:90] = 1
    shows = fading(mask, feather)
    inside = torch.arange(70)
    depth = torch.minimum(inside, 69 - inside)  # pixels between this one and the edge
    line = ((2 * depth + 1) / (2 * feather + 1)).clamp(max=1)
    torch.testing.assert_close(shows[20:90], line[:, None].expand(-1, 120), rtol=0, atol=1e-6)
    # Of the 70 rows both fades together take away about one feather.
    left = 70 - 2 * feather * (feather + 1) / (2 * feather + 1)
    assert float(shows[:, 60].sum()) == pytest.approx(left, abs=1e-4)


def test_the_fade_is_the_mean_of_what_is_around() -> None:
    mask = torch.rand(30, 50, generator=torch.Generator().manual_seed(2))
    mask[5:25, 5:45] = 1
    around = nn.functional.pad(mask[None, None], (4,) * 4, mode="replicate")
    means = nn.functional.avg_pool2d(around, 9, 1)[0, 0]
    wanted = torch.minimum((2 * means - 1).clamp(0, 1), mask)
    torch.testing.assert_close(fading(mask, 4), wanted, rtol=0, atol=1e-5)
    assert float(wanted.max()) == 1


def test_a_film_covers_the_middle_whole() -> None:
    out = paste(torch.ones(1, 3, 8, 8), PICTURE, SQUARE, fading(square_mask(SQUARE, 60, 90), 5))
    torch.testing.assert_close(out[0, :, 20:40, 40:60], torch.ones(3, 20, 20))
