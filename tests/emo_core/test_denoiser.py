"""The backbone: a condition that is not seen is not there, whatever else is in the batch."""

from dataclasses import replace

import pytest
import torch
from small_models import (
    FRAMES,
    LATENT,
    VARIANTS,
    draw,
    make_conditions,
    pick,
    predict_without,
    randomise,
    small_config,
    small_model,
)
from test_reference import diffusers_unet

from emo_core.attention import Rows
from emo_core.conditions import CONDITIONS, Audience
from emo_core.model import EMO
from emo_core.sampling import Guidance, predict

TIMES = torch.tensor([999, 500, 20])


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    # Sines of the timestep are float32, whose last bit may depend on the batch.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_that_do_not_see_a_condition_are_as_without_it(variant: str) -> None:
    model = small_model(variant)
    conditions = make_conditions(model, batch=3)
    latents = draw(3, FRAMES, 4, 8, 8, seed=9)
    clip = model.denoising_unet.prepare(conditions)
    dropped = (
        frozenset({"reference", "audio"}), frozenset({"region", "speed"}), frozenset({"audio"})
    )

    def rows(name: str) -> Rows:
        index = torch.tensor([row for row in range(3) if name not in dropped[row]])
        return Rows() if len(index) == 3 else Rows(index, index)

    audience = Audience(*(rows(name) for name in ("reference", "audio", "region", "speed")))
    out = model.denoising_unet(latents, TIMES, clip, audience)
    for row in range(3):
        one = slice(row, row + 1)
        alone = predict_without(
            model, latents[one], TIMES[one], pick(conditions, row), dropped[row]
        )
        close(out[one], alone)


@pytest.mark.parametrize("place", ["latents", "conv_in"])
def test_the_locator_is_added_where_the_configuration_says(place: str) -> None:
    config = small_config()
    model = EMO(replace(config, locator=replace(config.locator, place=place)), torch.float64)
    randomise(model, scale=1.0)
    model.eval().requires_grad_(False)
    net, conditions = model.denoising_unet, make_conditions(model)
    clip, code = net.prepare(conditions), conditions.region[:, None]
    latents, nobody = draw(1, FRAMES, *LATENT, seed=9), Rows(torch.tensor([], dtype=torch.long))
    out = net(latents, TIMES[1:2], clip)
    if place == "latents":
        close(out, net(latents + code, TIMES[1:2], clip, Audience(region=nobody)))
    else:
        assert code.shape[2] == config.unet.widths[0]
        bias = net.conv_in.bias
        assert bias is not None
        even = code[:, 0].mean((-2, -1), keepdim=True).expand_as(code[:, 0])
        moved = net(latents, TIMES[1:2], replace(clip, region=even))
        bias.add_(code.mean((0, 1, -2, -1)))  # the same everywhere is as a bias of the convolution
        close(moved, net(latents, TIMES[1:2], clip, Audience(region=nobody)))
        assert not torch.allclose(out, moved)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", sorted(CONDITIONS))
def test_every_condition_matters(variant: str, name: str) -> None:
    model = small_model(variant)
    if name == "speed" and model.config.speed is None:
        pytest.skip("Hallo has no speed layers")
    conditions = make_conditions(model)
    latents, times = draw(1, FRAMES, 4, 8, 8, seed=9), TIMES[1:2]
    full = predict_without(model, latents, times, conditions, frozenset())
    without = predict_without(model, latents, times, conditions, frozenset({name}))
    assert (full - without).abs().max() > 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_videos_together_are_videos_one_by_one(variant: str) -> None:
    model = small_model(variant)
    conditions = make_conditions(model, batch=2)
    latents = draw(2, FRAMES, 4, 8, 8, seed=9)
    out = model.denoising_unet(latents, TIMES[:2], model.denoising_unet.prepare(conditions))
    for row in range(2):
        one = slice(row, row + 1)
        clip = model.denoising_unet.prepare(pick(conditions, row))
        close(out[one], model.denoising_unet(latents[one], TIMES[one], clip))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "guidance", [Guidance(1.0), Guidance(3.0), Guidance(1.0, 2.0), Guidance(2.0, 4.0)]
)
def test_guidance_in_one_batch_is_guidance_in_separate_calls(variant: str, guidance) -> None:
    model = small_model(variant)
    conditions = make_conditions(model, batch=2)
    latents = draw(2, FRAMES, 4, 8, 8, seed=9)
    clip = model.denoising_unet.prepare(conditions)
    together = predict(model.denoising_unet, latents, 500, clip, guidance)
    times = torch.full((2,), 500)
    separate = [
        predict_without(model, latents, times, conditions, CONDITIONS - seen)
        for seen in guidance.branches
    ]
    expected = separate[-1]
    if guidance.audio_scale is not None:
        nothing, silent, everything = separate
        expected = nothing + guidance.scale * (silent - nothing)
        expected = expected + guidance.audio_scale * (everything - silent)
    elif guidance.scale != 1:
        expected = separate[0] + guidance.scale * (separate[1] - separate[0])
    close(together, expected)


def test_audiences_of_branches() -> None:
    device = torch.device("cpu")
    one = Audience.of_branches((CONDITIONS,), 2, device)
    assert one == Audience()
    two = Audience.of_branches((frozenset(), CONDITIONS), 2, device)
    assert two.audio.index.tolist() == [2, 3] and two.audio.source is None
    three = Audience.of_branches((frozenset(), CONDITIONS - {"audio"}, CONDITIONS), 2, device)
    assert three.audio.index.tolist() == [4, 5] and three.audio.source is None
    assert three.speed.index.tolist() == [2, 3, 4, 5]
    assert three.speed.source.tolist() == [0, 1, 0, 1]
    nobody = Audience.of_branches((frozenset(),), 2, device)
    assert nobody.reference.empty and nobody.region.empty
    all_three = Audience.of_branches((CONDITIONS,) * 3, 1, device)
    assert all_three.audio.index is None and all_three.audio.source.tolist() == [0, 0, 0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_share_one_preparation(variant: str) -> None:
    model = small_model(variant)
    conditions = make_conditions(model)
    clip = model.denoising_unet.prepare(conditions)
    latents = draw(1, FRAMES, 4, 8, 8, seed=9)
    for timestep in (900, 400, 30):
        time = torch.tensor([timestep])
        again = model.denoising_unet(latents, time, model.denoising_unet.prepare(conditions))
        latents = model.denoising_unet(latents, time, clip)
        torch.testing.assert_close(latents, again, rtol=0, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_single_pictures_leave_time_out(variant: str) -> None:
    model = small_model(variant)
    for name, parameter in model.named_parameters():
        if "motion_modules" in name or "temporal_positions" in name:
            parameter.fill_(float("nan"))
    conditions = make_conditions(model, motion=False)
    latents = draw(1, FRAMES, 4, 8, 8, seed=9)
    time = torch.tensor([500])
    out = model.denoising_unet(latents, time, model.denoising_unet.prepare(conditions))
    assert out.isfinite().all()
    # Frames without time are pictures: their order is nothing to them, nor their company.
    order = [2, 0, 1]
    shuffled = replace(conditions, audio_tokens=conditions.audio_tokens[:, order])
    clip = model.denoising_unet.prepare(shuffled)
    torch.testing.assert_close(model.denoising_unet(latents[:, order], time, clip), out[:, order])
    single = replace(conditions, audio_tokens=conditions.audio_tokens[:, 1:2])
    clip = model.denoising_unet.prepare(single)
    torch.testing.assert_close(model.denoising_unet(latents[:, 1:2], time, clip), out[:, 1:2])


@pytest.mark.parametrize("variant", VARIANTS)
def test_motion_frames_and_time_matter(variant: str) -> None:
    model = small_model(variant)
    conditions, other = make_conditions(model), make_conditions(model, seed=50)
    latents, time = draw(1, FRAMES, 4, 8, 8, seed=9), torch.tensor([500])
    outs = [
        model.denoising_unet(latents, time, model.denoising_unet.prepare(c))
        for c in (
            conditions,
            replace(conditions, reference=replace(
                conditions.reference, motion=other.reference.motion
            )),
            replace(conditions, reference=replace(conditions.reference, motion=None)),
        )
    ]
    assert (outs[0] - outs[1]).abs().max() > 1e-3
    assert (outs[0] - outs[2]).abs().max() > 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_pictures_need_not_be_square_nor_even(variant: str) -> None:
    model = small_model(variant)
    conditions = make_conditions(model, size=(6, 9))
    latents = draw(1, FRAMES, 4, 6, 9, seed=9)
    clip = model.denoising_unet.prepare(conditions)
    out = model.denoising_unet(latents, torch.tensor([500]), clip)
    assert out.shape == latents.shape and out.isfinite().all()


def test_hallos_coarsest_level_has_no_time_but_the_middle_has() -> None:
    net = small_model("hallo").denoising_unet
    with_time = {name for name, _ in net.named_modules() if name.endswith("motion_modules.0")}
    assert with_time == {
        "down_blocks.0.motion_modules.0", "down_blocks.1.motion_modules.0",
        "mid_block.motion_modules.0", "up_blocks.1.motion_modules.0",
        "up_blocks.2.motion_modules.0",
    }


def test_without_its_own_layers_the_backbone_is_sd15() -> None:
    model = small_model("hallo")
    net = model.denoising_unet
    for name, parameter in net.named_parameters():
        if "audio_modules" in name and name.split(".")[-2] == "proj_out":
            parameter.zero_()
    theirs = diffusers_unet(small_config("hallo").unet)
    missing, unexpected = theirs.load_state_dict(net.state_dict(), strict=False)
    assert not missing
    assert all("audio_modules" in name or "motion_modules" in name for name in unexpected)
    conditions = make_conditions(model, motion=False)
    latents = draw(1, FRAMES, 4, 8, 8, seed=9)
    nobody = Rows(torch.tensor([], dtype=torch.long))
    audience = Audience(reference=nobody, region=nobody)
    clip = net.prepare(conditions)
    out = net(latents, torch.tensor([321]), clip, audience)
    tokens = conditions.face_tokens[0].expand(FRAMES, -1, -1)
    close(out[0], theirs(latents[0], 321, tokens).sample)
