"""Films in a store are known by name from their first clip on, and open at any moment."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import pytest
import torch

from emo_core import films
from emo_core.clip_keys import FilmTracks
from emo_core.clips import ClipPlan, plan_clips
from emo_core.films import FilmFacts, clips_there, open_film
from emo_core.kept import KeptClips
from emo_core.store import ClipStore, known_films

LENGTH, COUNT = 4, 18
FACTS = FilmFacts("emo-tiny", Fraction(25), 4, 0.5, {"seed": 7})


def latents(index: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(index)
    return torch.randn(LENGTH, 4, 8, 8, generator=generator)


def kept_clips(folder: Path, seed: int = 0) -> KeptClips:
    audio = torch.arange(COUNT * 2.0).reshape(COUNT, 1, 2)
    tracks = FilmTracks(audio, audio_window=1, clip_length=LENGTH, seed=seed)
    return KeptClips(ClipStore(folder, 1 << 30), "constants", tracks)


def make(folder: Path, clips: int, seed: int = 0, plans: list[ClipPlan] | None = None) -> int:
    """Sample a number of clips, as generate() would; gives how many were there before."""
    kept, plans = kept_clips(folder, seed), plans or list(plan_clips(COUNT, LENGTH))
    there = kept.expect(plans, FACTS)
    for plan in islice(plans, clips):
        if kept.get(plan) is None:
            kept.put(plan, latents(plan.index))
    return there


def film_of(plans: Iterator[ClipPlan]) -> torch.Tensor:
    return torch.cat([latents(plan.index)[: plan.kept] for plan in plans])


def test_a_film_is_known_from_its_first_clip_on(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    assert known_films(folder) == [] and not folder.exists()
    assert make(folder, 0) == 0 and known_films(folder) == []
    for clips in (1, 2, 5):
        assert make(folder, clips) == max(0, {1: 0, 2: 1, 5: 2}[clips])
        (name,) = known_films(folder)
        assert re.fullmatch(r"emo-tiny_\d{4}-\d\d-\d\d_\d\d-\d\d_1s_seed7_[0-9a-f]{12}", name)
        assert clips_there(folder, name) == clips
        opened = open_film(folder, name)
        assert torch.equal(opened.frames, film_of(islice(plan_clips(COUNT, LENGTH), clips)))
        assert (opened.clips, opened.finished) == (clips, clips == 5)
        film = opened.film
        assert (sum(film.kept), film.frame_rate, film.channels, film.scale) == (18, "25", 4, 0.5)
        assert film.notes == {"model": "emo-tiny", "seed": 7}


def test_the_same_film_keeps_its_name_and_another_gets_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, 1)
    (first,) = known_films(tmp_path)
    later = films.time.time() + 86400
    monkeypatch.setattr(films.time, "time", lambda: later)
    make(tmp_path, 3)
    assert known_films(tmp_path) == [first]
    make(tmp_path, 1, seed=1)
    assert len(known_films(tmp_path)) == 2
    # Cut earlier in its last clip, it has the same keys and is another film.
    shorter = list(plan_clips(COUNT - 1, LENGTH))
    make(tmp_path, 1, plans=shorter)
    assert len(known_films(tmp_path)) == 3


def test_clips_of_other_lengths_than_the_sampled(tmp_path: Path) -> None:
    """Where joins are placed in silence, any clip may keep fewer frames."""
    plans = [ClipPlan(0, 0, 3), ClipPlan(1, 3, 4), ClipPlan(2, 7, 1), ClipPlan(3, 8, 2)]
    make(tmp_path, 3, plans=plans)
    opened = open_film(tmp_path, known_films(tmp_path)[0])
    assert torch.equal(opened.frames, film_of(iter(plans[:3]))) and len(opened.frames) == 8


def test_a_film_of_one_clip_by_hand_is_no_film(tmp_path: Path) -> None:
    kept, plan = kept_clips(tmp_path), ClipPlan(1, LENGTH, LENGTH)
    assert kept.get(plan) is None
    kept.put(plan, latents(1))
    assert known_films(tmp_path) == []


def test_a_damaged_clip_ends_the_film_before_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, 5)
    (name,) = known_films(tmp_path)
    film = open_film(tmp_path, name).film
    path = tmp_path / film.keys[2][:2] / f"{film.keys[2]}.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert clips_there(tmp_path, name) == 5
    with caplog.at_level(logging.WARNING):
        opened = open_film(tmp_path, name)
    assert opened.clips == 2 and not opened.finished and path.name in caplog.text
    assert clips_there(tmp_path, name) == 2


def test_films_that_are_gone_are_a_sentence(tmp_path: Path) -> None:
    make(tmp_path, 2)
    (name,) = known_films(tmp_path)
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
    assert clips_there(tmp_path, name) == 0
    with pytest.raises(ValueError, match=r"no clip of the film .* choose another"):
        open_film(tmp_path, name)
    for path in tmp_path.rglob("*.json"):
        path.unlink()
    for gone in (name, "none", "../x", "", "con"):
        assert clips_there(tmp_path, gone) is None
        with pytest.raises(ValueError, match=r"is not in .* any more; choose another"):
            open_film(tmp_path, gone)
    with pytest.raises(ValueError, match="is not in"):
        open_film(tmp_path / "nowhere", name)
    assert not (tmp_path / "nowhere").exists()


def test_a_film_stays_as_long_as_its_clips_are_used(tmp_path: Path) -> None:
    """Its file is written once; without a note of use it would be the first to be evicted."""
    make(tmp_path, 1)
    (path,) = (tmp_path / "films").glob("film-*.json")
    content = path.read_bytes()
    then = path.stat().st_mtime - 5000
    os.utime(path, (then, then))
    make(tmp_path, 3)
    assert path.stat().st_mtime > then + 1000 and path.read_bytes() == content


def test_a_folder_that_takes_no_film_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file stands where the folder of films would be made."""
    (tmp_path / "films").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        make(tmp_path, 5)
    assert len(caplog.records) == 1 and "without keeping its clips" in caplog.text
    assert known_films(tmp_path) == []
