"""An existing film as latents: which pictures, which part of them, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_checkpoint import save_smallest
from torch import Tensor

from emo_core.animate import animate
from emo_core.animate_request import AnimateRequest
from emo_core.evaluation import _clips
from emo_core.existing import existing_film, region_of_latents
from emo_core.video import VideoWriter, read_video
from emo_core.weights import load_model

MakeWav = Callable[..., Path]
WHOLE = ((0, 0, 64), 64, 64)


def as_they_are(pictures: Tensor) -> Tensor:
    return (pictures + 1) / 2


@pytest.fixture
def film(tmp_path: Path) -> Callable[..., Path]:
    """Writes a film whose frame f is f / 20 bright, and red on its left half."""

    def write(frames: int, rate: int = 25, width: int = 64, height: int = 64) -> Path:
        path = tmp_path / f"{frames}-{rate}-{width}-{height}.mp4"
        pictures = torch.arange(frames).float()[:, None, None, None] / 20
        pictures = pictures.repeat(1, 3, height, width)
        pictures[:, 1:, :, : width // 2] = 0
        with VideoWriter(path, Fraction(rate), (width, height), None, {}) as writer:
            writer.write(pictures)
        return path

    return write


def brightness(latents: Tensor) -> list[float]:
    """What number each frame was, by its right edge."""
    return [round(float(frame[1, :, -4:].mean()) * 20, 1) for frame in latents[0]]


def test_the_pictures_are_the_films(film: Callable[..., Path]) -> None:
    latents = existing_film(film(20), 18, 25, 64, WHOLE, as_they_are)
    assert latents.shape == (1, 18, 3, 64, 64)
    assert brightness(latents) == pytest.approx(range(18), abs=0.35)
    assert float(latents[0, -1, 1, :, :28].max()) < 0.05


@pytest.mark.parametrize(
    ("rate", "expected"), [(50, [0, 0, 1, 1]), (12, [1, 3, 5, 7]), (21, [0, 1, 2, 4])]
)
def test_another_frame_rate(film: Callable[..., Path], rate: int, expected: list[int]) -> None:
    """A frame is the picture that is shown at its middle."""
    latents = existing_film(film(12, 25), 4, rate, 64, WHOLE, as_they_are)
    assert brightness(latents) == pytest.approx(expected, abs=0.35)


def test_pictures_of_the_portraits_shape_are_cut_as_it_is(film: Callable[..., Path]) -> None:
    # The portrait's right half of 60x30, in a film of 120x60.
    latents = existing_film(film(2, 25, 120, 60), 2, 25, 30, ((30, 0, 30), 60, 30), as_they_are)
    assert latents.shape[-2:] == (30, 30)
    assert float(latents[0, 1, 1].min()) > 0.03
    left = existing_film(film(2, 25, 120, 60), 2, 25, 30, ((0, 0, 30), 60, 30), as_they_are)
    assert float(left[0, 1, 1, :, :28].max()) < 0.02
    square = existing_film(film(2), 2, 25, 30, ((30, 0, 30), 60, 30), as_they_are)
    assert float(square[0, 1, 1, :, :13].max()) < 0.02 < float(square[0, 1, 1, :, 17:].min())


def test_what_does_not_fit_is_said(film: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 6 frames .* sound is of 8; give --duration 0.24 or"):
        existing_film(film(6), 8, 25, 64, WHOLE, as_they_are)
    with pytest.raises(ValueError, match=r"has 90x64 pixels and the portrait 60x30, which is"):
        existing_film(film(2, 25, 90, 64), 2, 25, 30, ((0, 0, 30), 60, 30), as_they_are)
    with pytest.raises(FileNotFoundError, match="does not exist; give a film"):
        existing_film(tmp_path / "none.mp4", 2, 25, 64, WHOLE, as_they_are)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no film")
    with pytest.raises(ValueError, match="not a film that can be read"):
        existing_film(broken, 2, 25, 64, WHOLE, as_they_are)


def test_a_region_takes_every_cell_that_it_touches() -> None:
    region = torch.zeros(2, 32, 32)
    region[1, 7:9, 16:17] = 0.1
    mask = region_of_latents(region, 4, 4)
    assert mask.shape == (1, 1, 1, 4, 4)
    assert mask[0, 0, 0].nonzero().tolist() == [[0, 2], [1, 2]]


@pytest.fixture
def make(tmp_path: Path, make_wav: MakeWav) -> Callable[..., Path]:
    """Runs animate() on a small model."""
    portrait = tmp_path / "face.png"
    Image.new("RGB", (40, 40), (200, 120, 90)).save(portrait)
    model = str(save_smallest(tmp_path / "a.safetensors"))
    sound = make_wav("s.wav", 1, 16 * 640, 16000)

    def run(name: str, **changes: object) -> Path:
        usual = {"portrait": portrait, "sound": sound, "output": tmp_path / name, "model": model,
                 "device": "cpu"}  # fmt: skip
        animate(AnimateRequest(**{**usual, **changes}))  # type: ignore[arg-type]
        return tmp_path / name

    return run


def pictures(path: Path) -> Tensor:
    return read_video(path)[0].float()


@pytest.mark.parametrize("joins", ["quiet", "overlap"])
def test_films_of_other_joins_say_where_their_clips_meet(
    make: Callable[..., Path], tmp_path: Path, joins: str
) -> None:
    made = make("a.mp4", joins=joins, lock="weak", clips=tmp_path / "clips")
    frames, _, metadata = read_video(made)
    seams = _clips(metadata)
    assert len(frames) == 16 and isinstance(seams, list)
    # Of four frames a clip shares one with the next: two steps lie between them.
    assert seams[:4] == [3, 4, 6, 7] if joins == "overlap" else seams[0] in (3, 4)
    again = make("b.mp4", joins=joins, lock="weak", clips=tmp_path / "clips")
    assert torch.equal(pictures(again), pictures(made))
    assert _clips(read_video(make("c.mp4"))[2]) == 4


def test_a_film_is_voiced_anew(make: Callable[..., Path], tmp_path: Path) -> None:
    """Outside the face's region the latents of its one clip are those of the film."""
    first = make("a.mp4")
    given = {"film": first, "only_region": True, "duration": 0.16}
    make("b.mp4", **given, face_box=(0.0, 0.0, 20.0, 20.0), clips=tmp_path / "clips")
    (kept,) = (tmp_path / "clips").rglob("*.safetensors")
    (sampled,) = load_file(kept).values()
    vae = load_model(tmp_path / "a.safetensors").vae
    assert vae is not None
    with torch.inference_mode():
        wanted = existing_film(first, 4, 25, 32, ((0, 0, 40), 40, 40), vae.encode)[0]
    assert sampled.shape == wanted.shape == (4, 4, 4, 4)
    outside = torch.ones(4, 4, dtype=torch.bool)
    outside[:2, :2] = False
    torch.testing.assert_close(sampled[..., outside], wanted[..., outside])
    assert (sampled[..., ~outside] - wanted[..., ~outside]).abs().min() > 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"denoise": 0.5}, "none was given; give --film"),
        ({"only_region": True}, "none was given; give --film"),
        ({"denoise": 0.0}, "denoise must be above 0 and up to 1, got 0"),
        ({"joins": "quiet", "reproduce": True}, "whose joins are plain"),
        ({"joins": "none"}, "joins must be one of auto, plain, quiet, overlap, got 'none'"),
        ({"lock": "none"}, "lock must be one of off, weak, strong, got 'none'"),
    ],
)
def test_requests_that_cannot_work(
    make: Callable[..., Path], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make("x.mp4", **changes)


def test_films_that_cannot_be_voiced_anew(make: Callable[..., Path], tmp_path: Path) -> None:
    """A film that is none is told first, before a word is said of the options."""
    film, none = make("a.mp4"), tmp_path / "none.mp4"
    with pytest.raises(FileNotFoundError, match=r"none\.mp4 does not exist; give a film"):
        make("x.mp4", film=none)
    none.write_bytes(b"no film")
    with pytest.raises(ValueError, match=r"none\.mp4 is not a film that can be read"):
        make("x.mp4", film=none)
    with pytest.raises(ValueError, match=r"--denoise below 1, .* or --only-region, or both"):
        make("x.mp4", film=film)
    with pytest.raises(ValueError, match="which has no --film"):
        make("x.mp4", film=film, denoise=0.5, reproduce=True)


def test_a_film_does_not_replace_the_one_it_is_made_from(make: Callable[..., Path]) -> None:
    first = make("a.mp4")
    with pytest.raises(ValueError, match=r"would replace the film .* that it is made from"):
        make("a.mp4", film=first, denoise=0.5)
