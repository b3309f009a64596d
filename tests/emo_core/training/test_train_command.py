"""`emo train`: what it refuses before any work."""

import argparse
from pathlib import Path

import pytest

from emo_core.training.train_command import add_train


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_train(parser.add_subparsers())
    args = parser.parse_args(["train", *words])
    code: int = args.run(args)
    return code


@pytest.mark.parametrize("option", ["--minutes", "--steps", "--count", "--threads"])
def test_numbers_must_be_above_zero(option: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{option} must be above 0, got -3"):
        run("vae", "--work", str(tmp_path / "work"), option, "-3")
    assert not (tmp_path / "work").exists()


def test_the_work_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file; give a folder"):
        run("vae", "--work", str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("listening", ("--start", "video.safetensors")),
        ("images", ("--sound-only",)),
        ("video", ("-o", "video.safetensors")),
        ("speed", ("--rows", "speech")),
    ],
)
def test_an_option_of_other_stages_is_refused(
    stage: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f" is for .*, not for {stage}; leave it out"):
        run(stage, "--work", str(tmp_path / "work"), *words)
    assert not (tmp_path / "work").exists()
