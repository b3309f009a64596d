"""The pack's own socket types: plain dicts of tensors with a version, which other packs can make.

    EMO_AUDIO      features (F, L, D) float32, fps, encoder, alignment; may have levels (F,) int64,
                   how loud each frame is, and `beyond` (P, L, D), what is heard in the silence that
                   fills up the last clip (Hallo)
    EMO_SPEED      times (N,) in seconds, rising; speeds (N,) in degrees per frame at 30 fps, linear
                   between the times and held at both ends
    EMO_REFERENCE  model, what it was encoded by; latents (r, C, h, w) of the portrait and of more
                   pictures of the person; features, (1, C', r * h', w') of every spot; picture
                   (H, W) and the window (left, top, width, height) cut out of it, in its pixels,
                   None where the whole picture was stretched; may have `face` (1, D), the face
                   embedding that was seen, and `pixels` (1, 3, H, W) in 0..1, the portrait itself
                   (Hallo2)
    EMO_FACE       embedding (1, D) float32 of the portrait's face; recogniser, whose it is
    EMO_CROP       picture (1, H, W, 3), whole, 0..1; square (left, top, side) cut out of it, in its
                   pixels
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..emo_core.audio import AudioFeatures
from ..emo_core.config import EMOConfig
from ..emo_core.finite import all_finite
from ..emo_core.pictures import Square, Window
from ..emo_core.speed import speed_curve
from .compat import io

VERSION = 1

Audio = io.Custom("EMO_AUDIO")
Reference = io.Custom("EMO_REFERENCE")
Speed = io.Custom("EMO_SPEED")
Face = io.Custom("EMO_FACE")
Crop = io.Custom("EMO_CROP")

_ENTRIES = {
    "EMO_AUDIO": {"features", "fps", "encoder", "alignment"},
    "EMO_SPEED": {"times", "speeds"},
    "EMO_REFERENCE": {"model", "latents", "features", "picture", "window"},
    "EMO_FACE": {"embedding", "recogniser"},
    "EMO_CROP": {"picture", "square"},
}
_MADE_BY = {
    "EMO_AUDIO": "EMO Load Audio Embedding",
    "EMO_SPEED": "EMO Speed Buckets",
    "EMO_REFERENCE": "EMO ReferenceNet Encode",
    "EMO_FACE": "EMO Load Face Embedding",
    "EMO_CROP": "EMO Portrait Crop",
}


def pack_audio(heard: AudioFeatures, levels: Tensor | None = None) -> dict[str, Any]:
    """EMO_AUDIO from what an audio encoder heard; what is behind the film's frames stays apart.

    Args:
        heard: features of every frame.
        levels: (F,), joins.sound_levels() of the film; None if nobody knows.
    """
    count = heard.num_frames
    told = {} if levels is None else {"levels": levels.cpu()}
    made = {
        **told,
        "version": VERSION,
        "features": heard.features[:count].float().cpu(),
        "fps": float(heard.frame_rate),
        "encoder": heard.encoder,
        "alignment": heard.alignment,
    }
    if len(heard.features) > count:
        made["beyond"] = heard.features[count:].float().cpu()
    return made


def unpack_audio(value: Any, config: EMOConfig, encoder: str | None) -> Tensor:
    """Features (F, L, D) of an EMO_AUDIO, checked against the model.

    Args:
        value: of the socket.
        config: of the model.
        encoder: description of the model's own audio encoder; None for weights that hear with any
            encoder of their shape.

    Raises:
        ValueError: if something differs; both sides are named.
    """
    _check("EMO_AUDIO", value)
    features, audio = value["features"], config.audio
    shape = (audio.num_layers, audio.layer_width)
    if features.ndim != 3 or len(features) == 0 or tuple(features.shape[1:]) != shape:
        raise ValueError(
            f"the audio embedding has the shape {tuple(features.shape)} (frames, layers, width), "
            f"and {config.name} hears {shape[0]} layers of {shape[1]}; connect MODEL to "
            "EMO Load Audio Embedding, so that it hears with the model's own encoder"
        )
    pairs = [("alignment", value["alignment"], audio.alignment),
             ("frame rate", value["fps"], float(config.frame_rate))]  # fmt: skip
    if encoder is not None:
        pairs.append(("audio encoder", value["encoder"], encoder))
    for name, got, wanted in pairs:
        if got != wanted:
            raise ValueError(
                f"the audio embedding has the {name} {got}, and {config.name} was trained with "
                f"{wanted}; connect MODEL to EMO Load Audio Embedding"
            )
    if not all_finite(features):
        raise ValueError("the audio embedding holds NaN or infinite numbers; encode it again")
    return torch.as_tensor(features)


def unpack_levels(value: Any) -> Tensor | None:
    """How loud each frame (F,) of an EMO_AUDIO is, if it says so; unpack_audio() comes before.

    Raises:
        ValueError: if it says something else.
    """
    levels = value.get("levels")
    if levels is not None and tuple(levels.shape) != (len(value["features"]),):
        raise ValueError(
            f"the audio embedding has {len(value['features'])} frames and levels of the shape "
            f"{tuple(levels.shape)}; encode it again with EMO Load Audio Embedding"
        )
    return None if levels is None else torch.as_tensor(levels)


def with_beyond(features: Tensor, value: Mapping[str, Any]) -> Tensor:
    """Features (F, L, D) of an EMO_AUDIO, and behind them what is heard after the film's end.

    Raises:
        ValueError: if that is of another shape, or holds NaN.
    """
    beyond = value.get("beyond")
    if beyond is None:
        return features
    if beyond.shape[1:] != features.shape[1:] or not bool(torch.isfinite(beyond).all()):
        raise ValueError(
            f"the audio embedding has features of {tuple(features.shape)} and behind the film "
            f"{tuple(beyond.shape)} that do not fit or hold NaN; make it again with "
            "EMO Load Audio Embedding"
        )
    return torch.cat([features, beyond])


def pack_speed(times: Tensor, speeds: Tensor) -> dict[str, Any]:
    """EMO_SPEED from times (N,) in seconds and speeds (N,) in degrees per frame at 30 fps."""
    return {"version": VERSION, "times": times.double().cpu(), "speeds": speeds.float().cpu()}


def unpack_speed(value: Any, num_frames: int, frame_rate: float) -> Tensor:
    """The speed of every frame (num_frames,) of an EMO_SPEED.

    Raises:
        ValueError: if it is none, or its times do not rise.
    """
    _check("EMO_SPEED", value)
    times, speeds = value["times"], value["speeds"]
    if times.ndim != 1 or times.shape != speeds.shape or len(times) == 0:
        raise ValueError(
            f"a head speed needs one speed for each time, got times {tuple(times.shape)} and "
            f"speeds {tuple(speeds.shape)}"
        )
    finite = bool(torch.isfinite(times).all() and torch.isfinite(speeds).all())
    if not finite or bool((times.diff() <= 0).any()) or bool((speeds < 0).any()):
        raise ValueError(
            "a head speed needs rising times in seconds and speeds of 0 or more degrees per frame"
        )
    return speed_curve(list(zip(times.tolist(), speeds.tolist(), strict=True)), num_frames,
                       frame_rate)  # fmt: skip


def pack_reference(
    model: str, latents: Tensor, features: Mapping[str, Tensor], picture: tuple[int, int],
    window: Window | None, face: Tensor | None = None, pixels: Tensor | None = None,
) -> dict[str, Any]:  # fmt: skip
    """EMO_REFERENCE of a portrait.

    Args:
        model: identity of the model that encoded it.
        latents: (r, C, h, w), the portrait's and those of more pictures of the person.
        features: ReferenceNet's, by the name of the spot.
        picture: height and width in pixels of the picture that the portrait was cut from.
        window: what was cut out of it, in its pixels; None if all of it was stretched.
        face: (1, D), the face embedding that ReferenceNet saw; None for none.
        pixels: (1, 3, S, S) in 0..1, for weights that see the portrait itself again; None for none.
    """
    more = {"face": face, "pixels": pixels}
    return {
        **{name: tensor.cpu() for name, tensor in more.items() if tensor is not None},
        "version": VERSION,
        "model": model,
        "latents": latents.cpu(),
        "features": {name: tensor.cpu() for name, tensor in features.items()},
        "picture": picture,
        "window": window,
    }


def unpack_reference(value: Any, model: str) -> dict[str, Any]:
    """An EMO_REFERENCE that this model encoded.

    Raises:
        ValueError: if it is none, or another model's; both are named.
    """
    _check("EMO_REFERENCE", value)
    if value["model"] != model:
        raise ValueError(
            f"the reference was encoded by {value['model']} and is sampled with {model}; connect "
            "the same MODEL to EMO ReferenceNet Encode"
        )
    return dict(value)


def pack_face(embedding: Tensor, recogniser: str) -> dict[str, Any]:
    """EMO_FACE of an embedding (D,) or (1, D), and the name of the recogniser that made it."""
    return {
        "version": VERSION,
        "embedding": embedding.flatten()[None].float().cpu(),
        "recogniser": recogniser,
    }


def unpack_face(value: Any, config: EMOConfig) -> Tensor:
    """The embedding (1, D) of an EMO_FACE, checked against a model that sees one.

    Raises:
        ValueError: if it is none, of another width, or holds NaN.
    """
    _check("EMO_FACE", value)
    embedding, width = value["embedding"], config.unet.face_embedding_width
    if tuple(embedding.shape) != (1, width) or not bool(torch.isfinite(embedding).all()):
        raise ValueError(
            f"the face embedding of {value['recogniser']} is {tuple(embedding.shape)}, and "
            f"{config.name} sees one of (1, {width}) without NaN; give that of InsightFace, which "
            "its weights were trained with"
        )
    return torch.as_tensor(embedding).float()


def pack_crop(picture: Tensor, square: Square) -> dict[str, Any]:
    """EMO_CROP of a picture (1, H, W, 3) and the square (left, top, side) cut out of it."""
    return {"version": VERSION, "picture": picture.cpu(), "square": square}


def unpack_crop(value: Any) -> tuple[Tensor, Square]:
    """Picture (1, H, W, 3) and square of an EMO_CROP.

    Raises:
        ValueError: if it is none, or its square lies outside of its picture.
    """
    _check("EMO_CROP", value)
    picture, square = value["picture"], tuple(value["square"])
    left, top, side = square
    height, width = picture.shape[1:3]
    if min(left, top) < 0 or side < 1 or left + side > width or top + side > height:
        raise ValueError(
            f"the crop's square {square} (left, top, side) lies outside of its picture of "
            f"{width}x{height} pixels; make it again with EMO Portrait Crop"
        )
    return picture, (left, top, side)


def _check(kind: str, value: Any) -> None:
    entries, node = _ENTRIES[kind], _MADE_BY[kind]
    if not isinstance(value, Mapping) or not entries <= value.keys():
        lacking = sorted(entries - set(value)) if isinstance(value, Mapping) else sorted(entries)
        raise ValueError(f"{kind} lacks {', '.join(lacking)}; connect the output of {node}")
    if value.get("version") != VERSION:
        raise ValueError(
            f"{kind} has version {value.get('version')}, this pack reads version {VERSION}; "
            f"make it again with {node}"
        )
