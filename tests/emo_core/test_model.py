"""EMO as a whole: names, the host's namespace, what a clip is made of."""

from types import SimpleNamespace

import pytest
import torch
from small_models import FRAMES, VARIANTS, draw, small_config, small_model
from torch import nn

from emo_core.model import EMO, ClipInputs
from emo_core.presets import emo, hallo, tiny


class _Linear(nn.Linear):
    pass


class _Conv2d(nn.Conv2d):
    pass


class _GroupNorm(nn.GroupNorm):
    pass


class _LayerNorm(nn.LayerNorm):
    pass


class _Embedding(nn.Embedding):
    pass


HOST = SimpleNamespace(
    Linear=_Linear, Conv2d=_Conv2d, GroupNorm=_GroupNorm, LayerNorm=_LayerNorm,
    Embedding=_Embedding,
)
"""A host's layers, and nothing else: another kind of layer would be an AttributeError."""


@pytest.mark.parametrize("make", [emo, hallo, tiny])
def test_every_weight_lies_in_a_layer_of_the_host(make) -> None:
    model = EMO(make(), device="meta", operations=HOST)
    weighted = 0
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if not own:
            continue
        weighted += 1
        assert not list(module.children()), f"{name} has parameters {sorted(own)} and children"
        assert type(module) in vars(HOST).values(), f"{name} is {type(module)}"
        assert set(own) <= {"weight", "bias"}
    assert weighted > 50


@pytest.mark.parametrize("make", [emo, hallo, tiny])
def test_the_children_have_hallos_names(make) -> None:
    model = EMO(make(), device="meta")
    children = {name for name, _ in model.named_children()}
    expected = {"reference_unet", "denoising_unet", "face_locator", "audioproj"}
    expected |= {"imageproj"} if make is hallo else {"speed_encoder"}
    assert children == expected


def test_dtype_and_device_reach_every_parameter() -> None:
    model = EMO(tiny(), dtype=torch.bfloat16, device="meta")
    for parameter in model.parameters():
        assert parameter.dtype == torch.bfloat16 and parameter.device.type == "meta"


def test_sizes_of_the_presets() -> None:
    def millions(module: nn.Module) -> float:
        return sum(p.numel() for p in module.parameters()) / 1e6

    model = EMO(emo(), device="meta")
    # SD 1.5's 859.5 M without its text attention.
    assert 810 < millions(model.reference_unet) < 820
    assert 1300 < millions(model.denoising_unet) < 1450
    assert millions(EMO(tiny(), device="meta")) < 6.5


def clip_inputs(model: EMO, batch: int = 1) -> ClipInputs:
    audio, window = model.config.audio, 2 * model.config.audio.window + 1
    speeds = None if model.config.speed is None else draw(batch, FRAMES, 3, seed=4).abs()
    return ClipInputs(
        draw(batch, FRAMES, window, audio.num_layers, audio.layer_width, seed=2),
        draw(batch, model.config.locator.in_channels, 64, 64, seed=3).sigmoid(),
        speeds,
        masks=tuple(torch.ones(3, n, n) for n in (8, 4, 2)) if audio.hidden_width else (),
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_clip_holds_every_spot_of_the_walk(variant: str) -> None:
    model = small_model(variant)
    portrait = model.encode_portrait(draw(2, 4, 8, 8))
    clip = model.prepare(portrait, model.no_motion(portrait), clip_inputs(model, 2))
    spots = 10 if variant != "hallo" else 7
    assert len(clip.reference) == len(clip.audio) == 7
    assert len(clip.motion) == spots
    assert len(clip.speed) == (0 if variant == "hallo" else spots)
    assert clip.region.shape == (2, 8, 8, 8)


def test_without_a_speed_no_speed_is_prepared() -> None:
    model = small_model()
    portrait = model.encode_portrait(draw(1, 4, 8, 8))
    inputs = clip_inputs(model)
    quiet = ClipInputs(inputs.audio, inputs.region, None)
    assert not model.prepare(portrait, model.no_motion(portrait), quiet).speed


def test_a_model_without_speed_layers_ignores_no_request() -> None:
    assert not hasattr(EMO(small_config("hallo"), device="meta"), "speed_encoder")
