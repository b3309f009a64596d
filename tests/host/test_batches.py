"""Several films in one queue: what depends on nothing new is not made again, and none mixes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from client import Client, Prompt
from comfyui import Server
from prompts import Graph, Node
from safetensors.torch import load_file
from small_checkpoint import save_smallest

MODEL = "smallest-of-batches.safetensors"
Films = Callable[..., list[torch.Tensor]]


@pytest.fixture(scope="module")
def info(server: Server) -> Iterator[dict[str, Any]]:
    """object_info of a server that has the smallest model."""
    file = save_smallest(server.models / "emo" / MODEL, 32)
    yield server.client.object_info()
    file.unlink()


def film(graph: Graph, portrait: Node, name: str, seed: int) -> None:
    """The latents of a film of three clips, written by core's Save Latent."""
    loader = graph.add("EMOModelLoader", model_name=MODEL)
    heard = graph.add("LoadAudioEmbedding", graph.add("EMOExampleInputs"), loader, duration=0.4)
    reference = graph.add("ReferenceNetEncode", portrait, loader)
    looper = graph.add("MotionFrameLooper", loader, heard, reference=reference.out("EMO_REFERENCE"),
                       motion_frames=None, motion_images=None, existing_film=None, steps=1,
                       seed=seed, keep_clips=False)  # fmt: skip
    graph.add("SaveLatent", looper, filename_prefix=name)


@pytest.fixture
def films(server: Server, client: Client, info: dict[str, Any]) -> Films:
    """Runs prompts of portraits and seeds, and gives the latents in the order of their files."""

    def made(name: str, portraits: list[str], seeds: list[int]) -> list[torch.Tensor]:
        graph = Graph(info)
        portrait = graph.add("EMOExampleInputs")
        others = {"as it is": portrait, "inverted": graph.add("ImageInvert", portrait)}
        if len(portraits) == 1:
            shown = others[portraits[0]]
        else:
            first, second = (others[one].out("IMAGE") for one in portraits)
            both = graph.add("ImageBatch", image1=first, image2=second)
            shown = graph.add("RebatchImages", both, batch_size=1)
        for seed in seeds:
            film(graph, shown, name, seed)
        run = client.run(graph.prompt)
        assert run.succeeded, f"{run.error_node}: {run.error}"
        found = sorted(Path(server.folder / "output").glob(f"{name}_*.latent"))
        return [load_file(file)["latent_tensor"] for file in found]

    return made


def test_lists_of_portraits_and_seeds_give_the_films_of_each(films: Films) -> None:
    together = films("together", ["as it is", "inverted"], [1, 2])
    assert len(together) == 4
    alone = [
        films(f"alone-{portrait[:2]}-{seed}", [portrait], [seed])[0]
        for portrait in ("as it is", "inverted") for seed in (1, 2)
    ]  # fmt: skip
    for one in alone:
        assert sum(torch.equal(one, other) for other in together) == 1


def descendants(prompt: Prompt, node_id: str) -> set[str]:
    """The node and all that depends on it."""
    found = {node_id}
    while True:
        more = {
            name for name, node in prompt.items()
            if any(isinstance(v, list) and v[0] in found for v in node["inputs"].values())
        }  # fmt: skip
        if more <= found:
            return found
        found |= more


CHANGES: list[tuple[str, str, Any]] = [
    ("SaveVideo", "filename_prefix", "video/other"),
    ("EMODecodeVideo", "clip_frames", 5),
    ("MotionFrameLooper", "seed", 9),
    ("SpeedBuckets", "speed", 0.9),
    ("FaceLocatorMask", "expand_x", 1.2),
    ("LoadAudioEmbedding", "duration", 0.16),
]


def test_one_changed_widget_runs_only_what_depends_on_it(
    client: Client, info: dict[str, Any]
) -> None:
    graph = Graph(info)
    graph.talking_portrait(0.2, steps=1)
    prompt = graph.prompt
    ids = {node["class_type"]: name for name, node in prompt.items()}
    prompt[ids["EMOModelLoader"]]["inputs"]["model_name"] = MODEL
    assert client.run(prompt).succeeded
    assert client.run(prompt).cached == set(prompt)
    for class_type, widget, value in CHANGES:
        prompt[ids[class_type]]["inputs"][widget] = value
        run = client.run(prompt)
        assert run.succeeded, f"{run.error_node}: {run.error}"
        assert set(prompt) - run.cached == descendants(prompt, ids[class_type]), class_type
