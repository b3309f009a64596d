"""The small audio encoder learns what it is asked, repeatably, and its file can be read again."""

import json

import pytest
import torch

from emo_core.audio import encode_sound
from emo_core.audio_encoder import AudioEncoderConfig
from emo_core.training.hearing_damage import Damage, damage_sound, warp_bands
from emo_core.training.listening import (
    TARGETS,
    ListeningPlan,
    draw_batch,
    join,
    load_listening,
    measure_listening,
    pearson,
    save_listening,
    train_listening,
    truth,
)
from emo_core.training.phones import PHONES, mouth_track
from emo_core.training.voices import Utterance

TONES = {"AA": 300.0, "IY": 2400.0, "S": 5000.0, "M": 120.0}
LOGMEL = AudioEncoderConfig("logmel", 2, 24, "after", False, {"dilations": [1, 2]})
WAV2VEC = AudioEncoderConfig(
    "wav2vec2", 1, 16, "after", False,
    {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
     "conv_dim": [8] * 7, "feat_extract_norm": "layer", "do_stable_layer_norm": True,
     "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2},
)  # fmt: skip


def babble(seed: int, count: int = 12) -> Utterance:
    """A toy voice that says every phone with a tone of its own."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randint(len(TONES), (count,), generator=generator).tolist()
    names = [list(TONES)[i] for i in order]
    time = torch.arange(3200) / 16000
    sound = torch.cat([0.2 * torch.sin(2 * torch.pi * TONES[name] * time) for name in names])
    phones = tuple((0.2 * i, 0.2 * (i + 1), name) for i, name in enumerate(names))
    return Utterance(sound, phones, "toy", "", "speech")


def plan(config: AudioEncoderConfig, steps: int) -> ListeningPlan:
    """A short training."""
    return ListeningPlan(config, steps, 0, 8, (2, 4), 4e-3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A toy encoder, its heads, its log."""
    log = tmp_path_factory.mktemp("listening") / "log.jsonl"
    voices = [babble(seed) for seed in range(6)]
    encoder, heads, last = train_listening(voices, plan(LOGMEL, 120), log, log_every=40)
    return encoder, heads, last, [json.loads(line) for line in log.read_text().splitlines()]


def test_the_encoder_learns_to_hear_mouths(trained):
    encoder, heads, last, lines = trained
    report = measure_listening(encoder, heads, [babble(100), babble(101)])
    assert report["open"] > 0.8
    assert report["phones"] > 0.45
    assert set(TARGETS) < set(report)
    assert [line["step"] for line in lines] == [40, 80, 120]
    assert lines[-1] == last
    assert lines[-1]["loss"] < lines[0]["loss"]


@pytest.mark.parametrize("config", [LOGMEL, WAV2VEC], ids=["logmel", "wav2vec2"])
def test_the_same_seed_trains_the_same_encoder(config):
    first, again = (train_listening([babble(0)], plan(config, 2))[0] for _ in range(2))
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_file_holds_weights_config_and_report(trained, tmp_path):
    encoder = trained[0]
    save_listening(tmp_path / "a.safetensors", encoder, plan(LOGMEL, 120), {"open": 0.9})
    loaded, config = load_listening(tmp_path / "a.safetensors")
    assert config == LOGMEL
    sound = babble(7).waveform
    heard = [encode_sound(one, sound, 60, 25).features for one in (encoder, loaded)]
    assert torch.equal(*heard)


def test_a_foreign_file_and_an_empty_list_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="holds no audio encoder"):
        load_listening(tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="at least one utterance"):
        join([])


def test_every_second_row_tells_the_middle_of_a_frame():
    utterance = babble(3)
    targets, phones = truth(utterance, 120)
    torch.testing.assert_close(
        targets[::2, :4], mouth_track(utterance.phones, 60), atol=0.02, rtol=0
    )
    assert PHONES[int(phones[5])] == utterance.phones[0][2]
    assert PHONES[int(phones[15])] == utterance.phones[1][2]


def test_crops_keep_sound_and_truth_together():
    stream = join([babble(seed, 30) for seed in range(3)])
    assert stream.sound.shape[0] == 320 * stream.phones.shape[0]
    assert stream.starts[-1] == stream.phones.shape[0]
    generator = torch.Generator().manual_seed(0)
    sound, asked, said = draw_batch(stream, 4, 3, generator)
    assert sound.shape == (4, 48000)
    assert asked.shape == (4, 150, len(TARGETS))
    for crop, names in zip(sound, said, strict=True):
        for row in (40, 75, 110):
            name = PHONES[int(names[row])]
            if len(set(names[row - 4 : row + 5].tolist())) > 1 or name == "PAU":
                continue
            piece = crop[(row - 3) * 320 : (row + 3) * 320] * torch.hann_window(1920)
            tone = float(torch.fft.rfft(piece, 16000).abs()[60:].argmax()) + 60
            assert TONES[name] * 0.8 < tone < TONES[name] * 1.25


def test_damage_stays_in_range_and_can_be_nothing():
    generator = torch.Generator().manual_seed(0)
    sound = 0.2 * torch.randn(3, 16000, generator=generator)
    drawn = Damage.draw(3, generator)
    heard = damage_sound(sound, drawn, generator)
    assert heard.shape == sound.shape
    assert float(heard.abs().max()) <= 1
    zero = torch.zeros(3)
    nothing = Damage(zero + 1, zero, torch.zeros(3, 10), zero - 200, zero, zero)
    heard = damage_sound(sound, nothing, generator)
    torch.testing.assert_close(heard, sound, atol=1e-5, rtol=0)


def test_warping_bands_moves_them_and_one_leaves_them():
    mel = torch.randn(2, 64, 5)
    torch.testing.assert_close(warp_bands(mel, torch.ones(2)), mel)
    ramp = torch.arange(64.0)[None, :, None]
    torch.testing.assert_close(warp_bands(ramp, torch.tensor([0.5])), ramp / 2)


def test_correlation_of_a_still_track_is_zero():
    track = torch.linspace(0, 1, 9)
    assert pearson(track, track) == pytest.approx(1)
    assert pearson(track, torch.zeros(9)) == 0
