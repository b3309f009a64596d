"""Schedules, timesteps, guidance, and the solvers on denoisers with a closed form."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from small_models import draw
from torch import Tensor

from emo_core.clips import ClipPlan
from emo_core.conditions import CONDITIONS, Audience
from emo_core.config import SamplingConfig
from emo_core.presets import tiny
from emo_core.sampling import (
    SOLVERS,
    Guidance,
    alphas_cumprod,
    make_sampler,
    predict,
    sampling_timesteps,
)

KINDS = [
    ("scaled_linear", "epsilon"), ("cosine", "v_prediction"), ("cosine", "epsilon"),
    ("linear_zero_snr", "v_prediction"),
]


WHOLE = ClipPlan(0, 0, 12)


class Gaussian:
    """The exact denoiser of data that are normal about `mean` with standard deviation `spread`."""

    def __init__(
        self, schedule: str, prediction: str, mean: float = 0.7, spread: float = 0.5
    ) -> None:
        sampling = SamplingConfig(schedule, prediction, 6, 2.0)
        self.config = replace(tiny(), sampling=sampling)
        self.left = alphas_cumprod(schedule)
        self.mean, self.spread = mean, spread
        self.calls: list[tuple[int, int]] = []

    def __call__(self, latents: Tensor, timestep: Tensor, clip, audience: Audience) -> Tensor:
        self.calls.append((len(latents), int(timestep[0])))
        left = self.left[int(timestep[0])]
        a, b = left.sqrt(), (1 - left).sqrt()
        x = latents.double()
        variance = left * self.spread**2 + b**2
        clean = self.mean + a * self.spread**2 / variance * (x - a * self.mean)
        if self.config.sampling.prediction == "epsilon":
            return (x - a * clean) / b
        # v = a eps - b x0, with eps = (x - a x0) / b.
        return a * (x - a * clean) / b - b * clean

    def prepare(self, conditions: None) -> None:
        """It needs no conditions."""

    def exact(self, noise: Tensor, timestep: int) -> Tensor:
        """Where the probability flow takes the noise that sampling begins with."""

        def moments(left: Tensor) -> tuple[Tensor, Tensor]:
            return left.sqrt() * self.mean, (left * self.spread**2 + 1 - left).sqrt()

        (first, before), (mean, after) = moments(self.left[999]), moments(self.left[timestep])
        return mean + after * (noise.double() - first) / before


def written_out_ddim(denoiser: Gaussian, noise: Tensor, steps: int) -> Tensor:
    """DDIM with eta 0 (Song et al., equation 12) in float64."""
    x, times = noise.double(), sampling_timesteps(steps)
    for now, then in zip(times, [*times[1:], None], strict=True):
        left = denoiser.left[now]
        a, b = left.sqrt(), (1 - left).sqrt()
        out = denoiser(x, torch.tensor([now]), None, Audience())
        if denoiser.config.sampling.prediction == "epsilon":
            clean, eps = (x - b * out) / a, out
        else:
            clean, eps = a * x - b * out, b * x + a * out
        left = torch.tensor(1.0, dtype=torch.float64) if then is None else denoiser.left[then]
        x = left.sqrt() * clean + (1 - left).sqrt() * eps
    return x


@pytest.mark.parametrize(("schedule", "prediction"), KINDS)
@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_ddim_is_ddim(schedule: str, prediction: str, steps: int) -> None:
    denoiser = Gaussian(schedule, prediction)
    noise = draw(1, 3, 4, 2, 2)
    found = make_sampler(denoiser, steps, Guidance(1.0))(None, noise, WHOLE)
    expected = written_out_ddim(denoiser, noise, steps)
    # Diffusers steps in float32; the noise of cosine's first step is divided by 1 / 637.
    slack = 2e-3 if (schedule, prediction) == ("cosine", "epsilon") else 2e-5
    torch.testing.assert_close(found.double(), expected, rtol=slack, atol=slack)


@pytest.mark.parametrize(("schedule", "prediction"), KINDS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 6, 25])
def test_solvers_are_finite_on_every_schedule(
    schedule: str, prediction: str, solver, steps: int
) -> None:
    denoiser = Gaussian(schedule, prediction)
    found = make_sampler(denoiser, steps, Guidance(1.0), solver)(None, draw(1, 2, 4, 2, 2), WHOLE)
    assert found.isfinite().all()
    assert found.abs().max() < 10


@pytest.mark.parametrize("schedule", ["scaled_linear", "cosine", "linear_zero_snr"])
def test_the_second_order_converges_faster(schedule: str) -> None:
    """Before the last step, which in every solver is a single look at what is left."""
    prediction = "epsilon" if schedule == "scaled_linear" else "v_prediction"
    denoiser = Gaussian(schedule, prediction)
    noise = draw(1, 4, 4, 4, 4, dtype=torch.float32)

    def error(solver, steps: int) -> float:
        states: list[Tensor] = []
        sampler = make_sampler(
            denoiser, steps, Guidance(1.0), solver, lambda done, latents: states.append(latents)
        )
        sampler(None, noise, WHOLE)
        expected = denoiser.exact(noise, sampling_timesteps(steps)[-1])
        return float((states[-2].double() - expected).square().mean().sqrt())

    assert error("ddim", 40) < error("ddim", 20) < error("ddim", 10)
    for steps in (6, 10, 20, 40):
        assert error("dpmpp_2m", steps) < 0.5 * error("ddim", steps)
    assert error("dpmpp_2m", 20) < 0.5 * error("ddim", 40)


def test_schedules() -> None:
    for name in ("scaled_linear", "cosine", "linear_zero_snr"):
        left = alphas_cumprod(name)
        assert left.shape == (1000,) and left.dtype == torch.float64
        assert (left.diff() < 0).all() and left[0] < 1
    assert alphas_cumprod("linear_zero_snr")[-1] == 0
    betas = torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64)
    assert float(alphas_cumprod("linear_zero_snr")[0]) == pytest.approx(float(1 - betas[0]))
    cosine = alphas_cumprod("cosine")[-1]
    assert float(((1 - cosine) / cosine).sqrt()) == pytest.approx(637, abs=1)
    # SD 1.5's last sigma.
    last = alphas_cumprod("scaled_linear")[-1]
    assert float(((1 - last) / last).sqrt()) == pytest.approx(14.6146, abs=1e-3)


def test_the_zero_snr_schedule_is_diffusers() -> None:
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", rescale_betas_zero_snr=True
    )
    torch.testing.assert_close(
        alphas_cumprod("linear_zero_snr").float(), theirs.alphas_cumprod, rtol=1e-3, atol=1e-6
    )


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="linear_zero_snr"):
        alphas_cumprod("linear")
    with pytest.raises(ValueError, match="solver must be one of ddim, dpmpp_2m"):
        make_sampler(Gaussian("cosine", "epsilon"), 5, Guidance(1.0), "euler")


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_impossible_numbers_of_steps_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="1 to 1000"):
        make_sampler(Gaussian("cosine", "epsilon"), steps, Guidance(1.0))


@pytest.mark.parametrize("steps", [1, 2, 3, 6, 7, 25, 40, 999, 1000])
def test_timesteps_are_those_of_the_hosts_simple_schedule(steps: int) -> None:
    times = sampling_timesteps(steps)
    # ComfyUI's simple_scheduler: sigmas[-(1 + int(x * len(sigmas) / steps))].
    assert times == [list(range(1000))[-(1 + int(x * (1000 / steps)))] for x in range(steps)]
    assert times[0] == 999 and len(set(times)) == steps and times == sorted(times, reverse=True)
    assert sampling_timesteps(40)[-1] == 24


def test_scale_one_runs_one_branch() -> None:
    denoiser = Gaussian("cosine", "v_prediction")
    make_sampler(denoiser, 3, Guidance(1.0))(None, draw(1, 2, 4, 2, 2), WHOLE)
    assert denoiser.calls == [(1, 999), (1, 666), (1, 333)]
    denoiser.calls.clear()
    make_sampler(denoiser, 2, Guidance(2.0))(None, draw(1, 2, 4, 2, 2), WHOLE)
    assert denoiser.calls == [(2, 999), (2, 499)]
    denoiser.calls.clear()
    make_sampler(denoiser, 1, Guidance(2.0, 3.0))(None, draw(2, 2, 4, 2, 2), WHOLE)
    assert denoiser.calls == [(6, 999)]


def test_guidance_combines() -> None:
    nothing, silent, full = draw(3, 2)
    torch.testing.assert_close(Guidance(1.0).combine(full[None]), full)
    two = Guidance(3.0).combine(torch.stack([nothing, full]))
    torch.testing.assert_close(two, nothing + 3 * (full - nothing))
    three = torch.stack([nothing, silent, full])
    # With equal scales the two guidances are one.
    torch.testing.assert_close(Guidance(3.0, 3.0).combine(three), two)
    torch.testing.assert_close(Guidance(1.0, 1.0).combine(three), full)
    assert Guidance(2.0).branches == (frozenset(), CONDITIONS)
    assert Guidance(2.0, 1.0).branches[1] == CONDITIONS - {"audio"}


def test_branches_come_emptiest_first() -> None:
    seen = []

    def denoiser(rows: Tensor, times: Tensor, clip, audience: Audience) -> Tensor:
        seen.append((rows, times, audience))
        return torch.cat([torch.zeros_like(rows[:2]), torch.ones_like(rows[2:])])

    latents = draw(2, 3, 4, 2, 2)
    out = predict(denoiser, latents, 7, SimpleNamespace(), Guidance(2.5))
    rows, times, audience = seen[0]
    assert torch.equal(rows[:2], latents) and torch.equal(rows[2:], latents)
    assert times.tolist() == [7] * 4
    assert audience.region.index.tolist() == [2, 3]
    assert (out == 2.5).all()


def test_every_step_is_reported() -> None:
    steps = []
    sampler = make_sampler(
        Gaussian("cosine", "v_prediction"), 3, Guidance(1.0),
        on_step=lambda done, latents: steps.append((done, latents.clone())),
    )
    out = sampler(None, draw(1, 2, 4, 2, 2), WHOLE)
    assert [done for done, _ in steps] == [1, 2, 3]
    assert torch.equal(steps[-1][1], out)


def test_a_sampler_can_be_used_again() -> None:
    noise = draw(1, 2, 4, 2, 2)
    sampler = make_sampler(Gaussian("cosine", "v_prediction"), 4, Guidance(1.0), "dpmpp_2m")
    assert torch.equal(sampler(None, noise, WHOLE), sampler(None, noise, WHOLE))


def test_the_spread_of_samples_is_that_of_the_data() -> None:
    denoiser = Gaussian("cosine", "v_prediction", mean=0.0, spread=0.3)
    noise = draw(1, 8, 4, 16, 16, dtype=torch.float32)
    out = make_sampler(denoiser, 40, Guidance(1.0), "dpmpp_2m")(None, noise, WHOLE)
    assert float(out.std()) == pytest.approx(0.3, rel=0.05)
    assert math.isclose(float(out.mean()), 0.0, abs_tol=0.02)
