"""Weights of the loss: where they are high, and that brows are found above the eyes."""

import pytest
import torch

from emo_core.training import puppets
from emo_core.training.features import BROW_Y
from emo_core.training.frames import find_places
from emo_core.training.places import closer_look, inside, with_brows
from emo_core.training.scene import make_scene

FACE = torch.tensor([[[0.5, 0.75, 0.1], [0.25, 0.25, 0.1], [0.75, 0.25, 0.1]]])


def test_weights_are_highest_in_the_middle_of_places() -> None:
    weight = closer_look(FACE, (64, 64), (3.0, 1.5, 1.5))[0, 0]
    assert weight[48, 32] == pytest.approx(4, abs=0.1)
    assert weight[16, 16] == pytest.approx(2.5, abs=0.1)
    assert weight[0, 0] == pytest.approx(1, abs=0.01)
    films = closer_look(FACE[None].expand(2, 5, 3, 3), (16, 32), (3.0, 1.5, 1.5), most=2.0)
    assert films.shape == (2, 5, 1, 16, 32)
    assert float(films.max()) == 3


def test_inside_is_a_disc() -> None:
    area = inside(FACE[:, :1], (64, 64))
    assert area.shape == (1, 1, 64, 64)
    assert float(area.mean()) == pytest.approx(3.1416 * 0.01, rel=0.1)


def test_brows_are_above_the_eyes_whichever_way_the_head_rolls() -> None:
    turned = torch.tensor([[0.2, 0.5, 0.1], [0.7, 0.3, 0.1], [0.7, 0.7, 0.1]])  # top to the right
    upright, rolled = with_brows(torch.stack([FACE[0], turned]))
    assert upright[3].tolist() == pytest.approx([0.25, 0.129, 0.1])
    assert upright[4].tolist() == pytest.approx([0.75, 0.129, 0.1])
    assert rolled[3].tolist() == pytest.approx([0.821, 0.3, 0.1])
    assert torch.equal(with_brows(FACE)[:, :3], FACE)


def test_brows_are_where_the_world_draws_them() -> None:
    people = [puppets.make_identity(1_000_000 + seed) for seed in range(20)]
    controls = puppets.portrait_controls(5).repeat(20, 1)
    controls[:, 0] = torch.linspace(-15, 15, 20)
    controls[:, 2] = torch.linspace(8, -8, 20)
    controls[:, 13] = 0
    found = with_brows(find_places(people, controls))
    named = dict(zip(puppets.CONTROLS, controls.unbind(1), strict=True))
    scene = make_scene(people, named, 8, controls.device)
    for place, side in ((3, -1), (4, 1)):
        drawn = scene.anchor(1.02 * side * scene.values["eye_gap"], scene.constant(BROW_Y))
        apart = torch.stack([drawn.x, drawn.y], 1) - found[:, place, :2]
        assert float((apart.norm(dim=1) / found[:, place, 2]).max()) < 0.35
