"""Checkpoints: network, VAE and audio encoder in one .safetensors file with its configuration.

Tensors have the names of EMO's, the VAE's and the audio encoder's state dicts behind `model.`,
`vae.` and `audio_encoder.`; the header carries `format`, `emo_config`, `vae_config`,
`audio_encoder` and `training` (a JSON record). Loading is strict: every tensor must be there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .audio import AudioEncoder
from .audio_encoder import AudioEncoderConfig, build_audio_encoder, check_encoder
from .config import EMOConfig
from .hallo_files import ORIGIN, Variant, as_checkpoint, is_hallo, with_variant
from .model import EMO
from .vae import AutoencoderKL
from .vae_config import VAEConfig
from .weight_files import EMO_KIND, Kind, WeightFile, kind_of, open_weights
from .weight_fit import check_fit
from .weight_writer import save_whole

logger = logging.getLogger(__name__)

FORMAT = "emo-portrait 1"
EMBEDDED = {"emo-tiny": Path(__file__).parent / "pretrained" / "emo-tiny.safetensors"}
"""Models that come with the package, by name."""


class WrongKind(ValueError):
    """A weight file that is something else; one sentence says what, and what to do with it.

    Args:
        path: the file.
        kind: what it is.

    Attributes:
        kind: the same.
    """

    def __init__(self, path: Path, kind: Kind) -> None:
        super().__init__(f"{path} is {kind} and not an {EMO_KIND}: {kind.advice}")
        self.kind = kind


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model.

    Attributes:
        config: what the network is.
        model: the network, ready to run.
        vae: its own VAE, or None where another's is needed.
        audio_encoder: its own audio encoder, or None where a published one is needed.
        header: the file's text entries.
    """

    config: EMOConfig
    model: EMO
    vae: AutoencoderKL | None
    audio_encoder: AudioEncoder | None
    header: dict[str, str]

    @property
    def training(self) -> dict[str, Any]:
        """How it was trained, as its trainer noted it."""
        return training_record(self.header)


def find_checkpoint(path_or_name: str | Path) -> Path:
    """The file of a model's name, or the path itself.

    Raises:
        FileNotFoundError: if this installation lacks the embedded model of that name.
    """
    embedded = EMBEDDED.get(str(path_or_name))
    if embedded is None:
        return Path(path_or_name)
    if not embedded.is_file():
        raise FileNotFoundError(
            f"this installation lacks its embedded model {path_or_name} ({embedded}); install the "
            "package again, or give a .safetensors file"
        )
    return embedded


def open_checkpoint(
    path_or_name: str | Path, variant: Variant = "auto"
) -> tuple[WeightFile, EMOConfig]:
    """Open a checkpoint, ours or Hallo's, and read its configuration; no weight is loaded.

    Args:
        path_or_name: a file, or the name of an embedded model.
        variant: of Hallo's weights; see hallo_files.decide().

    Raises:
        FileNotFoundError: if there is no such file.
        WrongKind: if it is something else, which is named.
        ValueError: if it was written by a newer version, or cannot be read.
    """
    file = open_weights(find_checkpoint(path_or_name))
    form = file.header.get("format", "")
    if form != FORMAT and form.startswith("emo-portrait"):
        raise ValueError(
            f"{file.path} has the format {form!r}, this version reads {FORMAT!r}; update it"
        )
    if form != FORMAT and is_hallo(file.shapes):
        file = as_checkpoint(file, variant)
    elif form != FORMAT or "emo_config" not in file.header:
        kind = kind_of(file.shapes)
        raise WrongKind(file.path, kind)
    config = EMOConfig.from_json(file.header["emo_config"])
    return file, config if variant == "auto" else with_variant(config, variant)


def load_model(
    path_or_name: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    operations: Any = nn,
    variant: Variant = "auto",
) -> Checkpoint:
    """Load a checkpoint; tensors are read memory-mapped and cast one by one.

    Args:
        path_or_name: a .safetensors file, Hallo's net.pth, or the name of an embedded model
            ("emo-tiny").
        device: where the weights go.
        dtype: of the weights in memory, whatever the file's.
        operations: namespace that the network's layers are taken from.
        variant: of Hallo's weights; see hallo_files.decide().

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no EMO checkpoint, or lacks tensors; the groups are named.
    """
    return load_opened(*open_checkpoint(path_or_name, variant), device, dtype, operations)


def load_opened(
    file: WeightFile,
    config: EMOConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    operations: Any = nn,
) -> Checkpoint:
    """Load what open_checkpoint() opened; see load_model().

    Raises:
        ValueError: if it lacks tensors; the groups are named.
    """
    if ORIGIN in file.header:
        logger.info("%s is %s", file.path, file.header[ORIGIN])
    modules = skeleton(file, config, dtype, device, operations)
    check_fit(file, modules)
    for prefix, module in modules.items():
        names = module.state_dict()
        state = {name: file.read(prefix + name).to(device, dtype) for name in names}
        module.load_state_dict(state, assign=True)
        module.requires_grad_(False).eval()
    model, vae = modules["model."], modules.get("vae.")
    encoder = modules.get("audio_encoder.")
    assert isinstance(model, EMO)
    assert vae is None or isinstance(vae, AutoencoderKL)
    assert encoder is None or isinstance(encoder, AudioEncoder)
    return Checkpoint(config, model, vae, encoder, dict(file.header))


def skeleton(
    file: WeightFile,
    config: EMOConfig,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    operations: Any = nn,
) -> dict[str, nn.Module]:
    """The networks that a checkpoint says it holds, by the prefix of their names, without weights.

    They are on the meta device but for the audio encoder, which is on `device`: transformers
    computes some of its tables when it is built.
    """
    modules: dict[str, nn.Module] = {"model.": EMO(config, dtype, "meta", operations)}
    if "vae_config" in file.header:
        vae = VAEConfig.from_json(file.header["vae_config"])
        modules["vae."] = AutoencoderKL(vae, dtype, "meta")
    heard = audio_encoder_config(file.header)
    if heard is not None:
        check_encoder(heard, config.audio)
        modules["audio_encoder."] = build_audio_encoder(heard, dtype=dtype, device=device)
    return modules


def save_checkpoint(
    path: Path,
    model: EMO,
    vae: AutoencoderKL | None = None,
    audio_encoder: AudioEncoder | None = None,
    audio_encoder_config: AudioEncoderConfig | None = None,
    training: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write one checkpoint; the file appears whole or not at all.

    Args:
        path: a .safetensors file in a folder that exists.
        model: the network; its configuration goes into the header.
        vae: to go with it.
        audio_encoder: to go with it, and
        audio_encoder_config: what it was built from.
        training: record of the training, plain values.
        dtype: of the tensors in the file.

    Raises:
        ValueError: if a weight is NaN, infinite or too large for dtype, or an audio encoder comes
            without its configuration or is not the network's.
    """
    if (audio_encoder is None) != (audio_encoder_config is None):
        raise ValueError("an audio encoder is saved together with its configuration; give both")
    header = {"format": FORMAT, "emo_config": model.config.to_json()}
    parts: dict[str, nn.Module] = {"model.": model}
    if vae is not None:
        parts["vae."], header["vae_config"] = vae, vae.config.to_json()
    if audio_encoder is not None and audio_encoder_config is not None:
        check_encoder(audio_encoder_config, model.config.audio)
        parts["audio_encoder."] = audio_encoder
        header["audio_encoder"] = json.dumps(audio_encoder_config.to_dict())
    header["training"] = json.dumps(dict(training or {}))
    tensors: dict[str, Tensor] = {}
    for prefix, module in parts.items():
        for name, tensor in module.state_dict().items():
            value = tensor.detach().to("cpu", dtype).contiguous().clone()
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"the weight {prefix}{name} is not finite in {dtype}")
            tensors[prefix + name] = value
    save_whole(path, tensors, header)


def audio_encoder_config(header: Mapping[str, str]) -> AudioEncoderConfig | None:
    """Of the audio encoder that a checkpoint brings; None if it brings none."""
    if "audio_encoder" not in header:
        return None
    try:
        values = json.loads(header["audio_encoder"])
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"the checkpoint's audio encoder is not JSON: {error}") from None
    return AudioEncoderConfig.from_dict(values)


def training_record(header: Mapping[str, str]) -> dict[str, Any]:
    """How a checkpoint was trained, as its trainer noted it."""
    try:
        record = json.loads(header.get("training", "{}"))
    except (json.JSONDecodeError, RecursionError):
        return {"note": header["training"]}
    return record if isinstance(record, dict) else {"note": record}
