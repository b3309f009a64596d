"""An hour's frames at the tiny size: by counts no clip costs more than the first; none is sampled.

Times are in the log: -o log_cli=true -o log_cli_level=INFO.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_checkpoint import smallest_config
from small_film import LATENT, Small, open_small, save_model

from emo_core.clips import plan_clips
from emo_core.live_bytes import LiveBytes

logger = logging.getLogger(__name__)

FRAMES, LENGTH, CLIPS = 90_000, 12, 7_500


@pytest.fixture(scope="module")
def small(pack: Any, run: Any, tmp_path_factory: Any) -> Small:
    config = smallest_config()
    longer = replace(config, temporal=replace(config.temporal, num_frames=LENGTH, max_positions=16))
    return open_small(pack, run, save_model(tmp_path_factory.mktemp("m") / "a.safetensors", longer))


class Counts:
    """What has been done so far, and how far it was whenever a mark was made."""

    def __init__(self) -> None:
        self.now = {"hashed": 0, "read": 0, "listed": 0}
        self.marks: list[dict[str, int]] = []
        self.times: list[float] = []

    def mark(self) -> None:
        self.marks.append(dict(self.now))
        self.times.append(time.process_time())

    def last_over_first(self, name: str) -> float:
        """The work of the last 100 clips over that of the first."""
        at = [mark[name] for mark in self.marks]
        first = at[100] - at[0]
        return (at[-1] - at[-101]) / first if first else float(at[-1] != at[0])


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Counts of bytes that are hashed and read, and of folders that are listed."""
    counted = Counts()
    keys = import_module("emo_pack.emo_core.clip_keys")
    sha256, scandir, read_bytes = keys.hashlib.sha256, os.scandir, Path.read_bytes

    def counting() -> Any:
        found = sha256()

        def update(data: Any) -> None:
            counted.now["hashed"] += len(data)
            found.update(data)

        return SimpleNamespace(update=update, hexdigest=found.hexdigest)

    def reading(path: Path) -> bytes:
        data = read_bytes(path)
        counted.now["read"] += len(data)
        return data

    def listing(*given: Any) -> Any:
        counted.now["listed"] += 1
        return scandir(*given)

    monkeypatch.setattr(keys, "hashlib", SimpleNamespace(sha256=counting))
    monkeypatch.setattr(Path, "read_bytes", reading)
    monkeypatch.setattr(os, "scandir", listing)
    return counted


def marking(counts: Counts, place: Any, name: str, patch: pytest.MonkeyPatch) -> None:
    """Make a mark at every call of a function."""
    call = getattr(place, name)

    def marked(*args: Any, **given: Any) -> Any:
        counts.mark()
        return call(*args, **given)

    patch.setattr(place, name, marked)


def no_clip_costs_more(counts: Counts, what: str) -> None:
    """Forget the marks of one part of the work after judging them."""
    counts.mark()
    assert len(counts.marks) == CLIPS + 1
    ratios = {name: counts.last_over_first(name) for name in counts.now}
    assert all(ratio <= 1.05 for ratio in ratios.values()), f"{what}: {ratios}"
    # Not with what follows the last clip, such as the one look for all of them.
    first, last = counts.times[99] - counts.times[0], counts.times[-2] - counts.times[-101]
    logger.info(
        "%s: 99 clips at the begin %.0f ms, at the end %.0f ms", what, first * 1e3, last * 1e3
    )
    counts.marks.clear()
    counts.times.clear()


@pytest.mark.timeout(900)
def test_no_clip_of_an_hour_costs_more_than_the_first(
    small: Small, counts: Counts, output_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plan and keys, clips that are put, clips that are found, and the frames that are decoded."""
    keeping, output = small.part("keeping"), small.part("output")
    settings = small.part("clip_sampler").Settings(1, 2.0, "euler", "simple")
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the disk's time is not the question
    given = small.inputs(FRAMES)
    inputs = small.part("film").Inputs(
        given["model"], given["reference"], given["audio_embedding"], None, given["speed"], None,
        None, None, given["seed"],
    )  # fmt: skip
    _, film = small.part("film").film_of(inputs)
    kept, _ = keeping.kept_clips(inputs, settings, film, lambda plan: None)
    plans = list(plan_clips(FRAMES, LENGTH))
    with monkeypatch.context() as patch:
        marking(counts, import_module("emo_pack.emo_core.clip_keys"), "clip_key", patch)
        assert kept.expect(plans, keeping.facts_of(small.model)) == 0
    no_clip_costs_more(counts, "keys")
    latents = torch.randn(LENGTH, *LATENT)
    for plan in plans:
        counts.mark()
        assert kept.get(plan) is None
        kept.put(plan, latents + plan.index)
    no_clip_costs_more(counts, "clips put")
    with monkeypatch.context() as patch:
        marking(counts, import_module("emo_pack.emo_core.store").ClipStore, "get", patch)
        samples = small.run(small.pack.MotionFrameLooper, steps=1, cfg=2.0, **given)[0]["samples"]
    no_clip_costs_more(counts, "clips found")
    assert samples.shape == (FRAMES, *LATENT)
    assert all(
        torch.equal(samples[k * LENGTH : (k + 1) * LENGTH], latents + k) for k in (0, 77, CLIPS - 1)
    )
    vae = SimpleNamespace(latent_channels=4, decode=lambda piece: piece.movedim(1, -1)[..., :3])
    with LiveBytes() as live:
        for index, pictures in enumerate(output._decoded(vae, samples, LENGTH)):
            counts.mark()
            assert len(pictures) == LENGTH
            if index == 100:
                early = live.peak
    no_clip_costs_more(counts, "clips decoded")
    assert live.peak == early
    assert counts.now["listed"] < 1000, "the folders were listed a few times, not for every clip"


def test_after_a_change_from_second_forty_on_the_rest_is_sampled(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame hears one frame ahead, so clip 83, whose last frame is 1007, is the first to hear."""
    sampled: list[int] = []
    kind = small.part("clip_sampler").ClipSampler
    call = kind.__call__

    def counted(self: Any, conditions: Any, noise: Any, plan: Any) -> Any:
        sampled.append(plan.index)
        return call(self, conditions, noise, plan)

    monkeypatch.setattr(kind, "__call__", counted)
    audio = small.inputs(42 * 25)["audio_embedding"]
    features = audio["features"].clone()
    features[40 * 25 :] += 1
    films, said = [], []
    for heard in (audio, {**audio, "features": features}, audio):
        sampled.clear()
        films.append(small.film(audio_embedding=heard, steps=1)[0])
        said.append(list(sampled))
    assert said == [list(range(88)), list(range(83, 88)), []]
    assert torch.equal(films[0], films[2]) and len(films[0]) == 1050
    assert torch.equal(films[0][: 83 * 12], films[1][: 83 * 12])
    assert not torch.equal(films[0][83 * 12 :], films[1][83 * 12 :])
