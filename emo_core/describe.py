"""What a weight file is and what a film of it takes, in plain values, for `emo info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from .audio import AudioEncoder
from .config import EMOConfig
from .film_size import film_size
from .hallo_files import ORIGIN, Variant, as_checkpoint, is_hallo
from .memory import memory_of
from .model import EMO
from .pictures import Size
from .vae_config import VAEConfig
from .wav2vec import Wav2Vec2Encoder
from .weight_files import EMO_KIND, HALLO_KIND, WeightFile, kind_of, open_weights
from .weight_fit import check_fit
from .weights import FORMAT, find_checkpoint, open_checkpoint, skeleton, training_record

_PREFIXES = ("model.", "vae.", "audio_encoder.")


def describe_checkpoint(path_or_name: str | Path, variant: Variant = "auto") -> dict[str, Any]:
    """What a weight file is, as plain values for `emo info`; of any kind, ours or not.

    Args:
        path_or_name: a file, or the name of an embedded model.
        variant: of Hallo's weights; see hallo_files.decide().

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read at all, or is another model's and a variant was chosen.
    """
    file = open_weights(find_checkpoint(path_or_name))
    facts: dict[str, Any] = {"file": str(file.path), "parameters": file.num_parameters}
    if file.header.get("format") == FORMAT:
        return {**facts, "kind": EMO_KIND, **_of_network(*open_checkpoint(file.path, variant))}
    kind = kind_of(file.shapes)
    if not is_hallo(file.shapes):
        return {**facts, "kind": kind.name, "runs_here": False, "advice": kind.advice}
    facts["kind"] = HALLO_KIND
    try:
        file = as_checkpoint(file, variant)
        config = EMOConfig.from_json(file.header["emo_config"])
        check_fit(file, {"model.": EMO(config, device="meta")})
    except ValueError as error:
        return {**facts, "runs_here": False, "fault": str(error)}
    facts |= {"taken_as": file.header[ORIGIN], "advice": kind.advice}
    return facts | _of_network(file, config)


def describe_memory(
    path_or_name: str | Path,
    dtype: torch.dtype = torch.float16,
    size: Size | None = None,
    variant: Variant = "auto",
    seconds: int = 60,
) -> dict[str, Any]:
    """What a film of a checkpoint takes, in MB of 10^6 bytes by part; see memory.Memory.

    For weights that bring no VAE and no audio encoder those are counted that they were made for:
    SD 1.5's, and wav2vec2-base in single precision.

    Args:
        path_or_name: the checkpoint; none of its weights is read.
        dtype: what it is kept and computed in.
        size: rows and columns of the film; None for the model's own square.
        variant: of Hallo's weights; see hallo_files.decide().
        seconds: of the film's sound, 1 or more; see memory.memory_of().

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint that runs here, or makes no films of that size.
    """
    if seconds < 1:
        raise ValueError(f"a film's sound has 1 s or more, got {seconds}")
    file, config = open_checkpoint(path_or_name, variant)
    parts = skeleton(file, config, dtype, "meta")
    encoder = parts.get("audio_encoder.")
    assert encoder is None or isinstance(encoder, AudioEncoder)
    if encoder is None and config.audio.encoder == "wav2vec2":
        width = config.audio.layer_width
        settings = {
            "num_hidden_layers": config.audio.num_layers, "hidden_size": width,
            "num_attention_heads": max(width // 64, 1),
        }  # fmt: skip
        encoder = Wav2Vec2Encoder(settings, config.audio.alignment, True, device="meta")
    vae = None
    if "vae_config" in file.header:
        vae = VAEConfig.from_json(file.header["vae_config"])
    own = (config.picture_size, config.picture_size)
    rows, columns = film_size(config, size, own)
    found = memory_of(config, dtype, (rows, columns), vae, encoder, seconds)
    return {
        "of_a_film": f"{columns}x{rows}, {config.temporal.num_frames} frames a clip, "
        f"{str(dtype).removeprefix('torch.')}, in MB",
        "weights": _megabytes(found.weights),
        "kept": _megabytes(found.kept),
        "work": _megabytes(found.work),
        "peak": round(found.peak / 1e6),
    }


def _megabytes(sizes: dict[str, int]) -> dict[str, float]:
    return {name: round(size / 1e6, 1) for name, size in sizes.items()}


def _of_network(file: WeightFile, config: EMOConfig) -> dict[str, Any]:
    """What a network's configuration and its parts say."""
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
        "joins": config.temporal.joins,
        "steps": config.sampling.num_inference_steps,
        "cfg": config.sampling.guidance_scale,
        "speed_buckets": speed and {"centres": speed.centres, "radii": speed.radii},
        "training": training_record(file.header),
        "config": json.loads(config.to_json()),
    }
