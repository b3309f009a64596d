"""LoadAudioEmbedding as people use it: any AUDIO, cut to its film, heard by the right encoder."""

from importlib import import_module

import pytest
import torch

RATE = 16000


def tone(seconds, rate=RATE, channels=1, seed=0):
    torch.manual_seed(seed)
    time = torch.arange(round(seconds * rate)) / rate
    beat = 0.5 + 0.5 * torch.sin(2 * torch.pi * 3 * time)
    waves = [0.3 * beat * torch.sin(2 * torch.pi * (180 + 70 * c) * time) for c in range(channels)]
    return {"waveform": torch.stack(waves)[None], "sample_rate": rate}


@pytest.fixture
def node(pack):
    return import_module(f"{pack.__name__}.sound").LoadAudioEmbedding


@pytest.fixture
def hear(node, run):
    return lambda audio, **inputs: run(node, audio=audio, **inputs)


def test_the_sockets_are_what_saved_workflows_count_on(node):
    schema = node.define_schema()
    assert (schema.node_id, schema.category) == ("LoadAudioEmbedding", "EMO/audio")
    assert [i.id for i in schema.inputs] == [
        "audio", "model", "encoder", "audio_encoder", "audio_encoder_output", "alignment", "fps",
        "start", "duration",
    ]  # fmt: skip
    assert [i.id for i in schema.inputs if i.optional] == [
        "model", "audio_encoder", "audio_encoder_output"
    ]  # fmt: skip
    assert [(o.display_name, o.io_type) for o in schema.outputs] == [
        ("audio embedding", "EMO_AUDIO"), ("audio", "AUDIO"), ("frames", "INT"), ("fps", "FLOAT"),
    ]  # fmt: skip
    schema.validate()
    assert all(each.tooltip.endswith(".") for each in [*schema.inputs, *schema.outputs])


def test_without_a_model_emo_tinys_encoder_hears_at_25_fps(hear):
    embedding, _, frames, fps = hear(tone(0.5))
    assert (frames, fps, embedding["fps"]) == (13, 25.0, 25.0)
    assert embedding["features"].shape == (13, 4, 128)
    assert (embedding["encoder"], embedding["alignment"]) == ("logmel-4x128", "after")
    assert embedding["features"].dtype == torch.float32
    assert float(embedding["features"].std()) > 0


def test_a_model_hears_with_its_own_encoder_and_the_result_fits_it(hear, pack, model_and_vae):
    model, _ = model_and_vae
    embedding, _, frames, fps = hear(tone(0.41), model=model)
    config = import_module(f"{pack.__name__}.host").parts_of(model).config
    assert (frames, fps) == (11, float(config.frame_rate))
    sockets = import_module(f"{pack.__name__}.sockets")
    assert sockets.unpack_audio(embedding, config, "logmel-2x8").shape == (11, 2, 8)


def test_a_model_refuses_what_it_was_not_trained_with(hear, model_and_vae):
    model, _ = model_and_vae
    with pytest.raises(ValueError, match="fps is 30, and smallest was trained with 25"):
        hear(tone(0.2), model=model, fps=30.0)
    with pytest.raises(ValueError, match="alignment is before the transformer, and smallest was"):
        hear(tone(0.2), model=model, alignment="before the transformer")
    with pytest.raises(ValueError, match=r"logmel-4x128 gives 4 layers of 128, .*choose 'from the"):
        hear(tone(0.2), model=model, encoder="built-in (emo-tiny)")


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_any_rate_gives_the_film_its_frames_and_the_sound_as_it_was(hear, rate):
    audio = tone(1.0, rate, channels=2)
    embedding, out, frames, _ = hear(audio)
    assert frames == len(embedding["features"]) == 25
    assert out["sample_rate"] == rate
    assert torch.equal(out["waveform"], audio["waveform"])


def test_all_rates_hear_about_the_same(hear):
    first, *others = [hear(tone(1.0, rate))[0]["features"] for rate in (16000, 32000, 44100)]
    for other in others:
        assert float((other - first).abs().mean() / first.abs().mean()) < 0.05


def test_many_channels_are_heard_as_their_mean(hear):
    audio = tone(0.4, channels=2)
    mono = {**audio, "waveform": audio["waveform"].mean(1, keepdim=True)}
    assert torch.equal(hear(audio)[0]["features"], hear(mono)[0]["features"])


def test_a_batch_gives_its_first_and_says_so(hear, caplog):
    audio = tone(0.2)
    both = {**audio, "waveform": torch.cat([audio["waveform"], -0.5 * audio["waveform"]])}
    embedding, out, *_ = hear(both)
    assert torch.equal(embedding["features"], hear(audio)[0]["features"])
    assert out["waveform"].shape == (1, 1, 3200)
    assert "batch of 2 recordings" in caplog.text


@pytest.mark.parametrize(("duration", "samples", "frames"), [(0.28, 12348, 7), (0.29, 12789, 8)])
def test_start_and_duration_are_exact_to_the_sample(hear, duration, samples, frames):
    audio = tone(2.0, 44100)
    embedding, out, count, _ = hear(audio, start=0.5, duration=duration)
    assert torch.equal(out["waveform"], audio["waveform"][..., 22050 : 22050 + samples])
    assert count == len(embedding["features"]) == frames


def test_a_part_is_heard_like_a_recording_of_that_part(hear):
    audio = tone(1.0)
    part = {**audio, "waveform": audio["waveform"][..., 4000:12000]}
    cut = hear(audio, start=0.25, duration=0.5)
    assert torch.equal(cut[0]["features"], hear(part)[0]["features"])


def test_what_comes_later_changes_no_earlier_window(hear):
    audio = tone(24.0)
    changed = {**audio, "waveform": audio["waveform"].clone()}
    changed["waveform"][..., 23 * RATE :] = 0
    before, after = hear(audio)[0]["features"], hear(changed)[0]["features"]
    assert torch.equal(before[: 20 * 25], after[: 20 * 25])
    assert not torch.equal(before, after)


def test_frame_rates_are_kept(hear):
    embedding, _, frames, fps = hear(tone(1.0), fps=29.97)
    assert (frames, len(embedding["features"])) == (30, 30)
    assert fps == embedding["fps"] == pytest.approx(29.97)
    assert hear(tone(1001 / 1000, 16000), fps=30000 / 1001)[2] == 30


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (None, "there is no audio"),
        ("a name", "a str without waveform"),
        ({"waveform": None, "sample_rate": 16000}, "must be .batch, channels, samples., got None"),
        ({"waveform": torch.zeros(1, 1, 1, 9), "sample_rate": 16000}, "got .1, 1, 1, 9."),
        ({"waveform": torch.zeros(1, 2, 0), "sample_rate": 16000}, "empty"),
        ({"waveform": torch.zeros(0, 1, 9), "sample_rate": 16000}, "empty"),
        ({"waveform": torch.full((1, 1, 900), torch.nan), "sample_rate": 16000}, "NaN"),
        ({"waveform": torch.zeros(1, 1, 9, dtype=torch.int16), "sample_rate": 16000}, "int16"),
        ({"waveform": torch.zeros(1, 1, 9), "sample_rate": 0}, "above 0, got 0"),
        ({"waveform": torch.zeros(1, 1, 9), "sample_rate": float("nan")}, "above 0, got nan"),
        ({"waveform": torch.zeros(1, 1, 9), "sample_rate": "16000"}, "above 0, got '16000'"),
    ],
)
def test_what_is_no_sound_is_refused_with_a_sentence(hear, audio, words):
    with pytest.raises(ValueError, match=words):
        hear(audio)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5), (5,)])
def test_the_shortest_sounds_and_lesser_shapes_are_heard(hear, shape):
    embedding, out, frames, _ = hear({"waveform": torch.ones(shape), "sample_rate": 16000})
    assert (frames, len(embedding["features"])) == (1, 1)
    assert out["waveform"].shape == (1, 1, shape[-1])
    assert bool(torch.isfinite(embedding["features"]).all())


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"fps": 0.5}, "fps must be 0"),
        ({"fps": 121.0}, "fps must be 0"),
        ({"fps": float("nan")}, "fps must be 0"),
        ({"start": -0.1}, "start must be 0 or more"),
        ({"start": float("inf")}, "start must be 0 or more"),
        ({"duration": -1.0}, "duration must be 0"),
        ({"duration": float("nan")}, "duration must be 0"),
    ],
)
def test_impossible_numbers_are_refused(hear, numbers, words):
    with pytest.raises(ValueError, match=words):
        hear(tone(0.2), **numbers)


def test_lost_files_pass_the_hosts_check_of_the_list(node):
    assert node.validate_inputs(encoder="gone.safetensors") is True


def test_a_start_behind_the_end_says_how_long_the_sound_is(hear):
    with pytest.raises(ValueError, match=r"before the end of the sound \(0\.20 s\)"):
        hear(tone(0.2), start=0.3)


def test_without_librosa_other_rates_say_what_to_install(hear, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "soxr", None)
    assert hear(tone(0.2))[2] == 5
    with pytest.raises(ValueError, match=r"44100 Hz to 16000 Hz needs .*pip install librosa"):
        hear(tone(0.2, 44100))


def test_a_request_to_stop_is_heard(hear, pack):
    import comfy.model_management as management

    management.interrupt_current_processing()
    with pytest.raises(management.InterruptProcessingException):
        hear(tone(0.2))
    assert hear(tone(0.2))[2] == 5
