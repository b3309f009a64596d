"""Which frames each clip has, and its noise."""

import pytest
import torch

from emo_core.clips import ClipPlan, clip_noise, clip_seed, num_clips, plan_clips


@pytest.mark.parametrize("num_frames", [1, 11, 12, 13, 24, 100])
def test_clips_cover_the_film_once(num_frames: int) -> None:
    plans = list(plan_clips(num_frames, 12))
    covered = [plan.first + frame for plan in plans for frame in range(plan.kept)]
    assert covered == list(range(num_frames))
    assert [plan.index for plan in plans] == list(range(num_clips(num_frames, 12)))
    assert all(plan.kept == 12 for plan in plans[:-1])


def test_a_longer_film_begins_as_the_shorter_one() -> None:
    short, long = list(plan_clips(30, 12)), list(plan_clips(100, 12))
    assert short[:2] == long[:2]
    assert short[2] == ClipPlan(2, 24, 6) and long[2] == ClipPlan(2, 24, 12)


def test_plans_of_hours_are_not_made_at_once() -> None:
    plans = plan_clips(10**12, 12)
    assert next(plans) == ClipPlan(0, 0, 12)


@pytest.mark.parametrize("num_frames", [0, -1])
def test_no_film_has_no_frame(num_frames: int) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        next(plan_clips(num_frames, 12))


def test_seeds() -> None:
    assert clip_seed(7, 0) == 7
    assert clip_seed(2**64 - 1, 0) == 2**64 - 1
    seeds = {clip_seed(seed, k) for seed in range(50) for k in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_the_first_clips_noise_is_what_its_seed_gives() -> None:
    noise = clip_noise(42, 0, (3, 4, 5, 6))
    expected = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(42))
    torch.testing.assert_close(noise, expected, rtol=0, atol=0)


def test_noise_depends_on_seed_and_clip_alone() -> None:
    torch.manual_seed(0)
    first = clip_noise(1, 5, (2, 3))
    torch.rand(3)
    torch.testing.assert_close(clip_noise(1, 5, (2, 3)), first, rtol=0, atol=0)
    assert not torch.allclose(clip_noise(1, 6, (2, 3)), first)
    assert not torch.allclose(clip_noise(2, 5, (2, 3)), first)
