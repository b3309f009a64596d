"""Bytes of a film's weights, conditions and work: the count itself, and laws of what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from published_hallo import published_state, tiny_hallo
from safetensors.torch import save_file
from small_models import small_config
from torch import nn
from torch.nn import functional

from emo_core import vae as vae_module
from emo_core.audio_encoder import build_audio_encoder, tiny_wav2vec2
from emo_core.cli import main
from emo_core.describe import describe_checkpoint, describe_memory
from emo_core.memory import memory_of, metered, weights_of
from emo_core.model import EMO
from emo_core.presets import hallo
from emo_core.vae import AutoencoderKL, VAEConfig, decode_in_parts

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
    for part in ("the portrait's features", "latents"):
        assert large.kept[part] == 2 * half.kept[part]
    rest = sum(half.weights.values()) + sum(half.kept.values())
    assert half.peak == rest + max(half.work.values())


def test_decoding_in_parts_gives_the_same_pictures_in_less(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = AutoencoderKL(VAE).eval().requires_grad_(False)
    latents = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pictures, (_, all_at_once) = vae.decode(latents), metered(lambda: vae.decode(latents))
    for name, limit in (("_FRAMES_AT_ONCE", 4), ("_PIXELS_AT_ONCE", 2 * 64 * 64)):
        monkeypatch.setattr(vae_module, name, limit)
        found = decode_in_parts(vae, latents)
        torch.testing.assert_close(found, pictures, rtol=0, atol=1e-5)
        in_parts = metered(lambda: decode_in_parts(vae, latents))[1]
        assert found.dtype == torch.float32 and in_parts < 0.75 * all_at_once


def test_emo_info_tells_it(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(checkpoint), "--memory", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["memory"]
    assert told["of_a_film"] == "32x32, 4 frames a clip, float16, in MB"
    assert told["weights"].keys() >= {"ReferenceNet", "VAE", "audio encoder"}
    assert main(["info", str(checkpoint), "--memory", "float32"]) == 0
    assert "a sampling step with guidance " in capsys.readouterr().out
    assert main(["info", str(checkpoint), "--size", "256x256"]) == 2
    assert "asked for with --memory" in capsys.readouterr().err
    assert main(["info", "--memory", str(checkpoint), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memory"] == told
    for words, sentence in (
        ((str(checkpoint), "--memory", "float8"), "--memory must be one of float16, bfloat16, fl"),
        ((str(checkpoint), "--memory", "--size", "portrait"), "give --size as WxH"),
        ((str(checkpoint), "--seconds", "9"), "asked for with --memory"),
        ((str(checkpoint), "--memory", "--seconds", "0"), "has 1 s or more, got 0"),
        ((str(checkpoint), "--variant", "hallo"), "between Hallo's two sets of weights"),
    ):
        assert main(["info", *words]) == 2
        assert sentence in capsys.readouterr().err
    assert main(["info", str(checkpoint), "--memory", "--size", "256x256"]) == 2
    assert "pixels and makes films of that size only" in capsys.readouterr().err


def test_hallos_weights_count_with_what_they_were_made_for(tmp_path: Path) -> None:
    path = tmp_path / "hallo.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in published_state().items()}
    save_file(tensors, path, {"emo_config": tiny_hallo().to_json()})
    own, large = describe_memory(path), describe_memory(path, size=(256, 320))
    assert own["weights"] == large["weights"]
    # wav2vec2-base at the small checkpoint's two layers of 16, in single precision.
    assert own["weights"]["VAE"] == 167.3 and own["weights"]["audio encoder"] > 10
    assert large["of_a_film"].startswith("320x256") and large["peak"] > own["peak"]
    # Hallo hears the whole sound at once, Hallo2 never more than 60 s of it.
    assert describe_checkpoint(path, "hallo2")["name"] == "hallo2"
    for variant, seconds, heard in (("hallo", 180, 180), ("hallo2", 180, 60)):
        told = describe_memory(path, variant=variant, seconds=seconds)["work"]
        wanted = heard / 60 * own["work"]["the audio encoder hears 60 s"]
        assert told[f"the audio encoder hears {heard} s"] == pytest.approx(wanted, rel=0.01)


def test_an_audio_encoder_counts_with_its_weights() -> None:
    encoder = build_audio_encoder(tiny_wav2vec2(), device="meta")
    found = memory_of(small_config(), torch.float16, vae=VAE, audio_encoder=encoder)
    assert found.weights["audio encoder"] == 4 * sum(p.numel() for p in encoder.parameters())
    assert found.work["the audio encoder hears 24 s"] > 24 * 16000 * 4
