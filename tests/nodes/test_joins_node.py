"""An existing film, joins and the lock in the host: against core's samplers and emo_core alone."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
from small_film import CLIP, LATENT, Small, draw, ksample, open_small, save_model, sound
from torch import Tensor

from emo_core.clips import clip_noise
from emo_core.joins import sound_levels
from emo_core.lock import lock_colours

FRAMES = 2 * CLIP + 1


@pytest.fixture(scope="module")
def small(pack: Any, run: Any, tmp_path_factory: Any) -> Small:
    return open_small(pack, run, save_model(tmp_path_factory.mktemp("model") / "a.safetensors"))


@pytest.fixture(scope="module")
def film(small: Small) -> Tensor:
    """Two clips and a frame."""
    return small.film(keep_clips=False)[0]


def existing(mask: Tensor | None = None, frames: int = FRAMES) -> dict[str, Any]:
    latent = {"samples": draw(frames, *LATENT, seed=31)}
    return latent if mask is None else {**latent, "noise_mask": mask}


def upper_half() -> Tensor:
    """A mask in pixels, as core's Set Latent Noise Mask takes it."""
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :16, :] = 1
    return mask


def core(small: Small, latent: dict[str, Any], denoise: float, **sampling: Any) -> Tensor:
    """Core KSampler on EMOConditioning's first clip and a LATENT of one's own."""
    model, positive, negative, _, seed, _ = small.conditioning(0)
    clip = {**latent, "samples": latent["samples"][:CLIP]}
    host = import_module("nodes")
    settings = {"steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple", **sampling}
    (out,) = host.common_ksampler(
        model, seed, positive=positive, negative=negative, latent=clip, denoise=denoise, **settings
    )
    return out["samples"]


@pytest.mark.parametrize("denoise", [1.0, 0.6, 0.0])
@pytest.mark.parametrize("masked", [False, True])
def test_core_ksampler_gives_the_same_clip(small: Small, denoise: float, masked: bool) -> None:
    latent = existing(upper_half() if masked else None)
    clip, _ = small.clip(0, existing_film=latent, denoise=denoise)
    assert torch.equal(clip, core(small, latent, denoise))
    whole, _ = small.film(existing_film=latent, denoise=denoise)
    assert torch.equal(whole[:CLIP], clip)
    if masked:
        torch.testing.assert_close(whole[:, :, 2:], latent["samples"][:, :, 2:])


def test_a_guider_and_a_sampler_give_the_same_clip(small: Small) -> None:
    latent = existing(upper_half())
    samplers = import_module("comfy_extras.nodes_custom_sampler")
    (sampler,) = samplers.KSamplerSelect().get_sampler("euler")
    by_socket, _ = small.clip(0, existing_film=latent, denoise=0.6, sampler=sampler)
    assert torch.equal(by_socket, core(small, latent, 0.6))
    (sigmas,) = samplers.BasicScheduler().get_sigmas(small.model, "simple", 2, 0.6)
    by_sigmas, _ = small.clip(0, existing_film=latent, sigmas=sigmas)
    assert torch.equal(by_sigmas, by_socket)


def test_a_mask_of_every_frame_moves_with_the_film(small: Small) -> None:
    mask = torch.zeros(FRAMES, 1, 4, 4)
    mask[5:] = 1
    latent = existing(mask)
    whole, _ = small.film(existing_film=latent)
    torch.testing.assert_close(whole[:5], latent["samples"][:5])
    assert not torch.allclose(whole[5:], latent["samples"][5:], atol=1e-2)


def test_a_change_in_the_film_leaves_the_clips_before_it(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled: list[int] = []
    kind = small.part("clip_sampler").ClipSampler
    call = kind.__call__

    def counted(self: Any, conditions: Any, noise: Any, plan: Any, *given: Any) -> Any:
        sampled.append(plan.index)
        return call(self, conditions, noise, plan, *given)

    monkeypatch.setattr(kind, "__call__", counted)
    latent = existing()
    small.film(existing_film=latent, denoise=0.6)
    changed = {"samples": latent["samples"].clone()}
    changed["samples"][CLIP] += 1
    alone, _ = small.film(existing_film=changed, denoise=0.6, keep_clips=False)
    sampled.clear()
    after, _ = small.film(existing_film=changed, denoise=0.6)
    assert sampled == [1, 2] and torch.equal(after, alone)
    for other in ({"denoise": 0.7}, {"denoise": 0.6, "lock": "weak"}):
        sampled.clear()
        small.film(existing_film=latent, **other)
        assert sampled == [0, 1, 2]


def test_schedules_that_differ_only_at_their_end_are_told_apart(small: Small) -> None:
    given = {"existing_film": existing(), "denoise": 0.5, "steps": 1, "cfg": 1.0}
    made = {}
    for scheduler in ("simple", "linear_quadratic"):
        made[scheduler], _ = small.film(**given, scheduler=scheduler)
        alone, _ = small.film(**given, scheduler=scheduler, keep_clips=False)
        assert torch.equal(made[scheduler], alone)
    assert not torch.allclose(made["simple"], made["linear_quadratic"], atol=1e-2)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"denoise": 0.5}, "connect its LATENT to existing_film, or set denoise to 1"),
        (
            {"existing_film": existing(frames=FRAMES - 1)},
            "has 8 frames and the sound 9; set duration in EMO Load Audio Embedding to 0.32 sec",
        ),
        (
            {"existing_film": {"samples": torch.zeros(9, 4, 8, 8)}},
            r"existing_film has \(9, 4, 8, 8\); scale the film's pictures to 32x32",
        ),
        (
            {"existing_film": {"samples": torch.full((9, 4, 4, 4), float("nan"))}},
            "holds NaN or infinite numbers; encode it again",
        ),
        ({"joins": "quiet"}, "does not say; encode it again with EMO Load Audio Embedding"),
    ],
)
def test_what_does_not_fit_is_said(small: Small, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small.film(**inputs)


def quiet_sound(small: Small, frames: int = 13) -> dict[str, Any]:
    """A sound that is quiet where plain clips do not meet, heard by LoadAudioEmbedding."""
    audio = sound(frames)
    audio["waveform"][..., 2 * 640 : 4 * 640] *= 0.001
    audio["waveform"][..., 5 * 640 : 7 * 640] *= 0.001
    heard, *_ = small.run(small.pack.LoadAudioEmbedding, audio=audio, model=small.model)
    return {"audio_embedding": heard, "waveform": audio["waveform"][0]}


def test_quiet_joins_are_where_the_sound_is(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[tuple[int, int]] = []
    kind = small.part("clip_sampler").ClipSampler
    call = kind.__call__

    def noted(self: Any, conditions: Any, noise: Any, plan: Any, *given: Any) -> Any:
        plans.append((plan.first, plan.kept))
        return call(self, conditions, noise, plan, *given)

    monkeypatch.setattr(kind, "__call__", noted)
    given = quiet_sound(small)
    waveform = given.pop("waveform")
    assert torch.equal(given["audio_embedding"]["levels"], sound_levels(waveform, 16000, 13, 25))
    film, motion = small.film(**given, joins="quiet")
    assert plans == [(0, 3), (3, 3), (6, 4), (10, 3)]
    assert len(film) == 13 and torch.equal(motion["samples"], film[-2:])
    plans.clear()
    again, _ = small.film(**given, joins="quiet")
    assert plans == [] and torch.equal(again, film)


@pytest.mark.parametrize("noise", ["of the seed", "of a socket"])
def test_overlapping_clips_share_their_noise_and_frames(
    small: Small, monkeypatch: pytest.MonkeyPatch, noise: str
) -> None:
    seen: list[tuple[Tensor, Any]] = []
    kind = small.part("clip_sampler").ClipSampler
    by_widgets = kind._by_widgets

    def noted(self: Any, conditions: Any, drawn: Tensor, seed: int, there: Any) -> Tensor:
        out = by_widgets(self, conditions, drawn, seed, there)
        seen.append((drawn, there, out))
        return out

    monkeypatch.setattr(kind, "_by_widgets", noted)
    source = {}
    if noise == "of a socket":
        random = import_module("comfy_extras.nodes_custom_sampler").RandomNoise
        source["noise"] = random().get_noise(5)[0]
    film, _ = small.film(frames=10, joins="overlap", **source, keep_clips=False)
    assert len(film) == 10 and len(seen) == 3
    (first, nothing, one), (second, shared, two), _ = seen
    assert torch.equal(first, clip_noise(5, 0, (CLIP, *LATENT)))
    assert torch.equal(second[:1], first[-1:]) and not torch.equal(second[1:], first[1:])
    assert nothing.noise_mask is None and not nothing.latent_image.any()
    assert torch.equal(shared.latent_image[:1], one[3:]) and not shared.latent_image[1:].any()
    assert shared.noise_mask[:, 0, 0, 0].tolist() == [0.5, 1.0, 1.0, 1.0]
    assert torch.equal(film, torch.cat([one[:3], two[:3], seen[2][2]]))
    kept, _ = small.film(frames=10, joins="overlap", **source)
    found, _ = small.film(frames=10, joins="overlap", **source)
    assert torch.equal(kept, film) and torch.equal(found, film) and len(seen) == 6


def test_a_lock_holds_a_chain_of_clips_and_the_looper_alike(small: Small, film: Tensor) -> None:
    whole, _ = small.film(lock="strong", keep_clips=False)
    portrait = small.reference["latents"]
    # The first clip sees nothing of the lock but its own end.
    first = lock_colours(film[None, :CLIP], portrait, "strong", None)[0]
    torch.testing.assert_close(whole[:CLIP], first)
    clips, motion = [], None
    for index in range(3):
        clip, motion = small.clip(index, motion_frames=motion, lock="strong")
        clips.append(clip)
    assert torch.equal(torch.cat(clips), whole)


def test_nothing_given_is_what_it_was(small: Small, film: Tensor) -> None:
    plain, _ = small.film(joins="plain", lock="off", denoise=1.0)
    assert torch.equal(plain, film)
    assert torch.equal(film[:CLIP], ksample(small.conditioning(0)))
