"""The bridge to ComfyUI: the backbone as its MODEL, its memory management, its interruption."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.ops
import comfy.patcher_extension
import comfy.supported_models_base
import torch
from comfy.ldm.modules.attention import attention_pytorch, optimized_attention
from comfy_execution.utils import get_executing_context
from einops import rearrange
from torch import Tensor, nn

from ..emo_core.attention import Build
from ..emo_core.conditions import Audience, Clip, Conditions
from ..emo_core.config import EMOConfig
from ..emo_core.denoiser import Denoiser
from ..emo_core.sampling import alphas_cumprod
from .conds import Branches, ClipCond
from .lora_names import CoreModelPatcher, EMOPatcher, describe_blocks, own_names
from .patches import check_cond, check_model, check_options, runs_apart

logger = logging.getLogger(__name__)

ATTACHMENT = "emo"
_LEAST_SIGNAL = 4.8973451890853435e-08
"""What ComfyUI puts in the place of no signal at all (comfy/model_sampling.py)."""
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
    """

    config: EMOConfig
    identity: str
    digest: str
    conditioner: comfy.model_patcher.ModelPatcher
    hearing: comfy.model_patcher.ModelPatcher | None
    compute_dtype: torch.dtype
    training: dict[str, Any]
    reproduce: bool = False


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


def patcher(module: nn.Module, place: Place) -> comfy.model_patcher.ModelPatcher:
    """A module in the host's core patcher, so that it is loaded and offloaded like all others."""
    kind = EMOPatcher if isinstance(module, EMOModel) else CoreModelPatcher
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


class HostDenoiser(Denoiser):
    """The backbone with the signature of a host's diffusion model: frames folded into the batch."""

    def __init__(self, config: EMOConfig, build: Build) -> None:
        super().__init__(config, build)
        self.dtype = build.dtype
        self._attention = build.attend

    def forward(  # type: ignore[override]
        self, x: Tensor, timesteps: Tensor, context: Any = None, control: Any = None,
        transformer_options: dict[str, Any] | None = None, emo: Any = None, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        """Predict for x (rows * F, C, h, w); `emo` is a prepared Clip and each row's branch."""
        wrappers = comfy.patcher_extension.get_all_wrappers(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, transformer_options or {}
        )
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(
            self._predict, self, wrappers
        )
        return executor.execute(x, timesteps, context, control, transformer_options, emo=emo)

    def _predict(
        self, x: Tensor, timesteps: Tensor, context: Any, control: Any, options: Any,
        emo: tuple[Clip, tuple[frozenset[str], ...]],
    ) -> Tensor:  # fmt: skip
        clip, sees = emo
        frames = self.config.temporal.num_frames
        audience = Audience.of_branches(sees, 1, x.device)
        folded = rearrange(x, "(R F) C h w -> R F C h w", F=frames)
        if "optimized_attention_override" in (options or {}):
            self._attention.options = options
        try:
            out = super().forward(folded, timesteps[::frames], clip, audience)
        finally:
            self._attention.options = None
        return rearrange(out, "R F C h w -> (R F) C h w")


class EMOModel(comfy.model_base.BaseModel):
    """EMO's backbone as a BaseModel: every sampler, scheduler and guider of the host drives it.

    It is made without values; who makes it fills in the weights.
    """

    def __init__(
        self, config: EMOConfig, latent_format: comfy.latent_formats.LatentFormat, place: Place
    ) -> None:
        host = comfy.supported_models_base.BASE(
            {"disable_unet_model_creation": True, **describe_blocks(config.unet)}
        )
        self.own_names = own_names(host.unet_config)
        host.latent_format = latent_format
        host.set_inference_dtype(place.dtype, place.manual_cast)
        kinds = comfy.model_base.ModelType
        predicts = kinds.EPS if config.sampling.prediction == "epsilon" else kinds.V_PREDICTION
        super().__init__(host, predicts, device=place.offload_device)
        self.diffusion_model = HostDenoiser(config, place.build("meta"))
        left = alphas_cumprod(config.sampling.schedule).clamp(min=_LEAST_SIGNAL)
        self.model_sampling.set_sigmas(((1 - left) / left).sqrt().float())
        self._prepared: tuple[Conditions, tuple[Any, ...], Clip] | None = None

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Take EMO's conditions out of a CONDITIONING.

        Raises:
            ValueError: if it is of another pack or a text prompt.
        """
        conditions = kwargs.get("emo_conditions")
        if not isinstance(conditions, Conditions):
            raise ValueError(
                "an EMO MODEL samples what EMOConditioning gives, and got another CONDITIONING; "
                "connect positive and negative of EMOConditioning"
            )
        check_cond(kwargs)
        options: dict[str, Any] = {}
        if self.current_patcher is not None:
            check_model(self.current_patcher, self.diffusion_model.config.temporal.num_frames)
            options = self.current_patcher.model_options.get("transformer_options", {})
        return {"emo": ClipCond(conditions, kwargs["emo_sees"], apart=runs_apart(options))}

    def _apply_model(
        self, x: Tensor, t: Tensor, c_concat: Any = None, c_crossattn: Any = None,
        control: Any = None, transformer_options: Any = None, emo: Any = None, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        check_options(transformer_options or {}, control)
        self._check_size(x, emo)
        clip = self._clip(emo.conditions, x)
        return super()._apply_model(
            x, t, c_concat, c_crossattn, control, transformer_options or {},
            emo=(clip, emo.sees), **kwargs,
        )  # fmt: skip

    def _check_size(self, x: Tensor, emo: Branches) -> None:
        frames = self.diffusion_model.config.temporal.num_frames
        channels = self.diffusion_model.config.unet.latent_channels
        rows, columns = emo.conditions.region.shape[-2:]
        if tuple(x.shape) != (len(emo.sees) * frames, channels, rows, columns):
            raise ValueError(
                f"one clip has {frames} frames of {channels} channels and {columns}x{rows} latent "
                f"cells, got a LATENT of {len(x) // len(emo.sees)} frames of {x.shape[1]} channels "
                f"and {x.shape[-1]}x{x.shape[-2]}; connect the LATENT of EMOConditioning"
            )

    def _clip(self, conditions: Conditions, x: Tensor) -> Clip:
        """The projected conditions, made at a clip's first step and kept until sampling ends."""
        model = self.current_patcher
        dtype = self.manual_cast_dtype or self.get_dtype()
        hooks = () if model.current_hooks is None else model.current_hooks.hooks
        # A hook changes its strength in place, between two steps.
        strengths = tuple((hook, hook.strength) for hook in hooks)
        key = (model.patches_uuid, strengths, x.device, dtype)
        if self._prepared is not None:
            before, key_before, clip = self._prepared
            if before is conditions and key_before == key:
                return clip
        self.forget()
        clip = self.diffusion_model.prepare(conditions.to(x.device, dtype))
        self._prepared = (conditions, key, clip)
        return clip

    def forget(self, *_: Any) -> None:
        """Let go of the projected conditions; the host calls it when sampling ends."""
        self._prepared = None
