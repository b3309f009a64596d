"""Latents that are there before a clip is sampled: what stays, what is made, and from where on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_models import FRAMES, LATENT, draw, make_conditions, pick, small_model
from torch import Tensor

from emo_core.clips import ClipPlan
from emo_core.given import Given
from emo_core.model import EMO
from emo_core.sampling import (
    SOLVERS,
    Guidance,
    last_timesteps,
    make_sampler,
    sampling_timesteps,
)

PLAN = ClipPlan(0, 0, FRAMES)
SHAPE = (1, FRAMES, *LATENT)


@pytest.fixture(scope="module")
def model() -> EMO:
    return small_model("emo", torch.float32)


def single(*shape: int, seed: int) -> Tensor:
    return draw(*shape, seed=seed, dtype=torch.float32)


def given(mask: Tensor | None, denoise: float = 1.0) -> Given:
    return Given(single(*SHAPE, seed=7), mask, denoise)


def filled(value: float) -> Tensor:
    return torch.full((1, FRAMES, 1, *LATENT[1:]), value)


def sample(model: EMO, there: Given | None, solver: str = "ddim", steps: int = 3) -> Tensor:
    sampler = make_sampler(model.denoising_unet, steps, Guidance(1.5), solver)  # type: ignore[arg-type]
    conditions = make_single(model)
    found = () if there is None else (there,)
    with torch.no_grad():
        return sampler(conditions, single(*SHAPE, seed=8), PLAN, *found)


def make_single(model: EMO, batch: int = 1):
    """Conditions in the model's precision."""
    double = make_conditions(model.double(), batch)
    model.float()
    reference = double.reference
    banks = [
        {name: tensor.float() for name, tensor in bank.items()}
        for bank in (reference.portrait, reference.motion)
    ]
    return replace(
        double, reference=replace(reference, portrait=banks[0], motion=banks[1]),
        audio_tokens=double.audio_tokens.float(), region=double.region.float(),
        speed=double.speed.float(),
    )  # fmt: skip


@pytest.mark.parametrize("solver", SOLVERS)
def test_everything_to_be_made_is_a_clip_without_anything_given(model: EMO, solver: str) -> None:
    alone = sample(model, None, solver)
    assert torch.equal(sample(model, given(None), solver), alone)
    assert torch.equal(sample(model, given(filled(1.0)), solver), alone)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("denoise", [1.0, 0.5, 0.0])
def test_nothing_to_be_made_gives_the_given_latents(
    model: EMO, solver: str, denoise: float
) -> None:
    there = given(filled(0.0), denoise)
    assert torch.equal(sample(model, there, solver), there.latents)


def test_what_stays_is_exact_and_what_is_made_sees_it(model: EMO) -> None:
    mask = filled(1.0)
    mask[:, 0] = 0
    mask[..., :3] = 0
    there, alone = given(mask), sample(model, None)
    out = sample(model, there)
    stays = mask.expand(SHAPE) == 0
    assert torch.equal(out[stays], there.latents[stays])
    assert not torch.allclose(out[~stays], alone[~stays], atol=1e-3)
    assert out.isfinite().all()


def test_less_denoising_stays_nearer_to_what_was_there(model: EMO) -> None:
    distances = []
    for denoise in (0.0, 0.2, 0.5, 0.8, 1.0):
        there = given(None, denoise)
        distances.append(float((sample(model, there, steps=4) - there.latents).abs().mean()))
    assert distances[0] == 0 and distances == sorted(distances)
    assert distances[1] < 0.5 * distances[-1]


def test_a_mask_between_blends_both(model: EMO) -> None:
    there, made = given(filled(1.0)), sample(model, None)
    outs = [sample(model, given(filled(part))) for part in (0.0, 0.3, 0.7, 1.0)]
    to_given = [float((out - there.latents).abs().mean()) for out in outs]
    to_made = [float((out - made).abs().mean()) for out in outs]
    assert to_given == sorted(to_given) and to_made == sorted(to_made, reverse=True)


def test_several_videos_at_once_are_those_one_by_one(model: EMO) -> None:
    both = make_single(model, 2)
    sampler = make_sampler(model.denoising_unet, 3, Guidance(1.5))
    noise, latents = single(2, *SHAPE[1:], seed=1), single(2, *SHAPE[1:], seed=2)
    mask = (single(2, FRAMES, 1, *LATENT[1:], seed=3) > 0).float()
    together = sampler(both, noise, PLAN, Given(latents, mask, 0.6))
    for row in (0, 1):
        one = slice(row, row + 1)
        apart = sampler(pick(both, row), noise[one], PLAN, Given(latents[one], mask[one], 0.6))
        torch.testing.assert_close(together[one], apart, rtol=1e-4, atol=1e-4)


def test_a_prediction_that_leads_to_latents_gives_them() -> None:
    """x0 = (x - b eps) / a = a x - b v."""
    there, x = given(filled(0.0)), single(*SHAPE, seed=9)
    left = torch.tensor(0.3, dtype=torch.float64)
    a, b = left.sqrt(), (1 - left).sqrt()
    zero = torch.zeros(SHAPE)
    eps, v = (there.lead(zero, x, left, kind) for kind in ("epsilon", "v_prediction"))
    torch.testing.assert_close((x - b * eps) / a, there.latents, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(a * x - b * v, there.latents, rtol=1e-5, atol=1e-5)


def test_the_schedules_last_part() -> None:
    assert last_timesteps(6, 1.0) == sampling_timesteps(6)
    assert last_timesteps(6, 0.5) == sampling_timesteps(12)[-6:]
    assert last_timesteps(6, 0.0) == []
    assert last_timesteps(40, 0.01) == list(range(39, -1, -1))
    assert all(len(last_timesteps(6, part / 50)) == 6 for part in range(1, 51))
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"denoise must be 0 .* to 1"):
            last_timesteps(6, wrong)


def test_a_films_clip_holds_its_last_frame() -> None:
    film = Given(single(1, 5, *LATENT, seed=1), torch.arange(2.0).reshape(1, 2, 1, 1, 1), 0.4)
    clip = film.clip(3, 4)
    assert clip.latents.shape == (1, 4, *LATENT) and clip.denoise == 0.4
    assert torch.equal(clip.latents[0, 1], film.latents[0, 4])
    assert torch.equal(clip.latents[0, 3], film.latents[0, 4])
    assert clip.mask is not None and clip.mask.flatten().tolist() == [1.0] * 4
    assert Given(film.latents).clip(0, 2).mask is None
