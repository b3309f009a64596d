"""`emo train` from stage to stage in one folder, two steps each."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_film_stages import random_pieces
from test_train_command import run

from emo_core.audio_encoder import build_audio_encoder, tiny_logmel
from emo_core.training import recipes, stages, train_stages
from emo_core.training.dataset import FilmPieces
from emo_core.training.frames import FramePool, Frames, draw_frames
from emo_core.training.listening import ListeningPlan, save_listening
from emo_core.training.meter_training import MeterPlan
from emo_core.training.meters import load_meter, meter_record
from emo_core.training.origins import digest, digests, origin_header, read_origin
from emo_core.training.utterance_files import save_utterances
from emo_core.training.voices import Utterance
from emo_core.vae import AutoencoderKL, save_vae
from emo_core.vae_config import VAEConfig
from emo_core.weights import load_model


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with voices; batches of 2 and pictures of 32 pixels."""

    def few(first_seed: int, num_frames: int, size: int = 32) -> Frames:
        return draw_frames(first_seed, min(num_frames, 24), 32)

    def small(seed: int, first: int, fresh_every: int) -> FramePool:
        return FramePool(seed, first=1, largest=2, fresh_every=10_000, size=32)

    monkeypatch.setattr(stages, "draw_frames", few)
    monkeypatch.setattr(train_stages, "FramePool", small)
    for name, recipe in recipes.RECIPES.items():
        small_recipe = dataclasses.replace(recipe, batch=2, pictures=min(2, recipe.pictures))
        monkeypatch.setitem(recipes.RECIPES, name, small_recipe)
    noise = 0.1 * torch.randn(48000, generator=torch.Generator().manual_seed(0))
    spoken = Utterance(noise, ((0.0, 1.5, "AA"), (1.5, 3.0, "M")), "toy", "", "speech")
    save_utterances(tmp_path / "voices.safetensors", [spoken] * 2)
    return tmp_path


def train(work: Path, stage: str, *more: str) -> None:
    end = () if stage in ("films", "pack") else ("--steps", "2")
    assert run(stage, "--work", str(work), *end, *more) == 0


def header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def test_the_decoder_is_tuned_for_the_vae_it_came_from(work: Path) -> None:
    train(work, "vae")
    train(work, "decoder")
    vae, decoder = (load_file(work / f"{name}.safetensors") for name in ("vae", "decoder"))
    assert all(torch.equal(vae[n], decoder[n]) for n in vae if n.startswith("encoder."))
    assert torch.equal(vae["quant_conv.weight"], decoder["quant_conv.weight"])
    assert not torch.equal(vae["decoder.conv_out.weight"], decoder["decoder.conv_out.weight"])
    record = json.loads(header(work / "decoder.safetensors")["training"])
    assert record["steps"] == 2 and record["psnr"] > 0
    assert read_origin(work / "decoder.safetensors") == {"vae": digest(work / "vae.safetensors")}

    changed = {**vae, "quant_conv.bias": vae["quant_conv.bias"] + 1}
    save_file(changed, work / "vae.safetensors", header(work / "vae.safetensors"))
    with pytest.raises(ValueError, match=r"vae-decoder.pt was made from vae.safetensors of digest"):
        train(work, "decoder", "--steps", "3")


def test_meters_are_measured_as_drawn_and_after_the_vae(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        train_stages, "MeterPlan", lambda seed, batch: MeterPlan(seed, batch, pool=32, examples=64)
    )
    with pytest.raises(FileNotFoundError, match="has none of decoder, vae"):
        train(work, "meters")
    save_vae(AutoencoderKL(VAEConfig.tiny()), work / "vae.safetensors", {})
    train(work, "meters")
    record = meter_record(work / "meters.safetensors")
    assert (record["steps"], record["frames"], record["seed"]) == (2, 4, 0)
    assert record["truth"]["films"] == record["coded"]["films"] == 2
    assert record["truth"]["yaw_error"] > 0 and record["coded"] != record["truth"]
    assert load_meter(work / "meters.safetensors").num_identity > 0


def test_a_chain_of_stages_is_packed_and_a_broken_one_is_refused(work: Path) -> None:
    train(work, "vae")
    train(work, "listening")
    coders = digests(work, ("vae", "listening"))
    (work / "films").mkdir()
    shard = work / "films" / "puppets-0000000.safetensors"
    random_pieces().save(shard, origin_header(coders))
    for name in ("images", "video", "speed"):
        train(work, name)
    assert read_origin(work / "images.safetensors") == coders
    images = digest(work / "images.safetensors")
    assert read_origin(work / "video.safetensors") == {**coders, "images": images}
    train(work, "speed-layers")
    before, after = (load_file(work / f"{n}.safetensors") for n in ("speed", "speed-layers"))
    assert {n for n in after if not torch.equal(before[n], after[n])} <= {
        n for n in after if "speed" in n
    }
    train(work, "pack")
    packed = load_model(work / "emo-tiny.safetensors")
    found = packed.model.state_dict()
    for n, tensor in after.items():
        louder = 1.3 if "speed_attention.to_out" in n else 1.0
        torch.testing.assert_close(found[n], tensor * louder, rtol=2e-3, atol=1e-4)
    video = packed.training["stages"]["video"]
    assert (video["steps"], video["seed"]) == (2, 0) and video["loss"] > 0
    assert video["films"] == "3 pieces of puppets 0 to 99"
    assert packed.training["stages"]["listening"]["report"]["mse_open"] > 0

    other_work = work / "other"
    (other_work / "films").mkdir(parents=True)
    random_pieces().save(other_work / "films" / "a.safetensors", origin_header(coders))
    start = work / "speed.safetensors"
    train(other_work, "video", "--start", str(start))
    begun = read_origin(other_work / "video.safetensors")
    assert begun == {**coders, "start": digest(start)}
    record = json.loads(header(other_work / "video.safetensors")["training"])
    assert (record["steps"], record["start"]["steps"]) == (2, 2)
    unchanged = load_file(start), load_file(other_work / "video.safetensors")
    name = next(name for name in unchanged[0] if "speed_attention.to_out" in name)
    assert unchanged[0][name].any(), "an untrained start would show nothing"
    assert torch.equal(unchanged[0][name], unchanged[1][name])
    with pytest.raises(ValueError, match=r"video.pt began with --start; give it again to go on"):
        shutil.copy(work / "images.safetensors", other_work)
        train(other_work, "video", "--steps", "3")
    broken = work / "broken.safetensors"
    broken.write_bytes(start.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"broken.safetensors is "):
        train(work, "images", "--start", str(broken))
    with pytest.raises(ValueError, match=r"vae.safetensors does not hold this network; give what"):
        train(work, "images", "--start", str(work / "vae.safetensors"))

    random_pieces().save(shard, origin_header({**coders, "listening": "another"}))
    with pytest.raises(ValueError, match=r"films/puppets-0+.safetensors was made from listening"):
        train(work, "video")
    random_pieces().save(shard)  # of an earlier version: it does not say
    weights = load_file(work / "images.safetensors")
    first = next(iter(weights))
    other = {**weights, first: weights[first] + 1}
    save_file(other, work / "images.safetensors", origin_header(coders))
    with pytest.raises(ValueError, match=r"video.pt was made from images.safetensors of digest"):
        train(work, "video")
    save_file(other, work / "images.safetensors", origin_header({"vae": "another"}))
    with pytest.raises(ValueError, match=r"images.safetensors was made from vae.safetensors"):
        train(work, "video")
    replace_weights(work / "listening.safetensors")
    with pytest.raises(ValueError, match=r"speed-layers.safetensors was made from listening"):
        train(work, "pack")


def replace_weights(path: Path) -> None:
    """Train a file again, as far as digests can tell."""
    weights = load_file(path)
    first = next(iter(weights))
    save_file({**weights, first: weights[first] + 1}, path, header(path))


def test_films_are_heard_again_by_a_new_encoder_and_refused_for_a_new_vae(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_stages, "SHARD", 1)
    save_vae(AutoencoderKL(VAEConfig.tiny()), work / "vae.safetensors", {})
    plan = ListeningPlan(tiny_logmel())
    encoder = build_audio_encoder(plan.encoder)
    save_listening(work / "listening.safetensors", encoder, plan, {})
    shard = work / "films" / "puppets-0000000.safetensors"
    train(work, "films", "--count", "1")
    assert read_origin(shard) == digests(work, ("vae", "listening"))
    made = load_file(shard)

    replace_weights(work / "listening.safetensors")
    with pytest.raises(ValueError, match=r"puppets-0+.safetensors was made from listening"):
        train(work, "films", "--count", "1")
    train(work, "films", "--count", "1", "--sound-only")
    heard = load_file(shard)
    assert read_origin(shard) == digests(work, ("vae", "listening"))
    assert torch.equal(heard["frames"], made["frames"])
    assert not torch.equal(heard["audio"], made["audio"])
    written = shard.stat().st_mtime_ns
    train(work, "films", "--count", "1", "--sound-only")
    assert shard.stat().st_mtime_ns == written

    replace_weights(work / "vae.safetensors")
    with pytest.raises(ValueError, match=r"puppets-0+.safetensors was made from vae"):
        train(work, "films", "--count", "1", "--sound-only")


def test_films_of_an_earlier_version_are_named(tmp_path: Path) -> None:
    random_pieces().save(path := tmp_path / "old.safetensors")
    tensors = load_file(path)
    del tensors["whole"]
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"old.safetensors has no whole: an earlier version made"):
        FilmPieces.load([path])


@pytest.mark.parametrize(
    ("stage", "missing"),
    [("decoder", "vae"), ("films", "vae"), ("listening", "voices"), ("video", "images")],
)
def test_a_stage_names_the_one_that_has_to_come_first(
    stage: str, missing: str, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=f"run `emo train {missing}` first"):
        train(tmp_path, stage)


def test_a_typo_in_rows_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--rows takes names out of .*, got speach"):
        run("report", "--work", str(tmp_path / "work"), "--rows", "speach")
    with pytest.raises(ValueError, match="there are no joins 'speech'; choose of plain; "):
        run("joins", "--work", str(tmp_path / "work"), "--rows", "speech")
    assert not (tmp_path / "work").exists()
