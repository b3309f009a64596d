"""Which audio encoder a model hears with: its configuration, and building it.

Published encoders are loaded from their own files (`wav2vec.load_wav2vec2`); a model trained with
an encoder of its own carries the configuration in its header and the weights under
`audio_encoder.`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from .audio import AudioEncoder
from .config import AudioConfig
from .logmel import LogMelEncoder
from .wav2vec import Wav2Vec2Encoder


@dataclass(frozen=True)
class AudioEncoderConfig:
    """An audio encoder that a checkpoint carries.

    Attributes:
        kind: `wav2vec2` (transformers) or `logmel`.
        num_layers: blocks.
        width: numbers per block and row.
        alignment: `before` or `after`; logmel has no transformer and knows `after` only.
        normalise: zero mean and unit variance inside a window.
        settings: wav2vec2: what else transformers' Wav2Vec2Config is to say;
            logmel: `dilations`, one a block.
    """

    kind: Literal["wav2vec2", "logmel"]
    num_layers: int
    width: int
    alignment: Literal["before", "after"]
    normalise: bool
    settings: dict[str, Any] = field(hash=False)

    def __post_init__(self) -> None:
        if self.kind not in ("wav2vec2", "logmel"):
            raise ValueError(f"audio encoder kind must be wav2vec2 or logmel, got {self.kind!r}")
        if self.kind == "logmel" and (self.alignment != "after" or self.normalise):
            raise ValueError("a logmel encoder has alignment after and does not normalise")
        if self.kind == "logmel" and len(self.settings["dilations"]) != self.num_layers:
            raise ValueError(f"a logmel encoder needs one dilation per block, got {self.settings}")

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AudioEncoderConfig:
        """Read what to_dict() wrote.

        Raises:
            ValueError: if a field is missing, unknown or does not fit.
        """
        try:
            return cls(**values)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not an audio encoder's configuration: {error}") from None


def tiny_wav2vec2() -> AudioEncoderConfig:
    """wav2vec 2.0 at small width: 0.9 M parameters, attention over the window."""
    settings = {
        "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
        "intermediate_size": 256, "conv_dim": [64, 64, 96, 96, 128, 128, 128],
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "conv_bias": True, "feat_extract_norm": "layer", "do_stable_layer_norm": True,
        "num_conv_pos_embeddings": 31, "num_conv_pos_embedding_groups": 8, "vocab_size": 32,
    }  # fmt: skip
    return AudioEncoderConfig("wav2vec2", 4, 128, "after", False, settings)


def tiny_logmel() -> AudioEncoderConfig:
    """The small convolutional encoder: 0.5 M parameters, 0.4 s of context on either side."""
    return AudioEncoderConfig("logmel", 4, 128, "after", False, {"dilations": [1, 2, 3, 1]})


def tiny_encoder(config: AudioConfig) -> AudioEncoderConfig:
    """The encoder that emo-tiny's trainer trains for a model that hears like this.

    Raises:
        ValueError: if neither of the small ones gives such features.
    """
    made = tiny_logmel() if config.encoder == "logmel" else tiny_wav2vec2()
    made = replace(made, alignment=config.alignment) if made.kind == "wav2vec2" else made
    check_encoder(made, config)
    return made


def check_encoder(encoder: AudioEncoderConfig, config: AudioConfig) -> None:
    """Say why a network cannot hear with an audio encoder.

    Raises:
        ValueError: if its features have another shape, or it is of another kind or alignment.
    """
    gives = (encoder.kind, encoder.num_layers, encoder.width, encoder.alignment)
    wanted = (config.encoder, config.num_layers, config.layer_width, config.alignment)
    if gives != wanted:
        raise ValueError(
            "the network hears with {} of {} layers of {}, aligned {} the transformer, and the "
            "audio encoder is {} of {} layers of {}, aligned {}; give the one that it was trained "
            "with".format(*wanted, *gives)
        )


def build_audio_encoder(
    config: AudioEncoderConfig,
    operations: Any = nn,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> AudioEncoder:
    """Make an audio encoder with untrained weights.

    Args:
        config: which.
        operations: namespace of the leaf layers (logmel; wav2vec2 brings transformers' own).
        dtype: of the parameters.
        device: of the parameters.
    """
    if config.kind == "logmel":
        dilations = tuple(config.settings["dilations"])
        return LogMelEncoder(config.width, dilations, operations, dtype, device)
    return Wav2Vec2Encoder(config.settings, config.alignment, config.normalise, dtype, device)
