"""Temporal modules against a naive one that carries the motion frames all the way through."""

from dataclasses import replace

import pytest
import torch
from small_models import draw, randomise, small_config
from test_transformer import naive_layer

from emo_core.attention import Build, Rows
from emo_core.layers import sinusoids
from emo_core.temporal import TemporalInputs, TemporalModule, TemporalPositions

F64 = Build(dtype=torch.float64)
WIDTH, ROWS, FRAMES, MOTION, SIDE = 8, 2, 3, 2, 2
PLACES = SIDE * SIDE


def make_module(num_attentions: int = 2) -> TemporalModule:
    config = small_config()
    temporal = replace(config.temporal, num_attentions=num_attentions)
    module = TemporalModule(WIDTH, replace(config, temporal=temporal), F64)
    randomise(module, scale=1.0)
    return module


def naive_module(module, hidden, motion, bias=None, speed=None):
    """AnimateDiff's module over [motion ; frames], every frame through every layer.

    hidden (R, F, C, h, w), motion (R, n, C, h, w), speed features (R, F, l).
    """
    net = module.temporal_transformer
    block = net.transformer_blocks[0]
    rows, frames, width, height, _ = hidden.shape
    whole = hidden if motion is None else torch.cat([motion, hidden], dim=1)
    count = whole.shape[1]
    normed = net.norm(whole.flatten(0, 1)).reshape(whole.shape)
    x = net.proj_in(normed.permute(0, 3, 4, 1, 2).reshape(-1, count, width))
    for attention, norm in zip(block.attention_blocks, block.norms, strict=True):
        y = norm(x) + sinusoids(count, width)[None]
        x = x + naive_layer(attention, y, y, bias)
    x = x[:, count - frames :]
    if speed is not None:
        # The paper's repeat: every place has its own copy of the keys.
        copies = speed.repeat_interleave(height * height, dim=0)
        query = block.speed_norm(x) + sinusoids(frames, width)
        layer = block.speed_attention
        keys = copies + sinusoids(frames, speed.shape[-1])
        scores = []
        for head in range(layer.num_heads):
            size = width // layer.num_heads
            part = slice(head * size, (head + 1) * size)
            q, k = layer.to_q(query)[..., part], layer.to_k(keys)[..., part]
            weights = (q @ k.transpose(-1, -2) / size**0.5).softmax(-1)
            scores.append(weights @ layer.to_v(copies)[..., part])
        x = x + layer.to_out[0](torch.cat(scores, dim=-1))
    x = x + block.ff(block.ff_norm(x))
    out = net.proj_out(x).reshape(rows, height, height, frames, width).permute(0, 3, 4, 1, 2)
    return hidden + out


@pytest.mark.parametrize("num_attentions", [1, 2, 3])
@pytest.mark.parametrize("biased", [False, True])
def test_motion_frames_that_leave_early_change_nothing(num_attentions: int, biased: bool) -> None:
    module = make_module(num_attentions)
    hidden = draw(ROWS, FRAMES, WIDTH, SIDE, SIDE)
    motion = draw(ROWS, MOTION, WIDTH, SIDE, SIDE, seed=1)
    bias = draw(2, MOTION + FRAMES, MOTION + FRAMES, seed=2) if biased else None
    inputs = TemporalInputs(module.prepare(motion), bias=bias)
    out = module(hidden.flatten(0, 1), FRAMES, inputs)
    expected = naive_module(module, hidden, motion, bias).flatten(0, 1)
    torch.testing.assert_close(out, expected)


def test_without_motion_frames_positions_begin_at_the_first_frame() -> None:
    module = make_module()
    hidden = draw(ROWS, FRAMES, WIDTH, SIDE, SIDE)
    out = module(hidden.flatten(0, 1), FRAMES, TemporalInputs())
    torch.testing.assert_close(out, naive_module(module, hidden, None).flatten(0, 1))


def test_shared_speed_keys_are_the_papers_repeat() -> None:
    module = make_module()
    hidden = draw(ROWS, FRAMES, WIDTH, SIDE, SIDE)
    motion = draw(ROWS, MOTION, WIDTH, SIDE, SIDE, seed=1)
    speed = draw(ROWS, FRAMES, 6, seed=2)
    inputs = TemporalInputs(module.prepare(motion), module.project_speed(speed))
    out = module(hidden.flatten(0, 1), FRAMES, inputs)
    expected = naive_module(module, hidden, motion, speed=speed).flatten(0, 1)
    torch.testing.assert_close(out, expected)


def test_rows_that_see_no_speed_are_as_without() -> None:
    module = make_module()
    hidden = draw(ROWS * FRAMES, WIDTH, SIDE, SIDE)
    speed = module.project_speed(draw(1, FRAMES, 6, seed=2))
    plain = module(hidden, FRAMES, TemporalInputs())
    given = module(hidden, FRAMES, TemporalInputs(None, (speed[0].repeat(2, 1, 1),
                                                         speed[1].repeat(2, 1, 1))))
    rows = Rows(torch.tensor([1]))
    mixed = module(hidden, FRAMES, TemporalInputs(None, speed, rows))
    torch.testing.assert_close(mixed[:FRAMES], plain[:FRAMES])
    torch.testing.assert_close(mixed[FRAMES:], given[FRAMES:])
    assert not torch.allclose(plain[FRAMES:], given[FRAMES:])


def test_a_constant_speed_adds_the_same_everywhere() -> None:
    module = make_module()
    block = module.temporal_transformer.transformer_blocks[0]
    features = draw(1, 1, 6).expand(1, FRAMES, 6)
    inputs = TemporalInputs(speed=module.project_speed(features))
    tokens = draw(PLACES, FRAMES, WIDTH, seed=1)
    added = block.attend_speed(tokens, PLACES, inputs) - tokens
    torch.testing.assert_close(added, added[:1, :1].expand_as(added))
    assert added.abs().max() > 0.1


def test_a_curve_of_speed_knows_its_frames() -> None:
    module = make_module()
    block = module.temporal_transformer.transformer_blocks[0]
    features = draw(1, FRAMES, 6)
    # The same token in every place and frame: only positions can tell which speed is whose.
    tokens = draw(1, 1, WIDTH, seed=1).expand(PLACES, FRAMES, WIDTH)
    inputs = TemporalInputs(speed=module.project_speed(features))
    added = block.attend_speed(tokens, PLACES, inputs) - tokens
    torch.testing.assert_close(added, added[:1].expand_as(added))
    assert (added[0, 0] - added[0, 1]).abs().max() > 1e-3


def test_places_do_not_see_each_other() -> None:
    module = make_module()
    motion = module.prepare(draw(1, MOTION, WIDTH, SIDE, SIDE, seed=1))
    hidden = draw(FRAMES, WIDTH, SIDE, SIDE)
    tokens = draw(PLACES, FRAMES, WIDTH)
    block = module.temporal_transformer.transformer_blocks[0]
    before = block.attend_time(tokens, TemporalInputs(motion))
    tokens[1] += 1
    after = block.attend_time(tokens, TemporalInputs(motion))
    assert (before != after).flatten(1).any(1).tolist() == [False, True, False, False]
    assert module(hidden, FRAMES, TemporalInputs(motion)).shape == hidden.shape


def test_every_frame_sees_every_motion_frame() -> None:
    module = make_module(1)
    hidden = draw(FRAMES, WIDTH, SIDE, SIDE)
    motion = draw(1, MOTION, WIDTH, SIDE, SIDE, seed=1)
    before = module(hidden, FRAMES, TemporalInputs(module.prepare(motion)))
    for frame in range(MOTION):
        changed = motion.clone()
        changed[:, frame] = draw(1, WIDTH, SIDE, SIDE, seed=5)
        after = module(hidden, FRAMES, TemporalInputs(module.prepare(changed)))
        assert (before != after).flatten(1).any(1).all()


def test_temporal_positions_are_distances() -> None:
    positions = TemporalPositions(2, 6, F64)
    positions.reset_parameters()
    bias = positions(5, torch.device("cpu")).detach()
    assert bias.shape == (2, 5, 5)
    assert float(bias[0, 1, 4]) == pytest.approx(-2.0)
    assert float(bias[1, 4, 1]) == pytest.approx(-1.0)
    positions.table.weight.data = draw(11, 2)
    bias = positions(5, torch.device("cpu"))
    torch.testing.assert_close(bias[:, 0, 2], bias[:, 2, 4])
    assert not torch.allclose(bias[:, 0, 2], bias[:, 2, 0])
