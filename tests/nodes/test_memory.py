"""Memory does not grow with a film's length: bytes of tensors that live, counted."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from small_film import CLIP, LATENT, Small, open_small, save_model

from emo_core.live_bytes import LiveBytes
from emo_core.store import known_films

SHORT, LONG = 4 * CLIP, 40 * CLIP
FRAME = 4 * 4 * 4 * 4


@pytest.fixture(scope="module")
def small(pack: Any, run: Any, tmp_path_factory: Any) -> Small:
    return open_small(pack, run, save_model(tmp_path_factory.mktemp("model") / "a.safetensors"))


@pytest.fixture(autouse=True)
def little_memory(pack: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two clips of this size are a long film."""
    spool = import_module("emo_pack.emo_core.spool").Spool
    monkeypatch.setattr(spool.__init__, "__defaults__", (2 * CLIP * FRAME,))
    monkeypatch.setattr(import_module("emo_pack.emo_core.finite"), "_PIECE_ITEMS", 64)
    monkeypatch.setattr(import_module("folder_paths"), "temp_directory", str(tmp_path / "temp"))


def peak(work: Callable[[], object]) -> int:
    """The most bytes of tensors that the work makes and holds at once."""
    gc.collect()
    with LiveBytes() as live:
        kept = work()
    del kept
    return live.peak


def film(small: Small, inputs: dict[str, Any], **other: Any) -> torch.Tensor:
    looper = small.pack.MotionFrameLooper
    latent, _ = small.run(looper, steps=1, **inputs, **other)
    samples: torch.Tensor = latent["samples"]
    return samples


def decoded(small: Small, **inputs: Any) -> Any:
    (video,) = small.run(small.pack.EMODecodeVideo, vae=small.vae, clip_frames=CLIP, **inputs)
    return video


def test_a_film_ten_times_as_long_needs_no_more(small: Small, output_folder: Path) -> None:
    brief, short, long = (small.inputs(frames) for frames in (CLIP, SHORT, LONG))
    film(small, brief)  # what is made once
    sampled = [peak(partial(film, small, inputs)) for inputs in (short, long)]
    assert sampled[1] < 1.05 * sampled[0]
    found = [peak(partial(film, small, inputs)) for inputs in (short, long)]
    # The head speed is a number a frame; all else that finding needs is one clip's.
    assert found[1] < found[0] + 5 * (LONG - SHORT) < sampled[0] / 10
    # The count sees what grows where nothing is kept.
    alone: list[torch.Tensor] = []

    def unkept(inputs: dict[str, Any]) -> None:
        alone.append(film(small, inputs, keep_clips=False))

    plain = [peak(partial(unkept, inputs)) for inputs in (short, long)]
    assert plain[1] > plain[0] + (LONG - SHORT) * FRAME
    latents = film(small, long)
    assert latents.shape == (LONG, *LATENT) and torch.equal(latents, alone[1])


def test_decoding_a_film_ten_times_as_long_needs_no_more(small: Small, output_folder: Path) -> None:
    latents = [film(small, small.inputs(frames)) for frames in (SHORT, LONG)]
    names = known_films(output_folder / "emo_clips")
    kept = [next(name for name in names if f"_{seconds}s_" in name) for seconds in (1, 6)]
    decoded(small, latent={"samples": latents[0]})
    given = [{"samples": samples} for samples in latents]
    by_latent = [peak(partial(decoded, small, latent=latent)) for latent in given]
    assert by_latent[1] < 1.05 * by_latent[0]
    from_store = [peak(partial(decoded, small, kept_film=name)) for name in kept]
    assert from_store[1] < 1.05 * from_store[0]
