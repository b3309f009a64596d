"""What a weight file is, in plain values, for `emo info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from .config import EMOConfig
from .hallo_files import ORIGIN, as_checkpoint, is_hallo
from .model import EMO
from .weight_files import EMO_KIND, HALLO_KIND, WeightFile, kind_of, open_weights
from .weights import FORMAT, check_fit, find_checkpoint, training_record

_PREFIXES = ("model.", "vae.", "audio_encoder.")


def describe_checkpoint(path_or_name: str | Path) -> dict[str, Any]:
    """What a weight file is, as plain values for `emo info`; of any kind, ours or not.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read at all.
    """
    file = open_weights(find_checkpoint(path_or_name))
    facts: dict[str, Any] = {"file": str(file.path), "parameters": file.num_parameters}
    if file.header.get("format") == FORMAT:
        return {**facts, "kind": EMO_KIND, **_of_network(file)}
    kind = kind_of(file.shapes)
    if not is_hallo(file.shapes):
        return {**facts, "kind": kind.name, "runs_here": False, "advice": kind.advice}
    facts["kind"] = HALLO_KIND
    try:
        file = as_checkpoint(file)
        config = EMOConfig.from_json(file.header["emo_config"])
        check_fit(file, {"model.": EMO(config, device="meta")})
    except ValueError as error:
        return {**facts, "runs_here": False, "fault": str(error)}
    return {**facts, "taken_as": file.header[ORIGIN], "advice": kind.advice, **_of_network(file)}


def _of_network(file: WeightFile) -> dict[str, Any]:
    """What a network's configuration and its parts say."""
    config = EMOConfig.from_json(file.header["emo_config"])
    parts = {
        prefix[:-1]: sum(
            torch.Size(shape).numel() for n, shape in file.shapes.items() if n.startswith(prefix)
        )
        for prefix in _PREFIXES
    }
    speed = config.speed
    return {
        # What Hallo's weights lack, --vae and --audio-encoder bring.
        "runs_here": all(parts.values()) or config.audio.attention == "masked3",
        "name": config.name,
        "parameters_of": parts,
        "picture_size": config.picture_size,
        "frame_rate": config.frame_rate,
        "clip": config.temporal.num_frames,
        "motion_frames": config.temporal.num_motion_frames,
        "steps": config.sampling.num_inference_steps,
        "cfg": config.sampling.guidance_scale,
        "speed_buckets": speed and {"centres": speed.centres, "radii": speed.radii},
        "training": training_record(file.header),
        "config": json.loads(config.to_json()),
    }
