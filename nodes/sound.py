"""LoadAudioEmbedding: a sound becomes what the model hears, frame by frame."""

from __future__ import annotations

import logging
import math
from typing import Any

from ..emo_core.joins import sound_levels
from ..emo_core.waveform import num_frames
from .compat import Schema, io
from .encoders import read_layers
from .hearing import (
    ALIGNMENTS,
    AUTOMATIC,
    FROM_MODEL,
    check_fits,
    choose_hearing,
    encoder_names,
    encoder_stamp,
    find_alignment,
    find_frame_rate,
    listen,
)
from .host import EMOParts, parts_of
from .sockets import Audio, pack_audio
from .waveform import cut_audio, hear_at_16k

logger = logging.getLogger(__name__)

_LONGEST = 86_400.0


def _inputs() -> list[Any]:
    return [
        io.Audio.Input(
            "audio",
            tooltip="The voice that the portrait is to speak or sing with, at any sample rate and "
            "with any number of channels; of a batch the first recording is taken.",
        ),
        io.Model.Input(
            "model",
            optional=True,
            tooltip="The model from EMO Model Loader, which says the audio encoder, the alignment "
            "and the frames per second that its weights were trained with; connect it unless you "
            "have a reason not to.",
        ),
        io.Combo.Input(
            "encoder",
            options=encoder_names(),
            default=FROM_MODEL,
            tooltip="Who hears: the model's own encoder (emo-tiny's without a model), the built-in "
            "one, or a wav2vec2 file of models/audio_encoders; choose a file only for weights that "
            "bring no encoder.",
        ),
        io.AudioEncoder.Input(
            "audio_encoder",
            optional=True,
            tooltip="A wav2vec2 from core's AudioEncoderLoader, which then hears in place of the "
            "encoder chosen above; for weights that bring no encoder of their own.",
        ),
        io.AudioEncoderOutput.Input(
            "audio_encoder_output",
            optional=True,
            tooltip="Finished layers of this same audio, whole and uncut, from core's "
            "AudioEncoderEncode; nothing is heard again then, and the alignment can only be after "
            "the transformer.",
        ),
        io.Combo.Input(
            "alignment",
            options=list(ALIGNMENTS),
            default=AUTOMATIC,
            tooltip="Where a wav2vec2's 50 rows a second become frames: before its transformer "
            "(Hallo) or after it (core's own nodes); automatic takes the model's, and without a "
            "model what suits the encoder.",
        ),
        io.Float.Input(
            "fps",
            default=0.0,
            min=0.0,
            max=120.0,
            step=0.001,
            tooltip="Frames a second of the film, 1 to 120; 0 takes the model's, or 25 without a "
            "model, and a connected model refuses any other than its own.",
        ),
        io.Float.Input(
            "start",
            default=0.0,
            min=0.0,
            max=_LONGEST,
            step=0.01,
            tooltip="Where in the audio the film begins, in seconds from 0; raise it to leave out "
            "the beginning.",
        ),
        io.Float.Input(
            "duration",
            default=0.0,
            min=0.0,
            max=_LONGEST,
            step=0.01,
            tooltip="How many seconds of audio the film takes from the start on; 0 takes all the "
            "rest, and a few seconds make a quick trial.",
        ),
    ]


def _outputs() -> list[Any]:
    return [
        Audio.Output(
            "audio_embedding",
            display_name="audio embedding",
            tooltip="What the encoder heard in every frame, for EMO Conditioning, EMO Sampler and "
            "EMO Motion Frame Looper.",
        ),
        io.Audio.Output(
            "audio_out",
            display_name="audio",
            tooltip="The audio cut to the film, at its own sample rate and with all its channels, "
            "for EMO Decode Video or Create Video.",
        ),
        io.Int.Output(
            "frames",
            display_name="frames",
            tooltip="How many frames the film has: samples times frames a second over sample rate, "
            "rounded up.",
        ),
        io.Float.Output(
            "fps_out",
            display_name="fps",
            tooltip="Frames a second of the film, for EMO Decode Video or Create Video.",
        ),
    ]


class LoadAudioEmbedding(io.ComfyNode):
    """A sound, cut to the film and heard by the encoder that the model was trained with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return Schema(
            node_id="LoadAudioEmbedding",
            display_name="EMO Load Audio Embedding",
            category="EMO/audio",
            description="Turns a recording into what the model hears in every frame, and cuts the "
            "recording to the film.",
            search_aliases=["wav2vec2", "speech", "voice", "talking", "lip sync", "audio encoder"],
            inputs=_inputs(),
            outputs=_outputs(),
        )

    @classmethod
    def validate_inputs(cls, encoder: str | None = None) -> bool | str:
        """True: an encoder that is not in the list passes here.

        Its file may have been moved, and the error at its use names the folder. Numbers are checked
        when the node runs; the host would show a sentence at every input that is named here.
        """
        return True

    @classmethod
    def fingerprint_inputs(cls, encoder: str | None = None, **_: Any) -> str:
        """Hear again when the encoder's file was replaced."""
        return encoder_stamp(encoder)

    @classmethod
    def execute(
        cls, audio: Any, model: Any = None, encoder: str = FROM_MODEL, audio_encoder: Any = None,
        audio_encoder_output: Any = None, alignment: str = AUTOMATIC, fps: float = 0.0,
        start: float = 0.0, duration: float = 0.0,
    ) -> io.NodeOutput:  # fmt: skip
        """Hear."""
        problem = _problem(fps, start, duration)
        if problem:
            raise ValueError(problem)
        parts = None if model is None else parts_of(model)
        config = None if parts is None else parts.config
        rate, aligned = find_frame_rate(fps, config), find_alignment(alignment, config)
        _check_sockets(encoder, audio_encoder, audio_encoder_output)
        sound = cut_audio(audio, start, duration)
        count = num_frames(sound.waveform.shape[-1], sound.sample_rate, rate)
        if audio_encoder_output is not None:
            _check_finished(aligned, parts)
            heard = read_layers(audio_encoder_output, sound, count, rate)
            if parts is not None:
                check_fits(parts, *heard.features.shape[1:], heard.encoder)
        else:
            hearing = choose_hearing(parts, encoder, audio_encoder, aligned)
            how: tuple[Any, ...] = ()
            if config is not None and config.audio.windows != "grid":
                # As these weights were trained: silence fills the last clip while it is heard.
                how = (config.audio.windows, config.temporal.num_frames)
            heard = listen(hearing, hear_at_16k(sound), count, rate, *how)
        levels = sound_levels(sound.waveform, sound.sample_rate, count, rate)
        return io.NodeOutput(pack_audio(heard, levels), sound.as_audio(), count, float(rate))


def _problem(fps: float, start: float, duration: float) -> str | None:
    """What is wrong with the numbers, as a sentence."""
    if not (fps == 0 or 1 <= fps <= 120):
        return f"fps must be 0 (the model's own) or from 1 to 120 frames a second, got {fps:g}"
    if not (math.isfinite(start) and start >= 0):
        return f"start must be 0 or more seconds into the audio, got {start:g}"
    if not (math.isfinite(duration) and duration >= 0):
        return f"duration must be 0 (all the rest) or more seconds, got {duration:g}"
    return None


def _check_sockets(encoder: str, audio_encoder: Any, audio_encoder_output: Any) -> None:
    """One source of hearing; a choice that a connected one overrides is said."""
    if audio_encoder is not None and audio_encoder_output is not None:
        raise ValueError(
            "audio_encoder and audio_encoder_output are both connected, and only one can be heard "
            "with; disconnect one of them"
        )
    if encoder != FROM_MODEL and (audio_encoder is not None or audio_encoder_output is not None):
        logger.warning("the connected audio encoder hears, and %r is not used", encoder)


def _check_finished(alignment: str | None, parts: EMOParts | None) -> None:
    """Finished layers have been through the transformer; nothing can happen before it any more."""
    if alignment == "before":
        asked = "alignment asks" if parts is None else f"{parts.config.name} asks"
        raise ValueError(
            f"{asked} for frames before the transformer, and an AUDIO_ENCODER_OUTPUT is already "
            "behind it; connect the AUDIO_ENCODER of AudioEncoderLoader to audio_encoder instead"
        )
