"""Which encoder hears: the model's own, the built-in one, a file's or a connected one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ..emo_core.audio import AudioEncoder, AudioFeatures, Windows, encode_windows
from ..emo_core.config import EMOConfig
from ..emo_core.wav2vec import load_wav2vec2
from .encoders import host_wav2vec2
from .host import EMOParts, check_interrupted, file_stamp, on_device
from .load import embedded_hearing

logger = logging.getLogger(__name__)

FROM_MODEL, BUILT_IN = "from the model", "built-in (emo-tiny)"
AUTOMATIC = "automatic"
ALIGNMENTS = {AUTOMATIC: None, "before the transformer": "before",
              "after the transformer": "after"}  # fmt: skip
FOLDER = "audio_encoders"
BUILT_IN_RATE = 25
_WEIGHTS = "the model.safetensors of facebook/wav2vec2-base-960h"


@dataclass(frozen=True)
class Hearing:
    """An encoder, and what the host moves it by.

    Attributes:
        encoder: what hears.
        patcher: holds the encoder or, for the host's own, the modules that it runs.
    """

    encoder: AudioEncoder
    patcher: comfy.model_patcher.ModelPatcher


def encoder_names() -> list[str]:
    """The encoders to choose from: the model's, the built-in, every .safetensors of the folder."""
    files = folder_paths.get_filename_list(FOLDER)
    return [FROM_MODEL, BUILT_IN, *(name for name in files if name.endswith(".safetensors"))]


def find_frame_rate(fps: float, config: EMOConfig | None) -> Fraction:
    """Frames a second; 0 is the model's own, or 25 without a model.

    Raises:
        ValueError: if the model was trained with another rate.
    """
    trained = BUILT_IN_RATE if config is None else config.frame_rate
    if fps == 0:
        return Fraction(trained)
    rate = Fraction(fps).limit_denominator(1001)
    if config is not None and rate != trained:
        raise ValueError(
            f"fps is {fps:g}, and {config.name} was trained with {trained} frames a second; set "
            "fps to 0, and bring the finished film to another rate if you need one"
        )
    return rate


def find_alignment(choice: str, config: EMOConfig | None) -> str | None:
    """`before` or `after` the transformer; None leaves it to the encoder.

    Raises:
        ValueError: if the choice is unknown, or the model was trained with the other.
    """
    if choice not in ALIGNMENTS:
        raise ValueError(f"alignment must be one of {', '.join(ALIGNMENTS)}, got {choice!r}")
    wanted = ALIGNMENTS[choice]
    if config is None:
        return wanted
    trained = config.audio.alignment
    if wanted not in (None, trained):
        raise ValueError(
            f"alignment is {wanted} the transformer, and {config.name} was trained with "
            f"{trained}; set alignment to {AUTOMATIC!r}"
        )
    return trained


def choose_hearing(
    parts: EMOParts | None, name: str, audio_encoder: Any, alignment: str | None
) -> Hearing:
    """The encoder that hears.

    Args:
        parts: of the connected model, if there is one.
        name: one of encoder_names().
        audio_encoder: the host's AUDIO_ENCODER, which goes before the name; None for none.
        alignment: from find_alignment(). Left open, a file and an AUDIO_ENCODER align before the
            transformer, as the published weights of EMO's family were trained.

    Raises:
        ValueError: if the encoder lacks what was asked for, or does not fit the model.
        FileNotFoundError: if the chosen file is not there.
    """
    if audio_encoder is not None:
        encoder = host_wav2vec2(audio_encoder, alignment or "before")
        hearing = Hearing(encoder, audio_encoder.patcher)
    elif name == FROM_MODEL and parts is not None:
        return _owned(_own(parts), alignment)
    elif name in (FROM_MODEL, BUILT_IN):
        hearing = _owned(embedded_hearing(), alignment)
    else:
        hearing = _from_file(name, alignment or "before")
    if parts is not None:
        encoder = hearing.encoder
        check_fits(parts, encoder.num_layers, encoder.width, encoder.description)
    return hearing


def check_fits(parts: EMOParts, num_layers: int, width: int, description: str) -> None:
    """Refuse another encoder's features for a model that was trained with one.

    Raises:
        ValueError: if their shape is another, or the model brings another encoder of its own.
    """
    audio = parts.config.audio
    own = None if parts.hearing is None else parts.hearing.model.description
    if (num_layers, width) == (audio.num_layers, audio.layer_width) and own in (None, description):
        if own is not None:
            logger.warning(
                "%s brings its own audio encoder and another of the same shape hears; unless their "
                "weights are the same, choose %r", parts.config.name, FROM_MODEL,
            )  # fmt: skip
        return
    way_out = (
        f"load a wav2vec2 of that size, e.g. {_WEIGHTS} (12 layers of 768)"
        if own is None
        else f"choose {FROM_MODEL!r} as encoder and disconnect the others"
    )
    raise ValueError(
        f"{description} gives {num_layers} layers of {width}, and {parts.config.name} was trained "
        f"with {own or audio.encoder}, {audio.num_layers} layers of {audio.layer_width}; {way_out}"
    )


def listen(
    hearing: Hearing, waveform: Tensor, num_frames: int, frame_rate: Fraction, windows: Windows
) -> AudioFeatures:
    """Hear a sound (T,) at 16 kHz window by window, with progress, until the user interrupts."""
    on_device(hearing.patcher, whole=True)
    progress = comfy.utils.ProgressBar(num_frames)
    pieces = []
    for first, heard in encode_windows(
        hearing.encoder, waveform, num_frames, frame_rate, windows
    ):  # fmt: skip
        pieces.append(heard.to("cpu", torch.float32))
        progress.update_absolute(first + len(heard))
        check_interrupted()
    # Published weights' windows count frames on the resampled sound, which can be one fewer.
    missing = max(0, num_frames - sum(map(len, pieces)))
    features = torch.cat([*pieces, pieces[-1][-1:].expand(missing, -1, -1)])
    encoder = hearing.encoder
    return AudioFeatures(
        features, num_frames, frame_rate, encoder.description, encoder.alignment
    )  # fmt: skip


def _own(parts: EMOParts) -> comfy.model_patcher.ModelPatcher:
    if parts.hearing is None:
        raise ValueError(
            f"{parts.config.name} brings no audio encoder; connect AUDIO_ENCODER, or put "
            f"{_WEIGHTS} into {_folder()} and choose it as encoder"
        )
    return parts.hearing


def _owned(patcher: comfy.model_patcher.ModelPatcher, alignment: str | None) -> Hearing:
    """An encoder that was trained together with a model, and aligns as it was trained."""
    encoder = patcher.model
    if alignment not in (None, encoder.alignment):
        raise ValueError(
            f"alignment is {alignment} the transformer, and {encoder.description} was trained with "
            f"{encoder.alignment}; set alignment to {AUTOMATIC!r}, or choose another encoder"
        )
    return Hearing(encoder, patcher)


def _from_file(name: str, alignment: str) -> Hearing:
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None or not name.endswith(".safetensors"):
        raise FileNotFoundError(
            f"there is no audio encoder {name} in {_folder()}; put {_WEIGHTS} there and press R to "
            f"see it in the list, or choose {BUILT_IN!r}"
        )
    encoder = load_wav2vec2(Path(path), alignment, True, torch.float32)
    management = comfy.model_management
    return Hearing(encoder, comfy.model_patcher.ModelPatcher(
        encoder, management.text_encoder_device(), management.text_encoder_offload_device(),
    ))  # fmt: skip


def encoder_stamp(name: str | None) -> str:
    """What changes when the file of an entry of the list is replaced; "" where it has none."""
    if name in (None, FROM_MODEL, BUILT_IN):
        return ""
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        return ""
    return file_stamp(Path(path)) + file_stamp(Path(path).with_name("config.json"))


def _folder() -> str:
    return str(folder_paths.get_folder_paths(FOLDER)[0])
