"""`emo puppet`: portraits and films with their truth, and one sentence for each mistake."""

import argparse
import ctypes.util
import json
import logging
import wave
from pathlib import Path

import numpy as np
import pytest

from emo_core.training.commands import add_puppet, read_phones
from emo_core.training.identities import make_identity
from emo_core.training.puppets import face_boxes, portrait_controls

av = pytest.importorskip("av")

PHONES = "0.0\t0.2\tpau\n0.2\t0.5\tAA1\n0.5\t0.6\tM\n\n0.6\t0.9\t\u0251\u02d0\n0.9\t1.2\tpau\n"


def puppet(*words: object) -> int:
    parser = argparse.ArgumentParser()
    add_puppet(parser.add_subparsers())
    args = parser.parse_args(["puppet", *map(str, words)])
    result = args.run(args)
    assert isinstance(result, int)
    return result


@pytest.fixture
def said(tmp_path: Path) -> list[object]:
    """A stereo recording of 1.2 s at 22050 Hz, and its phones."""
    time = np.arange(26460) / 22050
    tone = 0.3 * np.sign(np.sin(2 * np.pi * 140 * time)) * (time > 0.2) * (time < 0.9)
    with wave.open(str(tmp_path / "said.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(22050)
        file.writeframes(np.repeat((tone * 32767).astype("<i2"), 2).tobytes())
    (tmp_path / "said.tsv").write_text(PHONES, encoding="utf-8")
    return ["--sound", tmp_path / "said.wav", "--phones", tmp_path / "said.tsv"]


def test_a_portrait_is_a_square_picture_and_always_the_same(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("one.png", "two.png"):
        assert puppet("--seed", 1000001, "-o", tmp_path / name, "--size", 64) == 0
    first = np.asarray(Image.open(tmp_path / "one.png"))
    assert first.shape == (64, 64, 3)
    assert first.std() > 20
    assert np.array_equal(first, np.asarray(Image.open(tmp_path / "two.png")))


def test_the_face_box_is_said_as_animate_takes_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        puppet("--seed", 1000001, "-o", tmp_path / "one.png", "--size", 64)
    said = caplog.text.split("--face-box ")[1].split()[0]
    controls = portrait_controls(1000001)
    wanted = face_boxes(make_identity(1000001), controls)[0] * 64
    assert [int(side) for side in said.split(",")] == [round(side) for side in wanted.tolist()]


def test_a_film_has_a_frame_a_truth_and_its_sound(tmp_path: Path, said: list[object]) -> None:
    output, told = tmp_path / "film.mp4", tmp_path / "truth.json"
    assert puppet("--seed", 1000002, *said, "-o", output, "--truth", told, "--size", 32) == 0
    with av.open(str(output)) as film:
        assert [stream.codec_context.name for stream in film.streams] == ["h264", "aac"]
        assert film.streams.video[0].average_rate == 25
        assert sum(1 for _ in film.decode(video=0)) == 30
    with av.open(str(output)) as film:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in film.decode(audio=0)])
    assert abs(len(heard) - 26460) < 2100
    assert np.sqrt(np.mean(heard[6000:18000] ** 2)) > 0.1

    truth = json.loads(told.read_text())
    assert (truth["fps"], len(truth["frames"])) == (25, 30)
    opened = [frame["open"] for frame in truth["frames"]]
    assert max(opened[6:11]) > 0.7
    assert opened[13] < 0.35
    assert max(opened[:3] + opened[-3:]) < 0.1
    assert all(0 <= side <= 1 for frame in truth["frames"] for side in frame["box"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "film.mp4", "said.tsv", "said.wav", "truth.json",
    ]  # fmt: skip


def test_portrait_and_film_show_the_same_person(tmp_path: Path, said: list[object]) -> None:
    """Of three puppets, the portrait is nearest to the film of its own seed."""
    from PIL import Image

    stills, films = [], []
    for seed in (1000003, 1000004, 1000006):
        puppet("--seed", seed, "-o", tmp_path / "p.png", "--size", 32)
        puppet("--seed", seed, *said, "-o", tmp_path / "f.mp4", "--size", 32)
        stills.append(np.asarray(Image.open(tmp_path / "p.png"), dtype=float))
        with av.open(str(tmp_path / "f.mp4")) as film:
            films.append(next(film.decode(video=0)).to_ndarray(format="rgb24").astype(float))
    far = np.array([[np.abs(still - film).mean() for film in films] for still in stills])
    assert far.argmin(1).tolist() == [0, 1, 2]


@pytest.mark.skipif(ctypes.util.find_library("espeak-ng") is None, reason="needs espeak-ng")
def test_a_text_is_spoken(tmp_path: Path) -> None:
    output, told = tmp_path / "film.mkv", tmp_path / "truth.json"
    words = ["--say", "Papa!", "--voice", "en-us+f4"]
    puppet("--seed", 5, *words, "-o", output, "--truth", told, "--size", 32)
    opened = [frame["open"] for frame in json.loads(told.read_text())["frames"]]
    assert max(opened) > 0.5
    assert output.stat().st_size > 1000


def test_phones_are_read_in_either_alphabet(tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text(PHONES, encoding="utf-8")
    names = [name for _, _, name in read_phones(tmp_path / "p.tsv")]
    assert names == ["PAU", "AA", "M", "AA", "PAU"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0.0\t0.2\tpau\n0.2\tAA\n", r"line 2: expected start<TAB>end<TAB>phone"),
        ("0.0\t0.2\tpau\n\nx\t0.4\tAA\n", r"line 3: expected start<TAB>end<TAB>phone"),
        ("0.0\t0.2\t\n", r"line 1: expected start<TAB>end<TAB>phone"),
        ("0.3\t0.2\tAA\n", r"line 1: expected a phone that starts"),
        ("0.0\tnan\tAA\n", r"line 1: expected a phone that starts"),
        ("0.5\t0.6\tAA\n0.1\t0.2\tM\n", r"line 2: .* starts at 0\.5 s or later"),
        ("\n", "has no phones"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "p.tsv").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        read_phones(tmp_path / "p.tsv")


def test_files_that_are_no_phones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a text file"):
        read_phones(tmp_path / "p.tsv")
    with pytest.raises(ValueError, match="is a folder; give lines start<TAB>end"):
        read_phones(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_phones(tmp_path / "no.tsv")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--seed", -1, "-o", "p.png"], "--seed must be 0 or more"),
        (["--seed", 1, "-o", "p.png", "--size", 33], "even number"),
        (["--seed", 1, "-o", "p.mp4"], "a silent puppet is a portrait"),
        (["--seed", 1, "-o", "p.gif"], "a silent puppet is a portrait"),
        (["--seed", 1, "--say", "hi", "-o", "p.png"], "a speaking puppet is a film"),
        (["--seed", 1, "--sound", "s.wav", "-o", "p.mp4"], "belong together"),
        (["--seed", 1, "--phones", "s.tsv", "-o", "p.png"], "belong together"),
        (["--seed", 1, "--voice", "en", "-o", "p.png"], "speaks a text, but none came"),
        (["--seed", 1, "-o", "no/p.png"], "a folder that exists"),
        (["--seed", 1, "-o", "p.png", "--truth", "p.png"], "give two names"),
    ],
)
def test_what_cannot_work_is_refused_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[object], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        puppet(*words)
    assert not list(tmp_path.iterdir())


def test_a_sound_that_is_none_leaves_the_old_film(tmp_path: Path, said: list[object]) -> None:
    output = tmp_path / "film.mp4"
    output.write_bytes(b"old")
    (tmp_path / "text.wav").write_text("this is no sound")
    for sound, sentence in (
        (tmp_path / "text.wav", "not a sound that can be read"),
        (tmp_path / "no.wav", "does not exist"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises((ValueError, OSError), match=sentence):
            puppet("--seed", 1, "--sound", sound, *said[2:], "-o", output)
    with pytest.raises(SystemExit):
        puppet("--seed", 1, "--say", "hi", *said, "-o", output)
    assert output.read_bytes() == b"old"
