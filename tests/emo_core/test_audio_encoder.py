"""Audio encoders: configuration, names of weights, loading published files, refusals."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from emo_core.audio import encode_sound
from emo_core.audio_encoder import (
    AudioEncoderConfig,
    build_audio_encoder,
    tiny_encoder,
    tiny_logmel,
    tiny_wav2vec2,
)
from emo_core.logmel import log_mel, mel_filterbank
from emo_core.presets import tiny
from emo_core.wav2vec import Wav2Vec2Encoder, load_wav2vec2

SETTINGS = {
    "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
    "conv_dim": [8, 8, 8, 8, 8, 8, 8], "feat_extract_norm": "group",
}  # fmt: skip


@pytest.fixture
def published():
    torch.manual_seed(0)
    return Wav2Vec2Encoder(SETTINGS, "before", True)


@pytest.mark.parametrize("config", [tiny_logmel(), tiny_wav2vec2()], ids=["logmel", "wav2vec2"])
def test_configurations_survive_json_and_fit_the_shipped_file(config):
    assert AudioEncoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    encoder = build_audio_encoder(config, dtype=torch.float16, device="meta")
    assert (encoder.num_layers, encoder.width) == (4, 128)
    assert sum(p.numel() for p in encoder.parameters()) < 1_000_000
    assert {p.dtype for p in encoder.parameters()} == {torch.float16}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "whisper"}, "kind must be"),
        ({"alignment": "before"}, "alignment after"),
        ({"settings": {"dilations": [1]}}, "one dilation per block"),
        ({"settings": {}}, "not an audio encoder's"),
        ({"colour": "red"}, "not an audio encoder's"),
    ],
)
def test_wrong_configurations_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        AudioEncoderConfig.from_dict({**tiny_logmel().to_dict(), **changes})


@pytest.mark.parametrize("alignment", ["before", "after"])
def test_the_configuration_says_which_encoder_is_trained(alignment):
    audio = tiny().audio
    assert tiny_encoder(audio) == tiny_logmel()
    heard = tiny_encoder(replace(audio, encoder="wav2vec2", alignment=alignment))
    assert heard == replace(tiny_wav2vec2(), alignment=alignment)
    with pytest.raises(ValueError, match=r"logmel of 4 layers of 64.*is logmel of 4 layers of 128"):
        tiny_encoder(replace(audio, layer_width=64))


def test_an_unknown_alignment_is_refused():
    with pytest.raises(ValueError, match="before or after"):
        Wav2Vec2Encoder(SETTINGS, "beside", True)


def test_leaf_layers_come_from_the_hosts_namespace():
    class Operations:
        made: list[str] = []  # noqa: RUF012

        def __getattr__(self, name):
            self.made.append(name)
            return getattr(nn, name)

    build_audio_encoder(tiny_logmel(), Operations())
    assert Operations.made.count("Conv1d") == 10
    assert Operations.made.count("LayerNorm") == 4


def test_mel_bands_are_triangles_on_htks_scale():
    bank = mel_filterbank()
    assert bank.shape == (64, 257)
    assert float(bank.sum(1).min()) > 0
    peaks = bank.argmax(1) * 31.25
    assert float(peaks[0]) < 110
    assert 6900 < float(peaks[-1]) < 7600


def test_a_tone_lights_its_band_and_silence_is_finite():
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(1600) / 16000)
    mel = log_mel(torch.stack([tone, 0 * tone]))
    assert mel.shape == (2, 64, 11)
    assert int(mel[0, :, 5].argmax()) == int(mel_filterbank()[:, 32].argmax())
    assert -2.6 < float(mel[1].max()) < -2.4


def test_encoders_do_not_change_between_training_and_use(published):
    sound = torch.randn(1, 16000)
    outputs = [published.train(mode)(sound.clone(), lambda rows: rows) for mode in (True, False)]
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("prefix", ["", "wav2vec2."])
@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_published_weights_load_in_every_layout(published, tmp_path, prefix, with_config, name):
    renames = {"parametrizations.weight.original0": "weight_g",
               "parametrizations.weight.original1": "weight_v"}  # fmt: skip
    state = {}
    for key, value in published.wav2vec2.state_dict().items():
        for new, old in renames.items():
            key = key.replace(new, old)
        state[prefix + key] = value.clone()
    state["lm_head.weight"] = torch.zeros(3)
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    if with_config:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "wav2vec2", **SETTINGS}))
        loaded = load_wav2vec2(tmp_path)
    else:
        loaded = load_wav2vec2(tmp_path / name)
    sound = 0.1 * torch.randn(16000)
    wanted = encode_sound(published.requires_grad_(False), sound, 25, 25).features
    assert torch.equal(encode_sound(loaded, sound, 25, 25).features, wanted)


def test_missing_foreign_and_broken_files_are_refused(published, tmp_path):
    with pytest.raises(FileNotFoundError, match="no wav2vec2 weights at"):
        load_wav2vec2(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"not a file of tensors")
    with pytest.raises(ValueError, match=r"not a whole \.safetensors file"):
        load_wav2vec2(tmp_path)
    save_file({"conv_in.weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="unknown origin and not a wav2vec2; give"):
        load_wav2vec2(file)
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS))
    with pytest.raises(ValueError, match="lacks"):
        load_wav2vec2(file)
    save_file({k: v.clone() for k, v in published.wav2vec2.state_dict().items()}, file)
    (tmp_path / "config.json").write_text(json.dumps({**SETTINGS, "intermediate_size": 24}))
    with pytest.raises(ValueError, match=r"does not fit its config\.json: .* expected \(24"):
        load_wav2vec2(file)
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(ValueError, match="does not describe"):
        load_wav2vec2(file)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        load_wav2vec2(file)


def test_a_list_of_tensors_is_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no tensors by name"):
        load_wav2vec2(tmp_path)


class _Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


def test_a_pickle_that_runs_code_is_refused_and_nothing_of_it_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": _Bomb()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="could run code; it was refused and nothing of it ran"):
        load_wav2vec2(tmp_path / "pytorch_model.bin")
    assert not (tmp_path / "exploded").exists()
