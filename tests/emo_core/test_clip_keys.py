"""Clip keys: equal where clips are equal, different where anything differs, and nowhere else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from emo_core import clip_keys as module
from emo_core.audio_tokens import window_features
from emo_core.clip_keys import (
    FilmConstants,
    FilmTracks,
    clip_keys,
    digest,
    file_digest,
    film_key,
)
from emo_core.clips import ClipPlan, plan_clips
from emo_core.speed import speed_windows

ROOT = Path(__file__).parents[2]
LENGTH, WINDOW, FRAMES = 12, 2, 60


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def constants() -> FilmConstants:
    return FilmConstants(
        model="3f", portrait=draw(1, 4, 8, 8, seed=1), region=torch.ones(1, 64, 64),
        sampler={"name": "euler", "sigmas": draw(7, seed=2), "guidance_scale": 2.0},
        noise="clip_noise", dtype=torch.float32, hand_over="latents",
    )  # fmt: skip


def tracks(frames: int = FRAMES) -> FilmTracks:
    return FilmTracks(
        audio=draw(500, 4, 8, seed=3)[:frames], audio_window=WINDOW, clip_length=LENGTH, seed=7,
        speed=draw(500, seed=4)[:frames].abs(), speed_window=1,
    )  # fmt: skip


def keys(of: FilmTracks, film: str = "0", motion: torch.Tensor | None = None) -> list[str]:
    return list(clip_keys(film, of, plan_clips(len(of.audio), of.clip_length), motion))


def first_difference(one: list[str], other: list[str]) -> int:
    return next((k for k, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))


def test_keys_are_distinct_hexadecimal_and_the_same_every_time() -> None:
    film = film_key(constants())
    found = keys(tracks(), film)
    assert len(set(found)) == len(found) == 5
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in found)
    assert film_key(constants()) == film and keys(tracks(), film) == found


def test_another_process_gives_the_same_digest() -> None:
    """No order of hashing and no address enters."""
    code = (
        "import torch; from emo_core.clip_keys import digest; "
        "print(digest({'b': [1, 2.5, None, True, 'x'], 'a': torch.arange(6.0).reshape(2, 3)}))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    here = digest({"a": torch.arange(6.0).reshape(2, 3), "b": (1, 2.5, None, True, "x")})
    assert out.stdout.strip() == here
    # Written down: a change of it throws every store away and must be meant.
    assert here == "9daefcf233afb9e000e49fae7b043be51c48d074389940b01edd114f8cd2c163"


@pytest.mark.parametrize("changed", range(FRAMES))
def test_a_change_of_the_sound_reaches_the_clips_from_the_first_that_sees_it(changed: int) -> None:
    before = tracks()
    audio = before.audio.clone()
    audio[changed:] += 1
    after = replace(before, audio=audio)
    seen = [
        not torch.equal(
            window_features(before.audio, plan.first, LENGTH, WINDOW),
            window_features(audio, plan.first, LENGTH, WINDOW),
        )
        for plan in plan_clips(FRAMES, LENGTH)
    ]
    assert first_difference(keys(before), keys(after)) == seen.index(True)
    assert keys(replace(after, audio=before.audio.clone())) == keys(before)


@pytest.mark.parametrize("changed", [0, 11, 12, 13, 40, FRAMES - 1])
def test_a_change_of_the_speed_reaches_the_clips_from_the_first_that_sees_it(changed: int) -> None:
    before = tracks()
    assert before.speed is not None
    speed = before.speed.clone()
    speed[changed:] += 1
    seen = [
        not torch.equal(
            speed_windows(before.speed, plan.first, LENGTH, 1),
            speed_windows(speed, plan.first, LENGTH, 1),
        )
        for plan in plan_clips(FRAMES, LENGTH)
    ]
    assert first_difference(keys(before), keys(replace(before, speed=speed))) == seen.index(True)


@pytest.mark.parametrize("changed", [0, 11, 12, 59])
def test_a_moving_region_is_seen_in_the_clips_own_frames(changed: int) -> None:
    region = torch.zeros(FRAMES, 1, 4, 4)
    other = region.clone()
    other[changed:] = 1
    one, two = (replace(tracks(), frames={"region": track}) for track in (region, other))
    assert first_difference(keys(one), keys(two)) == changed // LENGTH
    assert keys(one)[0] != keys(tracks())[0]


def test_a_change_in_the_middle_alone_changes_all_that_follows() -> None:
    """The clips after it see its last frames."""
    before = tracks()
    audio = before.audio.clone()
    audio[30] += 1
    after = keys(replace(before, audio=audio))
    assert [a == b for a, b in zip(keys(before), after, strict=True)] == [True] * 2 + [False] * 3


@pytest.mark.parametrize("frames", [50, 55, 59])
def test_how_many_frames_are_kept_is_no_part_of_a_key(frames: int) -> None:
    whole, shorter = (ClipPlan(1, 12, kept) for kept in (12, 5))
    assert module.clip_key("0", tracks(), whole, None) == module.clip_key(
        "0", tracks(), shorter, None
    )
    # The end of the sound is held, so the last clip of a shorter film hears something else.
    assert first_difference(keys(tracks(frames)), keys(tracks())) == 4


def test_a_short_film_is_the_beginning_of_a_long_one() -> None:
    assert keys(tracks(40))[:3] == keys(tracks(200))[:3]


def test_what_is_held_at_the_end_is_not_what_follows() -> None:
    """A film that ends in a held frame equals one that has that frame again and again."""
    short = tracks(50)
    held = torch.cat([short.audio, short.audio[-1:].repeat(10, 1, 1)])
    speed = torch.cat([short.speed, short.speed[-1:].repeat(10)])
    assert keys(replace(short, audio=held, speed=speed)) == keys(short)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "40"}, {"portrait": draw(1, 4, 8, 8, seed=9)}, {"region": torch.zeros(1, 64, 64)},
        {"sampler": {"name": "heun", "sigmas": draw(7, seed=2), "guidance_scale": 2.0}},
        {"sampler": {"name": "euler", "sigmas": draw(7, seed=9), "guidance_scale": 2.0}},
        {"noise": "core"}, {"dtype": torch.float16}, {"hand_over": "pixels 12"},
        {"patches": {"lora": draw(2, 2)}}, {"extra": {"lock": "weak"}},
        {"portrait": draw(1, 4, 8, 8, seed=1).double()}, {"region": torch.ones(1, 128, 32)},
    ],
)  # fmt: skip
def test_every_constant_of_a_film_counts(change: dict[str, object]) -> None:
    assert film_key(replace(constants(), **change)) != film_key(constants())


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8}, {"speed": None}, {"audio_window": 3}, {"speed_window": 2}, {"clip_length": 10},
        {"audio": draw(500, 4, 8, seed=3)[:FRAMES].half()}, {"frames": {"x": torch.zeros(FRAMES)}},
    ],
)  # fmt: skip
def test_every_track_of_a_film_counts(change: dict[str, object]) -> None:
    assert keys(replace(tracks(), **change))[0] != keys(tracks())[0]


def test_the_film_and_given_motion_frames_reach_every_clip() -> None:
    plain, motion = keys(tracks()), draw(1, 4, 4, 8, 8)
    for other in (keys(tracks(), "1"), keys(tracks(), "0", motion)):
        assert not set(other) & set(plain)
    assert keys(tracks(), "0", motion.clone()) == keys(tracks(), "0", motion)
    assert keys(tracks(), "0", motion + 1) != keys(tracks(), "0", motion)


def test_going_on_from_a_clip_gives_the_keys_of_the_undivided_film() -> None:
    """With the key of the clip before it; given motion frames begin a chain of their own."""
    found, previous = keys(tracks()), keys(tracks())[1]
    for plan in list(plan_clips(FRAMES, LENGTH))[2:]:
        previous = module.clip_key("0", tracks(), plan, previous)
        assert previous == found[plan.index]


def test_a_nonce_and_the_version_of_the_code_count(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, first, second = (film_key(constants(), nonce) for nonce in (None, "a", "b"))
    assert len({plain, first, second}) == 3 and film_key(constants(), "a") == first
    monkeypatch.setattr(module, "CODE_VERSION", module.CODE_VERSION + 1)
    assert film_key(constants()) != plain


ALIKE = [
    None, True, False, 0, 1, 1.0, -0.0, 0.0, "", "1", "None", b"1", [], {}, [1], [[1]], [1, 1],
    [11], ["1"], ["a", "b"], ["ab"], [["a"], "b"], ["a", ["b"]], {"a": 1}, {"a": {"b": 1}},
    {"b": 1}, {"a": "b"}, ["a", 1], float("inf"), float("nan"), 2**80, torch.float16,
    "torch.float16", torch.tensor(1), torch.tensor([1]), torch.tensor([[1]]), torch.tensor([1.0]),
    torch.zeros(0), torch.zeros(0, 2), torch.zeros(2), torch.zeros(4, dtype=torch.float16),
    torch.tensor(True), torch.zeros(4, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.complex64),
    "\ud800", "\u00e4",
]  # fmt: skip


def test_no_two_values_have_one_digest() -> None:
    assert len({digest(value) for value in ALIKE}) == len(ALIKE)


def test_a_tensors_layout_does_not_count() -> None:
    one = draw(6, 4)
    assert digest(one) == digest(one.T.contiguous().T) == digest(torch.cat([one, one])[:6])
    twisted = torch.complex(one, one).conj()
    assert digest(twisted) == digest(twisted.resolve_conj())
    assert digest(one.clone().requires_grad_()) == digest(one)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"options": {"function": len}}, r"builtin_function_or_method at value\.options\.function"),
        ([1, {2, 3}], r"set at value\[1\]"),
        (Fraction(1, 2), "Fraction at value has no digest"),
        ({"a": {1: 2}}, r"names that are text in value\.a"),
        ({"t": torch.zeros(2, device="meta")}, r"tensor at value\.t is sparse, quantized or"),
        (torch.eye(2).to_sparse(), "give a dense one"),
    ],
)
def test_what_has_no_digest_is_named_by_its_place(value: object, where: str) -> None:
    with pytest.raises(ValueError, match=where):
        digest(value)
    with pytest.raises(ValueError, match="has no digest"):
        film_key(replace(constants(), sampler={"options": {"callback": print}}))


def test_one_byte_of_a_file_changes_its_digest(tmp_path: Path) -> None:
    path, content = tmp_path / "w", bytearray(3 * 2**20 + 5)
    path.write_bytes(content)
    before = file_digest(path)
    content[2**21 + 1] = 1
    path.write_bytes(content)
    assert file_digest(path) != before and len(before) == 64
    with pytest.raises(FileNotFoundError):
        file_digest(tmp_path / "missing")


def test_a_clip_late_in_a_film_of_hours_looks_at_no_more_than_an_early_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count = 0
    sha256 = module.hashlib.sha256

    class Counted:
        def __init__(self) -> None:
            self.sum = sha256()

        def update(self, data: bytes) -> None:
            nonlocal count
            count += memoryview(data).nbytes
            self.sum.update(data)

        def hexdigest(self) -> str:
            return str(self.sum.hexdigest())

    monkeypatch.setattr(module.hashlib, "sha256", Counted)
    long = replace(tracks(), audio=draw(90_000, 1, 2), speed=draw(90_000))
    counts = []
    for _ in clip_keys("0", long, plan_clips(90_000, LENGTH)):
        counts.append(count)
        count = 0
    assert len(counts) == 7500
    # Only the digits of seeds and lengths differ.
    assert sum(counts[-101:-1]) <= 1.05 * sum(counts[1:101])
