"""Where clips meet: every frame once, prefixes, levels in integers, shared frames, keys."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from small_models import LATENT, MOTION, draw, randomise, small_config
from torch import Tensor

from emo_core import joins as joins_module
from emo_core.clip_keys import clip_keys
from emo_core.clips import ClipNoise, ClipPlan, clip_noise, shared_noise
from emo_core.conditions import Conditions
from emo_core.config import TemporalConfig
from emo_core.generate import Film, generate
from emo_core.given import Given
from emo_core.joins import JOINS, clip_given, overlap_of, plan_joins, sound_levels
from emo_core.kept import KeptClips, open_store, tracks_of
from emo_core.lock import LOCKS, locked
from emo_core.model import EMO
from emo_core.presets import emo, hallo, tiny
from emo_core.sampling import Guidance, make_sampler

KINDS = [kind for kind in JOINS if kind != "auto"]
LENGTH = 8
COUNT = 30


def test_loudness_is_the_same_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = torch.randn(2, 50_001, generator=torch.Generator().manual_seed(3)) * 0.2
    whole = sound_levels(sound, 44_100, 40, Fraction(30000, 1001))
    assert len(whole) == 40 and int(whole[-1]) == 0, "the sound ends before"
    for block in (1, 7, 39):
        monkeypatch.setattr(joins_module, "_BLOCK", block)
        assert torch.equal(sound_levels(sound, 44_100, 40, Fraction(30000, 1001)), whole)


def temporal(length: int = 12, motion: int = 4) -> TemporalConfig:
    return replace(tiny().temporal, num_frames=length, num_motion_frames=motion, max_positions=24)


def levels(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 6, (count,), generator=generator)


@pytest.mark.parametrize("joins", KINDS)
@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 11, 12, 13, 21, 24, 25, 100])
@pytest.mark.parametrize(("length", "motion"), [(12, 4), (14, 2), (12, 12), (4, 2), (3, 2), (1, 1)])
def test_every_frame_is_kept_once(joins: str, count: int, length: int, motion: int) -> None:
    config = temporal(length, motion)
    plans = list(plan_joins(joins, count, config, levels(count)))
    covered = [plan.first + frame for plan in plans for frame in range(plan.kept)]
    assert covered == list(range(count))
    assert [plan.index for plan in plans] == list(range(len(plans)))
    assert all(motion <= plan.kept <= length for plan in plans[:-1])
    assert 1 <= plans[-1].kept <= length
    for before, plan in pairwise(plans):
        # What is shared is what the clip before was sampled with and did not keep.
        assert before.kept + plan.shared <= length and 2 * plan.shared <= length
    assert plans[0].shared == 0


def test_auto_is_what_the_weights_ask_for() -> None:
    assert (tiny().temporal.joins, hallo().temporal.joins, emo().temporal.joins) == (
        "overlap", "plain", "plain",
    )  # fmt: skip
    for kind in ("plain", "overlap"):
        config = replace(temporal(), joins=kind)
        assert list(plan_joins("auto", 40, config)) == list(plan_joins(kind, 40, config))
    with pytest.raises(ValueError, match="joins must be one of plain, quiet, overlap, got 'auto'"):
        replace(temporal(), joins="auto")


def test_plain_joins_are_the_plan_without_a_choice() -> None:
    assert list(plan_joins("plain", 30, temporal())) == [
        ClipPlan(0, 0, 12), ClipPlan(1, 12, 12), ClipPlan(2, 24, 6),
    ]  # fmt: skip


def test_overlapping_clips() -> None:
    assert list(plan_joins("overlap", 22, temporal())) == [
        ClipPlan(0, 0, 10), ClipPlan(1, 10, 12, 2),
    ]  # fmt: skip
    assert [plan.kept for plan in plan_joins("overlap", 23, temporal())] == [10, 10, 3]
    assert [overlap_of(config().temporal) for config in (tiny, emo, hallo)] == [2, 2, 2]


def test_quiet_joins_are_where_both_frames_are_quiet() -> None:
    loud = torch.full((40,), 9)
    loud[9] = loud[10] = 1  # a join between frames 9 and 10
    loud[20] = 0  # one quiet frame is worse than two
    loud[17] = loud[18] = 2
    plans = list(plan_joins("quiet", 40, temporal(), loud))
    assert [plan.first for plan in plans] == [0, 10, 18, 30]
    assert all(8 <= plan.kept <= 12 for plan in plans[:-1])
    # Where all is equal clips are as long as they can be.
    assert [plan.kept for plan in plan_joins("quiet", 30, temporal(), loud * 0)] == [12, 12, 6]


@pytest.mark.parametrize("joins", JOINS)
def test_what_follows_changes_no_plan_before_it(joins: str) -> None:
    whole = levels(200)
    plans = list(plan_joins(joins, 200, temporal(), whole))
    for change in (40, 77, 133):
        other = whole.clone()
        other[change:] = levels(200 - change, 1)
        after = list(plan_joins(joins, 200, temporal(), other))
        before = [plan for plan in plans if plan.first + 12 < change]
        assert before and after[: len(before)] == before
        short = list(plan_joins(joins, change, temporal(), whole[:change]))
        assert short[: len(before)] == before


def test_no_film_and_no_levels() -> None:
    for joins in JOINS:
        with pytest.raises(ValueError, match="at least one frame"):
            plan_joins(joins, 0, temporal(), levels(0))
    with pytest.raises(ValueError, match="encode it again with EMO Load Audio Embedding"):
        plan_joins("quiet", 5, temporal())
    with pytest.raises(ValueError, match="plain, quiet, overlap, got 'sharp'"):
        plan_joins("sharp", 5, temporal())


def test_levels_are_steps_of_three_decibels() -> None:
    wave = torch.ones(6 * 640)
    for frame, volume in enumerate((0.0, 1.0, 0.49, 0.24, 1e-9, -1.0)):
        wave[frame * 640 : (frame + 1) * 640] *= volume
    found = sound_levels(wave, 16000, 8, 25).tolist()
    # Half the amplitude is a quarter of the power; behind the sound there is silence.
    assert found == [0, 30, 28, 26, 0, 30, 0, 0]
    assert sound_levels(torch.stack([wave, wave]), 16000, 8, 25).tolist() == found


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 12345])
def test_a_frames_level_is_that_of_its_own_samples(rate: int) -> None:
    wave = 0.1 * torch.randn(3 * rate, generator=torch.Generator().manual_seed(0))
    before, changed = sound_levels(wave, rate, 75, 25), wave.clone()
    changed[: rate // 2] = 0.9
    changed[2 * rate :] = 0
    after = sound_levels(changed, rate, 75, 25)
    assert torch.equal(before[13:50], after[13:50])
    assert (after[:12] != before[:12]).all() and (after[50:] == 0).all()


def test_shared_frames_begin_with_the_same_noise() -> None:
    shape, plans = (12, *LATENT), list(plan_joins("overlap", 60, temporal()))
    noise = ClipNoise(5)
    drawn = [shared_noise(lambda index: noise.latents(index, shape), plan) for plan in plans]
    assert torch.equal(drawn[0], clip_noise(5, 0, shape))
    for before, after in pairwise(drawn):
        assert torch.equal(before[-2:], after[:2])
        assert not torch.equal(before[:2], after[2:4])


def test_what_a_clip_shares_fades_out() -> None:
    surplus = draw(3, *LATENT, seed=1)
    given = clip_given(None, ClipPlan(1, 9, 9, 3), 12, surplus)
    assert given is not None and given.mask is not None and given.denoise == 1
    assert given.mask[0, :, 0, 0, 0].tolist() == [0.25, 0.5, 0.75, *[1.0] * 9]
    assert torch.equal(given.latents[0, :3], surplus)
    assert not given.latents[0, 3:].any()
    film = Given(draw(1, 30, *LATENT, seed=2), torch.full((1, 1, 1, 8, 8), 0.5).double(), 0.7)
    both = clip_given(film, ClipPlan(1, 9, 9, 3), 12, surplus)
    assert both is not None and both.mask is not None and both.denoise == 0.7
    assert both.mask[0, :, 0, 0, 0].tolist() == [0.125, 0.25, 0.375, *[0.5] * 9]
    assert torch.equal(both.latents[0, 3:], film.latents[0, 12:21])
    assert clip_given(None, ClipPlan(0, 0, 9), 12, None) is None
    with pytest.raises(ValueError, match="clip 1 shares 3 frames with the clip before it"):
        clip_given(None, ClipPlan(1, 9, 9, 3), 12, None)


@pytest.fixture(scope="module")
def model() -> EMO:
    config = small_config()
    temporal = replace(config.temporal, num_frames=LENGTH, max_positions=LENGTH + MOTION)
    made = EMO(replace(config, temporal=temporal))
    randomise(made, scale=1.0)
    return made.eval().requires_grad_(False)


def make_film(model: EMO, count: int = COUNT) -> Film:
    config, kind = model.config, {"dtype": torch.float32}
    shape = (count, config.audio.num_layers, config.audio.layer_width)
    loud = levels(count) + 1
    loud[5] = loud[6] = 0  # the first quiet join
    return Film(
        portrait=draw(1, *LATENT, seed=1, **kind),
        audio=draw(*shape, seed=2, **kind),
        region=torch.ones(config.locator.in_channels, 64, 64),
        speed=draw(count, seed=4, **kind).abs(),
        levels=loud,
    )


def made(
    model: EMO, film: Film, joins: str, lock: str = "off", kept: KeptClips | None = None
) -> list[Tensor]:
    sample = make_sampler(model.denoising_unet, 2, Guidance(1.5))
    plans = plan_joins(joins, len(film.audio), model.config.temporal, film.levels)
    return list(generate(model, film, plans, locked(sample, film.portrait, lock), kept=kept))


@pytest.mark.parametrize("joins", JOINS)
def test_a_clip_sees_the_frames_before_its_own_first(model: EMO, joins: str) -> None:
    seen, sampled = [], []

    def number(conditions: Conditions, noise: Tensor, plan: ClipPlan, *_: Given) -> Tensor:
        """Frame f of clip k is 100 k + f."""
        sampled.append(plan)
        frames = 100.0 * plan.index + torch.arange(LENGTH)
        return frames[None, :, None, None, None].expand(noise.shape)

    def hand_over(last: Tensor | None, plan: ClipPlan) -> Tensor | None:
        seen.append(None if last is None else last[0, :, 0, 0, 0].tolist())
        return last

    film = make_film(model)
    plans = plan_joins(joins, COUNT, model.config.temporal, film.levels)
    clips = list(generate(model, film, plans, number, hand_over))
    assert seen[0] is None and [len(clip) for clip in clips] == [plan.kept for plan in sampled]
    for before, last in zip(sampled, seen[1:], strict=False):
        kept = before.kept
        assert last == [100.0 * before.index + kept - MOTION + j for j in range(MOTION)]


@pytest.mark.parametrize("joins", JOINS)
def test_a_film_begins_the_same_whatever_follows(model: EMO, joins: str) -> None:
    film = make_film(model)
    audio, loud, speed = film.audio.clone(), film.levels.clone(), film.speed.clone()
    audio[20:], loud[20:], speed[20:] = audio[20:] + 1, 7 - loud[20:], 0.1
    changed = replace(film, audio=audio, levels=loud, speed=speed)
    before, after = (torch.cat(made(model, one, joins)) for one in (film, changed))
    whole = [p for p in plan_joins(joins, COUNT, model.config.temporal, film.levels)
             if p.first + LENGTH < 20]  # fmt: skip
    end = whole[-1].first + whole[-1].kept
    assert torch.equal(before[:end], after[:end]) and not torch.equal(before, after)


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("joins", JOINS)
def test_a_kept_film_is_the_one_that_is_made(
    model: EMO, tmp_path: Path, joins: str, lock: str
) -> None:
    store = open_store(tmp_path)
    assert store is not None
    film = make_film(model)
    alone = made(model, film, joins, lock)
    for expected in ((0, len(alone)), (len(alone), 0)):
        kept = KeptClips(store, f"a film, {lock}", tracks_of(film, model.config))
        for a, b in zip(made(model, film, joins, lock, kept), alone, strict=True):
            assert torch.equal(a, b)
        assert (kept.found, kept.made) == expected


def test_films_of_other_joins_in_one_store_are_told_apart(model: EMO, tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert store is not None
    film = make_film(model)
    for joins in KINDS:
        kept = KeptClips(store, "a film", tracks_of(film, model.config))
        for a, b in zip(made(model, film, joins, kept=kept), made(model, film, joins), strict=True):
            assert torch.equal(a, b)
        # The first clip of a film sees nothing of its joins.
        assert kept.found == (0 if joins == "plain" else 1)


def test_the_next_clips_key_knows_how_much_came_before_it(model: EMO) -> None:
    film = make_film(model)
    tracks, second = tracks_of(film, model.config), ClipPlan(1, 6, 8)
    keys = [list(clip_keys("f", tracks, [ClipPlan(0, 0, kept), second])) for kept in (6, 7, LENGTH)]
    assert len({first for first, _ in keys}) == 1
    assert len({after for _, after in keys}) == 3
    shared = list(clip_keys("f", tracks, [ClipPlan(0, 0, 6), replace(second, shared=2)]))
    assert shared[1] not in {after for _, after in keys}


def test_an_existing_film_is_part_of_the_keys_of_its_own_frames(model: EMO) -> None:
    film = make_film(model)
    latents, mask = draw(1, COUNT, *LATENT, seed=6), torch.ones(1, COUNT, 1, 8, 8)
    plans = list(plan_joins("plain", COUNT, model.config.temporal))

    def keys(given: Given | None) -> list[str]:
        return list(clip_keys("f", tracks_of(replace(film, given=given), model.config), plans))

    first = keys(Given(latents, mask))
    other, parts = latents.clone(), mask.clone()
    other[:, 2 * LENGTH] += 1
    parts[:, 3 * LENGTH] = 0
    assert [a == b for a, b in zip(first, keys(Given(other, mask)), strict=True)] == [
        True, True, False, False,
    ]  # fmt: skip
    assert [a == b for a, b in zip(first, keys(Given(latents, parts)), strict=True)] == [
        True, True, True, False,
    ]  # fmt: skip
    assert first[0] not in (keys(None)[0], keys(Given(latents))[0])


def test_a_film_is_voiced_anew_only_where_it_is_to_be(model: EMO) -> None:
    film, latents = make_film(model), draw(1, COUNT + 3, *LATENT, seed=6, dtype=torch.float32)
    mask = torch.zeros(1, 1, 1, *LATENT[1:])
    mask[..., 4:, :] = 1
    for joins in JOINS:
        voiced = replace(film, given=Given(latents, mask, 0.5))
        out = torch.cat(made(model, voiced, joins, "strong"))
        assert torch.equal(out[:, :, :4], latents[0, :COUNT, :, :4])
        assert not torch.allclose(out[:, :, 4:], latents[0, :COUNT, :, 4:], atol=1e-2)
