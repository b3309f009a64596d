"""The meter: shapes, files, and what the trained one reads from unseen truth films."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from emo_core.training.identities import make_identity
from emo_core.training.meter_check import gallery, picks_right, still
from emo_core.training.meter_examples import draw_examples, examiner_controls, soften
from emo_core.training.meter_training import MeterPlan, MeterStage, new_meter
from emo_core.training.meters import (
    METERS_FILE,
    PuppetMeter,
    load_meter,
    meter_record,
    save_meter,
)
from emo_core.training.puppets import CONTROLS, portrait_controls, render
from emo_core.training.readings import SCALARS, readings_of
from emo_core.training.train_settings import TrainSettings
from emo_core.training.trainer import Trainer

trained = pytest.mark.skipif(not METERS_FILE.is_file(), reason="the meters are not trained yet")


@pytest.fixture(scope="module")
def meter() -> PuppetMeter:
    torch.manual_seed(0)
    return PuppetMeter(5, (8, 8, 8, 8), 8).eval()


def test_readings_have_names_and_units(meter: PuppetMeter) -> None:
    meter.mean.copy_(torch.arange(17.0))
    read = meter.read(torch.zeros(3, 3, 128, 128))
    assert read.mouth.shape == (3, 2)
    assert read.pose.shape == (3, 3)
    assert read.box.shape == (3, 4)
    assert read.identity.shape == (3, 5)
    values = torch.arange(17.0)[None]
    named = readings_of(values)
    assert named.pose.tolist() == [[2, 3, 4]]
    assert named.centre.tolist() == [[5, 6]]
    assert named.box.tolist() == [[5 - 3.5, 6 - 4, 7, 8]]
    assert named.brow.tolist() == [10]
    assert named[:0].mouth.shape == (0, 2)


def test_bytes_sizes_and_batches_do_not_matter(meter: PuppetMeter) -> None:
    pictures = torch.randint(0, 256, (5, 3, 128, 128), dtype=torch.uint8)
    whole = meter.read(pictures)
    parts = meter.read(pictures.float() / 255, batch=2)
    assert torch.allclose(whole.pose, parts.pose, atol=1e-4)
    doubled = pictures.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert meter.read(doubled).pose.shape == (5, 3)
    for wrong in (torch.zeros(3, 128, 128), torch.zeros(2, 4, 128, 128), torch.zeros(0, 3, 8, 8)):
        with pytest.raises(ValueError, match="colours on the second axis"):
            meter.read(wrong)


def test_file_round_trip(meter: PuppetMeter, tmp_path: Path) -> None:
    path = tmp_path / "meters.safetensors"
    save_meter(meter, path, {"steps": 3})
    again = load_meter(path)
    pictures = torch.rand(2, 3, 128, 128)
    assert torch.allclose(again.read(pictures).pose, meter.read(pictures).pose, atol=0.02)
    assert meter_record(path) == {"steps": 3}
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="emo train meters"):
        load_meter(tmp_path / "meters.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="must be a puppet meter"):
        load_meter(tmp_path / "other.safetensors")


def test_examples_tell_the_truth_and_repeat() -> None:
    first = draw_examples(4, torch.Generator().manual_seed(3))
    again = draw_examples(4, torch.Generator().manual_seed(3))
    assert torch.equal(first.frames, again.frames)
    assert torch.equal(first.targets, again.targets)
    assert first.targets.shape == (4, len(SCALARS) + len(make_identity(0).numbers))
    controls = examiner_controls(4, torch.Generator().manual_seed(1))
    assert controls.shape == (4, len(CONTROLS))
    opening = examiner_controls(500, torch.Generator().manual_seed(1))[:, CONTROLS.index("open")]
    assert float(opening.min()) >= 0 and float(opening.max()) <= 1


def test_softening_keeps_the_picture() -> None:
    frames = draw_examples(8, torch.Generator().manual_seed(5)).frames.float() / 255
    spoiled = soften(frames, torch.Generator().manual_seed(6))
    assert spoiled.shape == frames.shape
    assert float(spoiled.min()) >= 0 and float(spoiled.max()) <= 1
    assert 0.005 < float((spoiled - frames).abs().mean()) < 0.1


def train(folder: Path, steps: int, **changes: object) -> MeterStage:
    plan = MeterPlan(batch=8, pool=32, examples=64)
    settings = {"schedule_steps": 4, "learning_rate": 1e-3, "warm_up": 1, "log_every": 1, **changes}
    stage = MeterStage(plan)
    Trainer(stage, TrainSettings(folder, steps=steps, **settings)).run()  # type: ignore[arg-type]
    return stage


def test_a_training_that_was_stopped_goes_on_as_if_it_was_not(tmp_path: Path) -> None:
    whole = train(tmp_path / "a", 2)
    train(tmp_path / "b", 1)
    resumed = train(tmp_path / "b", 2)
    for name, value in whole.modules.state_dict().items():
        assert torch.equal(value, resumed.modules.state_dict()[name]), name


def test_the_loss_teaches_numbers_and_finishing_weighs_them() -> None:
    stage = MeterStage(MeterPlan(batch=8, pool=32, examples=64))
    batch = stage.batch(0)
    assert batch["frames"].shape == (8, 3, 128, 128)
    optimizer = torch.optim.Adam(stage.meter.parameters(), lr=1e-3)
    losses = []
    for step in range(6):
        loss, parts = stage.loss(batch, torch.Generator(), step)
        total = sum(part.item() for part in parts.values())
        assert total == pytest.approx(loss.item(), rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    stage.finish()
    assert float(stage.meter.residual.min()) >= 0.02
    assert float(stage.meter.residual.std()) > 0


def people(count: int) -> torch.Tensor:
    return torch.stack([make_identity(7_000_000 + seed).numbers for seed in range(count)])


def test_nearest_appearance() -> None:
    strangers = people(20)
    meter = new_meter(torch.cat([torch.rand(20, len(SCALARS)), strangers], 1))
    own = make_identity(1_000_003).numbers
    near = own + 0.05 * torch.randn(6, len(own), generator=torch.Generator().manual_seed(0))
    assert picks_right(meter, near, own, strangers)
    assert not picks_right(meter, strangers[:1], own, strangers)


@trained
def test_films_of_unseen_puppets_are_found_among_portraits() -> None:
    meter = load_meter()
    strangers = gallery(meter, 12)
    assert len(strangers.unique(dim=0)) == 12
    found = []
    for seed in range(1_000_100, 1_000_104):
        puppet = make_identity(seed)
        portrait = meter.read(render(puppet, portrait_controls(seed))).identity[0]
        frames = render(puppet, examiner_controls(4, torch.Generator().manual_seed(seed)))
        found.append(picks_right(meter, meter.read(frames).identity, portrait, strangers))
        assert not picks_right(meter, meter.read(frames).identity, strangers[0], portrait[None])
    assert sum(found) >= 3


@trained
def test_the_trained_meter_reads_unseen_puppets() -> None:
    meter = load_meter()
    assert METERS_FILE.stat().st_size <= 2.5 * 2**20
    assert meter.num_identity == len(make_identity(0).numbers)
    generator = torch.Generator().manual_seed(1_234)
    examples = draw_examples(96, generator, 1_000_000)
    read = meter.read(examples.frames)
    r = torch.corrcoef(torch.stack([read.mouth[:, 0], examples.targets[:, 0]]))[0, 1]
    assert float(r) >= 0.97
    assert float((read.pose - examples.targets[:, 2:5]).square().mean().sqrt()) < 2.5


@trained
def test_the_record_states_what_the_meter_is_worth() -> None:
    record = meter_record()
    for films in (record["truth"], record["coded"]):
        assert films["films"] >= 24
        assert min(films[name] for name in ("openness_r", "width_r")) >= 0.97
        assert max(films[f"{angle}_error"] for angle in ("yaw", "pitch", "roll")) < 1
        assert films["right_puppet_of_100"] >= 0.95
        assert 0 < films["head_speed_floor"] < 0.12


@trained
def test_a_still_head_reads_slow() -> None:
    from emo_core.measurements import head_speed_of
    from emo_core.training.truth_films import make_film
    from emo_core.training.voices import Utterance

    sound = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(2))
    film = still(make_film(Utterance(sound, ((0.2, 0.8, "AA"),), "", ""), 1_000_009))
    frames = render(film.identity, film.controls)
    assert float(head_speed_of(load_meter().read(frames).pose, 25).mean()) < 0.12


@trained
def test_a_film_after_the_vae_is_read_as_well_as_the_record_says() -> None:
    from emo_core.measurements import pearson
    from emo_core.training.meter_check import through_vae
    from emo_core.training.truth_films import make_film
    from emo_core.training.voices import Utterance
    from emo_core.weights import load_model

    sound = 0.1 * torch.randn(32000, generator=torch.Generator().manual_seed(2))
    phones = [(0.2 * k, 0.2 * k + 0.2, name) for k, name in enumerate(["AA", "M", "IY", "UW"] * 2)]
    film = make_film(Utterance(sound, tuple(phones), "", ""), 1_000_021)
    vae = load_model("emo-tiny").vae
    assert vae is not None
    frames = through_vae(vae, film.frames())
    read = load_meter().read(frames)
    for part in (0, 1):
        assert pearson(read.mouth[:, part], film.truth.mouth[:, part]) >= 0.97
    assert not torch.allclose(frames, film.frames(), atol=0.05), "it went through the VAE"
