"""Files say what they were made from, and what does not belong together is refused."""

import logging
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from emo_core.training.origins import (
    check_origin,
    commit,
    digest,
    digests,
    origin_header,
    read_origin,
)
from emo_core.training.train_stages import film_origin

CODERS = {"vae": "a1", "listening": "b2"}


def shard(folder: Path, name: str, origin: dict[str, str] | None) -> Path:
    path = folder / name
    save_file({"t": torch.zeros(2)}, path, None if origin is None else origin_header(origin))
    return path


def test_a_digest_is_of_the_tensors_and_not_of_the_header(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2).half(), "c": torch.tensor(1)}
    save_file(tensors, tmp_path / "one.safetensors", {"date": "today"})
    save_file(tensors, tmp_path / "two.safetensors", origin_header(CODERS))
    changed = {**tensors, "a": torch.tensor([0.0, 1.0, 2.5])}
    save_file(changed, tmp_path / "three.safetensors")
    found = digests(tmp_path, ("one", "two", "three", "four"))
    assert list(found) == ["one", "two", "three"]
    assert found["one"] == found["two"] == digest(tmp_path / "one.safetensors")
    assert found["three"] != found["one"]
    assert read_origin(tmp_path / "one.safetensors") is None
    assert read_origin(tmp_path / "two.safetensors") == CODERS


def test_a_training_states_the_commit_of_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[3]
    if not (root / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no checkout")
    told = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
    found = commit()
    assert found is not None and found.removesuffix("-dirty") == told.stdout.strip()[:12]
    monkeypatch.setenv("PATH", "")
    assert commit() is None


def test_only_what_both_sides_name_is_compared(caplog: pytest.LogCaptureFixture) -> None:
    check_origin("x", CODERS, {"vae": "a1", "images": "c3"})
    check_origin("x", {}, CODERS)
    with caplog.at_level(logging.INFO):
        check_origin("old.safetensors", None, CODERS)
    assert "old.safetensors does not say what it was made from" in caplog.text
    with pytest.raises(ValueError, match=r"made from vae.safetensors of digest zz, but .* a1"):
        check_origin("x", {**CODERS, "vae": "zz"}, CODERS)


def test_films_have_one_vae_and_one_encoder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = shard(tmp_path, "0.safetensors", None), shard(tmp_path, "1.safetensors", CODERS)
    with caplog.at_level(logging.INFO):
        assert film_origin([old, new], {}) == CODERS
    assert "1 of 2 files of films do not say" in caplog.text
    other = shard(tmp_path, "2.safetensors", {**CODERS, "listening": "zz"})
    with pytest.raises(ValueError, match=r"films/2.safetensors was made from listening"):
        film_origin([new, other], {})
    with pytest.raises(ValueError, match=r"films/1.safetensors was made from vae"):
        film_origin([new], {"vae": "zz"})
