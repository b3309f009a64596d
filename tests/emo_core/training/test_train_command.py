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
        stage = "report" if option == "--count" else "vae"
        run(stage, "--work", str(tmp_path / "work"), option, "-3")
    assert not (tmp_path / "work").exists()


def test_the_work_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file; give a folder"):
        run("voices", "--work", str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("listening", ("--start", "video.safetensors")),
        ("pack", ("--model", "emo-tiny")),
        ("voices", ("--device", "cpu")),
        ("meters", ("--first", "4")),
        ("films", ("--minutes", "5")),
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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("vae",), "vae is trained until it is told to stop; give --minutes"),
        (("vae", "--steps", "2", "--seed", str(2**63)), "--seed must be 0 to"),
        (("films", "--first", "-5"), "--first must be 0 to"),
        (("vae", "--steps", "2", "--device", "abacus"), "device 'abacus' is unknown"),
        (("report", "-o", "no/folder/report.md"), "must be a file in a folder that exists"),
        (("joins", "-o", "report.json"), "is to be Markdown"),
        (("films", "--first", "999901", "--count", "1"), "from 1000000 on puppets are kept for"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(
    words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        run(*words, "--work", str(tmp_path / "work"))
    assert not (tmp_path / "work").exists()


def test_a_report_names_a_checkpoint_that_is_missing_before_it_speaks(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--model nosuch does not exist"):
        run("report", "--work", str(tmp_path / "work"), "--model", "nosuch")
    assert not (tmp_path / "work").exists()
