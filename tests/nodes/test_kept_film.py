"""EMODecodeVideo on films that are kept: opened at any moment, without sampling anything."""

from __future__ import annotations

import copy
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from small_film import CLIP, LATENT, Small, open_small, save_model, sound

from emo_core.films import FilmFacts
from emo_core.sound_files import read_sound
from emo_core.store import ClipStore, known_films

FRAMES = 3 * CLIP + 1


@pytest.fixture(scope="module")
def small(pack: Any, run: Any, tmp_path_factory: Any) -> Small:
    return open_small(pack, run, save_model(tmp_path_factory.mktemp("model") / "a.safetensors"))


@pytest.fixture(autouse=True)
def temp_folder(pack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = import_module("folder_paths")
    monkeypatch.setattr(folders, "temp_directory", str(tmp_path / "temp"))


@pytest.fixture
def clips(output_folder: Path) -> Path:
    return output_folder / "emo_clips"


@pytest.fixture
def node(pack: Any) -> Any:
    return pack.EMODecodeVideo


def make(small: Small, stop: int | None = None, **inputs: Any) -> torch.Tensor | None:
    """The film's latents; clip `stop` is interrupted."""
    management = import_module("comfy.model_management")
    kind = small.part("clip_sampler").ClipSampler
    call = kind.__call__

    def interrupted(self: Any, conditions: Any, noise: Any, plan: Any) -> Any:
        management.interrupt_current_processing(plan.index == stop)
        return call(self, conditions, noise, plan)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "__call__", interrupted)
        try:
            return small.film(frames=FRAMES, **inputs)[0]
        except management.InterruptProcessingException:
            return None


def decode(small: Small, **inputs: Any) -> tuple[Any, str]:
    """The film's VIDEO and what the node shows."""
    prepared = small.pack.EMODecodeVideo.PREPARE_CLASS_CLONE({})
    out = prepared.execute(**{"vae": small.vae, "fps": 25.0, "clip_frames": 3} | inputs)
    shown = "" if out.ui is None else str(out.ui.as_dict()["text"][0])
    return out.result[0], shown


def pictures(small: Small, patch: pytest.MonkeyPatch, **inputs: Any) -> torch.Tensor:
    """The pictures that are written: H.264 does not always make the same of the same."""
    written: list[torch.Tensor] = []
    writer = small.part("output").VideoWriter
    write = writer.write

    def noted(self: Any, frames: torch.Tensor) -> None:
        written.append(frames.clone())
        write(self, frames)

    with patch.context() as inner:
        inner.setattr(writer, "write", noted)
        decode(small, **inputs)
    return torch.cat(written)


def test_an_interrupted_film_opens_with_its_sound_cut(
    small: Small, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make(small, stop=2) is None
    (name,) = known_films(clips)
    video, said = decode(small, kept_film=name, audio=sound(FRAMES))
    assert said == (
        f"{name}: 2 of 4 clips, 0.32 of 0.52 s; queue it with none chosen and the rest is sampled"
    )
    assert len(video.get_components().images) == 2 * CLIP
    waveform, rate = read_sound(Path(video.get_stream_source()))
    assert waveform.shape[1] / rate == pytest.approx(2 * CLIP / 25)
    early = pictures(small, monkeypatch, kept_film=name)
    film = make(small)
    assert torch.equal(early, pictures(small, monkeypatch, latent={"samples": film})[: 2 * CLIP])
    _, said = decode(small, kept_film=name)
    assert said == f"{name}: 4 of 4 clips, 0.52 of 0.52 s"
    whole = pictures(small, monkeypatch, kept_film=name, latent={"samples": film[:1]}, fps=30.0)
    assert torch.equal(whole, pictures(small, monkeypatch, latent={"samples": film}))


def test_the_newest_film_is_offered_first_and_none_by_default(
    small: Small, clips: Path, node: Any
) -> None:
    def offered() -> list[str]:
        (widget,) = (one for one in node.GET_SCHEMA().inputs if one.id == "kept_film")
        assert widget.default == "none" and widget.optional
        return list(widget.options)

    assert offered() == ["none"] and not clips.exists()
    make(small, stop=1)
    (first,) = known_films(clips)
    os.utime(clips / "films" / f"film-{first}.json", (1e9, 1e9))
    make(small, stop=1, seed=9)
    names = offered()
    assert len(names) == 3 and names[0] == "none" and names[2] == first


def test_a_film_of_one_clip_by_hand_is_not_offered(small: Small, clips: Path) -> None:
    small.clip(0, frames=FRAMES)
    assert known_films(clips) == []


def test_it_runs_again_when_the_film_has_grown(small: Small, clips: Path, node: Any) -> None:
    make(small, stop=2)
    (name,) = known_films(clips)
    states = [node.fingerprint_inputs(kept_film=name, fps=25.0) for _ in range(2)]
    make(small, stop=3)
    states.append(node.fingerprint_inputs(kept_film=name))
    assert states[0] == states[1] != states[2]
    assert node.fingerprint_inputs(kept_film="none") == node.fingerprint_inputs(vae=None)


def test_only_without_a_kept_film_is_the_latent_sampled(node: Any) -> None:
    """The host gives None for what is connected and not yet made, and leaves out what is open."""
    linked, made, unconnected = {"latent": None}, {"latent": {"samples": 0}}, dict[str, Any]()
    assert node.check_lazy_status(kept_film="none", **linked) == ["latent"]
    assert node.check_lazy_status(**linked) == ["latent"]
    for given in (made, unconnected):
        assert node.check_lazy_status(kept_film="none", **given) == []
    assert node.check_lazy_status(kept_film="a film", **linked) == []
    (latent,) = (one for one in node.GET_SCHEMA().inputs if one.id == "latent")
    assert latent.lazy and latent.optional


def test_a_film_that_is_gone_is_refused_before_anything_runs(
    small: Small, clips: Path, node: Any
) -> None:
    make(small, stop=1)
    (name,) = known_films(clips)
    assert node.validate_inputs(kept_film=name) is True
    assert node.validate_inputs(kept_film="none") is node.validate_inputs() is True
    for path in clips.rglob("*.safetensors"):
        path.unlink()
    for gone in (name, "emo-tiny_2026-01-01_00-00_9s_0123456789ab", "../../etc/passwd", ""):
        said = node.validate_inputs(kept_film=gone)
        assert isinstance(said, str) and "choose another, or none and sample it again" in said
        with pytest.raises(ValueError, match=r"any more; choose another, or sample it again"):
            decode(small, kept_film=gone)


def test_nothing_at_all_is_a_sentence(small: Small) -> None:
    with pytest.raises(ValueError, match="connect EMO Motion Frame Looper to latent, or choose"):
        decode(small)


def test_films_that_emo_animate_keeps_open_too(
    small: Small, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its latents are scaled as its model sees them."""
    latents = torch.randn(CLIP, *LATENT)
    store = ClipStore(clips, 1 << 30)
    key = "0" * 64
    film = FilmFacts("emo", 25, LATENT[0], 4.0).manifest([key], [CLIP])  # type: ignore[arg-type]
    store.put(key, latents * 4, {})
    store.write_manifest("a-film", film)
    seen = pictures(small, monkeypatch, kept_film="a-film")
    assert torch.equal(seen, pictures(small, monkeypatch, latent={"samples": latents}))


def test_the_film_of_another_vae_is_a_sentence(small: Small, clips: Path) -> None:
    store, key = ClipStore(clips, 1 << 30), "0" * 64
    film = FilmFacts("emo", 25, 7, 1.0).manifest([key], [CLIP])  # type: ignore[arg-type]
    store.put(key, torch.zeros(CLIP, 7, 4, 4), {})
    store.write_manifest("a-film", film)
    with pytest.raises(ValueError, match="has 7 channels and the VAE decodes 4"):
        decode(small, kept_film="a-film")


def test_latents_of_other_weights_are_not_decoded(
    small: Small, clips: Path, tmp_path: Path
) -> None:
    """A retrained model has the same name and channels, and another VAE."""
    make(small, stop=1, seed=9)
    (name,) = known_films(clips)
    assert "_seed9_" in name
    other = copy.copy(small.vae)
    delattr(other, "emo_weights")
    _, said = decode(small, kept_film=name, vae=other)
    assert "whether the connected one is that cannot be seen" in said.splitlines()[1]
    other.emo_weights = "0" * 64
    with pytest.raises(ValueError, match=r"sampled with other weights .* sample it again$"):
        decode(small, kept_film=name, vae=other)
    parts = small.part("host").parts_of(small.model)
    again = small.part("load").load(save_model(tmp_path / "b.safetensors", seed=5))
    fresh = small.part("host").parts_of(again[0])
    assert fresh.digest != parts.digest and fresh.vae == parts.vae is not None
    _, said = decode(small, kept_film=name, vae=again[1])
    assert said.count("\n") == 0, "the same VAE beside another backbone"
