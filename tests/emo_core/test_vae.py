"""The autoencoder: shapes, LDM's names, round trips through files, refusals."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from emo_core.audio_encoder import build_audio_encoder, tiny_logmel
from emo_core.model import EMO
from emo_core.presets import tiny
from emo_core.vae import AutoencoderKL, load_vae, save_vae
from emo_core.vae_config import VAEConfig


def small(seed: int = 0) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(VAEConfig.tiny()).eval()


def test_factor_and_channels() -> None:
    vae = small()
    pictures = torch.rand(2, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(pictures)
        decoded = vae.decode(latents)
    assert VAEConfig.tiny().factor == VAEConfig.sd15().factor == 8
    assert latents.shape == (2, vae.config.z_channels, 4, 6)
    assert decoded.shape == pictures.shape


def test_the_small_models_parts_fit_each_other_and_sixteen_megabytes() -> None:
    network, vae = EMO(tiny(), device="meta"), AutoencoderKL(VAEConfig.tiny(), device="meta")
    assert tiny().unet.latent_channels == vae.config.z_channels
    assert tiny().latent_factor == vae.config.factor
    parts = (network, vae, build_audio_encoder(tiny_logmel()))
    numbers = sum(t.numel() for part in parts for t in part.state_dict().values())
    header = 150_000
    assert 2 * numbers + header <= 16_000_000


def test_a_picture_does_not_depend_on_its_batch() -> None:
    vae = small().double()
    pictures = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        together = vae.decode(vae.encode(pictures))
        alone = torch.cat([vae.decode(vae.encode(p[None])) for p in pictures])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_scaling_factor_multiplies_and_divides() -> None:
    vae, pictures = small(), torch.rand(1, 3, 16, 16)
    scaled = AutoencoderKL(replace(vae.config, scaling_factor=0.5)).eval()
    scaled.load_state_dict(vae.state_dict())
    with torch.no_grad():
        latents = vae.encode(pictures)
        torch.testing.assert_close(scaled.encode(pictures), latents * 0.5)
        torch.testing.assert_close(scaled.decode(latents * 0.5), vae.decode(latents))


def test_names_and_size_are_those_of_sd15() -> None:
    state = AutoencoderKL(VAEConfig.sd15(), device="meta").state_dict()
    assert len(state) == 248
    assert sum(t.numel() for t in state.values()) == 83_653_863
    assert state["encoder.down.1.block.0.nin_shortcut.weight"].shape == (256, 128, 1, 1)
    assert state["encoder.down.2.downsample.conv.weight"].shape == (512, 512, 3, 3)
    assert state["decoder.up.3.block.2.conv2.weight"].shape == (512, 512, 3, 3)
    assert state["decoder.up.1.upsample.conv.bias"].shape == (256,)
    assert state["decoder.mid.attn_1.proj_out.weight"].shape == (512, 512, 1, 1)
    assert state["quant_conv.weight"].shape == (8, 8, 1, 1)
    assert "encoder.down.3.downsample.conv.weight" not in state
    assert "decoder.up.0.upsample.conv.weight" not in state


def test_file_round_trip(tmp_path: Path) -> None:
    vae, path = small(), tmp_path / "vae.safetensors"
    save_vae(vae, path, {"steps": "3"})
    loaded = load_vae(path)
    assert loaded.config == vae.config
    for name, tensor in vae.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])


def test_config_round_trip_and_ddconfig() -> None:
    config = VAEConfig.tiny()
    assert VAEConfig.from_json(config.to_json()) == config
    assert config.ddconfig()["ch_mult"] == list(config.ch_mult)
    assert not {"scaling_factor", "norm_groups"} & set(config.ddconfig())


def test_norm_groups_reach_every_norm() -> None:
    vae = AutoencoderKL(replace(VAEConfig.tiny(), norm_groups=4), device="meta")
    norms = [m for m in vae.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert len(norms) > 20
    assert {norm.num_groups for norm in norms} == {4}
    assert {norm.eps for norm in norms} == {1e-6}


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"multiples of 8, got 17x16"):
        small().encode(torch.zeros(1, 3, 16, 17))
    with pytest.raises(ValueError, match="multiple of 8 channels, got ch=36 x 1"):
        replace(VAEConfig.tiny(), ch=36)
    with pytest.raises(ValueError, match="JSON of a VAE configuration"):
        VAEConfig.from_json("{}")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no vae_config in its header"):
        load_vae(tmp_path / "other.safetensors")
