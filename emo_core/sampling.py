"""Noise schedules, guidance, and diffusers' solvers behind one signature.

The paper samples with DDIM, 40 steps, and never mentions guidance (every descendant uses it); our
guidance drops the conditions that a branch does not see (see conditions.Audience).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from .clips import ClipPlan
from .conditions import CONDITIONS, Audience, Clip, Conditions
from .config import SamplingConfig
from .denoiser import Denoiser
from .given import Given

NUM_TIMESTEPS = 1000


class SampleClip(Protocol):
    """Samples a clip; make_sampler() makes one."""

    def __call__(
        self, conditions: Conditions, noise: Tensor, plan: ClipPlan, given: Given | None = None, /
    ) -> Tensor:
        """Take a clip's conditions and noise (1, F, C, h, w) to clean latents.

        Args:
            conditions: what drives it.
            noise: where sampling begins.
            plan: which clip.
            given: latents that are there already; left out where there are none.
        """
        ...


def alphas_cumprod(schedule: str) -> Tensor:
    """Share of the signal's variance that is left at each of the 1000 timesteps, float64.

    "scaled_linear" is SD 1.5's. "linear_zero_snr" is Hallo's: linear betas rescaled to no signal
    at the end (Lin et al., arXiv 2305.08891, algorithm 1). "cosine" is emo-tiny's: cos^2 of equal
    angles, ending just above no signal (sigma 637), so that it is finite in every parameterisation.

    Raises:
        ValueError: for another name.
    """
    start, end = 0.00085, 0.012
    if schedule == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, NUM_TIMESTEPS, dtype=torch.float64) ** 2
        return (1 - betas).cumprod(0)
    if schedule == "linear_zero_snr":
        betas = torch.linspace(start, end, NUM_TIMESTEPS, dtype=torch.float64)
        root = (1 - betas).cumprod(0).sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        return root**2
    if schedule == "cosine":
        steps = torch.arange(1, NUM_TIMESTEPS + 1, dtype=torch.float64) / (NUM_TIMESTEPS + 1)
        return (steps * (math.pi / 2)).cos() ** 2
    raise ValueError(f"schedule must be scaled_linear, linear_zero_snr or cosine, got {schedule!r}")


def sampling_timesteps(num_inference_steps: int) -> list[int]:
    """The timesteps of a run with trailing spacing: it begins at 999, where there is only noise.

    They are those of ComfyUI's scheduler `simple`, which rounds down; diffusers' trailing rounds to
    the nearest, so that some steps differ by one where 1000 is no multiple of the number of steps.

    Raises:
        ValueError: unless 1 to 1000 steps are asked for.
    """
    if not 1 <= num_inference_steps <= NUM_TIMESTEPS:
        raise ValueError(f"steps must be 1 to {NUM_TIMESTEPS}, got {num_inference_steps}")
    stride = NUM_TIMESTEPS / num_inference_steps
    return [NUM_TIMESTEPS - 1 - int(step * stride) for step in range(num_inference_steps)]


def last_timesteps(num_inference_steps: int, denoise: float) -> list[int]:
    """As many timesteps over the last part of the schedule, as ComfyUI's `denoise` has them.

    A run of steps / denoise steps is planned, and its last ones are taken; the finest plan has a
    step at each timestep. 0 has none.

    Raises:
        ValueError: unless denoise is 0 to 1, or for a bad number of steps.
    """
    whole = sampling_timesteps(num_inference_steps)
    if not 0 <= denoise <= 1:
        raise ValueError(f"denoise must be 0 (nothing is made) to 1 (everything), got {denoise:g}")
    if denoise == 0:
        return []
    if denoise == 1:
        return whole
    planned = min(NUM_TIMESTEPS, int(num_inference_steps / denoise))
    return sampling_timesteps(planned)[-num_inference_steps:]


@dataclass(frozen=True)
class Guidance:
    """How far to go from what a branch predicts that sees fewer conditions.

    Attributes:
        scale: of all conditions together; 1 runs one branch only and is no guidance.
        audio_scale: of the sound alone; then `scale` is that of the other conditions.
    """

    scale: float
    audio_scale: float | None = None

    @property
    def branches(self) -> tuple[frozenset[str], ...]:
        """What each branch sees, the emptiest first."""
        if self.audio_scale is None:
            return (CONDITIONS,) if self.scale == 1 else (frozenset(), CONDITIONS)
        return (frozenset(), CONDITIONS - {"audio"}, CONDITIONS)

    def combine(self, predictions: Tensor) -> Tensor:
        """Predictions of the branches (branches, ...) to one."""
        if len(predictions) == 1:
            return predictions[0]
        out = predictions[0] + self.scale * (predictions[1] - predictions[0])
        if self.audio_scale is not None:
            out = out + self.audio_scale * (predictions[2] - predictions[1])
        return out


def predict(
    denoiser: Denoiser, latents: Tensor, timestep: int, clip: Clip, guidance: Guidance
) -> Tensor:
    """One guided prediction: all branches as one batch.

    Args:
        denoiser: the backbone.
        latents: (B, F, C, h, w).
        timestep: 0..999.
        clip: of B videos.
        guidance: branches and scales.

    Returns:
        (B, F, C, h, w).
    """
    branches = guidance.branches
    batch = latents.shape[0]
    audience = Audience.of_branches(branches, batch, latents.device)
    rows = latents.repeat(len(branches), 1, 1, 1, 1)
    times = torch.full((len(rows),), timestep, device=latents.device)
    out = denoiser(rows, times, clip, audience)
    return guidance.combine(out.unflatten(0, (len(branches), batch)))


Solver = Literal["ddim", "dpmpp_2m"]
SOLVERS: tuple[Solver, ...] = ("ddim", "dpmpp_2m")


def make_sampler(
    denoiser: Denoiser,
    num_inference_steps: int,
    guidance: Guidance,
    solver: Solver = "ddim",
    on_step: Callable[[int, Tensor], None] | None = None,
) -> SampleClip:
    """A function that takes a clip's conditions and noise to clean latents.

    "ddim" is DDIM without added noise, which is the first-order DPM-Solver++ (Lu et al., arXiv
    2211.01095, section 4.1); "dpmpp_2m" is its second-order multistep form, for fewer steps.

    Args:
        denoiser: the backbone.
        num_inference_steps: steps, 1 to 1000.
        guidance: scales.
        solver: which one.
        on_step: called after each step with (steps done, latents).

    Raises:
        ValueError: for an unknown solver or a bad number of steps.
    """
    sampling_timesteps(num_inference_steps)
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")

    def sample(
        conditions: Conditions, noise: Tensor, _: ClipPlan, given: Given | None = None, /
    ) -> Tensor:
        config = denoiser.config.sampling
        denoise = 1.0 if given is None else given.denoise
        timesteps = last_timesteps(num_inference_steps, denoise)
        if given is not None and not timesteps:
            return given.latents
        clip = denoiser.prepare(conditions)
        scheduler, left = _scheduler(config, timesteps, solver), alphas_cumprod(config.schedule)
        latents = noise
        if given is not None and denoise < 1:
            latents = given.noised(noise, left[timesteps[0]])
        for done, timestep in enumerate(timesteps, start=1):
            if given is not None:
                latents = given.hold(latents, noise, left[timestep])
            prediction = predict(denoiser, latents, timestep, clip, guidance)
            if given is not None:
                prediction = given.lead(prediction, latents, left[timestep], config.prediction)
            latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
            if on_step is not None:
                on_step(done, latents)
        return latents if given is None else given.settle(latents)

    return sample


def _scheduler(config: SamplingConfig, timesteps: Sequence[int], solver: Solver) -> Any:
    """Diffusers' solver over exactly these timesteps."""
    from diffusers import DPMSolverMultistepScheduler

    left = alphas_cumprod(config.schedule)
    before = torch.cat([left.new_ones(1), left[:-1]])
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=NUM_TIMESTEPS,
        trained_betas=(1 - left / before).numpy(),
        prediction_type=config.prediction,
        algorithm_type="dpmsolver++",
        solver_order=1 if solver == "ddim" else 2,
        lower_order_final=True,
        final_sigmas_type="zero",
    )
    # The betas pass through float32 in diffusers, whose running product loses the last steps.
    scheduler.alphas_cumprod = left.float()
    scheduler.set_timesteps(num_inference_steps=len(timesteps))
    levels = left[list(timesteps)]
    sigmas = ((1 - levels) / levels.clamp(min=torch.finfo(torch.float32).tiny)).sqrt()
    scheduler.sigmas = torch.cat([sigmas, sigmas.new_zeros(1)]).float()
    scheduler.timesteps = torch.tensor(list(timesteps))
    return scheduler
