"""A film's frames in a file without a name: the same numbers, in no memory."""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from emo_core import spool as module
from emo_core.spool import Spool

SIZE = (4, 8, 8)
FRAME = 4 * 4 * 8 * 8


def clip(seed: int, frames: int = 3, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(frames, *SIZE, generator=torch.Generator().manual_seed(seed)).to(dtype)


def resident(kind: str) -> int:
    """Bytes of this process that are in memory: RssAnon, its own, or RssFile, those of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) * 1024


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("in_memory", [0, 7 * FRAME, 1 << 30])
def test_the_frames_come_back_in_order(tmp_path: Path, dtype: torch.dtype, in_memory: int) -> None:
    clips = [clip(seed, frames, dtype) for seed, frames in enumerate((3, 5, 1, 2))]
    with Spool(tmp_path / "folder", in_memory) as spool:
        for each in clips:
            spool.append(each)
        film = spool.frames()
    assert spool.num_frames == 11 and torch.equal(film, torch.cat(clips))
    # Without a name, so that nothing is left whatever happens.
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_few_frames_make_no_file(tmp_path: Path) -> None:
    with Spool(tmp_path / "folder", 6 * FRAME) as spool:
        spool.append(clip(0))
        spool.append(clip(1))
        assert not (tmp_path / "folder").exists()
        spool.append(clip(2))
        assert (tmp_path / "folder").is_dir()


def test_a_film_grows_while_it_is_read(tmp_path: Path) -> None:
    with Spool(tmp_path, 0) as spool:
        spool.append(clip(0))
        early = spool.frames()
        spool.append(clip(1))
        late = spool.frames()
    assert torch.equal(early, clip(0)) and torch.equal(late, torch.cat([clip(0), clip(1)]))


def test_changes_in_place_reach_neither_the_file_nor_another_tensor(tmp_path: Path) -> None:
    with Spool(tmp_path, 0) as spool:
        spool.append(clip(0))
        one, other = spool.frames(), spool.frames()
        one.mul_(0)
        assert torch.equal(other, clip(0)) and torch.equal(spool.frames(), clip(0))


def test_without_a_folder_all_stays_in_memory() -> None:
    with Spool(None, 0) as spool:
        spool.append(clip(0))
        spool.append(clip(1))
        assert torch.equal(spool.frames(), torch.cat([clip(0), clip(1)]))


def test_no_frames_are_a_sentence(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool, pytest.raises(ValueError, match="append some first"):
        spool.frames()


@pytest.mark.parametrize("in_time", [0, 1, 2])
def test_a_full_disk_costs_memory_and_no_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, in_time: int
) -> None:
    """The disk is full after a number of clips and in the middle of the next."""
    opened, clips = module.tempfile.TemporaryFile, [clip(seed) for seed in range(5)]

    class Full:
        def __init__(self, **given: Any) -> None:
            self._file, self._room = opened(**given), in_time * clips[0].nbytes + 100
            self.fileno, self.close = self._file.fileno, self._file.close

        def write(self, data: memoryview) -> int:
            if not self._room:
                raise OSError(28, "No space left on device")
            count = int(self._file.write(data[: self._room]))
            self._room -= count
            return count

    monkeypatch.setattr(module.tempfile, "TemporaryFile", Full)
    with Spool(tmp_path, 0) as spool, caplog.at_level(logging.WARNING):
        for each in clips:
            spool.append(each)
        film = spool.frames()
    assert torch.equal(film, torch.cat(clips))
    (said,) = (record.message for record in caplog.records)
    assert "No space left on device" in said and str(tmp_path) in said


def test_a_drive_that_maps_nothing_costs_memory_and_no_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As some network drives do."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr(module.mmap, "mmap", refused)
    monkeypatch.setattr(module, "_PIECE", 1000)
    with Spool(tmp_path, 0) as spool:
        for seed in range(3):
            spool.append(clip(seed))
            assert torch.equal(spool.frames(), torch.cat([clip(k) for k in range(seed + 1)]))
    assert "cannot be mapped (No such device)" in caplog.text


def test_a_file_in_the_folders_place_costs_memory_and_no_frame(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with Spool(tmp_path / "file", 0) as spool:
        for seed in range(3):
            spool.append(clip(seed))
        assert torch.equal(spool.frames(), torch.cat([clip(seed) for seed in range(3)]))
    assert len(caplog.records) == 1


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's accounting")
def test_a_long_film_is_in_no_memory(tmp_path: Path) -> None:
    """Sixty-four megabytes, taken in and read through in pieces."""
    piece = torch.ones(1024, *SIZE)
    gc.collect()
    before = resident("RssAnon")
    with Spool(tmp_path, piece.nbytes) as spool:
        for _ in range(64):
            spool.append(piece.clone())
        film = spool.frames()
    total = sum(float(film[first : first + 1024].sum()) for first in range(0, len(film), 1024))
    assert total == film.numel() and film.nbytes == 64 << 20
    assert resident("RssAnon") - before < 8 << 20


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's list of files")
def test_the_file_is_gone_with_the_tensor(tmp_path: Path) -> None:
    def files() -> int:
        links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
        return sum(os.path.islink(link) and str(tmp_path) in os.readlink(link) for link in links)

    with Spool(tmp_path, 0) as spool:
        spool.append(clip(0))
        film = spool.frames()
    assert files() == 1
    first = film[0]
    del film
    assert files() == 1 and torch.equal(first, clip(0)[0])
    del first
    gc.collect()
    assert files() == 0
