"""The paper's stages on films: what is trained, and where the loss looks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from emo_core.attention import Rows
from emo_core.face import CENTRED_PRIOR, union_box
from emo_core.film import decode
from emo_core.model import EMO
from emo_core.pictures import read_picture
from emo_core.presets import tiny
from emo_core.training.dataset import FilmPieces
from emo_core.training.dropout import draw_audience
from emo_core.training.fast_layers import operations
from emo_core.training.film_stages import FilmStage, StageName, initialise
from emo_core.training.recipes import RECIPES
from emo_core.vae import AutoencoderKL
from emo_core.vae_config import VAEConfig


def random_pieces(count: int = 3, length: int = 20) -> FilmPieces:
    """Films of noise that fit emo-tiny."""
    config = tiny()
    generator = torch.Generator().manual_seed(5)
    side, channels = config.picture_size // 8, config.unet.latent_channels
    around = length + 2 * config.audio.window

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).half()

    boxes = torch.cat([0.2 + 0.1 * draw(count, length, 2), 0.4 + 0.1 * draw(count, length, 2)], 2)
    places = torch.tensor([[0.5, 0.7, 0.12], [0.4, 0.45, 0.08], [0.6, 0.45, 0.08]])
    return FilmPieces(
        portraits=normal(count, 2, channels, side, side),
        frames=normal(count, length, channels, side, side),
        audio=normal(count, around, 4, 128),
        boxes=boxes,
        faces=boxes[:, :2].clone(),
        whole=torch.tensor([union_box(film) for film in boxes]),
        speeds=draw(count, around),
        places=places.expand(count, length, 3, 3) + 0.02 * draw(count, length, 3, 3),
    )


def stage(name: StageName, brows: float = 0.0, pictures: int = 0) -> FilmStage:
    model = EMO(tiny(), operations=operations())
    initialise(model, 0)
    recipe = replace(RECIPES[name], batch=2, brows=brows, pictures=pictures)
    return FilmStage(name, model, random_pieces(), recipe)


def test_held_out_pieces_are_measured_and_never_trained_on() -> None:
    model = EMO(tiny(), operations=operations())
    initialise(model, 0)
    pieces = random_pieces(20)
    one = FilmStage("images", model, pieces, replace(RECIPES["images"], batch=30))
    trained = torch.cat([one.batch(draw)["portrait"] for draw in range(6)])
    held = pieces.portraits[-2:].flatten(0, 1).float()
    assert not any(torch.equal(a, b) for a in trained for b in held)
    seen = {float(portrait.sum()) for portrait in trained}
    assert seen == {float(one.float().sum()) for one in pieces.portraits[:-2].flatten(0, 1)}
    with torch.no_grad():
        first = one.measure()
        assert first == one.measure() and set(first) == {"held_out_error", "held_out_mouth"}
        model.denoising_unet.conv_out.bias.add_(1)
        assert one.measure()["held_out_error"] > first["held_out_error"]
    assert stage("video").measure() == {}


def test_a_sheet_shows_what_is_made_above_the_truth(tmp_path: Path) -> None:
    one = stage("video")
    vae = AutoencoderKL(VAEConfig.tiny()).eval()
    one.sample_sheet(tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    shown = FilmStage("video", one.model.eval(), one.pieces, one.recipe, vae=vae)
    shown.sample_sheet(tmp_path / "sheet.png")
    sheet = read_picture(tmp_path / "sheet.png")
    # Three people, two rows each; the portrait and every fourth of 20 frames.
    assert sheet.shape == (3, 6 * 128, 6 * 128)
    made, true = sheet[:, :128], sheet[:, 128:256]
    assert torch.equal(made[..., :128], true[..., :128]), "the portrait"
    assert not torch.equal(made[..., 128:], true[..., 128:])
    wanted = decode(vae, one.pieces.frames[0, :1].float())[0]
    assert (true[..., 128:256] - wanted).abs().max() < 0.01


def test_brows_weigh_as_much_as_eyes_and_the_whole_as_much_as_before() -> None:
    without, with_brows = stage("video"), stage("video", 1.5)
    places, size = without.batch(0)["places"], torch.Size((64, 64))
    before, after = without._weight(places, size), with_brows._weight(places, size)
    assert float(after.mean()) == pytest.approx(float(before.mean()), rel=1e-5)
    eye = places[0, 0, 1]
    row, column = int(eye[1] * 64), int(eye[0] * 64)
    brow = int((eye[1] - 1.21 * eye[2]) * 64)
    assert float(before[0, 0, 0, brow, column]) < 1.6
    assert float(after[0, 0, 0, brow, column]) > 2.1
    assert float(after[0, 0, 0, brow, column]) == pytest.approx(
        float(after[0, 0, 0, row, column]), rel=0.15
    )


@pytest.mark.parametrize(
    ("name", "trained", "frozen"),
    [
        ("images", "attn_audio", "motion_modules"),
        ("video", "motion_modules", "speed_attention"),
        ("speed", "speed_attention", "attn_audio"),
        ("speed", "temporal_positions", "attn_audio"),
        ("speed-layers", "speed_attention", "attention_blocks"),
        ("speed-layers", "speed_encoder", "temporal_positions"),
    ],
)
def test_each_stage_trains_its_own_part(name: StageName, trained: str, frozen: str) -> None:
    one = stage(name, 1.5)
    loss, parts = one.loss(one.batch(0), torch.Generator().manual_seed(0), 0)
    loss.backward()
    assert set(parts) == {"error", "mouth"}
    assert 0.5 < parts["error"].item() < 2
    learning = [path for path, p in one.model.named_parameters() if p.grad is not None]
    assert any(trained in path for path in learning)
    assert not any(frozen in path for path in learning)


def test_a_batch_follows_from_the_draw() -> None:
    one = stage("video")
    first, again, other = one.batch(3), one.batch(3), one.batch(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["frames"], other["frames"])
    assert first["frames"].shape[:2] == (2, tiny().temporal.num_frames)


def test_dropout_drops_each_condition_as_often_as_it_says() -> None:
    """All in 8 % of samples, sound alone in 5, the portrait alone in 2, speeds in 25 besides."""
    count = 20_000
    who = draw_audience(count, torch.Generator().manual_seed(0), torch.device("cpu"))

    def without(rows: Rows) -> set[int]:
        assert rows.index is not None and torch.equal(rows.index, rows.source)
        return set(range(count)) - set(rows.index.tolist())

    nothing, audio, reference, speed = map(
        without, (who.region, who.audio, who.reference, who.speed)
    )
    assert nothing == audio & reference and nothing <= speed
    for dropped, part in ((nothing, 0.08), (audio - nothing, 0.05), (reference - nothing, 0.02),
                          (speed - nothing, 0.25 * 0.92)):  # fmt: skip
        assert len(dropped) / count == pytest.approx(part, abs=4 * (part / count) ** 0.5)
    assert not (audio - nothing) & (reference - nothing)


def test_a_quarter_of_the_clips_are_first_ones_and_see_zero_maps() -> None:
    one, generator = stage("video"), torch.Generator().manual_seed(1)
    items = [one._item(tiny().temporal.num_frames, generator) for _ in range(400)]
    first = sum(not bool(item["has_motion"]) for item in items) / 400
    assert 0.18 < first < 0.32
    batch = {"motion": torch.stack([item["motion"] for item in items[:2]]),
             "has_motion": torch.tensor([False, True])}  # fmt: skip
    seen = one._motion(batch, torch.Generator().manual_seed(0))
    with torch.no_grad():
        none = one.model.no_motion(one.model.encode_portrait(items[0]["portrait"][None]))
    for name, features in seen.items():
        assert torch.equal(features[:1], none[name]) and features[1].any(), name


def test_a_model_that_predicts_noise_is_trained_on_noise() -> None:
    """As emo() does: the loss of an answer that is the noise itself is nothing."""
    config = tiny()
    sampling = replace(config.sampling, schedule="scaled_linear", prediction="epsilon")
    model = EMO(replace(config, sampling=sampling), operations=operations())
    initialise(model, 0)
    one = FilmStage("images", model, random_pieces(), replace(RECIPES["images"], batch=2))
    left = one._signal
    assert float(left[999]) > 0.06, "SD 1.5's last step keeps some signal"

    def know(noisy: torch.Tensor, timestep: torch.Tensor, *_: object) -> torch.Tensor:
        signal, level = (part[timestep][:, None, None, None, None] for part in (left, one._noise))
        return (noisy - signal * batch["frames"]) / level

    batch = one.batch(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.denoising_unet, "forward", know)
        loss, _ = one.loss(batch, torch.Generator().manual_seed(0), 0)
    assert float(loss) < 1e-6


def test_speeds_are_cut_with_their_own_window() -> None:
    config = tiny()
    assert config.speed is not None
    for window in (1, 3):
        speed = replace(config.speed, window=window)
        model = EMO(replace(config, speed=speed), operations=operations())
        if window > config.audio.window:
            with pytest.raises(ValueError, match="a speed window of 3 asks for more"):
                FilmStage("speed", model, random_pieces(), RECIPES["speed"])
            continue
        one = FilmStage("speed", model, random_pieces(), replace(RECIPES["speed"], batch=1))
        batch = one.batch(0)
        wide = stage("speed").batch(0)["speed"][:1]
        assert torch.equal(batch["speed"], wide[..., 1:-1])


def test_motion_frames_of_the_speed_stage_often_hide_how_fast_the_head_was() -> None:
    def held(name: StageName) -> float:
        one, generator = stage(name), torch.Generator().manual_seed(1)
        motion = [one._item(tiny().temporal.num_frames, generator)["motion"] for _ in range(60)]
        return sum(torch.equal(clip, clip[-1:].expand_as(clip)) for clip in motion) / 60

    # First clips at the very start of a piece repeat its first frame too; zeros stand for it.
    assert 0.4 < held("speed") < 0.7 and 0.4 < held("speed-layers") < 0.7
    assert held("video") < 0.15


def test_every_other_step_of_the_video_stage_may_be_one_of_single_frames() -> None:
    one = stage("video", pictures=5)
    assert one.batch(0)["frames"].shape[:2] == (2, tiny().temporal.num_frames)
    single = one.batch(1)
    assert single["frames"].shape[:2] == (5, 1)
    one.loss(single, torch.Generator().manual_seed(0), 0)[0].backward()
    learning = {path for path, p in one.model.named_parameters() if p.grad is not None}
    assert any("attn_audio" in path for path in learning)
    assert not any("motion_modules" in path for path in learning)


def test_single_frames_of_the_video_stage_are_nearly_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, seen = stage("video", pictures=16), list[torch.Tensor]()
    denoise = one.model.denoising_unet.forward

    def listen(noisy: torch.Tensor, timestep: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(timestep)
        return denoise(noisy, timestep, *rest)

    monkeypatch.setattr(one.model.denoising_unet, "forward", listen)
    for draw in (0, 1):
        with torch.no_grad():
            one.loss(one.batch(draw), torch.Generator().manual_seed(3), 0)
    clips, pictures = seen
    assert int(pictures.min()) > 700 and int(pictures.max()) <= 999
    assert int(clips.min()) < 700


def regions(face: list[float], piece: list[float], whole: list[float]) -> torch.Tensor:
    """Left, top, right and bottom of 400 regions of a film with these boxes, parts of 128."""
    one, generator, found = stage("images"), torch.Generator().manual_seed(2), []
    one.pieces.faces[0], one.pieces.boxes[0] = torch.tensor(face), torch.tensor(piece)
    one.pieces.whole[0] = torch.tensor(whole)
    for _ in range(400):
        mask = one._region(0, 1, generator)[0]
        rows, columns = (mask.amax(side) > 0.01 for side in (1, 0))
        edges = [columns.nonzero()[0], rows.nonzero()[0], columns.nonzero()[-1] + 1]
        found.append(torch.cat([*edges, rows.nonzero()[-1] + 1]) / len(rows))
    return torch.stack(found)


def test_a_region_is_the_prior_or_holds_the_face_and_grows_with_how_far_the_head_goes() -> None:
    face, piece, far = [0.3, 0.3, 0.4, 0.4], [0.26, 0.3, 0.48, 0.4], [0.2, 0.2, 0.6, 0.6]
    left, top, across, down = CENTRED_PRIOR
    prior, pixel = torch.tensor([left, top, left + across, top + down]), 1 / tiny().picture_size
    widths = []
    for found in (regions(face, face, face), regions(face, piece, far)):
        is_prior = ((found - prior).abs() < 1.01 * pixel).all(1)
        assert 0.1 < float(is_prior.float().mean()) < 0.2
        found = found[~is_prior]
        assert (found[:, :2] <= 0.3 + pixel).all() and (found[:, 2:] >= 0.7 - pixel).all()
        widths.append(found[:, 2] - found[:, 0])
    still, lively = widths
    assert (still < 0.4 * 1.06 + 2.01 * pixel).all()

    def part(least: float, most: float) -> float:
        return float(((lively > least - pixel) & (lively < most + pixel)).float().mean()) * 0.85

    assert 0.14 < part(0.4, 0.432) < 0.26, "the face box"
    assert 0.24 < part(0.48, 0.517) < 0.36, "the union box of the piece"
    assert 0.2 < float((lively == 1).float().mean()) < 0.45, "everything"
    assert float(lively.min()) >= 0.4 - pixel
    assert part(0.54, 0.58) == 0, "no film goes less far than its whole"
