"""The command line: one sentence and exit code 2 for every mistake, and never a broken film."""

from __future__ import annotations

import errno
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from emo_core import cli, cli_animate, take
from emo_core.sampling import SOLVERS
from emo_core.video import read_video

Emo = Callable[..., tuple[int, str, str]]


@pytest.fixture
def emo(capsys: pytest.CaptureFixture[str]) -> Emo:
    """Run `emo`; gives the exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in words])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture
def plain(checkpoint: Path, portrait: Path, sound: Path, tmp_path: Path) -> dict[str, object]:
    """Words of a command that works."""
    return {"portrait": portrait, "sound": sound, "-o": tmp_path / "film.mp4",
            "--model": checkpoint, "--device": "cpu"}  # fmt: skip


def words(plain: dict[str, object], **changes: object) -> list[object]:
    """`emo animate` with changes: portrait, sound, output, or options by their names."""
    given = dict(plain)
    for name, value in changes.items():
        key = {"output": "-o", "portrait": "portrait", "sound": "sound"}.get(
            name, "--" + name.replace("_", "-")
        )
        given[key] = value
    options = [f"{name}={value}" if name.startswith("--") else value
               for name, value in given.items() if name.startswith("--")]  # fmt: skip
    return ["animate", given["portrait"], given["sound"], "-o", given["-o"], *options]


def test_animate_makes_a_film_and_says_so(emo: Emo, plain: dict[str, object]) -> None:
    code, out, err = emo(*words(plain, seed=5))
    assert code == 0
    assert out.startswith(f"{plain['-o']}: 11 frames (0.44 s), seed 5, made in ")
    assert "no face box was given" in err
    assert "6/6" in err
    assert "clip 3/3" in err
    assert "Traceback" not in err
    assert len(read_video(Path(str(plain["-o"])))[0]) == 11


def test_animate_reports_as_json(emo: Emo, plain: dict[str, object]) -> None:
    code, out, err = emo(*words(plain, face_box="4,4,20,20", speed="0:0.2,1:0.9"), "--json",
                         "--quiet")  # fmt: skip
    report = json.loads(out)
    assert code == 0
    assert (report["frames"], report["fps"], report["clips"], report["cfg"]) == (11, 25, 3, 1.6)
    assert err.count("\n") == 1


def test_a_film_is_voiced_anew_with_other_joins(
    emo: Emo, plain: dict[str, object], tmp_path: Path
) -> None:
    assert emo(*words(plain, seed=5))[0] == 0
    film, kept = plain["-o"], tmp_path / "clips"
    changes = {"output": tmp_path / "anew.mp4", "film": film, "joins": "overlap", "lock": "weak",
               "denoise": 0.5, "clips": kept}  # fmt: skip
    code, out, _ = emo(*words(plain, **changes), "--only-region", "--json", "--quiet")
    first = json.loads(out)
    assert (code, first["frames"], first["reused"]) == (0, 11, 0)
    # Four frames a clip, of which the next shares one.
    assert first["clips"] == 4
    again = emo(*words(plain, **changes), "--only-region", "--json", "--quiet")
    assert json.loads(again[1])["reused"] == 4
    for name, value in (("joins", "quiet"), ("lock", "off"), ("denoise", 0.6)):
        _, out, _ = emo(*words(plain, **{**changes, name: value}), "--only-region", "--json")
        assert json.loads(out)["reused"] == (1 if name == "joins" else 0)
    code, _, err = emo(*words(plain, **{**changes, "film": plain["sound"]}))
    assert code == 2 and "has no pictures; give a film" in err


def test_a_portrait_of_a_few_pixels_is_made_and_said(
    emo: Emo, plain: dict[str, object], tmp_path: Path
) -> None:
    Image.new("RGB", (7, 5), (200, 120, 40)).save(tmp_path / "few.png")
    code, _, err = emo(*words(plain, portrait=tmp_path / "few.png"))
    assert code == 0
    assert "the portrait has only 7x5 pixels; it is enlarged, and the film is blurred" in err


BAD = [
    ({"portrait": "no.png"}, "the portrait .*no.png does not exist"),
    ({"portrait": "text.txt"}, "is not a picture"),
    ({"portrait": "half.png"}, "cannot be read"),
    ({"portrait": "."}, "is a folder"),
    ({"sound": "no.wav"}, "the sound .*no.wav does not exist"),
    ({"sound": "text.txt"}, "can be read|no sound track"),
    ({"sound": "half.wav"}, "is truncated"),
    ({"sound": "empty.wav"}, "holds no samples|can be read"),
    ({"sound": "zero.wav"}, "is an empty file"),
    ({"sound": "."}, "is a folder"),
    ({"sound": "nan.wav"}, "NaN or infinite"),
    ({"sound": "half.png"}, "no sound track|can be read"),
    ({"model": "no.safetensors"}, "does not exist"),
    ({"model": "sd15.safetensors"}, "is a Stable Diffusion checkpoint and not an EMO"),
    ({"model": "lora.safetensors"}, "is a LoRA and not an EMO"),
    ({"model": "half.safetensors"}, "truncated"),
    ({"model": "bomb.pth"}, "nothing of it ran"),
    ({"speed": "fast"}, "speed 'fast' is not understood; write a number"),
    ({"speed": "0:0.2;50:1.1"}, "is not understood"),
    ({"speed": "3:0.2,1:0.3"}, "rising times"),
    ({"speed": "-1"}, "speed must be 0 to 10"),
    ({"speed": "nan"}, "speed must be 0 to 10"),
    ({"face_box": "1,2,3"}, "four numbers X,Y,W,H"),
    ({"face_box": "a,b,c,d"}, "four numbers X,Y,W,H"),
    ({"face_box": "40,0,20,10"}, "reaches outside the picture of 48x40 pixels"),
    ({"face_box": "-1,0,20,10"}, "reaches outside"),
    ({"face_box": "1,1,0,10"}, "at least 2 pixels wide and high"),
    ({"face_box": "nan,1,5,10"}, "got nan,1.0,5.0,10.0, of which not all are finite"),
    ({"steps": 0}, "steps must be 1 to 1000, got 0"),
    ({"steps": 1001}, "steps must be 1 to 1000"),
    ({"steps": "x"}, "invalid int"),
    ({"cfg": "-1"}, "cfg must be 0 to 30"),
    ({"cfg": "nan"}, "cfg must be 0 to 30"),
    ({"audio_cfg": "99"}, "audio cfg must be 0 to 30"),
    ({"seed": -1}, "seed must be 0"),
    ({"seed": 1 << 64}, "seed must be 0"),
    ({"solver": "euler"}, "invalid choice"),
    ({"duration": 0}, "duration must be above 0 s"),
    ({"duration": "-2"}, "duration must be above 0 s"),
    ({"duration": "nan"}, "duration must be above 0 s"),
    ({"duration": "1e-9"}, "at least one sample"),
    ({"start": "-1"}, "start must be 0 s or later"),
    ({"start": 7}, r"start must lie before the end of the sound \(0.41 s\)"),
    ({"clips_limit": 0}, "clips limit must be above 0 GB, got 0; --no-clips keeps nothing"),
    ({"clips_limit": "nan"}, "clips limit must be above 0 GB"),
    ({"clips_limit": "x"}, "invalid float"),
    ({"face_embedding": "no.npy"}, "the face embedding no.npy does not exist"),
    ({"device": "warp"}, "device 'warp' is unknown"),
    ({"device": "cuda:77"}, "does not exist on this machine"),
    ({"output": "film.avi"}, "ends in .mp4, .mov, .mkv, got the ending .avi"),
    ({"output": "film"}, "got no ending"),
    ({"output": "no/film.mp4"}, "does not exist"),
    ({"output": "dir.mp4"}, "is a folder"),
    ({"sound": "old.mp4", "output": "old.mp4"}, "would replace its own sound"),
]


@pytest.fixture
def wrong_files(checkpoint: Path, sound: Path, tmp_path: Path) -> Path:
    """A folder of files that are not what they should be."""
    (tmp_path / "text.txt").write_text("neither picture nor sound")
    Image.effect_noise((64, 64), 80).save(tmp_path / "half.png")
    for name, whole in (("half.png", tmp_path / "half.png"), ("half.wav", sound),
                        ("half.safetensors", checkpoint)):  # fmt: skip
        content = whole.read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    head = bytearray(sound.read_bytes()[:44])
    head[40:44] = bytes(4)
    (tmp_path / "empty.wav").write_bytes(head)
    (tmp_path / "zero.wav").write_bytes(b"")
    head[20:22], head[32:36] = b"\x03\x00", b"\x04\x00\x20\x00"
    head[40:44] = (4000).to_bytes(4, "little")
    (tmp_path / "nan.wav").write_bytes(bytes(head) + np.full(1000, np.inf, "<f4").tobytes())
    save_file({"lora_unet.lora_down.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    save_file({"model.diffusion_model.x": torch.zeros(1)}, tmp_path / "sd15.safetensors")
    torch.save({"x": torch.zeros(1), "y": Path("code")}, tmp_path / "bomb.pth")
    (tmp_path / "dir.mp4").mkdir()
    (tmp_path / "film.mp4").write_bytes(b"old")
    (tmp_path / "old.mp4").write_bytes(b"old")
    return tmp_path


@pytest.mark.parametrize(("changes", "sentence"), BAD, ids=[str(bad) for bad, _ in BAD])
def test_a_mistake_gives_one_sentence_and_no_film(
    emo: Emo,
    plain: dict[str, object],
    wrong_files: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    sentence: str,
) -> None:
    monkeypatch.chdir(wrong_files)
    before = {path.name: path.stat().st_size for path in wrong_files.iterdir()}
    code, out, err = emo(*words(plain, **changes))
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("emo")
    assert re.search(sentence, err)
    assert {path.name: path.stat().st_size for path in wrong_files.iterdir()} == before


def test_the_time_left_is_told_from_what_was_sampled(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clips of ten steps: one is kept, and a step of the other takes ten seconds."""
    clock = [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    with cli_animate.progress_bar(quiet=False) as progress:
        progress(take.Step(10, 20, 1, 2, 10))
        clock[0] += 500  # networks are loaded
        progress(take.Step(11, 20, 2, 2, 10))
        assert re.search(r"11/20 \[00:00<\?", capsys.readouterr().err)
        clock[0] += 10
        progress(take.Step(12, 20, 2, 2, 10))
        assert "12/20 [00:10<01:20" in capsys.readouterr().err


def test_ctrl_c_ends_with_130(
    emo: Emo, plain: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from emo_core import animate

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(animate, "read_picture", interrupted)
    code, _, err = emo(*words(plain))
    assert code == 130
    assert err == "emo: interrupted; no unfinished file was left\n"
    assert not (tmp_path / "film.mp4").exists()


def test_a_training_that_is_interrupted_says_that_it_goes_on(
    emo: Emo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from emo_core.training import train_command

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(train_command.STAGES, "voices", interrupted)
    code, _, err = emo("train", "voices", "--work", str(tmp_path))
    assert code == 130
    assert err.endswith("interrupted; finished files stay; the same command goes on from its last "
                        "checkpoint, if any\n")  # fmt: skip


@pytest.fixture(params=["SIGTERM", "SIGHUP"])
def deadly(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal that ends programs, even where the tests run under nohup."""
    number = getattr(signal, request.param, None)
    if number is None:
        pytest.skip(f"no {request.param} here")
    outside = signal.signal(number, signal.SIG_DFL)
    yield number
    signal.signal(number, outside)


def test_a_signal_in_the_midst_leaves_nothing(
    emo: Emo, plain: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    deadly: signal.Signals,
) -> None:  # fmt: skip
    number, folders = deadly, list[list[str]]()

    def killed(*_: object) -> None:
        assert signal.getsignal(number) != signal.SIG_DFL, "it would end the tests"
        folders.append([path.name for path in tmp_path.iterdir() if "partial" in path.name])
        signal.raise_signal(number)

    monkeypatch.setattr(take, "decode", killed)
    code, _, err = emo(*words(plain, clips=tmp_path / "clips"))
    assert code == 128 + number
    assert err.endswith(f"emo: ended by {number.name}; no unfinished file was left\n")
    assert len(folders) == 1 and len(folders[0]) == 1, "a film was on its way"
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]
    assert signal.getsignal(number) == signal.SIG_DFL


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As nohup does."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with cli.signals_end():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_bug_is_called_one(
    emo: Emo, plain: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    from emo_core import animate

    def broken(*_: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(animate, "read_picture", broken)
    code, _, err = emo(*words(plain))
    assert code == 1
    assert err.startswith("emo: RuntimeError: two lines; this is a bug")
    assert err.count("\n") == 1
    assert "Traceback" in emo("--traceback", *words(plain))[2]
    assert "Traceback" in emo(*words(plain), "--traceback")[2]


def test_a_missing_package_is_named_with_the_way_to_get_it(
    emo: Emo, plain: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)  # what an import says of a missing package
    code, _, err = emo(*words(plain))
    assert code == 2
    assert err == (
        "emo: emo animate needs the package av, which is not installed; in a clone of the "
        'repository run: pip install -e ".[standalone]"\n'
    )


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate"),
         "there is not enough memory for this; take a shorter --duration, or close other programs"),
        (MemoryError(), "there is not enough memory for this; take a shorter --duration, or close"),
        (torch.OutOfMemoryError("CUDA out of memory."),
         "the device ran out of memory (CUDA out of memory.); use --device cpu"),
        (OSError(errno.ENOSPC, "No space left on device", "x.bin"),
         "No space left on device: x.bin; make room, or choose another folder"),
        (PermissionError(errno.EACCES, "Permission denied", "x.bin"),
         "Permission denied: x.bin; change its rights, or choose another"),
    ],
)  # fmt: skip
def test_a_full_machine_is_no_bug(
    emo: Emo, plain: dict[str, object], monkeypatch: pytest.MonkeyPatch, error: Exception,
    sentence: str,
) -> None:  # fmt: skip
    from emo_core import animate

    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(animate, "read_picture", full)
    code, _, err = emo(*words(plain))
    assert code == 2
    assert err.startswith(f"emo: {sentence}") and err.count("\n") == 1


def test_help_names_units_and_ranges(emo: Emo) -> None:
    code, out, _ = emo("animate", "--help")
    assert code == 0
    for part in ("degrees per frame", "1 to 1000", "pixels", "seconds", "0 to 30", "puppets"):
        assert part in " ".join(out.split())
    assert all(name in out for name in SOLVERS)
    listing = emo("--help")[1]
    assert all(name in listing for name in ("animate", "info", "evaluate", "puppet", "train"))


def test_missing_and_unknown_words_are_mistakes(emo: Emo) -> None:
    for wrong in ((), ("sing",), ("animate",), ("animate", "--sed", "1"), ("info", "a", "b")):
        code, _, err = emo(*wrong)
        assert (code, err.count("\n")) == (2, 1)


def test_info_describes_a_checkpoint(emo: Emo, checkpoint: Path, tmp_path: Path) -> None:
    code, out, _ = emo("info", checkpoint)
    assert code == 0
    for part in ("EMO checkpoint", "smallest", "frame rate", "25", "centres", "data seed"):
        assert part in out
    assert max(map(len, out.splitlines())) < 100 + len(str(checkpoint))
    assert json.loads(emo("info", checkpoint, "--json")[1])["config"]["picture_size"] == 32
    save_file({"lora_unet.lora_down.weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    assert "LoRA" in emo("info", tmp_path / "x.safetensors")[1]
    assert emo("info", tmp_path / "no.safetensors")[0] == 2


def test_puppets_are_drawn_and_their_films_measured(emo: Emo, tmp_path: Path, sound: Path) -> None:
    assert emo("puppet", "--seed", 1000001, "-o", tmp_path / "p.png")[0] == 0
    (tmp_path / "s.tsv").write_text("0.0\t0.1\tpau\n0.1\t0.41\tAA\n")
    made = emo("puppet", "--seed", 1000001, "--sound", sound, "--phones", tmp_path / "s.tsv",
               "-o", tmp_path / "f.mp4", "--truth", tmp_path / "t.json")  # fmt: skip
    assert made[0] == 0
    given = ("--portrait", tmp_path / "p.png", "--sound", sound)
    code, out, _ = emo("evaluate", tmp_path / "f.mp4", *given, "--truth", tmp_path / "t.json",
                       "--json")  # fmt: skip
    figures = json.loads(out)
    assert code == 0 and figures["frames"] == figures["frames_of_the_sound"] == 11
    assert figures["mouth_openness_r"] > 0.95 and abs(figures["mouth_openness_best_lag"]) <= 1
    assert "join_ratio" not in figures, "a puppet's own film has no clips"
    assert "against loudness" in emo("evaluate", tmp_path / "f.mp4", *given)[1]
    code, _, err = emo("puppet", "--seed", -1, "-o", tmp_path / "q.png")
    assert (code, err.count("\n")) == (2, 1)
    code, _, err = emo("evaluate", tmp_path / "no.mp4", "--portrait", tmp_path / "p.png",
                       "--sound", sound)  # fmt: skip
    assert (code, err.count("\n")) == (2, 1)
    assert "does not exist" in err


@pytest.mark.parametrize(("joins", "seams"), [("plain", 2), ("overlap", 6)])
def test_where_the_clips_of_a_film_meet_is_read_from_the_film(
    emo: Emo, plain: dict[str, object], joins: str, seams: int
) -> None:
    from emo_core.evaluation import _clips
    from emo_core.measurements import join_jump

    assert emo(*words(plain, joins=joins))[0] == 0
    frames, _, notes = read_video(Path(str(plain["-o"])))
    clips = _clips(notes)
    assert clips is not None
    numbers = range(1, len(frames))
    met = [n for n in numbers if (n % clips == 0 if isinstance(clips, int) else n in clips)]
    assert len(met) == seams
    code, out, _ = emo("evaluate", plain["-o"], "--portrait", plain["portrait"], "--sound",
                       plain["sound"], "--json")  # fmt: skip
    ratio = join_jump(frames.permute(0, 3, 1, 2), clips).ratio
    assert code == 0 and json.loads(out)["join_ratio"] == pytest.approx(ratio, rel=1e-4)


def test_the_trainer_is_told_to_be_elsewhere(emo: Emo, monkeypatch: pytest.MonkeyPatch) -> None:
    # What an import says of a module that is not there.
    monkeypatch.setitem(sys.modules, "emo_core.training.commands", None)
    code, _, err = emo("puppet", "--seed", 1, "-o", "p.png")
    assert code == 2
    assert "belongs to the trainer" in err
    assert emo("info", "--help")[0] == 0
