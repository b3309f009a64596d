"""A server that dies in the middle of a film: the next one goes on with the clips that are kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from client import Prompt, Run
from comfyui import Server
from prompts import Graph
from safetensors.torch import load_file

SECONDS, CLIPS, STEPS = 1.8, 4, 12
"""45 frames of emo-tiny, which are four clips of 12; steps enough to be quicker than the film."""


@pytest.fixture
def start(comfyui: Path, tmp_path: Path) -> Iterator[Callable[[], Server]]:
    """Starts servers, one after the other, in the same folder."""
    started: list[Server] = []

    def ready() -> Server:
        started.append(Server(comfyui, tmp_path / "comfyui"))
        started[-1].wait_until_ready()
        return started[-1]

    yield ready
    for server in started:
        server.stop()


def film_prompt(info: dict[str, Any], name: str, **looper: Any) -> Prompt:
    """A film whose latents core's Save Latent writes; nothing is decoded."""
    graph = Graph(info)
    graph.talking_portrait(SECONDS, steps=STEPS, **looper)
    prompt = {
        node_id: node
        for node_id, node in graph.prompt.items()
        if node["class_type"] not in ("EMODecodeVideo", "SaveVideo")
    }
    given = {"samples": [looper_of(prompt), 0], "filename_prefix": name}
    return {**prompt, "99": {"class_type": "SaveLatent", "inputs": given}}


def looper_of(prompt: Prompt) -> str:
    (found,) = (name for name, node in prompt.items() if node["class_type"] == "MotionFrameLooper")
    return found


def text_of(run: Run, prompt: Prompt) -> str:
    """What the looper shows."""
    assert run.succeeded, f"{run.error_node}: {run.error}"
    return str(run.outputs[looper_of(prompt)]["text"][0])


def latents(server: Server, name: str) -> torch.Tensor:
    (file,) = (server.folder / "output").glob(f"{name}_*.latent")
    return load_file(file)["latent_tensor"]


def test_a_killed_servers_clips_are_not_sampled_again(start: Callable[[], Server]) -> None:
    first = start()
    prompt = film_prompt(first.client.object_info(), "again")
    first.client.queue(prompt)
    clips, until = first.folder / "output" / "emo_clips", time.monotonic() + 300
    while len(list(clips.rglob("*.safetensors"))) < 2:
        assert time.monotonic() < until, first.log
        time.sleep(0.02)
    first.kill()
    kept = len(list(clips.rglob("*.safetensors")))
    assert 2 <= kept < CLIPS
    second = start()
    again = second.client.run(prompt)
    assert text_of(again, prompt) == f"{CLIPS} clips, {kept} from cache"
    assert f"clip {CLIPS} of {CLIPS}, 0:01.44-0:01.80, {kept} from cache" in second.log
    assert f"clip {kept} of" not in second.log
    alone = film_prompt(second.client.object_info(), "alone", keep_clips=False)
    assert text_of(second.client.run(alone), alone) == f"{CLIPS} clips, 0 from cache"
    film = latents(second, "again")
    assert len(film) == 45 and torch.equal(film, latents(second, "alone"))
