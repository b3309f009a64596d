"""Hallo's published layout: what is read, left out, told apart, and said when it does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from published_hallo import published_state, seeded_model, tiny_hallo
from safetensors.torch import save_file
from test_hallo_keys import published as published_names
from test_hallo_keys import without_influence
from torch import Tensor

from emo_core import hallo_files
from emo_core.describe import describe_checkpoint
from emo_core.hallo_files import as_checkpoint, decide, with_variant
from emo_core.model import EMO
from emo_core.presets import emo, hallo, hallo2
from emo_core.weight_files import WeightFile
from emo_core.weights import load_model, open_checkpoint

UNMARKED = "nothing about it says hallo2 (if it is Hallo2's, choose the variant hallo2)"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return published_state()


@pytest.fixture(scope="module")
def net(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "net.pth"
    torch.save(state, path)
    return path


def test_the_full_file_gives_the_preset() -> None:
    shapes = published_names()
    file = as_checkpoint(WeightFile(Path("hallo/net.pth"), {}, shapes, lambda name: torch.empty(0)))
    assert file.unused == 160 and len(file.shapes) == 2656 - 160
    assert file.header["emo_config"] == hallo().to_json()
    wanted = {f"model.{n}": s for n, s in shapes.items() if not without_influence(n)}
    assert file.shapes == wanted


def test_the_small_file_has_the_published_names(state: dict[str, Tensor]) -> None:
    assert set(state) == set(published_names())


def test_a_pickle_of_torch_save_is_loaded(net: Path, state: dict[str, Tensor]) -> None:
    loaded = load_model(net)
    config = tiny_hallo()
    assert loaded.config.unet == config.unet and loaded.config.locator == config.locator
    assert loaded.vae is None and loaded.audio_encoder is None
    kept = loaded.model.state_dict()
    for name, tensor in kept.items():
        assert torch.equal(tensor, state[name])
    assert len(state.keys() - kept.keys()) == 160


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_safetensors(
    tmp_path: Path, state: dict[str, Tensor], dtype: torch.dtype
) -> None:
    path = tmp_path / "hallo.safetensors"
    save_file({name: tensor.to(dtype).contiguous() for name, tensor in state.items()}, path)
    loaded = load_model(path, dtype=torch.float32)
    for name, tensor in loaded.model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[name].to(dtype).float())


def test_a_configuration_in_the_header_wins(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "hallo2.safetensors"
    config = replace(tiny_hallo(), name="mine")
    header = {"emo_config": config.to_json()}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, header)
    file, found = open_checkpoint(path)
    assert found == config and "its header says so" in file.header["origin"]
    _, chosen = open_checkpoint(path, "hallo2")
    assert (chosen.name, chosen.temporal.motion_mask) == ("hallo2", 0.25)
    assert chosen.unet == config.unet


@pytest.mark.parametrize(
    ("path", "variant", "taken", "reason"),
    [
        ("a/hallo/net.pth", "auto", "hallo", UNMARKED),
        ("a/hallo2/net.pth", "auto", "hallo2", "its folder is called hallo2"),
        ("a/Hallo-2/net.pth", "auto", "hallo2", "its folder is called Hallo-2"),
        ("a/hallo/Hallo2_net.pth", "auto", "hallo2", "its file is called Hallo2_net"),
        ("a/hallo2/net.pth", "hallo", "hallo", "it was chosen"),
        ("a/net.pth", "hallo2", "hallo2", "it was chosen"),
    ],
)
def test_which_of_the_two(path: str, variant: str, taken: str, reason: str) -> None:
    assert decide(Path(path), variant) == (taken, reason)


def test_the_loader_says_which_it_took(
    net: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level("INFO", "emo_core")
    folder = tmp_path / "hallo2"
    folder.mkdir()
    (folder / "net.pth").symlink_to(net)
    assert load_model(folder / "net.pth").config.name == "hallo2"
    assert "taken for hallo2: its folder is called hallo2" in caplog.text
    assert load_model(folder / "net.pth", variant="hallo").config.temporal.motion_mask == 0


def test_variants_of_other_models_are_refused() -> None:
    assert with_variant(hallo(), "hallo2") == hallo2()
    assert with_variant(hallo2(), "hallo") == hallo()
    with pytest.raises(ValueError, match="the choice hallo2 is between Hallo's two sets"):
        with_variant(emo(), "hallo2")
    with pytest.raises(ValueError, match="must be one of auto, hallo, hallo2"):
        decide(Path("x"), "hallo3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="between Hallo's two sets"):
        open_checkpoint("emo-tiny", "hallo")


@pytest.mark.parametrize(
    ("drop", "sentence"),
    [
        (".audio_modules.", r"no audio modules: 672 of 672 keys missing"),
        ("up_blocks.3.motion_modules", r"incomplete temporal modules: 84 of 448 keys missing"),
        ("reference_unet.mid", r"incomplete ReferenceNet: \d+ of \d+ keys missing"),
    ],
)
def test_missing_layers_are_named_by_group(
    tmp_path: Path, state: dict[str, Tensor], drop: str, sentence: str
) -> None:
    path = tmp_path / "net.pth"
    torch.save({name: tensor for name, tensor in state.items() if drop not in name}, path)
    with pytest.raises(ValueError, match=f"does not fit Hallo's network: .*{sentence}") as told:
        load_model(path)
    assert "\n" not in str(told.value)
    facts = describe_checkpoint(path)
    assert facts["kind"] == "Hallo checkpoint" and not facts["runs_here"]


def test_surplus_and_unreadable_widths_are_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "net.pth"
    torch.save({**state, "denoising_unet.more": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"1 unknown keys \(first: model.denoising_unet.more\)"):
        load_model(path)
    torch.save({n: t for n, t in state.items() if n != "audioproj.proj1.weight"}, path)
    with pytest.raises(ValueError, match=r"lacks audioproj\.proj1\.weight; fetch"):
        load_model(path)


def test_it_describes_itself(net: Path) -> None:
    facts = describe_checkpoint(net)
    assert (facts["kind"], facts["name"], facts["runs_here"]) == ("Hallo checkpoint", "hallo", True)
    assert "taken for hallo" in facts["taken_as"] and "--vae" in facts["advice"]


def test_what_is_left_out_cannot_matter() -> None:
    """Of the parameters that are kept every one changes a prediction."""
    from test_hallo_parity import prediction

    model = seeded_model().requires_grad_(True)
    prediction.__wrapped__(model, 474).square().sum().backward()
    # The projections that make keys of zeros, which the other branch of guidance would use.
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent
    left = {n for n in published_state() if hallo_files.without_influence(n, tiny_hallo())}
    assert left.isdisjoint(EMO(tiny_hallo(), device="meta").state_dict())
