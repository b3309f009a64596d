"""What is forecast against what is really there, at tiny width and with real numbers."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
from small_models import FRAMES, LATENT, MOTION, VARIANTS, draw, small_config, small_model

from emo_core.config import EMOConfig
from emo_core.forecast import (
    Forecast,
    Room,
    StepBytes,
    forecast,
    step_bytes,
    what_does_not_fit,
)
from emo_core.live_bytes import LiveBytes, bytes_of
from emo_core.model import ClipInputs
from emo_core.presets import emo
from emo_core.sampling import Guidance, predict

GB = 10**9


def inputs_of(config: EMOConfig) -> ClipInputs:
    audio, single = config.audio, {"dtype": torch.float32}
    speed = None
    if config.speed is not None:
        speed = draw(1, FRAMES, 2 * config.speed.window + 1, **single)
    masks = tuple(torch.ones(3, side, side) for side in (8, 4, 2))
    return ClipInputs(
        draw(1, FRAMES, 2 * audio.window + 1, audio.num_layers, audio.layer_width, **single),
        torch.ones(1, config.locator.in_channels, 64, 64), speed,
        masks=masks if audio.attention == "masked3" else (),
    )  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("guidance", [Guidance(1.0), Guidance(3.0), Guidance(3.0, 2.0)])
def test_the_forecast_is_what_a_step_needs(variant: str, guidance: Guidance) -> None:
    model = small_model(variant, torch.float32)
    counted = step_bytes(model.config, guidance, torch.float32)
    assert counted.weights == bytes_of(list(model.parameters()))
    single = {"dtype": torch.float32}
    with torch.no_grad():
        portrait = model.encode_portrait(draw(1, *LATENT, **single))
        motion = model.encode_motion(draw(1, MOTION, *LATENT, **single))
        conditions = model.conditions(portrait, motion, inputs_of(model.config))
        clip = model.denoising_unet.prepare(conditions)
        latents = draw(1, FRAMES, *LATENT, **single)
        with LiveBytes() as live:
            predict(model.denoising_unet, latents, 999, clip, guidance)
    assert counted.conditions == pytest.approx(bytes_of([conditions, clip]), rel=0.02)
    assert counted.activations == pytest.approx(live.peak, rel=0.1)
    assert counted.total == counted.weights + counted.conditions + counted.activations


def test_half_the_precision_is_half_the_bytes() -> None:
    config = small_config()
    single, half = (step_bytes(config, Guidance(2.0), kind) for kind in (torch.float32, torch.half))
    assert half.weights * 2 == single.weights
    assert half.activations == pytest.approx(single.activations / 2, rel=0.05)


def test_the_full_size_is_counted_without_being_built() -> None:
    """SD 1.5's backbone twice, and the temporal modules: 2.2 billion weights."""
    counted = step_bytes(emo(), Guidance(3.5), torch.half)
    assert 4.0 * GB < counted.weights < 4.6 * GB
    assert 1 * GB < counted.activations < 3 * GB


def test_a_film_is_counted_by_its_frames_and_clips() -> None:
    config = emo()
    step = StepBytes(1, 2, 3)
    film = forecast(config, step, num_frames=1500, clips_to_sample=100)
    assert film.latents == 1500 * 4 * 64 * 64 * 4
    assert film.clips == 100 * 12 * 4 * 64 * 64 * 4
    assert film.pictures == 1500 * 3 * 512 * 512 * 4
    assert str(film) == (
        "needs 0 KB to sample (weights 0 KB, a clip's conditions 0 KB, activations 0 KB); the "
        "film's latents are 98.3 MB, its frames as IMAGE would be 4.72 GB"
    )


NEEDS = Forecast(StepBytes(4 * GB, 1 * GB, 2 * GB), 3 * GB, 4 * GB, 90 * GB)
ROOM = Room(device=8 * GB, memory=100 * GB, disk=100 * GB, shared=False)


@pytest.mark.parametrize(
    ("room", "words"),
    [
        (ROOM, []),
        (replace(ROOM, device=6 * GB), ["weights (4 GB)", "moved in parts", "6 GB"]),
        (replace(ROOM, device=2 * GB), ["needs 3 GB", "2 GB are free", "cfg to 1"]),
        (replace(ROOM, disk=6 * GB), ["7 GB of disk and 6 GB", "make room"]),
        (replace(ROOM, disk=None, memory=5 * GB), ["6 GB of memory and 5 GB", "keep_clips on"]),
        (replace(ROOM, disk=None, memory=7 * GB), []),
        (replace(ROOM, disk=None, memory=12 * GB, shared=True), ["keep_clips on"]),
        (replace(ROOM, memory=5 * GB), []),
    ],
)
def test_what_does_not_fit_is_a_sentence_with_a_way_out(room: Room, words: list[str]) -> None:
    said = what_does_not_fit(NEEDS, room)
    assert len(said) == bool(words)
    assert all(word in said[0] for word in words)


def test_live_bytes_count_what_lives_and_no_views() -> None:
    before = torch.zeros(1000)
    with LiveBytes() as live:
        first = before + 1
        view = first[10:].view(9, 110)
        assert (live.now, live.peak) == (4000, 4000)
        second = view * 2
        assert live.now == 4000 + 990 * 4
        second.add_(1)
        before.mul_(2)
        assert live.now == 4000 + 990 * 4
        del first, second
        gc.collect()
        assert live.now == 4000, "the view still needs it"
        del view
        assert live.now == 0 and live.peak == 4000 + 990 * 4


def test_bytes_of_counts_shared_storage_once() -> None:
    tensor = torch.zeros(10)
    assert bytes_of({"a": [tensor, tensor[2:]], "b": (torch.zeros(1),), "c": "text"}) == 44


def test_a_film_of_another_shape_is_counted_by_its_own() -> None:
    config, guidance = small_config(), Guidance(2.0)
    own = step_bytes(config, guidance, torch.float32)
    side = config.picture_size
    assert step_bytes(config, guidance, torch.float32, (side, side)) == own
    wide = step_bytes(config, guidance, torch.float32, (side, 2 * side))
    assert wide.weights == own.weights
    assert 1.8 * own.activations < wide.activations < 2.2 * own.activations
    square, oblong = (
        forecast(config, own, 100, 10, size) for size in (None, (side, 2 * side))
    )
    assert oblong.latents == 2 * square.latents
    assert oblong.pictures == 2 * square.pictures
    assert oblong.clips == 2 * square.clips
