"""The small audio encoder learns what it is asked, repeatably, and its file can be read again."""

import json

import pytest
import torch

from emo_core.audio import encode_sound
from emo_core.audio_encoder import AudioEncoderConfig
from emo_core.training.hearing_damage import Damage, damage_sound, warp_bands
from emo_core.training.listening import (
    ListeningPlan,
    ListeningStage,
    load_listening,
    measure_listening,
    save_listening,
)
from emo_core.training.listening_data import TARGETS, draw_batch, heard_truth, join_stream
from emo_core.training.phones import PHONES, mouth_track
from emo_core.training.train_settings import TrainSettings
from emo_core.training.trainer import Trainer
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


def train(folder, config, steps, voices):
    """A short training of 8 s of sound a step."""
    stage = ListeningStage(voices, ListeningPlan(config, 0, 8, (2, 4)))
    settings = TrainSettings(
        folder, steps=steps, schedule_steps=120, learning_rate=4e-3, floor=0.0, warm_up=40,
        ema_decay=0.0, log_every=40,
    )  # fmt: skip
    Trainer(stage, settings).run()
    return stage


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A toy encoder, its heads, its log."""
    folder = tmp_path_factory.mktemp("listening")
    stage = train(folder, LOGMEL, 120, [babble(seed) for seed in range(6)])
    log = (folder / "listening.jsonl").read_text().splitlines()
    return stage, [json.loads(line) for line in log]


def test_the_encoder_learns_to_hear_mouths(trained):
    stage, lines = trained
    report = measure_listening(stage.encoder, stage.heads, [babble(100), babble(101)])
    assert report["open"] > 0.8
    assert report["phones"] > 0.45
    assert set(TARGETS) < set(report)
    assert [line["step"] for line in lines] == [40, 80, 120]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert {"phones", "mse_open", "mse_width"} < set(lines[0])


@pytest.mark.parametrize("config", [LOGMEL, WAV2VEC], ids=["logmel", "wav2vec2"])
def test_a_training_that_was_stopped_goes_on_as_if_it_was_not(config, tmp_path):
    whole = train(tmp_path / "a", config, 2, [babble(0)])
    train(tmp_path / "b", config, 1, [babble(0)])
    resumed = train(tmp_path / "b", config, 2, [babble(0)])
    for name, value in whole.modules.state_dict().items():
        assert torch.equal(value, resumed.modules.state_dict()[name]), name


def test_the_file_holds_weights_config_and_report(trained, tmp_path):
    stage = trained[0]
    encoder = stage.encoder
    save_listening(tmp_path / "a.safetensors", encoder, stage.plan, {"open": 0.9}, {"more": "x"})
    loaded, config = load_listening(tmp_path / "a.safetensors")
    assert config == LOGMEL
    sound = babble(7).waveform
    with torch.no_grad():
        heard = [encode_sound(one, sound, 60, 25).features for one in (encoder, loaded)]
    assert torch.equal(*heard)


def test_a_foreign_file_and_an_empty_list_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="holds no audio encoder"):
        load_listening(tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="at least one utterance"):
        join_stream([])


def test_every_second_row_tells_the_middle_of_a_frame():
    utterance = babble(3)
    targets, phones = heard_truth(utterance, 120)
    torch.testing.assert_close(
        targets[::2, :4], mouth_track(utterance.phones, 60), atol=0.02, rtol=0
    )
    assert PHONES[int(phones[5])] == utterance.phones[0][2]
    assert PHONES[int(phones[15])] == utterance.phones[1][2]


def test_crops_keep_sound_and_truth_together():
    stream = join_stream([babble(seed, 30) for seed in range(3)])
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
