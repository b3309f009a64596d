"""EMOSampler and MotionFrameLooper against core's samplers, each other and emo_core alone."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
from small_film import (
    CLIP,
    LATENT,
    MOTION,
    Small,
    heard,
    ksample,
    open_small,
    portrait,
    sampled_as,
    save_model,
    sound,
)

from emo_core.clips import plan_clips
from emo_core.film import Material, film_from
from emo_core.generate import generate
from emo_core.pictures import fit_portrait
from emo_core.sampling import Guidance, make_sampler
from emo_core.speed import speed_curve
from emo_core.weights import load_model


@pytest.fixture(scope="module")
def small(pack: Any, run: Any, tmp_path_factory: Any) -> Small:
    return open_small(pack, run, save_model(tmp_path_factory.mktemp("model") / "a.safetensors"))


@pytest.fixture(scope="module")
def without_vae(pack: Any, run: Any, small: Small, tmp_path_factory: Any) -> Small:
    """A checkpoint that needs a connected VAE, with latents scaled as those of SD 1.5."""
    path = save_model(tmp_path_factory.mktemp("model") / "b.safetensors", vae=None)
    return open_small(pack, run, path, small.vae)


@pytest.fixture(params=["own VAE", "VAE of SD 1.5's scale"])
def either(request: pytest.FixtureRequest, small: Small, without_vae: Small) -> Small:
    return small if request.param == "own VAE" else without_vae


@pytest.fixture(scope="module")
def film(small: Small) -> torch.Tensor:
    """Two clips and a frame."""
    return small.film()[0]


@pytest.mark.parametrize("cfg", [2.0, 1.0])
def test_core_ksampler_gives_the_same_clip(either: Small, cfg: float) -> None:
    clip, motion = either.clip(0, cfg=cfg)
    assert clip.shape == (CLIP, *LATENT) and motion["samples"].shape == (MOTION, *LATENT)
    assert torch.equal(ksample(either.conditioning(0), cfg=cfg), clip)
    second, _ = either.clip(1, cfg=cfg, motion_frames=motion)
    assert torch.equal(ksample(either.conditioning(1, motion_frames=motion), cfg=cfg), second)
    assert float((second - clip).abs().max()) > 0.01


@pytest.mark.parametrize("sampler", ["euler_ancestral", "lcm", "ddim"])
def test_samplers_that_add_noise_give_the_same_clip(small: Small, sampler: str) -> None:
    _, motion = small.clip(0)
    clip, _ = small.clip(1, motion_frames=motion, sampler_name=sampler, steps=3)
    prepared = small.conditioning(1, motion_frames=motion)
    assert torch.equal(ksample(prepared, steps=3, sampler_name=sampler), clip)


def test_sampler_custom_advanced_gives_the_same_clip(small: Small, film: torch.Tensor) -> None:
    core = import_module("comfy_extras.nodes_custom_sampler")
    model, positive, negative, latent, seed, _ = small.conditioning(0)
    (guider,) = core.CFGGuider().get_guider(model, positive, negative, 2.0)
    (noise,) = core.RandomNoise().get_noise(seed)
    (sampler,) = core.KSamplerSelect().get_sampler("euler")
    (sigmas,) = core.BasicScheduler().get_sigmas(model, "simple", 2, 1.0)
    out, _ = core.SamplerCustomAdvanced().sample(noise, guider, sampler, sigmas, latent)
    assert torch.equal(out["samples"], film[:CLIP])


def test_a_chain_of_clips_is_the_looper(either: Small) -> None:
    whole, last = either.film()
    clips, motion = [], None
    for index in range(3):
        clip, motion = either.clip(index, motion_frames=motion)
        clips.append(clip)
    assert [len(clip) for clip in clips] == [CLIP, CLIP, 1]
    assert torch.equal(torch.cat(clips), whole)
    assert torch.equal(motion["samples"], last["samples"])


@pytest.mark.parametrize("frames", [CLIP, CLIP + 1, CLIP + 3])
def test_the_motion_frames_are_the_films_last(either: Small, frames: int) -> None:
    film, motion = either.film(frames=frames)
    assert torch.equal(motion["samples"], film[-MOTION:])


def test_a_film_of_one_frame_has_motion_frames_too(small: Small) -> None:
    film, motion = small.film(frames=1)
    assert len(film) == 1 and motion["samples"].shape == (MOTION, *LATENT)
    assert torch.equal(motion["samples"][0], film[0])


def test_a_short_sound_is_the_beginning_of_a_long_one(small: Small, film: torch.Tensor) -> None:
    audio = small.inputs()["audio_embedding"]
    assert film.shape == (2 * CLIP + 1, *LATENT)
    # A frame hears one frame after it and sees the speed of two.
    cut = {**audio, "features": audio["features"][: CLIP + 2]}
    short, _ = small.film(audio_embedding=cut)
    assert len(short) == CLIP + 2
    assert torch.equal(short[:CLIP], film[:CLIP])


@pytest.mark.parametrize(
    ("schedule", "prediction", "tolerance"),
    [
        # Measured: 4e-6 of the film's standard deviation.
        ("scaled_linear", "epsilon", 2e-5),
        # Measured: 2.3e-4. The host's Euler step subtracts numbers of the size of sigma, which
        # begins at 637, in single precision; in double precision it is 5e-5.
        ("cosine", "v_prediction", 5e-4),
        # Measured: 3.7e-3. The host knows no infinite sigma: it begins at 4518, with 2e-4 signal.
        ("linear_zero_snr", "v_prediction", 8e-3),
    ],
)
def test_the_host_gives_what_emo_core_alone_gives(
    pack: Any, run: Any, tmp_path: Any, schedule: str, prediction: str, tolerance: float
) -> None:
    path = save_model(tmp_path / "model.safetensors", sampled_as(schedule, prediction))
    small, audio = open_small(pack, run, path), sound(CLIP + 2)
    embedding, *_ = run(pack.LoadAudioEmbedding, audio=audio, model=small.model)
    ours, _ = small.film(audio_embedding=embedding, steps=3)
    alone = load_model(path)
    curve = speed_curve([(0.0, 0.2), (0.4, 1.5)], CLIP + 2, 25)
    picture = fit_portrait(portrait()[0].permute(2, 0, 1), 32).picture
    given = film_from(alone, Material(picture, audio["waveform"][0], 16000, None, curve, 5))
    sampler = make_sampler(alone.model.denoising_unet, 3, Guidance(2.0))
    clips = generate(alone.model, given, plan_clips(CLIP + 2, CLIP), sampler)
    theirs = torch.cat(list(clips))
    assert float((ours - theirs).abs().max() / theirs.std()) < tolerance


def test_emo_tiny_gives_what_it_gives_alone(pack: Any, run: Any) -> None:
    """Measured over 15 frames and 6 steps: 2.5e-5 in the latents, which are about 1."""
    load = import_module(f"{pack.__name__}.load")
    image, _ = run(pack.EMOExampleInputs)
    with torch.inference_mode():
        model, vae = load.load(load.model_path(load.BUILT_IN))
        audio = sound(3)
        embedding, *_ = run(pack.LoadAudioEmbedding, audio=audio, model=model)
        reference, _ = run(pack.ReferenceNetEncode, model=model, vae=vae, image=image)
        latent, _ = run(
            pack.MotionFrameLooper, model=model, reference=reference, audio_embedding=embedding,
            seed=3, steps=2,
        )  # fmt: skip
        alone = load_model("emo-tiny")
        picture = fit_portrait(image[0].permute(2, 0, 1), alone.config.picture_size).picture
        given = film_from(alone, Material(picture, audio["waveform"][0], 16000, seed=3))
        guidance = Guidance(alone.config.sampling.guidance_scale)
        sampler = make_sampler(alone.model.denoising_unet, 2, guidance)
        theirs = torch.cat(list(generate(alone.model, given, plan_clips(3, 12), sampler)))
    torch.testing.assert_close(latent["samples"], theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("changed", ["speed", "region", "motion_frames", "seed", "audio_embedding"])
def test_every_input_matters(small: Small, film: torch.Tensor, changed: str) -> None:
    other: dict[str, Any] = {
        "speed": None,
        "region": torch.ones(1, 40, 48),
        "motion_frames": {"samples": torch.ones(MOTION, *LATENT)},
        "seed": 6,
        "audio_embedding": heard(CLIP, small.part("host").parts_of(small.model), seed=9),
    }
    clip, _ = small.clip(0, **{changed: other[changed]})
    assert float((clip - film[:CLIP]).abs().max()) > 1e-3


def test_half_precision_runs_on_the_cpu_and_is_near(
    pack: Any, run: Any, film: torch.Tensor, tmp_path: Any
) -> None:
    half = open_small(pack, run, save_model(tmp_path / "a.safetensors"), dtype=torch.float16)
    assert half.model.model.get_dtype() == torch.float16
    weights = {weight.dtype for weight in half.model.model.diffusion_model.parameters()}
    assert weights == {torch.float16}
    clip, _ = half.clip(0)
    difference = (clip - film[:CLIP]).abs()
    assert float(difference.mean()) < 0.01 * float(film[:CLIP].std())
    assert float(difference.max()) > 0


def test_an_interruption_ends_within_a_step_and_the_next_run_works(
    small: Small, film: torch.Tensor
) -> None:
    management = import_module("comfy.model_management")
    kind = import_module("comfy.patcher_extension").WrappersMP.DIFFUSION_MODEL
    model, calls = small.model.clone(), []

    def interrupt(executor: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(len(args[0]))
        if len(calls) == 2:
            management.interrupt_current_processing(True)
        return executor(*args, **kwargs)

    model.add_wrapper(kind, interrupt)
    with pytest.raises(management.InterruptProcessingException):
        small.film(model=model, steps=20)
    assert len(calls) == 2
    assert small.model.model._prepared is None
    assert torch.equal(small.film()[0], film)


def test_one_progress_bar_over_all_clips_with_previews(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    utils, options = import_module("comfy.utils"), import_module("comfy.cli_args")
    seen: list[tuple[int, int, Any]] = []
    method = options.LatentPreviewMethod.Latent2RGB
    monkeypatch.setattr(options.args, "preview_method", method)
    monkeypatch.setattr(
        utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, **_: seen.append(
            (value, total, preview)
        ),
    )  # fmt: skip
    small.film(sampler_name="euler")
    assert [value for value, _, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert {total for _, total, _ in seen} == {6}
    for _, _, (form, picture, _) in seen:
        assert form == "JPEG" and picture.size == LATENT[1:]
        assert picture.getextrema()[0] != (0, 0)


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")  # the host's
@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "uni_pc", "lcm", "dpm_adaptive"])
def test_other_samplers_run_and_stay_inside_the_bar(
    small: Small, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    values: list[int] = []
    monkeypatch.setattr(
        import_module("comfy.utils"), "PROGRESS_BAR_HOOK",
        lambda value, total, preview, **_: values.append(value),
    )  # fmt: skip
    film, _ = small.film(frames=2 * CLIP, sampler_name=sampler, scheduler="sgm_uniform", steps=3)
    assert bool(torch.isfinite(film).all())
    assert values == sorted(values) and values[-1] <= 6


def test_a_clip_without_those_before_it_is_warned_of(
    small: Small, caplog: pytest.LogCaptureFixture
) -> None:
    _, motion = small.clip(0)
    small.clip(1, motion_frames=motion)
    assert not caplog.records
    small.clip(1)
    small.conditioning(1)
    assert [record.args for record in caplog.records] == [(1,), (1,)]


def test_a_clip_past_the_end_of_the_sound(small: Small) -> None:
    with pytest.raises(ValueError, match=r"9 frames, which are 3 clips of 4.* 0 to 2, got 3"):
        small.clip(3)


def test_numbers_that_are_none_are_said(pack: Any, run: Any, tmp_path: Any) -> None:
    small = open_small(pack, run, save_model(tmp_path / "a.safetensors"))
    weight = small.model.model.diffusion_model.conv_out.weight
    weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="clip 0 came out as NaN; use the model's own steps"):
        small.film()


def test_defaults_are_those_of_the_embedded_model(pack: Any) -> None:
    sampling = import_module("emo_core.presets").tiny().sampling
    for node in (pack.EMOSampler, pack.MotionFrameLooper):
        widgets = {one.id: one for one in node.define_schema().inputs}
        assert widgets["steps"].default == sampling.num_inference_steps
        assert widgets["cfg"].default == sampling.guidance_scale
