"""What evaluation says about films whose meters' readings are known."""

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from emo_core.evaluation import evaluate_film
from emo_core.figures import FIGURES, PROXY_FIGURES, PUPPET_FIGURES, format_report
from emo_core.truth import Truth, read_truth


@dataclass
class Reading:
    mouth: Tensor
    pose: Tensor
    identity: Tensor


class CornerMeters:
    """Reads numbers that the test painted into the first row of the pictures."""

    def read(self, frames: Tensor) -> Reading:
        row = frames[:, 0, 0].float()
        return Reading(row[:, :2], row[:, 2:5] * 90, row[:, 5:8])

    def identity_error(self, identity: Tensor, reference: Tensor) -> Tensor:
        return (identity - reference).square().mean(-1).sqrt()


def paint(mouth: Tensor, pose: Tensor, identity: Tensor) -> Tensor:
    frames = torch.zeros(len(mouth), 3, 8, 8)
    frames[:, 0, 0] = torch.cat([mouth, pose / 90, identity], 1)
    return frames


@pytest.fixture
def truth() -> Truth:
    generator = torch.Generator().manual_seed(0)
    pose = torch.arange(48)[:, None] * torch.tensor([0.6, 0.0, 0.0])
    return Truth(Fraction(25), torch.rand(48, 2, generator=generator), pose)


@pytest.fixture
def film(truth: Truth) -> Tensor:
    return paint(truth.mouth, truth.pose, torch.full((48, 3), 0.5))


SOUND = (torch.zeros(1, 48 * 640), 16000)


def test_a_perfect_film(film: Tensor, truth: Truth) -> None:
    result = evaluate_film(film, Fraction(25), film[0], SOUND, truth, 12, CornerMeters())
    assert result["figures"] == PUPPET_FIGURES
    assert result["frames"] == result["frames_of_the_sound"] == 48
    assert result["mouth_openness_r"] == pytest.approx(1, abs=1e-5)
    assert result["mouth_width_r"] == pytest.approx(1, abs=1e-5)
    assert result["mouth_openness_best_lag"] == 0
    assert result["mouth_openness_amplitude"] == pytest.approx(1, abs=1e-4)
    assert result["identity_error"] == 0
    assert result["identity_drift"] is None
    assert result["head_speed"] == pytest.approx(result["head_speed_of_truth"], abs=1e-3)
    assert result["head_speed"] == pytest.approx(0.5, abs=0.05)
    assert result["join_ratio"] > 0


def test_drift_is_of_films_with_a_first_and_a_last_part() -> None:
    errors = torch.linspace(0.1, 0.5, 250)[:, None]
    film = paint(torch.zeros(250, 2), torch.zeros(250, 3), errors.expand(-1, 3))
    portrait, sound = film[0] * 0, (torch.zeros(1, 250 * 640), 16000)
    whole = evaluate_film(film, Fraction(25), portrait, sound, meters=CornerMeters())
    assert whole["identity_drift"] == pytest.approx(0.4 / 0.2, rel=0.01)
    short = evaluate_film(film[1:], Fraction(25), portrait, sound, meters=CornerMeters())
    assert short["identity_drift"] is None


def test_what_does_not_belong_together_is_said(
    film: Tensor, truth: Truth, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate_film(film, Fraction(25), film[0], SOUND, truth, meters=CornerMeters())
    assert not caplog.text
    long = (torch.zeros(1, 60 * 640), 16000)
    result = evaluate_film(film[:20], Fraction(25), film[0], long, truth, meters=CornerMeters())
    assert "the film has 20 frames, but its sound asks for 60" in caplog.text
    assert "the film has 20 frames, but the truth asks for 48" in caplog.text
    assert result["frames"] == 20


def test_a_mouth_that_follows_nothing_has_no_lag(truth: Truth) -> None:
    still = paint(torch.zeros(48, 2), truth.pose, torch.zeros(48, 3))
    result = evaluate_film(still, Fraction(25), still[0], SOUND, truth, meters=CornerMeters())
    assert result["mouth_openness_r"] is None and result["mouth_openness_best_lag"] is None


def test_a_late_mouth_is_found(truth: Truth) -> None:
    late = paint(truth.mouth.roll(2, 0), truth.pose, torch.zeros(48, 3))
    result = evaluate_film(late, Fraction(25), late[0], SOUND, truth, None, CornerMeters())
    assert result["mouth_openness_best_lag"] == 2
    assert result["mouth_openness_r"] < 0.9
    assert "join_ratio" not in result


def test_without_truth_the_mouth_is_a_proxy(film: Tensor, truth: Truth) -> None:
    wave = torch.zeros(48, 640)
    wave[:, ::2] = truth.mouth[:, :1]
    wave[:, 1::2] = -truth.mouth[:, :1]
    sound = (wave.reshape(1, -1), 16000)
    result = evaluate_film(film, Fraction(25), film[0], sound, meters=CornerMeters())
    assert result["figures"] == PROXY_FIGURES
    assert result["mouth_against_loudness_r"] > 0.5
    assert "mouth_openness_r" not in result


def test_truth_of_another_rate_is_resampled(truth: Truth) -> None:
    twice = truth.at(Fraction(50), 200)
    assert len(twice.mouth) == 96
    assert torch.equal(twice.mouth[::2], truth.mouth)
    assert len(truth.at(Fraction(25), 10).mouth) == 10


def test_the_answer_is_json_and_the_report_names_every_figure(film: Tensor, truth: Truth) -> None:
    result = evaluate_film(film, Fraction(25), film[0], SOUND, truth, 12, CornerMeters())
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert set(result) - {"figures"} <= set(FIGURES)
    report = format_report(result)
    assert "head speed" in report and "degrees per frame at 30 fps" in report
    assert "undefined" in report and PUPPET_FIGURES in report


def test_an_installation_without_the_meters_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, package: str) -> None:
        raise ModuleNotFoundError(f"No module named {package}{name}", name=f"{package}.training")

    monkeypatch.setattr("emo_core.evaluation.import_module", missing)
    with pytest.raises(FileNotFoundError, match="checkout of the repository"):
        evaluate_film(torch.zeros(2, 3, 8, 8), Fraction(25), torch.zeros(3, 8, 8), SOUND)


def test_a_film_without_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got"):
        evaluate_film(torch.zeros(0, 3, 8, 8), Fraction(25), torch.zeros(3, 8, 8), SOUND)


def test_truth_files(tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    row = {"open": 0.5, "width": 0.4, "yaw": 1, "pitch": 2, "roll": 3, "box": [0, 0, 1, 1]}
    path.write_text(json.dumps({"fps": 25, "frames": [row, row]}))
    truth = read_truth(path)
    assert truth.mouth.shape == (2, 2)
    assert truth.pose[0].tolist() == [1, 2, 3]
    assert truth.fps == 25
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_truth(tmp_path / "nothing.json")
    for wrong in ("{}", "no json", '{"fps": 25, "frames": [{"open": 1}]}', "[1]"):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="must be JSON"):
            read_truth(path)
    path.write_text(json.dumps({"fps": 25, "frames": []}))
    with pytest.raises(ValueError, match=r"must (have|be)"):
        read_truth(path)
