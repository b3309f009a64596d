"""The trainer: resuming changes nothing, schedules end where planned, checkpoints are whole."""

import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from emo_core.training.stage import Batch, Stage
from emo_core.training.train_settings import TrainSettings
from emo_core.training.trainer import Trainer, _mean


class Line(Stage):
    """Fits y = 2x + 1 through a small network with noisy inputs."""

    name = "line"

    def __init__(self, reordered: bool = False) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(1, 8), nn.GELU(), nn.Dropout(0.0), nn.Linear(8, 1))
        parts = [("net", net), ("scale", nn.Linear(1, 8)), ("frozen", nn.Linear(2, 2))]
        self.modules = nn.ModuleDict(dict(reversed(parts) if reordered else parts))
        self.modules["frozen"].requires_grad_(False)

    def batch(self, draw: int) -> Batch:
        x = torch.rand(16, 1, generator=torch.Generator().manual_seed(draw))
        return {"x": x, "y": 2 * x + 1}

    def loss(
        self, batch: Batch, generator: torch.Generator, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        noise = 0.01 * torch.randn(batch["x"].shape, generator=generator)
        bent = self.modules["scale"](batch["x"]).mean()
        error = (self.modules["net"](batch["x"] + noise) - batch["y"]).square().mean()
        error = error + 0.1 * bent.square()
        return error, {"error": error}

    def measure(self) -> dict[str, float]:
        return {"at_one": float(self.modules["net"](torch.ones(1, 1)))}

    def sample_sheet(self, path: Path) -> None:
        path.write_text("sheet")


def settings(folder: Path, **changes: object) -> TrainSettings:
    values = {"steps": 6, "schedule_steps": 6, "warm_up": 2, "log_every": 1, "bf16": False}
    return TrainSettings(folder, **{**values, **changes})  # type: ignore[arg-type]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "line.jsonl").read_text().splitlines()]


def test_three_steps_and_three_more_equal_six(tmp_path: Path) -> None:
    straight = Line()
    Trainer(straight, settings(tmp_path / "a")).run()
    Trainer(Line(), settings(tmp_path / "b", steps=3)).run()
    resumed = Line()
    trainer = Trainer(resumed, settings(tmp_path / "b"))
    assert trainer.step == 3
    trainer.run()
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    for a, b in zip(straight.modules.parameters(), resumed.modules.parameters(), strict=True):
        assert torch.equal(a, b)


def states(trainer: Trainer) -> dict[str, Tensor]:
    """Second moments of the optimizer by the parameters' names."""
    state = trainer._optimizer.state
    return {name: state[p]["exp_avg_sq"] for name, p in trainer._trained.items()}


@pytest.mark.parametrize("with_names", [True, False], ids=["names", "an early checkpoint"])
def test_modules_registered_in_another_order_resume_with_their_own_moments(
    tmp_path: Path, with_names: bool
) -> None:
    first = Trainer(Line(), settings(tmp_path, steps=3))
    first.run()
    saved = torch.load(first.checkpoint, weights_only=True)
    if not with_names:
        del saved["names"], saved["origin"]
        torch.save(saved, first.checkpoint)
    resumed = Trainer(Line(reordered=True), settings(tmp_path))
    assert list(resumed._trained) != list(first._trained)
    for name, moment in states(first).items():
        assert torch.equal(states(resumed)[name], moment), name
    # net.0.weight and scale.weight have one shape: only the names tell their moments apart.
    assert not torch.equal(states(first)["net.0.weight"], states(first)["scale.weight"])
    straight = Trainer(Line(), settings(tmp_path / "a"))
    straight.run()
    resumed.run()
    for name, parameter in straight._trained.items():
        torch.testing.assert_close(parameter, resumed._trained[name], rtol=1e-6, atol=1e-7)


def test_a_checkpoint_of_other_parameters_or_origin_is_refused(tmp_path: Path) -> None:
    stage = Line()
    stage.origin = {"images": "a1"}
    Trainer(stage, settings(tmp_path, steps=1)).run()
    other = Line()
    other.origin = {"images": "b2"}
    with pytest.raises(ValueError, match=r"made from images.safetensors of digest a1, but .* b2"):
        Trainer(other, settings(tmp_path))
    other = Line()
    other.modules["frozen"].requires_grad_(True)
    with pytest.raises(ValueError, match="trains other parameters than the model has"):
        Trainer(other, settings(tmp_path))


def test_it_learns_and_measures_with_averaged_weights(tmp_path: Path) -> None:
    stage = Line()
    plan = settings(
        tmp_path, steps=300, schedule_steps=300, learning_rate=0.03, log_every=100, ema_decay=0.9
    )
    trainer = Trainer(stage, plan)
    trainer.run()
    last = json.loads((tmp_path / "line.jsonl").read_text().splitlines()[-1])
    assert last["loss"] < 0.01
    assert last["at_one"] == pytest.approx(3, abs=0.2)
    assert (tmp_path / "line-000300.png").read_text() == "sheet"
    live = [p.clone() for p in stage.modules.parameters()]
    trainer.swap_averaged()
    averaged = [p.clone() for p in stage.modules.parameters()]
    trainer.swap_averaged()
    assert not torch.equal(live[0], averaged[0])
    assert torch.equal(live[-1], averaged[-1])  # frozen
    assert all(torch.equal(a, b) for a, b in zip(live, stage.modules.parameters(), strict=True))


def test_rate_rises_falls_and_can_follow_the_clock(tmp_path: Path) -> None:
    by_steps = TrainSettings(tmp_path, steps=100, learning_rate=1.0, warm_up=10, floor=0.1)
    assert by_steps.rate(0, 0) == pytest.approx(0.1, abs=0.01)
    assert by_steps.rate(9, 0) > 0.95
    assert by_steps.rate(100, 0) == pytest.approx(0.1)
    by_clock = TrainSettings(tmp_path, minutes=2, learning_rate=1.0, warm_up=0, floor=0.0)
    assert by_clock.rate(5, 60) == pytest.approx(0.5)
    assert by_clock.rate(5, 120) == pytest.approx(0)


def test_minutes_end_a_run(tmp_path: Path) -> None:
    trainer = Trainer(Line(), settings(tmp_path, steps=None, minutes=0.005))
    trainer.run()
    assert trainer.step > 0
    assert trainer.checkpoint.exists()
    assert not list(tmp_path.glob("*.partial"))


def test_a_run_that_was_killed_writes_each_step_once(tmp_path: Path) -> None:
    class Dies(Line):
        def loss(
            self, batch: Batch, generator: torch.Generator, step: int
        ) -> tuple[Tensor, dict[str, Tensor]]:
            if step == 5:
                raise KeyboardInterrupt
            return super().loss(batch, generator, step)

    with pytest.raises(KeyboardInterrupt):
        Trainer(Dies(), settings(tmp_path / "b", checkpoint_every=3)).run()
    assert len(losses(tmp_path / "b")) == 5
    resumed = Trainer(Line(), settings(tmp_path / "b", checkpoint_every=3))
    assert resumed.step == 3 and [line["step"] for line in resumed.logged()] == [1, 2, 3]
    resumed.run()
    Trainer(Line(), settings(tmp_path / "a")).run()
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


TOGETHER = """
import sys
from pathlib import Path
from emo_core.training.trainer import Trainer
from test_trainer import Line, settings
trainer = Trainer(Line(), settings(Path(sys.argv[1]), steps=None, minutes=0.02, log_every=1000))
assert trainer._accelerator.num_processes == 2
trainer.run()
print(trainer.step, trainer.seconds, [p.sum().item() for p in trainer._trained.values()])
"""


@pytest.mark.skipif(find_spec("accelerate") is None, reason="accelerate is not installed")
def test_two_processes_end_at_one_step_with_the_same_weights(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[3])])
    world = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
             "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}  # fmt: skip
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, str(tmp_path)],
            env={**world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        told = [run.communicate(timeout=120) for run in runs]
    finally:
        for run in runs:
            run.kill()
    assert [run.returncode for run in runs] == [0, 0], told[0][1] + told[1][1]
    assert told[0][0] == told[1][0]
    assert int(told[0][0].split()[0]) > 2


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give steps, minutes or both"):
        TrainSettings(tmp_path)
    stage = Line()
    with torch.no_grad():
        stage.modules["net"][0].weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="loss of step 0 of line is nan"):
        Trainer(stage, settings(tmp_path)).run()


def test_a_part_that_no_step_measured_is_no_number_in_the_log() -> None:
    nothing = torch.tensor(float("nan"))
    assert _mean([nothing, torch.tensor(2.0), torch.tensor(4.0)]) == 3
    assert _mean([nothing, nothing]) is None


def test_a_step_in_which_chance_dropped_everything_that_is_trained_teaches_nothing(
    tmp_path: Path,
) -> None:
    class Sometimes(Line):
        def loss(
            self, batch: Batch, generator: torch.Generator, step: int
        ) -> tuple[Tensor, dict[str, Tensor]]:
            error, parts = super().loss(batch, generator, step)
            return (error.detach() if step == 2 else error), parts

    trainer = Trainer(Sometimes(), settings(tmp_path, log_every=100, checkpoint_every=100))
    trainer.run()
    assert trainer.step == 6
