"""Every stage of a film by Hallo's weights, as emo_core's public functions give it.

The names are those of the fixtures, which hold what Hallo's own code gave for the same weights and
inputs; docs/parity.md compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from published_hallo import (
    FRAMES,
    LATENT,
    MOTION,
    MOTION_WEIGHTS,
    PICTURE,
    SIZE,
    TIMESTEPS,
    Width,
    draw,
    landmarks,
    picture,
    seeded_encoder,
    seeded_model,
    seeded_vae,
    sound,
    thinned,
)
from torch import Tensor

from emo_core.audio import encode_sound, num_frames
from emo_core.audio_tokens import window_features
from emo_core.clips import StreamNoise, plan_clips
from emo_core.conditions import CONDITIONS, EVEN_MOTION, Audience, Conditions
from emo_core.face_masks import box_pixels, mask_levels, region_masks
from emo_core.generate import Film, generate
from emo_core.hand_over import PixelHandOver
from emo_core.landmark_boxes import _LIPS_478, boxes_of_landmarks
from emo_core.model import EMO, ClipInputs
from emo_core.pictures import stretch_portrait
from emo_core.sampling import Guidance, alphas_cumprod, make_sampler
from emo_core.vae import AutoencoderKL

Stage = tuple[str, Tensor]

LIMITS = {
    "masks": 0, "pixels": 1e-3, "region": 1e-3, "alphas": 2e-6, "bank_down0": 2e-3,
    "bank_up3": 2e-3, "down0_motion1": 1e-4, "mid_audio": 1e-4, "video_latents": 2e-3,
    "video_last_frame": 2e-3, "prediction_weighted": 4e-5,
    **{f"prediction_{timestep}": 4e-5 for timestep in TIMESTEPS},
}  # fmt: skip
"""Largest difference that rounding may make; 3e-5 for all other stages. ReferenceNet's features
(bank) are rounded to half precision, which now and then turns 1e-6 into one of its steps."""


def error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference; `theirs` may be thinned, and ours may leave out places as NaN."""
    ours = ours.float().flatten() if ours.numel() == theirs.numel() else thinned(ours.float())
    apart = (ours - theirs.float().flatten()).abs()
    return float(apart[~apart.isnan()].max())


@torch.no_grad()
def stages(width: Width, folder: Path) -> Iterator[Stage]:
    """All stages in the order of a film, each under its name in the fixtures.

    Args:
        width: which networks.
        folder: an empty one, for the files that VAE and audio encoder are loaded from.
    """
    film, vae = Film(torch.empty(0), torch.empty(0), torch.empty(0)), None
    for name, tensor in _heard(width, folder):
        film = _with(film, audio=tensor) if name == "audio_features" else film
        yield name, tensor
    vae = seeded_vae(folder, width.vae)
    face, lips = boxes_of_landmarks(landmarks(_LIPS_478), *PICTURE)
    soft = region_masks(face, lips, *PICTURE)
    yield "masks", soft
    masks = mask_levels(soft, LATENT, LATENT, 4)
    yield from ((f"mask_level_{level}", one.flatten(1)) for level, one in enumerate(masks))
    filled = box_pixels(face, *PICTURE).float()[None].expand(3, -1, -1) / 255
    region = stretch_portrait(filled, SIZE).picture
    yield "region", region[:1, ::2, ::2] * 255
    pixels = stretch_portrait(picture(), SIZE).picture * 2 - 1
    yield "pixels", (pixels[:, ::2, ::2] + 1) * 127.5
    portrait = vae.encode(pixels[None])
    yield "portrait_latents", portrait
    embedding = draw("embedding", 1, width.config.unet.face_embedding_width)
    film = _with(film, portrait=portrait, region=region, masks=masks, face=embedding)
    model = seeded_model(width.config)
    yield from _seen(model, film)
    yield from _predicted(model, film)
    yield "alphas", alphas_cumprod("linear_zero_snr")[::10]
    yield from _filmed(model, vae, film, width.steps)


def _with(film: Film, **values: object) -> Film:
    return Film(**{**vars(film), **values})  # type: ignore[arg-type]


def _heard(width: Width, folder: Path) -> Iterator[Stage]:
    """Sound features, windows and tokens."""
    wave, encoder = sound(), seeded_encoder(folder, width.wav2vec)
    count = num_frames(len(wave), 16000, width.config.frame_rate)
    features = encode_sound(encoder, wave, count, 25, "whole_file", FRAMES).features
    yield "audio_features", features
    yield "audio_windows", window_features(features, 0, 2, width.config.audio.window)


def _conditions(
    model: EMO, film: Film, weights: tuple[float, float, float] = EVEN_MOTION
) -> Conditions:
    """Of the first clip, with seeded motion frames."""
    motion = model.encode_motion(draw("motion", MOTION, 4, LATENT, LATENT)[None], film.face)
    windows = window_features(film.audio, 0, FRAMES, model.config.audio.window)
    inputs = ClipInputs(windows[None], film.region[None], None, film.face, film.masks, weights)
    return model.conditions(model.encode_portrait(film.portrait, film.face), motion, inputs)


def _seen(model: EMO, film: Film) -> Iterator[Stage]:
    """Tokens, locator and ReferenceNet's features at the first and the last spot."""
    windows = window_features(film.audio, 0, len(film.audio), model.config.audio.window)
    yield "audio_tokens", model.audioproj(windows[None])
    tokens = model.face_tokens(film.face, film.portrait)
    assert tokens is not None
    yield "image_tokens", tokens[:, 0]
    yield "locator", model.face_locator(film.region[None])[:, :8]
    reference = _conditions(model, film).reference
    assert reference.motion is not None
    for name, spot in (("bank_down0", "down_blocks.0.0"), ("bank_up3", "up_blocks.3.2")):
        rows = torch.cat([reference.portrait[spot][:, None], reference.motion[spot]], dim=1)
        yield name, rows.flatten(0, 1).flatten(2).transpose(1, 2)[:, ::8]


def _predicted(model: EMO, film: Film) -> Iterator[Stage]:
    """Both halves of guidance at three timesteps, and two layers inside, seen by hooks."""
    net, inside = model.denoising_unet, {}
    clip = net.prepare(_conditions(model, film))
    latents = draw("latents", 1, 4, FRAMES, LATENT, LATENT).transpose(1, 2).repeat(2, 1, 1, 1, 1)
    audience = Audience.of_branches((frozenset(), CONDITIONS), 1, torch.device("cpu"))
    hooks = [
        layer.register_forward_hook(lambda m, i, out, name=name: inside.update({name: out}))
        for name, layer in (("motion", net.down_blocks[0].motion_modules[1]),
                            ("audio", net.mid_block.audio_modules[0]))
    ]  # fmt: skip
    for timestep in TIMESTEPS:
        yield f"prediction_{timestep}", net(latents, torch.full((2,), timestep), clip, audience)
        if timestep == TIMESTEPS[1]:
            frames = inside["motion"].unflatten(0, (2, FRAMES))[:, :, ::2, ::4, ::4]
            # Theirs has the motion frames in front, which ours lets go before.
            gone = torch.full_like(frames[:, :MOTION], torch.nan)
            yield "down0_motion1", torch.cat([gone, frames], dim=1)
            yield "mid_audio", inside["audio"].unflatten(0, (2, FRAMES))
    for hook in hooks:
        hook.remove()
    clip = net.prepare(_conditions(model, film, MOTION_WEIGHTS))
    yield "prediction_weighted", net(
        latents, torch.full((2,), TIMESTEPS[1]), clip, audience
    )[1:]


def _filmed(model: EMO, vae: AutoencoderKL, film: Film, steps: int) -> Iterator[Stage]:
    """Latents of two clips after the first and the last step, and the last frame."""
    config, seen = model.config, []
    sampler = make_sampler(
        model.denoising_unet, steps, Guidance(config.sampling.guidance_scale),
        on_step=lambda _, latents: seen.append(latents[0].clone()),
    )  # fmt: skip
    noise = StreamNoise(42, (FRAMES, 4, LATENT, LATENT))
    hand_over = PixelHandOver(vae.decode, vae.encode, config.temporal)
    *_, last = generate(model, film, plan_clips(8, FRAMES), sampler, hand_over, noise=noise)
    yield "video_latents", torch.stack(seen).unflatten(0, (2, steps))[:, [0, -1]]
    yield "video_last_frame", (vae.decode(last[-1:]) / 2 + 0.5).clamp(0, 1)[0, :, ::4, ::4]
