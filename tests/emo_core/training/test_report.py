"""The behaviour table of a model that is the world itself, and of one that does nothing."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from emo_core.training.bench import EVERYTHING, Bench, Measured, inside_share
from emo_core.training.identities import make_identity
from emo_core.training.journal import Journal, Origin
from emo_core.training.meter_check import check_meter
from emo_core.training.meter_training import new_meter
from emo_core.training.meters import PuppetMeter
from emo_core.training.readings import SCALARS
from emo_core.training.report import chosen_rows, measure_rows, to_json, to_markdown, voices_of
from emo_core.training.report_films import ReportSettings
from emo_core.training.report_rows import Group
from emo_core.training.truth_films import long_utterance, make_film
from emo_core.training.voices import Utterance

SETTINGS = ReportSettings(
    num_films=2,
    num_controlled=2,
    num_silent=1,
    num_long=1,
    long_seconds=1.2,
    controlled_seconds=0.6,
)
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


class Still:
    """A model that shows its portrait, and can be stopped after some films."""

    def __init__(self, most: int = 1000) -> None:
        self.asked: list[dict[str, object]] = []
        self.most = most

    def __call__(
        self,
        portrait: Tensor,
        waveform: Tensor,
        speed: float | None = None,
        region_scale: float = 1.0,
        prior: bool = False,
        seed: int = 0,
    ) -> Tensor:
        assert region_scale in (1.0, 1.5, EVERYTHING)
        assert speed is None or speed in SETTINGS.speeds
        if len(self.asked) == self.most:
            raise KeyboardInterrupt
        self.asked.append({"speed": speed, "region": region_scale, "prior": prior, "seed": seed})
        return portrait[None].repeat(-(-len(waveform) * 25 // 16000), 1, 1, 1)


WORDS = {"espeak": [utterance(0)], "flite": [utterance(1)]}


def bench(meter: PuppetMeter, model: Still) -> Bench:
    return Bench(model, meter, lambda frames: frames, lambda count: list(range(0, count, 6)))


def test_every_row_is_there(meter: PuppetMeter) -> None:
    model = Still()
    rows = measure_rows(bench(meter, model), WORDS, SETTINGS, Journal(None, WORLD))
    assert len(rows) == 20
    assert all(row.films == row.planned > 0 for row in rows)
    by_name = {row.what: row for row in rows}
    assert by_name["VAE alone, PSNR in dB"].good
    assert by_name["best lag, frames"].good
    speeds = by_name["head speed, last request / first"]
    assert not speeds.good and "NOT rising" in speeds.note
    assert not by_name["openness r, espeak-ng voices left out"].good
    assert not by_name["openness r, centred prior for the face box"].good
    table = to_markdown(rows)
    assert table.count("**missed**") == sum(not row.good for row in rows)
    assert table.count("| met |") == sum(bool(row.good) for row in rows)
    assert [row["what"] for row in to_json(rows)] == list(by_name)
    # 2 films each: two voices, four speeds, three regions, the prior; one silent, one long.
    assert len(model.asked) == 2 * (2 + 4 + 3 + 1) + 2
    assert sum(bool(asked["prior"]) for asked in model.asked) == 2


def test_a_stopped_report_goes_on_where_it_was(meter: PuppetMeter, tmp_path: Path) -> None:
    path, rows = tmp_path / "report.jsonl", ("speech", "speed")
    with pytest.raises(KeyboardInterrupt):
        measure_rows(bench(meter, Still(5)), WORDS, SETTINGS, Journal(path, WORLD), rows)
    assert len(path.read_text().splitlines()) == 5
    with path.open("a") as file:
        file.write('{"row": "speed 0.09", "voi')  # the machine stopped while writing
    second = Still()
    table = measure_rows(bench(meter, second), WORDS, SETTINGS, Journal(path, WORLD), rows)
    assert len(second.asked) == 2 * (2 + 4) - 5
    fresh = measure_rows(bench(meter, Still()), WORDS, SETTINGS, Journal(None, WORLD), rows)
    assert to_json(table)[:-1] == to_json(fresh)[:-1]  # all but the cost: time is never the same

    third = Still()
    again = measure_rows(bench(meter, third), WORDS, SETTINGS, Journal(path, WORLD), rows)
    assert third.asked == [] and to_json(again) == to_json(table)
    changed = Journal(path, Origin("another", "meter"))
    assert changed.find("speech", "espeak", 0) is None


def test_rows_that_were_not_chosen_are_not_measured(meter: PuppetMeter, tmp_path: Path) -> None:
    journal, model = Journal(tmp_path / "report.jsonl", WORLD), Still()
    espeak = {"espeak": WORDS["espeak"]}  # no flite: no film of these rows speaks with it
    assert voices_of(("silence",)) == ("espeak",) and "flite" in voices_of(("cost", "picture"))
    rows = measure_rows(bench(meter, model), espeak, SETTINGS, journal, chosen_rows("silence"))
    assert len(model.asked) == 1
    assert [row.what for row in rows if row.good is not None] == ["openness in silence"]
    assert to_markdown(rows).count("not measured |") == 19
    assert "| 1 of 1 |" in to_markdown(rows) and "| 0 of 2 |" in to_markdown(rows)


def test_choices_are_read_in_the_tables_order_and_typos_refused() -> None:
    assert chosen_rows("cost, speech") == ("speech", "cost")
    for words in ("speach", "speech,cots", ""):
        with pytest.raises(ValueError, match="--rows takes names out of speech,picture"):
            chosen_rows(words)


def test_the_journal_keeps_what_has_no_value(tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    Journal(path, WORLD).add("long", "espeak", 3, Measured({"a": math.nan, "b": 0.5}, {}))
    line = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert line["film"] == {"a": None, "b": 0.5}
    assert (line["row"], line["voice"], line["index"]) == ("long", "espeak", 3)
    assert (line["checkpoint"], line["meter"]) == ("model", "meter")
    found = Journal(path, WORLD).find("long", "espeak", 3)
    assert found is not None and math.isnan(found.film["a"]) and found.film["b"] == 0.5


def test_medians_leave_films_without_a_value_out() -> None:
    values = (0.1, math.nan, 0.3, 0.2)
    group = Group(tuple(Measured({"r": value}, {"r": 1.0}) for value in values), 5)
    assert (group.median("r"), group.best("r")) == (0.2, 1.0)
    assert math.isnan(Group((), 5).median("r"))
    two = Group(group.films[:1] + group.films[2:3], 2)
    assert two.median("r") == pytest.approx(0.2), "not the better one of two"
    assert two.largest("r") == 0.3


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
