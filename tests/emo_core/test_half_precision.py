"""Half precision: how near a forward stays to single precision, and what stays single inside."""

from __future__ import annotations

import pytest
import torch
from published_hallo import FRAMES, LATENT, MOTION, TIMESTEPS, draw, published, seeded_model
from torch import Tensor

from emo_core.attention import Build, attend
from emo_core.conditions import CONDITIONS, Audience
from emo_core.layers import TimestepEmbedding
from emo_core.model import ClipInputs
from emo_core.sampling import alphas_cumprod

LIMITS = {torch.float16: 8e-3, torch.bfloat16: 6e-2}
"""Root mean square of the error over that of the numbers."""
HALVES = list(LIMITS)


@torch.no_grad()
def predictions(dtype: torch.dtype) -> Tensor:
    """Both halves of guidance at three timesteps, everything computed in `dtype`."""
    model, given = seeded_model().to(dtype), published()
    portrait, face = given["portrait_latents"].to(dtype), draw("embedding", 1, 10).to(dtype)
    inputs = ClipInputs(
        given["audio_windows"][[0, 1, 1, 0]][None].to(dtype),
        (draw("region", 1, 3, 8 * LATENT, 8 * LATENT) > 0).to(dtype),
        face=face,
        masks=tuple(
            given[f"mask_level_{level}"].unflatten(1, (LATENT >> level,) * 2).to(dtype)
            for level in range(4)
        ),
    )
    motion = model.encode_motion(draw("motion", 1, MOTION, 4, LATENT, LATENT).to(dtype), face)
    clip = model.prepare(model.encode_portrait(portrait, face), motion, inputs)
    latents = draw("latents", 1, FRAMES, 4, LATENT, LATENT).repeat(2, 1, 1, 1, 1).to(dtype)
    audience = Audience.of_branches((frozenset(), CONDITIONS), 1, torch.device("cpu"))
    made = [
        model.denoising_unet(latents, torch.full((2,), timestep), clip, audience)
        for timestep in TIMESTEPS
    ]
    assert all(one.dtype == dtype for one in made)
    return torch.stack(made).float()


@pytest.fixture(scope="module")
def single() -> Tensor:
    return predictions(torch.float32)


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted.float()).pow(2).mean().sqrt() / wanted.float().std())


@pytest.mark.parametrize("dtype", HALVES)
def test_a_forward_stays_near_single_precision(dtype: torch.dtype, single: Tensor) -> None:
    found = predictions(dtype)
    for step in range(len(TIMESTEPS)):
        for half in range(2):
            assert relative(found[step, half], single[step, half]) < LIMITS[dtype]


@pytest.mark.parametrize("dtype", HALVES)
def test_the_angles_of_time_are_single(dtype: torch.dtype) -> None:
    layer, seen = TimestepEmbedding(32, 64, Build(dtype=dtype)), []
    layer.linear_1.register_forward_hook(lambda m, inputs, out: seen.append(inputs[0]))
    layer(torch.tensor([999, 474, 1]), dtype)
    rates = 10000.0 ** (-torch.arange(16, dtype=torch.float64) / 16)
    angles = torch.tensor([[999.0], [474.0], [1.0]], dtype=torch.float64) * rates
    exact = torch.cat([angles.cos(), angles.sin()], dim=-1)
    # In half precision 999 times a rate would be wrong by up to 4 radians.
    assert (seen[0].double() - exact).abs().max() < torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", HALVES)
@torch.no_grad()
def test_norms_count_in_single(dtype: torch.dtype) -> None:
    build = Build(dtype=dtype)
    tokens = (300 + draw("tokens", 4, 64, 8, 8)).to(dtype)
    # Squares of these numbers leave half precision's range, and its spacing there is their spread.
    for norm, of in ((build.group_norm(8, 64, 1e-6), tokens),
                     (build.layer_norm(64), tokens.movedim(1, -1))):  # fmt: skip
        assert relative(norm(of), norm.float()(of.float())) < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", HALVES)
def test_softmax_adds_in_single(dtype: torch.dtype) -> None:
    # 8192 equal weights: their sum stops at 2048 or 256 where it is added in half precision.
    query, key = torch.zeros(1, 4, 8, dtype=dtype), torch.zeros(1, 8192, 8, dtype=dtype)
    value = (1 + draw("value", 1, 8192, 8) / 8).to(dtype)
    found = attend(query, key, value, 2)
    wanted = value.float().mean(1, keepdim=True).expand_as(found)
    torch.testing.assert_close(found.float(), wanted, rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_the_schedule_is_double() -> None:
    for schedule in ("scaled_linear", "linear_zero_snr", "cosine"):
        assert alphas_cumprod(schedule).dtype == torch.float64
