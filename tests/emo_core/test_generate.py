"""The loop over clips: prefixes, hand-over, continuing, memory, what each clip sees."""

import weakref
from dataclasses import replace
from itertools import islice

import pytest
import torch
from small_models import FRAMES, LATENT, MOTION, VARIANTS, draw, small_model
from torch import Tensor

from emo_core.clips import ClipPlan, clip_noise, plan_clips
from emo_core.conditions import Conditions
from emo_core.face_masks import masks_for_region
from emo_core.generate import Film, clip_inputs, generate, region_during
from emo_core.model import EMO
from emo_core.presets import hallo, tiny
from emo_core.sampling import Guidance, make_sampler


def make_film(model: EMO, num_frames: int, seed: int = 3) -> Film:
    config, kind = model.config, {"dtype": torch.float32}
    speed = None if config.speed is None else draw(num_frames, seed=4, **kind).abs()
    shape = (num_frames, config.audio.num_layers, config.audio.layer_width)
    face = torch.zeros(1, 64, 64)
    face[:, 10:50, 12:55] = 1
    return Film(
        portrait=draw(1, *LATENT, seed=1, **kind),
        audio=draw(*shape, seed=2, **kind),
        region=torch.ones(config.locator.in_channels, 64, 64),
        speed=speed,
        seed=seed,
        face=draw(1, 10, seed=5, **kind) if config.unet.face_tokens else None,
        masks=masks_for_region(face, config),
    )


def sampler(model: EMO):
    return make_sampler(model.denoising_unet, 2, Guidance(1.5))


def echo(conditions: Conditions, noise: Tensor, plan: ClipPlan) -> Tensor:
    return noise


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_short_film_is_the_beginning_of_a_long_one(variant: str) -> None:
    model = small_model(variant, torch.float32)
    film = make_film(model, 10 * FRAMES)
    long = list(generate(model, film, plan_clips(10 * FRAMES, FRAMES), sampler(model)))
    short = list(generate(model, film, plan_clips(3 * FRAMES - 1, FRAMES), sampler(model)))
    assert [len(clip) for clip in short] == [FRAMES, FRAMES, FRAMES - 1]
    for a, b in zip(short, long, strict=False):
        assert torch.equal(a, b[: len(a)])
    assert not torch.allclose(long[1], long[2])


def test_what_follows_in_the_sound_changes_nothing_before_its_window() -> None:
    model = small_model("positions", torch.float32)
    film = make_film(model, 3 * FRAMES)
    before = list(generate(model, film, plan_clips(3 * FRAMES, FRAMES), sampler(model)))
    audio = film.audio.clone()
    # The first frame of the last clip: the window of the clip before reaches one frame ahead.
    audio[2 * FRAMES + 1 :] += 1
    changed = replace(film, audio=audio)
    after = list(generate(model, changed, plan_clips(3 * FRAMES, FRAMES), sampler(model)))
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    assert not torch.equal(before[2], after[2])


def halve(last: Tensor | None, plan: ClipPlan) -> Tensor | None:
    return None if last is None else last.clamp(-1, 1) * 0.5


@pytest.mark.parametrize("hand_over", [None, halve])
def test_a_continued_film_is_the_undivided_one(hand_over) -> None:
    model = small_model("emo", torch.float32)
    film = make_film(model, 5 * FRAMES)
    clips = list(generate(model, film, plan_clips(5 * FRAMES, FRAMES), sampler(model), hand_over))
    rest = islice(plan_clips(5 * FRAMES, FRAMES), 3, None)
    film = replace(film, motion=clips[2][None, -MOTION:])
    continued = list(generate(model, film, rest, sampler(model), hand_over))
    assert len(continued) == 2
    for a, b in zip(continued, clips[3:], strict=True):
        assert torch.equal(a, b)


def test_clips_are_tied_by_motion_frames_alone() -> None:
    """Clip k's noise is its own; what it knows of clip k-1 is the hand-over."""
    model = small_model("emo", torch.float32)
    film, handed, noises = make_film(model, 3 * FRAMES), [], []

    def sample(conditions: Conditions, noise: Tensor, plan: ClipPlan) -> Tensor:
        noises.append(noise[0])
        return torch.full_like(noise, float(plan.index + 1))

    def hand_over(latents: Tensor | None, plan: ClipPlan) -> Tensor | None:
        handed.append((plan.index, latents))
        return latents

    list(generate(model, film, plan_clips(3 * FRAMES, FRAMES), sample, hand_over))
    # Nothing comes before the first clip, and nothing is handed on behind the last.
    assert handed[0] == (0, None)
    assert [(index, float(latents.mean())) for index, latents in handed[1:]] == [(1, 1.0), (2, 2.0)]
    assert all(latents.shape == (1, MOTION, *LATENT) for _, latents in handed[1:])
    for index, noise in enumerate(noises):
        assert torch.equal(noise, clip_noise(film.seed, index, (FRAMES, *LATENT)))


def motion_seen(model: EMO, film: Film, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What latents ReferenceNet was given as motion frames, None for zero maps."""
    seen: list[object] = []
    encode, zeros = EMO.encode_motion, EMO.no_motion
    monkeypatch.setattr(
        EMO, "encode_motion", lambda self, x, *f: (seen.append(x.clone()), encode(self, x, *f))[1]
    )
    monkeypatch.setattr(
        EMO, "no_motion", lambda self, bank: (seen.append(None), zeros(self, bank))[1]
    )
    list(generate(model, film, plan_clips(2 * FRAMES, FRAMES), echo))
    return seen


def test_the_first_clip_sees_zero_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("emo", torch.float32)
    film = make_film(model, 2 * FRAMES)
    first, second = motion_seen(model, film, monkeypatch)
    assert first is None
    assert torch.equal(second, clip_noise(film.seed, 0, (FRAMES, *LATENT))[None, -MOTION:])


def test_hallos_first_clip_sees_the_portrait(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("hallo", torch.float32)
    film = make_film(model, 2 * FRAMES)
    first, _ = motion_seen(model, film, monkeypatch)
    assert torch.equal(first, film.portrait[:, None].expand(-1, MOTION, -1, -1, -1))
    assert (hallo().temporal.first_motion, tiny().temporal.first_motion) == ("image", "zeros")


def test_reference_net_runs_once_a_clip_and_once_a_film() -> None:
    model = small_model("emo", torch.float32)
    calls = []
    model.reference_unet.register_forward_hook(lambda *_: calls.append("reference"))
    model.denoising_unet.register_forward_hook(lambda *_: calls.append("step"))
    film = make_film(model, 3 * FRAMES)
    list(generate(model, film, plan_clips(3 * FRAMES, FRAMES), sampler(model)))
    # The portrait, then clips of two steps; the first clip's zero maps need no run.
    assert calls == ["reference", "step", "step"] + ["reference", "step", "step"] * 2


def test_only_one_clip_is_alive() -> None:
    model = small_model("emo", torch.float32)
    clips: list[weakref.ref[Conditions]] = []
    latents: list[weakref.ref[Tensor]] = []
    conditions = model.conditions

    def watched(portrait, motion, inputs):
        assert all(ref() is None for ref in clips)
        return conditions(portrait, motion, inputs)

    model.conditions = watched

    def sample(conditions: Conditions, noise: Tensor, plan: ClipPlan) -> Tensor:
        assert sum(ref() is not None for ref in latents) <= 1
        clips.append(weakref.ref(conditions))
        out = noise.clone()
        latents.append(weakref.ref(out))
        return out

    film = make_film(model, 6 * FRAMES)
    for frames in generate(model, film, plan_clips(6 * FRAMES, FRAMES), sample):
        assert len(frames) == FRAMES
    assert len(clips) == 6


def test_no_gradients_are_kept() -> None:
    model = small_model("emo", torch.float32).requires_grad_(True)
    film = make_film(model, FRAMES)
    (clip,) = generate(model, film, plan_clips(FRAMES, FRAMES), sampler(model))
    assert not clip.requires_grad and torch.is_grad_enabled()


def test_one_frame_is_a_film() -> None:
    model = small_model("emo", torch.float32)
    film = make_film(model, 1)
    (clip,) = generate(model, film, plan_clips(1, FRAMES), sampler(model))
    assert clip.shape == (1, *LATENT) and clip.isfinite().all()


def test_a_clips_windows_hold_the_films_ends() -> None:
    model = small_model("emo", torch.float32)
    film = make_film(model, FRAMES + 1)
    inputs = clip_inputs(model, film, ClipPlan(1, FRAMES, 1))
    assert inputs.audio.shape[:3] == (1, FRAMES, 3)
    assert torch.equal(inputs.audio[0, 0, 0], film.audio[FRAMES - 1])
    assert torch.equal(inputs.audio[0, 0, 1], film.audio[FRAMES])
    assert torch.equal(inputs.audio[0, 2, 2], film.audio[FRAMES])
    assert inputs.speed[0, 0].tolist() == [film.speed[i].item() for i in (2, 3, 3)]


def test_without_a_request_there_is_no_speed() -> None:
    model = small_model("emo", torch.float32)
    film = replace(make_film(model, 3), speed=None)
    assert clip_inputs(model, film, ClipPlan(0, 0, 3)).speed is None


def test_a_film_may_be_planned_on_the_meta_device() -> None:
    model = EMO(small_model("positions").config, device="meta")
    film = make_film(model, 2 * FRAMES)
    film = replace(
        film, portrait=film.portrait.to("meta"), audio=film.audio.to("meta"),
        region=film.region.to("meta"), speed=film.speed.to("meta"),
    )

    def sample(conditions: Conditions, noise: Tensor, plan: ClipPlan) -> Tensor:
        clip = model.denoising_unet.prepare(conditions)
        return model.denoising_unet(noise, torch.zeros(1, device="meta"), clip)

    clips = list(generate(model, film, plan_clips(2 * FRAMES, FRAMES), sample))
    assert [clip.shape for clip in clips] == [(FRAMES, *LATENT)] * 2


def moving_region(count: int) -> Tensor:
    """A square that goes from left to right."""
    region = torch.zeros(count, 1, 64, 64)
    for frame in range(count):
        region[frame, :, 20:40, 3 * frame : 3 * frame + 20] = 1
    return region


def test_a_region_that_stands_still_in_every_frame_is_a_still_region() -> None:
    model, count = small_model("emo", torch.float32), 2 * FRAMES
    still = make_film(model, count)
    moving = replace(still, region=still.region.expand(count, -1, -1, -1))
    films = [list(generate(model, film, plan_clips(count, FRAMES), sampler(model)))
             for film in (still, moving)]  # fmt: skip
    for one, other in zip(*films, strict=True):
        assert torch.equal(one, other)


def test_a_clip_sees_the_union_of_its_own_frames() -> None:
    model, count = small_model("emo", torch.float32), 2 * FRAMES + 1
    moving = moving_region(count)
    film = replace(make_film(model, count), region=moving)
    for plan in plan_clips(count, FRAMES):
        seen = clip_inputs(model, film, plan).region
        assert torch.equal(seen[0], moving[plan.first : plan.first + FRAMES].amax(0))
    # The last frame is held, and a clip behind the region's end sees that one.
    assert torch.equal(region_during(moving, count + 5, FRAMES), moving[-1])
    clips = list(generate(model, film, plan_clips(count, FRAMES), sampler(model)))
    short = replace(film, region=moving[: FRAMES + 1])
    held = list(generate(model, short, plan_clips(count, FRAMES), sampler(model)))
    assert torch.equal(clips[0], held[0]) and not torch.allclose(clips[1], held[1])
