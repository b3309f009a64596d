"""Bytes of a film's weights, conditions and work: the count itself, and laws of what it says."""

from __future__ import annotations

import pytest
import torch
from small_models import small_config
from torch import nn
from torch.nn import functional

from emo_core.config import hallo
from emo_core.memory import memory_of, metered, weights_of
from emo_core.model import EMO
from emo_core.vae import VAEConfig

VAE = VAEConfig(8, (1, 1, 1, 1), 1, 4, 3, 3, 1.0, True, 4)


def test_what_lives_together_counts_together() -> None:
    given = torch.zeros(1000)

    def chain() -> torch.Tensor:
        one = given + 1
        two = one.view(10, 100) * 2
        del one
        return two.add_(1).T.contiguous()

    made, peak = metered(chain)
    # Two at once, never three; a view and what is changed in place take nothing, nor does `given`.
    assert made.shape == (100, 10) and peak == 2 * 4000
    assert metered(lambda: [given + 1, given + 2, given + 3])[1] == 3 * 4000
    assert metered(lambda: given.view(10, 100)[2:])[1] == 0


def test_attention_makes_its_output_only() -> None:
    query = torch.empty(1, 2, 512, 8, device="meta")
    made, peak = metered(lambda: functional.scaled_dot_product_attention(query, query, query))
    assert made.shape == query.shape and peak == 4 * query.numel()


def test_a_layer_counts_alike_with_and_without_numbers() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.GroupNorm(2, 8)).requires_grad_(False)
    _, here = metered(lambda: net(torch.zeros(1, 3, 32, 32)))
    away = net.to("meta")
    _, there = metered(lambda: away(torch.empty(1, 3, 32, 32, device="meta")))
    assert here == there > 0


def test_weights_are_those_of_the_parts() -> None:
    parts = weights_of(EMO(hallo(), torch.float16, "meta"))
    # In millions of numbers: SD 1.5's UNet twice, but for what ReferenceNet does not need.
    found = {name: round(size / 2e6) for name, size in parts.items()}
    assert found == {
        "ReferenceNet": 857, "face locator": 1, "projections": 38, "backbone": 860,
        "audio modules": 213, "temporal modules": 273,
    }  # fmt: skip


@pytest.mark.parametrize("variant", ["emo", "hallo"])
def test_laws_of_a_film(variant: str) -> None:
    config = small_config(variant)
    half, single = (memory_of(config, dtype, vae=VAE) for dtype in (torch.float16, torch.float32))
    large = memory_of(config, torch.float16, (128, 64), VAE)
    assert half.weights.keys() == single.weights.keys() and half.work.keys() == single.work.keys()
    for part, size in half.weights.items():
        assert single.weights[part] == 2 * size and large.weights[part] == size
    for stage, size in half.work.items():
        assert size < large.work[stage] and size < single.work[stage] <= 2 * size + 4096
    name = "VAE decodes and encodes the motion frames"
    assert (name in half.work) == (config.temporal.hand_over == "pixels")
    assert all(1.5 * size < large.kept[part] for part, size in half.kept.items() if "film" in part)
    assert half.kept["latents"] * 2 == large.kept["latents"]
    rest = sum(half.weights.values()) + sum(half.kept.values())
    assert half.peak == rest + max(half.work.values())


def test_an_audio_encoder_counts_with_its_weights() -> None:
    encoder = nn.Linear(10, 10)
    found = memory_of(small_config(), torch.float16, vae=VAE, audio_encoder=encoder)
    assert found.weights["audio encoder"] == 4 * 110
