"""SpeedBuckets: the head speed over time that speed layers are told (EMO, "Speed Layers")."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..emo_core.config import EMOConfig, SpeedConfig
from ..emo_core.presets import emo
from ..emo_core.rhythm import FASTEST, SLOWEST, speed_from_sound
from ..emo_core.speed import check_speeds, parse_speed, smooth, smooth_keyframes
from ..emo_core.waveform import num_frames
from .compat import Schema, io, ui
from .drawing import draw_speed
from .host import parts_of
from .sockets import Speed, pack_speed
from .waveform import cut_audio

logger = logging.getLogger(__name__)

SOURCES = ["constant", "keyframes", "from the sound", "list"]

Floats = io.Custom("FLOATS")
"""A list of numbers as one value, as core's hook keyframes take it; other packs say FLOAT."""

_SOUND_RATE = 25
"""Speeds a second that are taken from a sound."""

Curve = tuple[Tensor, Tensor]
"""Times (N,) in seconds and speeds (N,)."""


class SpeedBuckets(io.ComfyNode):
    """How fast the head turns, over time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        unit = "degrees of head rotation per frame at 30 fps"
        return Schema(
            node_id="SpeedBuckets",
            display_name="EMO Speed Buckets",
            category="EMO/motion",
            description="How fast the head turns, over time: one number, keyframes, the rhythm and "
            "loudness of a sound, or a list of another node.",
            search_aliases=["head speed", "head motion", "speed layers", "EMO speed"],
            inputs=[
                io.Combo.Input(
                    "source", options=SOURCES, default="constant",
                    tooltip="Where the head speed comes from: one number for the whole film, "
                    "keyframes that you write, the rhythm and loudness of the sound, or a list of "
                    "numbers from another node.",
                ),
                io.Float.Input(
                    "speed", default=0.5, min=0.0, max=10.0, step=0.01,
                    tooltip=f"For the source constant: {unit}, 0 to 10; the paper recommends 0.1 "
                    "to 1.0 for speech, 1.0 to 1.3 for singing, and warns of jitter above 1.5.",
                ),
                io.String.Input(
                    "keyframes", default="0:0.2, 5:1.1", multiline=True,
                    tooltip="For the source keyframes: seconds:speed, separated by commas or "
                    f"lines, times rising, speeds in {unit} from 0 to 10; straight lines between "
                    "them, and the first and last are held.",
                ),
                io.Audio.Input(
                    "audio", optional=True,
                    tooltip="For the source from the sound: the sound of the film, cut to it "
                    "(audio of EMO Load Audio Embedding), because second 0 is the film's first "
                    "frame.",
                ),
                io.MultiType.Input(
                    io.Float.Input(
                        "speeds", optional=True, force_input=True,
                        tooltip=f"For the source list: a list of numbers as one value, {unit} from "
                        "0 to 10, one for each frame at the fps below; the last is held.",
                    ),
                    types=[io.Float, Floats],
                ),
                io.Float.Input(
                    "fps", default=25.0, min=0.01, max=1000.0, step=0.01,
                    tooltip="For the source list: how many numbers of the list make a second; "
                    "change it to the frame rate the list was made for.",
                ),
                io.Float.Input(
                    "smoothing", default=0.0, min=0.0, max=5.0, step=0.01,
                    tooltip="Seconds (standard deviation of a Gaussian), 0 to 5, over which the "
                    "speed is evened out; raise it when the head speeds up and slows down too "
                    "suddenly, 0 leaves the speed as it is.",
                ),
                io.Float.Input(
                    "slowest", default=SLOWEST, min=0.0, max=10.0, step=0.01,
                    tooltip=f"For the source from the sound: {unit} in silence, 0 to 10; raise it "
                    "when the head freezes in pauses.",
                ),
                io.Float.Input(
                    "fastest", default=FASTEST, min=0.0, max=10.0, step=0.01,
                    tooltip=f"For the source from the sound: {unit} in the loudest, most accented "
                    "sound, 0 to 10; lower it when the head is too lively.",
                ),
                io.Model.Input(
                    "model", optional=True,
                    tooltip="Changes the preview only: the buckets of this model are drawn, and "
                    "the preview says when it has no trained speed layers.",
                ),
            ],
            outputs=[
                Speed.Output(
                    "speed_out", display_name="speed",
                    tooltip=f"The head speed over time, in {unit} against seconds, for "
                    "EMO Conditioning, EMO Sampler or EMO Motion Frame Looper.",
                ),
                io.Image.Output(
                    "preview", display_name="preview",
                    tooltip="A picture of the speed over seconds, and below it how far each "
                    "bucket is on, from -1 to +1; the same that the node shows.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, keyframes: str | None = None) -> bool | str:
        """True, or a sentence; a value that comes over a link is None here.

        Of one input only: the host shows the sentence at every input that is named here.
        """
        try:
            if keyframes is not None and keyframes.strip():
                parse_speed(keyframes)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, source: str, speed: float, keyframes: str, fps: float, smoothing: float,
        slowest: float, fastest: float, audio: Any = None, speeds: Any = None, model: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        """Make the curve of the source, and draw it."""
        for socket, value, user in (("audio", audio, SOURCES[2]), ("speeds", speeds, SOURCES[3])):
            if value is not None and source != user:
                logger.warning(
                    "EMO Speed Buckets: %s is connected and not used, because source is %r; choose "
                    "%r",
                    socket, source, user,
                )  # fmt: skip
        if source == "keyframes":
            times, curve = _from_keyframes(keyframes, smoothing)
        elif source == "from the sound":
            times, curve = _from_sound(audio, smoothing, slowest, fastest)
        elif source == "list":
            times, curve = _from_list(speeds, fps, smoothing)
        else:
            times, curve = torch.zeros(1), torch.tensor([float(speed)])
        value = pack_speed(times, check_speeds(curve))
        buckets, note = _buckets_of(model)
        preview = draw_speed(value["times"], value["speeds"], buckets, note)
        return io.NodeOutput(value, preview, ui=ui.PreviewImage(preview, cls=cls))


def speed_warning(config: EMOConfig, training: Mapping[str, Any]) -> str | None:
    """A sentence if a model does nothing with a head speed, else None.

    Args:
        config: the model's.
        training: how the checkpoint was trained; one without "stages" counts as fully trained.
    """
    if config.speed is None:
        return f"{config.name} has no speed layers: a head speed changes nothing in it."
    if "speed" not in training.get("stages", {"speed": {}}):
        return (
            f"The speed layers of this {config.name} checkpoint are not trained: a head speed "
            "changes nothing in it."
        )
    return None


def _buckets_of(model: Any) -> tuple[SpeedConfig, str]:
    """The bucket table to draw, and the sentence above it."""
    usual = emo().speed
    assert usual is not None
    if model is None:
        return usual, "Buckets of this pack's own table; connect MODEL to see those of its weights."
    parts = parts_of(model)
    warning = speed_warning(parts.config, parts.training)
    if warning is not None:
        logger.warning("EMO Speed Buckets: %s", warning)
    return parts.config.speed or usual, warning or f"Buckets of {parts.config.name}."


def _from_keyframes(text: str, smoothing: float) -> Curve:
    if not text.strip():
        raise ValueError(
            'source is "keyframes" and keyframes is empty; write seconds and speeds such as '
            '"0:0.2, 50:1.1", or choose another source'
        )
    parsed = parse_speed(text)
    if isinstance(parsed, float):
        return torch.zeros(1), torch.tensor([parsed])
    if smoothing != 0 and len(parsed) > 1:
        return smooth_keyframes(parsed, smoothing)
    times, values = zip(*parsed, strict=True)
    return torch.tensor(times, dtype=torch.float64), torch.tensor(values)


def _from_sound(audio: Any, smoothing: float, slowest: float, fastest: float) -> Curve:
    if audio is None:
        raise ValueError(
            "source is 'from the sound' and nothing is connected to the socket audio (or the film "
            "there has no sound); connect the audio of EMO Load Audio Embedding or choose another "
            "source"
        )
    sound = cut_audio(audio, 0.0, 0.0)
    waveform, rate = sound.waveform, sound.sample_rate
    count = num_frames(waveform.shape[-1], rate, _SOUND_RATE)
    try:
        speeds = speed_from_sound(waveform, rate, count, _SOUND_RATE, slowest, fastest)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the head speed from the sound needs the package {error.name}, which is not installed "
            "in ComfyUI's Python; install it (pip install librosa) or choose another source"
        ) from None
    return _evenly_timed(speeds, _SOUND_RATE, smoothing)


def _from_list(speeds: Any, fps: float, smoothing: float) -> Curve:
    if speeds is None:
        raise ValueError(
            "source is 'list' and nothing is connected to the socket speeds; connect a list of "
            "numbers or choose another source"
        )
    # Tables and series of numbers know how to become plain ones.
    plain = speeds.tolist() if hasattr(speeds, "tolist") else speeds
    try:
        values = torch.as_tensor(plain).detach().to("cpu", torch.float32)
    except (TypeError, ValueError, RuntimeError):
        values = torch.empty(0)
    if values.ndim > 1 or values.numel() == 0:
        raise ValueError(
            "speeds must be a number or a list of at least one number, one for each frame, "
            f"got {str(speeds)[:60]}; connect a node that gives such a list"
        )
    if not fps > 0:
        raise ValueError(f"fps must be above 0, got {fps:g}; give the frame rate of the list")
    return _evenly_timed(check_speeds(values.reshape(-1)), fps, smoothing)


def _evenly_timed(speeds: Tensor, rate: float, smoothing: float) -> Curve:
    """Smoothed speeds with their times, the first at second 0."""
    times = torch.arange(len(speeds), dtype=torch.float64) / rate
    return times, smooth(speeds.double(), rate, smoothing).float()
