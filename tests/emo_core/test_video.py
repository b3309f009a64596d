"""Films, sounds and pictures: read whatever people have, write whole films or none."""

from __future__ import annotations

import json
import os
import sys
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from emo_core.disk import Disk
from emo_core.pictures import fit_portrait
from emo_core.video import (
    VideoWriter,
    check_film_path,
    read_picture,
    read_sound,
    read_video,
)

MakeWav = Callable[[str, int, int, int], Path]


def frames(count: int, height: int = 16, width: int = 16) -> torch.Tensor:
    """Smooth pictures that change slowly: (count, 3, height, width)."""
    rows = torch.linspace(0, 1, height)[None, None, :, None]
    columns = torch.linspace(0, 1, width)[None, None, None, :]
    shade = torch.linspace(0.2, 0.8, count)[:, None, None, None]
    tint = torch.tensor([1.0, 0.8, 0.6])[None, :, None, None]
    return shade * (rows + columns) / 2 * tint


def tone(channels: int, samples: int, rate: int) -> torch.Tensor:
    time = torch.arange(samples) / rate
    beat = 0.6 + 0.4 * torch.sin(2 * torch.pi * 3.3 * time)
    return torch.stack([0.5 * beat * torch.sin(2 * torch.pi * (90 + 20 * c) * time)
                        for c in range(channels)])  # fmt: skip


def likeness(first: torch.Tensor, second: torch.Tensor, most: int) -> tuple[float, int]:
    """Best correlation over lags of at most `most` samples, and that lag."""
    best = (-1.0, 0)
    for lag in range(-most, most + 1, max(1, most // 40)):
        a, b = first[max(0, lag):], second[max(0, -lag):]
        count = min(len(a), len(b))
        r = float(torch.corrcoef(torch.stack([a[:count], b[:count]]))[0, 1])
        best = max(best, (r, lag))
    return best


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".MP4"])
def test_a_film_is_read_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    path, sound, pictures = tmp_path / f"f{suffix}", tone(2, 22050, 44100), frames(13, 24, 32)
    notes = {"clip_length": 12, "text": "ä"}
    with VideoWriter(path, 25, (32, 24), (sound, 44100), notes) as film:
        film.write(pictures[:5])
        film.write(pictures[5:])
        assert film.num_frames == 13
    read, fps, metadata = read_video(path)
    assert (tuple(read.shape), read.dtype, fps) == ((13, 24, 32, 3), torch.uint8, 25)
    assert json.loads(metadata["comment"]) == notes
    error = read.permute(0, 3, 1, 2).float() / 255 - pictures
    assert error.abs().mean() < 0.02
    heard, rate = read_sound(path)
    assert rate == 44100
    assert abs(heard.shape[1] - 22050) < (1 if suffix.lower() != ".mkv" else 2048)
    r, lag = likeness(heard[1], sound[1], 1764)
    assert r > 0.98
    assert abs(lag) < 1764
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_up_to_eight_channels_are_kept(tmp_path: Path, channels: int) -> None:
    sound = tone(channels, 24000, 48000)
    with VideoWriter(tmp_path / "f.mp4", 25, (16, 16), (sound, 48000)) as film:
        film.write(frames(13))
    heard, _ = read_sound(tmp_path / "f.mp4")
    assert tuple(heard.shape) == (channels if channels < 9 else 1, 24000)
    if channels < 9:
        bass = {6: 3, 7: 3, 8: 3}.get(channels)
        for c in set(range(channels)) - {bass}:
            assert likeness(heard[c], sound[c], 480)[0] > 0.95


@pytest.mark.parametrize(
    ("rate", "written"), [(8000, 8000), (11025, 11025), (22222, 24000), (192000, 96000)]
)
def test_only_rates_that_aac_lacks_are_changed(tmp_path: Path, rate: int, written: int) -> None:
    sound = tone(1, rate // 2, rate)
    with VideoWriter(tmp_path / "f.mp4", 25, (16, 16), (sound, rate)) as film:
        film.write(frames(13))
    heard, got = read_sound(tmp_path / "f.mp4")
    assert got == written
    assert abs(heard.shape[1] / got - 0.5) < 1e-3


def test_frames_have_exact_times_at_any_rate(tmp_path: Path) -> None:
    fps = Fraction(30000, 1001)
    with VideoWriter(tmp_path / "f.mp4", fps, (16, 16), (tone(1, 8000, 8000), 8000)) as film:
        film.write(frames(30))
    with av.open(str(tmp_path / "f.mp4")) as file:
        stream = file.streams.video[0]
        times = [frame.pts * stream.time_base for frame in file.decode(stream)]
        names = [s.codec_context.name for s in file.streams]
        assert (names, stream.codec_context.pix_fmt) == (["h264", "aac"], "yuv420p")
    assert times == [i / fps for i in range(30)]
    content = (tmp_path / "f.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # a player can start at once


def test_odd_sides_are_padded_at_the_edge(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "f.mp4", 25, (15, 17), None) as film:
        film.write(frames(2, 17, 15))
    read, _, _ = read_video(tmp_path / "f.mp4")
    assert tuple(read.shape) == (2, 18, 16, 3)
    assert (read[:, 17].int() - read[:, 16].int()).abs().max() <= 12
    with pytest.raises(ValueError, match="has no sound track, only video"):
        read_sound(tmp_path / "f.mp4")


def test_one_sample_and_one_frame_are_a_film(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "f.mp4", 25, (16, 16), (torch.zeros(1, 1), 16000)) as film:
        film.write(frames(1))
    assert len(read_video(tmp_path / "f.mp4")[0]) == 1
    assert read_sound(tmp_path / "f.mp4")[0].shape[0] == 1


def test_the_smallest_pictures_are_a_film(tmp_path: Path) -> None:
    for width, height in ((1, 1), (2, 2), (3, 1), (1, 16)):
        with VideoWriter(tmp_path / "f.mp4", 25, (width, height)) as film:
            film.write(frames(3, height, width))
        read, _, metadata = read_video(tmp_path / "f.mp4")
        assert tuple(read.shape) == (3, height + height % 2, width + width % 2, 3)
        assert "comment" not in metadata


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(ValueError, match=r"no rate of 22222 .* pip install librosa"):
        VideoWriter(tmp_path / "f.mp4", 25, (16, 16), (tone(1, 900, 22222), 22222))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"needs PyAV, .*: pip install av"):
        VideoWriter(tmp_path / "f.mp4", 25, (16, 16))


def test_the_same_film_is_the_same_file(tmp_path: Path) -> None:
    for suffix in ("mp4", "mkv"):
        for name in "abcdef":
            sound = (tone(1, 8000, 16000), 16000)
            with VideoWriter(tmp_path / f"{name}.{suffix}", 25, (16, 16), sound) as film:
                film.write(frames(13))
        # libx264 now and then makes something else of the same pictures; a date or a random number
        # would make all six differ.
        assert len({(tmp_path / f"{name}.{suffix}").read_bytes() for name in "abcdef"}) < 6


def test_a_failed_film_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "f.mp4"
    path.write_bytes(b"old")
    sound = (tone(1, 16000, 16000), 16000)
    for error in (KeyboardInterrupt(), ValueError("x")):
        with pytest.raises(type(error)), VideoWriter(path, 25, (16, 16), sound) as film:
            film.write(frames(5))
            raise error
    with pytest.raises(ValueError, match="frames must be"), VideoWriter(path, 25, (16, 16)) as film:
        film.write(frames(5, 8, 8))
    with pytest.raises(ValueError, match="at least one frame"), VideoWriter(path, 25, (16, 16)):
        pass
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["f.mp4"]


def test_what_a_killed_process_left_of_the_film_is_removed(tmp_path: Path) -> None:
    names = [".a [1].0123abcd.partial.mp4", ".a [1].4567cdef.partial.mp4",
             ".a [1].89ab0000.partial.mp4", ".a [1].b.0123abcd.partial.mp4",
             ".a 1.0123abcd.partial.mp4", "a [1].0123abcd.partial.mp4",
             ".a [1].0123abcd.partial.mkv"]  # fmt: skip
    left, written, young = (tmp_path / name for name in names[:3])
    for name in names:
        (tmp_path / name).write_bytes(b"0")
    running = Disk(written)
    for name in names:
        os.utime(tmp_path / name, (1e9, 1e9))
    young.touch()
    with VideoWriter(tmp_path / "a [1].mp4", 25, (16, 16)) as film:
        film.write(frames(2))
    running.close()
    assert not left.exists() and written.exists() and young.exists()
    assert {path.name for path in tmp_path.iterdir()} == {*names[1:], "a [1].mp4"}


def write_noise(path: Path, most_bytes: int) -> None:
    """Write a film while no file may grow beyond a size: writing fails as on a full disk."""
    resource = pytest.importorskip("resource")
    noise = torch.rand(50, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        with VideoWriter(path, 25, (64, 64), (tone(1, 32000, 16000), 16000)) as film:
            for part in noise.split(5):
                film.write(part)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"f{suffix}"
    write_noise(path, 10_000_000)
    whole = path.stat().st_size
    path.write_bytes(b"old")
    for limit in (1, whole // 2, whole - 1):
        sentence = r"f.m.* cannot be written \(.*\); nothing was left"
        with pytest.raises(OSError, match=sentence) as told:
            write_noise(path, limit)
        assert "\n" not in str(told.value)
        assert path.read_bytes() == b"old"
        assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_a_film_that_is_open_elsewhere_is_kept_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, which replaces no file that a player has open."""
    path, replace = tmp_path / "f.mp4", os.replace
    path.write_bytes(b"old")

    def refuse(source: Path, target: Path) -> None:
        if target == path:
            raise PermissionError(13, "Access is denied", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with (
        pytest.raises(PermissionError, match=r"in use and was not replaced; .* whole, as ") as e,
        VideoWriter(path, 25, (16, 16)) as film,
    ):
        film.write(frames(5))
    kept = next(name for name in tmp_path.iterdir() if name != path)
    assert str(e.value).endswith(str(kept)) and path.read_bytes() == b"old"
    assert len(read_video(kept)[0]) == 5
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_takes_no_file_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", locked)  # root may write wherever it likes
    with pytest.raises(PermissionError, match=r"cannot be written \(Permission denied\); choose"):
        check_film_path(tmp_path / "f.mp4")
    monkeypatch.undo()
    check_film_path(tmp_path / "f.mp4")
    assert not list(tmp_path.iterdir())


def test_a_truncated_matroska_is_refused(tmp_path: Path) -> None:
    path, sound = tmp_path / "f.mkv", tone(1, 96000, 16000)
    with VideoWriter(path, 25, (16, 16), (sound, 16000)) as film:
        film.write(frames(150))
    assert read_sound(path)[0].shape[1] >= 96000
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"f.mkv is truncated: it promises 6\.\d\d s and holds"):
        read_sound(path)


def test_names_that_hold_no_film_are_refused(tmp_path: Path) -> None:
    (tmp_path / "dir.mp4").mkdir()
    for name, sentence in (
        ("f.avi", r"ends in .mp4, .mov, .mkv, got the ending .avi"),
        ("film", "got no ending"),
        ("dir.mp4", "is a folder"),
        ("no/f.mp4", "does not exist"),
    ):
        with pytest.raises((ValueError, OSError), match=sentence):
            VideoWriter(tmp_path / name, 25, (16, 16))
    for sound in (torch.zeros(0), torch.full((1, 5), torch.nan), torch.zeros(1, 1, 1)):
        with pytest.raises(ValueError, match="finite samples"):
            VideoWriter(tmp_path / "f.mp4", 25, (16, 16), (sound, 16000))


@pytest.mark.parametrize(("channels", "rate"), [(1, 8000), (2, 44100), (6, 48000), (8, 48000)])
def test_a_recording_is_read_as_it_is(make_wav: MakeWav, channels: int, rate: int) -> None:
    path = make_wav("s.wav", channels, 1000, rate)
    with wave.open(str(path)) as file:
        wanted = np.frombuffer(file.readframes(1000), "<i2").reshape(-1, channels).T / 32768
    heard, got = read_sound(path)
    assert got == rate
    assert torch.equal(heard, torch.from_numpy(wanted).float())


def test_a_streamed_recording_is_read(make_wav: MakeWav) -> None:
    """Programs that write into a pipe do not know the length (espeak-ng: 0x7ffff000 bytes)."""
    path = make_wav("s.wav", 1, 1000, 8000)
    content = bytearray(path.read_bytes())
    for size in (0x7FFFF000, 0xFFFFFFFF):
        content[40:44] = size.to_bytes(4, "little")
        path.write_bytes(content)
        assert read_sound(path)[0].shape == (1, 1000)


def test_sounds_that_are_none_are_refused(tmp_path: Path, make_wav: MakeWav) -> None:
    whole = make_wav("whole.wav", 1, 16000, 16000).read_bytes()
    floats = np.zeros(100, "<f4")
    floats[50] = np.nan
    head = (b"RIFF" + (36 + 400).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
            + (3).to_bytes(2, "little") + (1).to_bytes(2, "little") + (8000).to_bytes(4, "little")
            + (32000).to_bytes(4, "little") + (4).to_bytes(2, "little") + (32).to_bytes(2, "little")
            + b"data" + (400).to_bytes(4, "little"))  # fmt: skip
    empty = make_wav("empty.wav", 1, 0, 16000).read_bytes()
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    for content, sentence in (
        (b"", "is an empty file"),
        (b"this is no sound at all, only text", "can be read|no sound track"),
        (whole[: len(whole) // 2], "is truncated: it promises 1.00 s and holds 0.50 s"),
        (whole[:20], "can be read"),
        (empty, "holds no samples|can be read"),
        (head + floats.tobytes(), "NaN or infinite"),
        ((tmp_path / "picture.png").read_bytes(), "no sound track"),
    ):
        (tmp_path / "s.wav").write_bytes(content)
        with pytest.raises(ValueError, match=sentence) as told:
            read_sound(tmp_path / "s.wav")
        assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="is a folder"):
        read_sound(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_sound(tmp_path / "no.wav")


def test_a_truncated_film_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.mp4"
    with VideoWriter(path, 25, (64, 64), (tone(1, 32000, 16000), 16000)) as film:
        film.write(torch.rand(50, 3, 64, 64))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"truncated|breaks off|can be read"):
        read_sound(path)


def test_films_that_are_none_are_refused(tmp_path: Path, make_wav: MakeWav) -> None:
    (tmp_path / "text.mp4").write_text("no film")
    for path, sentence in (
        (tmp_path / "text.mp4", "is not a film"),
        (make_wav("s.wav", 1, 100, 8000), "has no pictures"),
        (tmp_path, "is a folder"),
        (tmp_path / "no.mp4", "does not exist"),
    ):
        with pytest.raises((ValueError, OSError), match=sentence):
            read_video(path)


def stored(path: Path, image: Image.Image, **options: object) -> torch.Tensor:
    image.save(path, **options)
    return read_picture(path)


def test_pictures_of_every_mode_are_read(tmp_path: Path) -> None:
    colour = Image.new("RGB", (6, 4), (255, 0, 0))
    red = torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 4, 6)
    path = tmp_path / "p.png"
    assert torch.equal(stored(path, colour), red)
    assert torch.equal(stored(path, colour.convert("P")), red)
    assert torch.equal(stored(path, colour.convert("RGBA")), red)
    clear = Image.new("RGBA", (6, 4), (255, 0, 0, 0))
    assert torch.equal(stored(path, clear), torch.ones(3, 4, 6))
    grey = stored(path, Image.new("LA", (6, 4), (0, 128)))
    assert torch.allclose(grey, torch.full((3, 4, 6), 127 / 255), atol=0.01)
    assert torch.equal(stored(path, Image.new("L", (6, 4), 51)), torch.full((3, 4, 6), 0.2))
    assert torch.equal(stored(path, Image.new("1", (6, 4), 1)), torch.ones(3, 4, 6))
    deep = Image.fromarray(np.full((4, 6), 13107, np.uint16))
    assert torch.allclose(stored(path, deep), torch.full((3, 4, 6), 0.2))
    print_colour = stored(tmp_path / "p.jpg", colour.convert("CMYK"))
    assert (print_colour - red).abs().max() < 0.1
    real = Image.fromarray(np.full((4, 6), 0.2, np.float32))
    assert torch.allclose(stored(tmp_path / "p.tiff", real), torch.full((3, 4, 6), 0.2))
    blue = Image.new("RGB", (6, 4), (0, 0, 255))
    moving = stored(tmp_path / "p.gif", colour, save_all=True, append_images=[blue])
    assert (moving - red).abs().max() < 0.02


def test_a_turned_picture_is_upright(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    upright = stored(tmp_path / "p.png", Image.fromarray(pixels), exif=exif)
    assert tuple(upright.shape) == (3, 6, 4)
    assert torch.equal(upright[0, :, 3], torch.ones(6))
    assert upright[0, :, :3].sum() == 0


def test_pictures_that_are_none_are_refused(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 80).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "nan.tiff")
    for name, sentence in (
        ("half.png", "cannot be read"),
        ("text.png", "is not a picture"),
        ("empty.png", "is not a picture"),
        ("nan.tiff", "NaN"),
        ("", "is a folder"),
        ("no.png", "does not exist"),
    ):
        with pytest.raises((ValueError, OSError), match=sentence) as told:
            read_picture(tmp_path / name)
        assert "\n" not in str(told.value)


def test_a_portrait_becomes_a_square(tmp_path: Path) -> None:
    picture = torch.rand(3, 30, 50)
    assert torch.equal(fit_portrait(picture, 30).picture, picture[:, :, 10:40])
    tall = torch.rand(3, 50, 30)
    assert torch.equal(fit_portrait(tall, 30).picture, tall[:, 5:35])
    assert torch.equal(fit_portrait(tall[:, :30], 30).picture, tall[:, :30])
    for size in ((8, 8), (300, 400), (7, 90), (1, 1)):
        fitted = fit_portrait(torch.rand(3, *size), 32)
        assert tuple(fitted.picture.shape) == (3, 32, 32)
        assert fitted.picture.min() >= 0
        assert fitted.picture.max() <= 1


def test_the_square_lies_around_the_face(tmp_path: Path) -> None:
    picture = torch.rand(3, 30, 60)
    right = fit_portrait(picture, 30, (45, 10, 10, 15))
    assert torch.equal(right.picture, picture[:, :, 30:])
    assert right.box == pytest.approx((0.5, 1 / 3, 1 / 3, 0.5))
    wide = fit_portrait(picture, 60, (0, 0, 60, 30))
    assert wide.box == pytest.approx((0, 0, 1, 1))
    for box, sentence in (
        ((50, 0, 20, 10), "reaches outside the picture of 60x30 pixels"),
        ((-1, 0, 20, 10), "reaches outside"),
        ((5, 25, 20, 10), "reaches outside"),
        ((5, 5, 0, 10), "at least 2 pixels wide and high, got 5,5,0,10"),
    ):
        with pytest.raises(ValueError, match=sentence):
            fit_portrait(picture, 30, box)
