"""The shared block structure: SD 1.5's by name and by number."""

from dataclasses import replace

import torch
from small_models import draw, randomise, small_config

from emo_core.attention import Build
from emo_core.layers import Upsample
from emo_core.presets import emo, hallo
from emo_core.unet import UNet, all_spots, down_spots, up_spots


def test_spots_of_sd15() -> None:
    spots = {spot.name: spot for spot in all_spots(emo().unet)}
    assert len(spots) == 8 + 1 + 12
    assert [s.in_width for b in down_spots(emo().unet) for s in b] == [
        320, 320, 320, 640, 640, 1280, 1280, 1280
    ]
    assert [s.in_width for b in up_spots(emo().unet) for s in b] == [
        2560, 2560, 2560, 2560, 2560, 1920, 1920, 1280, 960, 960, 640, 640
    ]
    with_attention = [name for name, s in spots.items() if s.has_attention(emo().unet)]
    assert len(with_attention) == 16
    assert with_attention[-1] == "up_blocks.3.2" and "mid_block.0" in with_attention


def test_neighbour_widths_are_hallos_audio_widths() -> None:
    unet = hallo().unet
    widths = [s.neighbour_width for s in all_spots(unet) if s.has_attention(unet)]
    assert widths == [320, 320, 320, 640, 640, 1280, 1280] + [640] * 3 + [320] * 6


def test_the_walk_visits_every_spot_once_in_order() -> None:
    config = small_config().unet
    net = UNet(config, {}, Build(dtype=torch.float64))
    randomise(net)
    seen = []

    def visit(block, index, hidden_states):
        spot = block.spots[index]
        assert hidden_states.shape[1] == spot.width
        assert hidden_states.shape[-1] == 8 // 2**spot.level
        seen.append(spot.name)
        return hidden_states

    out = net.walk(net.conv_in(draw(2, 4, 8, 8)), draw(2, 32), visit)
    assert seen == [spot.name for spot in all_spots(config)]
    assert out.shape == (2, 8, 8, 8)


def test_sizes_that_do_not_halve_evenly_come_back() -> None:
    config = small_config().unet
    net = UNet(config, {}, Build(dtype=torch.float64))
    out = net.walk(net.conv_in(draw(1, 4, 7, 9)), draw(1, 32), lambda block, index, h: h)
    assert out.shape == (1, 8, 7, 9)


def test_only_the_last_up_block_does_not_grow() -> None:
    net = UNet(replace(small_config().unet, widths=(8, 8)), {}, Build(device="meta"))
    grows = [hasattr(block, "upsamplers") for block in net.up_blocks]
    assert grows == [True, False]
    assert sum(isinstance(m, Upsample) for m in net.modules()) == 1
