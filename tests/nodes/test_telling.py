"""What the looper says while it runs: in the node, and in the log."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from small_film import CLIP, Small, open_small, save_model

FRAMES = 3 * CLIP + 1
TIME = r"(, about \d+:\d\d left)?"


@pytest.fixture(scope="module")
def small(pack: Any, run: Any, tmp_path_factory: Any) -> Small:
    return open_small(pack, run, save_model(tmp_path_factory.mktemp("model") / "a.safetensors"))


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """Node and text of everything that the host's server was asked to show."""
    texts: list[tuple[str, str]] = []
    instance = SimpleNamespace(send_progress_text=lambda text, node: texts.append((node, text)))
    server = SimpleNamespace(PromptServer=SimpleNamespace(instance=instance))
    monkeypatch.setitem(sys.modules, "server", server)  # type: ignore[arg-type]
    with import_module("comfy_execution.utils").CurrentNodeContext("prompt", "17"):
        yield texts


def free(small: Small, monkeypatch: pytest.MonkeyPatch, device: int) -> None:
    monkeypatch.setattr(small.part("telling"), "free_memory", lambda _: device)


def test_the_node_shows_the_forecast_and_every_clip(
    small: Small, shown: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    audio = small.inputs(FRAMES)["audio_embedding"]
    small.film(audio_embedding={**audio, "features": audio["features"][: CLIP + 3]})
    shown.clear()
    with caplog.at_level(logging.INFO):
        small.film(frames=FRAMES)
    nodes, texts = {node for node, _ in shown}, [text for _, text in shown]
    assert nodes == {"17"}
    assert texts[0].startswith("3 of 4 clips are to be sampled, which needs ")
    assert texts[0] in caplog.text
    lines = ["clip 2 of 4, 0:00.16-0:00.32", "clip 3 of 4, 0:00.32-0:00.48",
             "clip 4 of 4, 0:00.48-0:00.52"]  # fmt: skip
    # One when the clip begins, and one after each of two steps.
    wanted = [line for line in lines for _ in range(3)]
    assert len(texts) == 1 + len(wanted)
    for line, text in zip(wanted, texts[1:], strict=True):
        assert re.fullmatch(re.escape(f"{line}, 1 from cache") + TIME, text)
    # Before the second step nothing is known: the first one loads the networks.
    assert all(text.endswith("cache") for text in texts[1:3])
    assert all("about" in text for text in texts[3:])
    assert texts[-1].endswith("about 0:00 left")


def test_nothing_is_forecast_for_a_film_that_is_there(
    small: Small, shown: list[tuple[str, str]]
) -> None:
    small.film(frames=FRAMES)
    small.clip(0, frames=FRAMES)
    shown.clear()
    small.film(frames=FRAMES)
    small.clip(0, frames=FRAMES)
    assert shown == []


def test_without_a_server_nothing_is_shown_and_nothing_fails(small: Small) -> None:
    assert "server" not in sys.modules
    small.film(frames=CLIP, keep_clips=False)


def test_what_does_not_fit_is_said_and_the_film_is_made(
    small: Small, shown: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    free(small, monkeypatch, device=1000)
    node = small.pack.MotionFrameLooper.PREPARE_CLASS_CLONE({})
    given = {"steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple"}
    for keep, more in ((True, 1), (False, 2)):
        shown.clear()
        out = node.execute(**given, **small.inputs(CLIP + 1), keep_clips=keep)
        said = str(out.ui.as_dict()["text"][0]).splitlines()
        assert said[0] == "2 clips: 0 from cache, 2 sampled" and len(said) == 1 + more
        assert "beside the weights and 1 KB are free; set cfg to 1" in said[1]
        assert more == 1 or "turn keep_clips on" in said[2]
        assert all(text.splitlines()[1:] == said[1:] for _, text in shown)
        assert said[1] in caplog.text
    # The networks are asked for as many branches as there are.
    free(small, monkeypatch, device=10**12)
    needs = []
    for cfg in (1.0, 2.0):
        shown.clear()
        node.execute(**{**given, "cfg": cfg}, **small.inputs(CLIP), keep_clips=False)
        assert len(shown[0][1].splitlines()) == 1
        (size,) = re.findall(r"activations (\d+) KB", shown[0][1])
        needs.append(int(size))
    assert 1.5 < needs[1] / needs[0] < 2.5


def test_a_guider_of_three_branches_needs_more(small: Small, shown: list[tuple[str, str]]) -> None:
    model, positive, *_ = small.conditioning(0)
    (guider,) = small.run(small.pack.EMOGuider, model=model, positive=positive, audio_cfg=3.0)
    sizes = []
    for given in ({}, {"guider": guider}):
        shown.clear()
        small.film(frames=CLIP, keep_clips=False, **given)
        sizes.append(int(re.findall(r"activations (\d+) KB", shown[0][1])[0]))
    assert 1.2 < sizes[1] / sizes[0] < 1.8
