"""Every node of core that changes a MODEL or a CONDITIONING: it works with EMO, or EMO says no."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch
from loud import skip_loudly
from small_checkpoint import smallest_config
from small_film import CLIP, Small, draw, ksample, open_small, portrait, save_model

Patch = tuple[str, str, dict[str, Any]]
"""Module, class and widgets of a node of core with MODEL in and out."""

CHANGES: list[Patch] = [
    ("nodes_apg", "APG", {"eta": 0.5, "norm_threshold": 1.0, "momentum": 0.0}),
    ("nodes_attention_multiply", "UNetSelfAttentionMultiply",
     {"q": 1.5, "k": 1.0, "v": 1.0, "out": 1.0}),
    ("nodes_attention_multiply", "UNetCrossAttentionMultiply",
     {"q": 1.0, "k": 1.0, "v": 1.0, "out": 1.5}),
    ("nodes_attention_multiply", "UNetTemporalAttentionMultiply",
     {"self_structural": 1.5, "self_temporal": 1.0, "cross_structural": 1.0,
      "cross_temporal": 1.0}),
    ("nodes_cfg", "CFGZeroStar", {}),
    ("nodes_cfg", "CFGNorm", {"strength": 0.8}),
    ("nodes_easycache", "EasyCacheNode",
     {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}),
    ("nodes_easycache", "LazyCacheNode",
     {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}),
    ("nodes_eps", "EpsilonScaling", {"scaling_factor": 1.1}),
    ("nodes_fresca", "FreSca", {"scale_low": 1.0, "scale_high": 1.5, "freq_cutoff": 1}),
    ("nodes_mahiro", "Mahiro", {}),
    ("nodes_model_advanced", "ModelComputeDtype", {"dtype": "bf16"}),
    ("nodes_model_advanced", "ModelSamplingDiscrete", {"sampling": "v_prediction", "zsnr": False}),
    ("nodes_model_advanced", "ModelSamplingDiscrete", {"sampling": "lcm", "zsnr": False}),
    ("nodes_model_advanced", "RescaleCFG", {"multiplier": 0.7}),
    ("nodes_tcfg", "TCFG", {}),
    ("nodes_video_model", "VideoLinearCFGGuidance", {"min_cfg": 1.0}),
    ("nodes_video_model", "VideoTriangleCFGGuidance", {"min_cfg": 1.0}),
]  # fmt: skip
"""What a film shows: finite, and another film."""

SCHEDULES: list[Patch] = [
    ("nodes_lt", "ModelSamplingLTXV", {"max_shift": 2.05, "base_shift": 0.95}),
    ("nodes_model_advanced", "ModelSamplingAuraFlow", {"shift": 1.73}),
    ("nodes_model_advanced", "ModelSamplingContinuousEDM",
     {"sampling": "eps", "sigma_max": 20.0, "sigma_min": 0.1}),
    ("nodes_model_advanced", "ModelSamplingContinuousV",
     {"sampling": "v_prediction", "sigma_max": 20.0, "sigma_min": 0.1}),
    ("nodes_model_advanced", "ModelSamplingFlux",
     {"max_shift": 1.15, "base_shift": 0.5, "width": 64, "height": 64}),
    ("nodes_model_advanced", "ModelSamplingSD3", {"shift": 3.0}),
    ("nodes_model_advanced", "ModelSamplingStableCascade", {"shift": 2.0}),
]  # fmt: skip
"""Made for networks that were trained otherwise: they are followed, to a film of noise."""

REFUSED: list[tuple[Patch, str]] = [
    (("nodes_context_windows", "ContextWindowsManualNode",
      {"context_length": 2, "context_overlap": 1, "context_schedule": "standard_static",
       "context_stride": 1, "closed_loop": False, "fuse_method": "pyramid", "dim": 0}),
     "ContextWindowsManual gives the MODEL 2 frames at a time and a clip of EMO has 4"),
    (("nodes_freelunch", "FreeU", {"b1": 1.1, "b2": 1.2, "s1": 0.9, "s2": 0.2}),
     r"FreeU \(.*nodes_freelunch\) patches 'output_block_patch' inside of the MODEL"),
    (("nodes_freelunch", "FreeU_V2", {"b1": 1.1, "b2": 1.2, "s1": 0.9, "s2": 0.2}),
     r"FreeU_V2 \(.*nodes_freelunch\) patches 'output_block_patch'"),
    (("nodes_hypertile", "HyperTile",
      {"tile_size": 256, "swap_size": 2, "max_depth": 0, "scale_depth": False}),
     "HyperTile .* patches 'attn1_patch'"),
    (("nodes_lumina2", "RenormCFG", {"cfg_trunc": 100.0, "renorm_cfg": 0.5}),
     "RenormCFG works on one picture at a time"),
    (("nodes_model_downscale", "PatchModelAddDownscale",
      {"block_number": 3, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.35,
       "downscale_after_skip": True, "downscale_method": "bicubic", "upscale_method": "bicubic"}),
     "PatchModelAddDownscale .* patches 'input_block_patch_after_skip'"),
    (("nodes_pag", "PerturbedAttentionGuidance", {"scale": 3.0}),
     "PerturbedAttentionGuidance .* patches 'attn1'"),
    (("nodes_sag", "SelfAttentionGuidance", {"scale": 0.5, "blur_sigma": 2.0}),
     "SelfAttentionGuidance .* patches 'attn1'"),
    (("nodes_sd3", "SkipLayerGuidanceSD3",
      {"layers": "7", "scale": 3.0, "start_percent": 0.0, "end_percent": 1.0}),
     "SkipLayerGuidance.* patches 'dit'"),
    (("nodes_slg", "SkipLayerGuidanceDiT",
      {"double_layers": "7", "single_layers": "7", "scale": 3.0, "start_percent": 0.0,
       "end_percent": 1.0, "rescaling_scale": 0.0}),
     "SkipLayerGuidanceDiT .* patches 'dit'"),
    (("nodes_slg", "SkipLayerGuidanceDiTSimple",
      {"double_layers": "7", "single_layers": "7", "start_percent": 0.0, "end_percent": 1.0}),
     "SkipLayerGuidanceDiTSimple .* patches 'dit'"),
    (("nodes_tomesd", "TomePatchModel", {"ratio": 0.3}), "TomePatchModel .* patches 'attn1_patch'"),
    (("nodes_chroma_radiance", "ChromaRadianceOptions",
      {"preserve_wrapper": True, "start_sigma": 1.0, "end_sigma": 0.0, "nerf_tile_size": 32}),
     "ChromaRadianceOptions sets 'chroma_radiance_options'"),
]  # fmt: skip


@pytest.fixture(scope="module")
def small(pack: Any, run: Any, tmp_path_factory: pytest.TempPathFactory) -> Small:
    path = save_model(tmp_path_factory.mktemp("patches") / "model.safetensors")
    return open_small(pack, run, path)


@pytest.fixture(scope="module")
def plain(small: Small) -> torch.Tensor:
    return one_clip(small, small.model)


def one_clip(small: Small, model: Any, **inputs: Any) -> torch.Tensor:
    """The first clip of a film, sampled in three steps and kept nowhere."""
    return small.clip(0, model=model, steps=3, keep_clips=False, **inputs)[0]


def patched(model: Any, patch: Patch, **others: Any) -> Any:
    """A MODEL behind a node of core."""
    module, name, widgets = patch
    node = getattr(import_module(f"comfy_extras.{module}"), name)
    if hasattr(node, "execute"):
        given = node.execute(model=model, **widgets, **others)
        return getattr(given, "result", given)[0]
    return getattr(node(), node.FUNCTION)(model, **widgets, **others)[0]


@pytest.mark.parametrize(
    "patch", CHANGES + SCHEDULES, ids=lambda patch: "-".join(map(str, patch[1:2]))
)
def test_what_works_changes_the_film(small: Small, plain: torch.Tensor, patch: Patch) -> None:
    film = one_clip(small, patched(small.model, patch))
    assert film.isfinite().all()
    assert not torch.allclose(film, plain)


@pytest.mark.parametrize("patch, sentence", REFUSED, ids=lambda one: str(one)[:60])
def test_what_would_do_nothing_is_refused(small: Small, patch: Patch, sentence: str) -> None:
    model = patched(small.model, patch)
    with pytest.raises(ValueError, match=sentence) as raised:
        one_clip(small, model)
    assert "\n" not in str(raised.value)
    _, *prepared = small.conditioning(0)
    with pytest.raises(ValueError):
        ksample((model, *prepared))


def test_neutral_widgets_leave_the_film_as_it_is(small: Small, plain: torch.Tensor) -> None:
    neutral = [
        ("nodes_eps", "EpsilonScaling", {"scaling_factor": 1.0}),
        ("nodes_model_advanced", "ModelComputeDtype", {"dtype": "fp32"}),
        ("nodes_differential_diffusion", "DifferentialDiffusion", {"strength": 1.0}),
        ("nodes_easycache", "EasyCacheNode",
         {"reuse_threshold": 0.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}),
    ]  # fmt: skip
    for patch in neutral:
        film = one_clip(small, patched(small.model, patch))
        torch.testing.assert_close(film, plain, atol=1e-3, rtol=1e-3)


def test_cached_steps_are_left_out_of_both_branches(small: Small) -> None:
    """EasyCache in core KSampler, whose branches would else be one batch."""
    widgets = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
    model = patched(small.model, ("nodes_easycache", "EasyCacheNode", widgets))
    calls = []
    model.add_wrapper("apply_model", lambda run, *args, **given: calls.append(len(args[0])) or
                      run(*args, **given))  # fmt: skip
    _, *prepared = small.conditioning(0)
    film = ksample((model, *prepared), steps=8)
    assert film.isfinite().all()
    assert set(calls) == {CLIP}


def test_a_caching_wrapper_runs_fewer_steps(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = small.part("backbone").HostDenoiser
    counted: list[int] = []
    before = kind._predict

    def predict(self: Any, *given: Any, **named: Any) -> torch.Tensor:
        counted.append(1)
        return before(self, *given, **named)

    monkeypatch.setattr(kind, "_predict", predict)
    ran = {}
    for threshold in (0.0, 3.0):
        widgets = {"reuse_threshold": threshold, "start_percent": 0.0, "end_percent": 1.0,
                   "verbose": False}  # fmt: skip
        counted.clear()
        small.clip(0, model=patched(small.model, ("nodes_easycache", "EasyCacheNode", widgets)),
                   steps=8, keep_clips=False)  # fmt: skip
        ran[threshold] = len(counted)
    assert ran[3.0] < ran[0.0] == 16


def test_merges_of_two_models_of_the_pack(pack: Any, run: Any, small: Small, plain: torch.Tensor,
                                          tmp_path: Any) -> None:  # fmt: skip
    other = open_small(pack, run, save_model(tmp_path / "other.safetensors", seed=9)).model
    merging = import_module("comfy_extras.nodes_model_merging")
    films = [
        merging.ModelMergeSimple().merge(small.model, other, 0.5)[0],
        merging.ModelSubtract().merge(small.model, other, 0.5)[0],
    ]
    for model in films:
        film = one_clip(small, model)
        assert film.isfinite().all() and not torch.allclose(film, plain)
    same = merging.ModelMergeSimple().merge(small.model, other, 1.0)[0]
    assert torch.equal(one_clip(small, same), plain)


def test_a_merge_with_another_network_is_refused(small: Small, pack: Any, run: Any,
                                                 tmp_path: Any) -> None:  # fmt: skip
    """The host would take the first ratio of EMO's own weights and add nothing, in silence."""
    merging = import_module("comfy_extras.nodes_model_merging")
    config = smallest_config()
    wider = replace(config, unet=replace(config.unet, widths=(16, 32)))
    kinds = import_module("comfy.ldm.modules.diffusionmodules.openaimodel")
    diffusion = import_module("comfy.model_patcher").ModelPatcher(
        torch.nn.ModuleDict({"diffusion_model": kinds.UNetModel(
            image_size=8, in_channels=4, out_channels=4, model_channels=32, num_res_blocks=[1, 1],
            channel_mult=(1, 2), transformer_depth=[1, 1], transformer_depth_middle=1,
            transformer_depth_output=[1] * 4, num_heads=2, use_spatial_transformer=True,
            context_dim=8, operations=import_module("comfy.ops").disable_weight_init,
        )}), torch.device("cpu"), torch.device("cpu"),
    )  # fmt: skip
    other = open_small(pack, run, save_model(tmp_path / "wider.safetensors", wider)).model
    merges = [
        lambda model: merging.ModelMergeSimple().merge(small.model, model, 0.5),
        lambda model: merging.ModelSubtract().merge(small.model, model, 0.5),
        lambda model: merging.ModelMergeBlocks().merge(small.model, model, input=0.5),
    ]
    for merge in merges:
        for model, said in ((other, r"has the shape \(.*\) and EMO's has \("), (diffusion, "")):
            with pytest.raises(ValueError, match=f"is another network: .*{said}") as raised:
                merge(model)
            assert "\n" not in str(raised.value)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("default")
def test_the_traced_model_makes_the_same_film(small: Small, plain: torch.Tensor) -> None:
    """All of TorchCompileModel but its compiler; minutes, for every kind of layer is traced."""
    model = small.model.clone()
    import_module("comfy_api.torch_helpers").set_torch_compile_wrapper(model, backend="eager")
    torch.testing.assert_close(one_clip(small, model), plain, atol=1e-3, rtol=1e-3)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("default")
def test_the_compiled_model_makes_the_same_film(
    request: pytest.FixtureRequest, small: Small, plain: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """TorchCompileModel as it is, without vector instructions: with them PyTorch 2.11 writes C++
    for CPUs that no compiler takes (pytorch/pytorch#175963)."""
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++", "cl"))):
        skip_loudly(request, "no C++ compiler: TORCH.COMPILE WITH INDUCTOR WAS NOT TESTED")
    monkeypatch.setattr(import_module("torch._inductor.config").cpp, "simdlen", 1)
    model = patched(small.model, ("nodes_torch_compile", "TorchCompileModel",
                                  {"backend": "inductor"}))  # fmt: skip
    compiled = import_module("torch._dynamo.utils").counters["stats"]
    before = compiled["unique_graphs"]
    torch.testing.assert_close(one_clip(small, model), plain, atol=1e-3, rtol=1e-3)
    assert compiled["unique_graphs"] > before


def test_an_attention_override_is_called(small: Small, plain: torch.Tensor) -> None:
    """As the packs of sage attention hang in: it must see every attention of the backbone."""
    seen: list[tuple[int, ...]] = []

    def same(attention: Callable[..., torch.Tensor], *given: Any, **named: Any) -> torch.Tensor:
        seen.append(tuple(given[0].shape))
        return attention(*given, **named)

    model = small.model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = same
    assert torch.equal(one_clip(small, model), plain)
    assert len(seen) > 20
    seen.clear()
    assert torch.equal(one_clip(small, small.model), plain) and not seen


def test_a_wrapper_of_the_whole_model_is_called(small: Small, plain: torch.Tensor) -> None:
    model = small.model.clone()
    model.set_model_unet_function_wrapper(
        lambda apply, given: 0.5 * apply(given["input"], given["timestep"], **given["c"])
    )
    film = one_clip(small, model)
    assert film.isfinite().all() and not torch.allclose(film, plain)


class Unimportant:
    """A patch as other packs make them: an object that is called."""

    def __call__(self, *given: Any) -> Any:
        return given


def test_patches_of_other_packs_are_named(small: Small) -> None:
    sentence = r"Unimportant \(.*test_patches\) patches 'attn2' inside"
    model = small.model.clone()
    model.set_model_attn2_replace(Unimportant(), "input", 1)
    with pytest.raises(ValueError, match=sentence):
        one_clip(small, model)
    # HypernetworkLoader, QwenImageDiffsynthControlnet and USOStyleReference need files to be run.
    for name in ("attn1_patch", "attn2_patch", "double_block_patch", "post_input_patch"):
        other = small.model.clone()
        getattr(other, f"set_model_{name}")(Unimportant())
        with pytest.raises(ValueError, match=r"Unimportant .* patches '\w+' inside of the MODEL"):
            one_clip(small, other)
    # A patch that comes with a hook, or at a step only, is met when it is to be called.
    late = small.model.clone()
    late.set_model_unet_function_wrapper(
        lambda apply, given: apply(given["input"], given["timestep"], **{
            **given["c"], "transformer_options": model.model_options["transformer_options"]})
    )  # fmt: skip
    with pytest.raises(ValueError, match=sentence):
        one_clip(small, late)


def test_perp_neg_works_as_guider_and_as_patch(small: Small, plain: torch.Tensor) -> None:
    perp_neg = import_module("comfy_extras.nodes_perpneg")
    model, positive, negative, *_ = small.conditioning(0)
    guider = perp_neg.PerpNegGuider.execute(model, positive, negative, negative, 2.0, 1.0)
    (patch,) = perp_neg.PerpNeg.execute(model, negative, 1.0).result
    for film in (one_clip(small, model, guider=guider.result[0]), one_clip(small, patch)):
        assert film.isfinite().all()
    guider = perp_neg.PerpNegGuider.execute(model, positive, positive, negative, 2.0, 1.0)
    film = one_clip(small, model, guider=guider.result[0])
    assert not torch.allclose(film, plain)


def test_an_operation_on_guidance_works(small: Small, plain: torch.Tensor) -> None:
    latent = import_module("comfy_extras.nodes_latent")
    (operation,) = latent.LatentOperationTonemapReinhard.execute(2.0).result
    model = patched(small.model, ("nodes_latent", "LatentApplyOperationCFG", {}),
                    operation=operation)  # fmt: skip
    film = one_clip(small, model)
    assert film.isfinite().all() and not torch.allclose(film, plain)


def foreign_conditions() -> list[tuple[dict[str, Any], str]]:
    """What other nodes put into a CONDITIONING, with the node of core that does."""
    device = torch.device("cpu")
    patcher = import_module("comfy.model_patcher").ModelPatcher(torch.nn.Identity(), device, device)
    control = import_module("comfy.controlnet").ControlBase()
    return [
        ({"control": control, "control_apply_to_uncond": True}, "ControlNetApply"),
        ({"gligen": ("position", patcher, [])}, "GLIGENTextBoxApply"),
        ({"unclip_conditioning": [{}]}, "unCLIPConditioning"),
        ({"concat_mask": torch.ones(1, 1, 4, 4)}, "InpaintModelConditioning"),
        ({"guidance": 3.5}, "FluxGuidance"),
        ({"reference_latents": [torch.ones(1, 4, 4, 4)]}, "ReferenceLatent"),
    ]


def test_conditions_that_nobody_would_see_are_refused(small: Small) -> None:
    model, positive, negative, *rest = small.conditioning(0)
    set_values = import_module("node_helpers").conditioning_set_values
    for entry, node in foreign_conditions():
        with pytest.raises(ValueError, match=f"as {node} makes it, which EMO's backbone does not"):
            ksample((model, set_values(positive, entry), negative, *rest))


def test_areas_and_mixed_conditionings_are_refused(small: Small) -> None:
    host = import_module("nodes")
    model, positive, negative, *rest = small.conditioning(0)
    for mixed, sentence in [
        (host.ConditioningConcat().concat(positive, negative), "concatenated, averaged or zeroed"),
        (host.ConditioningAverage().addWeighted(positive, negative, 0.5), "averaged or zeroed"),
        (host.ConditioningZeroOut().zero_out(positive), "averaged or zeroed out"),
        (host.ConditioningSetArea().append(positive, 16, 16, 0, 0, 1.0), "ConditioningSetArea"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            ksample((model, mixed[0], negative, *rest))


def test_combined_scheduled_and_masked_conditionings_work(small: Small) -> None:
    host = import_module("nodes")
    model, positive, negative, *rest = small.conditioning(0)
    plain = ksample((model, positive, negative, *rest))
    (twice,) = host.ConditioningCombine().combine(positive, positive)
    torch.testing.assert_close(ksample((model, twice, negative, *rest)), plain, atol=1e-4, rtol=0)
    mask = torch.zeros(1, 4, 4)
    mask[..., :2] = 1
    (early,) = host.ConditioningSetTimestepRange().set_range(positive, 0.0, 0.3)
    (left,) = host.ConditioningSetMask().append(positive, mask, "default", 1.0)
    for changed in (early, left):
        film = ksample((model, changed, negative, *rest), steps=4)
        assert film.isfinite().all() and not torch.allclose(film, plain)


def test_differential_diffusion_follows_the_mask(small: Small) -> None:
    model, positive, negative, _, *rest = small.conditioning(0)
    mask = torch.zeros(CLIP, 4, 4)
    mask[..., :2] = 0.5
    before = {"samples": draw(CLIP, 4, 4, 4), "noise_mask": mask}
    patch = patched(model, ("nodes_differential_diffusion", "DifferentialDiffusion", {}))
    films = [ksample((one, positive, negative, before, *rest), 4) for one in (model, patch)]
    assert not torch.allclose(*films)
    for film in films:
        torch.testing.assert_close(film[..., 2:], before["samples"][..., 2:])


def test_the_portrait_of_a_patched_model_is_the_same(small: Small) -> None:
    """A LoRA does not reach ReferenceNet, so the reference fits the MODEL with and without it."""
    model = patched(small.model, ("nodes_attention_multiply", "UNetSelfAttentionMultiply",
                                  {"q": 1.5, "k": 1.0, "v": 1.0, "out": 1.0}))  # fmt: skip
    reference, _ = small.run(small.pack.ReferenceNetEncode, model=model, vae=small.vae,
                             image=portrait())  # fmt: skip
    for name, features in small.reference["features"].items():
        assert torch.equal(reference["features"][name], features)
