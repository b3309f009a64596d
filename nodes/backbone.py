"""The backbone as ComfyUI's MODEL: its samplers, schedulers, guiders and patches drive it."""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.patcher_extension
import comfy.supported_models_base
from einops import rearrange
from torch import Tensor

from ..emo_core.attention import Build
from ..emo_core.conditions import Audience, Clip, Conditions
from ..emo_core.config import EMOConfig
from ..emo_core.denoiser import Denoiser
from ..emo_core.sampling import alphas_cumprod
from .conds import Branches, ClipCond
from .host import Place
from .lora_names import describe_blocks, own_names
from .patches import check_cond, check_model, check_options, runs_apart

_LEAST_SIGNAL = 4.8973451890853435e-08
"""What ComfyUI puts in the place of no signal at all (comfy/model_sampling.py)."""


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
                "an EMO MODEL samples what EMO Conditioning gives, and got another CONDITIONING; "
                "connect positive and negative of EMO Conditioning"
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
                f"and {x.shape[-1]}x{x.shape[-2]}; connect the LATENT of EMO Conditioning"
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
