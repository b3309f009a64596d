"""NOISE, SAMPLER, SIGMAS and GUIDER over clips, and EMOGuider's two scales."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
from small_film import CLIP, Small, open_small, save_model


@pytest.fixture(scope="module")
def small(pack: Any, run: Any, tmp_path_factory: pytest.TempPathFactory) -> Small:
    path = save_model(tmp_path_factory.mktemp("guide") / "model.safetensors")
    return open_small(pack, run, path)


@pytest.fixture(scope="module")
def core() -> Any:
    """Core's custom sampling nodes."""
    return import_module("comfy_extras.nodes_custom_sampler")


@pytest.fixture(scope="module")
def film(small: Small) -> torch.Tensor:
    return small.film()[0]


def sigmas_of(core: Any, small: Small, steps: int = 2) -> torch.Tensor:
    return core.BasicScheduler().get_sigmas(small.model, "simple", steps, 1.0)[0]


def guider_of(core: Any, small: Small, cfg: float = 2.0) -> Any:
    model, positive, negative, *_ = small.conditioning(0)
    return core.CFGGuider().get_guider(model, positive, negative, cfg)[0]


def test_each_socket_alone_gives_what_its_widget_gives(
    core: Any, small: Small, film: torch.Tensor
) -> None:
    sockets = {
        "noise": core.RandomNoise().get_noise(5)[0],
        "sampler": core.KSamplerSelect().get_sampler("euler")[0],
        "sigmas": sigmas_of(core, small),
        "guider": guider_of(core, small),
    }
    for name, value in sockets.items():
        assert torch.equal(small.film(**{name: value})[0], film), name
    assert torch.equal(small.film(**sockets, steps=9, cfg=1.0, seed=1)[0], film)


def test_the_sockets_are_not_ignored(core: Any, small: Small, film: torch.Tensor) -> None:
    others = {
        "noise": core.RandomNoise().get_noise(6)[0],
        "sampler": core.KSamplerSelect().get_sampler("euler_ancestral")[0],
        "sigmas": sigmas_of(core, small, 3),
        "guider": guider_of(core, small, 3.0),
    }
    for name, value in others.items():
        assert not torch.allclose(small.film(**{name: value})[0], film), name


def test_every_clip_has_noise_of_its_own(core: Any, small: Small) -> None:
    seen = []

    class Recorded(type(core.RandomNoise().get_noise(5)[0])):
        def generate_noise(self, latent: Any) -> torch.Tensor:
            seen.append(super().generate_noise(latent))
            return seen[-1]

    noise = Recorded(5)
    small.film(noise=noise)
    assert len(seen) == 3 and noise.seed == 5
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


def test_a_guider_is_copied(core: Any, small: Small) -> None:
    guider = guider_of(core, small)
    before = guider.original_conds["positive"][0]["emo_conditions"]
    small.film(guider=guider)
    assert guider.original_conds["positive"][0]["emo_conditions"] is before


def test_a_basic_guider_is_no_guidance(core: Any, small: Small) -> None:
    model, positive, *_ = small.conditioning(0)
    (guider,) = core.BasicGuider().get_guider(model, positive)
    assert torch.equal(small.film(guider=guider)[0], small.film(cfg=1.0)[0])


def test_equal_scales_are_one_scale(small: Small, film: torch.Tensor) -> None:
    _, positive, *_ = small.conditioning(0)
    give = {"model": small.model, "positive": positive}
    (guider,) = small.run(small.pack.EMOGuider, **give, cfg=2.0, audio_cfg=2.0)
    torch.testing.assert_close(small.film(guider=guider)[0], film, atol=2e-3, rtol=1e-3)
    (louder,) = small.run(small.pack.EMOGuider, **give, cfg=2.0, audio_cfg=4.0)
    assert not torch.allclose(small.film(guider=louder)[0], film, atol=1e-2)


def test_the_two_scales_are_emo_cores(small: Small) -> None:
    from emo_core.sampling import Guidance

    guide = small.part("guide")
    model, positive, _, latent, *_ = small.conditioning(0)
    seen: dict[str, torch.Tensor] = {}

    class Watched(guide.AudioGuider):
        def predict_noise(self, x: Any, timestep: Any, model_options: Any = None, seed: Any = None):
            out = super().predict_noise(x, timestep, model_options, seed)
            branches = [self.conds[name] for name in ("negative", "middle", "positive")]
            parts = import_module("comfy.samplers").calc_cond_batch(
                self.inner_model, branches, x, timestep, model_options
            )
            seen["out"], seen["branches"] = out, torch.stack(parts)
            return out

    guider = guide.audio_guider(model, positive, 1.5, 4.0)
    guider.__class__ = Watched
    samplers = import_module("comfy.samplers")
    noise = torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(0))
    guider.sample(
        noise, latent["samples"], samplers.sampler_object("euler"),
        samplers.KSampler(model, 1, model.load_device, "euler", "simple").sigmas, seed=0,
    )  # fmt: skip
    wanted = Guidance(1.5, 4.0).combine(seen["branches"])
    torch.testing.assert_close(seen["out"], wanted, atol=1e-4, rtol=1e-4)
    nothing, silent, everything = seen["branches"]
    assert not torch.allclose(silent, everything) and not torch.allclose(nothing, silent)


def test_sampler_custom_advanced_takes_the_guider(core: Any, small: Small) -> None:
    model, positive, _, latent, seed, _ = small.conditioning(0)
    (guider,) = small.run(
        small.pack.EMOGuider, model=model, positive=positive, cfg=2.0, audio_cfg=3.0
    )
    (noise,) = core.RandomNoise().get_noise(seed)
    (sampler,) = core.KSamplerSelect().get_sampler("euler")
    out, _ = core.SamplerCustomAdvanced().sample(
        noise, guider, sampler, sigmas_of(core, small), latent
    )
    assert torch.equal(out["samples"], small.film(guider=guider)[0][:CLIP])


@pytest.mark.parametrize("sampler", ["euler_cfg_pp", "dpmpp_2m_cfg_pp"])
def test_samplers_that_read_the_guidance_run(small: Small, sampler: str) -> None:
    _, positive, *_ = small.conditioning(0)
    (guider,) = small.run(small.pack.EMOGuider, model=small.model, positive=positive)
    clip, _ = small.clip(0, guider=guider, sampler_name=sampler)
    assert clip.isfinite().all()


def test_patches_of_guidance_reach_the_guider(core: Any, small: Small) -> None:
    advanced = import_module("comfy_extras.nodes_model_advanced")
    (patched,) = advanced.RescaleCFG().patch(small.model, 0.7)
    _, positive, *_ = small.conditioning(0)
    clips = []
    for model in (small.model, patched):
        (guider,) = small.run(small.pack.EMOGuider, model=model, positive=positive)
        clips.append(small.clip(0, model=model, guider=guider)[0])
    assert not torch.allclose(*clips)


def test_what_the_positive_carries_is_kept(small: Small) -> None:
    host = import_module("nodes")
    _, positive, *_ = small.conditioning(0)
    (early,) = host.ConditioningSetTimestepRange().set_range(positive, 0.0, 0.3)
    clips = []
    for given in (positive, early):
        (guider,) = small.run(small.pack.EMOGuider, model=small.model, positive=given)
        clips.append(small.clip(0, guider=guider, steps=4)[0])
    assert not torch.allclose(*clips)


def test_positive_and_negative_the_wrong_way_round_are_noticed(core: Any, small: Small) -> None:
    model, positive, negative, *_ = small.conditioning(0)
    host = import_module("comfy.samplers")
    guider = host.CFGGuider(model)
    guider.set_conds(negative, positive)
    with pytest.raises(ValueError, match="CFGGuider the wrong way round; connect each"):
        small.film(guider=guider)
    with pytest.raises(ValueError, match="negative of EMO Conditioning came to positive"):
        small.run(small.pack.EMOGuider, model=model, positive=negative)


def test_a_lora_beside_the_guider_is_noticed(core: Any, small: Small) -> None:
    patched = small.model.clone()
    key = "diffusion_model.conv_out.weight"
    shape = patched.model.state_dict()[key].shape
    patched.add_patches({key: ("diff", (torch.ones(shape),))}, 1.0)
    with pytest.raises(ValueError, match="other LoRAs or weight patches"):
        small.clip(0, model=patched, guider=guider_of(core, small))


def test_what_does_not_fit_is_said(core: Any, small: Small, tmp_path: Any, pack: Any, run: Any
                                   ) -> None:  # fmt: skip
    other = open_small(pack, run, save_model(tmp_path / "other.safetensors", seed=9))
    with pytest.raises(ValueError, match="samples another MODEL"):
        small.film(guider=guider_of(core, other))
    text = [[torch.zeros(1, 77, 768), {}]]
    (guider,) = core.CFGGuider().get_guider(small.model, text, text, 2.0)
    with pytest.raises(ValueError, match="condition 'positive' that is not EMO's"):
        small.film(guider=guider)
    with pytest.raises(ValueError, match="has no seed"):
        small.film(noise=object())
    with pytest.raises(ValueError, match="at least two sigmas"):
        small.film(sigmas=torch.ones(1))
    for positive in (text, []):
        with pytest.raises(ValueError, match="needs the positive of EMO Conditioning"):
            run(pack.EMOGuider, model=small.model, positive=positive)
    foreign = type("Foreign", (), {"model_patcher": small.model})()
    with pytest.raises(ValueError, match="the Foreign keeps its conditions where EMO cannot"):
        small.film(guider=foreign)
