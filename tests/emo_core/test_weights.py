"""Checkpoints: what is saved is loaded; what is wrong is named; what is foreign never runs."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from emo_core import weights
from emo_core.audio_encoder import AudioEncoderConfig, build_audio_encoder
from emo_core.config import EMOConfig
from emo_core.describe import describe_checkpoint
from emo_core.weight_files import KINDS, UNKNOWN, kind_of, open_weights


def rewritten(checkpoint: Path, target: Path, drop: str = "", **header: str) -> Path:
    """The checkpoint without the tensors whose name contains `drop`, with another header."""
    with safe_open(checkpoint, "pt") as file:
        kept = {**file.metadata(), **header}
    state = load_file(checkpoint)
    save_file({n: t for n, t in state.items() if not drop or drop not in n}, target, kept)
    return target


def test_what_is_saved_is_loaded(checkpoint: Path, smallest: EMOConfig) -> None:
    loaded = weights.load_model(checkpoint)
    state = load_file(checkpoint)
    assert loaded.config == smallest
    assert loaded.training == {"steps": 0, "data_seed": 7}
    assert loaded.vae is not None
    assert loaded.audio_encoder is not None
    parts = {"model.": loaded.model, "vae.": loaded.vae, "audio_encoder.": loaded.audio_encoder}
    assert sum(len(part.state_dict()) for part in parts.values()) == len(state)
    for prefix, part in parts.items():
        assert not part.training
        for name, tensor in part.state_dict().items():
            assert tensor.dtype == torch.float32
            assert state[prefix + name].dtype == torch.float16
            assert torch.equal(tensor, state[prefix + name].float())


def test_a_saved_and_loaded_model_is_saved_alike(checkpoint: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    loaded = weights.load_model(checkpoint)
    weights.save_checkpoint(again, loaded.model, loaded.vae, training=loaded.training)
    saved, before = load_file(again), load_file(checkpoint)
    assert set(saved) == {name for name in before if not name.startswith("audio_encoder.")}
    assert all(torch.equal(tensor, before[name]) for name, tensor in saved.items())
    assert weights.load_model(again).audio_encoder is None
    assert [path.name for path in tmp_path.iterdir()] == ["again.safetensors"]


def test_weights_that_are_no_numbers_are_not_saved(checkpoint: Path, tmp_path: Path) -> None:
    model = weights.load_model(checkpoint).model
    with torch.no_grad():
        next(model.parameters()).fill_(1e6)
    with pytest.raises(ValueError, match=r"is not finite in torch\.float16"):
        weights.save_checkpoint(tmp_path / "x.safetensors", model)
    with pytest.raises(ValueError, match="give both"):
        weights.save_checkpoint(
            tmp_path / "x.safetensors", model,
            audio_encoder=weights.load_model(checkpoint).audio_encoder,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_the_network_cannot_hear_with_is_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    heard = AudioEncoderConfig("logmel", 2, 16, "after", False, {"dilations": [1, 1]})
    sentence = "hears with logmel of 2 layers of 8, .* is logmel of 2 layers of 16"
    with pytest.raises(ValueError, match=sentence):
        weights.save_checkpoint(
            tmp_path / "x.safetensors", weights.load_model(checkpoint).model,
            audio_encoder=build_audio_encoder(heard), audio_encoder_config=heard,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())
    told = json.dumps(heard.to_dict())
    other = rewritten(checkpoint, tmp_path / "x.safetensors", audio_encoder=told)
    with pytest.raises(ValueError, match=sentence):
        weights.load_model(other)


def test_the_embedded_model_has_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert weights.EMBEDDED["emo-tiny"].name == "emo-tiny.safetensors"
    monkeypatch.setitem(weights.EMBEDDED, "emo-tiny", tmp_path / "no.safetensors")
    with pytest.raises(FileNotFoundError, match="lacks its embedded model emo-tiny"):
        weights.load_model("emo-tiny")


@pytest.mark.parametrize(
    ("drop", "sentence"),
    [
        ("audioproj", r"incomplete audio layers: \d+ of \d+ keys missing"),
        ("speed_encoder", r"incomplete speed layers: 4 of \d+ keys missing"),
        ("face_locator", r"no face locator: (\d+) of \1 keys missing"),
        ("reference_unet", r"no ReferenceNet: (\d+) of \1 keys missing"),
        ("vae.decoder", r"incomplete VAE: \d+ of \d+ keys missing"),
        ("audio_encoder.", r"no audio encoder: (\d+) of \1 keys missing"),
    ],
)
def test_missing_layers_are_named(
    checkpoint: Path, tmp_path: Path, drop: str, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        weights.load_model(rewritten(checkpoint, tmp_path / "x.safetensors", drop))


def test_unknown_and_misshapen_tensors_are_named(checkpoint: Path, tmp_path: Path) -> None:
    state = load_file(checkpoint)
    name = "model.denoising_unet.conv_in.weight"
    state[name] = state[name][:1].clone()
    state["model.surplus"] = torch.zeros(1)
    with safe_open(checkpoint, "pt") as file:
        save_file(state, tmp_path / "x.safetensors", file.metadata())
    with pytest.raises(ValueError, match=r"1 unknown keys \(first: model.surplus\); 1 keys of ano"):
        weights.load_model(tmp_path / "x.safetensors")


def test_damaged_headers_are_named(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.safetensors"
    for header, sentence in (
        ({"format": "emo-portrait 2"}, "update it"),
        ({"emo_config": "{"}, "is not JSON"),
        ({"emo_config": "{}"}, "missing"),
        ({"audio_encoder": "{"}, "is not JSON"),
        ({"vae_config": "{}"}, "VAE configuration"),
    ):
        with pytest.raises(ValueError, match=sentence):
            weights.load_model(rewritten(checkpoint, target, **header))


HALLO = ("denoising_unet.x", "reference_unet.x", "audioproj.x", "imageproj.x", "face_locator.x")
CROSS = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"


@pytest.mark.parametrize(
    ("names", "width", "kind"),
    [
        (["lora_unet_down_blocks_0.lora_down.weight"], 1, "LoRA"),
        ([CROSS.replace("to_k", "to_k.lora_A")], 1, "LoRA"),
        (["down_blocks.0.audio_modules.0.attn2_0.to_q.weight"], 1,
         "part of a Hallo checkpoint"),
        (HALLO[:2], 1, "bare EMO network without configuration"),
        ([CROSS, "down_blocks.0.attn1_5.x"], 768, "V-Express checkpoint"),
        (["diffusion_net.conv_in.weight"], 1, "MEMO checkpoint"),
        ([CROSS, "conv_in.weight"], 384, "EchoMimic network"),
        ([CROSS, "conv_in.weight"], 768, "Stable Diffusion 1.5 UNet"),
        (["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.x"], 1,
         "Stable Diffusion checkpoint"),
        (["down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"], 1,
         "AnimateDiff motion module"),
        (["encoder.conv_in.weight", "decoder.conv_in.weight", "post_quant_conv.weight"], 1, "VAE"),
        (["text_model.encoder.layers.0.mlp.fc1.weight"], 1, "text encoder"),
        (["wav2vec2.feature_extractor.conv_layers.0.conv.weight"], 1, "audio encoder"),
        (["deviation", "features.0.weight"], 1, "puppet meter"),
        (["something.else"], 1, UNKNOWN.name),
    ],
)  # fmt: skip
def test_a_foreign_file_is_named(
    tmp_path: Path, names: list[str], width: int, kind: str
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({name: torch.zeros(2, width) for name in names}, path)
    with pytest.raises(ValueError, match=f"is an? {kind} and not an EMO checkpoint: .*emo") as told:
        weights.load_model(path)
    assert "\n" not in str(told.value)
    facts = describe_checkpoint(path)
    assert (facts["kind"], facts["runs_here"]) == (kind, False)


def test_a_kind_has_the_article_that_is_spoken() -> None:
    spoken = {str(kind) for kind in KINDS}
    assert {"an audio encoder", "an SDXL checkpoint", "an EchoMimic network"} <= spoken
    assert {"a VAE", "a Stable Diffusion checkpoint", "a LoRA", "a MEMO checkpoint"} <= spoken


def test_the_published_names_of_hallo_are_recognised() -> None:
    assert all(kind.name and kind.advice for kind in KINDS)
    assert kind_of({name: (1,) for name in HALLO}).name == "Hallo checkpoint"


def test_a_pickle_of_tensors_is_named_by_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"state_dict": {name: torch.zeros(1) for name in HALLO}}, path)
    with pytest.raises(ValueError, match="names of a Hallo checkpoint but lacks"):
        weights.load_model(path)
    torch.save({name: torch.zeros(1) for name in HALLO}, path, _use_new_zipfile_serialization=False)
    assert kind_of(open_weights(path).shapes).name == "Hallo checkpoint"


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".bin", ".pt", ".safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_does_not_run(
    tmp_path: Path, suffix: str, zipped: bool
) -> None:
    path, mark = tmp_path / f"x{suffix}", tmp_path / "ran"
    torch.save({"a": torch.zeros(1), "b": Bomb(mark)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="could run code; it was refused and nothing of it ran"):
        weights.load_model(path)
    path.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(ValueError, match=r"refused|not a whole file"):
        weights.load_model(path)
    assert not mark.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_broke_off_is_to_be_fetched_again(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "net.pth"
    state = {f"t{i}": torch.ones(50, 50) for i in range(9)}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in (10, 500, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        broken = f"of its {length:,} bytes some are missing or damaged, .* fetch it again"
        with pytest.raises(ValueError, match=broken) as told:
            open_weights(path)
        assert "\n" not in str(told.value)


def test_a_header_that_is_nested_without_end_is_a_sentence(
    checkpoint: Path, tmp_path: Path
) -> None:
    path, deep = tmp_path / "x.safetensors", "[" * 100_000
    for name, sentence in (
        ("emo_config", "is not JSON"), ("vae_config", "expected the JSON of a VAE"),
        ("audio_encoder", "is not JSON"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            weights.load_model(rewritten(checkpoint, path, **{name: deep}))
    assert weights.load_model(rewritten(checkpoint, path, training=deep)).training["note"] == deep


def test_files_that_are_no_weights_are_named(checkpoint: Path, tmp_path: Path) -> None:
    whole = checkpoint.read_bytes()
    for content, sentence in (
        (b"", "is empty"),
        (whole[:-100], "truncated"),
        (whole[:50], "truncated"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"GGUF" + bytes(60), "GGUF"),
        (b"some text that is no checkpoint at all", "not a whole .safetensors file"),
        (b"PK\x03\x04" + bytes(200), "not a whole file of torch.save"),
    ):
        (tmp_path / "x.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=sentence) as told:
            weights.load_model(tmp_path / "x.safetensors")
        assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="is a folder"):
        weights.load_model(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        weights.load_model(tmp_path / "no.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds no tensors by name"):
        weights.load_model(tmp_path / "list.pt")


def test_a_checkpoint_describes_itself(checkpoint: Path, smallest: EMOConfig) -> None:
    facts = describe_checkpoint(checkpoint)
    assert (facts["kind"], facts["name"]) == ("EMO checkpoint", "smallest")
    assert facts["runs_here"]
    assert facts["joins"] == smallest.temporal.joins
    assert facts["parameters"] == sum(facts["parameters_of"].values())
    assert facts["speed_buckets"]["centres"] == smallest.speed.centres  # type: ignore[union-attr]
    assert EMOConfig.from_json(json.dumps(facts["config"])) == smallest
