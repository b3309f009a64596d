"""SD's VAE from every layout it is published in is the same VAE."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from published_hallo import draw, write_vae
from safetensors.torch import load_file, save_file

from emo_core.vae import save_vae
from emo_core.vae_config import VAEConfig
from emo_core.vae_files import open_vae


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In diffusers' layout."""
    return write_vae(tmp_path_factory.mktemp("vae") / "vae.safetensors")


def test_it_is_diffusers_vae(file: Path) -> None:
    from diffusers import AutoencoderKL

    theirs = AutoencoderKL(
        block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, latent_channels=4,
    ).eval()  # fmt: skip
    theirs.load_state_dict(load_file(file))
    ours = open_vae(file)
    assert ours.config == VAEConfig(32, (1, 1, 1, 1), 1, 4, 3, 3, 0.18215, True, 32)
    pictures, latents = draw("pictures", 2, 3, 32, 48), draw("codes", 2, 4, 4, 6)
    with torch.no_grad():
        means = theirs.encode(pictures).latent_dist.mean * 0.18215
        decoded = theirs.decode(latents / 0.18215).sample
        torch.testing.assert_close(ours.encode(pictures), means, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.decode(latents), decoded, rtol=1e-5, atol=1e-5)


def test_every_layout_is_the_same(file: Path, tmp_path: Path) -> None:
    vae = open_vae(file)
    state = vae.state_dict()
    old = {
        name.replace("to_q.", "query.").replace("to_k.", "key.").replace("to_v.", "value.")
        .replace("to_out.0.", "proj_attn."): tensor
        for name, tensor in load_file(file).items()
    }  # fmt: skip
    whole = {f"first_stage_model.{name}": tensor for name, tensor in state.items()}
    whole |= {"model.diffusion_model.x": torch.zeros(1), "first_stage_model.loss.x": torch.zeros(1)}
    folder = tmp_path / "sd-vae-ft-mse"
    folder.mkdir()
    save_file(load_file(file), folder / "diffusion_pytorch_model.safetensors")
    save_file(state, tmp_path / "ldm.safetensors")
    save_file(old, tmp_path / "old.safetensors")
    save_file(whole, tmp_path / "whole.safetensors")
    torch.save({"state_dict": state}, tmp_path / "ldm.ckpt")
    save_vae(vae, tmp_path / "ours.safetensors", {})
    for path in (folder, *tmp_path.glob("*.*")):
        found = open_vae(path)
        assert found.config == vae.config, path
        assert all(torch.equal(t, state[n]) for n, t in found.state_dict().items()), path
    half = open_vae(tmp_path / "ldm.safetensors", dtype=torch.float16)
    assert next(half.parameters()).dtype == torch.float16
    assert not any(parameter.requires_grad for parameter in half.parameters())


def test_sd15s_own_widths_are_read_off() -> None:
    from emo_core.vae import AutoencoderKL
    from emo_core.vae_files import _config
    from emo_core.weight_files import WeightFile

    net = AutoencoderKL(VAEConfig.sd15(), device="meta")
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    file = WeightFile(Path("x"), {}, shapes, lambda name: torch.empty(0))
    assert _config(file, shapes) == VAEConfig.sd15()


def test_what_is_no_vae_is_named(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"lora_unet.lora_down.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="is a LoRA and not a VAE"):
        open_vae(path)
    state = load_file(file)
    save_file({n: t for n, t in state.items() if n != "decoder.conv_norm_out.bias"}, path)
    with pytest.raises(ValueError, match=r"lacks decoder\.norm_out\.bias .* fetch it again"):
        open_vae(path)
    state["decoder.conv_norm_out.bias"] = torch.zeros(5)
    save_file(state, path)
    with pytest.raises(ValueError, match=r"norm_out\.bias as \(5,\), expected \(32,\)"):
        open_vae(path)
    with pytest.raises(FileNotFoundError, match="holds no diffusion_pytorch_model"):
        open_vae(tmp_path)
