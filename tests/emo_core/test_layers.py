"""SD 1.5's building blocks against diffusers' own."""

import pytest
import torch
from small_models import draw, randomise

from emo_core.attention import Build
from emo_core.layers import (
    Downsample,
    FeedForward,
    ResnetBlock,
    TimestepEmbedding,
    Upsample,
    sinusoids,
)

F64 = Build(dtype=torch.float64)


@pytest.mark.parametrize("out_width", [8, 12])
def test_resnet_block_is_diffusers(out_width: int) -> None:
    from diffusers.models.resnet import ResnetBlock2D

    ours = ResnetBlock(8, out_width, 16, 4, F64)
    randomise(ours)
    theirs = ResnetBlock2D(
        in_channels=8, out_channels=out_width, temb_channels=16, groups=4, eps=1e-5
    ).double()
    theirs.load_state_dict(ours.state_dict())
    hidden, time = draw(2, 8, 5, 6), draw(2, 16, seed=1)
    torch.testing.assert_close(ours(hidden, time), theirs(hidden, time))


def test_feed_forward_is_diffusers() -> None:
    from diffusers.models.attention import FeedForward as Theirs

    ours = FeedForward(8, 4, F64)
    randomise(ours)
    theirs = Theirs(8, activation_fn="geglu").double()
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(draw(2, 3, 8)), theirs(draw(2, 3, 8)))


def test_timestep_embedding_is_diffusers() -> None:
    from diffusers.models.embeddings import TimestepEmbedding as Theirs
    from diffusers.models.embeddings import get_timestep_embedding

    ours = TimestepEmbedding(8, 16, Build())
    theirs = Theirs(8, 16)
    theirs.load_state_dict(ours.state_dict())
    timestep = torch.tensor([0, 1, 500, 999])
    waves = get_timestep_embedding(timestep, 8, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(ours(timestep, torch.float32), theirs(waves))


def test_resampling_keeps_odd_sizes() -> None:
    down, up = Downsample(4, F64), Upsample(4, F64)
    assert down(draw(1, 4, 9, 8)).shape == (1, 4, 5, 4)
    assert up(draw(1, 4, 5, 4), (9, 8)).shape == (1, 4, 9, 8)


def test_sinusoids_interleave_sines_and_cosines() -> None:
    table = sinusoids(5, 6)
    place, pair = 3, 2
    angle = place * 10000.0 ** (-2 * pair / 6)
    assert float(table[place, 2 * pair]) == pytest.approx(torch.tensor(angle).sin().item())
    assert float(table[place, 2 * pair + 1]) == pytest.approx(torch.tensor(angle).cos().item())
