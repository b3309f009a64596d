"""ReferenceNetEncode: any picture to what the model sees of it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
from small_film import LATENT, Small, open_small, portrait, save_model

from emo_core.pictures import fit_portrait
from emo_core.vae import AutoencoderKL
from emo_core.vae_config import VAEConfig
from emo_core.weights import load_model


@pytest.fixture(scope="module")
def small(pack: Any, run: Any, tmp_path_factory: Any) -> Small:
    return open_small(pack, run, save_model(tmp_path_factory.mktemp("model") / "a.safetensors"))


def encode(small: Small, image: torch.Tensor) -> tuple[Any, ...]:
    node = small.pack.ReferenceNetEncode
    return small.run(node, model=small.model, vae=small.vae, image=image)


def test_it_is_what_emo_core_alone_sees(small: Small, tmp_path: Any) -> None:
    alone = load_model(save_model(tmp_path / "a.safetensors"))
    assert alone.vae is not None
    square = fit_portrait(portrait()[0].permute(2, 0, 1), 32).picture
    latents = alone.vae.encode(square[None] * 2 - 1)
    torch.testing.assert_close(small.reference["latents"], latents, atol=1e-4, rtol=1e-4)
    wanted = alone.model.encode_portrait(latents)
    assert small.reference["features"].keys() == wanted.keys()
    for name, features in wanted.items():
        got = small.reference["features"][name]
        torch.testing.assert_close(got, features, atol=1e-3, rtol=1e-3)


def test_it_notes_where_the_square_lies(small: Small) -> None:
    tall, latent = encode(small, portrait(64, 32))
    assert tall["picture"] == (64, 32) and tall["window"] == (0, 8, 32, 32)
    assert small.reference["picture"] == (40, 48) and small.reference["window"] == (4, 0, 40, 40)
    assert latent["samples"].shape == (1, *LATENT)
    assert torch.equal(latent["samples"], tall["latents"])
    assert tall["version"] == 1 and tall["model"].startswith("smallest ")


def test_sizes_that_are_not_the_models(small: Small) -> None:
    node = small.pack.ReferenceNetEncode
    given = {"model": small.model, "vae": small.vae, "image": portrait()}
    own, _ = small.run(node, **given, width=32, height=0)
    assert torch.equal(own["latents"], small.reference["latents"])
    with pytest.raises(ValueError, match="pixels and makes films of that size only"):
        small.run(node, **given, width=256)


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (1, 7, 300, 3), (1, 33, 31, 1), (40, 48, 3)])
def test_pictures_of_every_shape(small: Small, shape: tuple[int, ...]) -> None:
    reference, _ = encode(small, torch.full(shape, 0.4))
    assert reference["latents"].shape == (1, *LATENT)
    assert bool(torch.isfinite(reference["latents"]).all())


def test_transparency_is_laid_over_white(small: Small) -> None:
    alpha = torch.zeros(1, 40, 48, 1)
    alpha[:, :20] = 1
    white = torch.where(alpha > 0, portrait(), torch.ones(()))
    seen, _ = encode(small, torch.cat([portrait(), alpha], -1))
    plain, _ = encode(small, white)
    torch.testing.assert_close(seen["latents"], plain["latents"])


def test_a_batch_of_pictures_is_one_person(small: Small) -> None:
    pictures = torch.cat([portrait(), 1 - portrait()])
    several, latent = encode(small, pictures)
    assert several["latents"].shape == latent["samples"].shape == (2, *LATENT)
    torch.testing.assert_close(several["latents"][:1], small.reference["latents"])
    assert (several["picture"], several["window"]) == ((40, 48), (4, 0, 40, 40))
    film, _ = small.film(reference=several)
    alone, _ = small.film()
    assert film.shape == alone.shape and not torch.allclose(film, alone, atol=1e-2)
    twice, _ = encode(small, torch.cat([portrait(), portrait()]))
    torch.testing.assert_close(small.film(reference=twice)[0], alone, atol=2e-3, rtol=1e-3)
    clip, motion = small.clip(0, reference=several)
    second, _ = small.clip(1, reference=several, motion_frames=motion)
    assert torch.equal(torch.cat([clip, second]), film[:8])


def test_a_film_is_no_person(small: Small) -> None:
    with pytest.raises(ValueError, match="a portrait of 17 pictures is a film"):
        encode(small, portrait().repeat(17, 1, 1, 1))


def test_only_the_conditioner_is_loaded(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    management = import_module("comfy.model_management")
    loaded: list[Any] = []
    load = management.load_models_gpu

    def note(models: list[Any], *args: Any, **kwargs: Any) -> Any:
        loaded.extend(one.model for one in models)
        return load(models, *args, **kwargs)

    monkeypatch.setattr(management, "load_models_gpu", note)
    encode(small, portrait())
    conditioner = small.part("host").parts_of(small.model).conditioner.model
    assert any(one is conditioner for one in loaded)
    assert not any(one is small.model.model for one in loaded)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (torch.full((1, 8, 8, 3), float("nan")), "NaN or infinite values; make or load it again"),
        (torch.zeros(0, 8, 8, 3), "a portrait is an IMAGE .* connect Load Image"),
        (torch.zeros(1, 8, 8, 5), r"got \(1, 8, 8, 5\); connect Load Image"),
        (torch.zeros(8, 8), r"got \(8, 8\)"),
    ],
)
def test_what_is_no_portrait(small: Small, image: torch.Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        encode(small, image)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("channels", "multiples", "shape"), [(6, (1, 1, 1, 1), "6, 4, 4"), (4, (1, 1, 1), "4, 8, 8")]
)
def test_a_vae_of_other_latents_is_refused(
    small: Small, channels: int, multiples: tuple[int, ...], shape: str
) -> None:
    config = VAEConfig(32, multiples, 1, channels, 3, 3, 1.0, True, 4)
    other = small.part("vae").build_vae(config, AutoencoderKL(config).state_dict())
    sentence = rf"latents of the shape \({shape}\), and smallest needs 4 channels of 4x4; connect"
    with pytest.raises(ValueError, match=sentence):
        small.run(small.pack.ReferenceNetEncode, model=small.model, vae=other, image=portrait())


def test_no_vae_is_said(small: Small) -> None:
    with pytest.raises(ValueError, match=r"brings no VAE of its own; connect an SD 1.5 VAE"):
        small.run(small.pack.ReferenceNetEncode, model=small.model, vae=None, image=portrait())


def test_another_models_reference_is_refused(
    small: Small, pack: Any, run: Any, tmp_path: Any
) -> None:
    other = open_small(pack, run, save_model(tmp_path / "b.safetensors", seed=9))
    with pytest.raises(ValueError, match=r"encoded by smallest .* is sampled with smallest .*same"):
        small.clip(0, reference=other.reference)
