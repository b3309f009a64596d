"""`emo convert`: there and back every kept tensor is bit-equal; the file appears whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from published_hallo import published_state, tiny_hallo
from safetensors.torch import load_file, save_file
from test_hallo_parity import TIMESTEPS, close, prediction
from torch import Tensor

from emo_core.cli import main
from emo_core.convert import convert
from emo_core.weight_writer import save_whole, write_safetensors
from emo_core.weights import find_checkpoint, load_model


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Tensors of several types, as files found in the wild have them."""
    state = published_state()
    for index, name in enumerate(sorted(state)):
        if index % 3 == 1:
            state[name] = state[name].half()
        elif index % 3 == 2:
            state[name] = state[name].bfloat16()
    return state


@pytest.fixture(scope="module")
def net(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hallo2") / "net.pth"
    torch.save(state, path)
    return path


def test_there_and_back(net: Path, state: dict[str, Tensor], tmp_path: Path) -> None:
    there, back = tmp_path / "hallo.safetensors", tmp_path / "net.pth"
    steps: list[tuple[int, int]] = []
    made = convert(net, there, progress=lambda done, total: steps.append((done, total)))
    assert (made.name, made.left_out) == ("hallo2", 160)
    assert steps[-1][0] == steps[-1][1] and len(steps) == made.tensors
    written = load_file(there)
    assert len(written) == made.tensors == len(state) - 160
    for name, tensor in written.items():
        original = state[name.removeprefix("model.")]
        assert tensor.dtype == original.dtype and torch.equal(tensor, original)
    convert(there, back)
    again = torch.load(back, weights_only=True)
    assert set(again) == {name.removeprefix("model.") for name in written}
    for name, tensor in again.items():
        assert tensor.dtype == state[name].dtype and torch.equal(tensor, state[name])
    assert {path.name for path in tmp_path.iterdir()} == {"hallo.safetensors", "net.pth"}


def test_the_file_says_what_it_is(net: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    convert(net, path, "hallo")
    loaded = load_model(path)
    assert loaded.config.name == "hallo" and loaded.config.temporal.motion_mask == 0
    assert loaded.training == {"converted_from": "net.pth"}


def test_a_converted_file_gives_hallos_numbers(tmp_path: Path) -> None:
    path, made = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in published_state().items()}
    save_file(tensors, path, {"emo_config": tiny_hallo().to_json()})
    convert(path, made)
    model = load_model(made).model
    close(prediction(model, TIMESTEPS[1]), f"prediction_{TIMESTEPS[1]}", 4e-5)


def test_the_command(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.safetensors"
    assert main(["convert", str(net), "-o", str(path)]) == 0
    told = capsys.readouterr()
    assert "2496 tensors of hallo2" in told.out and "160 left out" in told.out
    assert "its folder is called hallo2" in told.out and "100%" in told.err
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    ("source", "output", "sentence"),
    [
        ("net.pth", "x.bin", "must end in .safetensors or .pth"),
        ("net.pth", "net.pth", "would replace its own source"),
        ("net.pth", "no/x.safetensors", "does not exist; make it"),
        ("no.pth", "x.safetensors", "does not exist"),
        ("vae.safetensors", "x.safetensors", "is a VAE and not an EMO checkpoint"),
        ("tiny.safetensors", "x.pth", "emo-tiny is no such model; choose a name that ends in"),
    ],
)
def test_mistakes(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    source: str, output: str, sentence: str,
) -> None:  # fmt: skip
    (tmp_path / "net.pth").symlink_to(net)
    (tmp_path / "tiny.safetensors").symlink_to(find_checkpoint("emo-tiny"))
    parts = ("encoder.conv_in.weight", "decoder.conv_in.weight", "post_quant_conv.weight")
    save_file({name: torch.zeros(1) for name in parts}, tmp_path / "vae.safetensors")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main(["convert", str(tmp_path / source), "-o", str(tmp_path / output)]) == 2
    told = capsys.readouterr().err
    assert sentence in told and told.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_whole(path, {"a": torch.ones(2)}, {})
    before = path.read_bytes()
    same = torch.zeros(2)
    with pytest.raises(RuntimeError, match="share memory"):  # what safetensors refuses to write
        save_whole(path, {"a": same, "b": same}, {})
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["x.safetensors"]


def test_an_interruption_leaves_nothing(net: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        convert(net, path, progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    assert path.read_bytes() == b"old"


def test_written_tensors_of_all_kinds_are_read(tmp_path: Path) -> None:
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8)
    tensors = {f"t{i}": torch.arange(5).to(kind) for i, kind in enumerate(kinds)}
    tensors |= {"one": torch.tensor(3.0), "none": torch.zeros(0, 4)}
    tensors["turned"] = torch.eye(3)[:, :2].T
    path = tmp_path / "x.safetensors"
    write_safetensors(path, list(tensors), tensors.__getitem__, {"a": "b"})
    found = load_file(path)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    head = path.read_bytes()
    size = int.from_bytes(head[:8], "little")
    assert size % 8 == 0 and json.loads(head[8 : 8 + size])["__metadata__"] == {"a": "b"}
    with pytest.raises(ValueError, match=r"is of torch\.complex64"):
        write_safetensors(path, ["c"], lambda name: torch.zeros(1, dtype=torch.complex64), {})
