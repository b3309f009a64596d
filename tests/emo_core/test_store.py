"""The store of finished clips: whole or not there, whatever happens to processes and disks."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from emo_core import clip_files
from emo_core.store import ClipStore, Manifest, Usage

ROOT = Path(__file__).parents[2]
ROOMY = 1 << 30
posix = pytest.mark.skipif(os.name != "posix", reason="needs signals, limits and rights of POSIX")


def key_of(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def clip(seed: int = 0, frames: int = 3, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(frames, 4, 8, 8, generator=torch.Generator().manual_seed(seed)).to(dtype)


def path_of(store: ClipStore, name: object) -> Path:
    key = key_of(name)
    return store.folder / key[:2] / f"{key}.safetensors"


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script with the store, keys and clips of this file at hand."""
    return subprocess.run(
        [sys.executable, "-c", HEAD + code, *map(str, arguments)], cwd=ROOT, capture_output=True,
        text=True, timeout=200, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


HEAD = """
import hashlib, os, resource, signal, sys, time
from pathlib import Path
import torch
from emo_core.store import ClipStore
key_of = lambda name: hashlib.sha256(str(name).encode()).hexdigest()
def clip(seed, frames=3):
    return torch.randn(frames, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
folder = Path(sys.argv[1])
"""


@pytest.fixture
def store(tmp_path: Path) -> ClipStore:
    return ClipStore(tmp_path / "clips", ROOMY)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_clip_comes_back_bit_for_bit(store: ClipStore, dtype: torch.dtype) -> None:
    latents = clip(dtype=dtype)
    latents[0, 0, 0, :3] = torch.tensor([float("nan"), float("inf"), -0.0])
    store.put(key_of(1), latents, {"frames": 3, "text": "\u00e4", "list": [1.5, None]})
    found = ClipStore(store.folder, ROOMY).get(key_of(1))
    assert found is not None and found.dtype == dtype
    assert torch.equal(found.view(torch.uint8), latents.view(torch.uint8))
    assert store.header(key_of(1)) == {"frames": 3, "text": "\u00e4", "list": [1.5, None]}
    assert files_in(store.folder) == [f"{key_of(1)}.safetensors"]


def test_any_safetensors_reader_opens_a_clip(store: ClipStore) -> None:
    store.put(key_of(1), clip(1).transpose(2, 3), {"frames": 3})
    with safe_open(path_of(store, 1), "pt") as file:
        assert torch.equal(file.get_tensor("latents"), clip(1).transpose(2, 3))
        assert file.metadata()["format"] == "emo-clip 1" and file.metadata()["key"] == key_of(1)


def test_what_is_not_there_is_none(store: ClipStore) -> None:
    assert store.get(key_of(1)) is None and store.header(key_of(1)) is None
    assert store.read_manifest("film") is None
    assert store.usage() == Usage(0, 0) and store.films() == []


def test_changes_to_a_tensor_do_not_reach_the_file(store: ClipStore) -> None:
    store.put(key_of(1), clip(1), {})
    found = store.get(key_of(1))
    assert found is not None
    found += 1
    assert torch.equal(store.get(key_of(1)), clip(1))


def test_a_clip_that_is_there_is_not_written_again(store: ClipStore) -> None:
    """Its file may be mapped, and Windows would refuse."""
    store.put(key_of(1), clip(1), {"take": 1})
    before = path_of(store, 1).stat().st_ino
    age(path_of(store, 1), 1000)
    store.put(key_of(1), clip(1), {"take": 2})
    assert path_of(store, 1).stat().st_ino == before
    assert store.header(key_of(1)) == {"take": 1}
    assert abs(time.time() - path_of(store, 1).stat().st_mtime) < 60


def set_aside(store: ClipStore, caplog: pytest.LogCaptureFixture) -> None:
    """The file of clip 1 is noticed, named, put away, and its place is free again."""
    path = path_of(store, 1)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert store.get(key_of(1)) is None
    assert path.name in caplog.text and "set aside with the ending .damaged" in caplog.text
    assert not path.exists() and Path(f"{path}.damaged").is_file()
    store.put(key_of(1), clip(1), {})
    assert torch.equal(store.get(key_of(1)), clip(1))


def test_no_flipped_byte_goes_unnoticed(store: ClipStore) -> None:
    latents = clip(1)[:1, :1, :2, :2].clone()
    store.put(key_of(1), latents, {"text": "words", "n": 1})
    path = path_of(store, 1)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for flip in (0x01, 0x20, 0x80):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            found = store.get(key_of(1))
            # What stands between the parts of the header may change and mean the same.
            if found is not None:
                assert place < len(whole) - 16 and torch.equal(found, latents)
                assert store.header(key_of(1)) == {"text": "words", "n": 1}


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.5, 0.99, 0.9999])
def test_a_truncated_clip_is_set_aside(
    store: ClipStore, caplog: pytest.LogCaptureFixture, share: float
) -> None:
    store.put(key_of(1), clip(1), {})
    path = path_of(store, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    set_aside(store, caplog)


def test_a_flipped_byte_is_set_aside(store: ClipStore, caplog: pytest.LogCaptureFixture) -> None:
    store.put(key_of(1), clip(1), {})
    path = path_of(store, 1)
    whole = bytearray(path.read_bytes())
    whole[-5] ^= 4
    path.write_bytes(whole)
    set_aside(store, caplog)
    assert "its checksum is wrong" in caplog.text


def foreign_files() -> dict[str, bytes]:
    save = safetensors.torch.save
    deep = b"[" * 100_000
    good = {"format": "emo-clip 1", "key": key_of(1), "header": "{}", "sha256": key_of(2)}
    return {
        "longer": save({"latents": clip(1)}, good) + b"\0",
        "other tensors": save({"weight": clip(1)}, good),
        "no header": save({"latents": clip(1)}),
        "other program": save({"latents": clip(1)}, {"format": "pt"}),
        "other version": save({"latents": clip(1)}, good | {"format": "emo-clip 2"}),
        "nothing": b"",
        "zeros": bytes(4096),
        "text": b"<!DOCTYPE html><html></html>",
        "deep": len(deep).to_bytes(8, "little") + deep,
        "list": (2).to_bytes(8, "little") + b"[]",
        "null": (22).to_bytes(8, "little") + b'{"__metadata__": null}',
        "pickle": b"PK\x03\x04" + bytes(100),
    }


@pytest.mark.parametrize("kind", foreign_files())
def test_a_foreign_file_is_set_aside(
    store: ClipStore, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    path = path_of(store, 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(foreign_files()[kind])
    set_aside(store, caplog)


def test_the_clip_of_another_key_is_set_aside(
    store: ClipStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.put(key_of(2), clip(2), {})
    path_of(store, 1).parent.mkdir(parents=True, exist_ok=True)
    os.replace(path_of(store, 2), path_of(store, 1))
    set_aside(store, caplog)
    assert "the clip of another key" in caplog.text


def test_what_cannot_be_read_is_left_where_it_is(
    store: ClipStore, caplog: pytest.LogCaptureFixture
) -> None:
    path_of(store, 1).mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        assert store.get(key_of(1)) is None
    assert "cannot be read" in caplog.text and path_of(store, 1).is_dir()
    with pytest.raises(OSError, match="nothing can be kept in the folder"):
        store.put(key_of(1), clip(1), {})
    assert files_in(store.folder) == []


def fill(store: ClipStore, names: range) -> int:
    """Put clips, each last used longer ago than the next; gives one's bytes."""
    for name in names:
        store.put(key_of(name), clip(name), {})
        age(path_of(store, name), 10_000 - 100 * name)
    return path_of(store, names[0]).stat().st_size


def test_the_clips_that_were_not_used_for_longest_go_first(store: ClipStore) -> None:
    size = fill(store, range(8))
    assert store.get(key_of(0)) is not None and store.get(key_of(3)) is not None
    small = ClipStore(store.folder, 5 * size)
    small.put(key_of(8), clip(8), {})
    there = [name for name in range(9) if path_of(store, name).exists()]
    # Clips 0 and 3 were just used, and 8 was just put.
    assert there == [0, 3, 7, 8]
    assert small.usage() == Usage(4 * size, 4)


def test_a_store_never_takes_more_than_its_bound(tmp_path: Path) -> None:
    store = ClipStore(tmp_path, 20_000)
    for name in range(60):
        store.put(key_of(name), clip(name), {})
        used = store.usage()
        assert used.num_bytes <= 20_000
        # Down to fifteen sixteenths, and at most one clip more.
        assert name < 5 or used.num_bytes > 20_000 * 15 / 16 - 2 * used.num_bytes / used.num_clips
        assert store.get(key_of(name)) is not None
        age(path_of(store, name), 100)


def test_what_is_young_or_newest_stays(tmp_path: Path) -> None:
    store = ClipStore(tmp_path, 1)
    for name in range(4):
        store.put(key_of(name), clip(name), {})
    assert store.usage().num_clips == 4
    for name in range(3):
        age(path_of(store, name), 61)
    # A clock that runs ahead keeps nothing for ever.
    age(path_of(store, 3), -5000)
    store.put(key_of(4), clip(4), {})
    assert [name for name in range(5) if path_of(store, name).exists()] == [4]
    age(path_of(store, 4), 100)
    store.put(key_of(4), clip(4), {})
    assert store.get(key_of(4)) is not None


def test_the_film_at_work_is_kept_whole_whatever_the_bound(store: ClipStore) -> None:
    """Or a long film's begin would go before its end is made, and be sampled again for ever."""
    size = fill(store, range(6))
    small = ClipStore(store.folder, 4 * size)
    small.hold(key_of(name) for name in range(3, 20))
    for name in range(6, 20):
        small.put(key_of(name), clip(name), {})
        age(path_of(store, name), 5000 - 100 * name)
    assert [name for name in range(20) if path_of(store, name).exists()] == list(range(3, 20))
    # The next film takes the room.
    small.hold([key_of(30)])
    small.put(key_of(30), clip(30), {})
    assert small.usage().num_bytes <= 4 * size and path_of(store, 30).exists()


def test_what_was_set_aside_goes_before_any_clip(store: ClipStore) -> None:
    size = fill(store, range(6))
    damaged = Path(f"{path_of(store, 5)}.damaged")
    os.replace(path_of(store, 5), damaged)
    assert store.usage() == Usage(6 * size, 5)
    ClipStore(store.folder, int(6.5 * size)).put(key_of(9), clip(9), {})
    assert not damaged.exists() and store.usage().num_clips == 6


def test_nothing_of_others_is_counted_or_removed(tmp_path: Path) -> None:
    """People give folders that hold other things."""
    others = [
        "model.safetensors", "ab/lora.safetensors", "ab/note.damaged", "films/film.json",
        "ab/a.json", "films/holiday.partial", f"deep/{key_of(1)}.safetensors", ".x.partial",
        "abc/.y.partial", f"ab/{key_of(1)}.safetensors.bak",
    ]  # fmt: skip
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(100))
        age(tmp_path / name, 1e6)
    store = ClipStore(tmp_path, 1)
    assert store.usage() == Usage(0, 0)
    store.put(key_of(1), clip(1), {})
    assert all((tmp_path / name).is_file() for name in others)


def test_files_that_vanish_or_are_open_elsewhere_are_no_error(
    store: ClipStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another process is quicker, and as on Windows when it has a file open."""
    size = fill(store, range(6))
    unlink, refused, gone = Path.unlink, path_of(store, 0), path_of(store, 1)

    def contested(path: Path, missing_ok: bool = False) -> None:
        if path == refused:
            raise PermissionError(13, "in use")
        if path == gone:
            unlink(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", contested)
    ClipStore(store.folder, 4 * size).put(key_of(9), clip(9), {})
    assert [name for name in range(10) if path_of(store, name).exists()] == [0, 5, 9]


def test_left_overs_of_a_day_are_removed_at_the_next_start(store: ClipStore) -> None:
    store.put(key_of(1), clip(1), {})
    parts = [path_of(store, 1).with_name(f".{name}.partial") for name in ("old", "new")]
    for part in parts:
        part.write_bytes(b"half")
    age(parts[0], 25 * 3600)
    age(parts[1], 23 * 3600)
    again = ClipStore(store.folder, ROOMY)
    assert [part.exists() for part in parts] == [False, True]
    assert torch.equal(again.get(key_of(1)), clip(1))


def test_the_folder_is_not_listed_for_every_clip(
    store: ClipStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the time of a clip would grow with the length of the film."""
    listed = 0
    scandir = os.scandir

    def counted(folder: Path):
        nonlocal listed
        listed += 1
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", counted)
    for name in range(300):
        store.put(key_of(name), clip(name, frames=1), {})
        if name == 0:
            first = listed
    assert listed == first


def test_a_film_larger_than_the_bound_is_not_listed_for_every_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ClipStore(tmp_path, 16 * 10_000)
    store.hold(key_of(name) for name in range(300))
    listed, scandir = 0, os.scandir

    def counted(folder: Path):
        nonlocal listed
        listed += Path(folder) == tmp_path
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", counted)
    for name in range(300):
        store.put(key_of(name), clip(name, frames=1), {})
        age(path_of(store, name), 100)
    # A sixteenth of the bound is some eight clips.
    assert store.usage().num_clips == 300
    assert listed < 300 / 5


@posix
def test_a_kill_at_any_moment_leaves_a_whole_file_or_none(tmp_path: Path) -> None:
    code = """
store = ClipStore(folder, 1 << 30)
big, small = clip(0, 8192), clip(1)
def killed(name, put, prepare=lambda: None, after=None):
    child = os.fork()
    if child == 0:
        prepare()
        put()
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def die_after(call):
    return lambda *a: (call(*a), die())
points = {
    "fsync": lambda: setattr(os, "fsync", die),
    "replace": lambda: setattr(os, "replace", die),
    "replaced": lambda: setattr(os, "replace", die_after(os.replace)),
}
for name, prepare in points.items():
    status = killed(name, lambda: store.put(key_of(name), small, {}), prepare)
    assert os.WTERMSIG(status) == 9, name
    found = store.get(key_of(name))
    assert (found is not None) == (name == "replaced"), name
def many(first):
    for k in range(first, first + 100):
        store.put(key_of(k), big, {})
for run in range(12):
    killed("many", lambda: many(100 * run), after=0.03 * (run + 1))
whole = 0
for k in range(1200):
    found = store.get(key_of(k))
    if found is not None:
        assert torch.equal(found, big)
        whole += 1
print(whole, sum(1 for _ in folder.rglob("*.damaged")), sum(1 for _ in folder.rglob(".*.partial")))
"""
    run = python(code, tmp_path)
    assert run.returncode == 0, run.stderr
    whole, damaged, partial = map(int, run.stdout.split())
    assert whole > 0 and damaged == 0 and partial >= 2
    for part in tmp_path.rglob(".*.partial"):
        age(part, 2 * 86400)
    ClipStore(tmp_path, ROOMY)
    assert not list(tmp_path.rglob(".*.partial"))
    assert len(list(tmp_path.rglob("*.safetensors"))) == whole + 1


@posix
def test_processes_that_share_a_folder_do_not_harm_each_other(tmp_path: Path) -> None:
    """The same keys and different ones at once, in a folder that is too small for them."""
    code = """
children = []
for child in range(3):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            store = ClipStore(folder, 30_000)
            for turn in range(30):
                for name in (turn, f"{child} {turn}"):
                    seed = turn if name == turn else 1000 * child + turn
                    store.put(key_of(name), clip(seed), {})
                    found = store.get(key_of(name))
                    # Another process may have evicted it, since here files grow old at once.
                    assert found is None or torch.equal(found, clip(seed))
                    for path in list(folder.rglob("*.safetensors"))[:3]:
                        try:
                            os.utime(path, (time.time() - 90 - turn,) * 2)
                        except FileNotFoundError:
                            pass
            status = 0
        finally:
            os._exit(status)
    children.append(pid)
print(*[os.waitpid(pid, 0)[1] for pid in children])
"""
    run = python(code, tmp_path)
    assert run.returncode == 0 and run.stdout.split() == ["0"] * 3, run.stdout + run.stderr
    assert "damaged" not in run.stderr and "cannot be read" not in run.stderr
    assert {Path(name).suffix for name in files_in(tmp_path)} == {".safetensors"}


@posix
def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    code = """
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
store = ClipStore(folder, 1 << 30)
store.put(key_of(1), clip(1, 1), {})
try:
    store.put(key_of(2), clip(2, 64), {})
except OSError as error:
    print(error)
assert store.get(key_of(2)) is None
assert torch.equal(store.get(key_of(1)), clip(1, 1))
store.put(key_of(3), clip(3, 1), {})
"""
    run = python(code, tmp_path)
    assert run.returncode == 0, run.stderr
    assert f"nothing can be kept in the folder {tmp_path} (File too large); make room" in run.stdout
    assert len(files_in(tmp_path)) == 2 and not list(tmp_path.rglob(".*"))


@posix
def test_a_folder_that_cannot_be_written_is_a_sentence_and_can_be_read() -> None:
    code = """
store = ClipStore(folder, 1 << 30)
store.put(key_of(1), clip(1), {})
for path in [folder, *folder.iterdir()]:
    path.chmod(0o555)
if os.geteuid() == 0:
    os.seteuid(65534)
store = ClipStore(folder, 1)
assert torch.equal(store.get(key_of(1)), clip(1))
for attempt in (store.check_writable, lambda: store.put(key_of(2), clip(2), {}),
                lambda: ClipStore(folder / "more", 1)):
    try:
        attempt()
    except OSError as error:
        print(error)
for path in [folder, *folder.iterdir()]:
    if os.getuid() == 0:
        os.seteuid(0)
    path.chmod(0o755)
"""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        run = python(code, Path(name) / "clips")
        assert run.returncode == 0, run.stderr
        folder = Path(name) / "clips"
        kept = f"nothing can be kept in the folder {folder} (Permission denied); make room there"
        made = f"the folder {folder / 'more'} cannot be made (Permission denied); choose another"
        lines = run.stdout.splitlines()
        assert len(lines) == 3 and lines[0].startswith(kept) and lines[1] == lines[0]
        assert lines[2].startswith(made)
        assert all("choose another" in line for line in lines)
        assert files_in(folder) == [f"{key_of(1)}.safetensors"]


def test_a_file_in_the_folders_place_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "clips").write_bytes(b"")
    with pytest.raises(OSError, match=r"the folder .* cannot be made \(.*\); choose another"):
        ClipStore(tmp_path / "clips", 1)


def test_a_folder_that_can_be_written_is_left_as_it_was(store: ClipStore) -> None:
    store.check_writable()
    assert files_in(store.folder) == []


def test_an_interruption_while_writing_leaves_nothing(
    store: ClipStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.put(key_of(1), clip(1), {})
    assert files_in(store.folder) == []


def film(*names: int) -> Manifest:
    return Manifest(
        keys=tuple(key_of(name) for name in names), kept=(12,) * (len(names) - 1) + (5,),
        frame_rate="30000/1001", channels=4, scale=0.18215, began=1.8e9,
        notes={"portrait": "\u00e4"},
    )  # fmt: skip


def test_an_unfinished_film_is_opened_up_to_its_first_missing_clip(store: ClipStore) -> None:
    store.write_manifest("take-1", film(0, 1, 2, 3, 4))
    for name in (0, 1, 2, 4):
        store.put(key_of(name), clip(name), {})
    again = ClipStore(store.folder, ROOMY)
    found = again.read_manifest("take-1")
    assert found == film(0, 1, 2, 3, 4)
    clips = list(again.film_clips(found.keys))
    assert len(clips) == 3
    assert all(torch.equal(latents, clip(k)) for k, latents in enumerate(clips))


def test_a_film_is_read_one_clip_at_a_time(store: ClipStore) -> None:
    store.put(key_of(0), clip(0), {})
    clips = store.film_clips([key_of(0), key_of(1)])
    assert torch.equal(next(clips), clip(0))
    # The next clip may be finished while this one is decoded.
    store.put(key_of(1), clip(1), {})
    assert torch.equal(next(clips), clip(1)) and next(clips, None) is None


def test_a_later_manifest_takes_the_place_of_an_earlier(store: ClipStore) -> None:
    store.write_manifest("con", film(0, 1))
    store.write_manifest("con", film(0, 2))
    store.write_manifest("old", film(0))
    age(store.folder / "films" / "film-old.json", 100)
    assert store.films() == ["con", "old"]
    assert store.read_manifest("con") == film(0, 2)
    assert store.usage().num_bytes > 0 and store.usage().num_clips == 0


def test_no_flipped_byte_of_a_manifest_goes_unnoticed(store: ClipStore) -> None:
    store.write_manifest("f", film(0, 1))
    path = store.folder / "films" / "film-f.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert store.read_manifest("f") in (None, film(0, 1))


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000])
def test_a_foreign_manifest_is_set_aside(
    store: ClipStore, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    store.write_manifest("f", film(0, 1))
    path = store.folder / "films" / "film-f.json"
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert store.read_manifest("f") is None
    assert "film-f.json is damaged or foreign" in caplog.text
    assert files_in(store.folder) == ["film-f.json.damaged"] and store.films() == []


def test_a_manifest_of_another_version_is_set_aside(
    store: ClipStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.write_manifest("f", film(0, 1))
    path = store.folder / "films" / "film-f.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": "emo-film 2"}))
    assert store.read_manifest("f") is None and "not a film of this version" in caplog.text


def refusing(times: int):
    """os.replace() as on Windows, while another process reads the target."""
    replace = os.replace

    def attempt(source: Path, target: Path) -> None:
        nonlocal times
        if Path(target).exists() and times > 0:
            times -= 1
            raise PermissionError(13, "in use")
        replace(source, target)

    return attempt


def test_a_file_that_is_being_read_is_waited_for(
    store: ClipStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_manifest("f", film(0, 1))
    monkeypatch.setattr(os, "replace", refusing(2))
    store.write_manifest("f", film(0, 2))
    assert store.read_manifest("f") == film(0, 2)
    monkeypatch.setattr(os, "replace", refusing(100))
    with pytest.raises(OSError, match="nothing can be kept"):
        store.write_manifest("f", film(0, 3))
    assert store.read_manifest("f") == film(0, 2)
    assert files_in(store.folder) == ["film-f.json"]


def test_a_clip_that_another_process_put_meanwhile_and_reads_is_kept(
    store: ClipStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, replace = ClipStore(store.folder, ROOMY), os.replace

    def overtaken(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        other.put(key_of(1), clip(1), {})
        monkeypatch.setattr(os, "replace", refusing(100))
        raise PermissionError(13, "in use")

    monkeypatch.setattr(os, "replace", overtaken)
    store.put(key_of(1), clip(1), {})
    assert torch.equal(store.get(key_of(1)), clip(1))
    assert files_in(store.folder) == [f"{key_of(1)}.safetensors"]


@pytest.mark.parametrize("key", ["", "abc", "../" * 21 + "a", "G" * 64, key_of(1).upper()])
def test_what_is_no_key_is_a_sentence(store: ClipStore, key: str) -> None:
    with pytest.raises(ValueError, match="a clip's key is 64 hexadecimal digits in lower case"):
        store.get(key)
    with pytest.raises(ValueError, match="a clip's key is 64 hexadecimal digits in lower case"):
        store.put(key, clip(), {})


@pytest.mark.parametrize("name", ["", "../x", "a b", "a.b", "x" * 101, "f\n"])
def test_what_is_no_name_of_a_film_is_a_sentence(store: ClipStore, name: str) -> None:
    with pytest.raises(ValueError, match="named by 1 to 100 letters, digits, - and _"):
        store.write_manifest(name, film(0))
    with pytest.raises(ValueError, match="named by 1 to 100 letters, digits, - and _"):
        store.read_manifest(name)


def test_what_cannot_be_kept_is_a_sentence(store: ClipStore) -> None:
    with pytest.raises(ValueError, match=r"must be \(F, C, h, w\), got the shape \(4, 8, 8\)"):
        store.put(key_of(1), clip()[0], {})
    for wrong in ({"path": Path()}, {"loss": float("nan")}, {("a", 1): 2}):
        with pytest.raises(ValueError, match="only plain JSON values are kept beside clips, and"):
            store.put(key_of(1), clip(), wrong)
    with pytest.raises(ValueError, match="room for at least 1 byte, got 0"):
        ClipStore(store.folder, 0)
    assert files_in(store.folder) == []


def test_a_whole_clip_of_another_version_is_set_aside(
    store: ClipStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as later:
        later.setattr(clip_files, "_CLIP_FORMAT", "emo-clip 2")
        store.put(key_of(1), clip(1), {})
    set_aside(store, caplog)
    assert "no clip of this version" in caplog.text


def test_the_newest_file_stays_where_the_drives_clock_is_late(
    store: ClipStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 5000)
    small = ClipStore(store.folder, 1)
    small.put(key_of(1), clip(1), {})
    small.put(key_of(2), clip(2), {})
    assert files_in(store.folder) == [f"{key_of(2)}.safetensors"]
