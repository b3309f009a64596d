"""ReferenceNet: what it keeps, that pictures do not mix, and diffusers as the oracle."""

from dataclasses import replace

import pytest
import torch
from small_models import FRAMES, VARIANTS, draw, make_conditions, small_config, small_model
from torch import Tensor

from emo_core.unet import all_spots


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_bank_has_every_spot_at_its_size(variant: str) -> None:
    model = small_model(variant)
    bank = model.encode_portrait(draw(2, 4, 8, 8))
    for spot in all_spots(model.config.unet):
        side = 8 // 2**spot.level
        assert bank[spot.name].shape == (2, spot.width, side, side)
    assert len(bank) == len(all_spots(model.config.unet))


@pytest.mark.parametrize("variant", VARIANTS)
def test_pictures_of_a_batch_do_not_mix(variant: str) -> None:
    model = small_model(variant)
    latents = draw(2, 3, 4, 8, 8)
    together = model.encode_motion(latents)
    for video in range(2):
        for frame in range(3):
            alone = model.encode_portrait(latents[video, frame][None])
            for name, features in alone.items():
                torch.testing.assert_close(together[name][video, frame], features[0])


def test_motion_and_portrait_are_the_same_encoding() -> None:
    model = small_model()
    latents = draw(1, 4, 8, 8)
    portrait, motion = model.encode_portrait(latents), model.encode_motion(latents[:, None])
    for name, features in portrait.items():
        torch.testing.assert_close(motion[name][:, 0], features)


def test_zero_maps_have_the_shape_of_motion_features() -> None:
    model = small_model()
    portrait = model.encode_portrait(draw(2, 4, 8, 8))
    zeros = model.no_motion(portrait)
    seen = model.encode_motion(draw(2, model.config.temporal.num_motion_frames, 4, 8, 8))
    assert {k: v.shape for k, v in zeros.items()} == {k: v.shape for k, v in seen.items()}
    assert all((features == 0).all() for features in zeros.values())


def test_nothing_behind_the_last_norm_is_kept() -> None:
    names = set(small_model().reference_unet.state_dict())
    assert not any(name.startswith(("conv_norm_out", "conv_out")) for name in names)
    assert {name for name in names if name.startswith("up_blocks.2.attentions.1.")} == {
        f"up_blocks.2.attentions.1.{part}.{kind}"
        for part in ("norm", "proj_in", "transformer_blocks.0.norm1")
        for kind in ("weight", "bias")
    }


def diffusers_unet(config):
    """Diffusers' UNet of the same widths, with SD 1.5's text attention for face tokens."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        in_channels=4, out_channels=4, block_out_channels=config.widths,
        layers_per_block=config.layers_per_block, norm_num_groups=config.norm_groups,
        attention_head_dim=config.num_heads, cross_attention_dim=config.face_token_width,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    ).double()


def test_sd15_loads_by_name_and_gives_its_own_features() -> None:
    model = small_model("hallo")
    net = model.reference_unet
    theirs = diffusers_unet(small_config("hallo").unet)
    missing, unexpected = theirs.load_state_dict(net.state_dict(), strict=False)
    assert not unexpected
    assert all(
        name.startswith(("conv_norm_out", "conv_out", "up_blocks.2.attentions.1"))
        for name in missing
    )
    kept: dict[str, torch.Tensor] = {}
    for name, module in theirs.named_modules():
        if name.endswith("transformer_blocks.0.norm1"):
            spot = name.replace("attentions.", "").removesuffix(".transformer_blocks.0.norm1")
            module.register_forward_hook(lambda m, i, out, spot=spot: kept.update({spot: out}))
    latents, tokens = draw(2, 4, 8, 8), draw(2, 4, 12, seed=1)
    theirs(latents, 0, tokens)
    bank = net(latents, net.project_face(tokens))
    assert len(kept) == 7
    for spot, features in kept.items():
        torch.testing.assert_close(
            bank[spot].flatten(2).transpose(1, 2), features, rtol=1e-5, atol=1e-6
        )


def predict(variant: str, portraits: Tensor) -> Tensor:
    """What the backbone predicts with these pictures (1, r, C, h, w) of a person."""
    model = small_model(variant)
    faces = draw(1, 10, seed=5) if model.config.unet.face_tokens else None
    conditions = make_conditions(model)
    bank = model.encode_portrait(portraits, faces)
    conditions = replace(conditions, reference=replace(conditions.reference, portrait=bank))
    clip = model.denoising_unet.prepare(conditions)
    latents = draw(1, FRAMES, 4, 8, 8, seed=8)
    return model.denoising_unet(latents, torch.tensor([500.0]), clip)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_of_one_picture_is_the_picture(variant: str) -> None:
    one = draw(1, 4, 8, 8)
    assert torch.equal(predict(variant, one), predict(variant, one[:, None]))


@pytest.mark.parametrize("variant", ["emo", "positions"])
@pytest.mark.parametrize("times", [2, 3])
def test_the_same_picture_again_changes_nothing(variant: str, times: int) -> None:
    """A softmax over every token `times` over is the softmax over one of each."""
    one = draw(1, 1, 4, 8, 8)
    many = predict(variant, one.repeat(1, times, 1, 1, 1))
    torch.testing.assert_close(many, predict(variant, one), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_pictures_of_a_person_are_all_seen_in_any_order(variant: str) -> None:
    pictures = draw(1, 3, 4, 8, 8)
    film = predict(variant, pictures)
    torch.testing.assert_close(predict(variant, pictures.flip(1)), film, atol=1e-9, rtol=1e-9)
    for left_out in range(3):
        others = [index for index in range(3) if index != left_out]
        assert not torch.allclose(predict(variant, pictures[:, others]), film)


@pytest.mark.parametrize("variant", VARIANTS)
def test_persons_of_a_batch_keep_their_own_pictures(variant: str) -> None:
    model = small_model(variant)
    pictures = draw(2, 3, 4, 8, 8)
    faces = draw(2, 10, seed=5) if model.config.unet.face_tokens else None
    both = model.encode_portrait(pictures, faces)
    for person in range(2):
        face = None if faces is None else faces[person : person + 1]
        alone = model.encode_portrait(pictures[person : person + 1], face)
        for name, features in alone.items():
            torch.testing.assert_close(both[name][person::2], features)
