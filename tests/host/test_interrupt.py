"""Stopping a film, and memory that runs out: the next in the queue is made as ever."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from client import Client, Prompt
from comfyui import Server
from prompts import Graph

HELD, CLIPS = 5, 2


def counted_film(
    info: dict[str, Any], file: str, hold_at: int = 0, run_out_at: int = 0, **looper: Any
) -> Prompt:
    """Half a second of film, whose steps are counted in a file: with cfg 1 each is one call."""
    graph = Graph(info)
    graph.talking_portrait(0.5, cfg=1.0, keep_clips=False, joins="plain", **looper)
    loader, film = (
        next(name for name, node in graph.prompt.items() if node["class_type"] == class_type)
        for class_type in ("EMOModelLoader", "MotionFrameLooper")
    )
    counting = graph.add(
        "CountCalls", model=[loader, 0], file=file, hold_at=hold_at, run_out_at=run_out_at
    )
    graph.prompt[film]["inputs"]["model"] = [counting.id, 0]
    return graph.prompt


def calls(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.is_file() else 0


def test_the_step_at_work_is_the_last_and_the_queue_goes_on(
    server: Server, client: Client, object_info: dict[str, Any]
) -> None:
    stopped, behind = (server.folder / "output" / f"{name}.txt" for name in ("stopped", "behind"))
    first = client.queue(counted_film(object_info, stopped.name, HELD, steps=1000))
    second = client.queue(counted_film(object_info, behind.name, steps=3, seed=4))
    until = time.monotonic() + 300
    while calls(stopped) < HELD:
        assert time.monotonic() < until, server.log
        time.sleep(0.02)
    assert client.running()
    client.interrupt()
    run = client.wait(first)
    assert run.interrupted and not run.succeeded
    assert calls(stopped) == HELD
    run = client.wait(second)
    assert run.succeeded, run.error
    assert calls(stopped) == HELD and calls(behind) == 3 * CLIPS
    again = client.run(counted_film(object_info, behind.name, steps=2, seed=5))
    assert again.succeeded, again.error
    assert calls(behind) == 5 * CLIPS


def test_memory_that_runs_out_leaves_the_host_usable(
    server: Server, client: Client, object_info: dict[str, Any]
) -> None:
    short, enough = (server.folder / "output" / f"{name}.txt" for name in ("short", "enough"))
    run = client.run(counted_film(object_info, short.name, run_out_at=3, steps=2))
    assert not run.succeeded and not run.interrupted
    assert run.error_type.endswith("OutOfMemoryError") and "out of memory" in run.error
    assert calls(short) == 3
    again = client.run(counted_film(object_info, enough.name, steps=2))
    assert again.succeeded, again.error
    assert calls(enough) == 2 * CLIPS
