"""Whatever is wired to whatever: it runs, or one sentence says why not, and the server goes on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from client import Client, Refused, Run
from comfyui import PACK, Server
from prompts import Graph
from random_graphs import RandomGraph
from repository import NODE_IDS
from small_checkpoint import save_smallest
from test_errors import assert_one_sentence

MODEL = "smallest-of-random-graphs.safetensors"
RUN_ALWAYS, RUN_SOAKED = 20, 200


@pytest.fixture(scope="module")
def info(server: Server) -> Iterator[dict[str, Any]]:
    """object_info of a server that has the smallest model."""
    file = save_smallest(server.models / "emo" / MODEL, 32)
    yield server.client.object_info()
    file.unlink()


def outcome(client: Client, graph: RandomGraph) -> str:
    """ "ran", "refused" by the host, "said" by us, or "core" for what core's own nodes fail at."""
    try:
        run = client.run(graph.prompt)
    except Refused as refused:
        # Of several inputs the host says a sentence each; its own are not ours to judge.
        assert all("\n" not in said for said in refused.messages), refused.messages
        return "refused"
    if run.succeeded:
        return "ran"
    if not is_ours(run):
        return "core"
    assert run.error_type in ("ValueError", "FileNotFoundError"), (run.error_type, run.error)
    assert_one_sentence(run.error)
    return "said"


def is_ours(run: Run) -> bool:
    """Whether a node of the pack failed, or another one inside of the pack's code."""
    frames = run.messages["execution_error"]["traceback"]
    return run.error_node in NODE_IDS or any(f"/{PACK}/" in frame for frame in frames)


def run_seeds(client: Client, info: dict[str, Any], seeds: range) -> Counter[str]:
    found: Counter[str] = Counter()
    for seed in seeds:
        graph = RandomGraph(info, NODE_IDS & set(info), MODEL, seed)
        try:
            found[outcome(client, graph)] += 1
            assert client.get("/system_stats")  # it lives
        except (AssertionError, TimeoutError, OSError):
            print(f"seed {seed}:\n{json.dumps(graph.prompt, indent=1)}")  # noqa: T201
            raise
    return found


def test_the_same_seed_is_the_same_graph(info: dict[str, Any]) -> None:
    first, again, other = (RandomGraph(info, NODE_IDS, MODEL, seed).prompt for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize(
    "seeds",
    [range(RUN_ALWAYS), pytest.param(range(RUN_ALWAYS, RUN_ALWAYS + RUN_SOAKED),
                                     marks=[pytest.mark.soak, pytest.mark.timeout(3600)])],
    ids=["some", "many"],
)  # fmt: skip
def test_random_graphs_run_or_say_why_not(
    client: Client, server: Server, info: dict[str, Any], seeds: range
) -> None:
    found = run_seeds(client, info, seeds)
    print(dict(found))  # noqa: T201
    assert found["ran"] >= len(seeds) // 10, found
    assert found["ran"] + found["said"] >= len(seeds) // 3, found
    # And the server is as good as new.
    graph = Graph(info)
    graph.talking_portrait(0.1, steps=1)
    run = client.run(graph.prompt)
    assert run.succeeded, run.error
