"""attend(), Attention, Rows and the position tables."""

from types import SimpleNamespace

import pytest
import torch
from small_models import draw, randomise
from torch import nn

from emo_core.attention import Attention, Build, RelativePositions, Rows, attend, offset_index


def naive_attention(query, key, value, heads, bias=None):
    """Softmax attention, one head after the other."""
    size = query.shape[-1] // heads
    out = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = query[..., part] @ key[..., part].transpose(-1, -2) / size**0.5
        if bias is not None:
            scores = scores + bias[head]
        out.append(scores.softmax(-1) @ value[..., part])
    return torch.cat(out, dim=-1)


@pytest.mark.parametrize("biased", [False, True])
def test_attend_is_softmax_attention(biased: bool) -> None:
    query, key, value = draw(2, 5, 12), draw(2, 7, 12, seed=1), draw(2, 7, 12, seed=2)
    bias = draw(3, 5, 7, seed=3) if biased else None
    expected = naive_attention(query, key, value, 3, bias)
    torch.testing.assert_close(attend(query, key, value, 3, bias), expected)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="num_heads=5"):
        attend(draw(1, 2, 12), draw(1, 2, 12), draw(1, 2, 12), 5)


def test_attention_projects_what_its_names_say() -> None:
    layer = Attention(8, 6, 2, Build(dtype=torch.float64))
    randomise(layer)
    tokens, context = draw(2, 4, 8), draw(2, 3, 6, seed=1)
    mixed = naive_attention(
        tokens @ layer.to_q.weight.T, context @ layer.to_k.weight.T, context @ layer.to_v.weight.T,
        2,
    )
    expected = mixed @ layer.to_out[0].weight.T + layer.to_out[0].bias
    torch.testing.assert_close(layer(tokens, layer.project_kv(context)), expected)
    assert list(layer.state_dict()) == [
        "to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "to_out.0.bias"
    ]


def test_a_namespace_may_bring_its_own_attention() -> None:
    calls = []

    def backend(query, key, value, num_heads, bias):
        calls.append(num_heads)
        return attend(query, key, value, num_heads, bias)

    plain = Attention(8, 8, 2, Build())
    hosted = Attention(8, 8, 2, Build(SimpleNamespace(**vars(nn), attend=backend)))
    hosted.load_state_dict(plain.state_dict())
    tokens = draw(1, 3, 8, dtype=torch.float32)
    kv = plain.project_kv(tokens)
    torch.testing.assert_close(hosted(tokens, kv), plain(tokens, kv))
    assert calls == [2]


def test_rows_select_lay_out_and_add() -> None:
    rows = Rows(torch.tensor([2, 0]), torch.tensor([1, 1]))
    batch, condition = draw(3, 4), draw(2, 4, seed=1)
    torch.testing.assert_close(rows.select(batch), batch[[2, 0]])
    torch.testing.assert_close(rows.condition(condition), condition[[1, 1]])
    before = batch.clone()
    added = rows.add(batch, draw(2, 4, seed=2))
    torch.testing.assert_close(batch, before, rtol=0, atol=0)
    torch.testing.assert_close(added[1], batch[1], rtol=0, atol=0)
    torch.testing.assert_close(added[[2, 0]], batch[[2, 0]] + draw(2, 4, seed=2))
    assert Rows(torch.tensor([], dtype=torch.long)).empty
    assert not Rows().empty and not rows.empty


def test_relative_positions_know_only_offsets() -> None:
    index = offset_index(3, 4, 4).reshape(3, 4, 3, 4)
    for (y, x), (v, u) in [((0, 0), (1, 2)), ((1, 1), (2, 3)), ((0, 1), (1, 3))]:
        assert index[y, x, v, u] == index[0, 0, 1, 2]
    # Every offset within the grid has an entry of its own; (dy, dx) and (dx, dy) differ.
    assert len(index.unique()) == 5 * 7
    assert index[0, 0, 1, 0] != index[0, 0, 0, 1]


def test_far_offsets_share_the_last_entry() -> None:
    index = offset_index(1, 6, 3)
    assert index[0, 3] == index[0, 5] == index[0, 2]
    assert index[0, 1] != index[0, 2]
    assert int(index.min()) >= 0 and int(index.max()) < 25


def test_positions_start_as_gaussians() -> None:
    positions = RelativePositions(2, 4, Build(dtype=torch.float64))
    positions.reset_parameters((1.0, 3.0))
    bias = positions(4, 4, torch.device("cpu")).detach().reshape(2, 4, 4, 4, 4)
    assert bias[0, 1, 1, 1, 1] == 0
    assert bias[0, 0, 0, 1, 2] == pytest.approx(-5 / 2)
    assert bias[1, 3, 1, 0, 2] == pytest.approx(-10 / 18)
    assert bias.min() == -6
