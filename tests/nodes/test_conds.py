"""What core's samplers do with EMO's conditions: one batch, one projection a clip, nothing kept."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
from small_film import CLIP, LATENT, Small, ksample, open_small, save_model


@pytest.fixture(scope="module")
def small(pack: Any, run: Any, tmp_path_factory: Any) -> Small:
    return open_small(pack, run, save_model(tmp_path_factory.mktemp("model") / "a.safetensors"))


def counted(model: Any) -> tuple[Any, list[tuple[int, ...]]]:
    """A clone of a MODEL that notes the shape of every input of its backbone."""
    kind = import_module("comfy.patcher_extension").WrappersMP.DIFFUSION_MODEL
    shapes: list[tuple[int, ...]] = []
    clone = model.clone()

    def note(executor: Any, *args: Any, **kwargs: Any) -> Any:
        shapes.append(tuple(args[0].shape))
        return executor(*args, **kwargs)

    clone.add_wrapper(kind, note)
    return clone, shapes


@pytest.mark.parametrize(("cfg", "rows"), [(2.0, 2 * CLIP), (1.0, CLIP)])
def test_both_branches_are_one_batch_and_cfg_1_runs_one(
    small: Small, cfg: float, rows: int
) -> None:
    model, shapes = counted(small.model)
    small.clip(0, model=model, cfg=cfg, steps=3)
    assert shapes == [(rows, *LATENT)] * 3


def test_branches_one_by_one_give_what_the_batch_gives(small: Small) -> None:
    samplers = import_module("comfy.samplers")
    model, shapes = counted(small.model)

    def apart(given: dict[str, Any]) -> list[Any]:
        return [
            samplers.calc_cond_batch(
                given["model"], [cond], given["input"], given["sigma"], given["model_options"]
            )[0]
            for cond in given["conds"]
        ]

    model.set_model_sampler_calc_cond_batch_function(apart)
    clip, _ = small.clip(0, model=model)
    assert shapes == [(CLIP, *LATENT)] * 4
    torch.testing.assert_close(clip, small.clip(0)[0], atol=1e-3, rtol=1e-4)


def test_what_a_clip_sees_is_projected_once_and_forgotten(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = small.model.model.diffusion_model
    prepare, seen = backbone.prepare, []

    def note(conditions: Any) -> Any:
        seen.append(conditions)
        return prepare(conditions)

    monkeypatch.setattr(backbone, "prepare", note)
    small.film(frames=2 * CLIP, steps=3)
    assert len(seen) == 2 and seen[0] is not seen[1]
    assert small.model.model._prepared is None


def test_it_is_forgotten_when_sampling_breaks(small: Small) -> None:
    model = small.model.clone()

    def fail(*args: Any) -> Any:
        raise RuntimeError("out of memory")

    model.set_model_sampler_post_cfg_function(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        small.film(model=model)
    assert small.model.model._prepared is None


def test_two_clips_never_share_a_batch(small: Small) -> None:
    conds = small.part("conds")
    one, other = (small.conditioning(index)[1][0][1]["emo_conditions"] for index in (0, 1))
    first, second = (conds.ClipCond(made, frozenset()) for made in (one, other))
    everything = conds.ClipCond(one, conds.CONDITIONS)
    assert first.can_concat(everything) and not first.can_concat(second)
    assert first.process_cond(batch_size=2 * CLIP, device="cpu", area=None) is first
    both = everything.concat([first])
    assert both.conditions is one and both.sees == (conds.CONDITIONS, frozenset())


def test_clips_of_two_films_in_one_run(small: Small) -> None:
    """Core's ConditioningCombine: the mean of what both predict, each with its own conditions."""
    model, positive, negative, latent, seed, frames = small.conditioning(0)
    other = small.conditioning(1)
    same = ksample((model, positive + positive, negative, latent, seed, frames))
    torch.testing.assert_close(same, small.clip(0)[0], atol=1e-3, rtol=1e-4)
    mixed = ksample((model, positive + other[1], negative, latent, seed, frames))
    assert float((mixed - same).abs().max()) > 1e-3


def test_the_negative_hears_and_sees_nothing(small: Small) -> None:
    """At cfg 0 only the negative counts: neither sound nor speed changes the clip."""
    audio = small.inputs()["audio_embedding"]
    silent = {**audio, "features": torch.zeros_like(audio["features"])}
    plain, _ = small.clip(0, cfg=0.0)
    assert torch.equal(plain, small.clip(0, cfg=0.0, audio_embedding=silent, speed=None)[0])
    motion = {"samples": torch.ones(2, *LATENT)}
    assert float((plain - small.clip(0, cfg=0.0, motion_frames=motion)[0]).abs().max()) > 1e-3


def test_the_conditioning_of_a_text_prompt_is_refused(small: Small) -> None:
    model, positive, _, latent, seed, frames = small.conditioning(0)
    text = [[torch.zeros(1, 77, 768), {"pooled_output": torch.zeros(1, 768)}]]
    for branches in ((text, text), (positive, text)):
        with pytest.raises(ValueError, match="got another CONDITIONING; connect positive and"):
            ksample((model, *branches, latent, seed, frames))


@pytest.mark.parametrize(
    ("shape", "got"),
    [
        ((CLIP + 1, 4, 4, 4), "5 frames of 4 channels and 4x4"),
        ((1, 4, 4, 4), "1 frames of 4 channels and 4x4"),
        ((CLIP, 4, 4, 8), "4 frames of 4 channels and 8x4"),
        ((CLIP, 16, 4, 4), "4 frames of 16 channels and 4x4"),
    ],
)
def test_another_latent_is_refused(small: Small, shape: tuple[int, ...], got: str) -> None:
    model, positive, negative, _, seed, frames = small.conditioning(0)
    with pytest.raises(ValueError, match=f"4 channels and 4x4 latent cells, got a LATENT of {got}"):
        ksample((model, positive, negative, {"samples": torch.ones(shape)}, seed, frames))
