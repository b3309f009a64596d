"""The host's own audio encoders: its AUDIO_ENCODER as one of ours, its finished layers as features.

The host's nodes hear a whole file at once and bring the layers to the frame rate behind the
transformer. Weights of EMO's family hear normalised sound and may want it before; so only the
host's modules are used, on our fixed grid of windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from ..emo_core.audio import ROW_RATE, AudioEncoder, AudioFeatures, Resample, rows_at
from ..emo_core.waveform import SAMPLE_RATE
from .waveform import Sound

_ROW_STRIDE, _ROW_SPAN = SAMPLE_RATE // ROW_RATE, 400
# Resamplers differ by a sample or so, and a sample can be a row.
_ROWS_OFF = 2


class HostWav2Vec2(AudioEncoder):
    """The modules of the host's wav2vec2, heard the way EMO's family hears it.

    Windows are normalised whatever the host's own setting says: that is off for its base size,
    which suits chinese-wav2vec2-base; facebook/wav2vec2-base-960h wants zero mean, unit variance.

    Args:
        core: the host's Wav2Vec2Model.
        alignment: `before` or `after` the transformer.
        device: that the host runs it on.
    """

    normalise = True

    def __init__(self, core: nn.Module, alignment: str, device: torch.device) -> None:
        super().__init__()
        # Found first by whoever asks where and in what precision to bring the sound: the host's
        # layers cast their weights to their input's, which has to be float32.
        self.place = nn.Parameter(
            torch.empty(0, dtype=torch.float32, device=device), requires_grad=False
        )
        self.core: Any = core
        self.alignment = alignment
        self.num_layers = len(self.core.encoder.layers)
        self.width = self.core.feature_projection.projection.out_features
        self.description = f"wav2vec2-{self.num_layers}x{self.width}"

    def forward(self, waveform: Tensor, resample: Resample) -> Tensor:
        """See AudioEncoder: (B, T) to (B, F, L, D)."""
        rows = self.core.feature_extractor(waveform)
        if self.alignment == "before":
            rows = resample(rows)
        _, states = self.core.encoder(self.core.feature_projection(rows))
        layers = states[1:]  # the first is what goes into the first block
        if self.alignment == "after":
            layers = [resample(layer) for layer in layers]
        return torch.stack(tuple(layers), dim=2)


def host_wav2vec2(audio_encoder: Any, alignment: str) -> HostWav2Vec2:
    """The wav2vec2 in the host's AUDIO_ENCODER.

    Args:
        audio_encoder: of the socket, from the host's AudioEncoderLoader.
        alignment: `before` or `after` the transformer.

    Raises:
        ValueError: if it is no wav2vec2.
    """
    from comfy.audio_encoders.wav2vec2 import Wav2Vec2Model

    core = getattr(audio_encoder, "model", None)
    if not isinstance(core, Wav2Vec2Model) or not hasattr(audio_encoder, "patcher"):
        kind = type(audio_encoder if core is None else core).__name__
        raise ValueError(
            f"the AUDIO_ENCODER holds {kind}, and EMO hears with wav2vec2; load a wav2vec2 file in "
            "AudioEncoderLoader, such as facebook/wav2vec2-base-960h"
        )
    return HostWav2Vec2(core, alignment, audio_encoder.patcher.load_device)


def read_layers(
    output: Any, sound: Sound, num_frames: int, frame_rate: Fraction
) -> AudioFeatures:  # fmt: skip
    """Features of every frame from the AUDIO_ENCODER_OUTPUT of the whole recording.

    Args:
        output: of the socket, from the host's AudioEncoderEncode: the states (B, rows, D) before
            and after every block, 50 rows a second.
        sound: the recording and what of it the film takes.
        num_frames: frames of the film.
        frame_rate: frames a second.

    Raises:
        ValueError: if it holds no such layers, or they are of a recording of another length.
    """
    states = output.get("encoded_audio_all_layers") if isinstance(output, Mapping) else None
    if not _are_states(states):
        raise ValueError(
            "the AUDIO_ENCODER_OUTPUT holds no layers of a transformer "
            "(encoded_audio_all_layers); connect core's AudioEncoderEncode, or AUDIO_ENCODER"
        )
    layers = torch.stack([state[0].detach().float().cpu() for state in states[1:]], dim=1)
    heard, (num_rows, num_layers, width) = sound.total / sound.sample_rate, layers.shape
    samples = round(heard * SAMPLE_RATE)
    expected = max(0, samples - _ROW_SPAN) // _ROW_STRIDE + 1
    if abs(num_rows - expected) > _ROWS_OFF:
        raise ValueError(
            f"the AUDIO_ENCODER_OUTPUT has {num_rows} rows, and the audio of {heard:.2f} s gives "
            f"{expected}; connect the same AUDIO here and to AudioEncoderEncode, with a wav2vec2"
        )
    offset = Fraction(sound.start, sound.sample_rate)
    at = [float((i / frame_rate + offset) * ROW_RATE) for i in range(num_frames)]
    rows = rows_at(layers.flatten(1)[None], torch.tensor(at, dtype=torch.float64))
    features = rows[0].unflatten(-1, (num_layers, width))
    description = f"wav2vec2-{num_layers}x{width}"
    return AudioFeatures(features, num_frames, frame_rate, description, "after")


def _are_states(states: Any) -> bool:
    """Whether these are two states (B, rows, D) or more, all of one shape."""
    if not isinstance(states, (tuple, list)) or len(states) < 2:
        return False
    first = states[0]
    return all(
        isinstance(state, Tensor) and state.ndim == 3 and state.shape == first.shape
        for state in states
    )
