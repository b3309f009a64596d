"""Kept clips: never sampled twice, never lost, never taken for another's."""

from __future__ import annotations

import logging
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from small_film import CLIP, Small, draw, open_small, portrait, sampled_as, save_model

FRAMES = 3 * CLIP + 1


@pytest.fixture(scope="module")
def small(pack: Any, run: Any, tmp_path_factory: Any) -> Small:
    return open_small(pack, run, save_model(tmp_path_factory.mktemp("model") / "a.safetensors"))


@pytest.fixture(scope="module")
def undisturbed(small: Small) -> torch.Tensor:
    """Four clips, of which the last is cut, made without keeping any."""
    return small.film(frames=FRAMES, keep_clips=False)[0]


@pytest.fixture
def sampled(small: Small, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Which clips were sampled, in order."""
    clips: list[int] = []
    kind = small.part("clip_sampler").ClipSampler
    call = kind.__call__

    def counted(self: Any, conditions: Any, noise: Any, plan: Any) -> Any:
        clips.append(plan.index)
        return call(self, conditions, noise, plan)

    monkeypatch.setattr(kind, "__call__", counted)
    return clips


def again(clips: list[int]) -> list[int]:
    """What was sampled since the last call."""
    seen = clips[:]
    clips.clear()
    return seen


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("emo_clips/*/*.safetensors"))


def sound_changed_from(small: Small, frame: int) -> dict[str, Any]:
    audio = small.inputs(FRAMES)["audio_embedding"]
    features = audio["features"].clone()
    features[frame:] += draw(*features[frame:].shape, seed=77)
    return {**audio, "features": features}


def test_a_second_run_samples_nothing_and_gives_the_same_film(
    small: Small, undisturbed: torch.Tensor, sampled: list[int], output_folder: Path
) -> None:
    film, motion = small.film(frames=FRAMES)
    assert torch.equal(film, undisturbed) and again(sampled) == [0, 1, 2, 3]
    assert len(kept(output_folder)) == 4
    found, last = small.film(frames=FRAMES)
    assert again(sampled) == []
    assert torch.equal(found, undisturbed)
    assert torch.equal(last["samples"], motion["samples"])


def test_only_what_a_change_reaches_is_sampled(small: Small, sampled: list[int]) -> None:
    """A frame hears one frame ahead: a change at clip 2's second frame leaves 0 and 1 alone."""
    changed = sound_changed_from(small, 2 * CLIP + 1)
    alone, _ = small.film(frames=FRAMES, audio_embedding=changed, keep_clips=False)
    before, _ = small.film(frames=FRAMES)
    again(sampled)
    after, _ = small.film(frames=FRAMES, audio_embedding=changed)
    assert again(sampled) == [2, 3]
    assert torch.equal(after, alone) and not torch.equal(after, before)
    back, _ = small.film(frames=FRAMES)
    assert again(sampled) == [] and torch.equal(back, before)
    earlier = sound_changed_from(small, 2 * CLIP)
    small.film(frames=FRAMES, audio_embedding=earlier)
    assert again(sampled) == [1, 2, 3]


def test_a_moving_region_reaches_the_clips_of_its_frames(small: Small, sampled: list[int]) -> None:
    masks = torch.zeros(FRAMES, 40, 48)
    masks[:, 10:30, 10:30] = 1
    small.film(frames=FRAMES, region=masks)
    again(sampled)
    masks[2 * CLIP + 1, 5:10, 10:20] = 1
    small.film(frames=FRAMES, region=masks)
    assert again(sampled) == [2, 3]


def test_a_longer_sound_goes_on_from_the_short_ones_clips(
    small: Small, undisturbed: torch.Tensor, sampled: list[int]
) -> None:
    audio = small.inputs(FRAMES)["audio_embedding"]
    short = {**audio, "features": audio["features"][: 2 * CLIP + 2]}
    small.film(audio_embedding=short)
    assert again(sampled) == [0, 1, 2]
    film, _ = small.film(frames=FRAMES)
    # A frame sees the speed of two after it; the short sound's last clip heard its own end held.
    assert again(sampled) == [2, 3] and torch.equal(film, undisturbed)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 6),
        ("steps", 3),
        ("cfg", 1.5),
        ("sampler_name", "heun"),
        ("scheduler", "sgm_uniform"),
        ("region", torch.ones(1, 40, 48)),
        ("speed", None),
        ("motion_frames", {"samples": torch.ones(2, 4, 4, 4)}),
    ],
)
def test_whatever_else_changes_samples_all(
    small: Small, sampled: list[int], name: str, value: Any
) -> None:
    small.film(frames=CLIP + 1)
    again(sampled)
    small.film(frames=CLIP + 1, **{name: value})
    assert again(sampled) == [0, 1]
    small.film(frames=CLIP + 1, **{name: value})
    small.film(frames=CLIP + 1)
    assert again(sampled) == []


def test_an_interruption_keeps_the_clips_before_it(
    small: Small, undisturbed: torch.Tensor, sampled: list[int], output_folder: Path
) -> None:
    management = import_module("comfy.model_management")
    kind = small.part("clip_sampler").ClipSampler
    counted = kind.__call__

    def interrupted(self: Any, conditions: Any, noise: Any, plan: Any) -> Any:
        management.interrupt_current_processing(plan.index == 2)
        return counted(self, conditions, noise, plan)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "__call__", interrupted)
        with pytest.raises(management.InterruptProcessingException):
            small.film(frames=FRAMES)
    assert len(kept(output_folder)) == 2
    again(sampled)
    film, _ = small.film(frames=FRAMES)
    assert again(sampled) == [2, 3] and torch.equal(film, undisturbed)


def test_a_damaged_clip_is_named_and_sampled_anew(
    small: Small, undisturbed: torch.Tensor, sampled: list[int], output_folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    small.film(frames=FRAMES)
    again(sampled)
    path = kept(output_folder)[1]
    path.write_bytes(path.read_bytes()[:-3])
    with caplog.at_level(logging.WARNING):
        film, _ = small.film(frames=FRAMES)
    assert len(again(sampled)) == 1 and torch.equal(film, undisturbed)
    assert path.name in caplog.text and Path(f"{path}.damaged").exists()
    small.film(frames=FRAMES)
    assert again(sampled) == []


def test_without_keeping_nothing_is_written_or_read(
    small: Small, sampled: list[int], output_folder: Path
) -> None:
    small.film(frames=CLIP, keep_clips=False)
    assert not output_folder.exists()
    small.film(frames=CLIP)
    again(sampled)
    small.film(frames=CLIP, keep_clips=False)
    assert again(sampled) == [0]


@pytest.mark.parametrize("place", ["emo_clips", "emo_clips/ab"])
def test_a_folder_that_takes_nothing_is_one_warning(
    small: Small, undisturbed: torch.Tensor, output_folder: Path, place: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Files stand where folders would be made, which not even root can write into."""
    names = [place] if place == "emo_clips" else [f"emo_clips/{n:02x}" for n in range(256)]
    for name in names:
        (output_folder / name).parent.mkdir(parents=True, exist_ok=True)
        (output_folder / name).write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        film, _ = small.film(frames=FRAMES)
    assert torch.equal(film, undisturbed)
    said = [record.message for record in caplog.records if str(output_folder) in record.message]
    assert any("without keeping its clips" in message for message in said)
    assert len([message for message in said if "without keeping" in message]) == 1


def lora(small: Small, strength: float, seed: int = 0) -> Any:
    """MODEL with a LoRA on one layer."""
    adapter = import_module("comfy.weight_adapter.lora").LoRAAdapter
    key = "diffusion_model.conv_in.weight"
    out, inside, *_ = small.model.model.state_dict()[key].shape
    weights = (draw(out, 2, seed=seed), draw(2, inside * 9, seed=seed + 1), 2.0, None, None, None)
    model = small.model.clone()
    assert model.add_patches({key: adapter({key}, weights)}, strength) == [key]
    return model


def test_loras_are_told_apart_by_what_they_hold(small: Small, sampled: list[int]) -> None:
    plain, _ = small.film(frames=CLIP)
    patched, _ = small.film(frames=CLIP, model=lora(small, 0.5))
    assert again(sampled) == [0, 0] and not torch.equal(plain, patched)
    # Another object with the same content.
    same, _ = small.film(frames=CLIP, model=lora(small, 0.5))
    assert again(sampled) == [] and torch.equal(same, patched)
    small.film(frames=CLIP, model=lora(small, 0.6))
    small.film(frames=CLIP, model=lora(small, 0.5, seed=4))
    assert again(sampled) == [0, 0]
    back, _ = small.film(frames=CLIP)
    assert again(sampled) == [] and torch.equal(back, plain)


def wrapped(small: Small, factor: float) -> Any:
    """MODEL with another pack's wrapper around it."""

    def scaled(executor: Any, *args: Any, **kwargs: Any) -> Any:
        return factor * executor(*args, **kwargs)

    model = small.model.clone()
    kind = import_module("comfy.patcher_extension").WrappersMP.DIFFUSION_MODEL
    model.add_wrapper(kind, scaled)
    return model


def test_another_packs_wrapper_is_reused_as_long_as_it_lives(
    small: Small, sampled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = wrapped(small, 0.5)
    plain, _ = small.film(frames=CLIP)
    half, _ = small.film(frames=CLIP, model=model)
    assert again(sampled) == [0, 0] and not torch.equal(plain, half)
    small.film(frames=CLIP, model=model)
    small.film(frames=CLIP, model=model.clone())
    assert again(sampled) == []
    # It looks the same and holds something else.
    small.film(frames=CLIP, model=wrapped(small, 0.6))
    assert again(sampled) == [0]
    module = small.part("fingerprint")
    monkeypatch.setattr(module, "_nonces", module._Nonces())
    small.film(frames=CLIP, model=model)
    assert again(sampled) == [0], "another server must not take this server's clips"


def shown(small: Small, **inputs: Any) -> str:
    """What the node shows."""
    node = small.pack.MotionFrameLooper.PREPARE_CLASS_CLONE({})
    given = {"steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple"}
    out = node.execute(**given, **small.inputs(**inputs))
    return str(out.ui.as_dict()["text"][0])


def test_the_node_says_what_it_reused_and_for_how_long(
    small: Small, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert shown(small, frames=CLIP + 1) == "2 clips: 0 from cache, 2 sampled"
        audio = sound_changed_from(small, 2 * CLIP)
        small.film(audio_embedding=small.inputs(FRAMES)["audio_embedding"])
        assert shown(small, audio_embedding=audio) == "4 clips: 1 from cache, 3 sampled"
    told = [record.message for record in caplog.records if record.message.startswith("clip ")]
    assert told[0] == "clip 1 of 2, 0:00.00-0:00.16, 0 from cache"
    assert told[-1].startswith("clip 4 of 4, 0:00.48-0:00.52, 1 from cache, about 0:")
    text = shown(small, frames=CLIP, model=wrapped(small, 0.5))
    assert re.search(r"what \S+\.wrapped\.<locals>\.scaled does is known to its own pack", text)
    assert text.endswith("reused only until this server ends")


def test_found_clips_advance_the_bar_at_once(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = small.inputs(FRAMES)["audio_embedding"]
    small.film(audio_embedding={**audio, "features": audio["features"][: 2 * CLIP + 2]})
    values: list[tuple[int, int]] = []
    monkeypatch.setattr(
        import_module("comfy.utils"), "PROGRESS_BAR_HOOK",
        lambda value, total, preview, **_: values.append((value, total)),
    )  # fmt: skip
    small.film(frames=FRAMES)
    assert values == [(2, 8), (4, 8), (5, 8), (6, 8), (7, 8), (8, 8)]


def test_a_clip_by_hand_is_kept_by_what_came_before_it(
    small: Small, sampled: list[int], undisturbed: torch.Tensor
) -> None:
    for sampling in ([0, 1], []):
        first, motion = small.clip(0, frames=FRAMES)
        second, _ = small.clip(1, frames=FRAMES, motion_frames=motion)
        assert again(sampled) == sampling
        assert torch.equal(torch.cat([first, second]), undisturbed[: 2 * CLIP])
    other = {"samples": motion["samples"] + 1}
    small.clip(1, frames=FRAMES, motion_frames=other)
    small.clip(2, frames=FRAMES, motion_frames=motion)
    assert again(sampled) == [1, 2]


def test_both_nodes_share_the_first_clip_alone(
    small: Small, sampled: list[int], undisturbed: torch.Tensor
) -> None:
    small.film(frames=FRAMES)
    again(sampled)
    first, motion = small.clip(0, frames=FRAMES)
    assert torch.equal(first, undisturbed[:CLIP]) and again(sampled) == []
    small.clip(1, frames=FRAMES, motion_frames=motion)
    assert again(sampled) == [1]


def test_sockets_of_core_are_known_by_their_content(small: Small, sampled: list[int]) -> None:
    core = import_module("comfy_extras.nodes_custom_sampler")

    def sockets(seed: int = 5, cfg: float = 2.0, audio_cfg: float = 1.0) -> dict[str, Any]:
        model, positive, *_ = small.conditioning(0)
        (guider,) = small.run(
            small.pack.EMOGuider, model=model, positive=positive, cfg=cfg, audio_cfg=audio_cfg
        )
        return {
            "noise": core.RandomNoise().get_noise(seed)[0],
            "sampler": core.KSamplerSelect().get_sampler("dpmpp_2m")[0],
            "sigmas": core.BasicScheduler().get_sigmas(small.model, "simple", 3, 1.0)[0],
            "guider": guider,
        }

    small.film(frames=CLIP, **sockets())
    small.film(frames=CLIP, **sockets())
    assert again(sampled) == [0]
    for change in ({"seed": 6}, {"cfg": 2.5}, {"audio_cfg": 3.0}):
        small.film(frames=CLIP, **sockets(**change))
        assert again(sampled) == [0], change
    assert "until this server" not in shown(small, frames=CLIP, **sockets())


def test_a_socket_that_does_not_fit_is_an_error_though_all_clips_are_there(
    pack: Any, run: Any, small: Small, tmp_path: Path
) -> None:
    other = open_small(pack, run, save_model(tmp_path / "a.safetensors", seed=8))
    guiders = {}
    for name, one in (("fits", small), ("other", other)):
        model, positive, *_ = one.conditioning(0)
        (guiders[name],) = run(pack.EMOGuider, model=model, positive=positive)
    small.film(frames=CLIP, guider=guiders["fits"])
    with pytest.raises(ValueError, match="samples another MODEL"):
        small.film(frames=CLIP, guider=guiders["other"])
    with pytest.raises(ValueError, match="has no seed"):
        small.film(frames=CLIP, noise=object())


def test_a_large_network_is_watched_and_not_read(small: Small, sampled: list[int]) -> None:
    """Its weights would be read for every film."""
    model = small.model.clone()
    large = torch.nn.Linear(1001, 1000)
    model.set_attachments("spare", large)
    text = shown(small, frames=CLIP, model=model)
    assert "what linear.Linear does" in text
    again(sampled)
    small.film(frames=CLIP, model=model)
    assert again(sampled) == []
    model.set_attachments("spare", torch.nn.Linear(1001, 1000))
    small.film(frames=CLIP, model=model)
    assert again(sampled) == [0]


@pytest.mark.parametrize("name", ["ModelSamplingDiscrete", "RescaleCFG"])
def test_core_patches_are_known_by_their_content(
    small: Small, sampled: list[int], name: str
) -> None:
    node = getattr(import_module("comfy_extras.nodes_model_advanced"), name)()

    def patched(value: Any) -> Any:
        return node.patch(small.model, *value)[0]

    one, other = {
        "ModelSamplingDiscrete": (("v_prediction", False), ("v_prediction", True)),
        "RescaleCFG": ((0.7,), (0.4,)),
    }[name]
    for value, sampling in ((one, [0]), (one, []), (other, [0])):
        small.film(frames=CLIP, model=patched(value))
        assert again(sampled) == sampling
    assert "until this server" not in shown(small, frames=CLIP, model=patched(one))


def test_another_models_clips_are_not_taken(
    pack: Any, run: Any, small: Small, sampled: list[int], tmp_path: Path
) -> None:
    """Same names, same inputs, other weights; then the first model loaded once more."""
    small.film(frames=CLIP)
    other = open_small(pack, run, save_model(tmp_path / "a.safetensors", seed=8))
    other.film(frames=CLIP)
    assert again(sampled) == [0, 0]
    noisy = save_model(tmp_path / "b.safetensors", sampled_as("scaled_linear", "epsilon"))
    open_small(pack, run, noisy).film(frames=CLIP)
    assert again(sampled) == [0]
    twice = open_small(pack, run, tmp_path / "a.safetensors")
    twice.film(frames=CLIP)
    assert again(sampled) == []
    reference, _ = run(pack.ReferenceNetEncode, model=twice.model, vae=twice.vae,
                       image=portrait().flip(2))  # fmt: skip
    twice.film(frames=CLIP, reference=reference)
    assert again(sampled) == [0]
