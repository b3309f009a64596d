"""Bad inputs through the host's API: each gives one sentence that says what to do, or a film."""

from __future__ import annotations

import re
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from client import Client, Refused, Run
from comfyui import Server
from PIL import Image
from prompts import Graph, Node, choices, inputs_of
from safetensors.torch import save_file

NO_ERROR_OF_OURS = re.compile(r"\w+(Error|Exception)\b|Traceback|object has no attribute|NoneType")


def write_sound(path: Path, samples: np.ndarray, rate: int = 16000) -> Path:
    """A sound of floats as a WAV file, which may hold what no microphone records."""
    data = samples.astype("<f4").tobytes()
    kind = struct.pack("<HHIIHH", 3, 1, rate, rate * 4, 4, 32)
    body = b"WAVEfmt " + struct.pack("<I", len(kind)) + kind
    body += b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


def what_it_says(client: Client, graph: Graph) -> str:
    """The sentence that the host shows for a prompt that must fail."""
    try:
        run = client.run(graph.prompt)
    except Refused as refused:
        assert len(refused.messages) == 1, refused.messages
        said = refused.messages[0]
    else:
        assert not run.succeeded, "it ran, and should have said what is wrong"
        assert run.error_type in ("ValueError", "FileNotFoundError"), run.error_type
        said = run.error
    assert_one_sentence(said)
    return said


def assert_one_sentence(said: str) -> None:
    assert len(said.split()) >= 6 and "\n" not in said, repr(said)
    assert not NO_ERROR_OF_OURS.search(said), said
    assert " --" not in said, f"an option of the command line, of no use here: {said}"


def succeeded(run: Run) -> None:
    assert run.succeeded, f"{run.error_node}: {run.error}"


def heard(graph: Graph, sound: Node) -> None:
    """Hear a sound and show that it was heard."""
    loader = graph.add("EMOModelLoader")
    embedding = graph.add("LoadAudioEmbedding", sound, loader)
    graph.add("PreviewAudio", embedding)


def encoded(graph: Graph, picture: Node) -> None:
    """Encode a portrait and show it."""
    loader = graph.add("EMOModelLoader")
    reference = graph.add("ReferenceNetEncode", picture, loader)
    graph.add("PreviewImage", graph.add("VAEDecode", reference, loader))


def load_picture(graph: Graph, client: Client, path: Path) -> Node:
    return graph.add("LoadImage", image=client.upload(path))


def load_sound(graph: Graph, client: Client, path: Path) -> Node:
    return graph.add("LoadAudio", audio=client.upload(path))


@pytest.fixture
def graph(object_info: dict[str, Any]) -> Graph:
    return Graph(object_info)


def test_a_sound_without_samples(client: Client, graph: Graph, tmp_path: Path) -> None:
    """Core's own LoadAudio refuses some files itself; what it lets through, we name."""
    sound = graph.add("EmptyAudio", duration=0.0)
    heard(graph, sound)
    assert "sample" in what_it_says(client, graph)


def test_a_sound_with_nan(client: Client, graph: Graph, tmp_path: Path) -> None:
    samples = np.zeros(16000)
    samples[300] = np.nan
    heard(graph, load_sound(graph, client, write_sound(tmp_path / "nan.wav", samples)))
    assert "NaN" in what_it_says(client, graph)


def test_a_start_after_the_sounds_end(client: Client, graph: Graph) -> None:
    example = graph.add("EMOExampleInputs")
    loader = graph.add("EMOModelLoader")
    late = graph.add("LoadAudioEmbedding", example, loader, start=3600.0)
    graph.add("PreviewAudio", late)
    assert "3600" in what_it_says(client, graph)


@pytest.mark.parametrize("channels, rate", [(2, 8000), (1, 48000)])
def test_other_channels_and_rates_are_heard(
    client: Client, graph: Graph, tmp_path: Path, channels: int, rate: int
) -> None:
    path = tmp_path / f"{channels}-{rate}.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.zeros((rate // 2, channels), "<i2").tobytes())
    heard(graph, load_sound(graph, client, path))
    succeeded(client.run(graph.prompt))


@pytest.mark.parametrize("mode, size", [("RGBA", (64, 48)), ("RGB", (1, 1)), ("L", (640, 33))])
def test_any_picture_is_a_portrait(
    client: Client, graph: Graph, tmp_path: Path, mode: str, size: tuple[int, int]
) -> None:
    path = tmp_path / f"{mode}-{size[0]}.png"
    Image.new(mode, size, 200 if mode == "L" else (200, 90, 30, 128)[: len(mode)]).save(path)
    encoded(graph, load_picture(graph, client, path))
    succeeded(client.run(graph.prompt))


@pytest.mark.parametrize("size", [(1, 1), (200, 50)])
def test_a_mask_of_another_size(
    client: Client, graph: Graph, tmp_path: Path, size: tuple[int, int]
) -> None:
    example = graph.add("EMOExampleInputs")
    mask = graph.add("SolidMask", width=size[0], height=size[1], value=1.0)
    region = graph.add("FaceLocatorMask", example, mask)
    graph.add("PreviewImage", region)
    succeeded(client.run(graph.prompt))


def test_a_mask_of_another_shape_for_the_film(client: Client, graph: Graph) -> None:
    mask = graph.add("SolidMask", width=200, height=50, value=1.0)
    graph.talking_portrait(0.2, steps=1, region=mask.out("MASK"))
    assert "200x50" in what_it_says(client, graph)


WRONG_FILES = {
    "random.safetensors": "tensors of nothing known",
    "text.safetensors": "no safetensors file",
    "empty.safetensors": "an empty file",
}


def write_wrong_file(path: Path) -> None:
    if path.name.startswith("random"):
        save_file({"some.weight": torch.randn(3, 4)}, path)
    else:
        path.write_text("I am a poem, not weights." if path.name.startswith("text") else "")


@pytest.mark.parametrize("name", sorted(WRONG_FILES))
def test_a_file_that_is_no_checkpoint(
    server: Server, client: Client, object_info: dict[str, Any], name: str
) -> None:
    path = server.models / "emo" / name
    write_wrong_file(path)
    try:
        file_widget = next(
            widget
            for widget, kind, options, _ in inputs_of(object_info["EMOModelLoader"])
            if any("emo-tiny" in str(choice) for choice in choices(kind, options) or [])
        )
        graph = Graph(object_info)
        loader = graph.add("EMOModelLoader", **{file_widget: name})
        example = graph.add("EMOExampleInputs")
        reference = graph.add("ReferenceNetEncode", example, loader)
        graph.add("PreviewImage", graph.add("VAEDecode", reference, loader))
        assert name in what_it_says(client, graph)
    finally:
        path.unlink()


def test_the_server_is_usable_after_errors(client: Client, object_info: dict[str, Any]) -> None:
    graph = Graph(object_info)
    example = graph.add("EMOExampleInputs")
    encoded(graph, example)
    succeeded(client.run(graph.prompt))
