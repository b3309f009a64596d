"""What other nodes did to a MODEL or a CONDITIONING that EMO's backbone would leave out in silence.

What works needs no word: weights (LoRA), guidance, schedules, wrappers of the whole model, another
attention function. What reaches into a UNet of the host's own, or brings a condition that EMO's
layers do not read, is answered with one sentence; docs/graph.md has the whole list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

_CONDS = {
    "area": "ConditioningSetArea",
    "control": "ControlNetApply",
    "gligen": "GLIGENTextBoxApply",
    "unclip_conditioning": "unCLIPConditioning",
    "clip_vision_output": "CLIPVisionEncode",
    "concat_latent_image": "InpaintModelConditioning",
    "concat_mask": "InpaintModelConditioning",
    "reference_latents": "ReferenceLatent",
    "guidance": "FluxGuidance",
}
"""Entries of a CONDITIONING that no layer of EMO reads, and core's nodes that put them there."""

_OPTIONS = {
    "context_window": "ContextWindowsManual",
    "chroma_radiance_options": "ChromaRadianceOptions",
}
"""Entries of transformer_options that are for other networks, and core's nodes behind them."""


def mark() -> Tensor:
    """The tensor of a CONDITIONING, which EMO does not read: it shows whether it was mixed.

    Core's Concat changes its shape, Zero Out its value, and Average makes a float of it.
    """
    return torch.ones(1, 1, 1, dtype=torch.int64)


def check_cond(entries: Mapping[str, Any]) -> None:
    """Refuse a condition that EMO would leave out.

    Args:
        entries: of a CONDITIONING, with its tensor as cross_attn.

    Raises:
        ValueError: naming it and the node of core that makes such.
    """
    for name, node in _CONDS.items():
        if entries.get(name) is not None:
            raise ValueError(
                f"the CONDITIONING carries {name!r}, as {node} makes it, which EMO's backbone does "
                "not see; connect EMO Conditioning's outputs without it"
            )
    tensor = entries.get("cross_attn")
    if tensor is not None and not _same(tensor.cpu(), mark()):
        raise ValueError(
            "the CONDITIONING of EMO Conditioning was concatenated, averaged or zeroed out, which "
            "EMO's backbone does not see; connect it as it is, or use ConditioningCombine"
        )


def check_options(options: Mapping[str, Any], control: Any = None) -> None:
    """Refuse patches of layers that EMO's backbone does not have.

    Args:
        options: transformer_options of a MODEL, of a hook or of a call.
        control: what a ControlNet gave, if there is one.

    Raises:
        ValueError: naming the patch and whose it is.
    """
    if control is not None:
        raise ValueError(
            "a ControlNet steers layers of a text-to-image UNet, which EMO's backbone is not; "
            "leave it out (region and speed steer an EMO film)"
        )
    for name, node in _OPTIONS.items():
        if name in options:
            raise ValueError(
                f"{node} sets {name!r} in the MODEL, which is for other networks than EMO's; take "
                "it out between EMO Model Loader and the sampler"
            )
    for name, patch in _patches(options):
        whose = _whose(patch)
        raise ValueError(
            f"{whose} patches {name!r} inside of the MODEL, and EMO's backbone has no such place; "
            "take it out between EMO Model Loader and the sampler"
        )


def check_model(model: Any, num_frames: int) -> None:
    """Refuse a MODEL with such patches before any work is done.

    Args:
        model: MODEL.
        num_frames: of a clip, which windows of fewer frames would cut.
    """
    options = model.model_options
    check_options(options.get("transformer_options", {}))
    handler = options.get("context_handler")
    if getattr(handler, "context_length", num_frames) < num_frames:
        raise ValueError(
            f"{_OPTIONS['context_window']} gives the MODEL {handler.context_length} frames at a "
            f"time and a clip of EMO has {num_frames}; take it out (Motion Frame Looper makes "
            "films of any length)"
        )
    guidance = options.get("sampler_cfg_function")
    if getattr(guidance, "__qualname__", "").startswith("RenormCFG."):
        raise ValueError(
            "RenormCFG works on one picture at a time and a clip has many; take it out, or use "
            "RescaleCFG"
        )


def runs_apart(options: Mapping[str, Any]) -> bool:
    """Whether the branches of guidance must run one after the other.

    Core's EasyCache (0.3.64) adds what it cached for one branch to all rows of a batch.
    """
    return type(options.get("easycache")).__name__ == "EasyCacheHolder"


def _patches(options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and functions of everything that is to be called inside of the network."""
    for name, found in (options.get("patches") or {}).items():
        yield from ((name, patch) for patch in found)
    for name, places in (options.get("patches_replace") or {}).items():
        yield from ((name, patch) for patch in places.values())


def _whose(patch: Any) -> str:
    """The class (for core's nodes the node) that a patch was made in, and its module."""
    patch = getattr(patch, "func", patch)
    named = patch if hasattr(patch, "__qualname__") else type(patch)
    # The host imports nodes by path, which is then the module's name.
    return f"{named.__qualname__.split('.')[0]} ({PurePath(named.__module__).name})"


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)
