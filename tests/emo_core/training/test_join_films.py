"""How clips may meet, measured: what is read of a film, and a measurement that goes on."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from emo_core.clips import plan_clips
from emo_core.evaluation import _clips
from emo_core.joins import plan_joins
from emo_core.measurements import join_jump
from emo_core.presets import tiny
from emo_core.training.bench import Measured
from emo_core.training.identities import make_identity
from emo_core.training.join_films import (
    FIGURES,
    OPTIONS,
    JoinBench,
    JoinOption,
    _Watch,
    chosen_options,
    joins_table,
    measure_joins,
)
from emo_core.training.journal import Journal, Origin
from emo_core.training.meter_training import new_meter
from emo_core.training.meters import PuppetMeter
from emo_core.training.readings import SCALARS
from emo_core.training.truth_films import TruthFilm, make_film
from emo_core.training.voices import Utterance

WORLD = Origin("model", "meter")


def utterance(seed: int) -> Utterance:
    generator = torch.Generator().manual_seed(seed)
    loud = torch.linspace(0, 0.3, 9600) * torch.randn(9600, generator=generator)
    return Utterance(loud.clamp(-1, 1), ((0.1, 0.3, "AA"), (0.3, 0.5, "M")), "", "")


@pytest.fixture(scope="module")
def meter() -> PuppetMeter:
    torch.manual_seed(0)
    people = torch.stack([make_identity(seed).numbers for seed in range(20)])
    return new_meter(torch.cat([torch.rand(20, len(SCALARS)), people], 1)).eval()


def test_jumps_are_counted_where_clips_meet(meter: PuppetMeter) -> None:
    """A film that brightens by 1/100 a frame, and by 3/100 where clips of 4 frames meet."""
    truth = make_film(utterance(0), 5)
    bright = torch.tensor([0.01 * frame + 0.02 * (frame // 4) for frame in range(15)])
    frames = bright[:, None, None, None].expand(15, 3, 128, 128)
    watch = _Watch(meter, torch.full((3, 128, 128), 0.5))
    for plan in plan_clips(15, 4):
        watch.take(plan, frames[plan.first : plan.first + plan.kept])
    figures = watch.figures(truth)
    assert figures["join_jump"] == pytest.approx(0.03 * 255, rel=1e-3)
    assert figures["join_ratio"] == pytest.approx(3, rel=1e-3)
    assert figures["colour_error"] == pytest.approx(255 * float((0.5 - bright).abs().mean()), 1e-3)
    assert figures["clips"] == pytest.approx(4 / 0.6)
    read = meter.read(frames)
    errors = meter.identity_error(read.identity, truth.identity.numbers)
    assert figures["identity_error"] == pytest.approx(float(errors.mean()), rel=1e-4)
    assert set(figures) | {"cost"} == set(FIGURES)


def test_all_frames_of_an_overlap_are_its_join(meter: PuppetMeter) -> None:
    """A film that brightens by 1/100 a frame, and by 2/100 while one clip fades into the next."""
    truth, plans = make_film(utterance(0), 5), list(plan_joins("overlap", 15, tiny().temporal))
    assert [list(plan.seam) for plan in plans] == [[], [10, 11, 12]]
    steps = torch.full((15,), 0.01)
    steps[10:13] = 0.02
    frames = steps.cumsum(0)[:, None, None, None].expand(15, 3, 128, 128)
    watch = _Watch(meter, torch.full((3, 128, 128), 0.5))
    for plan in plans:
        watch.take(plan, frames[plan.first : plan.first + plan.kept])
    assert watch.figures(truth)["join_ratio"] == pytest.approx(2, rel=1e-3)
    seams = [frame for plan in plans for frame in plan.seam]
    assert join_jump(frames, seams).ratio == pytest.approx(2, rel=1e-3)
    noted = {"comment": json.dumps({"clip_starts": [0, 10], "clip_shared": 2})}
    assert _clips(noted) == seams


class Counted(JoinBench):
    """A bench that knows what it would measure, and can be stopped after some films."""

    def __init__(self, most: int = 100) -> None:
        self.asked: list[tuple[int, JoinOption, int]] = []
        self.most = most

    def measure(self, truth: TruthFilm, seed: int, option: JoinOption) -> Measured:
        if len(self.asked) == self.most:
            raise KeyboardInterrupt
        self.asked.append((seed, option, truth.identity.seed))
        return Measured({name: float(len(self.asked)) for name in FIGURES}, {})


def test_a_stopped_measurement_goes_on_where_it_was(tmp_path: Path) -> None:
    words, path = [utterance(0), utterance(1)], tmp_path / "joins.jsonl"
    first, second = Counted(len(OPTIONS) + 1), Counted()
    with pytest.raises(KeyboardInterrupt):
        measure_joins(first, words, 2, 1.0, Journal(path, WORLD))
    found = measure_joins(second, words, 2, 1.0, Journal(path, WORLD))
    assert len(first.asked) + len(second.asked) == 2 * len(OPTIONS)
    assert all(len(films) == 2 for films in found.values())
    # Every option has the same puppets and noise, film by film.
    for one, other in pairwise([a for a in first.asked + second.asked if a[0] == 0]):
        assert (one[0], one[2]) == (other[0], other[2]) and one[1] != other[1]
    one = measure_joins(second, words, 1, 1.0, Journal(path, WORLD), chosen_options("overlap"))
    assert list(one) == ["overlap"] and len(first.asked) + len(second.asked) == 2 * len(OPTIONS)
    assert chosen_options("") == list(OPTIONS)
    assert chosen_options("quiet; plain, weak lock") == ["quiet", "plain, weak lock"]
    with pytest.raises(ValueError, match="no joins 'loud'; choose of plain; "):
        chosen_options("loud")
    third = Counted()
    measure_joins(third, words, 2, 2.0, Journal(path, WORLD))
    assert len(third.asked) == 2 * len(OPTIONS)

    table = joins_table(found, 1.0)
    assert table.startswith("Mean of 2 films of 1 s")
    assert all(f"| {name} |" in table for name in OPTIONS)
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1
