"""Configurations: presets, JSON and back, refusals."""

import json
from dataclasses import replace

import pytest

from emo_core.config import EMOConfig, SpeedConfig
from emo_core.presets import emo, hallo, hallo2, tiny
from emo_core.weights import open_checkpoint


@pytest.mark.parametrize("make", [emo, hallo, hallo2, tiny])
def test_presets_survive_json(make) -> None:
    config = make()
    assert EMOConfig.from_json(config.to_json()) == config


def test_emo_has_the_papers_numbers() -> None:
    config = emo()
    assert (config.temporal.num_frames, config.temporal.num_motion_frames) == (12, 4)
    assert (config.audio.window, config.speed.window) == (2, 2)
    assert (config.frame_rate, config.picture_size, config.latent_size) == (30, 512, 64)
    assert (config.sampling.num_inference_steps, config.sampling.prediction) == (40, "epsilon")
    assert config.temporal.first_motion == "zeros"


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"name": 1}'])
def test_what_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"configuration|expects the fields"):
        EMOConfig.from_json(text)


@pytest.mark.parametrize(
    ("part", "value"),
    [("unet", None), ("unet", 3), ("speed", "fast"), ("name", {"a": 1}), ("temporal", [])],
)
def test_parts_of_the_wrong_kind_are_refused(part: str, value: object) -> None:
    values = json.loads(tiny().to_json())
    with pytest.raises(ValueError, match=part):
        EMOConfig.from_json(json.dumps({**values, part: value}))


def test_numbers_of_the_wrong_kind_are_refused() -> None:
    values = json.loads(tiny().to_json())
    values["unet"]["widths"] = 64
    with pytest.raises(ValueError, match="UNetConfig"):
        EMOConfig.from_json(json.dumps(values))


def test_a_configuration_of_before_a_field_came_is_read() -> None:
    values = json.loads(tiny().to_json())
    for part, field in (("unet", "reference_order"), ("temporal", "motion_mask")):
        del values[part][field]
    assert EMOConfig.from_json(json.dumps(values)) == tiny()


def test_unknown_and_missing_fields_are_named() -> None:
    values = json.loads(tiny().to_json())
    values["unet"]["colour"] = values["unet"].pop("num_heads")
    with pytest.raises(ValueError, match=r"missing \['num_heads'\], unknown \['colour'\]"):
        EMOConfig.from_json(json.dumps(values))


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("unet", {"norm_groups": 24}, "norm_groups=24"),
        ("unet", {"num_heads": 7}, "num_heads=7"),
        ("unet", {"attention_levels": (0, 2)}, "attention_levels"),
        ("unet", {"face_tokens": 4}, "concat"),
        ("unet", {"reference_attention": "concat"}, "position_grid"),
        ("audio", {"num_tokens": 4}, "num_tokens=4"),
        ("temporal", {"num_frames": 31}, "max_positions"),
        ("temporal", {"num_frames": 3}, "num_motion_frames=4"),
        ("temporal", {"motion_mask": 0.25}, "needs hand_over 'pixels'"),
        ("temporal", {"motion_mask": 1.0, "hand_over": "pixels"}, "0 to 1"),
        ("speed", {"radii": (1.0,)}, "one radius"),
        ("speed", {"centres": (), "radii": ()}, "one radius"),
        ("speed", {"centres": (1.0, 0.0), "radii": (1.0, 1.0)}, "rise"),
        ("speed", {"centres": (0.0,), "radii": (0.0,)}, "above 0"),
        ("sampling", {"schedule": "linear_zero_snr", "prediction": "epsilon"}, "v_prediction"),
        ("sampling", {"prediction": "v"}, "one of epsilon, v_prediction, got 'v'"),
        ("unet", {"reference_attention": "layers"}, "one of layer, concat, got 'layers'"),
        ("audio", {"windows": "file"}, "one of grid, whole_file, pieces_60s, got 'file'"),
        ("temporal", {"first_motion": "zero"}, "one of zeros, image, got 'zero'"),
        ("temporal", {"joins": "auto"}, "one of plain, quiet, overlap, got 'auto'"),
        ("locator", {"place": "latent"}, "one of conv_in, latents, got 'latent'"),
    ],
)
def test_contradictions_are_refused(part: str, change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(getattr(tiny(), part), **change)


def test_a_model_without_speed_layers_survives_json() -> None:
    config = replace(tiny(), speed=None)
    assert EMOConfig.from_json(config.to_json()).speed is None
    assert isinstance(EMOConfig.from_json(tiny().to_json()).speed, SpeedConfig)


def test_the_shipped_checkpoint_is_of_the_preset() -> None:
    _, config = open_checkpoint("emo-tiny")
    assert config == tiny()
