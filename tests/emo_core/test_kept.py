"""Kept clips in the loop over clips, and `emo animate` after whatever ended it."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from small_models import FRAMES, LATENT, MOTION, draw, small_model
from torch import Tensor

from emo_core import cli
from emo_core.animate import animate
from emo_core.animate_request import AnimateRequest
from emo_core.clips import ClipPlan, plan_clips
from emo_core.films import open_film
from emo_core.generate import Film, HandOver, generate
from emo_core.kept import KeptClips, open_store, tracks_of, user_folder
from emo_core.model import EMO
from emo_core.sampling import Guidance, make_sampler
from emo_core.store import ClipStore, known_films
from emo_core.take import Step
from emo_core.video import VideoWriter

ROOT = Path(__file__).parents[2]
KEY = "a film's constants"
COUNT = 4 * FRAMES
posix = pytest.mark.skipif(os.name != "posix", reason="needs signals of POSIX")


@pytest.fixture(scope="module")
def model() -> EMO:
    return small_model("emo", torch.float32)


@pytest.fixture
def store(tmp_path: Path) -> ClipStore:
    made = open_store(tmp_path / "clips")
    assert made is not None
    return made


def make_film(model: EMO, count: int = COUNT) -> Film:
    config, kind = model.config, {"dtype": torch.float32}
    shape = (count, config.audio.num_layers, config.audio.layer_width)
    return Film(
        portrait=draw(1, *LATENT, seed=1, **kind),
        audio=draw(*shape, seed=2, **kind),
        region=torch.ones(config.locator.in_channels, 64, 64),
        speed=draw(count, seed=4, **kind).abs(),
        seed=3,
    )


def run(
    model: EMO, film: Film, store: ClipStore | None, stop: int = 99, **options: object
) -> tuple[list[Tensor], list[int]]:
    """The film's clips, and which of them were sampled; clip `stop` fails."""
    sampled: list[int] = []
    sample = make_sampler(model.denoising_unet, 2, Guidance(1.5))

    def counted(conditions: object, noise: Tensor, plan: ClipPlan) -> Tensor:
        sampled.append(plan.index)
        if plan.index == stop:
            raise KeyboardInterrupt
        return sample(conditions, noise, plan)  # type: ignore[arg-type]

    kept = None
    if store is not None:
        kept = KeptClips(store, KEY, tracks_of(film, model.config), film.motion)
    clips: list[Tensor] = []
    plans = options.pop("plans", plan_clips(len(film.audio), FRAMES))
    try:
        clips.extend(generate(model, film, plans, counted, kept=kept, **options))  # type: ignore[arg-type]
    except KeyboardInterrupt:
        assert stop in sampled
    return clips, sampled


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def halved(latents: Tensor | None, _: ClipPlan) -> Tensor | None:
    return None if latents is None else latents.clamp(-1, 1) * 0.5


@pytest.mark.parametrize("hand_over", [None, halved])
def test_after_an_interruption_the_rest_is_sampled(
    model: EMO, store: ClipStore, hand_over: HandOver | None
) -> None:
    film = make_film(model, COUNT - 1)
    undisturbed, _ = run(model, film, None, hand_over=hand_over)
    assert run(model, film, store, stop=2, hand_over=hand_over)[1] == [0, 1, 2]
    assert store.usage().num_clips == 2
    clips, sampled = run(model, film, store, hand_over=hand_over)
    assert sampled == [2, 3] and same(clips, undisturbed)
    clips, sampled = run(model, film, store, hand_over=hand_over)
    assert sampled == [] and same(clips, undisturbed)


def test_a_change_in_the_sound_or_speed_leaves_earlier_clips_alone(
    model: EMO, store: ClipStore
) -> None:
    film = make_film(model)
    before, _ = run(model, film, store)
    audio, speed = film.audio.clone(), film.speed.clone()
    audio[2 * FRAMES + 1 :] += 1
    speed[3 * FRAMES + 1 :] += 1
    for changed, expected in (
        (replace(film, audio=audio), [2, 3]),
        (replace(film, speed=speed), [3]),
        (film, []),
    ):
        clips, sampled = run(model, changed, store)
        assert sampled == expected
        assert same(clips, run(model, changed, None)[0])
    assert same(clips, before)


def test_a_change_of_a_moving_region_leaves_earlier_clips_alone(
    model: EMO, store: ClipStore
) -> None:
    moving = draw(COUNT, 1, 64, 64, seed=7, dtype=torch.float32).sigmoid()
    film = replace(make_film(model), region=moving)
    before, _ = run(model, film, store)
    later = moving.clone()
    later[2 * FRAMES] = 0.5
    changed = replace(film, region=later)
    clips, sampled = run(model, changed, store)
    assert sampled == [2, 3] and same(clips[:2], before[:2])
    assert same(clips, run(model, changed, None)[0]) and not same(clips, before)
    assert run(model, film, store)[1] == []
    # Another film with a still region has no clip in common.
    assert run(model, make_film(model), store)[1] == [0, 1, 2, 3]


def test_a_film_that_is_kept_needs_no_network(model: EMO, store: ClipStore) -> None:
    film, calls = make_film(model), []
    run(model, film, store)
    hooks = [
        part.register_forward_hook(lambda *_: calls.append("run"))
        for part in (model.reference_unet, model.denoising_unet, model.audioproj)
    ]
    run(model, film, store)
    assert calls == []
    for hook in hooks:
        hook.remove()


def test_only_one_clip_is_read_at_a_time(model: EMO, store: ClipStore) -> None:
    film, asked = make_film(model), []
    run(model, film, store)
    get = store.get
    store.get = lambda key: (asked.append(key), get(key))[1]  # type: ignore[method-assign,func-returns-value]
    kept = KeptClips(store, KEY, tracks_of(film, model.config))
    sampler = make_sampler(model.denoising_unet, 2, Guidance(1.5))
    for done, _ in enumerate(generate(model, film, plan_clips(COUNT, FRAMES), sampler, kept=kept)):
        assert len(asked) == done + 1
    assert (kept.found, kept.made) == (4, 0)


def test_given_motion_frames_begin_another_film(model: EMO, store: ClipStore) -> None:
    film = make_film(model)
    clips, _ = run(model, film, store)
    motion = clips[1][None, -MOTION:]
    for given, expected in ((motion, [2, 3]), (motion, []), (motion + 1, [2, 3])):
        rest = islice(plan_clips(COUNT, FRAMES), 2, None)
        found, sampled = run(model, replace(film, motion=given), store, plans=rest)
        assert sampled == expected
        assert same(found, clips[2:]) == torch.equal(given, motion)


def test_what_is_no_number_is_not_kept(model: EMO, store: ClipStore) -> None:
    kept = KeptClips(store, KEY, tracks_of(make_film(model), model.config))
    plan = ClipPlan(0, 0, FRAMES)
    with pytest.raises(ValueError, match=r"before it was asked for; call get\(\) first"):
        kept.put(plan, torch.zeros(FRAMES, *LATENT))
    assert kept.get(plan) is None
    kept.put(plan, torch.full((FRAMES, *LATENT), float("nan")))
    assert store.usage().num_clips == 0


def test_a_user_has_a_folder_for_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_folder() == tmp_path / "emo-portrait" / "clips"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert user_folder().is_absolute() and user_folder().is_relative_to(Path.home())


Animate = Callable[..., tuple[str, str, bytes]]


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is written to films: the same pictures are not always the same bytes of H.264."""
    written: list[bytes] = []
    write = VideoWriter.write

    def noted(self: VideoWriter, frames: Tensor) -> None:
        written.append(frames.contiguous().numpy().tobytes())
        write(self, frames)

    monkeypatch.setattr(VideoWriter, "write", noted)
    return written


@pytest.fixture
def emo(
    checkpoint: Path, portrait: Path, sound: Path, tmp_path: Path, pictures: list[bytes],
    capsys: pytest.CaptureFixture[str],
) -> Animate:  # fmt: skip
    """Run `emo animate`; gives stdout, stderr and the film's pictures."""

    def animated(*words: object, heard: Path = sound) -> tuple[str, str, bytes]:
        film = tmp_path / "film.mp4"
        given = ["animate", portrait, heard, "-o", film, "--model", checkpoint, "--device", "cpu"]
        pictures.clear()
        assert cli.main([str(word) for word in [*given, *words]]) == 0
        told = capsys.readouterr()
        return told.out, told.err, b"".join(pictures)

    return animated


def test_a_second_run_takes_its_clips_from_the_users_folder(emo: Animate, tmp_path: Path) -> None:
    out, _, film = emo("--no-clips")
    assert out.rstrip().endswith(", 0 of 3 clips kept from before")
    assert not user_folder().exists()
    out, _, first = emo()
    assert "0 of 3 clips kept" in out and first == film
    assert len(list(user_folder().rglob("*.safetensors"))) == 3
    out, err, second = emo("--json")
    assert json.loads(out)["reused"] == 3 and second == film
    assert "6/6" in err
    out, _, other = emo("--seed", 1)
    assert "0 of 3 clips kept" in out and other != film
    out, _, _ = emo("--cfg", 1.6)
    assert "3 of 3 clips kept" in out, "the checkpoint's own cfg is 1.6"
    for change in (["--cfg", 1.5], ["--audio-cfg", 3], ["--steps", 1], ["--solver", "dpmpp_2m"],
                   ["--speed", 0.5], ["--face-box", "5,5,20,20"]):  # fmt: skip
        assert "0 of 3 clips kept" in emo(*change)[0], change


def test_a_sound_that_changes_later_is_sampled_from_there(
    emo: Animate, sound: Path, tmp_path: Path
) -> None:
    data = bytearray(sound.read_bytes())
    # The last tenth of a second, in frame 8 of 11 and later.
    data[-3200:] = bytes(range(100)) * 32
    changed = tmp_path / "changed.wav"
    changed.write_bytes(data)
    alone = emo("--no-clips", heard=changed)[2]
    before = emo("--clips", tmp_path / "mine")[2]
    out, _, film = emo("--clips", tmp_path / "mine", heard=changed)
    assert "1 of 3 clips kept" in out or "2 of 3 clips kept" in out
    assert film == alone != before
    out, _, back = emo("--clips", tmp_path / "mine")
    assert "3 of 3 clips kept" in out and back == before


def test_ctrl_c_keeps_the_finished_clips_and_says_so(
    checkpoint: Path, portrait: Path, sound: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    request = AnimateRequest(
        portrait, sound, tmp_path / "film.mp4", str(checkpoint), device="cpu",
        clips=tmp_path / "mine",
    )  # fmt: skip
    seen: list[Step] = []

    def stop(step: Step) -> None:
        if step.done == 5:
            raise KeyboardInterrupt

    with caplog.at_level(logging.INFO), pytest.raises(KeyboardInterrupt):
        animate(request, stop)
    said = f"2 of 3 clips are kept in {tmp_path / 'mine'}: the same command goes on from there"
    assert caplog.messages[-1] == said
    (name,) = known_films(tmp_path / "mine")
    unfinished = open_film(tmp_path / "mine", name)
    assert (unfinished.clips, len(unfinished.frames), unfinished.finished) == (2, 8, False)
    assert unfinished.film.notes["steps"] == 2 and sum(unfinished.film.kept) == 11
    assert animate(request, seen.append).reused == 2
    # What was found advances the bar at once, by all steps of a clip.
    assert [step.done for step in seen] == [2, 4, 5, 6]
    assert [step.clip for step in seen] == [1, 2, 3, 3]
    assert [step.found for step in seen] == [2, 4, 4, 4]


def full_disk(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Every new file below a folder fails as on a full disk, which not even root can do for us."""
    opened = Path.open

    def refused(path: Path, *given: object, **named: object) -> object:
        if path.is_relative_to(folder) and given == ("xb",):
            raise OSError(28, "No space left on device")
        return opened(path, *given, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refused)


def test_a_folder_that_takes_nothing_is_one_line(
    emo: Animate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = emo("--no-clips")[2]
    (tmp_path / "a file").write_bytes(b"")
    full_disk(monkeypatch, tmp_path / "full")
    for folder, sentence in (
        (tmp_path / "a file", "cannot be made"),
        (tmp_path / "a file" / "deeper", "cannot be made"),
        (tmp_path / "full", r"(No space left on device)"),
    ):
        out, err, made = emo("--clips", folder)
        assert made == film and "0 of 3 clips kept" in out
        lines = [line for line in err.splitlines() if str(folder) in line]
        assert len(lines) == 1 and sentence in lines[0] and "without keeping" in lines[0]


def test_the_limit_is_kept(emo: Animate, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine = tmp_path / "mine"
    with caplog.at_level(logging.WARNING):
        emo("--clips", mine)
        for path in mine.rglob("*.safetensors"):
            os.utime(path, (time.time() - 1000,) * 2)
        emo("--clips", mine, "--clips-limit", 1e-8, "--seed", 1)
    assert len(list(mine.rglob("*.safetensors"))) == 3, "those of the second film are young"
    assert not caplog.records


@posix
def test_killed_in_the_middle_it_goes_on_to_the_same_film(
    emo: Animate, make_wav: Callable[..., Path], checkpoint: Path, portrait: Path, tmp_path: Path
) -> None:
    sound = make_wav("long.wav", 1, 16000 * 2, 16000)
    steps = ("--steps", 15)
    words = ["animate", portrait, sound, "-o", tmp_path / "killed.mp4", "--model", checkpoint,
             "--device", "cpu", "--clips", tmp_path / "mine", *steps]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "emo_core.cli", *map(str, words)], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 120
    while len(list((tmp_path / "mine").rglob("*.safetensors"))) < 3:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = len(list((tmp_path / "mine").rglob("*.safetensors")))
    assert 3 <= kept < 13 and not (tmp_path / "killed.mp4").exists()
    out, err, film = emo("--clips", tmp_path / "mine", *steps, heard=sound)
    assert f"{kept} of 13 clips kept from before" in out
    assert "damaged" not in err
    assert film == emo("--no-clips", *steps, heard=sound)[2]
