"""Films of other shapes than a square: sizes, the part of a portrait, and the same network."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from small_models import FRAMES, MOTION, draw, small_config, small_model
from torch import Tensor, nn

from emo_core.conditions import CONDITIONS, Audience
from emo_core.config import EMOConfig
from emo_core.face_masks import (
    blur_grid,
    lip_box,
    mask_levels,
    masks_for_region,
    region_masks,
)
from emo_core.film_size import film_size, parse_size, size_like
from emo_core.model import EMO, ClipInputs
from emo_core.pictures import (
    box_in_window,
    cut_square,
    cut_window,
    fit_portrait,
    portrait_square,
    portrait_window,
    stretch_portrait,
)
from emo_core.presets import hallo, tiny
from emo_core.reference import halved
from emo_core.subject import cropped_subject


@pytest.mark.parametrize("text", ["512x768", " 512X768 "])
def test_width_stands_before_height(text: str) -> None:
    assert parse_size(text) == (768, 512)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("512", "such as 512x768, or portrait"),
        ("512x", "such as 512x768"),
        ("-512x512", "such as 512x768"),
        ("500x512", "multiples of 64 from 256 to 1024 pixels, got 500x512; the nearest is 512x5"),
        ("192x1088", "got 192x1088; the nearest is 256x1024"),
    ],
)
def test_sizes_that_no_model_makes(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as told:
        parse_size(text)
    assert "\n" not in str(told.value)


def test_which_size_a_film_has() -> None:
    assert film_size(hallo(), None, (300, 100)) == (512, 512)
    assert film_size(hallo(), (256, 1024), (300, 100)) == (256, 1024)
    assert film_size(hallo(), parse_size("portrait"), (400, 300)) == (576, 448)
    assert film_size(tiny(), (128, 128), (9, 9)) == film_size(tiny(), None, (9, 9)) == (128, 128)
    with pytest.raises(ValueError, match="emo-tiny was trained with the places of 128x128 pixels"):
        film_size(tiny(), (256, 256), (9, 9))
    with pytest.raises(ValueError, match="multiples of 64"):
        film_size(hallo(), (100, 100), (9, 9))


@pytest.mark.parametrize(
    ("picture", "size"),
    [((900, 900), (512, 512)), ((1080, 1920), (384, 704)), ((1920, 1080), (704, 384)),
     ((100, 3000), (256, 1024)), ((3000, 100), (1024, 256))],
)  # fmt: skip
def test_the_portraits_own_shape(picture: tuple[int, int], size: tuple[int, int]) -> None:
    assert size_like(picture, 512) == size


def test_the_window_is_the_largest_of_its_shape_around_the_face() -> None:
    assert portrait_window(900, 600, (512, 512)) == (150, 0, 600, 600)
    assert portrait_window(900, 600, (512, 256)) == (300, 0, 300, 600)
    # In a tall picture a quarter of what is left lies above.
    assert portrait_window(600, 900, (256, 512)) == (0, 150, 600, 300)
    assert portrait_window(900, 600, (512, 256), (700.0, 10.0, 100.0, 90.0)) == (600, 0, 300, 600)
    for width, height in ((900, 600), (601, 900), (640, 480), (77, 78)):
        square = portrait_square(width, height, (10.0, 20.0, 30.0, 40.0))
        assert portrait_window(width, height, (512, 512), (10.0, 20.0, 30.0, 40.0)) == (
            *square, square[2],
        )  # fmt: skip


def test_squares_are_cut_as_they_were() -> None:
    picture = torch.rand(3, 90, 70)
    cut = picture[:, 5:75]
    resized = nn.functional.interpolate(
        cut[None], (64, 64), mode="bicubic", antialias=True, align_corners=False
    )[0].clamp(0, 1)
    assert torch.equal(fit_portrait(picture, 64).picture, resized)
    assert torch.equal(fit_portrait(picture, (64, 64)).picture, resized)
    assert torch.equal(cut_square(picture, (0, 5, 70), 64), resized)
    assert torch.equal(fit_portrait(picture, 70).picture, cut)


def test_a_picture_of_the_films_shape_is_not_cropped() -> None:
    picture = torch.rand(3, 96, 64)
    assert torch.equal(fit_portrait(picture, (96, 64)).picture, picture)
    assert stretch_portrait(picture, (32, 48)).picture.shape == (3, 32, 48)
    window = (10, 20, 40, 60)
    assert torch.equal(cut_window(picture, window, (60, 40)), picture[:, 20:80, 10:50])
    assert box_in_window((20.0, 35.0, 20.0, 30.0), window) == (0.25, 0.25, 0.5, 0.5)


def test_boxes_follow_the_window() -> None:
    picture = torch.rand(3, 100, 100)
    subject = cropped_subject(picture, (64, 32), (40.0, 20.0, 40.0, 40.0), (50.0, 44.0, 20.0, 8.0))
    # The window is 50 wide and 100 high and begins at 35.
    assert subject.picture.shape == (3, 64, 32)
    assert subject.box == pytest.approx((0.1, 0.2, 0.8, 0.4))
    assert subject.lips == pytest.approx((0.3, 0.44, 0.4, 0.08))
    with pytest.raises(ValueError, match="outside the part around the face"):
        cropped_subject(picture, (64, 32), (40.0, 20.0, 40.0, 40.0), (0.0, 44.0, 20.0, 8.0))


def test_masks_are_blurred_as_far_down_as_across() -> None:
    assert blur_grid(512, 512) == blur_grid(256, 256) == (64, 64)
    assert blur_grid(256, 1024) == (32, 128)
    face, lips = (0.3, 0.3, 0.4, 0.4), (0.4, 0.5, 0.2, 0.1)
    square = region_masks(face, lips, 512, 512)
    assert torch.equal(square, region_masks(face, lips, 512, 512, blur_grid(512, 512)))
    # A square mouth in a picture twice as wide as it is high stays square when it is blurred.
    grid = blur_grid(512, 1024)
    wide = region_masks((0.4, 0.3, 0.2, 0.4), (0.45, 0.4, 0.1, 0.2), 512, 1024, grid)[2] > 127
    assert wide.shape == grid == (45, 91)
    across, down = int(wide.any(0).sum()), int(wide.any(1).sum())
    assert abs(across - down) <= 1
    stretched = region_masks((0.4, 0.3, 0.2, 0.4), (0.45, 0.4, 0.1, 0.2), 512, 1024)[2] > 127
    assert 2 * int(stretched.any(0).sum()) > 1.2 * int(stretched.any(1).sum())


def test_masks_of_a_region_have_the_films_shape() -> None:
    region = torch.zeros(1, 128, 256)
    region[:, 40:90, 100:160] = 1
    config = replace(small_config("hallo"), latent_factor=8)
    sizes = [tuple(masks.shape) for masks in masks_for_region(region, config)]
    assert sizes == [(3, 16, 32), (3, 8, 16), (3, 4, 8)]
    # Of a picture that was stretched to a square the masks are blurred on Hallo's grid.
    box = (100 / 256, 40 / 128, 60 / 256, 50 / 128)
    theirs = mask_levels(region_masks(box, lip_box(box), 128, 256), 16, 16, 3)
    found = masks_for_region(region, config, None, (128, 128))
    assert all(torch.equal(one, other) for one, other in zip(found, theirs, strict=True))


def turned(model: EMO) -> EMO:
    """A network that does to a turned picture what the model does to the picture."""
    other = copy.deepcopy(model)
    for module in other.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.transpose(-1, -2).contiguous()
    return other


def inputs_of(config: EMOConfig, height: int, width: int) -> tuple[Tensor, Tensor, ClipInputs]:
    """A portrait, motion frames and a clip's inputs of a size in latent cells."""
    audio, hears = config.audio, config.audio.attention == "masked3"
    levels = range(len(config.unet.widths))
    return (
        draw(1, 4, height, width), draw(1, MOTION, 4, height, width, seed=1),
        ClipInputs(
            draw(1, FRAMES, 2 * audio.window + 1, audio.num_layers, audio.layer_width, seed=2),
            draw(1, config.locator.in_channels, 8 * height, 8 * width, seed=3).sigmoid(),
            None if config.speed is None else draw(1, FRAMES, 2 * config.speed.window + 1, seed=4),
            draw(1, config.unet.face_embedding_width, seed=5) if config.unet.face_tokens else None,
            tuple(
                draw(3, halved(height, i), halved(width, i), seed=6 + i).sigmoid() for i in levels
            ) if hears else (),
        ),
    )  # fmt: skip


def predict(
    model: EMO, latents: Tensor, portrait: Tensor, motion: Tensor, given: ClipInputs
) -> Tensor:
    clip = model.prepare(
        model.encode_portrait(portrait, given.face), model.encode_motion(motion, given.face), given
    )
    audience = Audience.of_branches((frozenset(), CONDITIONS), 1, torch.device("cpu"))
    return model.denoising_unet(
        latents.repeat(2, 1, 1, 1, 1), torch.tensor([500, 500]), clip, audience
    )


@pytest.mark.parametrize("variant", ["emo", "hallo"])
def test_a_turned_network_gives_the_turned_film(variant: str) -> None:
    """Rows and columns are nowhere taken for each other, in any part of the network."""
    model = small_model(variant)
    portrait, motion, given = inputs_of(model.config, 8, 12)
    latents = draw(1, FRAMES, 4, 8, 12, seed=9)
    upright = predict(model, latents, portrait, motion, given)
    assert upright.shape == (2, FRAMES, 4, 8, 12)
    lying = replace(
        given, region=given.region.transpose(-1, -2),
        masks=tuple(masks.transpose(-1, -2) for masks in given.masks),
    )  # fmt: skip
    found = predict(
        turned(model), latents.transpose(-1, -2), portrait.transpose(-1, -2),
        motion.transpose(-1, -2), lying,
    )  # fmt: skip
    torch.testing.assert_close(found.transpose(-1, -2), upright, rtol=0, atol=1e-9)
    wrong = predict(
        model, latents.transpose(-1, -2), portrait.transpose(-1, -2), motion.transpose(-1, -2),
        lying,
    )  # fmt: skip
    assert (wrong.transpose(-1, -2) - upright).abs().max() > 1e-3
