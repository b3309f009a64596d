"""EMOPortraitCrop and EMOPasteBack: the round trip, pictures and films, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from emo_core.film_pieces import film_facts, film_pieces
from emo_core.sound_files import read_sound
from emo_core.video import VideoWriter, read_video

H, W = 60, 90
IMAGE = torch.rand(1, H, W, 3, generator=torch.Generator().manual_seed(0))
MASK = torch.zeros(1, H, W)
MASK[:, 18:42, 36:54] = 1
Run = Callable[..., tuple[Any, ...]]


@pytest.fixture
def crop(pack: Any, run: Run) -> Callable[..., tuple[Any, ...]]:
    return lambda **inputs: run(pack.EMOPortraitCrop, **{"image": IMAGE, **inputs})


@pytest.fixture
def paste(pack: Any, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(
        import_module("folder_paths"), "get_temp_directory", lambda: str(tmp_path / "temp")
    )
    return lambda **inputs: run(pack.EMOPasteBack, **inputs)


@pytest.fixture
def film(tmp_path: Path, pack: Any) -> Any:
    """VIDEO of 20 frames that grow lighter, with half a second of sound more than it lasts."""
    path = tmp_path / "film.mp4"
    frames = torch.linspace(0.2, 0.8, 20)[:, None, None, None].expand(-1, 3, 32, 32)
    sound = torch.sin(torch.arange(16000) / 20)[None] * 0.3, 16000
    with VideoWriter(path, Fraction(25), (32, 32), sound) as writer:
        writer.write(frames)
    return import_module(f"{pack.__name__}.compat").InputImpl.VideoFromFile(str(path))


def test_a_square_around_the_face(crop: Any) -> None:
    portrait, data, region = crop(mask=MASK, face_share=0.6)
    assert data["square"] == (25, 10, 40) and portrait.shape == (1, 40, 40, 3)
    assert torch.equal(portrait, IMAGE[:, 10:50, 25:65])
    assert torch.equal(region, MASK[:, 10:50, 25:65])
    boxed, same, around = crop(bounding_box=[[{"x": 36, "y": 18, "width": 18, "height": 24}]])
    assert torch.equal(boxed, portrait) and same["square"] == data["square"]
    assert torch.equal(around, region)
    faint, *_ = crop(mask=MASK * 0.2)
    assert torch.equal(faint, portrait)


def test_nobody_says_where_the_face_is(crop: Any) -> None:
    portrait, data, region = crop()
    assert data["square"] == (15, 0, 60) and portrait.shape == (1, 60, 60, 3)
    assert region.shape == (1, 60, 60) and not region.any()


def test_a_picture_that_is_too_small_is_said(
    crop: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        _, data, _ = crop(mask=torch.ones(1, H, W))
    assert data["square"][2] == 60 and "it takes 150 %" in caplog.text


@pytest.mark.parametrize("mask", [None, MASK])
def test_the_round_trip_changes_nothing_outside(crop: Any, paste: Any, mask: Any) -> None:
    portrait, data, _ = crop(mask=MASK)
    back, _ = paste(crop=data, images=portrait, mask=mask)
    torch.testing.assert_close(back, IMAGE, rtol=0, atol=1e-6)
    other = 1 - torch.nn.functional.interpolate(portrait.movedim(-1, 1), 128).movedim(1, -1)
    back, _ = paste(crop=data, images=other.expand(20, -1, -1, -1), mask=mask)
    inside = torch.zeros(H, W, dtype=torch.bool)
    if mask is None:
        inside[10:50, 25:65] = True
    else:
        inside = mask[0] > 0
    assert back.shape == (20, H, W, 3)
    assert torch.equal(back[:, ~inside], IMAGE.expand(20, -1, -1, -1)[:, ~inside])
    assert float((back - IMAGE)[:, inside].abs().mean()) > 0.1


def test_a_video_is_laid_back_with_its_sound(
    crop: Any, paste: Any, film: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slope = torch.linspace(0.1, 0.9, W)[None, None, :, None].expand(1, H, W, 3)
    _, data, _ = crop(image=slope, mask=MASK)
    # Its frames are never in memory together.
    monkeypatch.setattr(type(film), "get_components", lambda self: pytest.fail("all in memory"))
    _, video = paste(crop=data, video=film, feather=0.1)
    path = Path(video.get_stream_source())
    frames, rate, _ = read_video(path)
    assert (len(frames), rate, tuple(frames.shape[1:3])) == (20, 25, (H, W))
    before, middle = frames[:, :5].float() / 255, frames[:, 28:32, 43:47].float() / 255
    # As near as H.264 keeps it.
    assert float((before - slope[:, :5]).abs().mean()) < 0.02
    wanted = torch.linspace(0.2, 0.8, 20)[:, None, None, None]
    assert float((middle - wanted).abs().max()) < 0.06
    source = Path(film.get_stream_source())
    (old, _), (new, hertz) = read_sound(source), read_sound(path)
    assert hertz == 16000 and new.shape == old.shape
    assert float((new - old).abs().mean()) < 0.02


def test_a_video_of_frames_in_memory(crop: Any, paste: Any, pack: Any) -> None:
    compat = import_module(f"{pack.__name__}.compat")
    video = compat.InputImpl.VideoFromComponents(
        compat.Types.VideoComponents(
            images=torch.full((3, 16, 16, 3), 0.5), audio=None, frame_rate=Fraction(30000, 1001)
        )
    )
    _, data, _ = crop(mask=MASK)
    _, made = paste(crop=data, video=video)
    facts = film_facts(Path(made.get_stream_source()))
    assert (facts.frames, facts.rate, facts.sound) == (3, Fraction(30000, 1001), False)


def test_the_output_that_was_not_made_says_so(crop: Any, paste: Any, film: Any) -> None:
    portrait, data, _ = crop(mask=MASK)
    assert "no video; connect images" in paste(crop=data, images=portrait)[1].message
    assert "no images; connect video" in paste(crop=data, video=film)[0].message


def test_what_does_not_fit_is_said(crop: Any, paste: Any, film: Any) -> None:
    portrait, data, _ = crop(mask=MASK)
    black = torch.zeros(1, H, W)
    speck = black.clone()
    speck[:, H // 2, W // 2] = 1
    outside = {**data, "square": (80, 0, 40)}
    lacking = {"version": 1, "picture": IMAGE}
    for given, sentence in (
        ({"crop": data}, "none is connected"),
        ({"crop": data, "images": portrait, "video": film}, "both are connected"),
        ({"crop": data, "images": portrait[:, :20]}, "are 40x20 and the crop is a square"),
        ({"crop": data, "images": portrait, "mask": black}, "the mask is black"),
        ({"crop": data, "images": portrait, "mask": speck, "feather": 0.5}, "lower feather"),
        ({"crop": outside, "images": portrait}, "lies outside of its picture of 90x60"),
        ({"crop": lacking, "images": portrait}, "EMO_CROP lacks square"),
    ):
        with pytest.raises(ValueError, match=sentence):
            paste(**given)
    for given, sentence in (
        ({"mask": black}, "the mask is black, so there is no face"),
        ({"bounding_box": []}, "no box inside the picture"),
    ):
        with pytest.raises(ValueError, match=sentence):
            crop(**given)


def test_an_interruption_leaves_no_film(
    crop: Any, paste: Any, film: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    management = import_module("comfy.model_management")
    _, data, _ = crop(mask=MASK)
    checks = iter([False, True])

    def interrupted() -> None:
        if next(checks):
            raise management.InterruptProcessingException()

    module = import_module(f"{crop.__closure__[0].cell_contents.__name__}.paste_back")
    monkeypatch.setattr(module, "check_interrupted", interrupted)
    with pytest.raises(management.InterruptProcessingException):
        paste(crop=data, video=film)
    assert not list((tmp_path / "temp").iterdir())


def test_films_are_read_in_pieces(film: Any, tmp_path: Path) -> None:
    path = Path(film.get_stream_source())
    pieces = list(film_pieces(path, 8))
    assert [len(piece) for piece in pieces] == [8, 8, 4]
    whole: Tensor = read_video(path)[0].permute(0, 3, 1, 2).float() / 255
    assert torch.equal(torch.cat(pieces), whole)
    (tmp_path / "no.mp4").write_bytes(b"no film")
    with pytest.raises(ValueError, match="is not a film that can be read"):
        film_facts(tmp_path / "no.mp4")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="breaks off"):
        list(film_pieces(path))
