"""EMOLoadFaceEmbedding: which files it offers, how it reads them, and what fits a model."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from emo_core.presets import hallo

NUMBERS = torch.randn(512, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folders(pack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The host's input folder and models/emo, empty."""
    paths = import_module("folder_paths")
    inside, models = tmp_path / "input", tmp_path / "emo"
    for folder in (inside, models):
        folder.mkdir()
    kinds = {**paths.folder_names_and_paths, "emo": ([str(models)], set())}
    monkeypatch.setattr(paths, "folder_names_and_paths", kinds)
    monkeypatch.setattr(paths, "filename_list_cache", {})
    monkeypatch.setattr(paths, "input_directory", str(inside))
    return inside, models


def test_small_files_of_numbers_are_offered(pack: Any, folders: tuple[Path, Path]) -> None:
    inside, models = folders
    np.save(inside / "me.npy", NUMBERS.numpy())
    (inside / "photo.png").write_bytes(b"x")
    save_file({"embedding": NUMBERS}, models / "her.safetensors")
    save_file({"model": torch.zeros(1 << 19)}, models / "hallo.safetensors")
    (models / "net.pth").write_bytes(b"x")
    widget = pack.EMOLoadFaceEmbedding.define_schema().inputs[0]
    assert widget.options == ["input/me.npy", "models/emo/her.safetensors"]


def test_every_format_gives_the_same(pack: Any, run: Any, folders: tuple[Path, Path]) -> None:
    inside, models = folders
    np.save(inside / "a.npy", NUMBERS[None].numpy())
    (inside / "b.json").write_text(json.dumps(NUMBERS.tolist()))
    save_file({"embedding": NUMBERS.double()}, models / "c.safetensors")
    for file in ("input/a.npy", "input/b.json", "models/emo/c.safetensors"):
        (face,) = run(pack.EMOLoadFaceEmbedding, file=file)
        assert face["version"] == 1 and face["recogniser"] == "InsightFace"
        torch.testing.assert_close(face["embedding"], NUMBERS[None])


def test_a_normalised_embedding_is_noticed(
    pack: Any, run: Any, folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    np.save(folders[0] / "a.npy", (NUMBERS / NUMBERS.norm()).numpy())
    run(pack.EMOLoadFaceEmbedding, file="input/a.npy")
    assert "the face embedding a.npy has length 1" in caplog.text


def test_what_is_no_embedding_is_said(pack: Any, run: Any, folders: tuple[Path, Path]) -> None:
    inside, models = folders
    np.save(inside / "one.npy", np.ones(1))
    save_file({"a": NUMBERS, "b": NUMBERS.clone()}, models / "two.safetensors")
    (inside / "text.json").write_text("hello")
    for file, sentence in (
        ("input/one.npy", "holds 1 numbers, and a face embedding has 512"),
        ("models/emo/two.safetensors", "has 2 tensors and not one"),
        ("input/text.json", "holds no face embedding"),
    ):
        with pytest.raises(ValueError, match=sentence):
            run(pack.EMOLoadFaceEmbedding, file=file)
    for file in ("input/gone.npy", "models/emo/gone.npy", "input/../../secret.npy", ""):
        with pytest.raises(FileNotFoundError, match=r"there is no face embedding .* press R"):
            run(pack.EMOLoadFaceEmbedding, file=file)


def test_a_replaced_file_is_read_again(pack: Any, folders: tuple[Path, Path]) -> None:
    mark = pack.EMOLoadFaceEmbedding.fingerprint_inputs
    path = folders[0] / "a.npy"
    np.save(path, NUMBERS.numpy())
    before = mark(file="input/a.npy")
    np.save(path, NUMBERS.double().numpy())
    assert mark(file="input/a.npy") != before and mark(file=None) == ""
    assert pack.EMOLoadFaceEmbedding.validate_inputs(file="input/gone.npy") is True


def test_it_must_fit_the_model(pack: Any) -> None:
    sockets = import_module(f"{pack.__name__}.sockets")
    face = sockets.pack_face(NUMBERS, "InsightFace")
    assert torch.equal(sockets.unpack_face(face, hallo()), NUMBERS[None])
    config = hallo()
    narrow = replace(config, unet=replace(config.unet, face_embedding_width=10))
    for value, wanted, sentence in (
        (face, narrow, r"InsightFace is \(1, 512\), and hallo sees one of \(1, 10\)"),
        (sockets.pack_face(NUMBERS * torch.nan, "x"), config, "without NaN"),
        ({**face, "version": 2}, config, "EMO_FACE has version 2"),
        ({}, config, "connect the output of EMO Load Face Embedding"),
    ):
        with pytest.raises(ValueError, match=sentence):
            sockets.unpack_face(value, wanted)
