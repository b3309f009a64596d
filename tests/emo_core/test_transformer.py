"""Spatial transformers against naive ones that repeat everything over the frames."""

import pytest
import torch
from small_models import draw, randomise, small_config
from test_attention import naive_attention

from emo_core.attention import Build, Rows
from emo_core.masked_audio import MaskedAudioBlock, hear
from emo_core.transformer import (
    Seen,
    SpatialInputs,
    SpatialTransformer,
    TransformerBlock,
    attend_per_frame,
)
from emo_core.unet import Spot

F64 = Build(dtype=torch.float64)
WIDTH, ROWS, FRAMES, PLACES = 8, 2, 3, 4


def naive_layer(layer, queries, context, bias=None):
    """One attention layer, keys and values projected on the spot."""
    mixed = naive_attention(
        layer.to_q(queries), layer.to_k(context), layer.to_v(context), layer.num_heads, bias
    )
    return layer.to_out[0](mixed)


def make_block(variant: str, audio: bool = True) -> TransformerBlock:
    reference = variant != "hallo"
    block = TransformerBlock(WIDTH, small_config(variant), audio and reference, reference, F64)
    randomise(block, scale=1.0)
    return block


@pytest.mark.parametrize("biased", [False, True])
def test_emo_block_is_self_reference_audio_feed_forward(biased: bool) -> None:
    block = make_block("emo")
    tokens = draw(ROWS * FRAMES, PLACES, WIDTH)
    portrait, sound = draw(ROWS, PLACES, WIDTH, seed=1), draw(ROWS, FRAMES, 3, 8, seed=2)
    own, cross = (draw(2, PLACES, PLACES, seed=s) if biased else None for s in (3, 4))
    inputs = SpatialInputs(
        num_frames=FRAMES,
        reference=Seen(block.project_reference(portrait)),
        audio=(Seen(block.attn_audio.project_kv(sound)),),
        self_bias=own,
        reference_bias=cross,
    )
    x = tokens
    y = block.norm1(x)
    x = x + naive_layer(block.attn1, y, y, own)
    repeated = portrait.repeat_interleave(FRAMES, dim=0)
    x = x + naive_layer(block.attn2, block.norm2(x), repeated, cross)
    x = x + naive_layer(block.attn_audio, block.norm_audio(x), sound.flatten(0, 1))
    x = x + block.ff(block.norm3(x))
    torch.testing.assert_close(block(tokens, inputs), x)


def test_hallo_block_appends_the_portrait_to_the_keys() -> None:
    block = make_block("hallo")
    tokens = draw(ROWS * FRAMES, PLACES, WIDTH)
    portrait, face = draw(1, PLACES, WIDTH, seed=1), draw(ROWS, 4, 12, seed=2)
    # Only row 1 sees the portrait.
    rows = Rows(torch.tensor([1]), torch.tensor([0]))
    inputs = SpatialInputs(
        num_frames=FRAMES,
        reference=Seen(block.project_reference(portrait), rows),
        face=Seen(block.attn2.project_kv(face)),
    )
    x = tokens
    y = block.norm1(x)
    blind = naive_layer(block.attn1, y[:FRAMES], y[:FRAMES])
    keys = torch.cat([y[FRAMES:], portrait.expand(FRAMES, -1, -1)], dim=1)
    seeing = naive_layer(block.attn1, y[FRAMES:], keys)
    x = x + torch.cat([blind, seeing])
    x = x + naive_layer(block.attn2, block.norm2(x), face.repeat_interleave(FRAMES, dim=0))
    x = x + block.ff(block.norm3(x))
    torch.testing.assert_close(block(tokens, inputs), x)


def test_sound_reaches_its_own_frame_only() -> None:
    block = make_block("emo")
    tokens, sound = draw(ROWS * FRAMES, PLACES, WIDTH), draw(ROWS, FRAMES, 3, 8, seed=1)
    layers = block.norm_audio, block.attn_audio
    before = attend_per_frame(tokens, *layers, Seen(block.attn_audio.project_kv(sound)))
    sound[1, 2] += 1
    after = attend_per_frame(tokens, *layers, Seen(block.attn_audio.project_kv(sound)))
    changed = (before != after).flatten(1).any(1).reshape(ROWS, FRAMES)
    assert changed.tolist() == [[False, False, False], [False, False, True]]


def test_rows_without_sound_hear_zeros() -> None:
    block = MaskedAudioBlock(WIDTH, small_config("hallo"), F64)
    randomise(block, scale=1.0)
    attention, convolution = block.attn2_1, block.zero_conv_face
    normed, sound = draw(ROWS * FRAMES, PLACES, WIDTH), draw(1, FRAMES, 4, 8, seed=1)
    mask = draw(PLACES, seed=2).sigmoid()
    seen = Seen(attention.project_kv(sound), Rows(torch.tensor([1])))
    silence = torch.cat([torch.zeros_like(sound), sound]).flatten(0, 1)
    heard = naive_layer(attention, normed, silence) * mask[:, None]
    expected = heard @ convolution.weight[:, :, 0, 0].T + convolution.bias
    found = hear(normed, (attention, convolution), seen, mask, 2)
    torch.testing.assert_close(found, expected)


def test_hallos_audio_block_masks_three_attentions() -> None:
    config = small_config("hallo")
    block = MaskedAudioBlock(WIDTH, config, F64)
    randomise(block, scale=1.0)
    tokens, sound = draw(ROWS * FRAMES, PLACES, WIDTH), draw(ROWS, FRAMES, 4, 8, seed=1)
    masks = draw(3, PLACES, seed=2).sigmoid()
    contexts = tuple(Seen(attention.project_kv(sound)) for attention in block.attentions)
    out = block(tokens, 2, SpatialInputs(num_frames=FRAMES, audio=contexts, masks=masks))
    x = tokens
    y = block.norm1(x)
    x = x + naive_layer(block.attn1, y, y)
    y = block.norm2(x)
    convolutions = (block.zero_conv_full, block.zero_conv_face, block.zero_conv_lip)
    for attention, convolution, mask in zip(
        block.attentions, convolutions, masks, strict=True
    ):
        heard = naive_layer(attention, y, sound.flatten(0, 1)) * mask[None, :, None]
        x = x + heard @ convolution.weight[:, :, 0, 0].T + convolution.bias
    x = x + block.ff(block.norm3(x))
    torch.testing.assert_close(out, x)


def test_a_transformer_keeps_places_where_they_are() -> None:
    spot = Spot("down_blocks.0.0", 0, WIDTH, WIDTH, WIDTH)
    layer = SpatialTransformer(spot, small_config(), True, F64)
    randomise(layer, scale=1.0)
    hidden = draw(FRAMES, WIDTH, 2, 3)
    out = layer(hidden, SpatialInputs(num_frames=FRAMES))
    # Without positions a transposed picture gives the transposed answer.
    flipped = layer(hidden.transpose(-1, -2), SpatialInputs(num_frames=FRAMES))
    torch.testing.assert_close(flipped.transpose(-1, -2), out)
    assert out.shape == hidden.shape


def test_features_are_the_input_of_self_attention() -> None:
    spot = Spot("down_blocks.0.0", 0, WIDTH, WIDTH, WIDTH)
    layer = SpatialTransformer(spot, small_config(), False, F64)
    randomise(layer, scale=1.0)
    tokens = layer.enter(draw(1, WIDTH, 2, 2))
    expected = layer.transformer_blocks[0].norm1(tokens)
    torch.testing.assert_close(layer.features(tokens), expected)
