"""Weight files of every origin: reading them without running them, and telling what they are.

The kind of a file is told from the names of its tensors alone, so that whoever gives the wrong one
is told what it is. A new kind is one entry of KINDS.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .readable import check_readable

PICKLES = (".pth", ".pt", ".ckpt", ".bin")
"""Endings of files that torch.save wrote."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class WeightFile:
    """An opened file of tensors; nothing is in memory yet.

    Attributes:
        path: where it is.
        header: its text entries (safetensors' metadata).
        shapes: each tensor's shape by its name.
        read: gives a tensor by its name, memory-mapped where the format allows.
        unused: tensors of the file that are not among these because they cannot matter.
    """

    path: Path
    header: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], Tensor]
    unused: int = 0

    @property
    def num_parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())


@dataclass(frozen=True)
class Kind:
    """A kind of weight file.

    Attributes:
        name: what people call it.
        advice: what to do with it here.
        fits: whether a file with these tensors is one.
    """

    name: str
    advice: str
    fits: Callable[[Shapes], bool]

    def __str__(self) -> str:
        """Its name behind the article that it takes."""
        vowel = self.name.startswith(("A", "E", "a", "e", "SDXL"))
        return f"{'an' if vowel else 'a'} {self.name}"


def _some(*parts: str) -> Callable[[Shapes], bool]:
    """Any name contains any of the parts."""
    return lambda shapes: any(part in name for name in shapes for part in parts)


def _begins(*starts: str) -> Callable[[Shapes], bool]:
    """For every start there is a name that begins so."""
    return lambda shapes: all(any(name.startswith(start) for name in shapes) for start in starts)


def _cross_width(width: int) -> Callable[[Shapes], bool]:
    """A diffusers UNet whose second attention reads tokens of this width."""
    return lambda shapes: any(
        "attn2.to_k.weight" in name and "down_blocks." in name and shape[-1] == width
        for name, shape in shapes.items()
    )


def _only(part: str) -> Callable[[Shapes], bool]:
    return lambda shapes: bool(shapes) and all(part in name for name in shapes)


def _both(*tests: Callable[[Shapes], bool]) -> Callable[[Shapes], bool]:
    return lambda shapes: all(test(shapes) for test in tests)


_OTHER = "give an EMO checkpoint, or take emo-tiny, which is built in"
_LATER = f"this version cannot run its weights yet; {_OTHER}"
_PART = f"it is one part of a model; {_OTHER}"
EMO_KIND = "EMO checkpoint"
HALLO_KIND = "Hallo checkpoint"
_RUNS = (
    "runs with --vae (SD 1.5's VAE) and --audio-encoder (wav2vec2-base-960h); emo convert makes "
    "one .safetensors file of it"
)
UNKNOWN = Kind("file of tensors of unknown origin", _OTHER, lambda shapes: True)

# The first that fits is it, so the narrow ones come first.
KINDS: tuple[Kind, ...] = (
    Kind(
        "LoRA",
        f"a LoRA changes a model and is none; {_OTHER}",
        _some("lora_down", "lora_up", "lora_A", "lora_B", "lora.down", "hada_w1", "lokr_w1"),
    ),
    Kind("V-Express checkpoint", _LATER, _some("attn1_5")),
    Kind("MEMO checkpoint", _LATER, _some("audio_attn1", "diffusion_net.", "audio_emotion")),
    Kind(HALLO_KIND, _RUNS, _begins("denoising_unet.", "audioproj.", "imageproj.")),
    Kind("part of a Hallo checkpoint", _PART, _some(".attn2_0.")),
    Kind(
        "bare EMO network without configuration",
        "save it with emo_core.weights.save_checkpoint, which adds the configuration",
        _begins("denoising_unet.", "reference_unet."),
    ),
    Kind("AnimateDiff motion module", _PART, _only("motion_modules.")),
    Kind("ControlNet", _PART, _some("controlnet_cond_embedding", "control_model.", "zero_convs.")),
    Kind("SDXL checkpoint", _OTHER, _some("conditioner.embedders.")),
    Kind(
        "Stable Diffusion checkpoint",
        f"it makes pictures and knows no sound; {_OTHER}",
        _some("model.diffusion_model.", "input_blocks."),
    ),
    Kind("EchoMimic network", _LATER, _cross_width(384)),
    Kind(
        "Stable Diffusion 1.5 UNet",
        f"it makes pictures and knows no sound; {_OTHER}",
        _both(_cross_width(768), _some("down_blocks.")),
    ),
    Kind("diffusers UNet", _PART, _begins("down_blocks.", "up_blocks.", "conv_in.")),
    Kind("VAE", _PART, _begins("encoder.", "decoder.", "post_quant_conv.")),
    Kind("VAE", _PART, _some("first_stage_model.", "decoder.up_blocks.", "decoder.up.")),
    Kind("text encoder", _PART, _some("text_model.encoder.layers.", "text_model.embeddings.")),
    Kind("audio encoder", _PART, _some("feature_extractor.conv_layers.", "encoder.conv1.")),
    Kind("audio encoder", _PART, _only("audio_encoder.")),
    Kind(
        "puppet meter",
        f"emo evaluate measures puppets with it; {_OTHER}",
        _begins("deviation", "features.0."),
    ),
    Kind("face locator", _PART, _both(_begins("conv_in.", "conv_out."), _begins("blocks."))),
)


def kind_of(shapes: Shapes) -> Kind:
    """Tell a file's kind from the names and shapes of its tensors."""
    return next((kind for kind in KINDS if kind.fits(shapes)), UNKNOWN)


def open_weights(
    path: Path, what: str = "checkpoint", wanted: str = "a .safetensors file or emo-tiny"
) -> WeightFile:
    """Open a .safetensors file, or a pickle of torch.save as data that cannot run code.

    Args:
        path: the file.
        what: what it is to be, for the sentence that says why it is not.
        wanted: what to give in its place, for the same.

    Raises:
        OSError: if there is none, or it may not be read.
        ValueError: if it is a folder, truncated, of another format, or a pickle with code in it.
    """
    check_readable(path, what, wanted)
    with path.open("rb") as file:
        start = file.read(64)
    wrong = _foreign(start)
    if wrong:
        raise ValueError(f"{path} is {wrong}; give {wanted}")
    if start[8:9] == b"{":  # behind the length of its JSON, whose first byte may be a pickle's
        return _open_safetensors(path)
    if start.startswith((b"PK", b"\x80")) or path.suffix.lower() in PICKLES:
        return _open_pickle(path, zipped=start.startswith(b"PK"))
    return _open_safetensors(path)


def _foreign(start: bytes) -> str | None:
    """What a file that begins so is, if it holds no tensors for sure."""
    if not start:
        return "empty"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer and not the file itself (run `git lfs pull`)"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page, perhaps that of a failed download"
    if start.startswith(b"GGUF"):
        return "a GGUF file"
    return None


def _open_safetensors(path: Path) -> WeightFile:
    from safetensors import SafetensorError, safe_open

    try:
        file: Any = safe_open(path, "pt")
        header = dict(file.metadata() or {})
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is not a whole .safetensors file ({error}); it may be truncated: fetch it "
            "again, or give another"
        ) from None
    return WeightFile(path, header, shapes, file.get_tensor)


def _open_pickle(path: Path, zipped: bool) -> WeightFile:
    """A pickle, read as weights only, so that nothing in it can run."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except pickle.UnpicklingError as error:
        if "weights" not in str(error).lower():
            raise _broken(path) from error
        raise ValueError(
            f"{path} is a pickle that holds more than tensors and could run code; it was refused "
            "and nothing of it ran; give a .safetensors file"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # of many kinds, by where the file ends
        raise _broken(path) from error
    tensors = dict(_flat(loaded))
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name; give a .safetensors file")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return WeightFile(path, {}, shapes, tensors.__getitem__)


def _broken(path: Path) -> ValueError:
    return ValueError(
        f"{path} is not a whole file of torch.save: of its {path.stat().st_size:,} bytes some are "
        "missing or damaged, as when a download breaks off; fetch it again"
    )


def _flat(loaded: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state dict, under the wrappers that trainers put around it."""
    if not isinstance(loaded, dict):
        return
    for wrapper in ("state_dict", "module", "model"):
        if isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    for name, value in loaded.items():
        if isinstance(value, Tensor):
            yield str(name), value
