"""SpeedBuckets: every source of a head speed, its preview, and its sentences."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from emo_core.presets import emo, hallo, tiny
from emo_core.rhythm import FASTEST, SLOWEST
from emo_core.speed import speed_vector

Outputs = tuple[dict[str, Any], Tensor]


@pytest.fixture
def bucket(pack: ModuleType, run: Callable[..., Any]) -> Callable[..., Outputs]:
    """Run SpeedBuckets with its widgets' defaults, except for what is given."""
    node = import_module(f"{pack.__name__}.speed").SpeedBuckets
    usual = {
        "source": "constant", "speed": 0.5, "keyframes": "0:0.2, 5:1.1", "fps": 25.0,
        "smoothing": 0.0, "slowest": SLOWEST, "fastest": FASTEST,
    }  # fmt: skip
    return lambda **inputs: run(node, **(usual | inputs))


@pytest.fixture
def node(pack: ModuleType) -> Any:
    return import_module(f"{pack.__name__}.speed").SpeedBuckets


@pytest.fixture
def drawing(pack: ModuleType) -> Any:
    return import_module(f"{pack.__name__}.drawing")


@pytest.fixture
def at_frames(pack: ModuleType) -> Callable[..., Tensor]:
    """The speed of every frame, as the nodes that follow read it."""
    return import_module(f"{pack.__name__}.sockets").unpack_speed


def beats(seconds: float, rate: int = 16000, seed: int = 0) -> dict[str, Any]:
    """AUDIO of noise bursts, three a second."""
    time = torch.arange(int(seconds * rate)) / rate
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(time), generator=generator) * 0.2
    return {"waveform": (noise * ((time * 3) % 1 < 0.4))[None, None], "sample_rate": rate}


def curve_row(drawing: Any, preview: Tensor) -> float:
    """Mean row of the pixels that have the curve's colour."""
    colour = torch.tensor(drawing.CURVE) / 255
    rows = ((preview[0] - colour).abs().amax(-1) < 1e-6).nonzero()[:, 0]
    assert len(rows) > 100
    return float(rows.float().mean())


def test_a_constant_is_one_time(bucket: Any, at_frames: Any) -> None:
    value, _ = bucket(speed=0.7)
    assert value["version"] == 1
    assert value["times"].tolist() == [0] and value["speeds"].tolist() == [pytest.approx(0.7)]
    assert at_frames(value, 3, 25).tolist() == pytest.approx([0.7] * 3)


def test_keyframes_are_linear_and_held_at_both_ends(bucket: Any, at_frames: Any) -> None:
    value, _ = bucket(source="keyframes", keyframes="1:0.2,\n3:1.0\n4:0.4")
    expected = [0.2, 0.2, 0.6, 1.0, 0.4, 0.4, 0.4]
    assert at_frames(value, 7, 1).tolist() == pytest.approx(expected)
    single, _ = bucket(source="keyframes", keyframes="0.8", smoothing=1.0)
    assert at_frames(single, 2, 1).tolist() == pytest.approx([0.8] * 2)


def test_smoothed_keyframes_come_to_rest(bucket: Any, at_frames: Any) -> None:
    rough, _ = bucket(source="keyframes", keyframes="0:0.2, 4:0.2, 4.01:1.0")
    even, _ = bucket(source="keyframes", keyframes="0:0.2, 4:0.2, 4.01:1.0", smoothing=0.5)
    rough, even = at_frames(rough, 400, 25), at_frames(even, 400, 25)
    assert even.diff().abs().max() < 0.1 * rough.diff().abs().max()
    assert (even.diff() >= -1e-6).all()
    # Nothing further away than three standard deviations is touched.
    assert torch.allclose(even[:62], rough[:62]) and torch.allclose(even[140:], rough[140:])


def test_a_list_of_another_rate_lands_at_the_same_seconds(bucket: Any, at_frames: Any) -> None:
    numbers = [0.2 + 0.1 * (place % 9) for place in range(50)]
    slow, _ = bucket(source="list", speeds=numbers, fps=12.5)
    fast, _ = bucket(source="list", speeds=np.repeat(numbers, 2).tolist(), fps=25.0)
    torch.testing.assert_close(at_frames(slow, 50, 12.5), at_frames(fast, 50, 12.5))
    assert at_frames(slow, 60, 12.5)[:50].tolist() == pytest.approx(numbers)
    assert at_frames(slow, 60, 12.5)[50:].tolist() == pytest.approx([numbers[-1]] * 10)


@pytest.mark.parametrize(
    "speeds",
    [[0.5, 1.0], (0.5, 1), torch.tensor([0.5, 1.0], dtype=torch.float16), np.array([0.5, 1.0])],
    ids=["list", "tuple", "tensor", "array"],
)
def test_every_kind_of_list(bucket: Any, speeds: Any) -> None:
    value, _ = bucket(source="list", speeds=speeds, fps=2.0)
    assert value["times"].tolist() == [0, 0.5] and value["speeds"].tolist() == [0.5, 1.0]
    assert value["speeds"].dtype == torch.float32


def test_lists_of_other_packs_fit_the_socket(node: Any) -> None:
    """FLOAT as most packs call a list that is one value, FLOATS as core's hook keyframes do."""
    (socket,) = (one for one in node.define_schema().inputs if one.id == "speeds")
    kinds = {kind.io_type for kind in socket.io_types}
    assert kinds == {"FLOAT", "FLOATS"} and socket.optional
    assert socket.get_io_type() == "FLOAT,FLOATS"


def test_one_number_is_a_list_of_one(bucket: Any) -> None:
    value, _ = bucket(source="list", speeds=0.25)
    assert value["times"].tolist() == [0] and value["speeds"].tolist() == [0.25]


@pytest.mark.parametrize("smoothing", [0.2, 5.0])
def test_smoothing_keeps_a_constant_and_a_mean(bucket: Any, smoothing: float) -> None:
    flat, _ = bucket(source="list", speeds=[0.7] * 300, smoothing=smoothing)
    assert flat["speeds"].unique().tolist() == [pytest.approx(0.7)]
    numbers = torch.rand(5000, generator=torch.Generator().manual_seed(1)).tolist()
    even, _ = bucket(source="list", speeds=numbers, smoothing=smoothing)
    assert len(even["speeds"]) == 5000
    assert float(even["speeds"].mean()) == pytest.approx(np.mean(numbers), abs=0.01)
    assert even["speeds"].std() < 0.5 * np.std(numbers)


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_the_end_of_the_sound_leaves_its_beginning(bucket: Any, smoothing: float) -> None:
    sound = beats(50)
    changed = {**sound, "waveform": sound["waveform"].clone()}
    changed["waveform"][..., 40 * 16000 :] = 0.9
    before, _ = bucket(source="from the sound", audio=sound, smoothing=smoothing)
    after, _ = bucket(source="from the sound", audio=changed, smoothing=smoothing)
    assert len(before["speeds"]) == 1250
    assert torch.equal(before["speeds"][: 30 * 25], after["speeds"][: 30 * 25])
    assert not torch.equal(before["speeds"][41 * 25 :], after["speeds"][41 * 25 :])


def test_a_sound_stays_in_the_range(bucket: Any) -> None:
    sound = beats(6)
    sound["waveform"][..., 48000:] = 0
    value, _ = bucket(source="from the sound", audio=sound, slowest=0.3, fastest=0.8)
    speeds = value["speeds"]
    assert speeds.min() == pytest.approx(0.3) and 0.4 < speeds.max() <= 0.8
    assert speeds[:70].mean() > speeds[90:].mean() + 0.1
    usual, _ = bucket(source="from the sound", audio=sound)
    # The same liveliness, mapped to another range.
    alive = (usual["speeds"] - SLOWEST) / (FASTEST - SLOWEST)
    torch.testing.assert_close(speeds, 0.3 + 0.5 * alive, atol=1e-5, rtol=0)
    still, _ = bucket(source="from the sound", audio=sound, slowest=0.6, fastest=0.6)
    assert still["speeds"].unique().tolist() == [pytest.approx(0.6)]


def test_a_sound_of_any_rate_and_channels_has_its_own_length(bucket: Any) -> None:
    stereo = {"waveform": beats(1.01, 44100)["waveform"].repeat(1, 2, 1), "sample_rate": 44100}
    value, _ = bucket(source="from the sound", audio=stereo)
    assert value["times"].tolist() == pytest.approx([frame / 25 for frame in range(26)])


def test_the_preview_is_a_picture_whose_curve_moves_with_the_speed(
    bucket: Any, drawing: Any
) -> None:
    previews = [bucket(speed=speed)[1] for speed in (0.2, 0.6, 1.4)]
    for preview in previews:
        assert preview.ndim == 4 and preview.shape[0] == 1 and preview.shape[-1] == 3
        assert preview.dtype == torch.float32 and preview.min() >= 0 and preview.max() <= 1
    rows = [curve_row(drawing, preview) for preview in previews]
    assert rows[0] > rows[1] > rows[2]
    assert (rows[0] - rows[1]) * 2 == pytest.approx(rows[1] - rows[2], abs=3)


def test_the_preview_shows_when_the_speed_changes(bucket: Any, drawing: Any) -> None:
    _, preview = bucket(source="keyframes", keyframes="0:0.2, 5:0.2, 5.001:1.2, 10:1.2")
    half = preview.shape[2] // 2
    left, right = preview[:, :, : half - 40], preview[:, :, half + 80 :]
    assert curve_row(drawing, left) > curve_row(drawing, right) + 50


def test_the_heat_map_is_the_papers_formula(bucket: Any, drawing: Any) -> None:
    _, preview = bucket(speed=0.5)
    table = emo().speed
    colours = drawing.heat_colours(speed_vector(torch.tensor(0.5), table)).float() / 255
    pixels = preview[0, :, preview.shape[2] // 2]
    found = [row for row in range(len(pixels)) if torch.allclose(pixels[row], colours[3])]
    # From the bucket of centre 0.5, which is at 0, upwards the speed is ever more below.
    assert len(found) >= 10
    height = len(found)
    for step in (-3, -1, 1, 2, 5):
        row = found[height // 2] - step * height
        torch.testing.assert_close(pixels[row], colours[3 + step])


def test_heat_colours_are_told_apart(drawing: Any) -> None:
    colours = drawing.heat_colours(torch.linspace(-1, 1, 9))
    assert colours.shape == (9, 3) and colours.dtype == torch.uint8
    assert len({tuple(colour) for colour in colours.tolist()}) == 9


@pytest.mark.parametrize("times", [[0.0], [-3.0], [0.0, 0.01], [0.0, 86000.0]])
def test_every_length_can_be_drawn(drawing: Any, times: list[float]) -> None:
    speeds = torch.linspace(0, 10, len(times))
    preview = drawing.draw_speed(torch.tensor(times).double(), speeds, tiny().speed, "note " * 60)
    assert torch.isfinite(preview).all()
    curve_row(drawing, preview)


def test_a_connected_model_draws_its_own_buckets(bucket: Any, model_and_vae: Any) -> None:
    model, _ = model_and_vae
    without = bucket(speed=0.5)
    value, preview = bucket(speed=0.5, model=model)
    assert torch.equal(value["speeds"], without[0]["speeds"])
    # The smallest model has the usual table; only the sentence above differs.
    assert torch.equal(preview[:, 60:], without[1][:, 60:])
    assert not torch.equal(preview[:, :60], without[1][:, :60])


def test_a_model_that_does_nothing_with_speed_says_so(pack: ModuleType) -> None:
    speed = import_module(f"{pack.__name__}.speed")
    assert "has no speed layers" in speed.speed_warning(hallo(), {})
    untrained = speed.speed_warning(tiny(), {"stages": {"images": {}, "video": {}}})
    assert "emo-tiny" in untrained and "not trained" in untrained
    assert speed.speed_warning(tiny(), {"stages": {"speed": {}}}) is None
    assert speed.speed_warning(replace(emo(), name="mine"), {}) is None


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"source": "from the sound"}, "socket audio"),
        ({"source": "from the sound", "audio": beats(0)}, "empty"),
        (
            {"source": "from the sound",
             "audio": {"waveform": torch.full((1, 1, 9), math.nan), "sample_rate": 16000}},
            "NaN",
        ),
        (
            {"source": "from the sound", "audio": beats(1), "slowest": 1.0, "fastest": 0.2},
            "slowest must not be above fastest",
        ),
        ({"source": "list"}, "socket speeds"),
        ({"source": "list", "speeds": []}, "at least one number"),
        ({"source": "list", "speeds": [[0.1, 0.2]]}, "list of at least one number"),
        ({"source": "list", "speeds": ["fast"]}, "list of at least one number"),
        ({"source": "list", "speeds": [0.1, math.nan]}, "got nan at place 1 of 2"),
        ({"source": "list", "speeds": [0.1, 12.0, -1.0]}, "got 12 at place 1 of 3"),
        ({"source": "list", "speeds": [0.1], "fps": 0.0}, "fps must be above 0"),
        ({"source": "list", "speeds": [0.1], "smoothing": -1.0}, "smoothing must be 0 s or more"),
        ({"speed": 11.0}, "0 to 10 degrees per frame"),
        ({"speed": math.nan}, "0 to 10 degrees per frame"),
        ({"source": "keyframes", "keyframes": "soon"}, r"0:0\.2, 50:1\.1"),
        (
            {"source": "keyframes", "keyframes": "0:1, 90000:1", "smoothing": 1.0},
            "within 86400 s",
        ),
        (
            {"source": "keyframes", "keyframes": "0:1, 9:1", "smoothing": math.nan},
            "smoothing must be 0 s or more",
        ),
    ],
)  # fmt: skip
def test_what_lacks_is_said_in_a_sentence(
    bucket: Any, inputs: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        bucket(**inputs)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("rate", [16000, 22050])
def test_without_librosa_the_node_names_it(
    bucket: Any, monkeypatch: pytest.MonkeyPatch, rate: int
) -> None:
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(ValueError, match="needs the package librosa"):
        bucket(source="from the sound", audio=beats(1, rate))
    bucket(source="list", speeds=[0.5, 0.6], smoothing=1.0)


@pytest.mark.parametrize(
    ("keyframes", "sentence"),
    [("5:1, 0:1", "rising times"), ("0:99", "0 to 10"), ("0:0,5", "decimals take a point")],
)
def test_keyframes_are_checked_before_anything_runs(
    node: Any, bucket: Any, keyframes: str, sentence: str
) -> None:
    said = node.validate_inputs(keyframes=keyframes)
    assert isinstance(said, str) and sentence in said
    with pytest.raises(ValueError, match=sentence):
        bucket(source="keyframes", keyframes=keyframes)


@pytest.mark.parametrize("keyframes", [None, "", "0:0.2, 50:1.1"])
def test_validation_lets_the_rest_pass(node: Any, keyframes: str | None) -> None:
    assert node.validate_inputs(keyframes=keyframes) is True


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"slowest": 1.0, "fastest": 0.5}, "above fastest"),
        ({"slowest": -1.0, "fastest": 0.5}, "slowest must be 0 to 10"),
    ],
)
def test_a_range_that_is_none_is_refused(bucket: Any, inputs: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        bucket(source="from the sound", audio=beats(1), **inputs)


def test_no_keyframes_are_said_to_be_missing(bucket: Any) -> None:
    with pytest.raises(ValueError, match="keyframes is empty"):
        bucket(source="keyframes", keyframes=" ")


def test_a_socket_that_the_source_ignores_is_logged(
    bucket: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bucket(source="constant", audio=beats(1), speeds=[0.5])
    assert "audio is connected and not used" in caplog.text
    assert "speeds is connected and not used" in caplog.text


def test_every_socket_and_widget_is_explained(node: Any) -> None:
    schema = node.define_schema()
    assert schema.node_id == "SpeedBuckets" and schema.category == "EMO/motion"
    assert [entry.id for entry in schema.inputs] == [
        "source", "speed", "keyframes", "audio", "speeds", "fps", "smoothing", "slowest",
        "fastest", "model",
    ]  # fmt: skip
    for entry in [*schema.inputs, *schema.outputs]:
        assert entry.tooltip.endswith(".") and len(entry.tooltip) > 40
