"""EMO's MODEL as the host's own: its clones, patches, LoRAs, precision and attention."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch
from small_film import CLIP, Small, draw, open_small, sampled_as, save_model

from emo_core.attention import attend
from emo_core.model import EMO
from emo_core.sampling import alphas_cumprod, sampling_timesteps

SPOT = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def small(pack: Any, run: Any, tmp_path_factory: Any) -> Small:
    return open_small(pack, run, save_model(tmp_path_factory.mktemp("model") / "a.safetensors"))


def test_it_is_a_model_of_the_host(small: Small) -> None:
    patcher, base = import_module("comfy.model_patcher"), import_module("comfy.model_base")
    assert isinstance(small.model, patcher.ModelPatcher)
    assert isinstance(small.model.model, base.BaseModel)
    parts = small.part("host").parts_of(small.model)
    assert isinstance(parts.conditioner, patcher.ModelPatcher)
    assert isinstance(parts.hearing, patcher.ModelPatcher)
    assert parts.config.name == "smallest" and parts.identity.startswith("smallest ")
    assert parts.training == {"stages": {"speed": {}}}


def test_names_are_those_of_diffusers_and_referencenet_is_apart(small: Small) -> None:
    names = set(small.model.model.state_dict())
    assert f"diffusion_model.{SPOT}.weight" in names
    backbone = {n.removeprefix("diffusion_model.") for n in names if n.startswith("diffusion")}
    config = small.part("host").parts_of(small.model).config
    assert backbone == set(EMO(config, device="meta").denoising_unet.state_dict())
    assert {name.split(".")[0] for name in names} == {"diffusion_model", "model_sampling"}
    assert not any("reference_unet" in name or "face_locator" in name for name in names)
    conditioner = small.part("host").parts_of(small.model).conditioner.model.state_dict()
    assert any(name.startswith("reference_unet.") for name in conditioner)


def test_a_clone_keeps_what_belongs_to_it(small: Small) -> None:
    host = small.part("host")
    clone = small.model.clone().clone()
    assert clone is not small.model
    assert host.parts_of(clone) is host.parts_of(small.model)
    assert torch.equal(small.clip(0, model=clone)[0], small.clip(0)[0])


def test_a_patch_changes_the_clip_and_its_origin_stays(small: Small) -> None:
    before, _ = small.clip(0)
    patched = small.model.clone()
    name = f"diffusion_model.{SPOT}.weight"
    change = draw(*small.model.model.state_dict()[name].shape, seed=4)
    assert patched.add_patches({name: (change,)}, 1.0) == [name]
    after, _ = small.clip(0, model=patched)
    assert float((after - before).abs().max()) > 1e-3
    assert torch.equal(small.clip(0)[0], before)
    assert torch.equal(small.clip(0, model=patched)[0], after)


def test_a_patch_of_what_is_projected_once_is_seen(small: Small) -> None:
    """Keys and values of the sound are projected before the first step, by patched weights."""
    before, _ = small.clip(0)
    name = "diffusion_model.down_blocks.0.attentions.0.transformer_blocks.0.attn_audio.to_v.weight"
    patched = small.model.clone()
    patched.add_patches({name: (draw(*small.model.model.state_dict()[name].shape),)}, 1.0)
    assert float((small.clip(0, model=patched)[0] - before).abs().max()) > 1e-3
    assert torch.equal(small.clip(0)[0], before)


def test_a_lora_by_stable_diffusions_names_loads(
    small: Small, caplog: pytest.LogCaptureFixture
) -> None:
    load = import_module("comfy.sd").load_lora_for_models
    width = small.model.model.state_dict()[f"diffusion_model.{SPOT}.weight"].shape[0]
    key = "lora_unet_" + SPOT.replace(".", "_")
    lora = {
        f"{key}.lora_down.weight": draw(2, width), f"{key}.lora_up.weight": draw(width, 2),
        f"{key}.alpha": torch.tensor(2.0),
    }  # fmt: skip
    patched, _ = load(small.model, None, lora, 1.0, 0.0)
    assert "NOT LOADED" not in caplog.text and "not loaded" not in caplog.text
    before, _ = small.clip(0)
    assert float((small.clip(0, model=patched)[0] - before).abs().max()) > 1e-3
    assert torch.equal(small.clip(0)[0], before)


@pytest.mark.parametrize("schedule", ["cosine", "scaled_linear", "linear_zero_snr"])
@pytest.mark.parametrize("steps", [1, 6, 7, 40])
def test_simple_steps_at_the_noise_levels_of_emo_core(
    small: Small, schedule: str, steps: int
) -> None:
    host, samplers = small.part("host"), import_module("comfy.samplers")
    model = small.part("backbone").EMOModel(
        sampled_as(schedule, "v_prediction"), small.model.model.latent_format,
        host.place_for(0, torch.float32),
    )  # fmt: skip
    sigmas = samplers.calculate_sigmas(model.model_sampling, "simple", steps)
    left = alphas_cumprod(schedule)[sampling_timesteps(steps)]
    torch.testing.assert_close(1 / (sigmas[:-1].double() ** 2 + 1), left, atol=1e-7, rtol=1e-5)
    assert model.model_sampling.timestep(sigmas[:-1]).tolist() == sampling_timesteps(steps)


def test_the_hosts_attention_is_emo_cores(small: Small) -> None:
    host = small.part("host")
    query, key, value, bias = draw(2, 6, 8), draw(2, 5, 8), draw(2, 5, 8), draw(4, 6, 5)
    for given in (bias, None):
        ours = attend(query, key, value, 4, given)
        theirs = host.HostAttention()(query, key, value, 4, given)
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(attend(query, key, value, 4, bias), ours)


def test_every_layer_is_of_the_hosts_operations(small: Small) -> None:
    parts = small.part("host").parts_of(small.model)
    for module in (small.model.model.diffusion_model, parts.conditioner.model):
        leaves = [part for part in module.modules() if getattr(part, "weight", None) is not None]
        assert len(leaves) > 20
        assert all(hasattr(leaf, "comfy_cast_weights") for leaf in leaves)
        assert not any(weight.requires_grad for weight in module.parameters())


def test_another_packs_model_is_refused(small: Small) -> None:
    patcher = import_module("comfy.model_patcher")
    device = torch.device("cpu")
    foreign = patcher.ModelPatcher(torch.nn.Linear(2, 2), device, device)
    parts_of = small.part("host").parts_of
    with pytest.raises(ValueError, match="got a Linear; connect that loader"):
        parts_of(foreign)
    with pytest.raises(ValueError, match="got a NoneType"):
        parts_of(None)
    for node in (small.pack.EMOSampler, small.pack.MotionFrameLooper, small.pack.EMOConditioning):
        with pytest.raises(ValueError, match="need the MODEL of EMO Model Loader"):
            small.run(node, **small.inputs(model=foreign))


def test_a_request_to_stop_is_raised_once(small: Small) -> None:
    management, host = import_module("comfy.model_management"), small.part("host")
    host.check_interrupted()
    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        host.check_interrupted()
    host.check_interrupted()


def test_precision_is_the_hosts_choice_or_the_users(small: Small) -> None:
    host = small.part("host")
    half = host.place_for(1000, torch.float16)
    assert half.dtype == torch.float16 and half.compute_dtype == torch.float32
    full = host.place_for(1000)
    assert full.dtype == full.compute_dtype == torch.float32 and full.manual_cast is None
    assert replace(half, manual_cast=None).compute_dtype == torch.float16
    assert small.clip(0)[0].shape[0] == CLIP
