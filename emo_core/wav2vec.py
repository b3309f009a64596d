"""wav2vec 2.0 through transformers, any width: all its blocks, aligned to frames as configured.

The paper cites wav2vec (1.0) and says "various blocks"; its descendants (Hallo, MEMO, V-Express)
all use wav2vec2-base-960h and the outputs of its 12 transformer blocks, and so do we.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .audio import AudioEncoder, Resample
from .weight_files import Shapes, WeightFile, kind_of, open_weights

_WANTED = "model.safetensors of facebook/wav2vec2-base-960h"
_WEIGHT_NAMES = ("model.safetensors", "pytorch_model.bin")
_OLD_NORM = {"weight_g": "parametrizations.weight.original0",
             "weight_v": "parametrizations.weight.original1"}  # fmt: skip
# Nothing random: an encoder hears the same sound the same way, in training too.
_NO_NOISE = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0,
             "feat_proj_dropout": 0.0, "layerdrop": 0.0, "apply_spec_augment": False}  # fmt: skip


class Wav2Vec2Encoder(AudioEncoder):
    """transformers' Wav2Vec2Model; layers are the outputs of its transformer blocks.

    Args:
        settings: of transformers' Wav2Vec2Config (`hidden_size`, `conv_dim`, ...).
        alignment: `before`: convolutional features are brought to the frame rate before the
            feature projection and the transformer (Hallo); `after`: the hidden states are
            (ComfyUI's own audio nodes). The paper does not say which.
        normalise: whether a window is brought to zero mean and unit variance first.
        dtype: of the parameters.
        device: of the parameters.

    Raises:
        ValueError: if the alignment is unknown or transformers is not installed.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        alignment: str,
        normalise: bool,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if alignment not in ("before", "after"):
            raise ValueError(f"alignment must be before or after, got {alignment!r}")
        try:
            from transformers import Wav2Vec2Config, Wav2Vec2Model
        except ImportError as error:
            raise ValueError(
                "this model hears with wav2vec2, which needs transformers: pip install transformers"
            ) from error
        model: Any = Wav2Vec2Model
        config = Wav2Vec2Config.from_dict({**settings, **_NO_NOISE})
        with torch.device(device or "cpu"):
            self.wav2vec2 = model(config)
        self.wav2vec2.to(dtype=dtype or torch.get_default_dtype()).eval()
        self.alignment, self.normalise = alignment, normalise
        self.num_layers, self.width = config.num_hidden_layers, config.hidden_size
        self.description = f"wav2vec2-{self.num_layers}x{self.width}"

    def forward(self, waveform: Tensor, resample: Resample) -> Tensor:
        """See AudioEncoder: (B, T) to (B, F, L, D)."""
        rows = self.wav2vec2.feature_extractor(waveform).transpose(1, 2)
        if self.alignment == "before":
            rows = resample(rows)
        hidden, _ = self.wav2vec2.feature_projection(rows)
        layers = self._blocks(hidden)
        if self.alignment == "after":
            layers = [resample(layer) for layer in layers]
        return torch.stack(layers, dim=2)

    def _blocks(self, hidden: Tensor) -> list[Tensor]:
        """Outputs of the transformer blocks, the last one after the final norm if there is one.

        That is hidden_states[1:] of transformers 4; version 5 leaves out that final norm.
        """
        layers: list[Tensor] = []

        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            layers.append(output[0] if isinstance(output, tuple) else output)

        hooks = [block.register_forward_hook(keep) for block in self.wav2vec2.encoder.layers]
        try:
            last = self.wav2vec2.encoder(hidden).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        return [*layers[:-1], last]


@dataclass(frozen=True)
class Wav2Vec2File:
    """A wav2vec2's file, opened: known to be whole and of one shape, and no tensor of it is read.

    Attributes:
        file: its tensors.
        names: Wav2Vec2Model's name of each tensor -> its name in the file.
        encoder: the network, without weights.
    """

    file: WeightFile
    names: Mapping[str, str]
    encoder: Wav2Vec2Encoder

    def load(self, device: torch.device | str | None = None) -> Wav2Vec2Encoder:
        """The encoder with its weights, which are read one by one.

        Args:
            device: of the parameters.
        """
        encoder = copy.deepcopy(self.encoder)
        encoder.wav2vec2.to_empty(device=device or "cpu")
        with torch.no_grad():
            for name, tensor in encoder.wav2vec2.state_dict().items():
                if name in self.names:
                    tensor.copy_(self.file.read(self.names[name]))
        return encoder


def load_wav2vec2(
    path: Path,
    alignment: str = "before",
    normalise: bool = True,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Wav2Vec2Encoder:
    """Load a wav2vec2: wav2vec2_in() and Wav2Vec2File.load() in one."""
    return wav2vec2_in(path, alignment, normalise, dtype).load(device)


def wav2vec2_in(
    path: Path,
    alignment: str = "before",
    normalise: bool = True,
    dtype: torch.dtype | None = None,
) -> Wav2Vec2File:
    """Open published wav2vec2 weights in a folder or a single file; nothing is downloaded.

    Args:
        path: a folder in Hugging Face's layout (config.json with model.safetensors or
            pytorch_model.bin), or one such weights file; without a config.json beside it the
            shape is read off the tensors.
        alignment: see Wav2Vec2Encoder; `before` is Hallo's.
        normalise: whether windows are normalised; wav2vec2-base-960h wants it.
        dtype: of the parameters.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no complete wav2vec2.
    """
    file = open_weights(_weights_file(Path(path)), "audio encoder", _WANTED)
    names = {_own_name(name): name for name in file.shapes}
    shapes = {ours: file.shapes[theirs] for ours, theirs in names.items()}
    described = file.path.parent / "config.json"
    known = described.is_file()
    settings = _read_config(described) if known else _guess_settings(shapes, file)
    encoder = Wav2Vec2Encoder(settings, alignment, normalise, dtype, "meta")
    wanted = encoder.wav2vec2.state_dict()
    missing = sorted(wanted.keys() - shapes.keys() - {"masked_spec_embed"})
    if missing:
        raise ValueError(
            f"{file.path} lacks {len(missing)} of {len(wanted)} tensors of wav2vec2 (first: "
            f"{missing[0]}); give the whole {_WANTED}"
        )
    for name, tensor in wanted.items():
        if shapes.get(name, tuple(tensor.shape)) != tuple(tensor.shape):
            raise ValueError(
                f"{file.path} does not fit {'its config.json' if known else 'any wav2vec2'}: "
                f"{name} is {shapes[name]}, expected {tuple(tensor.shape)}; give {_WANTED}"
            )
    return Wav2Vec2File(file, names, encoder)


def _own_name(name: str) -> str:
    """Wav2Vec2Model's name of a tensor in a file, whose norm may have its name of old."""
    stem, _, last = name.removeprefix("wav2vec2.").rpartition(".")
    return ".".join(filter(None, (stem, _OLD_NORM.get(last, last))))


def _weights_file(path: Path) -> Path:
    """The weights file meant by a path to a folder or a file."""
    if path.is_file():
        return path
    found = [path / name for name in _WEIGHT_NAMES if (path / name).is_file()]
    if not found:
        raise FileNotFoundError(
            f"no wav2vec2 weights at {path}: expected a folder with config.json and "
            "model.safetensors; download facebook/wav2vec2-base-960h from Hugging Face into it"
        )
    return found[0]


def _read_config(file: Path) -> dict[str, Any]:
    """The settings in a config.json."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} cannot be read ({error}); fetch config.json of facebook/wav2vec2-base-960h"
        ) from None
    if not isinstance(settings, dict) or settings.get("model_type", "wav2vec2") != "wav2vec2":
        raise ValueError(
            f"{file} does not describe a wav2vec2; fetch config.json of "
            "facebook/wav2vec2-base-960h, or delete it"
        )
    return settings


def _guess_settings(shapes: Shapes, file: WeightFile) -> dict[str, Any]:
    """Read the shape off the tensors, for a file without a config.json (heads are 64 wide)."""
    try:
        hidden = shapes["feature_projection.projection.weight"][0]
        feed_forward = shapes["encoder.layers.0.feed_forward.intermediate_dense.weight"][0]
        dims = [shapes[f"feature_extractor.conv_layers.{i}.conv.weight"][0] for i in range(7)]
    except (KeyError, IndexError):
        raise ValueError(
            f"{file.path} is {kind_of(file.shapes)} and not a wav2vec2; give {_WANTED}"
        ) from None
    per_layer = "feature_extractor.conv_layers.1.layer_norm.weight" in shapes
    blocks = {name.split(".")[2] for name in shapes if name.startswith("encoder.layers.")}
    return {
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": hidden // 64,
        "conv_dim": dims,
        "conv_bias": "feature_extractor.conv_layers.0.conv.bias" in shapes,
        "feat_extract_norm": "layer" if per_layer else "group",
        "do_stable_layer_norm": per_layer,
    }
