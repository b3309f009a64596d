"""EMOConditioning: what a clip is given, and what is said of inputs that do not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_checkpoint import smallest_config
from small_film import CLIP, LATENT, MOTION, Small, draw, open_small, portrait, save_model

from emo_core.clips import clip_seed


@pytest.fixture(scope="module")
def small(pack: Any, run: Any, tmp_path_factory: Any) -> Small:
    return open_small(pack, run, save_model(tmp_path_factory.mktemp("model") / "a.safetensors"))


def conditions(small: Small, **inputs: Any) -> Any:
    """The conditions of the first clip."""
    return small.conditioning(0, **inputs)[1][0][1]["emo_conditions"]


def test_what_it_gives(small: Small) -> None:
    model, positive, negative, latent, seed, frames = small.conditioning(2)
    assert model is small.model
    assert latent["samples"].shape == (CLIP, *LATENT) and not latent["samples"].any()
    assert seed == clip_seed(5, 2) and frames == 1
    assert small.conditioning(0)[4:] == (5, CLIP)
    one, other = positive[0][1], negative[0][1]
    assert one["emo_conditions"] is other["emo_conditions"]
    assert one["emo_sees"] == {"reference", "audio", "region", "speed"} and not other["emo_sees"]


def test_without_motion_frames_a_film_begins_with_zero_maps(small: Small) -> None:
    motion = conditions(small).reference.motion
    assert motion and not any(features.any() for features in motion.values())
    given = conditions(small, motion_frames={"samples": draw(MOTION, *LATENT)}).reference.motion
    assert all(features.any() for features in given.values())


def test_of_more_motion_frames_the_last_are_seen(small: Small) -> None:
    many = {"samples": draw(7, *LATENT)}
    last = {"samples": many["samples"][-MOTION:]}
    one, other = (conditions(small, motion_frames=one).reference.motion for one in (many, last))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_pictures_before_the_clip_are_encoded(small: Small) -> None:
    film, _ = small.film(frames=CLIP)
    images = small.vae.decode(film)
    by_hand = {"samples": small.vae.encode(images)}
    one, _ = small.clip(1, motion_frames=by_hand)
    other, _ = small.clip(1, motion_images=images, vae=small.vae)
    torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)
    assert float((one - small.clip(1)[0]).abs().max()) > 1e-2


def test_weights_that_hand_on_pixels(pack: Any, run: Any, tmp_path: Any) -> None:
    config = smallest_config()
    config = replace(config, temporal=replace(config.temporal, hand_over="pixels"))
    small = open_small(pack, run, save_model(tmp_path / "p.safetensors", config))
    with pytest.raises(ValueError, match="sees the last frames of a clip as pictures; connect"):
        small.clip(0)
    film, _ = small.film(vae=small.vae)
    first, motion = small.clip(0, vae=small.vae)
    second, _ = small.clip(1, vae=small.vae, motion_frames=motion)
    assert torch.equal(torch.cat([first, second]), film[: 2 * CLIP])
    latents = small.vae.encode(small.vae.decode(motion["samples"]))
    plain = open_small(pack, run, save_model(tmp_path / "l.safetensors"))
    wanted, _ = plain.clip(1, motion_frames={"samples": latents})
    torch.testing.assert_close(second, wanted, atol=1e-3, rtol=1e-3)


def region(small: Small, mask: torch.Tensor | None) -> torch.Tensor:
    """The region in the model's square that a MASK of the portrait becomes: (1, 32, 32)."""
    module, given = small.part("film"), small.inputs()
    audio, speed = given["audio_embedding"], given["speed"]
    inputs = module.Inputs(small.model, small.reference, audio, mask, speed, None, None, None, 5)
    seen: torch.Tensor = module.film_of(inputs)[1].region
    return seen


def test_an_open_region_is_the_usual_place(small: Small) -> None:
    module = small.part("seen")
    mask = torch.zeros(1, 40, 48)
    mask[0, :, 4:44] = module.region_mask(module.CENTRED_PRIOR, 40, 40)[0]
    usual, masked = region(small, None), region(small, mask)
    assert usual.shape == (1, 32, 32) and usual.min() == 0 and usual.max() == 1
    # The same box, whose edges fall between the pixels of another size.
    assert float((usual - masked).abs().mean()) < 0.02
    assert region(small, torch.ones(40, 48)).min() > 0.999


def test_the_region_is_the_union_of_its_masks_at_any_size(small: Small) -> None:
    masks = torch.zeros(2, 40, 48)
    masks[0, 5:20, 10:30], masks[1, 15:30, 20:40] = 1, 1
    union = masks.amax(0, keepdim=True)
    assert torch.equal(region(small, masks), region(small, union))
    double = union.repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(region(small, double), region(small, union), atol=1e-5, rtol=0)
    # Left of the square's first column nothing is seen.
    beside = torch.zeros(1, 40, 48)
    beside[..., :3] = 1
    with pytest.raises(ValueError, match="black in the square"):
        region(small, beside)


def moving_masks(count: int) -> torch.Tensor:
    """MASK of a square that goes from left to right in the portrait's picture."""
    masks = torch.zeros(count, 40, 48)
    for frame in range(count):
        masks[frame, 10:30, 6 + 2 * frame : 26 + 2 * frame] = 1
    return masks


def test_a_mask_for_each_frame_of_the_film_moves_with_it(small: Small) -> None:
    masks = moving_masks(2 * CLIP + 1)
    seen = region(small, masks)
    assert seen.shape == (2 * CLIP + 1, 1, 32, 32)
    for frame, mask in enumerate(masks):
        assert torch.equal(seen[frame], region(small, mask))
    film, _ = small.film(region=masks)
    first, _ = small.clip(0, region=torch.cat([masks[:CLIP], masks[:1].repeat(CLIP + 1, 1, 1)]))
    assert torch.equal(film[:CLIP], first)  # the union of its own frames, and of no others
    assert not torch.allclose(film, small.film(region=masks[:-1])[0], atol=1e-2)


def test_masks_of_another_number_than_the_films_frames_are_joined(
    small: Small, caplog: pytest.LogCaptureFixture
) -> None:
    masks = moving_masks(3)
    with caplog.at_level("INFO"):
        joined = region(small, masks)
    assert torch.equal(joined, region(small, masks.amax(0)))
    assert "the region is the union of 3 masks (a film of 9 frames has a moving" in caplog.text


def test_a_clip_without_a_place_for_a_face_is_named(small: Small) -> None:
    masks = moving_masks(2 * CLIP + 1)
    masks[CLIP : 2 * CLIP] = 0
    with pytest.raises(ValueError, match=r"black .* in the frames 4 to 7, so there is no place"):
        small.film(region=masks)
    masks[CLIP] = 1
    small.clip(1, region=masks)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (
            {"region": torch.ones(1, 48, 48)},
            "48x48 pixels and the portrait 48x40, which is another",
        ),
        ({"region": torch.zeros(1, 40, 48)}, "black in the square that is cut from the portrait"),
        ({"region": torch.full((1, 40, 48), float("nan"))}, "MASK .* without NaN"),
        ({"region": torch.ones(0, 40, 48)}, r"got \(0, 40, 48\); connect EMO Face Locator Mask"),
        ({"region": torch.ones(1, 1, 40, 48)}, r"got \(1, 1, 40, 48\)"),
        (
            {"motion_frames": {"samples": draw(MOTION, 4, 8, 8)}},
            r"last 2 frames before a clip as latents \(4, 4, 4\), got \(2, 4, 8, 8\)",
        ),
        ({"motion_frames": {"samples": draw(1, *LATENT)}}, r"got \(1, 4, 4, 4\); connect the mot"),
        ({"motion_frames": {"samples": draw(2, 4, 4)}}, r"got \(2, 4, 4\)"),
        (
            {"motion_frames": {"samples": draw(MOTION, *LATENT).log()}},
            "motion frames hold NaN or infinite numbers; sample them again",
        ),
        (
            {"motion_frames": {"samples": draw(2, *LATENT)}, "motion_images": portrait()},
            "LATENT or as IMAGE, and both are connected; disconnect one",
        ),
        ({"motion_images": portrait(32, 32)}, "need the VAE that encodes them; connect it to vae"),
        ({"audio_embedding": {"version": 1}}, "EMO_AUDIO lacks"),
        ({"reference": {"version": 1}}, "EMO_REFERENCE lacks"),
        ({"speed": {"version": 1}}, "EMO_SPEED lacks"),
    ],
)
def test_what_does_not_fit_is_said(small: Small, inputs: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        small.conditioning(0, **inputs)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("shape", [(2, 40, 48, 3), (1, 32, 32, 3), (2, 32, 32)])
def test_motion_pictures_of_another_size_or_too_few(small: Small, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="last 2 pictures before a clip, of 32x32 pixels, got"):
        small.conditioning(0, motion_images=torch.zeros(shape), vae=small.vae)


def test_motion_pictures_with_nan(small: Small) -> None:
    images = torch.full((2, 32, 32, 3), float("nan"))
    with pytest.raises(ValueError, match="motion frames hold NaN"):
        small.conditioning(0, motion_images=images, vae=small.vae)


@pytest.mark.parametrize("index", [3, 1000])
def test_a_clip_past_the_end(small: Small, index: int) -> None:
    with pytest.raises(ValueError, match=f"clip_index must be 0 to 2, got {index}"):
        small.conditioning(index)
