"""Which encoder hears: files, core's AUDIO_ENCODER and its finished layers, on the same weights."""

import json
from dataclasses import replace
from fractions import Fraction
from importlib import import_module

import pytest
import torch
from safetensors.torch import save_file

from emo_core.audio import encode_sound
from emo_core.wav2vec import Wav2Vec2Encoder

RATE = 16000
BEFORE, AFTER = "before the transformer", "after the transformer"
# Core's wav2vec2 has convolutions of 512 at every size; the rest is as small as it goes.
SETTINGS = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 256,
    "conv_dim": [512] * 7, "feat_extract_norm": "group", "conv_bias": False,
    "do_stable_layer_norm": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def sound():
    torch.manual_seed(0)
    time = torch.arange(RATE) / RATE
    wave = 0.2 * torch.sin(2 * torch.pi * 200 * time) * torch.sin(2 * torch.pi * 2 * time)
    return wave + 0.01 * torch.randn(RATE) + 0.05


@pytest.fixture(scope="module")
def audio(sound):
    return {"waveform": sound[None, None], "sample_rate": RATE}


@pytest.fixture(scope="module")
def published():
    """A wav2vec2 of transformers, as tensors by its names.

    Core keeps weights in half precision and computes in float32; these survive that unchanged.
    """
    torch.manual_seed(1)
    encoder = Wav2Vec2Encoder(SETTINGS, "before", True)
    return {name: value.half().float() for name, value in encoder.wav2vec2.state_dict().items()}


@pytest.fixture(scope="module")
def wanted(published, sound):
    """What our own wav2vec2 hears in the sound at 25 fps, by alignment."""
    heard = {}
    for alignment in ("before", "after"):
        encoder = Wav2Vec2Encoder(SETTINGS, alignment, True)
        encoder.wav2vec2.load_state_dict(published)
        heard[alignment] = encode_sound(encoder, sound, 25, 25).features
    assert float((heard["before"] - heard["after"]).abs().max()) > 0.01
    return heard


@pytest.fixture
def audio_encoder(pack, published):
    """Core's object around the same weights, which it takes by the same names."""
    from comfy.audio_encoders.audio_encoders import AudioEncoderModel

    made = AudioEncoderModel({
        "model_type": "wav2vec2", "embed_dim": 64, "num_heads": 1, "num_layers": 2,
        "conv_norm": False, "conv_bias": False, "do_normalize": False,
        "do_stable_layer_norm": False,
    })  # fmt: skip
    missing, unexpected = made.load_sd(published)
    assert not missing
    assert not unexpected
    return made


@pytest.fixture
def folder(pack, tmp_path, monkeypatch):
    """The host's folder of audio encoders."""
    import folder_paths

    paths = ([str(tmp_path)], folder_paths.supported_pt_extensions)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "audio_encoders", paths)
    monkeypatch.delitem(folder_paths.filename_list_cache, "audio_encoders", raising=False)
    yield tmp_path
    folder_paths.filename_list_cache.pop("audio_encoders", None)


@pytest.fixture
def node(pack):
    return import_module(f"{pack.__name__}.sound").LoadAudioEmbedding


@pytest.fixture
def hear(node, run, audio):
    return lambda **inputs: run(node, **{"audio": audio, **inputs})[0]


@pytest.fixture
def hearing(pack):
    return import_module(f"{pack.__name__}.hearing")


@pytest.fixture
def bare(pack, model_and_vae):
    """Parts of a model that brings no encoder and hears two layers of 64, before."""
    parts = import_module(f"{pack.__name__}.host").parts_of(model_and_vae[0])
    config = parts.config
    heard = replace(
        config.audio, encoder="wav2vec2", num_layers=2, layer_width=64, alignment="before"
    )
    return replace(parts, config=replace(config, audio=heard), hearing=None)


@pytest.mark.parametrize(("choice", "alignment"), [(BEFORE, "before"), (AFTER, "after")])
def test_cores_encoder_hears_what_ours_hears_with_the_same_weights(
    hear, audio_encoder, wanted, choice, alignment
):
    heard = hear(audio_encoder=audio_encoder, alignment=choice)
    assert (heard["alignment"], heard["encoder"]) == (alignment, "wav2vec2-2x64")
    torch.testing.assert_close(heard["features"], wanted[alignment], rtol=0, atol=1e-4)


def test_windows_of_cores_encoder_do_not_hear_what_comes_later(hear, audio_encoder, sound):
    long = sound.repeat(24)
    changed = torch.cat([long[: 23 * RATE], torch.zeros(RATE)])
    first, second = (
        hear(audio={"waveform": each[None, None], "sample_rate": RATE}, fps=2.0,
             audio_encoder=audio_encoder)["features"]
        for each in (long, changed)
    )  # fmt: skip
    assert first.shape == (48, 2, 64)
    assert torch.equal(first[:40], second[:40])
    assert not torch.equal(first, second)


@pytest.mark.parametrize("prefix", ["", "wav2vec2."])
@pytest.mark.parametrize("with_config", [True, False])
def test_a_file_of_the_folder_hears_in_either_layout(
    node, hear, folder, published, wanted, prefix, with_config
):
    place = folder / "base"
    place.mkdir()
    save_file({prefix + k: v for k, v in published.items()}, place / "model.safetensors")
    (folder / "pickle.bin").write_bytes(b"")
    if with_config:
        (place / "config.json").write_text(json.dumps({"model_type": "wav2vec2", **SETTINGS}))
    options = next(i for i in node.define_schema().inputs if i.id == "encoder").options
    assert options == ["from the model", "built-in (emo-tiny)", "base/model.safetensors"]
    for choice, alignment in ((BEFORE, "before"), (AFTER, "after"), ("automatic", "before")):
        heard = hear(encoder=options[2], alignment=choice)
        assert heard["alignment"] == alignment
        torch.testing.assert_close(heard["features"], wanted[alignment], rtol=0, atol=1e-5)


def test_a_lost_file_names_the_folder(hear, folder):
    with pytest.raises(FileNotFoundError) as caught:
        hear(encoder="gone.safetensors")
    assert str(folder) in str(caught.value)
    assert "facebook/wav2vec2-base-960h" in str(caught.value)


def test_a_pickle_in_the_folder_is_not_taken(hear, folder):
    torch.save({}, folder / "pickle.bin")
    with pytest.raises(FileNotFoundError, match=r"no audio encoder pickle\.bin"):
        hear(encoder="pickle.bin")


def test_a_file_of_something_else_is_refused(hear, folder):
    save_file({"conv_in.weight": torch.zeros(1)}, folder / "vae.safetensors")
    with pytest.raises(ValueError, match="unknown origin and not a wav2vec2; give"):
        hear(encoder="vae.safetensors")


def test_without_transformers_a_file_says_what_to_install(hear, folder, published, monkeypatch):
    save_file(published, folder / "base.safetensors")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match="needs transformers: pip install transformers"):
        hear(encoder="base.safetensors")


def encoded(audio_encoder, sound, rate=RATE):
    """What core's AudioEncoderEncode gives for the sound, normalised beforehand."""
    normal = (sound - sound.mean()) / torch.sqrt(sound.var(correction=0) + 1e-7)
    with torch.no_grad():
        return audio_encoder.encode_audio(normal[None, None], rate)


def test_finished_layers_give_what_hearing_again_after_the_transformer_gives(
    hear, audio_encoder, sound
):
    finished = hear(audio_encoder_output=encoded(audio_encoder, sound))
    heard = hear(audio_encoder=audio_encoder, alignment=AFTER)
    assert (finished["alignment"], finished["encoder"]) == ("after", "wav2vec2-2x64")
    # Core does not pad the end, so its last row is held where ours hears silence.
    torch.testing.assert_close(
        finished["features"][:24], heard["features"][:24], rtol=0, atol=1e-4
    )


def test_finished_layers_follow_start_and_duration(hear, audio_encoder, sound):
    output = encoded(audio_encoder, sound)
    whole = hear(audio_encoder_output=output)["features"]
    part = hear(audio_encoder_output=output, start=0.4, duration=0.2)["features"]
    torch.testing.assert_close(part, whole[10:15], rtol=0, atol=1e-6)


def test_finished_layers_of_another_recording_are_refused(hear, audio_encoder, sound):
    output = encoded(audio_encoder, sound[:8000])
    with pytest.raises(ValueError, match=r"has 24 rows, and the audio of 1\.00 s gives 49"):
        hear(audio_encoder_output=output)


def test_finished_layers_cannot_be_aligned_before(hear, audio_encoder, sound):
    output = encoded(audio_encoder, sound)
    with pytest.raises(ValueError, match=r"alignment asks .* to audio_encoder instead"):
        hear(audio_encoder_output=output, alignment=BEFORE)


@pytest.mark.parametrize(
    "output",
    [7, {}, {"encoded_audio_all_layers": (torch.zeros(1, 49, 8),)},
     {"encoded_audio_all_layers": (torch.zeros(1, 49, 8), torch.zeros(1, 48, 8))}],
)  # fmt: skip
def test_what_holds_no_layers_is_refused(hear, output):
    with pytest.raises(ValueError, match="holds no layers of a transformer"):
        hear(audio_encoder_output=output)


def test_only_one_connected_source_is_taken_and_goes_before_the_choice(
    hear, audio_encoder, sound, caplog
):
    with pytest.raises(ValueError, match="both connected"):
        hear(audio_encoder=audio_encoder, audio_encoder_output=encoded(audio_encoder, sound))
    heard = hear(audio_encoder=audio_encoder, encoder="built-in (emo-tiny)")
    assert heard["encoder"] == "wav2vec2-2x64"
    assert "'built-in (emo-tiny)' is not used" in caplog.text


@pytest.mark.parametrize("wrong", [7, torch.nn.Linear(1, 1)])
def test_what_is_no_wav2vec2_of_core_is_refused(hear, wrong):
    with pytest.raises(ValueError, match=f"AUDIO_ENCODER holds {type(wrong).__name__}"):
        hear(audio_encoder=wrong)


def test_the_built_in_encoder_has_one_alignment(hear):
    assert hear(alignment=AFTER)["alignment"] == "after"
    with pytest.raises(ValueError, match="logmel-4x128 was trained with after"):
        hear(alignment=BEFORE)
    with pytest.raises(ValueError, match="alignment must be one of"):
        hear(alignment="beside")


def test_a_model_without_an_encoder_says_what_to_connect_and_where_files_go(
    hearing, bare, folder
):
    with pytest.raises(ValueError, match=r"smallest brings no audio encoder") as caught:
        hearing.choose_hearing(bare, "from the model", None, "before")
    assert "connect AUDIO_ENCODER" in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_model_without_an_encoder_takes_any_of_its_shape(hearing, bare, audio_encoder, sound):
    alignment = hearing.find_alignment("automatic", bare.config)
    chosen = hearing.choose_hearing(bare, "from the model", audio_encoder, alignment)
    heard = hearing.listen(chosen, sound, 25, Fraction(25), "grid")
    assert heard.alignment == chosen.encoder.alignment == "before"
    small = replace(bare.config, audio=replace(bare.config.audio, num_layers=12, layer_width=768))
    with pytest.raises(ValueError, match=r"2 layers of 64.*12 layers of 768; load a wav2vec2"):
        hearing.choose_hearing(replace(bare, config=small), "x", audio_encoder, alignment)


def test_published_windows_give_the_film_all_its_frames(hearing, audio_encoder, sound):
    chosen = hearing.choose_hearing(None, "from the model", audio_encoder, "before")
    heard = hearing.listen(chosen, sound[:15999], 26, Fraction(25), "whole_file")
    assert len(heard.features) == 26
    assert torch.equal(heard.features[25], heard.features[24])


def test_another_encoder_of_the_models_shape_is_taken_with_a_warning(
    hearing, model_and_vae, pack, caplog
):
    parts = import_module(f"{pack.__name__}.host").parts_of(model_and_vae[0])
    hearing.check_fits(parts, 2, 8, "logmel-2x8")
    assert "brings its own audio encoder" in caplog.text
