"""What differs from Hallo's own code is noticed; test_hallo_stages.py compares every stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from published_hallo import (
    FRAMES,
    LATENT,
    MOTION,
    MOTION_WEIGHTS,
    PICTURE,
    SIZE,
    TIMESTEPS,
    draw,
    landmarks,
    picture,
    published,
    seeded_encoder,
    seeded_model,
    seeded_vae,
    sound,
    tiny_hallo,
)
from torch import Tensor

from emo_core import transformer
from emo_core.audio import encode_sound
from emo_core.audio_tokens import window_features
from emo_core.clips import StreamNoise, plan_clips
from emo_core.conditions import CONDITIONS, Audience
from emo_core.config import EMOConfig
from emo_core.face_masks import box_pixels, mask_levels, region_masks
from emo_core.generate import Film, generate
from emo_core.hand_over import PixelHandOver
from emo_core.landmark_boxes import _LIPS_478, boxes_of_landmarks
from emo_core.model import EMO, ClipInputs
from emo_core.pictures import stretch_portrait
from emo_core.sampling import Guidance, alphas_cumprod, make_sampler
from emo_core.waveform import num_frames

THEIRS = published()
BRANCHES = (frozenset[str](), CONDITIONS)


def close(found: Tensor, name: str, tolerance: float = 3e-5) -> None:
    torch.testing.assert_close(found.float(), THEIRS[name].float(), rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hallo")


@lru_cache
def masks() -> tuple[Tensor, ...]:
    face, lips = boxes_of_landmarks(landmarks(_LIPS_478), *PICTURE)
    return mask_levels(region_masks(face, lips, *PICTURE), LATENT, LATENT, 4)


@lru_cache
def region() -> Tensor:
    face, _ = boxes_of_landmarks(landmarks(_LIPS_478), *PICTURE)
    filled = box_pixels(face, *PICTURE).float()[None].expand(3, -1, -1) / 255
    return stretch_portrait(filled, SIZE).picture


def conditions_of(model: EMO, film: Film) -> Any:
    """A clip's conditions, with the motion frames of the fixture's single forward."""
    motion = model.encode_motion(draw("motion", MOTION, 4, LATENT, LATENT)[None], film.face)
    tokens = window_features(film.audio, 0, FRAMES, 2)
    inputs = ClipInputs(
        tokens[None], film.region[None], None, film.face, film.masks, film.motion_weights
    )
    return model.conditions(model.encode_portrait(film.portrait, film.face), motion, inputs)


def film() -> Film:
    return Film(
        portrait=THEIRS["portrait_latents"],
        audio=THEIRS["audio_features"],
        region=region(),
        face=draw("embedding", 1, 10),
        masks=masks(),
    )


@torch.no_grad()
def prediction(model: EMO, timestep: int, given: Film | None = None) -> Tensor:
    """Both halves of guidance, (2, F, 4, LATENT, LATENT)."""
    net = model.denoising_unet
    clip = net.prepare(conditions_of(model, given or film()))
    latents = draw("latents", 1, 4, FRAMES, LATENT, LATENT).transpose(1, 2).repeat(2, 1, 1, 1, 1)
    audience = Audience.of_branches(BRANCHES, 1, torch.device("cpu"))
    return net(latents, torch.full((2,), timestep), clip, audience)


def test_what_is_heard(folder: Path) -> None:
    wave, encoder = sound(), seeded_encoder(folder)
    count = num_frames(len(wave), 16000, 25)
    assert count == 8
    heard = encode_sound(encoder, wave, count, 25, "whole_file", FRAMES).features
    close(heard, "audio_features")
    close(window_features(heard, 0, 2, 2), "audio_windows")
    tokens = seeded_model().audioproj(window_features(heard, 0, count, 2)[None])
    close(tokens, "audio_tokens")


def test_the_picture_and_its_latents(folder: Path) -> None:
    pixels = stretch_portrait(picture(), SIZE).picture * 2 - 1
    close((pixels[:, ::2, ::2] + 1) * 127.5, "pixels", 1e-3)
    close(seeded_vae(folder).encode(pixels[None]), "portrait_latents")


def test_masks_and_region() -> None:
    face, lips = boxes_of_landmarks(landmarks(_LIPS_478), *PICTURE)
    soft = region_masks(face, lips, *PICTURE)
    assert torch.equal(soft, THEIRS["masks"])
    for level, found in enumerate(mask_levels(soft, LATENT, LATENT, 4)):
        close(found.flatten(1), f"mask_level_{level}")
    close(region()[:1, ::2, ::2] * 255, "region", 1e-3)


def test_tokens_locator_and_bank() -> None:
    model, given = seeded_model(), film()
    close(model.face_tokens(given.face, given.portrait)[:, 0], "image_tokens")
    close(model.face_locator(given.region[None])[:, :8], "locator")
    conditions = conditions_of(model, given)
    for spot, name in (("down_blocks.0.0", "bank_down0"), ("up_blocks.3.2", "bank_up3")):
        portrait = conditions.reference.portrait[spot][:, None]
        motion = conditions.reference.motion[spot]
        bank = torch.cat([portrait, motion], dim=1).flatten(0, 1).flatten(2).transpose(1, 2)[:, ::8]
        # Rounding to half precision makes a difference of 1e-6 one of its steps now and then.
        close(bank, name, 2e-3)
        assert (bank - THEIRS[name].float()).abs().mean() < 3e-6


def test_pose_face_and_lip_weight() -> None:
    model = seeded_model()
    weighted = prediction(model, TIMESTEPS[1], replace(film(), motion_weights=MOTION_WEIGHTS))
    close(weighted[1:], "prediction_weighted", 4e-5)
    assert (weighted - THEIRS[f"prediction_{TIMESTEPS[1]}"]).abs().max() > 1e-2


def test_noise_schedule() -> None:
    close(alphas_cumprod("linear_zero_snr")[::10], "alphas", 2e-6)


def video(config: EMOConfig, folder: Path, clips: int = 1) -> Tensor:
    """Latents of the first clips after the first and the last step, (clips, 2, F, C, h, w)."""
    model, vae, steps = seeded_model(config), seeded_vae(folder), []
    sampler = make_sampler(
        model.denoising_unet, 4, Guidance(config.sampling.guidance_scale),
        on_step=lambda _, latents: steps.append(latents[0].clone()),
    )  # fmt: skip
    noise = StreamNoise(42, (FRAMES, 4, LATENT, LATENT))
    hand_over = PixelHandOver(vae.decode, vae.encode, config.temporal)
    plans = plan_clips(clips * FRAMES, FRAMES)
    for _ in generate(model, film(), plans, sampler, hand_over, noise=noise):
        pass
    return torch.stack(steps).unflatten(0, (clips, 4))[:, [0, 3]]


def changed(part: str, **values: object) -> EMOConfig:
    config = tiny_hallo()
    return replace(config, **{part: replace(getattr(config, part), **values)})


def error(model: EMO, given: Film | None = None) -> float:
    found = prediction(model, 474, given)
    return float((found - THEIRS["prediction_474"]).abs().max())


@pytest.mark.parametrize(
    ("field", "value", "least"),
    [("reference_order", "conditional", 1e-2), ("reference_rounding", "none", 6e-5)],
)
def test_one_quirk_off_is_noticed(field: str, value: object, least: float) -> None:
    assert error(seeded_model()) < 4e-5
    assert error(seeded_model(changed("unet", **{field: value}))) > least


def test_frames_that_all_read_the_conditional_portrait_are_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    laid_out = transformer.Seen.laid_out_frames

    def always_second(self: Any, rows: int, frames: int) -> Any:
        return laid_out(replace(self, frames=torch.ones_like(self.frames)), rows, frames)

    monkeypatch.setattr(transformer.Seen, "laid_out_frames", always_second)
    assert error(seeded_model()) > 1e-2


def blind_motion(bank: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.flip(0) for name, tensor in bank.items()}


@pytest.mark.parametrize(
    "change",
    [
        lambda film: replace(film, masks=tuple(torch.ones_like(m) for m in film.masks)),
        lambda film: replace(film, masks=tuple(m[[0, 2, 1]] for m in film.masks)),
        lambda film: replace(film, face=None),
        lambda film: replace(film, region=torch.zeros_like(film.region)),
        lambda film: replace(film, audio=film.audio.roll(1, 0)),
    ],
    ids=["masks", "face and lips", "face", "region", "sound"],
)
def test_another_condition_is_noticed(change: Callable[[Film], Film]) -> None:
    assert error(seeded_model(), change(film())) > 1e-3


def test_the_other_halfs_motion_frames_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = EMO.encode_motion
    monkeypatch.setattr(
        EMO, "encode_motion", lambda self, *args: blind_motion(encode(self, *args))
    )
    assert error(seeded_model()) > 1e-2


def test_temporal_layers_at_the_coarsest_level_are_noticed() -> None:
    assert error(seeded_model(changed("temporal", levels=(0, 1, 2, 3)))) > 1e-2


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("sampling", {"schedule": "scaled_linear"}),
        ("sampling", {"prediction": "epsilon", "schedule": "scaled_linear"}),
        ("sampling", {"guidance_scale": 3.0}),
        ("temporal", {"first_motion": "zeros"}),
    ],
    ids=["schedule", "prediction", "guidance", "first motion"],
)
def test_another_way_of_sampling_is_noticed(
    part: str, values: dict[str, object], folder: Path
) -> None:
    latents = video(changed(part, **values), folder)
    assert (latents[0] - THEIRS["video_latents"][0]).abs().max() > 1e-2


def test_motion_frames_as_latents_are_noticed(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(PixelHandOver, "__call__", lambda self, last, plan: last)
    latents = video(tiny_hallo(), folder, clips=2)
    assert (latents[0] - THEIRS["video_latents"][0]).abs().max() < 2e-3
    assert (latents[1] - THEIRS["video_latents"][1]).abs().max() > 1e-2
