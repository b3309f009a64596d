"""One clip through the host's samplers: by widgets, or by NOISE, SAMPLER, SIGMAS and GUIDER."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ..emo_core.clips import ClipPlan, StreamNoise, clip_seed, shared_noise
from ..emo_core.conditions import Conditions
from ..emo_core.given import Given
from .conds import positive_and_negative
from .guide import check_guider, guider_for
from .hallo_noise import HalloNoise
from .host import check_interrupted


@dataclass(frozen=True)
class Settings:
    """How a clip is sampled: widgets, and the sockets that overrule them.

    Attributes:
        steps: sampling steps; `sigmas` overrules it.
        cfg: guidance scale; `guider` overrules it.
        sampler_name: name of the sampler; `sampler` overrules it.
        scheduler: name of the spacing; `sigmas` overrules it.
        noise: NOISE, or None for the film's own.
        sampler: SAMPLER, or None.
        sigmas: SIGMAS (steps + 1,), or None.
        guider: GUIDER, or None.
        joins: where clips meet; see joins.plan_joins().
        lock: how their colours are held; see lock.lock_colours().
    """

    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    noise: Any = None
    sampler: Any = None
    sigmas: Tensor | None = None
    guider: Any = None
    joins: str = "auto"
    lock: str = "off"

    @property
    def num_steps(self) -> int:
        """Steps of a clip, as the progress bar counts them."""
        return self.steps if self.sigmas is None else len(self.sigmas) - 1


class ClipSampler:
    """Samples one clip after the other with the host's sampler; one progress bar over all steps.

    Args:
        model: MODEL.
        settings: widgets and sockets.
        seed: of the film.
        total_clips: how many clips the bar is for.
        on_step: told of the steps of a clip that are done, after each.

    Raises:
        ValueError: if there is no step to sample, or a NOISE or GUIDER does not fit.
    """

    def __init__(
        self, model: Any, settings: Settings, seed: int, total_clips: int,
        on_step: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        if settings.num_steps < 1:
            raise ValueError(
                f"sampling needs at least two sigmas, got {settings.num_steps + 1}; give more steps"
            )
        if settings.guider is not None:
            check_guider(settings.guider, model)
        if settings.noise is not None:
            _check_noise(settings.noise)
        self._model, self._settings, self._seed = model, settings, seed
        self._bar = comfy.utils.ProgressBar(total_clips * settings.num_steps)
        self._done, self._on_step = 0, on_step
        self._stream: StreamNoise | None = None
        self._previewer = latent_preview.get_previewer(
            model.load_device, model.model.latent_format
        )

    def skip(self) -> None:
        """A clip need not be sampled: the bar goes on over its steps."""
        self._done += self._settings.num_steps
        self._bar.update_absolute(self._done)

    def __call__(
        self, conditions: Conditions, noise: Tensor, plan: ClipPlan, given: Given | None = None
    ) -> Tensor:
        """A clip's conditions and noise (1, F, C, h, w) to a LATENT's (F, C, h, w)."""
        check_interrupted()
        settings, drawn = self._settings, noise[0].float().cpu()
        seed = clip_seed(self._seed, plan.index)
        if settings.noise is not None:
            seed, shape = clip_seed(settings.noise.seed, plan.index), tuple(drawn.shape)
            drawn = shared_noise(lambda index: self._noise_of_clip(shape, index), plan)
        there = self._there(drawn, given)
        sample = self._by_widgets
        if any(part is not None for part in (settings.sampler, settings.sigmas, settings.guider)):
            sample = self._by_guider
        samples = sample(conditions, drawn, seed, there)
        if not bool(torch.isfinite(samples).all()):
            raise ValueError(
                f"clip {plan.index} came out as NaN; use the model's own steps and cfg, or dtype "
                "fp32 in EMO Model Loader"
            )
        return torch.as_tensor(samples.float().cpu())

    def _there(self, noise: Tensor, given: Given | None) -> _There:
        """What is given of a clip, in the form of the host's samplers."""
        if given is None:
            return _There(torch.zeros_like(noise))
        latents = self._model.model.process_latent_out(given.latents[0].float().cpu())
        mask = None if given.mask is None else given.mask[0].float().cpu()
        return _There(torch.as_tensor(latents), mask, given.denoise)

    def _noise_of_clip(self, shape: tuple[int, ...], index: int) -> Tensor:
        """Clip `index`'s numbers (F, C, h, w) of the connected NOISE."""
        noise = self._settings.noise
        if isinstance(noise, HalloNoise):
            self._stream = self._stream or noise.stream(shape)
            return self._stream.latents(index, shape)
        # A copy with the clip's own seed, or every clip would see the same.
        source = copy.copy(noise)
        source.seed = clip_seed(noise.seed, index)
        return torch.as_tensor(source.generate_noise({"samples": torch.zeros(shape)}))

    def _by_widgets(
        self, conditions: Conditions, noise: Tensor, seed: int, there: _There
    ) -> Tensor:
        """Exactly what core KSampler does."""
        settings = self._settings
        positive, negative = positive_and_negative(conditions)
        samples: Tensor = comfy.sample.sample(
            self._model, noise, settings.steps, settings.cfg, settings.sampler_name,
            settings.scheduler, positive, negative, there.latent_image, denoise=there.denoise,
            noise_mask=there.noise_mask, seed=seed,
            callback=self._callback(), disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        )  # fmt: skip
        return samples

    def _by_guider(
        self, conditions: Conditions, noise: Tensor, seed: int, there: _There
    ) -> Tensor:
        """Exactly what core SamplerCustomAdvanced does; widgets stand in for what is open."""
        settings, model = self._settings, self._model
        if settings.guider is not None:
            guider = guider_for(settings.guider, model, conditions)
        else:
            guider = comfy.samplers.CFGGuider(model)
            guider.set_conds(*positive_and_negative(conditions))
            guider.set_cfg(settings.cfg)
        usual = comfy.samplers.KSampler(
            guider.model_patcher, settings.num_steps, model.load_device, settings.sampler_name,
            settings.scheduler, denoise=there.denoise,
        )  # fmt: skip
        samples: Tensor = guider.sample(
            noise, there.latent_image,
            settings.sampler or comfy.samplers.sampler_object(settings.sampler_name),
            usual.sigmas if settings.sigmas is None else settings.sigmas,
            denoise_mask=there.noise_mask, callback=self._callback(), seed=seed,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        )  # fmt: skip
        return samples

    def _callback(self) -> Callable[[int, Tensor, Tensor, int], None]:
        begun, steps = self._done, self._settings.num_steps
        self._done += steps

        def callback(step: int, x0: Tensor, x: Tensor, total_steps: int) -> None:
            preview = None
            if self._previewer is not None:
                preview = self._previewer.decode_latent_to_preview_image("JPEG", x0)
            # The bar asks too, but only inside of a server.
            check_interrupted()
            # Some samplers count more steps than were asked for; the bar must not run over.
            part = min(steps, steps * (step + 1) // max(total_steps, 1))
            self._bar.update_absolute(begun + part, preview=preview)
            if self._on_step is not None:
                self._on_step(part)

        return callback


@dataclass(frozen=True)
class _There:
    """What core samplers call what is given: a latent image, its noise mask and denoise."""

    latent_image: Tensor
    noise_mask: Tensor | None = None
    denoise: float = 1.0


def _check_noise(noise: Any) -> None:
    if not isinstance(getattr(noise, "seed", None), int):
        raise ValueError(
            f"the {type(noise).__name__} has no seed, so every clip would get the same noise; "
            "connect Random Noise, or leave noise open"
        )
