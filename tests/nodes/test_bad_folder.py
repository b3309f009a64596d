"""A folder for kept clips that is no good: a sentence, and the film is made all the same.

Root may write anywhere, so a file stands where a folder would be, or the system's error is raised
where it would raise it.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from small_film import CLIP, Small, open_small, save_model

FRAMES = 3 * CLIP + 1


@pytest.fixture(scope="module")
def small(pack: Any, run: Any, tmp_path_factory: Any) -> Small:
    return open_small(pack, run, save_model(tmp_path_factory.mktemp("model") / "a.safetensors"))


@pytest.fixture(scope="module")
def undisturbed(small: Small) -> torch.Tensor:
    return small.film(frames=FRAMES, keep_clips=False)[0]


@pytest.fixture(autouse=True)
def little_memory(pack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clips of this size are a long film, which wants a file of its own too."""
    spool = import_module("emo_pack.emo_core.spool").Spool
    monkeypatch.setattr(spool.__init__, "__defaults__", (2 * CLIP * 256,))


@pytest.fixture
def clips(output_folder: Path) -> Path:
    return output_folder / "emo_clips"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.message for each in caplog.records if each.levelno >= logging.WARNING]


def made(small: Small) -> tuple[str, torch.Tensor]:
    """What the looper shows, and the film's latents."""
    node = small.pack.MotionFrameLooper.PREPARE_CLASS_CLONE({})
    given = {"steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple"}
    out = node.execute(**given, **small.inputs(FRAMES))
    return str(out.ui.as_dict()["text"][0]), out.result[0]["samples"]


def refuse_writing(monkeypatch: pytest.MonkeyPatch, folder: Path, code: int) -> None:
    """Every new file below a folder fails as the system fails."""
    error = OSError(code, os.strerror(code))
    opened, temporary = Path.open, tempfile.TemporaryFile

    def refused(path: Path, mode: str = "r", **given: Any) -> Any:
        if path.is_relative_to(folder) and mode == "xb":
            raise error
        return opened(path, mode, **given)

    def refused_too(*, dir: Path, **given: Any) -> Any:
        if Path(dir).is_relative_to(folder):
            raise error
        return temporary(dir=dir, **given)

    monkeypatch.setattr(Path, "open", refused)
    monkeypatch.setattr(tempfile, "TemporaryFile", refused_too)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_a_folder_that_takes_no_file(
    small: Small, undisturbed: torch.Tensor, clips: Path, code: int,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Read-only, not ours, full, over its quota."""
    clips.mkdir(parents=True)
    refuse_writing(monkeypatch, clips, code)
    film, _ = small.film(frames=FRAMES)
    assert torch.equal(film, undisturbed)
    said = warnings(caplog)
    assert len(said) == 2 and all(os.strerror(code) in each for each in said)
    assert sum("goes on without keeping its clips" in each for each in said) == 1
    assert sum("stay in memory" in each for each in said) == 1
    assert all(str(clips) in each for each in said)
    text = made(small)[0]
    assert f"not all clips are kept: nothing can be kept in the folder {clips}" in text
    assert os.strerror(code) in text


def test_clips_in_a_read_only_folder_are_still_found(
    small: Small, undisturbed: torch.Tensor, clips: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    small.film(frames=FRAMES)
    refuse_writing(monkeypatch, clips, errno.EROFS)
    text, film = made(small)
    assert text == "4 clips: 4 from cache, 0 sampled"
    assert torch.equal(film, undisturbed)
    assert len(warnings(caplog)) == 1 and "stay in memory" in caplog.text


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a place that takes no folder")
@pytest.mark.parametrize("drive", ["/proc/no-such-drive/output", "/dev/null/output"])
def test_a_drive_that_is_not_there(
    small: Small, undisturbed: torch.Tensor, drive: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(import_module("folder_paths"), "output_directory", drive)
    film, _ = small.film(frames=FRAMES)
    assert torch.equal(film, undisturbed)
    (said,) = warnings(caplog)
    assert f"the folder {drive}/emo_clips cannot be made" in said
    assert said.endswith("the film is made without keeping its clips")
    assert f"no clip is kept: the folder {drive}/emo_clips cannot be made" in made(small)[0]
    offered = next(i for i in small.pack.EMODecodeVideo.GET_SCHEMA().inputs if i.id == "kept_film")
    assert offered.options == ["none"]


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a second drive")
def test_a_folder_on_another_drive_keeps_as_any(
    small: Small, undisturbed: torch.Tensor, clips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as drive:
        clips.parent.mkdir(parents=True, exist_ok=True)
        clips.symlink_to(drive, target_is_directory=True)
        assert clips.stat().st_dev != clips.parent.stat().st_dev
        for _ in range(2):
            assert torch.equal(small.film(frames=FRAMES)[0], undisturbed)
        assert len(list(Path(drive).glob("*/*.safetensors"))) == 4
        assert not list(Path(drive).rglob(".*")) and warnings(caplog) == []


def test_a_drive_that_goes_away_in_the_middle(
    small: Small, undisturbed: torch.Tensor, clips: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """After its second clip the folder is gone, and nothing can be made in its place."""
    kind = small.part("clip_sampler").ClipSampler
    call = kind.__call__

    def pulled(self: Any, conditions: Any, noise: Any, plan: Any) -> Any:
        if plan.index == 2:
            shutil.rmtree(clips)
            clips.write_bytes(b"")
        return call(self, conditions, noise, plan)

    monkeypatch.setattr(kind, "__call__", pulled)
    film, _ = small.film(frames=FRAMES)
    assert torch.equal(film, undisturbed)
    assert sum("goes on without keeping its clips" in each for each in warnings(caplog)) == 1


@pytest.mark.parametrize("place", ["file", "link"])
def test_something_else_in_the_folders_place(
    small: Small, undisturbed: torch.Tensor, clips: Path, place: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    clips.parent.mkdir(parents=True)
    if place == "file":
        clips.write_bytes(b"a film of mine")
    else:
        clips.symlink_to(clips.parent / "nowhere")
    film, _ = small.film(frames=FRAMES)
    assert torch.equal(film, undisturbed)
    (said,) = warnings(caplog)
    assert f"the folder {clips} cannot be made" in said and "choose another" in said
    assert place == "link" or clips.read_bytes() == b"a film of mine"
    assert small.pack.EMODecodeVideo.validate_inputs(kept_film="none") is True
    assert "not among the kept clips" in small.pack.EMODecodeVideo.validate_inputs(kept_film="x")


def test_a_folder_in_the_place_of_a_clips_file(
    small: Small, undisturbed: torch.Tensor, clips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot be read, nor replaced: that clip is sampled every time, and the others are kept."""
    small.film(frames=FRAMES)
    path = sorted(clips.glob("*/*.safetensors"))[1]
    path.unlink()
    (path / "inside").mkdir(parents=True)
    for _ in range(2):
        caplog.clear()
        film, _ = small.film(frames=FRAMES)
        assert torch.equal(film, undisturbed)
        said = warnings(caplog)
        assert any(str(path) in each and "cannot be read" in each for each in said)
        assert sum("goes on without keeping its clips" in each for each in said) == 1
    assert (path / "inside").is_dir()


def test_files_of_others_inside(
    small: Small, undisturbed: torch.Tensor, clips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """None of them is read for a clip, changed, counted or removed."""
    names = ["holiday.mp4", "ab/lora.safetensors", "films/film.json", "films/notes.txt",
             "films/film-.json", "films/film-mine.json", "0123/x", ".hidden"]  # fmt: skip
    for name in names:
        (clips / name).parent.mkdir(parents=True, exist_ok=True)
        (clips / name).write_bytes(name.encode())
    for _ in range(2):
        film, _ = small.film(frames=FRAMES)
        assert torch.equal(film, undisturbed)
    assert warnings(caplog) == []
    assert all((clips / name).read_bytes() == name.encode() for name in names)
    # One of them has a film's name; only when it is chosen is it found to be none.
    said = small.pack.EMODecodeVideo.validate_inputs(kept_film="mine")
    assert isinstance(said, str) and "is damaged or foreign" in caplog.text
    assert (clips / "films/film-mine.json.damaged").read_bytes() == b"films/film-mine.json"
