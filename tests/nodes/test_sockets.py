"""The pack's own sockets, and what every node says about its sockets."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import torch
from small_checkpoint import smallest_config
from small_film import draw

from emo_core.audio import AudioFeatures

IDS = [
    "EMOExampleInputs", "EMOModelLoader", "LoadAudioEmbedding", "FaceLocatorMask", "SpeedBuckets",
    "ReferenceNetEncode", "EMOConditioning", "EMOGuider", "EMOSampler", "MotionFrameLooper",
    "EMODecodeVideo", "EMOLoadFaceEmbedding", "EMOPortraitCrop", "EMOPasteBack", "EMOHalloNoise",
]  # fmt: skip
SHARED = [
    "model", "reference", "audio_embedding", "region", "speed", "motion_frames", "motion_images",
    "vae",
]  # fmt: skip
SAMPLING = ["seed", "steps", "cfg", "sampler_name", "scheduler"]
OVERRULING = ["noise", "sampler", "sigmas", "guider"]
JOINING = ["existing_film", "denoise", "lock"]


@pytest.fixture
def sockets(pack: ModuleType) -> Any:
    return import_module(f"{pack.__name__}.sockets")


@pytest.fixture
def audio(sockets: Any) -> dict[str, Any]:
    """EMO_AUDIO that fits the smallest model."""
    value = sockets.pack_audio(AudioFeatures(draw(9, 2, 8), 6, 25, "an encoder", "after"))
    return dict(value)


def schema(pack: ModuleType, node_id: str) -> Any:
    return next(node for node in pack.NODES if node.__name__ == node_id).define_schema()


def test_the_nodes_in_their_order(pack: ModuleType) -> None:
    schemas = [node.define_schema() for node in pack.NODES]
    assert [one.node_id for one in schemas] == IDS
    assert all(one.category.split("/")[0] == "EMO" for one in schemas)
    assert len({one.display_name for one in schemas}) == len(IDS)


@pytest.mark.parametrize("node_id", IDS)
def test_every_socket_and_widget_says_what_it_is(pack: ModuleType, node_id: str) -> None:
    one = schema(pack, node_id)
    one.validate()
    names = [entry.id for entry in [*one.inputs, *one.outputs]]
    assert len(set(names)) == len(names)
    for text in [one.description, *(entry.tooltip for entry in [*one.inputs, *one.outputs])]:
        assert text is not None and text.endswith(".") and len(text.split()) >= 5, text
        assert text[0].isupper() or text.startswith("emo-tiny"), text


@pytest.mark.parametrize(
    ("node_id", "inputs", "outputs"),
    [
        (
            "EMOModelLoader", ["model_name", "dtype", "variant", "reproduce"],
            [("MODEL", "model"), ("VAE", "vae")],
        ),
        (
            "ReferenceNetEncode", ["model", "vae", "image", "face", "width", "height"],
            [("EMO_REFERENCE", "reference"), ("LATENT", "latent")],
        ),
        (
            "EMOConditioning", [*SHARED, "clip_index", "seed", "lips"],
            [
                ("MODEL", "model"), ("CONDITIONING", "positive"), ("CONDITIONING", "negative"),
                ("LATENT", "latent"), ("INT", "clip_seed"), ("INT", "frames"),
            ],
        ),
        (
            "EMOSampler",
            [*SHARED, "clip_index", *SAMPLING, *OVERRULING, "keep_clips", *JOINING, "lips"],
            [("LATENT", "latent"), ("LATENT", "motion_frames")],
        ),
        (
            "MotionFrameLooper",
            [*SHARED, *SAMPLING, *OVERRULING, "keep_clips", *JOINING, "joins", "lips"],
            [("LATENT", "latent"), ("LATENT", "motion_frames")],
        ),
    ],
)  # fmt: skip
def test_the_order_that_saved_workflows_rely_on(
    pack: ModuleType, node_id: str, inputs: list[str], outputs: list[tuple[str, str]]
) -> None:
    one = schema(pack, node_id)
    assert [entry.id for entry in one.inputs] == inputs
    assert [(entry.io_type, entry.display_name or entry.id) for entry in one.outputs] == outputs


def test_audio_comes_back_without_padding(sockets: Any, audio: dict[str, Any]) -> None:
    assert audio["version"] == 1 and audio["fps"] == 25.0
    features = sockets.unpack_audio(audio, smallest_config(), "an encoder")
    assert torch.equal(features, draw(9, 2, 8)[:6])
    assert torch.equal(sockets.unpack_audio(audio, smallest_config(), None), features)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"fps": 30.0}, "frame rate 30.0, and smallest was trained with 25.0"),
        ({"encoder": "another"}, "audio encoder another, and smallest was trained with an encoder"),
        ({"alignment": "before"}, "alignment before, and smallest was trained with after"),
        ({"features": draw(6, 12, 768)}, r"\(6, 12, 768\) .* hears 2 layers of 8; connect MODEL"),
        ({"features": draw(6, 8)}, r"the shape \(6, 8\)"),
        ({"features": draw(0, 2, 8)}, r"the shape \(0, 2, 8\)"),
        ({"features": draw(6, 2, 8).log()}, "holds NaN or infinite numbers; encode it again"),
        ({"version": 2}, "EMO_AUDIO has version 2, this pack reads version 1"),
    ],
)
def test_audio_that_does_not_fit(
    sockets: Any, audio: dict[str, Any], change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        sockets.unpack_audio({**audio, **change}, smallest_config(), "an encoder")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", [None, "sound", {}, {"version": 1, "features": draw(6, 2, 8)}])
def test_another_value_in_the_place_of_audio(sockets: Any, value: Any) -> None:
    with pytest.raises(ValueError, match=r"EMO_AUDIO lacks alignment, .* EMO Load Audio Embedding"):
        sockets.unpack_audio(value, smallest_config(), None)


def test_speed_is_linear_and_held(sockets: Any) -> None:
    value = sockets.pack_speed(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))
    got = sockets.unpack_speed(value, 7, 5.0)
    torch.testing.assert_close(got, torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("times", "speeds", "sentence"),
    [
        ([0.0, 1.0], [0.5], r"one speed for each time, got times \(2,\) and speeds \(1,\)"),
        ([], [], "one speed for each time"),
        ([1.0, 0.0], [0.5, 0.5], "rising times in seconds"),
        ([0.0, 0.0], [0.5, 0.5], "rising times in seconds"),
        ([0.0, 1.0], [0.5, -0.5], "speeds of 0 or more"),
        ([0.0, 1.0], [0.5, float("nan")], "rising times in seconds and speeds"),
        ([0.0, float("inf")], [0.5, 0.5], "rising times in seconds"),
    ],
)
def test_a_broken_speed(
    sockets: Any, times: list[float], speeds: list[float], sentence: str
) -> None:
    value = sockets.pack_speed(torch.tensor(times), torch.tensor(speeds))
    with pytest.raises(ValueError, match=sentence):
        sockets.unpack_speed(value, 5, 25.0)


def test_no_speed_at_all(sockets: Any) -> None:
    with pytest.raises(ValueError, match=r"EMO_SPEED lacks speeds, times; .* EMO Speed Buckets"):
        sockets.unpack_speed(0.5, 5, 25.0)


def test_a_reference_belongs_to_its_model(sockets: Any) -> None:
    value = sockets.pack_reference("a 1", draw(1, 4, 4, 4), {"down.0": draw(1, 8, 4, 4)},
                                   (40, 48), (4, 0, 40, 40))  # fmt: skip
    back = sockets.unpack_reference(value, "a 1")
    assert torch.equal(back["latents"], draw(1, 4, 4, 4)) and back["window"] == (4, 0, 40, 40)
    with pytest.raises(ValueError, match="encoded by a 1 and is sampled with b 2; connect the"):
        sockets.unpack_reference(value, "b 2")
    with pytest.raises(ValueError, match=r"EMO_REFERENCE lacks window; .* EMO ReferenceNet Encode"):
        sockets.unpack_reference({n: v for n, v in value.items() if n != "window"}, "a 1")
