"""The paper's stages on films: what is trained, and where the loss looks."""

import pytest
import torch

from emo_core.model import EMO
from emo_core.presets import tiny
from emo_core.training.dataset import FilmPieces
from emo_core.training.fast_layers import operations
from emo_core.training.film_stages import FilmStage, StageName, initialise


def random_pieces(count: int = 3, length: int = 20) -> FilmPieces:
    """Films of noise that fit emo-tiny."""
    config = tiny()
    generator = torch.Generator().manual_seed(5)
    side, channels = config.picture_size // 8, config.unet.latent_channels
    around = length + 2 * config.audio.window

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).half()

    places = torch.tensor([[0.5, 0.7, 0.12], [0.4, 0.45, 0.08], [0.6, 0.45, 0.08]])
    return FilmPieces(
        portraits=normal(count, 2, channels, side, side),
        frames=normal(count, length, channels, side, side),
        audio=normal(count, around, 4, 128),
        boxes=torch.cat(
            [0.2 + 0.1 * draw(count, length, 2), 0.4 + 0.1 * draw(count, length, 2)], 2
        ),
        speeds=draw(count, around),
        places=places.expand(count, length, 3, 3) + 0.02 * draw(count, length, 3, 3),
    )


def stage(name: StageName, brows: float = 0.0) -> FilmStage:
    model = EMO(tiny(), operations=operations())
    initialise(model, 0)
    return FilmStage(name, model, random_pieces(), 2, brows=brows)


def test_brows_weigh_as_much_as_eyes_and_the_whole_as_much_as_before() -> None:
    without, with_brows = stage("video"), stage("video", 1.5)
    places, size = without.batch(0)["places"], torch.Size((64, 64))
    before, after = without._weight(places, size), with_brows._weight(places, size)
    assert float(after.mean()) == pytest.approx(float(before.mean()), rel=1e-5)
    eye = places[0, 0, 1]
    row, column = int(eye[1] * 64), int(eye[0] * 64)
    brow = int((eye[1] - 1.21 * eye[2]) * 64)
    assert float(before[0, 0, 0, brow, column]) < 1.6
    assert float(after[0, 0, 0, brow, column]) > 2.1
    assert float(after[0, 0, 0, brow, column]) == pytest.approx(
        float(after[0, 0, 0, row, column]), rel=0.15
    )


@pytest.mark.parametrize(
    ("name", "trained", "frozen"),
    [
        ("images", "attn_audio", "motion_modules"),
        ("video", "motion_modules", "speed_attention"),
        ("speed", "speed_attention", "attn_audio"),
    ],
)
def test_each_stage_trains_its_own_part(name: StageName, trained: str, frozen: str) -> None:
    one = stage(name, 1.5)
    loss, parts = one.loss(one.batch(0), torch.Generator().manual_seed(0), 0)
    loss.backward()
    assert set(parts) == {"error", "mouth"}
    assert 0.5 < parts["error"].item() < 2
    learning = [path for path, p in one.model.named_parameters() if p.grad is not None]
    assert any(trained in path for path in learning)
    assert not any(frozen in path for path in learning)


def test_a_batch_follows_from_the_draw() -> None:
    one = stage("video")
    first, again, other = one.batch(3), one.batch(3), one.batch(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["frames"], other["frames"])
    assert first["frames"].shape[:2] == (2, tiny().temporal.num_frames)
