"""Motion frames through pixels, Hallo2's grey, and the published stream of random numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from emo_core.clips import ClipNoise, ClipPlan, StreamNoise, clip_noise
from emo_core.film import film_noise
from emo_core.hand_over import Greyed, PixelHandOver
from emo_core.presets import hallo, hallo2

SHAPE, SIZE = (4, 4, 2, 3), (16, 24)


def enlarge(latents: Tensor) -> Tensor:
    return latents[:, :3].repeat_interleave(8, -1).repeat_interleave(8, -2)


def shrink(pictures: Tensor) -> Tensor:
    return pictures[:, [0, 1, 2, 2], ::8, ::8]


def test_the_stream_is_hallos() -> None:
    """One generator over all clips, channels before frames, whatever clip is asked for first."""
    generator = torch.Generator().manual_seed(42)
    expected = [
        torch.randn(1, 4, 4, 2, 3, generator=generator)[0].transpose(0, 1) for _ in range(3)
    ]
    noise = StreamNoise(42, SHAPE)
    for index in (2, 0, 1, 1, 2):
        assert torch.equal(noise.latents(index, SHAPE), expected[index])
    with pytest.raises(ValueError, match="asked for"):
        noise.latents(0, (1, 4, 2, 3))
    with pytest.raises(ValueError, match="masks of None"):
        noise.pixels(0, SIZE)


def test_hallo2_draws_its_mask_before_the_noise() -> None:
    generator = torch.Generator().manual_seed(7)
    noise = StreamNoise(7, SHAPE, SIZE)
    for index in range(2):
        mask = torch.rand(SIZE, generator=generator)
        latents = torch.randn(1, 4, 4, 2, 3, generator=generator)[0].transpose(0, 1)
        assert torch.equal(noise.pixels(index, SIZE), mask)
        assert torch.equal(noise.latents(index, SHAPE), latents)


def test_clips_of_their_own_seed() -> None:
    noise = ClipNoise(3)
    assert torch.equal(noise.latents(2, SHAPE), clip_noise(3, 2, SHAPE))
    masks = [noise.pixels(index, SIZE) for index in (0, 1, 0)]
    assert torch.equal(masks[0], masks[2]) and not torch.equal(masks[0], masks[1])


def test_the_noise_of_a_film() -> None:
    assert isinstance(film_noise(hallo(), 0, False), ClipNoise)
    assert film_noise(hallo(), 42, True).latents(0, (16, 4, 64, 64)).shape == (16, 4, 64, 64)
    assert film_noise(hallo2(), 42, True).pixels(0, (512, 512)).shape == (512, 512)


def test_through_pixels_clamps_and_the_beginning_is_the_models_own() -> None:
    hand_over = PixelHandOver(enlarge, shrink, hallo().temporal)
    assert hand_over(None, ClipPlan(0, 0, 4)) is None
    last = torch.randn(1, 2, 4, 2, 3) * 3
    found = hand_over(last, ClipPlan(1, 4, 4))
    assert torch.equal(found, last[:, :, [0, 1, 2, 2]].clamp(-1, 1))


def test_hallo2_greys_a_quarter_outside_the_face_once_a_clip() -> None:
    config = replace(hallo2().temporal, num_motion_frames=2)
    region = torch.zeros(3, 64, 64)
    region[:, 16:40, 16:40] = 1
    greyed = Greyed(torch.full((1, 3, 64, 64), 0.5), region, ClipNoise(5))
    seen: list[Tensor] = []
    hand_over = PixelHandOver(
        lambda latents: torch.ones(2, 3, 64, 64), lambda p: (seen.append(p), p)[1], config, greyed
    )
    hand_over(None, ClipPlan(0, 0, 4))
    hand_over(torch.zeros(1, 2, 4, 8, 8), ClipPlan(1, 4, 4))
    first, second = seen
    assert set(first.unique().tolist()) == {0.0, 0.5} and set(second.unique().tolist()) == {0, 1}
    for pictures in seen:
        assert (pictures[:, :, 16:40, 16:40] != 0).all()
        assert torch.equal(pictures[0], pictures[1]) and torch.equal(pictures[:, 0], pictures[:, 2])
        outside = torch.ones(64, 64, dtype=torch.bool)
        outside[16:40, 16:40] = False
        assert 0.22 < float((pictures[0, 0][outside] == 0).float().mean()) < 0.28
    assert not torch.equal(first != 0, second != 0)
    assert torch.equal(greyed.keep(0, 0.25) > 0, first[0, 0] != 0)


def test_hallo2_without_what_it_needs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"motion_mask=0\.25 greys pixels"):
        PixelHandOver(enlarge, shrink, hallo2().temporal)
