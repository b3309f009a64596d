"""animate(): every odd input becomes a film of the right length; the same seed the same film."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from emo_core import animate as animate_module
from emo_core.animate import animate
from emo_core.animate_request import AnimateRequest
from emo_core.devices import find_device
from emo_core.pictures import read_picture
from emo_core.rhythm import FASTEST, SLOWEST, speed_from_sound
from emo_core.take import Step
from emo_core.video import VideoWriter, read_sound, read_video

MakeWav = Callable[[str, int, int, int], Path]


@pytest.fixture
def make(checkpoint: Path, portrait: Path, sound: Path, tmp_path: Path) -> Callable[..., Path]:
    """Animate with changes to a plain request; gives the film."""

    def run(**changes: object) -> Path:
        usual = {"portrait": portrait, "sound": sound, "output": tmp_path / "film.mp4",
                 "model": str(checkpoint), "device": "cpu"}  # fmt: skip
        request = AnimateRequest(**{**usual, **changes})  # type: ignore[arg-type]
        report = animate(request)
        assert report.frames == len(read_video(request.output)[0])
        return request.output

    return run


def count(path: Path) -> int:
    with av.open(str(path)) as file:
        return sum(1 for _ in file.decode(video=0))


@pytest.mark.parametrize(
    ("channels", "samples", "rate"),
    [(1, 1, 16000), (1, 2240, 8000), (1, 2241, 8000), (2, 12348, 44100), (8, 7680, 48000),
     (1, 6001, 12345)],
)  # fmt: skip
def test_the_film_is_as_long_as_the_sound(
    make: Callable[..., Path], make_wav: MakeWav, channels: int, samples: int, rate: int
) -> None:
    path = make_wav("odd.wav", channels, samples, rate)
    film = make(sound=path)
    wanted = -(-samples * 25 // rate)
    assert count(film) == wanted
    heard, got = read_sound(film)
    assert heard.shape[0] == channels
    assert abs(heard.shape[1] / got - samples / rate) < 1e-3


def test_the_sound_of_the_film_is_the_given_one(
    make: Callable[..., Path], make_wav: MakeWav
) -> None:
    path = make_wav("s.wav", 2, 30000, 44100)
    given, _ = read_sound(path)
    heard, rate = read_sound(make(sound=path))
    assert (rate, heard.shape) == (44100, given.shape)
    for channel in (0, 1):
        assert np.corrcoef(heard[channel], given[channel])[0, 1] > 0.95


def test_a_film_gives_its_sound_track(make: Callable[..., Path], tmp_path: Path) -> None:
    first = make()
    again = make(sound=first, output=tmp_path / "again.mkv")
    assert count(again) == count(first) == 11


def test_silence_is_animated(make: Callable[..., Path], tmp_path: Path) -> None:
    import wave

    with wave.open(str(tmp_path / "quiet.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(bytes(2 * 8000))
    assert count(make(sound=tmp_path / "quiet.wav", speed="sound")) == 13


def test_start_and_duration_are_counted_in_samples(make: Callable[..., Path]) -> None:
    assert count(make(duration=0.28)) == 7
    assert count(make(start=0.25)) == 4
    assert count(make(start=0.25, duration=0.04)) == 1
    assert count(make(duration=99.0)) == 11


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGBA", (40, 40), (200, 100, 50, 90)),
        Image.new("L", (64, 32), 120),
        Image.fromarray(np.full((32, 64), 30000, np.uint16)),
        Image.new("RGB", (8, 8), (9, 99, 199)),
        Image.new("RGB", (4000, 3000), (9, 99, 199)),
        Image.new("RGB", (10, 500), (9, 99, 199)),
        Image.new("P", (50, 50), 3),
    ],
    ids=["alpha", "grey", "deep", "tiny", "huge", "tall", "palette"],
)
def test_odd_pictures_are_animated(
    make: Callable[..., Path], tmp_path: Path, image: Image.Image
) -> None:
    image.save(tmp_path / "odd.png")
    pictures, _, _ = read_video(make(portrait=tmp_path / "odd.png", duration=0.04))
    assert tuple(pictures.shape) == (1, 32, 32, 3)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What is given to the encoder; libx264 does not always make the same of the same pictures."""
    pieces: list[torch.Tensor] = []
    write = VideoWriter.write

    def watched(writer: VideoWriter, frames: torch.Tensor) -> None:
        pieces.append(frames.clone())
        write(writer, frames)

    monkeypatch.setattr(VideoWriter, "write", watched)
    return pieces


def test_the_same_seed_gives_the_same_film(
    make: Callable[..., Path], drawn: list[torch.Tensor]
) -> None:
    films = []
    for seed in (3, 3, 4):
        drawn.clear()
        make(seed=seed)
        films.append(torch.cat(drawn))
    assert torch.equal(films[0], films[1])
    assert (films[0] - films[2]).abs().mean() > 0.01


def test_a_film_does_not_depend_on_what_follows(
    make: Callable[..., Path], drawn: list[torch.Tensor]
) -> None:
    """The frames of the first clip, of a sound that goes on and of one that is cut behind it."""
    make(speed="0.5")
    whole = torch.cat(drawn)
    drawn.clear()
    make(speed="0.5", duration=0.36)
    part = torch.cat(drawn)
    assert len(part) == 9
    assert (whole[:4] - part[:4]).abs().mean() < 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        {"speed": "0.1"},
        {"speed": "0:0.1,0.3:1.5"},
        {"speed": "sound"},
        {"face_box": (5.0, 5.0, 12.0, 10.0)},
        {"steps": 1},
        {"cfg": 1.0},
        {"audio_cfg": 4.0},
        {"solver": "dpmpp_2m", "steps": 3},
    ],
)
def test_every_setting_reaches_the_film(
    make: Callable[..., Path], tmp_path: Path, changes: dict[str, object]
) -> None:
    plain = read_video(make())[0].float()
    other = read_video(make(output=tmp_path / "other.mp4", **changes))[0].float()
    assert (plain - other).abs().max() > 0


def test_the_film_says_how_it_was_made(make: Callable[..., Path]) -> None:
    _, fps, metadata = read_video(make(seed=9, speed="0.4"))
    notes = json.loads(metadata["comment"])
    assert fps == 25
    assert notes == {
        "software": "EMO Portrait", "model": "smallest", "clip_length": 4, "seed": 9, "steps": 2,
        "cfg": 1.6, "speed": "0.4",
    }  # fmt: skip


def test_progress_counts_all_steps_and_may_stop_the_work(
    checkpoint: Path, portrait: Path, sound: Path, tmp_path: Path
) -> None:
    output = tmp_path / "film.mp4"
    output.write_bytes(b"old")
    request = AnimateRequest(portrait, sound, output, str(checkpoint), device="cpu")
    seen: list[Step] = []

    def stop(step: Step) -> None:
        seen.append(step)
        if step.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        animate(request, stop)
    assert seen == [Step(1, 6, 1, 3), Step(2, 6, 1, 3), Step(3, 6, 2, 3), Step(4, 6, 2, 3)]
    assert output.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"film.mp4", "portrait.png", "sound.wav"}
    seen.clear()
    animate(request, seen.append)
    assert seen[-1] == Step(6, 6, 3, 3)


def test_devices_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name in ("warp", "cuda:99", "cpu:5", "meta", ""):
        with pytest.raises(ValueError, match=r"here there is auto, cpu"):
            find_device(name)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"PyTorch is built for the CPU alone; install .*pytorch"):
        find_device("cuda")
    assert find_device("auto") == torch.device("cpu")


def test_what_is_not_seen_at_once_is_told(
    make: Callable[..., Path], tmp_path: Path, make_wav: MakeWav,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    Image.new("RGBA", (100, 40), (9, 99, 199, 90)).save(tmp_path / "wide.png")
    monkeypatch.setattr(animate_module, "_SLOW_ON_CPU", 1000)
    with caplog.at_level("INFO"):
        make(portrait=tmp_path / "wide.png", sound=make_wav("odd.wav", 9, 1000, 12345))
    for part in ("wide.png is transparent in places; they become white",
                 "of the portrait's 100x40 pixels the film shows 40x40, from 30,0 on",
                 "networks of this size are very slow on a CPU",
                 "clips of 2 steps, on cpu",
                 "sound is mixed to mono: AAC has no 9 channels",
                 "sound has 16000 samples a second: AAC has no rate of 12345"):  # fmt: skip
        assert part in caplog.text, part
    caplog.clear()
    Image.new("RGBA", (44, 40), (9, 99, 199, 255)).save(tmp_path / "wide.png")
    with caplog.at_level("INFO"):
        make(portrait=tmp_path / "wide.png")
    assert "transparent" not in caplog.text and "the film shows" not in caplog.text


def test_a_picture_beyond_all_measure_is_to_be_made_smaller(
    tmp_path: Path, portrait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(ValueError, match=r"portrait.png is too large \(.*\); make it smaller"):
        read_picture(portrait)


def noise(seconds: float, loudness: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(int(seconds * 16000), generator=generator) * loudness


def test_speed_follows_rhythm_and_loudness() -> None:
    clicks = noise(6, 0.2) * (torch.arange(96000) % 6400 < 1600)
    quiet, loud = noise(6, 0.003), noise(6, 0.2)
    speeds = {name: speed_from_sound(sound, 16000, 150, 25).mean().item()
              for name, sound in (("silent", torch.zeros(96000)), ("quiet", quiet), ("loud", loud),
                                  ("clicks", clicks))}  # fmt: skip
    assert speeds["silent"] == pytest.approx(SLOWEST, abs=1e-3)
    assert speeds["silent"] < speeds["quiet"] < speeds["loud"]
    assert speeds["quiet"] < speeds["clicks"]
    every = speed_from_sound(torch.cat([quiet, clicks, loud]), 16000, 451, Fraction(25))
    assert len(every) == 451
    assert every.min() >= SLOWEST
    assert every.max() <= FASTEST
    assert len(speed_from_sound(torch.zeros(1), 8000, 1, 25)) == 1


def test_speed_does_not_depend_on_what_is_far() -> None:
    sound = noise(52, 0.1) * (1 + torch.sin(torch.arange(832000) / 2000)) / 2
    changed = sound.clone()
    changed[30 * 16000 :] *= 5
    before, after = (speed_from_sound(s, 16000, 1300, 25) for s in (sound, changed))
    assert torch.equal(before[: 26 * 25], after[: 26 * 25])
    assert not torch.equal(before[30 * 25 :], after[30 * 25 :])
    short = speed_from_sound(sound[: 25 * 16000], 16000, 625, 25)
    assert torch.allclose(before[: 21 * 25], short[: 21 * 25])
