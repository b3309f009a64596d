"""Films out of a real server: from a prompt written here, and from every example workflow."""

from __future__ import annotations

import json
from math import ceil
from pathlib import Path
from typing import Any

import av
import pytest
from client import Client, Prompt, Run
from prompts import Graph, choices, from_workflow, inputs_of
from repository import ROOT

WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))
RUN_HERE = {"EMO talking portrait", "EMO head speed and face region"}
"""Those that need nothing but what the pack brings; the others need weights."""
FPS = 25


def film_of(run: Run, client: Client, folder: Path) -> Path:
    """The video that a run has saved."""
    assert run.succeeded, f"{run.error_node}: {run.error}"
    saved = [entry for entry in run.files() if entry["filename"].endswith((".mp4", ".webm"))]
    assert len(saved) == 1, saved
    return client.download(saved[0], folder)


def frames_and_sound(film: Path) -> tuple[int, float, int]:
    """Frames, frame rate and samples of sound of a film, counted by decoding it."""
    with av.open(str(film)) as file:
        assert file.streams.video and file.streams.audio, "the film has no sound"
        rate = float(file.streams.video[0].average_rate or 0)
        frames = sum(1 for _ in file.decode(video=0))
    with av.open(str(film)) as file:
        return frames, rate, sum(frame.samples for frame in file.decode(audio=0))


def test_a_saved_workflow_becomes_what_the_front_end_would_send(
    object_info: dict[str, Any],
) -> None:
    """Widgets by position with the seed's companion, a reroute, a bypassed and a muted node."""
    image = {"type": "IMAGE", "name": "image", "link": None}
    nodes = [
        {"id": 1, "type": "EmptyImage", "widgets_values": [8, 4, 1, 255]},
        {"id": 2, "type": "Reroute", "inputs": [{"type": "*", "name": "", "link": 10}]},
        {"id": 3, "type": "ImageInvert", "mode": 4, "inputs": [image | {"link": 11}],
         "outputs": [{"type": "IMAGE"}]},
        {"id": 4, "type": "SaveImage", "widgets_values": ["EMO"],
         "inputs": [{"type": "IMAGE", "name": "images", "link": 12}]},
        {"id": 5, "type": "PreviewImage", "mode": 2, "inputs": [image | {"link": 12}]},
        {"id": 6, "type": "Note", "widgets_values": ["Read this."]},
        {"id": 7, "type": "KSampler", "inputs": [],
         "widgets_values": [9, "randomize", 20, 8.0, "euler", "simple", 1.0]},
    ]  # fmt: skip
    links = [[10, 1, 0, 2, 0, "IMAGE"], [11, 2, 0, 3, 0, "IMAGE"], [12, 3, 0, 4, 0, "IMAGE"]]
    prompt = from_workflow({"nodes": nodes, "links": links}, object_info)
    assert set(prompt) == {"1", "4", "7"}
    assert prompt["1"]["inputs"] == {"width": 8, "height": 4, "batch_size": 1, "color": 255}
    assert prompt["4"]["inputs"] == {"filename_prefix": "EMO", "images": ["1", 0]}
    sampler = {"seed": 9, "steps": 20, "cfg": 8.0, "sampler_name": "euler"}
    assert sampler.items() <= prompt["7"]["inputs"].items()


@pytest.fixture
def short_film(object_info: dict[str, Any]) -> Prompt:
    """Half a second, two steps a clip."""
    graph = Graph(object_info)
    graph.talking_portrait(0.5, steps=2)
    return graph.prompt


def test_a_prompt_gives_a_film_with_sound_of_the_exact_length(
    client: Client, short_film: Prompt, tmp_path: Path
) -> None:
    frames, rate, samples = frames_and_sound(film_of(client.run(short_film), client, tmp_path))
    assert (frames, rate) == (ceil(0.5 * FPS), FPS)
    assert samples > 0


def test_the_reference_is_not_encoded_again_for_another_sound_speed_or_seed(
    client: Client, short_film: Prompt
) -> None:
    ids = {node["class_type"]: node_id for node_id, node in short_film.items()}
    client.run(short_film)
    changes = {"LoadAudioEmbedding": ("duration", 0.4), "SpeedBuckets": ("speed", 1.1),
               "MotionFrameLooper": ("seed", 7)}  # fmt: skip
    for class_type, (name, value) in changes.items():
        short_film[ids[class_type]]["inputs"][name] = value
        again = client.run(short_film)
        assert again.succeeded, again.error
        assert {ids["ReferenceNetEncode"], ids["EMOModelLoader"]} <= again.cached
        assert ids["MotionFrameLooper"] not in again.cached


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_example_workflows_fit_the_nodes(object_info: dict[str, Any], path: Path) -> None:
    prompt = from_workflow(json.loads(path.read_text(encoding="utf-8")), object_info)
    for node in prompt.values():
        info = object_info[node["class_type"]]
        for name, kind, options, required in inputs_of(info):
            value = node["inputs"].get(name)
            assert value is not None or not required, f"{node['class_type']}.{name} is open"
            if isinstance(value, list):
                source = object_info[prompt[value[0]]["class_type"]]
                given = source["output"][value[1]]
                assert kind in (given, "*") or choices(kind, options), f"{given} into {name}"


@pytest.mark.parametrize("title", sorted(RUN_HERE))
def test_example_workflows_give_the_film_they_promise(
    client: Client, object_info: dict[str, Any], tmp_path: Path, title: str
) -> None:
    path = ROOT / "example_workflows" / f"{title}.json"
    prompt = from_workflow(json.loads(path.read_text(encoding="utf-8")), object_info)
    frames, rate, samples = frames_and_sound(
        film_of(client.run(prompt, seconds=600), client, tmp_path)
    )
    heard = [node for node in prompt.values() if node["class_type"] == "LoadAudioEmbedding"]
    wanted = heard[0]["inputs"]["duration"]
    assert rate == FPS and samples > 0
    if wanted:
        assert frames == ceil(round(wanted * FPS, 6))
    else:
        assert frames == expected_frames()


def expected_frames() -> int:
    """Frames of the pack's own recording, in integers as the film counts them."""
    import wave

    with wave.open(str(ROOT / "examples" / "speech.wav"), "rb") as file:
        return -(-file.getnframes() * FPS // file.getframerate())
