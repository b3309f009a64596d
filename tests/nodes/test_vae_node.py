"""The checkpoint's own VAE as the host's VAE object."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from small_film import CLIP, VAE, Small, draw, ksample, open_small, save_model
from torch.nn.functional import interpolate

from emo_core.vae import AutoencoderKL
from emo_core.vae_config import VAEConfig
from emo_core.weights import load_model


@pytest.fixture(scope="module")
def path(tmp_path_factory: Any) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "a.safetensors")


@pytest.fixture(scope="module")
def small(pack: Any, run: Any, path: Path) -> Small:
    return open_small(pack, run, path)


def pictures(count: int, size: int = 32) -> torch.Tensor:
    """IMAGE of soft colours."""
    coarse = draw(count, 3, 6, 6, seed=7).sigmoid()
    return interpolate(coarse, (size, size), mode="bilinear").movedim(1, -1).contiguous()


def test_it_encodes_and_decodes_as_emo_core_does(small: Small, path: Path) -> None:
    alone = load_model(path).vae
    assert isinstance(alone, AutoencoderKL)
    image = pictures(3)
    latents = small.vae.encode(image)
    ours = alone.encode(image.movedim(-1, 1) * 2 - 1)
    torch.testing.assert_close(latents, ours, atol=1e-4, rtol=1e-4)
    frames = (alone.decode(ours) / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    torch.testing.assert_close(small.vae.decode(ours), frames, atol=1e-4, rtol=1e-4)
    assert float(frames.std()) > 0.05


def test_core_nodes_decode_and_encode_with_it(small: Small, path: Path) -> None:
    host = import_module("nodes")
    latent, motion = small.run(small.pack.MotionFrameLooper, steps=1, **small.inputs(frames=CLIP))
    (image,) = host.VAEDecode().decode(small.vae, latent)
    assert image.shape == (CLIP, 32, 32, 3) and image.min() >= 0 and image.max() <= 1
    alone = load_model(path).vae
    assert alone is not None
    ours = (alone.decode(latent["samples"]) / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    torch.testing.assert_close(image, ours, atol=1e-4, rtol=1e-4)
    (tiled,) = host.VAEDecodeTiled().decode(small.vae, latent, 64, 0)
    # Its three passes over tiles that are larger than the picture are the same picture.
    torch.testing.assert_close(tiled, image, atol=1e-4, rtol=1e-4)
    (encoded,) = host.VAEEncode().encode(small.vae, image)
    assert encoded["samples"].shape == latent["samples"].shape
    assert motion["samples"].shape[0] == 2


def test_large_pictures_are_decoded_in_tiles(small: Small) -> None:
    host = import_module("nodes")
    latent = {"samples": draw(1, 4, 16, 16)}
    (whole,) = host.VAEDecode().decode(small.vae, latent)
    (tiled,) = host.VAEDecodeTiled().decode(small.vae, latent, 64, 16)
    assert tiled.shape == whole.shape == (1, 128, 128, 3)


def test_latents_colours_are_better_than_one_colour(small: Small) -> None:
    vae = small.part("vae")
    image = small.part("example").example_portrait(32)
    colours = vae.latent_colours(small.vae, image, 1.0)
    assert colours.shape == (5, 3)
    latents = small.vae.encode(image)[0].flatten(1).T
    wanted = interpolate(image.movedim(-1, 1), (4, 4), mode="area")[0].flatten(1).T * 2 - 1
    guess = latents @ colours[:-1] + colours[-1]
    error = (guess - wanted).square().mean()
    assert error < 0.8 * (wanted - wanted.mean(0)).square().mean()


def test_the_preview_knows_every_channel(small: Small) -> None:
    form = small.model.model.latent_format
    assert torch.tensor(form.latent_rgb_factors).shape == (4, 3)
    assert len(form.latent_rgb_factors_bias) == 3
    assert form.latent_channels == small.vae.latent_channels == 4


@pytest.mark.parametrize("multiples", [(1, 1), (1, 2, 1)])
def test_other_widths_have_another_factor(small: Small, multiples: tuple[int, ...]) -> None:
    vae = small.part("vae")
    config = VAEConfig(32, multiples, 1, 6, 3, 3, 1.0, True, 8)
    alone = AutoencoderKL(config)
    host = vae.build_vae(config, alone.state_dict())
    side = 32 // config.factor
    latents = host.encode(pictures(1))
    assert latents.shape == (1, 6, side, side)
    torch.testing.assert_close(
        latents, alone.encode(pictures(1).movedim(-1, 1) * 2 - 1), atol=1e-4, rtol=1e-4
    )
    assert host.decode(latents).shape == (1, 32, 32, 3)


def test_its_scale_is_that_of_the_models_latents(pack: Any, run: Any, tmp_path: Path) -> None:
    """The host's VAE objects do not scale: MODEL does, and emo_core's VAE does both."""
    path = save_model(tmp_path / "scaled.safetensors", vae=replace(VAE, scaling_factor=0.25))
    scaled, plain = open_small(pack, run, path), load_model(path).vae
    assert plain is not None
    image = pictures(1)
    wanted = plain.encode(image.movedim(-1, 1) * 2 - 1)
    got = scaled.model.model.process_latent_in(scaled.vae.encode(image))
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    clip, _ = scaled.clip(0)
    assert torch.equal(clip, ksample(scaled.conditioning(0)))
    ours = (plain.decode(clip * 0.25) / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    torch.testing.assert_close(scaled.vae.decode(clip), ours, atol=1e-4, rtol=1e-4)


def test_widths_that_the_host_cannot_build_are_said(small: Small) -> None:
    vae, config = small.part("vae"), VAEConfig(8, (1, 2), 1, 4, 3, 3, 1.0, True, 4)
    with pytest.raises(ValueError, match=r"multiples of 32, and the checkpoint's has ch=8"):
        vae.build_vae(config, AutoencoderKL(config).state_dict())


def test_a_missing_weight_is_said(small: Small) -> None:
    vae, state = small.part("vae"), AutoencoderKL(VAE).state_dict()
    del state["decoder.conv_out.bias"]
    with pytest.raises(ValueError, match=r"lacks 1 weights \(first: decoder.conv_out.bias\)"):
        vae.build_vae(VAE, state)
