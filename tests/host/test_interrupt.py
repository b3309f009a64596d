"""Stopping a film: it ends at once, and the server goes on as before."""

from __future__ import annotations

import time
from typing import Any

import pytest
from client import Client, Prompt
from prompts import Graph


@pytest.fixture
def prompt(object_info: dict[str, Any]) -> Prompt:
    """Half a second of film, one step a clip."""
    graph = Graph(object_info)
    graph.talking_portrait(0.5, steps=1)
    return graph.prompt


def test_an_interruption_ends_within_a_step_and_leaves_the_server_usable(
    client: Client, prompt: Prompt
) -> None:
    looper = next(node for node in prompt.values() if node["class_type"] == "MotionFrameLooper")
    first = client.run(prompt)
    assert first.succeeded, first.error
    looper["inputs"]["steps"] = 1000  # minutes; what comes before the looper is cached
    queued = client.queue(prompt)
    looper["inputs"].update(steps=1, seed=4)
    waiting = client.queue(prompt)
    time.sleep(3)
    assert client.running()
    client.interrupt()
    asked = time.monotonic()
    stopped = client.wait(queued)
    assert stopped.interrupted and not stopped.succeeded
    # A step takes 0.1 s on an idle machine; a film of 1000 steps a clip, minutes.
    assert time.monotonic() - asked < 60
    behind = client.wait(waiting)
    assert behind.succeeded, behind.error
    looper["inputs"].update(steps=1, seed=5)
    again = client.run(prompt)
    assert again.succeeded, again.error
