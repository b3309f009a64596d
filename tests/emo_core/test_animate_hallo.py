"""`emo animate` with weights in Hallo's published layout: VAE, audio encoder, face, reproduce."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from published_hallo import (
    FRAMES,
    LATENT,
    PICTURE,
    SIZE,
    TINY_VAE,
    draw,
    landmarks,
    picture,
    published,
    published_state,
    tiny_hallo,
    write_vae,
    write_wav2vec,
)
from safetensors.torch import save_file
from torch import Tensor

from emo_core import animate as animate_module
from emo_core import take as take_module
from emo_core import weight_files
from emo_core.animate import animate
from emo_core.animate_request import AnimateRequest
from emo_core.cli import main
from emo_core.clips import StreamNoise
from emo_core.complete import open_model
from emo_core.config import EMOConfig
from emo_core.generate import Film
from emo_core.hallo_files import with_variant
from emo_core.landmark_boxes import _LIPS_478
from emo_core.subject import cropped_subject, read_embedding, read_numbers, stretched_subject
from emo_core.vae import AutoencoderKL
from emo_core.video import read_video
from emo_core.weights import Checkpoint


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that a film of Hallo's weights takes."""
    folder = tmp_path_factory.mktemp("hallo")
    write_weights(folder / "hallo.safetensors", tiny_hallo())
    write_vae(folder / "vae.safetensors")
    write_wav2vec(folder / "wav2vec2")
    pixels = (picture() * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(folder / "photo.png")
    np.save(folder / "landmarks.npy", landmarks(_LIPS_478).numpy())
    np.save(folder / "far.npy", landmarks(_LIPS_478).numpy() + 90)
    (folder / "face.json").write_text(json.dumps(draw("embedding", 10).tolist()))
    return folder


def write_weights(path: Path, config: EMOConfig) -> None:
    """Seeded weights under Hallo's names, with the small configuration in the header."""
    tensors = {name: tensor.contiguous() for name, tensor in published_state(config).items()}
    fast = replace(config, sampling=replace(config.sampling, num_inference_steps=2))
    save_file(tensors, path, {"emo_config": fast.to_json()})


@pytest.fixture
def usual(files: Path, make_wav: Callable[..., Path], tmp_path: Path) -> dict[str, object]:
    return {
        "portrait": files / "photo.png", "sound": make_wav("s.wav", 1, 4640, 16000),
        "output": tmp_path / "film.mp4", "model": str(files / "hallo.safetensors"),
        "vae": files / "vae.safetensors", "audio_encoder": files / "wav2vec2", "device": "cpu",
    }  # fmt: skip


@pytest.fixture
def films(monkeypatch: pytest.MonkeyPatch) -> list[Film]:
    """Every film that is sampled."""
    made: list[Film] = []
    film_from = animate_module.film_from

    def kept(checkpoint: Checkpoint, material: object) -> Film:
        made.append(film_from(checkpoint, material))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(animate_module, "film_from", kept)
    return made


def test_the_command_makes_a_film(
    usual: dict[str, object], files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(usual[name]) for name in ("portrait", "sound")]
    words += ["-o", str(usual["output"]), "--device", "cpu", "--json"]
    for option in ("model", "vae", "audio_encoder"):
        words += [f"--{option.replace('_', '-')}", str(usual[option])]
    words += ["--face-box", "20,15,50,40", "--lip-box", "35,40,20,8"]
    assert main(["animate", *words]) == 0
    told = capsys.readouterr()
    report = json.loads(told.out)
    assert (report["frames"], report["clips"], report["steps"]) == (8, 2, 2)
    assert (report["seed"], report["cfg"], report["model"]) == (0, 3.5, "hallo")
    assert "taken for hallo: its header says so" in told.err
    assert "the face of nobody" in told.err
    assert tuple(read_video(usual["output"])[0].shape) == (8, SIZE, SIZE, 3)
    assert main(["animate", *words, "--reproduce"]) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 42


def test_reproduce_makes_hallos_own_conditions(
    usual: dict[str, object], films: list[Film], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noises: list[object] = []
    generate = take_module.generate
    monkeypatch.setattr(
        take_module, "generate", lambda *args: (noises.append(args[-1]), generate(*args))[1]
    )
    animate(
        AnimateRequest(
            **{**usual, "reproduce": True, "seed": 42, "landmarks": files / "landmarks.npy",
               "face_embedding": files / "face.json"}  # type: ignore[arg-type]
        )
    )  # fmt: skip
    (film,), theirs = films, published()

    def close(found: Tensor, name: str) -> None:
        torch.testing.assert_close(found, theirs[name].float(), rtol=0, atol=3e-5)

    close(film.portrait, "portrait_latents")
    close((film.region[:1, ::2, ::2] * 255).round(), "region")
    for level, masks in enumerate(film.masks):
        close(masks.flatten(1), f"mask_level_{level}")
    assert torch.equal(film.face, draw("embedding", 1, 10))
    # 8 frames are two whole clips: nothing is added; another sound gets its last clip filled.
    assert len(film.audio) == 8
    (noise,) = noises
    wanted = StreamNoise(42, (FRAMES, 4, LATENT, LATENT))
    shape = (FRAMES, 4, LATENT, LATENT)
    assert torch.equal(noise.latents(1, shape), wanted.latents(1, shape))


def test_the_last_clip_hears_silence(
    usual: dict[str, object], films: list[Film], make_wav: Callable[..., Path]
) -> None:
    report = animate(AnimateRequest(**{**usual, "sound": make_wav("t.wav", 1, 3300, 16000)}))
    assert (report.frames, len(films[0].audio)) == (6, 8)


def test_films_of_another_shape(
    usual: dict[str, object], films: list[Film], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(usual[name]) for name in ("portrait", "sound")]
    words += ["-o", str(usual["output"]), "--device", "cpu", "--json", "--steps", "1", "--cfg", "1"]
    for option in ("model", "vae", "audio_encoder"):
        words += [f"--{option.replace('_', '-')}", str(usual[option])]
    assert main(["animate", *words, "--size", "320x256", "--face-box", "20,15,50,40"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["width"], report["height"]) == (320, 256)
    assert tuple(read_video(usual["output"])[0].shape) == (8, 256, 320, 3)
    (film,) = films
    assert film.portrait.shape == (1, 4, 32, 40) and film.region.shape == (3, 256, 320)
    assert [masks.shape[1:] for masks in film.masks] == [(32, 40), (16, 20), (8, 10), (4, 5)]
    # The photograph is 90 x 72: its own shape is cut least, and makes the same film.
    assert main(["animate", *words, "--size", "portrait", "--face-box", "20,15,50,40"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["width"], report["height"], report["reused"]) == (320, 256, 2)
    assert main(["animate", *words, "--size", "wide"]) == 2
    assert "width and height in pixels such as 512x768" in capsys.readouterr().err


def test_pose_face_and_lip_weight(
    usual: dict[str, object], films: list[Film], capsys: pytest.CaptureFixture[str], files: Path
) -> None:
    words = [str(usual[name]) for name in ("portrait", "sound")]
    words += ["-o", str(usual["output"]), "--device", "cpu", "--json", "--no-clips"]
    words += ["--duration", "0.16"]  # one clip
    for option in ("model", "vae", "audio_encoder"):
        words += [f"--{option.replace('_', '-')}", str(usual[option])]
    made = []
    for weights in ([], ["--pose-weight", "1", "--lip-weight", "1.0"], ["--lip-weight", "2"]):
        assert main(["animate", *words, *weights]) == 0
        made.append(read_video(usual["output"])[0].float())
    assert [film.motion_weights for film in films] == [(1, 1, 1), (1, 1, 1), (1, 1, 2)]
    assert torch.equal(made[0], made[1]) and (made[0] - made[2]).abs().mean() > 0.1
    capsys.readouterr()
    assert main(["animate", *words, "--face-weight", "11"]) == 2
    assert "must be 0 to 10 each" in capsys.readouterr().err


def test_hallo2_runs(files: Path, usual: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "hallo2.safetensors"
    write_weights(path, with_variant(tiny_hallo(), "hallo2"))
    plain = animate(AnimateRequest(**{**usual, "model": str(path)}))
    assert plain.model == "hallo2"
    two = read_video(usual["output"])[0].float()
    animate(AnimateRequest(**{**usual, "model": str(path), "variant": "hallo"}))
    assert (two - read_video(usual["output"])[0].float()).abs().mean() > 0.1


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tensors that are read from .safetensors files, in that order."""
    names: list[str] = []
    opened = weight_files._open_safetensors

    def counted(path: Path) -> weight_files.WeightFile:
        file = opened(path)
        return replace(file, read=lambda name: (names.append(name), file.read(name))[1])

    monkeypatch.setattr(weight_files, "_open_safetensors", counted)
    return names


def test_opening_reads_no_tensor_and_loading_each_once(
    usual: dict[str, object], reads: list[str]
) -> None:
    files = [Path(str(usual[name])) for name in ("vae", "audio_encoder")]
    opened = open_model(str(usual["model"]), "auto", *files)
    assert not reads
    made = opened.load(torch.device("cpu"), torch.float32)
    assert len(reads) == len(set(reads)) == sum(
        len(part.state_dict()) for part in (made.model, made.vae, made.audio_encoder)
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vae": None}, "brings no VAE; give SD 1.5's with --vae"),
        ({"audio_encoder": None}, "brings no audio encoder; give facebook/wav2vec2-base-960h"),
        ({"reproduce": True, "model": "emo-tiny", "vae": None, "audio_encoder": None},
         "emo-tiny is no such model"),
        ({"vae": None, "model": "emo-tiny"}, "the audio encoder .* gives 2 layers of 16"),
        ({"model": "emo-tiny"}, "has 4 latent channels and 8 pixels a cell, emo-tiny needs"),
        ({"size": (256, 320), "model": "emo-tiny", "vae": None, "audio_encoder": None},
         "emo-tiny was trained with the places of 128x128 pixels"),
        ({"size": (256, 300)}, "multiples of 64 from 256 to 1024"),
        ({"size": (256, 320), "reproduce": True}, "makes squares only"),
        ({"size": "portrait", "reproduce": True}, "makes squares only"),
        ({"motion_weights": (1.0, float("nan"), 1.0)}, "must be 0 to 10 each"),
        ({"lip_box": (1.0, 1.0, 5.0, 5.0)}, "a lip box goes with a face box"),
        ({"lip_box": (90.0, 1.0, 50.0, 5.0), "face_box": (20.0, 15.0, 50.0, 40.0)},
         "the lip box 90,1,50,5 .* reaches outside"),
        ({"landmarks": Path("x.npy"), "face_box": (1.0, 1.0, 9.0, 9.0)}, "leave out the boxes"),
        ({"variant": "hallo3"}, "must be one of auto, hallo, hallo2"),
        ({"face_embedding": "landmarks.npy"}, "holds 956 numbers, and a face embedding has 10"),
        ({"face_box": (50.0, 20.0, 50.0, 40.0)}, "reaches outside the picture of 90x72"),
        ({"face_box": (0.2, 0.25, 0.5, 0.5)}, "fractions, which in pixels are 18,18,45,36"),
        ({"face_box": (0.2, 0.25, 0.5, 0.5), "reproduce": True}, "fractions, which in pixels are"),
        ({"face_box": (9.0, 9.0, 1.5, 40.0)}, "at least 2 pixels wide and high, got 9,9,1.5,40"),
        ({"lip_box": (0.4, 0.5, 0.2, 0.1), "face_box": (20.0, 15.0, 50.0, 40.0)},
         "a lip box is at least 2 pixels .* fractions"),
        ({"landmarks": "far.npy"}, "of 478 landmarks lie outside of the picture of 90x72 pixels"),
        ({"vae": "none.safetensors"}, "the VAE file .*none.safetensors does not exist; give an SD"),
        ({"vae": "wav2vec2/model.safetensors"}, "is an audio encoder and not a VAE; give an SD"),
        ({"audio_encoder": "vae.safetensors"}, "is a VAE and not a wav2vec2; give model.safetens"),
        ({"audio_encoder": "none"}, "no wav2vec2 weights at .*none"),
        ({"solver": "dpmpp_2m", "reproduce": True}, "leave out --solver and --audio-cfg"),
        ({"audio_cfg": 2.0, "reproduce": True}, "leave out --solver and --audio-cfg"),
        ({"film": "none.mp4", "only_region": True}, "the film .*none.mp4 does not exist"),
        ({"face_embedding": "photo.png"}, "holds no face embedding"),
        ({"landmarks": "face.json"}, "expected 478, 468 or 68 landmarks"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(
    usual: dict[str, object], files: Path, changes: dict[str, object], sentence: str,
    reads: list[str],
) -> None:
    """And are told before the first weight is read."""
    names = ("face_embedding", "landmarks", "vae", "audio_encoder", "film")
    changes = {
        name: files / value if name in names and isinstance(value, str) else value
        for name, value in changes.items()
    }
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as told:
        animate(AnimateRequest(**{**usual, **changes}))
    assert "\n" not in str(told.value) and not reads
    assert not Path(str(usual["output"])).exists()


def test_a_lip_box_follows_the_crop() -> None:
    subject = cropped_subject(picture(), 64, (30.0, 20.0, 40.0, 40.0), (40.0, 45.0, 20.0, 10.0))
    # The square is 72 wide and begins at 14: (50 - 14) / 72 is the lips' middle.
    x, y, width, height = subject.lips
    assert x + width / 2 == pytest.approx(0.5) and width == pytest.approx(20 / 72)
    assert y == pytest.approx(45 / 72) and height == pytest.approx(10 / 72)
    whole = stretched_subject(picture(), 64, (30.0, 20.0, 40.0, 40.0), (40.0, 45.0, 20.0, 10.0))
    assert whole.lips == (40 / PICTURE[1], 45 / PICTURE[0], 20 / PICTURE[1], 10 / PICTURE[0])
    with pytest.raises(ValueError, match="outside the part around the face"):
        cropped_subject(picture(), 64, (30.0, 20.0, 40.0, 40.0), (0.0, 45.0, 5.0, 5.0))
    assert cropped_subject(picture(), 64, None).box is None
    assert stretched_subject(picture(), 64, None).region is None


def test_numbers_of_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    assert read_numbers(tmp_path / "a.npy", "x").tolist() == [0, 1, 2]
    (tmp_path / "b.json").write_text("[1, NaN]")
    with pytest.raises(ValueError, match="NaN or infinite"):
        read_numbers(tmp_path / "b.json", "x")
    np.save(tmp_path / "c.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="holds no x"):
        read_numbers(tmp_path / "c.npy", "x")
    with pytest.raises(FileNotFoundError, match=r"does not exist; give a \.npy, \.json or \.safet"):
        read_numbers(tmp_path / "no.npy", "x")
    (tmp_path / "d.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"holds no x .*recursion"):
        read_numbers(tmp_path / "d.json", "x")


def test_a_normalised_face_embedding_is_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = draw("embedding", 10)
    for values, noticed in ((numbers, False), (numbers / numbers.norm(), True)):
        np.save(tmp_path / "face.npy", values.numpy())
        assert torch.equal(read_embedding(tmp_path / "face.npy", 10), values)
        assert ("face.npy has length 1: it is the normalised one" in caplog.text) == noticed


def test_what_the_weights_do_not_see_is_said(
    usual: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "emo_core")
    animate(AnimateRequest(**{**usual, "speed": "0.5"}))  # type: ignore[arg-type]
    assert "hallo knows no head speed: --speed changes nothing" in caplog.text


def test_clips_are_kept_by_everything_that_hallos_weights_see(
    usual: dict[str, object], files: Path, tmp_path: Path
) -> None:
    """No film finds a clip of one before it, and the first film made again finds its own."""
    given = {**usual, "clips": tmp_path / "clips", "face_box": (20.0, 15.0, 50.0, 40.0),
             "duration": FRAMES / 25, "steps": 1}  # fmt: skip
    save_file(AutoencoderKL(TINY_VAE).state_dict(), tmp_path / "vae.safetensors")
    changes: dict[str, dict[str, object]] = {
        "the first": {},
        "face": {"face_embedding": files / "face.json"},
        "lips": {"lip_box": (35.0, 40.0, 20.0, 8.0)},
        "variant": {"variant": "hallo2"},
        "reproduce": {"reproduce": True},
        "vae": {"vae": tmp_path / "vae.safetensors"},
        "weights": {"motion_weights": (1.0, 1.0, 0.5)},
        "size": {"size": (256, 256)},
    }
    for name, change in changes.items():
        made = animate(AnimateRequest(**{**given, **change}))  # type: ignore[arg-type]
        assert (made.clips, made.reused) == (1, 0), name
    assert animate(AnimateRequest(**given)).reused == 1  # type: ignore[arg-type]
