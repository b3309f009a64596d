"""The bridge to ComfyUI: what belongs to a MODEL, where networks live, memory and interruption."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.ldm.modules.attention import attention_pytorch, optimized_attention
from comfy_execution.utils import get_executing_context
from torch import Tensor, nn

from ..emo_core.attention import Build
from ..emo_core.config import EMOConfig
from .lora_names import CoreModelPatcher

ATTACHMENT = "emo"
_LAYERS = ("Linear", "Conv1d", "Conv2d", "GroupNorm", "LayerNorm", "Embedding")


@dataclass(frozen=True)
class EMOParts:
    """What belongs to a MODEL of this pack beside its backbone.

    Attributes:
        config: what the model is.
        identity: its name and a digest of its file: what was encoded by one fits no other.
        digest: of every byte of its file.
        conditioner: around ReferenceNet, face locator and projections.
        hearing: around the audio encoder that it brings; None if it brings none.
        compute_dtype: what the networks compute in.
        training: how it was trained, as its trainer noted it.
        reproduce: whether portraits are prepared as Hallo's own program does.
        vae: digest of the weights of the VAE that its file brings; None if it brings none.
    """

    config: EMOConfig
    identity: str
    digest: str
    conditioner: comfy.model_patcher.ModelPatcher
    hearing: comfy.model_patcher.ModelPatcher | None
    compute_dtype: torch.dtype
    training: dict[str, Any]
    reproduce: bool = False
    vae: str | None = None


def parts_of(model: Any) -> EMOParts:
    """What belongs to a MODEL.

    Raises:
        ValueError: if it is no MODEL of this pack.
    """
    attachment = getattr(model, "get_attachment", lambda key: None)(ATTACHMENT)
    if not isinstance(attachment, EMOParts):
        kind = type(getattr(model, "model", model)).__name__
        raise ValueError(
            f"EMO's nodes need the MODEL of EMO Model Loader, and got a {kind}; connect that loader"
        )
    return attachment


@dataclass(frozen=True)
class Place:
    """Where a model lives and in what it is kept and computed.

    Attributes:
        load_device: where it runs.
        offload_device: where it waits.
        dtype: of its weights.
        manual_cast: what it computes in, if that is not `dtype`.
    """

    load_device: torch.device
    offload_device: torch.device
    dtype: torch.dtype
    manual_cast: torch.dtype | None

    @property
    def compute_dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.manual_cast or self.dtype

    def build(self, device: torch.device | str | None = None) -> Build:
        """Layers of the host's namespace, waiting on the offload device if no other is named."""
        operations = comfy.ops.pick_operations(self.dtype, self.manual_cast)
        layers = SimpleNamespace(**{name: getattr(operations, name) for name in _LAYERS})
        layers.attend = HostAttention()
        return Build(layers, self.dtype, self.offload_device if device is None else device)


def place_for(num_parameters: int, dtype: torch.dtype | None = None) -> Place:
    """Where the host wants a model of this size; `dtype` overrules its choice of the weights'."""
    management = comfy.model_management
    device = management.get_torch_device()
    kept = dtype or management.unet_dtype(device=device, model_params=num_parameters)
    return Place(
        device, management.unet_offload_device(), kept, management.unet_manual_cast(kept, device)
    )


def patcher(module: nn.Module, place: Place, kind: Any = CoreModelPatcher) -> Any:
    """A module in the host's patcher, so that it is loaded and offloaded like all others.

    Args:
        module: the network.
        place: where it lives.
        kind: class of the patcher, if it is not the host's own.
    """
    return kind(module, load_device=place.load_device, offload_device=place.offload_device)


def on_device(model: comfy.model_patcher.ModelPatcher, whole: bool = False) -> Any:
    """Load a patcher's module through the host's memory management and return the module.

    Args:
        model: the patcher.
        whole: for modules of other layers than the host's, which cannot be loaded in part.
    """
    comfy.model_management.load_models_gpu([model], force_full_load=whole)
    return model.model


def file_stamp(path: Path | None) -> str:
    """What changes when a file is replaced, for a node's fingerprint; "" where there is none."""
    if path is None or not path.is_file():
        return ""
    stat = path.stat()
    return f"{path} {stat.st_mtime_ns} {stat.st_size}"


def check_interrupted() -> None:
    """Raise the host's interruption if the user asked for one."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def show_text(text: str) -> None:
    """Show a text in the running node, as long as it runs; nothing where there is no server."""
    # Not imported: outside of a server it would be started.
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    context = get_executing_context()
    if context is not None and hasattr(server, "send_progress_text"):
        server.send_progress_text(text, context.node_id)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device, those of models that the host would move away included."""
    management = comfy.model_management
    loaded = sum(
        model.model_loaded_memory()
        for model in management.current_loaded_models
        if model.device == device and model.model is not None
    )
    return int(management.get_free_memory(device)) + int(loaded)


class HostAttention:
    """emo_core.attention.attend() by the host's attention, or by what a MODEL has in its place.

    Its faster backends (sage, flash) leave a bias out, so where there is one PyTorch's own is used.

    Attributes:
        options: transformer_options of the call that runs, if it brings an attention of its own.
    """

    def __init__(self) -> None:
        self.options: dict[str, Any] | None = None

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, num_heads: int, bias: Tensor | None = None
    ) -> Tensor:
        """See emo_core.attention.attend()."""
        given = {} if self.options is None else {"transformer_options": self.options}
        if bias is None:
            return optimized_attention(query, key, value, heads=num_heads, **given)
        mask = bias.to(query.dtype)[None]
        return attention_pytorch(query, key, value, num_heads, mask=mask, **given)
