"""The stages: what the autoencoder's loss sees, what is frozen, and the exact fold at export."""

from pathlib import Path

import pytest
import torch
from torch import nn

from emo_core.training import fast_norm
from emo_core.training.frames import FramePool, Frames, draw_frames
from emo_core.training.stages import (
    VAEStage,
    fold_latent_statistics,
    write_png,
)
from emo_core.vae import AutoencoderKL
from emo_core.vae_config import VAEConfig


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> VAEStage:
    def few(first_seed: int, num_frames: int, size: int = 32) -> Frames:
        return draw_frames(first_seed, min(num_frames, 24), 32)

    monkeypatch.setattr("emo_core.training.stages.draw_frames", few)
    torch.manual_seed(0)
    vae = AutoencoderKL(VAEConfig.tiny(), operations=fast_norm.operations)
    return VAEStage(vae, FramePool(1, first=1, largest=2, fresh_every=2, size=32), batch_size=4)


def test_pool_depends_on_seed_and_draw_only() -> None:
    walked = FramePool(3, first=1, largest=2, fresh_every=1, size=16)
    for draw in range(3):
        last = walked.batch(draw, 4)
    fresh = FramePool(3, first=1, largest=2, fresh_every=1, size=16).batch(2, 4)
    assert torch.equal(last.pictures, fresh.pictures)
    assert torch.equal(last.places, fresh.places)
    other = FramePool(4, first=1, largest=2, fresh_every=1, size=16).batch(2, 4)
    assert not torch.equal(last.pictures, other.pictures)


def test_places_lie_on_mouths_and_eyes() -> None:
    frames = draw_frames(1_000_000, 6, 32)
    x, y, radius = frames.places.unbind(2)
    assert (y[:, 0] > y[:, 1]).all() and (y[:, 0] > y[:, 2]).all()
    assert (x[:, 1] < x[:, 2]).all()
    assert ((radius > 0.04) & (radius < 0.25)).all()


def test_latents_have_unit_variance_and_export_keeps_them(stage: VAEStage) -> None:
    pictures = stage.batch(0)["pictures"].float() / 127.5 - 1
    with torch.no_grad():
        latents = stage.encode(pictures)
        exported = stage.export(num_frames=4)
        folded = exported.encode(pictures)
    variance = latents.var((0, 2, 3), correction=0)
    z = stage.vae.config.z_channels
    torch.testing.assert_close(variance, torch.ones(z), rtol=0, atol=1e-3)
    torch.testing.assert_close(folded, latents, rtol=1e-3, atol=1e-3)
    assert torch.equal(exported.quant_conv.weight[z:], torch.zeros(z, 2 * z, 1, 1))
    assert exported.quant_conv.bias[z:].exp().tolist() == pytest.approx([0.01] * z)
    assert torch.equal(exported.decoder.conv_out.weight, stage.vae.decoder.conv_out.weight)


def test_decoder_alone_trains_no_encoder(stage: VAEStage) -> None:
    alone = VAEStage(stage.export(num_frames=4), stage.pool, batch_size=4, train_encoder=False)
    loss, parts = alone.loss(alone.batch(0), torch.Generator().manual_seed(0), 0)
    loss.backward()
    assert set(parts) == {"l1", "mse", "edges", "tint"}
    with_gradient = {n.split(".")[0] for n, p in alone.vae.named_parameters() if p.grad is not None}
    assert with_gradient == {"decoder", "post_quant_conv"}
    assert alone.name == "vae-decoder"


def test_measure_and_sheet(stage: VAEStage, tmp_path: Path) -> None:
    with torch.no_grad():
        figures = stage.measure()
        stage.sample_sheet(tmp_path / "sheet.png")
    assert set(figures) == {"psnr", "psnr_mouth", "psnr_eyes"}
    assert all(0 < value < 30 for value in figures.values())
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_png_is_read_back(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    picture = torch.rand(3, 5, 7)
    write_png(tmp_path / "p.png", picture)
    with image.open(tmp_path / "p.png") as opened:
        assert opened.size == (7, 5)
        expected = tuple((picture[:, 2, 3] * 255).round().int().tolist())
        assert opened.getpixel((3, 2)) == expected


def test_fold_refuses_a_scaling_factor() -> None:
    vae = AutoencoderKL(VAEConfig.sd15(), device="meta")
    with pytest.raises(ValueError, match=r"scaling factor 1, got 0.18215"):
        fold_latent_statistics(vae, torch.zeros(1, 4, 2, 2))


def test_fast_norm_has_the_gradients_of_group_norm() -> None:
    torch.manual_seed(0)
    theirs = nn.GroupNorm(4, 8).double()
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    ours = fast_norm.GroupNorm(4, 8).double()
    ours.load_state_dict(theirs.state_dict())
    x, upstream = torch.randn(2, 2, 8, 5, 3, dtype=torch.float64).unbind(0)
    x = x.contiguous(memory_format=torch.channels_last)
    results = []
    for norm in (theirs, ours):
        leaf = x.clone().requires_grad_()
        out = norm(leaf)
        out.backward(upstream)
        results.append((out, leaf.grad, norm.weight.grad, norm.bias.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
