"""Films out of a real server: from a prompt written here, and from every example workflow."""

from __future__ import annotations

import contextlib
import io
import json
import wave
from math import ceil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from client import Client, Prompt, Run
from prompts import WITHOUT_PROMPT, Graph, choices, from_workflow, inputs_of, is_widget
from repository import NODE_IDS, ROOT

from emo_core.cli import main

WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))
RUN_HERE = {
    "EMO clip by clip": (0.96, 0.96),
    "EMO continue a film": (0.72, 1.44),
    "EMO head speed and face region": (0.72, 0.72),
    "EMO long film": (0.72, 0.72),
    "EMO moving face region": (1.92, 1.92),
    "EMO new voice for a film": (0.72, 0.72),
    "EMO singing": (0.72, 0.72),
    "EMO sound guidance": (0.72, 0.72),
    "EMO talking portrait": (0.72, 0.72),
}
"""Those that need nothing but what the pack brings, the others need weights: the seconds of sound
that are taken from the recording, and those of the film that it makes."""
RUN_ALWAYS = ("EMO clip by clip", "EMO continue a film")
"""The others are run with -m soak."""
NOT_HERE = {"ckpt_name", "model_name", "vae_name", "encoder", "image", "file"}
"""Combos whose choice is a file that the pack does not bring."""
PUPPET = 1000006
"""Whose portrait examples/portrait.png is."""
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


def workflow(title: str) -> dict[str, Any]:
    """An example workflow as the page saved it."""
    path = ROOT / "example_workflows" / f"{title}.json"
    saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return saved


def of_type(prompt: Prompt, class_type: str) -> dict[str, Any]:
    """The inputs of the only node of a type."""
    found = [node["inputs"] for node in prompt.values() if node["class_type"] == class_type]
    assert len(found) == 1, found
    return dict(found[0])


def test_every_node_is_in_a_workflow_and_every_workflow_has_its_picture() -> None:
    types = {node["type"] for path in WORKFLOWS for node in workflow(path.stem)["nodes"]}
    assert types >= NODE_IDS
    assert set(RUN_HERE) < {path.stem for path in WORKFLOWS}
    for path in WORKFLOWS:
        assert path.with_suffix(".jpg").stat().st_size < 150_000


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_links_of_workflows_agree_on_both_ends(path: Path) -> None:
    saved = workflow(path.stem)
    nodes = {node["id"]: node for node in saved["nodes"]}
    seen = set()
    for link, origin, slot, target, socket, kind in saved["links"]:
        giving, taking = nodes[origin]["outputs"][slot], nodes[target]["inputs"][socket]
        assert link in giving["links"] and taking["link"] == link
        assert giving["type"] == kind
        seen.add(link)
    for node in nodes.values():
        given = [link for out in node["outputs"] for link in out["links"] or []]
        taken = [socket["link"] for socket in node["inputs"] if socket["link"] is not None]
        assert seen >= {*given, *taken}
    assert saved["last_node_id"] >= max(nodes) and saved["last_link_id"] >= max(seen)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_have_a_value_for_every_widget(object_info: dict[str, Any], path: Path) -> None:
    """They are saved by position: one too few or too many would shift the others."""
    for node in workflow(path.stem)["nodes"]:
        if node["type"] in WITHOUT_PROMPT:
            continue
        info = object_info[node["type"]]
        origin = info["python_module"]
        assert node["type"] in NODE_IDS or origin.split(".")[0] in ("nodes", "comfy_extras")
        widgets = [entry for entry in inputs_of(info) if is_widget(entry[1], entry[2])]
        # The page puts what becomes of a seed behind it, asked for or not.
        seeds = [index for index, (name, kind, options, _) in enumerate(widgets)
                 if options.get("control_after_generate") or (kind == "INT" and name == "seed")]
        # The page saves the button for files of one's own, too.
        buttons = sum(bool(entry[2].get("image_upload")) for entry in widgets)
        values = node.get("widgets_values", [])
        assert len(values) == len(widgets) + len(seeds) + buttons, node["type"]
        kinds = ("fixed", "increment", "decrement", "randomize")
        assert all(values[seed + 1 + k] in kinds for k, seed in enumerate(seeds)), node["type"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_nodes_of_workflows_do_not_overlap(path: Path) -> None:
    boxes = [(*node["pos"], *node["size"]) for node in workflow(path.stem)["nodes"]]
    for index, (x, y, width, height) in enumerate(boxes):
        for other_x, other_y, other_width, other_height in boxes[:index]:
            beside = x >= other_x + other_width or other_x >= x + width
            # The title, of 30 pixels, is above a node's place.
            assert beside or y - 30 >= other_y + other_height or other_y - 30 >= y + height


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_example_workflows_fit_the_nodes(object_info: dict[str, Any], path: Path) -> None:
    prompt = from_workflow(workflow(path.stem), object_info)
    for node in prompt.values():
        info = object_info[node["class_type"]]
        for name, kind, options, required in inputs_of(info):
            value, offered = node["inputs"].get(name), choices(kind, options)
            assert value is not None or not required, f"{node['class_type']}.{name} is open"
            if isinstance(value, list):
                source = object_info[prompt[value[0]]["class_type"]]
                given = source["output"][value[1]]
                assert kind in (given, "*"), f"{given} into {name}"
            elif offered is not None and name not in NOT_HERE:
                assert value in offered, f"{node['class_type']}.{name}"


@pytest.mark.parametrize(
    "title",
    [pytest.param(title, marks=() if title in RUN_ALWAYS else pytest.mark.soak)
     for title in RUN_HERE],
)
def test_example_workflows_give_the_film_they_promise(
    client: Client, object_info: dict[str, Any], tmp_path: Path, title: str
) -> None:
    prompt = from_workflow(workflow(title), object_info)
    taken, wanted = RUN_HERE[title]
    shorten(prompt, taken)
    film = film_of(client.run(prompt, seconds=600), client, tmp_path)
    frames, rate, samples = frames_and_sound(film)
    assert (frames, rate) == (ceil(round(wanted * FPS, 6)), FPS)
    assert samples > 0


def test_clip_by_clip_is_what_the_looper_makes(
    client: Client, object_info: dict[str, Any], tmp_path: Path
) -> None:
    by_hand, at_once = (
        from_workflow(workflow(title), object_info)
        for title in ("EMO clip by clip", "EMO talking portrait")
    )
    shorten(at_once, of_type(by_hand, "LoadAudioEmbedding")["duration"])
    looper = next(n for n in at_once.values() if n["class_type"] == "MotionFrameLooper")
    looper["inputs"]["joins"] = "plain"
    films = []
    for number, prompt in enumerate((by_hand, at_once)):
        folder = tmp_path / str(number)
        folder.mkdir()
        films.append(pictures(film_of(client.run(prompt, seconds=600), client, folder)))
    # The latents are the same bits (tests/nodes); the encoder may pack them a little differently.
    assert len(films[0]) == len(films[1])
    for one, other in zip(*films, strict=True):
        assert float(np.abs(one - other).mean()) < 3


@pytest.mark.parametrize(
    "seconds", [3.0, pytest.param(None, marks=pytest.mark.soak)], ids=["beginning", "whole"]
)
def test_the_mouth_of_the_first_film_follows_the_sound(
    client: Client, object_info: dict[str, Any], tmp_path: Path, seconds: float | None
) -> None:
    """The example as a newcomer gets it, against the same puppet drawn with the same phones."""
    prompt = from_workflow(workflow("EMO talking portrait"), object_info)
    assert of_type(prompt, "LoadAudioEmbedding")["duration"] == 0
    sound, phones = beginning(tmp_path, seconds)
    if seconds is not None:
        shorten(prompt, seconds)
    film = film_of(client.run(prompt, seconds=1100), client, tmp_path)
    frames, _, samples = frames_and_sound(film)
    assert frames == ceil(FPS * (seconds or 0)) or frames == expected_frames()
    assert samples > 0
    truth, portrait = tmp_path / "truth.json", ROOT / "examples" / "portrait.png"
    emo("puppet", "--seed", PUPPET, "--sound", sound, "--phones", phones,
        "-o", tmp_path / "truth.mp4", "--truth", truth)  # fmt: skip
    report = json.loads(emo("evaluate", film, "--portrait", portrait, "--sound", sound,
                            "--truth", truth, "--json"))  # fmt: skip
    assert report["mouth_openness_r"] > 0.5, report


def beginning(folder: Path, seconds: float | None) -> tuple[Path, Path]:
    """The example's sound up to there, and its phones as the synthesiser timed them."""
    lines = (ROOT / "tests" / "fixtures" / "speech-phones.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines]
    with wave.open(str(ROOT / "examples" / "speech.wav")) as whole:
        rate, count = whole.getframerate(), whole.getnframes()
        count = count if seconds is None else round(seconds * rate)
        with wave.open(str(folder / "sound.wav"), "wb") as cut:
            cut.setparams(whole.getparams())
            cut.writeframes(whole.readframes(count))
    end = count / rate
    kept = [(start, min(float(stop), end), name) for start, stop, name in rows
            if float(start) < end]  # fmt: skip
    phones = folder / "phones.tsv"
    phones.write_text("".join(f"{start}\t{stop}\t{name}\n" for start, stop, name in kept))
    return folder / "sound.wav", phones


def shorten(prompt: Prompt, seconds: float) -> None:
    """Take less of the sound."""
    for node in prompt.values():
        if node["class_type"] == "LoadAudioEmbedding":
            node["inputs"]["duration"] = seconds


def pictures(film: Path) -> list[Any]:
    """Every frame of a film as it was decoded, 0 to 255."""
    with av.open(str(film)) as file:
        return [frame.to_ndarray(format="rgb24") * 1.0 for frame in file.decode(video=0)]


def emo(*arguments: Any) -> str:
    """What the command line of the pack prints."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main([str(one) for one in arguments]) == 0
    return said.getvalue()


def expected_frames() -> int:
    """Frames of the pack's own recording, in integers as the film counts them."""
    with wave.open(str(ROOT / "examples" / "speech.wav"), "rb") as file:
        return -(-file.getnframes() * FPS // file.getframerate())
