"""Laws of sound: counting frames, cutting, the grid of windows, alignment, tokens."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from emo_core.attention import Build
from emo_core.audio import (
    AudioEncoder,
    encode_sound,
    encode_windows,
    rows_at,
    stretch_rows,
)
from emo_core.audio_encoder import AudioEncoderConfig, build_audio_encoder
from emo_core.audio_tokens import AudioProjection, HalloAudioProjection, window_features
from emo_core.presets import hallo, tiny
from emo_core.waveform import num_frames, to_mono_16k, trim

WAV2VEC = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
    "conv_dim": [8, 8, 8, 8, 8, 8, 8], "feat_extract_norm": "layer", "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
CONFIGS = {
    "logmel": AudioEncoderConfig("logmel", 2, 8, "after", False, {"dilations": [1, 2]}),
    "before": AudioEncoderConfig("wav2vec2", 2, 16, "before", True, WAV2VEC),
    "after": AudioEncoderConfig("wav2vec2", 2, 16, "after", False, WAV2VEC),
}


@pytest.fixture(params=list(CONFIGS))
def encoder(request: pytest.FixtureRequest) -> AudioEncoder:
    torch.manual_seed(0)
    return build_audio_encoder(CONFIGS[request.param]).requires_grad_(False)


def noise(seconds: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(round(seconds * 16000), generator=generator)


@pytest.mark.parametrize(
    ("samples", "rate", "fps", "frames"),
    [
        (1, 16000, 25, 1),
        (4480, 16000, 25, 7),
        (4481, 16000, 25, 8),
        (44100 * 3600, 44100, 25, 90000),
        (48000, 48000, Fraction(30000, 1001), 30),
        (48048, 48000, Fraction(30000, 1001), 30),
    ],
)
def test_frames_are_counted_exactly(samples, rate, fps, frames):
    assert num_frames(samples, rate, fps) == frames


def test_trim_rounds_times_to_samples_first():
    piece = trim(torch.zeros(2, 32000), 16000, 0.1, 0.28)
    assert piece.shape == (2, 4480)
    assert num_frames(piece.shape[1], 16000, 25) == 7
    assert math.ceil(0.28 * 25) == 8  # what floating point would have made of it


def test_trim_takes_the_rest_and_says_when_the_sound_is_shorter(caplog):
    assert trim(torch.zeros(16000), 16000, 0.75, None).shape == (4000,)
    assert not caplog.records
    assert trim(torch.zeros(16000), 16000, 0.75, 9).shape == (4000,)
    assert "8.75 s before" in caplog.text


@pytest.mark.parametrize(
    ("start", "duration", "words"),
    [
        (-1.0, None, "start must be 0"),
        (math.nan, None, "start must be 0"),
        (1.0, None, "before the end of the sound"),
        (0.0, 0.0, "at least one sample"),
        (0.0, -2.0, "at least one sample"),
        (0.0, math.inf, "at least one sample"),
    ],
)
def test_trim_refuses_impossible_pieces(start, duration, words):
    with pytest.raises(ValueError, match=words):
        trim(torch.zeros(16000), 16000, start, duration)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("samples", [1, 2, 777])
def test_resampling_has_the_exact_length(rate, samples):
    mono = to_mono_16k(torch.ones(2, samples), rate)
    assert mono.shape == (-(-samples * 16000 // rate),)
    assert mono.dtype == torch.float32


def test_resampling_keeps_a_tone_and_mixes_channels():
    time = torch.arange(44100) / 44100
    tone = torch.sin(2 * torch.pi * 440 * time)
    mono = to_mono_16k(torch.stack([tone, 0 * tone]), 44100)
    expected = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(16000) / 16000)
    torch.testing.assert_close(mono[200:-200], expected[200:-200], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("waveform", "rate", "words"),
    [
        (torch.zeros(0), 16000, "at least one sample"),
        (torch.zeros(2, 0), 16000, "at least one sample"),
        (torch.zeros(1, 2, 3), 16000, "at least one sample"),
        (torch.tensor([0.0, math.nan]), 16000, "NaN or infinite"),
        (torch.tensor([0.0, math.inf]), 16000, "NaN or infinite"),
        (torch.zeros(3), 0, "sample rate"),
    ],
)
def test_bad_sound_is_refused(waveform, rate, words):
    with pytest.raises(ValueError, match=words):
        to_mono_16k(waveform, rate)


def test_stretching_is_reading_at_even_positions():
    rows = torch.randn(2, 21, 3, dtype=torch.float64)
    even = torch.linspace(0, 20, 8, dtype=torch.float64)
    torch.testing.assert_close(stretch_rows(rows, 8), rows_at(rows, even))
    assert torch.equal(rows_at(rows, torch.tensor([4.0, 99.0])), rows[:, [4, 20]])


def test_frames_take_every_second_row_at_25_fps(encoder):
    sound = noise(2.0)
    if encoder.normalise:
        sound = (sound - sound.mean()) / torch.sqrt(sound.var(correction=0) + 1e-7)
    rows = encoder(sound[None], lambda rows: rows[:, :99:2])[0]
    features = encode_sound(encoder, noise(2.0), 50, 25)
    assert features.features.shape == (50, encoder.num_layers, encoder.width)
    torch.testing.assert_close(features.features, rows, atol=1e-5, rtol=1e-5)


def test_features_before_an_edits_window_are_bit_equal(encoder):
    sound = noise(47.0)
    edited = sound.clone()
    edited[16000 * 43 :] *= -0.3
    before, after = (encode_sound(encoder, s, 1175, 25).features for s in (sound, edited))
    assert torch.equal(before[:1000], after[:1000])
    assert not torch.equal(before[1000:], after[1000:])


def test_an_edit_reaches_two_seconds_back_over_the_joint(encoder):
    sound = noise(45.0)
    edited = sound.clone()
    edited[16000 * 41 : 16000 * 42] = 0
    before, after = (encode_sound(encoder, s, 1125, 25).features for s in (sound, edited))
    assert torch.equal(before[:500], after[:500])


@pytest.mark.parametrize("alignment", ["before", "after"])
def test_the_transformer_hears_the_context(alignment):
    """Nothing but its attention reaches from 41 s back to 39 s: the windows are not normalised."""
    torch.manual_seed(0)
    encoder = build_audio_encoder(replace(CONFIGS[alignment], normalise=False))
    sound = noise(45.0)
    edited = sound.clone()
    edited[16000 * 41 : 16000 * 42] = 0
    before, after = (encode_sound(encoder, s, 1125, 25).features for s in (sound, edited))
    assert torch.equal(before[:500], after[:500])
    assert not torch.equal(before[500:975], after[500:975])


def test_a_longer_sound_leaves_finished_windows_alone(encoder):
    sound = noise(45.0)
    whole = encode_sound(encoder, sound, 1125, 25).features
    part = encode_sound(encoder, sound[: 16000 * 22], 550, 25).features
    assert torch.equal(whole[:500], part[:500])


@pytest.mark.parametrize("rate", [Fraction(24), Fraction(30000, 1001), Fraction(25), Fraction(3)])
def test_windows_cover_every_frame_once(rate):
    encoder = build_audio_encoder(CONFIGS["logmel"])
    frames = num_frames(16000 * 41 + 7, 16000, rate)
    spans = [
        (first, len(heard)) for first, heard in encode_windows(encoder, noise(41.0), frames, rate)
    ]
    assert len(spans) == 3
    assert [first for first, _ in spans] == [math.ceil(20 * k * rate) for k in range(3)]
    assert sum(count for _, count in spans) == frames


def test_the_small_convolutional_encoder_hears_the_same_in_the_grid_and_in_the_whole_file():
    torch.manual_seed(0)
    encoder = build_audio_encoder(CONFIGS["logmel"])
    sound = noise(43.0)
    grid = encode_sound(encoder, sound, 1075, 25).features
    with torch.no_grad():
        whole = encoder(sound[None], lambda rows: rows[:, ::2])[0, :1075]
    torch.testing.assert_close(grid, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("samples", [1, 100, 640, 641])
def test_a_sound_of_one_sample_has_a_frame(encoder, samples):
    frames = num_frames(samples, 16000, 25)
    features = encode_sound(encoder, noise(1.0)[:samples], frames, 25, dtype=torch.float16)
    assert features.features.shape[0] == frames
    assert features.features.dtype == torch.float16
    assert bool(features.features.isfinite().all())


def test_whole_file_pads_to_whole_clips_as_hallo_does(encoder):
    features = encode_sound(encoder, noise(1.0), 25, 25, "whole_file", pad_frames_to=16)
    assert features.features.shape[0] == 32
    assert features.num_frames == 25
    assert encode_sound(encoder, noise(1.28), 32, 25, "whole_file", 16).features.shape[0] == 32


def test_whole_file_is_transformers_own_answer_stretched():
    torch.manual_seed(0)
    base = {**WAV2VEC, "feat_extract_norm": "group", "do_stable_layer_norm": False}
    encoder = build_audio_encoder(AudioEncoderConfig("wav2vec2", 2, 16, "after", False, base))
    sound = noise(1.0)
    with torch.no_grad():
        own = encoder.wav2vec2(sound[None], output_hidden_states=True).hidden_states[1:]
    expected = torch.stack([stretch_rows(states, 25) for states in own], dim=2)[0]
    heard = encode_sound(encoder, sound, 25, 25, "whole_file").features
    torch.testing.assert_close(heard, expected)


def test_pieces_are_encoded_one_by_one():
    encoder = build_audio_encoder(CONFIGS["before"])
    sound = noise(61.0)
    pieces = encode_sound(encoder, sound, 1525, 25, "pieces_60s").features
    first = encode_sound(encoder, sound[: 16000 * 60], 1500, 25, "whole_file").features
    last = encode_sound(encoder, sound[16000 * 60 :], 25, 25, "whole_file").features
    assert torch.equal(pieces, torch.cat([first, last]))


@pytest.mark.parametrize(
    ("waveform", "frames", "rate", "windows", "words"),
    [
        (torch.zeros(0), 1, 25, "grid", "expected a waveform"),
        (torch.zeros(1, 5), 1, 25, "grid", "expected a waveform"),
        (torch.zeros(5), 0, 25, "grid", "expected a waveform"),
        (torch.zeros(5), 1, 0, "grid", "expected a waveform"),
        (torch.zeros(5), 1, 25, "halves", "windows must be"),
        (torch.zeros(5), 1, Fraction(30000, 1001), "pieces_60s", "whole number"),
    ],
)
def test_impossible_requests_are_refused(waveform, frames, rate, windows, words):
    encoder = build_audio_encoder(CONFIGS["logmel"])
    with pytest.raises(ValueError, match=words):
        encode_sound(encoder, waveform, frames, rate, windows)


def test_windows_hold_the_ends():
    features = torch.arange(10.0)[:, None, None]
    got = window_features(features, 8, 4, 2)[..., 0, 0]
    assert got.tolist() == [[6, 7, 8, 9, 9], [7, 8, 9, 9, 9], [8, 9, 9, 9, 9], [9] * 5]
    assert window_features(features, 0, 1, 2)[..., 0, 0].tolist() == [[0, 0, 0, 1, 2]]


def test_emo_projection_makes_one_token_per_frame_of_the_window():
    config = replace(tiny().audio, num_layers=2, layer_width=8, token_width=12)
    projection = AudioProjection(config, Build())
    features = torch.randn(2, 3, 5, 2, 8)
    tokens = projection(features)
    assert tokens.shape == (2, 3, 5, 12)
    changed = features.clone()
    changed[:, :, 1] += 1
    difference = (projection(changed) - tokens).abs().amax(dim=(0, 1, 3))
    assert (difference > 0).tolist() == [False, True, False, False, False]
    same = projection(features[:, :, :1].expand(-1, -1, 5, -1, -1))
    assert not torch.allclose(same[:, :, 0], same[:, :, 1])  # the window's positions tell


def test_hallos_projection_has_its_names_and_shapes():
    projection = HalloAudioProjection(hallo().audio, Build(device="meta"))
    shapes = {name: tuple(value.shape) for name, value in projection.state_dict().items()}
    assert shapes == {
        "proj1.weight": (512, 46080), "proj1.bias": (512,),
        "proj2.weight": (512, 512), "proj2.bias": (512,),
        "proj3.weight": (24576, 512), "proj3.bias": (24576,),
        "norm.weight": (768,), "norm.bias": (768,),
    }  # fmt: skip
    narrow = replace(
        hallo().audio, num_layers=2, layer_width=3, hidden_width=4, num_tokens=6, token_width=5
    )
    small = HalloAudioProjection(narrow, Build())
    assert small(torch.randn(1, 2, 5, 2, 3)).shape == (1, 2, 6, 5)
