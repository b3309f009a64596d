"""EMO Model Loader: which files it offers, what it makes of them, and what it says of others."""

from __future__ import annotations

import os
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_film import draw, portrait, save_model


@pytest.fixture
def folder(pack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's models/emo, empty."""
    paths = import_module("folder_paths")
    name = import_module(f"{pack.__name__}.load").FOLDER
    kinds = {**paths.folder_names_and_paths, name: ([str(tmp_path)], set())}
    monkeypatch.setattr(paths, "folder_names_and_paths", kinds)
    monkeypatch.setattr(paths, "filename_list_cache", {})
    return tmp_path


@pytest.fixture
def loader(pack: Any) -> Any:
    return import_module(f"{pack.__name__}.load")


def test_the_folder_of_the_host(loader: Any) -> None:
    paths = import_module("folder_paths")
    assert paths.get_folder_paths("emo")[0] == str(Path(paths.models_dir) / "emo")


def test_it_offers_its_own_model_first_and_then_files(loader: Any, folder: Path) -> None:
    (folder / "mine").mkdir()
    for name in ("b.safetensors", "mine/a.safetensors", "net.pth", "readme.txt"):
        (folder / name).write_bytes(b"")
    built_in = "emo-tiny (built in)"
    nested = str(Path("mine") / "a.safetensors")
    assert loader.model_files() == [built_in, "b.safetensors", nested, "net.pth"]
    widget = loader.EMOModelLoader.define_schema().inputs[0]
    assert widget.options == loader.model_files() and widget.default == built_in
    assert loader.model_path(built_in).name == "emo-tiny.safetensors"
    assert loader.model_path(nested) == folder / nested


def test_a_file_becomes_model_and_vae(loader: Any, run: Any, folder: Path) -> None:
    save_model(folder / "mine.safetensors")
    model, vae = run(loader.EMOModelLoader, model_name="mine.safetensors", dtype="fp16")
    assert model.model.get_dtype() == torch.float16
    assert torch.tensor(model.model.latent_format.latent_rgb_factors).shape == (4, 3)
    assert vae.encode(portrait(32, 32)).shape == (1, 4, 4, 4)
    weights = load_file(folder / "mine.safetensors")
    stored = model.model.diffusion_model.conv_in.weight
    assert torch.equal(stored, weights["model.denoising_unet.conv_in.weight"].half())
    conditioner = import_module("emo_pack.nodes.host").parts_of(model).conditioner
    locator = conditioner.model.state_dict()["face_locator.conv_in.weight"]
    assert torch.equal(locator, weights["model.face_locator.conv_in.weight"].half())


def test_without_its_own_vae_latents_are_those_of_sd_15(
    loader: Any, run: Any, folder: Path
) -> None:
    save_model(folder / "bare.safetensors", vae=None)
    model, vae = run(loader.EMOModelLoader, model_name="bare.safetensors")
    assert vae is None and model.model.latent_format.scale_factor == 0.18215


def test_files_are_told_apart_by_every_weight(loader: Any, pack: Any, folder: Path) -> None:
    parts_of = import_module(f"{pack.__name__}.host").parts_of
    one = save_model(folder / "a.safetensors")
    copy = Path(shutil.copy(one, folder / "copy.safetensors"))
    other = folder / "other.safetensors"
    with safe_open(one, framework="pt") as file:
        header = file.metadata()
    weights = load_file(one)
    weights["model.denoising_unet.conv_out.bias"][0] += 1
    save_file(weights, other, metadata=header)
    first, same, changed = (parts_of(loader.load(path)[0]).identity for path in (one, copy, other))
    assert first == same and first != changed


def test_a_replaced_file_is_loaded_again(loader: Any, folder: Path) -> None:
    path = folder / "a.safetensors"
    path.write_bytes(b"1")
    os.utime(path, (1, 1))
    mark = loader.EMOModelLoader.fingerprint_inputs
    before = mark(model_name=path.name, dtype="auto")
    assert before == mark(model_name=path.name, dtype="auto")
    os.utime(path, (2, 2))
    assert mark(model_name=path.name, dtype="auto") != before
    path.unlink()
    assert mark(model_name=path.name, dtype="auto") == path.name


def test_a_file_replaced_while_it_is_read_is_refused(
    loader: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of one file under the name of another would be found again in kept clips."""
    path, check = save_model(folder / "a.safetensors"), loader.check_fit

    def meanwhile(*args: Any) -> None:
        check(*args)
        os.utime(path, (3, 3))

    monkeypatch.setattr(loader, "check_fit", meanwhile)
    with pytest.raises(ValueError, match="was replaced while it was read"):
        loader.load(path)


def test_the_embedded_model_hears_without_the_rest(loader: Any) -> None:
    hearing = loader.embedded_hearing()
    assert hearing.model.description and sum(p.numel() for p in hearing.model.parameters()) < 1e6
    weights = {weight.dtype for weight in hearing.model.parameters()}
    assert weights == {torch.float32}


def test_a_file_that_is_gone_is_said(loader: Any, run: Any, folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no gone.safetensors in .* any more"):
        run(loader.EMOModelLoader, model_name="gone.safetensors")


def test_a_file_of_another_kind_is_named(loader: Any, run: Any, folder: Path) -> None:
    save_file({"model.diffusion_model.input_blocks.0.0.weight": draw(2, 2)},
              folder / "sd.safetensors")  # fmt: skip
    save_file({"lora_unet_a.lora_down.weight": draw(2, 2)}, folder / "lora.safetensors")
    (folder / "page.safetensors").write_text("<!DOCTYPE html><html>not found</html>")
    for name, kind in (("sd", "Stable Diffusion checkpoint"), ("lora", "LoRA"), ("page", "page")):
        with pytest.raises(ValueError, match=kind) as raised:
            run(loader.EMOModelLoader, model_name=f"{name}.safetensors")
        assert "\n" not in str(raised.value) and name in str(raised.value)


WRONG = {
    "lora_unet_a.lora_down.weight": "is a LoRA .* LoraLoaderModelOnly",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": "1.5 UNet .* Diffusion M",
    "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": "AnimateDiff .*net.pth alr",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1_5.to_k.weight": "V-Express .*not run",
    "diffusion_net.conv_in.weight": "MEMO checkpoint .* does not run",
    "decoder.up_blocks.0.resnets.0.conv1.weight": "is a VAE .* Load VAE",
    "text_model.encoder.layers.0.mlp.fc1.weight": "is a text encoder .* Load CLIP",
    "feature_extractor.conv_layers.0.conv.weight": "an? audio encoder .* Load Audio Embedding",
    "control_model.input_blocks.0.0.weight": "ControlNet .* Load ControlNet Model",
    "something.weight": "unknown origin .* emo-tiny",
}
"""A tensor of each kind, and what is said of its file."""


@pytest.mark.parametrize("name", WRONG)
def test_the_right_node_for_a_wrong_file_is_named(
    loader: Any, run: Any, folder: Path, name: str
) -> None:
    tensors = {name: draw(8, 768)}
    if "attn2.to_k" in name:  # in EchoMimic's UNet it reads another width
        save_file({name: draw(8, 384)}, folder / "echo.safetensors")
        with pytest.raises(ValueError, match=r"EchoMimic network .* does not run"):
            run(loader.EMOModelLoader, model_name="echo.safetensors")
    save_file(tensors, folder / "wrong.safetensors")
    with pytest.raises(ValueError, match=WRONG[name]) as told:
        run(loader.EMOModelLoader, model_name="wrong.safetensors")
    assert str(told.value).startswith("wrong.safetensors is a") and "\n" not in str(told.value)


def test_a_pickle_that_would_run_code_is_refused(loader: Any, run: Any, folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {folder / 'ran'}",)

    torch.save({"weight": Evil()}, folder / "net.pth")
    with pytest.raises(ValueError, match="could run code; it was refused"):
        run(loader.EMOModelLoader, model_name="net.pth")
    assert not (folder / "ran").exists()


def test_a_truncated_file_is_said(loader: Any, run: Any, folder: Path) -> None:
    path = save_model(folder / "cut.safetensors")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"is not a whole .safetensors file .* fetch it again"):
        run(loader.EMOModelLoader, model_name="cut.safetensors")


@pytest.mark.parametrize("lacking", ["model.reference_unet.", "vae.decoder.", "model.face_locator"])
def test_a_file_without_a_part_is_said(loader: Any, run: Any, folder: Path, lacking: str) -> None:
    safetensors = import_module("safetensors")
    path = save_model(folder / "part.safetensors")
    with safetensors.safe_open(path, "pt") as file:
        header = file.metadata()
    state = {name: w for name, w in load_file(path).items() if not name.startswith(lacking)}
    save_file(state, path, header)
    with pytest.raises(ValueError, match=r"does not fit its own configuration: .* keys missing"):
        run(loader.EMOModelLoader, model_name="part.safetensors")
