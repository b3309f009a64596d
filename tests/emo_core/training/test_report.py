"""The behaviour table of a model that is the world itself, and of one that does nothing."""

import math

import pytest
import torch
from torch import Tensor

from emo_core.training.bench import EVERYTHING, ReportSettings, inside_share
from emo_core.training.meter_check import check_meter, gallery
from emo_core.training.meter_training import new_meter
from emo_core.training.meters import SCALARS, PuppetMeter
from emo_core.training.report import behaviour_table
from emo_core.training.speech import Utterance
from emo_core.training.truth_films import long_utterance, make_film

SETTINGS = ReportSettings(
    num_films=2,
    num_controlled=2,
    num_silent=1,
    num_long=1,
    long_seconds=1.2,
    controlled_seconds=0.6,
    clip_length=6,
)


def utterance(seed: int) -> Utterance:
    generator = torch.Generator().manual_seed(seed)
    loud = torch.linspace(0, 0.3, 9600) * torch.randn(9600, generator=generator)
    return Utterance(loud.clamp(-1, 1), ((0.1, 0.3, "AA"), (0.3, 0.5, "M")), "", "")


@pytest.fixture(scope="module")
def meter() -> PuppetMeter:
    torch.manual_seed(0)
    people = gallery(20)
    return new_meter(torch.cat([torch.rand(20, len(SCALARS)), people], 1)).eval()


def still_picture(
    portrait: Tensor,
    waveform: Tensor,
    speed: float | None = None,
    region_scale: float = 1.0,
    seed: int = 0,
) -> Tensor:
    assert region_scale in (1.0, 1.5, EVERYTHING)
    assert speed is None or speed in SETTINGS.speeds
    return portrait[None].repeat(-(-len(waveform) * 25 // 16000), 1, 1, 1)


def test_every_row_is_there(meter: PuppetMeter) -> None:
    words = {"espeak": [utterance(0)], "flite": [utterance(1)]}
    table = behaviour_table(still_picture, meter, lambda frames: frames, words, SETTINGS)
    names = [row["what"] for row in table["rows"]]
    assert len(names) == 19
    assert table["markdown"].count("\n") == len(names) + 2
    by_name = dict(zip(names, table["rows"], strict=True))
    assert by_name["VAE alone, PSNR in dB"]["good"]
    speeds = by_name["head speed, last request / first"]
    assert not speeds["good"] and "NOT rising" in speeds["note"]
    assert not by_name["openness r, espeak-ng voices left out"]["good"]
    assert len(table["films"]["espeak"]) == 2
    assert all(row["missing_frames"] == 0 for row in table["films"]["espeak"])


def test_requests_rise_from_three_floors_to_one_and_a_half() -> None:
    speeds = ReportSettings(speed_floor=0.05).speeds
    assert speeds[0] == pytest.approx(0.15)
    assert speeds[-1] == pytest.approx(1.5)
    assert list(speeds) == sorted(speeds)


def test_inside_share() -> None:
    region = torch.tensor([0.2, 0.2, 0.5, 0.5])
    boxes = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.0, 0.0, 0.3, 0.3], [0.2, 0.2, 0.51, 0.51]])
    assert inside_share(boxes, region) == pytest.approx(2 / 3)


def test_long_utterances_are_exactly_long() -> None:
    whole = long_utterance([utterance(0), utterance(1)], 2.0)
    assert len(whole.waveform) == 32000
    assert max(end for _, end, _ in whole.phones) <= 2.6


def test_checking_the_meter_names_its_errors(meter: PuppetMeter) -> None:
    films = [make_film(utterance(seed), 1_000_000 + seed) for seed in range(2)]
    figures = check_meter(meter, films, lambda frames: frames * 0.5)
    assert figures["films"] == 2
    assert figures["yaw_error"] > 0
    assert 0 <= figures["right_puppet_of_100"] <= 1
    assert not any(math.isinf(value) for value in figures.values())
