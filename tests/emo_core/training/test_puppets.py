"""Laws of the puppet world: the same seed is the same picture, and every control is visible."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from emo_core.training import drawing
from emo_core.training.puppets import (
    CONTROLS,
    IDENTITY_NUMBERS,
    Identity,
    face_boxes,
    make_identity,
    portrait_controls,
    render,
)

REGIONS = {
    "yaw": "face",
    "pitch": "face",
    "roll": "face",
    "tx": "face",
    "ty": "face",
    "scale": "face",
    "open": "lower",
    "width": "lower",
    "teeth": "lower",
    "tongue": "lower",
    "blink": "upper",
    "gaze_x": "upper",
    "gaze_y": "upper",
    "brow": "upper",
}
FINE = (
    (0.4083, 0.0137, 0.0017, 0.0184), (-0.1345, 0.0573, -0.0746, -0.0007),
    (0.9664, -0.0570, 0.0072, -0.1459),
)  # fmt: skip
CHANGES = {"yaw": 15.0, "pitch": 8.0, "roll": 8.0, "tx": 0.05, "ty": 0.05, "scale": 1.1}


def pose(**controls: float) -> Tensor:
    """One frame at rest with some controls changed, (1, 14)."""
    values = {"scale": 1.0, "width": 0.5, **controls}
    return torch.tensor([[values.get(name, 0.0) for name in CONTROLS]])


def crowd(count: int) -> tuple[list[Identity], Tensor]:
    """Many puppets in random poses."""
    low = torch.tensor([-18, -10, -8, -0.03, -0.03, 0.95, *[0.0] * 5, -1.0, -1.0, -1.0])
    high = torch.tensor([18, 10, 8, 0.03, 0.03, 1.05, *[1.0] * 8])
    noise = torch.rand(count, len(CONTROLS), generator=torch.Generator().manual_seed(0))
    return [make_identity(seed) for seed in range(count)], low + (high - low) * noise


def inside(mask: Tensor, box: Sequence[float]) -> float:
    """Share of a mask (size, size) that lies in a box x, y, w, h."""
    size = mask.shape[-1]
    x, y, w, h = (v * size for v in box)
    part = mask[max(0, int(y) - 1) : int(y + h) + 2, max(0, int(x) - 1) : int(x + w) + 2]
    return float(part.sum() / mask.sum())


@pytest.mark.parametrize("seed", [0, 7, 1_000_003, -5, 10**30])
def test_same_seed_is_the_same_picture(seed: int) -> None:
    first, second = (render(make_identity(seed), portrait_controls(seed)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, render(make_identity(seed + 1), portrait_controls(seed)))


def test_the_world_is_frozen() -> None:
    """Coarse colours of three puppets; the trained model knows this world and no other."""
    seeds = (3, 1_000_000, 1_000_001)
    pictures = torch.cat([render(make_identity(s), pose(open=0.5, teeth=0.5)) for s in seeds])
    coarse = torch.nn.functional.avg_pool2d(pictures, 64).mean(1).flatten(1)
    torch.testing.assert_close(coarse, torch.tensor(FROZEN), atol=0.004, rtol=0.0)


def test_the_world_is_frozen_down_to_mouths_and_brows() -> None:
    """Fine waves over three puppets: a mouth opened by 1/20 moves some of them by 0.02."""
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    waves = [torch.cos(0.7 * k * columns + 0.9 * (k + 1) * rows + k - 1) for k in range(1, 5)]

    def seen(**controls: float) -> Tensor:
        seeds = (3, 1_000_000, 1_000_001)
        pictures = [render(make_identity(seed), pose(teeth=0.5, **controls)) for seed in seeds]
        return 1000 * (torch.cat(pictures).mean(1)[:, None] * torch.stack(waves)).mean((-2, -1))

    torch.testing.assert_close(seen(open=0.5), torch.tensor(FINE), atol=0.002, rtol=0.0)
    for other in ({"open": 0.55}, {"open": 0.5, "brow": 0.1}, {"open": 0.5, "blink": 0.1}):
        assert float((seen(**other) - seen(open=0.5)).abs().amax(1).min()) > 0.004


def test_frames_are_pictures_and_do_not_depend_on_their_batch() -> None:
    people, controls = crowd(40)
    together = render(people, controls)
    assert together.shape == (40, 3, 128, 128) and together.dtype == torch.float32
    assert float(together.min()) >= 0.0 and float(together.max()) <= 1.0
    alone = torch.cat([render(who, c[None]) for who, c in zip(people, controls, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=0.0)


def test_windows_cut_nothing_off(monkeypatch: pytest.MonkeyPatch) -> None:
    people, controls = crowd(24)
    cut = render(people, controls)
    monkeypatch.setattr(drawing, "_window", lambda frame, reach, rows, size: (0, 0, size, size))
    torch.testing.assert_close(cut, render(people, controls), atol=1e-3, rtol=0.0)


@pytest.mark.parametrize("size", [64, 96, 256])
def test_sizes_show_the_same_picture(size: int) -> None:
    people, controls = crowd(8)
    small = torch.nn.functional.interpolate(
        render(people, controls), (size, size), mode="bilinear", antialias=True
    )
    assert float((small - render(people, controls, size)).abs().mean()) < 0.012


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("seed", [2, 26, 36])
def test_every_control_shows_where_it_should(name: str, seed: int) -> None:
    who = make_identity(seed)
    start = {"open": 0.5} if name in ("teeth", "tongue") else {}
    before, after = pose(**start), pose(**{**start, name: CHANGES.get(name, 1.0)})
    old, new = render(who, torch.cat([before, after]))
    change = (old - new).abs().mean(0)
    assert float(change.sum()) > 4.0
    x, y, w, h = face_boxes(who, after)[0].tolist()
    areas = {"face": (0, 0, 1, 1), "lower": (x, y + h / 2, w, h / 2), "upper": (x, y, w, 0.65 * h)}
    assert inside(change, areas[REGIONS[name]]) > 0.95


def test_the_mouth_opens_wide_enough_to_read() -> None:
    who = make_identity(1)
    shut, wide = render(who, torch.cat([pose(), pose(open=1.0)]))
    dark = (wide.sum(0) < 0.75) & (shut.sum(0) > 0.9)
    rows = dark[:, 40:90].any(1).sum()
    assert 14 <= int(rows) <= 30


def test_face_boxes_hold_the_head_and_follow_it() -> None:
    people, controls = crowd(30)
    boxes = face_boxes(people, controls)
    assert boxes.shape == (30, 4)
    assert bool((boxes >= 0).all()) and bool((boxes[:, :2] + boxes[:, 2:] <= 1.0001).all())
    moved = controls.clone()
    moved[:, CONTROLS.index("blink")] = 1 - moved[:, CONTROLS.index("blink")].round()
    change = (render(people, controls) - render(people, moved)).abs().mean(1)
    assert min(inside(c, b) for c, b in zip(change, boxes.tolist(), strict=True)) > 0.99
    who = people[0]
    middle = face_boxes(who, torch.cat([pose(), pose(tx=0.05), pose(ty=0.05), pose(scale=1.1)]))
    assert float(middle[1, 0] - middle[0, 0]) == pytest.approx(0.05, abs=1e-5)
    assert float(middle[2, 1] - middle[0, 1]) == pytest.approx(0.05, abs=1e-5)
    assert float(middle[3, 2] / middle[0, 2]) == pytest.approx(1.1, abs=1e-4)


def test_identity_numbers_and_framing_stay_in_their_ranges() -> None:
    people = [make_identity(seed) for seed in range(300)]
    numbers = torch.stack([who.numbers for who in people])
    framing = torch.stack([who.framing for who in people])
    assert numbers.shape == (300, len(IDENTITY_NUMBERS))
    assert float(numbers.min()) >= 0.0 and float(numbers.max()) <= 1.0
    assert float(framing[:, :2].abs().max()) <= 0.1
    assert float(framing[:, 2].min()) >= 0.85 and float(framing[:, 2].max()) <= 1.15
    for group in ("species", "hair", "glasses", "beard", "hat"):
        columns = [i for i, name in enumerate(IDENTITY_NUMBERS) if name.startswith(group + "=")]
        assert torch.equal(numbers[:, columns].sum(1), torch.ones(300))
    human = numbers[:, IDENTITY_NUMBERS.index("species=human")].mean()
    assert 0.75 < float(human) < 0.9


def test_portraits_are_calm() -> None:
    controls = torch.cat([portrait_controls(seed) for seed in range(50)])
    assert float(controls[:, CONTROLS.index("open")].max()) < 0.1
    assert float(controls[:, CONTROLS.index("blink")].max()) == 0.0
    assert float(controls[:, CONTROLS.index("yaw")].abs().max()) < 10
    assert torch.equal(portrait_controls(9), portrait_controls(9))


def test_no_frames_and_wrong_shapes() -> None:
    who = make_identity(0)
    assert render(who, torch.zeros(0, 14)).shape == (0, 3, 128, 128)
    assert face_boxes(who, torch.zeros(0, 14)).shape == (0, 4)
    with pytest.raises(ValueError, match="14"):
        render(who, torch.zeros(3, 13))
    with pytest.raises(ValueError, match="identities"):
        render([who], torch.cat([pose(), pose()]))
    with pytest.raises(ValueError, match="finite"):
        render(who, pose(yaw=float("nan")))


FROZEN = [
    [0.6136, 0.6215, 0.5551, 0.5227],
    [0.6621, 0.6554, 0.6646, 0.6318],
    [0.5762, 0.6083, 0.5948, 0.6338],
]
