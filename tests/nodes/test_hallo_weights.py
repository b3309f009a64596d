"""Hallo's weights through the nodes: the same film as emo_core alone, or one sentence."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from published_hallo import (
    draw,
    published_state,
    seeded_encoder,
    seeded_vae,
    tiny_hallo,
)
from safetensors.torch import save_file
from small_film import Small, ksample, portrait, sound
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from emo_core.clips import plan_clips
from emo_core.config import EMOConfig
from emo_core.convert import convert
from emo_core.film import Material, film_from, hand_over
from emo_core.generate import Film, generate
from emo_core.pictures import fit_portrait
from emo_core.sampling import Guidance, make_sampler
from emo_core.weights import Checkpoint, load_model

FRAMES, STEPS = 6, 3


def written(folder: Path, config: EMOConfig) -> Path:
    """A converted file, as `emo convert` makes it of Hallo's tensors."""
    tensors = {name: tensor.contiguous() for name, tensor in published_state(config).items()}
    save_file(tensors, folder / "theirs.safetensors", {"emo_config": config.to_json()})
    convert(folder / "theirs.safetensors", folder / "ours.safetensors")
    return folder / "ours.safetensors"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("hallo"), tiny_hallo())


@pytest.fixture(scope="module")
def alone(path: Path) -> Checkpoint:
    """The same file, VAE and audio encoder without ComfyUI."""
    checkpoint = load_model(path)
    return replace(
        checkpoint, vae=seeded_vae(path.parent), audio_encoder=seeded_encoder(path.parent)
    )


@pytest.fixture(scope="module")
def small(pack: Any, run: Any, path: Path, alone: Checkpoint) -> Small:
    """The MODEL, and the VAE built by the host."""
    assert alone.vae is not None
    model, none = import_module(f"{pack.__name__}.load").load(path)
    assert none is None
    build = import_module(f"{pack.__name__}.vae").build_vae
    vae = build(alone.vae.config, alone.vae.state_dict())
    reference, _ = run(pack.ReferenceNetEncode, model=model, vae=vae, image=portrait())
    return Small(pack, run, model, vae, reference)


@pytest.fixture(scope="module")
def embedding() -> dict[str, Any]:
    """EMO_AUDIO of any numbers."""
    return {
        "version": 1, "features": draw("heard", FRAMES, 2, 16), "fps": 25.0,
        "encoder": "wav2vec2", "alignment": "before",
    }  # fmt: skip


@pytest.fixture(scope="module")
def given(alone: Checkpoint, embedding: dict[str, Any]) -> Film:
    size = alone.config.picture_size
    picture = fit_portrait(portrait()[0].permute(2, 0, 1), size).picture
    with torch.no_grad():
        film = film_from(alone, Material(picture, torch.zeros(1, 640 * FRAMES), 16000, seed=5))
    return replace(film, audio=embedding["features"])


@pytest.fixture(scope="module")
def wanted(small: Small, embedding: dict[str, Any]) -> dict[str, Any]:
    """What the sampling nodes are connected to."""
    return {
        "model": small.model, "reference": small.reference, "audio_embedding": embedding,
        "vae": small.vae, "seed": 5,
    }  # fmt: skip


def test_the_nodes_film_is_emo_animates(
    small: Small, alone: Checkpoint, given: Film, wanted: dict[str, Any]
) -> None:
    latent, _ = small.run(small.pack.MotionFrameLooper, **wanted, steps=STEPS, cfg=3.5)
    plans = plan_clips(FRAMES, alone.config.temporal.num_frames)
    sampler = make_sampler(alone.model.denoising_unet, STEPS, Guidance(3.5))
    theirs = torch.cat(list(generate(alone.model, given, plans, sampler, hand_over(alone))))
    scaled = small.model.model.process_latent_in(latent["samples"])
    # Measured: 1.4e-3; the host knows no infinite sigma, as in test_sample.py.
    assert float((scaled - theirs).abs().max() / theirs.std()) < 4e-3


def test_a_film_of_another_shape_is_emo_animates(
    small: Small, alone: Checkpoint, embedding: dict[str, Any], wanted: dict[str, Any]
) -> None:
    reference, seen = small.run(
        small.pack.ReferenceNetEncode, model=small.model, vae=small.vae, image=portrait(),
        width=320, height=256,
    )  # fmt: skip
    assert seen["samples"].shape == (1, 4, 32, 40) and reference["window"] == (0, 0, 48, 38)
    picture = fit_portrait(portrait()[0].permute(2, 0, 1), (256, 320)).picture
    sound_of = torch.zeros(1, 640 * FRAMES)
    with torch.no_grad():
        film = film_from(alone, Material(picture, sound_of, 16000, seed=5))
    film = replace(film, audio=embedding["features"])
    plans = plan_clips(FRAMES, alone.config.temporal.num_frames)
    sampler = make_sampler(alone.model.denoising_unet, 1, Guidance(1.0))
    theirs = torch.cat(list(generate(alone.model, film, plans, sampler, hand_over(alone))))
    given = {**wanted, "reference": reference}
    latent, motion = small.run(small.pack.MotionFrameLooper, **given, steps=1, cfg=1.0)
    scaled = small.model.model.process_latent_in(latent["samples"])
    # Measured: 6.1e-3; where there is one step, that no sigma is infinite counts for more.
    assert float((scaled - theirs).abs().max() / theirs.std()) < 1e-2
    small.run(small.pack.EMOConditioning, **given, motion_frames=motion)
    with pytest.raises(ValueError, match=r"as latents \(4, 32, 40\), got \(2, 4, 16, 16\)"):
        narrow = {"samples": torch.zeros(2, 4, 16, 16)}
        small.run(small.pack.EMOConditioning, **given, motion_frames=narrow)


def test_branches_that_run_apart_give_the_same(
    small: Small, wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = small.run(small.pack.EMOConditioning, **wanted)
    together = ksample(prepared)
    conds = import_module(f"{small.pack.__name__}.conds")
    monkeypatch.setattr(conds.ClipCond, "can_concat", lambda *_: False)
    apart = ksample(prepared)
    torch.testing.assert_close(apart, together, rtol=0, atol=1e-3 * float(together.std()))


def test_motion_frames_that_go_on_need_a_vae(small: Small, wanted: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="sees the last frames of a clip as pictures; connect a"):
        small.run(small.pack.EMOSampler, **{**wanted, "vae": None})


def test_it_hears_as_emo_animate_does(
    small: Small, alone: Checkpoint, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = import_module("folder_paths")
    kinds = {**paths.folder_names_and_paths, "audio_encoders": ([str(path.parent)], set())}
    monkeypatch.setattr(paths, "folder_names_and_paths", kinds)
    monkeypatch.setattr(paths, "filename_list_cache", {})
    audio = sound(FRAMES)
    picture = draw("p", 3, 128, 128).sigmoid()
    with torch.no_grad():
        film = film_from(alone, Material(picture, audio["waveform"][0], 16000))
    heard, *_ = small.run(
        small.pack.LoadAudioEmbedding, audio=audio, model=small.model,
        encoder="wav2vec2/model.safetensors",
    )  # fmt: skip
    assert len(film.audio) == 8
    both = torch.cat([heard["features"], heard["beyond"]])
    torch.testing.assert_close(both, film.audio, rtol=0, atol=1e-5)


def saved(path: Path, config: EMOConfig) -> Path:
    """The tensors of a net.pth as torch.save writes them."""
    torch.save(published_state(config), path)
    return path


def test_net_pth_is_loaded_as_it_is(
    pack: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And which variant it was taken for is said, with the reason."""
    loader = import_module(f"{pack.__name__}.load")
    parts_of = import_module(f"{pack.__name__}.host").parts_of
    path = saved(tmp_path / "net.pth", tiny_hallo())
    (tmp_path / "hallo2").mkdir()
    named = saved(tmp_path / "hallo2" / "net.pth", tiny_hallo())
    for given, variant, name, reason in (
        (path, "auto", "hallo", "nothing about it says hallo2"),
        (path, "hallo2", "hallo2", "it was chosen"),
        (named, "auto", "hallo2", "its folder is called hallo2"),
        (named, "hallo", "hallo", "it was chosen"),
    ):
        caplog.clear()
        with caplog.at_level("INFO"):
            model, none = loader.load(given, variant=variant)
        assert f"net.pth is taken for {name}: {reason}" in caplog.text
        assert none is None and parts_of(model).config.name == name
    state = published_state(tiny_hallo())
    weight = "up_blocks.3.audio_modules.2.transformer_blocks.0.attn2_1.to_k.weight"
    found = model.model.diffusion_model.state_dict()[weight]
    assert torch.equal(found, state[f"denoising_unet.{weight}"])


def test_one_copy_of_the_weights_is_made(pack: Any, tmp_path: Path) -> None:
    """Counted in the bytes of every storage that loading makes."""
    loader = import_module(f"{pack.__name__}.load")
    path = saved(tmp_path / "net.pth", tiny_hallo())
    size = path.stat().st_size
    with Made() as mapped:
        model, _ = loader.load(path, torch.float32)
    with Made() as halved:
        loader.load(path, torch.float16)
    assert not any(weight.is_meta for weight in model.model.state_dict().values())
    # The file is mapped, which counts once; in its own precision nothing else is made.
    assert mapped.bytes < 1.02 * size
    assert 1.4 * size < halved.bytes < 1.52 * size


class Made(TorchDispatchMode):
    """Counts the bytes of new tensors that have values, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self._seen = 0, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {
            one.untyped_storage().data_ptr() for one in tree_leaves((args, kwargs or {}))
            if isinstance(one, torch.Tensor) and not one.is_meta
        }  # fmt: skip
        out = func(*args, **(kwargs or {}))
        for one in tree_leaves(out):
            if isinstance(one, torch.Tensor) and not one.is_meta:
                storage = one.untyped_storage()
                self.bytes += 0 if storage.data_ptr() in given else storage.nbytes()
        return out


def test_what_the_choices_are_for_is_said(pack: Any, run: Any) -> None:
    loader = pack.EMOModelLoader
    with pytest.raises(ValueError, match="emo-tiny is no such model; turn it off"):
        run(loader, reproduce=True)
    with pytest.raises(ValueError, match="this is emo-tiny; leave the choice to the file"):
        run(loader, variant="hallo2")


def test_hallos_own_layout_is_said_to_be_taken_for_hallo(
    pack: Any, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        import_module(f"{pack.__name__}.load").load(path.parent / "theirs.safetensors")
    assert "theirs.safetensors is taken for hallo: its header says so" in caplog.text
