"""Hallo's MODEL in every precision of the host, loaded in part, and with LoRAs of SD 1.5."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from published_hallo import FRAMES, LATENT, draw, published_state, seeded_vae, tiny_hallo
from safetensors.torch import save_file
from small_film import portrait
from torch import Tensor


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("hallo") / "net.safetensors"
    tensors = {name: one.contiguous() for name, one in published_state(tiny_hallo()).items()}
    save_file(tensors, file, {"emo_config": tiny_hallo().to_json()})
    return file


@pytest.fixture(scope="module")
def prepare(pack: Any, run: Any, path: Path) -> Any:
    """MODEL in a precision, and its first clip's conditions."""
    part = f"{pack.__name__}."
    load = import_module(part + "load").load
    alone = seeded_vae(path.parent)
    vae = import_module(part + "vae").build_vae(alone.config, alone.state_dict())
    heard = {"version": 1, "features": draw("heard", FRAMES, 2, 16), "fps": 25.0,
             "encoder": "wav2vec2", "alignment": "before"}  # fmt: skip

    def prepare(dtype: torch.dtype | None = None, model: Any = None) -> tuple[Any, Any]:
        model = load(path, dtype)[0] if model is None else model
        reference, _ = run(pack.ReferenceNetEncode, model=model, vae=vae, image=portrait())
        out = run(pack.EMOConditioning, model=model, reference=reference, audio_embedding=heard,
                  vae=vae)  # fmt: skip
        return model, out[1]

    return prepare


def predicted(model: Any, positive: Any, memory: int = 0) -> Tensor:
    """One prediction of the positive branch; with at most `memory` bytes of weights loaded."""
    model.pre_run()
    try:
        model.load(torch.device("cpu"), lowvram_model_memory=memory)
        branch = model.model.extra_conds(**positive[0][1])["emo"].concat([])
        with torch.no_grad():
            out = model.model.apply_model(
                draw("x", FRAMES, 4, LATENT, LATENT), torch.full((FRAMES,), 5.0), emo=branch
            )
        return torch.as_tensor(out.float())
    finally:
        model.cleanup()
        model.detach()


@pytest.fixture(scope="module")
def exact(prepare: Any) -> tuple[Any, Any, Tensor]:
    model, positive = prepare(torch.float32)
    return model, positive, predicted(model, positive)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float16, 8e-3), (torch.bfloat16, 6e-2), (torch.float8_e4m3fn, 0.35),
     (torch.float8_e5m2, 0.6)],
)  # fmt: skip
def test_weights_in_less_than_single_precision(
    prepare: Any, exact: tuple[Any, Any, Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    """Kept so, and computed in what the host casts them to."""
    model, positive = prepare(dtype)
    weights = {one.dtype for one in model.model.diffusion_model.parameters()}
    assert weights == {dtype} and model.model.get_dtype() == dtype
    found, wanted = predicted(model, positive), exact[2]
    assert bool(found.isfinite().all())
    error = float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
    assert 0 < error < tolerance, error


def test_a_model_that_is_loaded_in_part_predicts_the_same(exact: tuple[Any, Any, Tensor]) -> None:
    """As with --lowvram: what has no room is cast when it is used."""
    model, positive, wanted = exact
    found = predicted(model, positive, memory=model.model_size() // 4)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def lora(model: Any, style: str) -> dict[str, Tensor]:
    """A LoRA for every attention of SD 1.5's UNet in a trainer's style, and kohya's for more."""
    state = model.model.diffusion_model.state_dict()
    out: dict[str, Tensor] = {}
    for name, one in state.items():
        base = name.removesuffix(".weight")
        attention = base.endswith((".to_q", ".to_k", ".to_v", ".to_out.0"))
        more = base.endswith((".ff.net.0.proj", ".ff.net.2", ".proj_in", ".proj_out"))
        if ".attentions." not in name or not name.endswith(".weight"):
            continue
        if not attention and not (more and style == "kohya"):
            continue
        down = draw("down " + base, 2, *one.shape[1:])
        up = draw("up " + base, one.shape[0], 2, *(1,) * (one.ndim - 2))
        if style == "kohya":
            key = f"lora_unet_{base.replace('.', '_')}"
            out |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up,
                    f"{key}.alpha": torch.tensor(2.0)}  # fmt: skip
        else:
            key = base.replace(".to_", ".processor.to_").removesuffix(".0")
            key = f"unet.{key}" if style == "diffusers" else key
            out |= {f"{key}_lora.down.weight": down, f"{key}_lora.up.weight": up}
    return out


@pytest.mark.parametrize("style", ["kohya", "diffusers", "diffusers without prefix"])
def test_every_key_of_a_lora_is_found(
    exact: tuple[Any, Any, Tensor], style: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Through the host's own loader, which says what it did not find."""
    model, positive, before = exact
    tensors = lora(model, style)
    patched, _ = import_module("comfy.sd").load_lora_for_models(model, None, tensors, 0.5, 0.0)
    assert "not loaded" not in caplog.text.lower()
    # 16 transformers of two attentions, and kohya's four layers more in each.
    assert len(patched.patches) == 16 * (8 + (4 if style == "kohya" else 0))
    assert set(patched.patches) <= set(model.model.state_dict()) and not model.patches
    name = "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_out.0"
    patched.load(torch.device("cpu"), force_patch_weights=True)
    moved = patched.model.diffusion_model.get_submodule(name).weight.clone()
    patched.detach()
    plain = model.model.diffusion_model.get_submodule(name).weight
    up, down = draw("up " + name, *plain.shape[:1], 2), draw("down " + name, 2, *plain.shape[1:])
    torch.testing.assert_close(moved, plain + 0.5 * up @ down, rtol=0, atol=1e-5)
    found = predicted(patched, positive)
    assert float((found - before).abs().max()) > 1e-2
    part = predicted(patched, positive, memory=model.model_size() // 4)
    torch.testing.assert_close(part, found, rtol=0, atol=1e-4)


def test_a_key_that_no_weight_has_is_said(
    exact: tuple[Any, Any, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    tensors = lora(exact[0], "kohya")
    tensors = {"lora_unet_down_blocks_9_resnets_0_conv1.lora_up.weight": draw("u", 2, 2), **tensors}
    import_module("comfy.sd").load_lora_for_models(exact[0], None, tensors, 1.0, 0.0)
    assert "lora key not loaded: lora_unet_down_blocks_9" in caplog.text
