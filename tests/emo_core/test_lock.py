"""Colours held to the portrait's: statistics, strengths, and what was there before."""

import pytest
import torch
from small_models import draw
from torch import Tensor

from emo_core.clips import ClipPlan
from emo_core.given import Given
from emo_core.lock import LOCKS, lock_colours, locked

CLIP, PORTRAIT = (1, 5, 4, 6, 6), (1, 4, 6, 6)


def moments(latents: Tensor) -> tuple[Tensor, Tensor]:
    rows = latents.movedim(-3, 0).flatten(1)
    return rows.mean(1), rows.std(1, correction=0)


def test_a_strong_lock_gives_the_portraits_mean_and_spread() -> None:
    clip, portrait = 3 + 2 * draw(*CLIP, seed=1), draw(*PORTRAIT, seed=2) - 1
    out = lock_colours(clip, portrait, "strong", None)
    for found, wanted in zip(moments(out), moments(portrait), strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_weak_lock_goes_a_part_of_the_way_and_off_none() -> None:
    clip, portrait = 3 + 2 * draw(*CLIP, seed=1), draw(*PORTRAIT, seed=2)
    strong = lock_colours(clip, portrait, "strong", None)
    weak = lock_colours(clip, portrait, "weak", None)
    torch.testing.assert_close(weak - clip, LOCKS["weak"] * (strong - clip))
    assert lock_colours(clip, portrait, "off", None) is clip


def test_what_was_given_stays() -> None:
    clip, portrait = draw(*CLIP, seed=1), 2 * draw(*PORTRAIT, seed=2)
    mask = torch.zeros(1, 5, 1, 6, 6, dtype=clip.dtype)
    mask[:, 3:] = 1
    out = lock_colours(clip, portrait, "strong", Given(clip, mask))
    assert torch.equal(out[:, :3], clip[:, :3])
    assert torch.equal(out[:, 3:], lock_colours(clip, portrait, "strong", None)[:, 3:])


def test_a_flat_clip_has_finite_colours() -> None:
    out = lock_colours(torch.ones(CLIP), draw(*PORTRAIT, dtype=torch.float32), "strong", None)
    assert out.isfinite().all()


def test_a_sampler_that_locks() -> None:
    def sample(
        conditions: None, noise: Tensor, plan: ClipPlan, given: Given | None = None
    ) -> Tensor:
        return noise

    portrait, noise = draw(*PORTRAIT, seed=2), draw(*CLIP, seed=1)
    assert locked(sample, portrait, "off") is sample
    out = locked(sample, portrait, "weak")(None, noise, ClipPlan(0, 0, 5))
    assert torch.equal(out, lock_colours(noise, portrait, "weak", None))
    with pytest.raises(ValueError, match="off, weak, strong, got 'firm'"):
        locked(sample, portrait, "firm")
