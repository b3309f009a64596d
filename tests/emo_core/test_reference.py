"""ReferenceNet: what it keeps, that pictures do not mix, and diffusers as the oracle."""

import pytest
import torch
from small_models import VARIANTS, draw, small_config, small_model

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
