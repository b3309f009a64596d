"""The preset hallo() has the names and shapes of Hallo's published net.pth."""

import json
from pathlib import Path

import torch
from small_models import FRAMES, draw, make_conditions, small_model

from emo_core.conditions import Audience
from emo_core.model import EMO
from emo_core.presets import hallo

FIXTURE = Path(__file__).parents[1] / "fixtures" / "hallo-net-keys.json"

# What is in the file and cannot influence the output: the coarsest level's motion modules, which
# Hallo's inference skips, and all that follows the last norm that the backbone reads.
SKIPPED_MODULES = tuple(
    f"denoising_unet.{block}.motion_modules.{j}."
    for block, count in (("down_blocks.3", 2), ("up_blocks.0", 3))
    for j in range(count)
)
LAST = "reference_unet.up_blocks.3.attentions.2."
KEPT_OF_LAST = ("norm.", "proj_in.", "transformer_blocks.0.norm1.")


def published() -> dict[str, tuple[int, ...]]:
    """Names and shapes; the fixture lists each kind of module once."""
    stored = json.loads(FIXTURE.read_text(encoding="utf-8"))
    return {
        f"{module}.{name}": tuple(shape)
        for module, table in stored["modules"].items()
        for name, shape in stored["tables"][table].items()
    }


def without_influence(name: str) -> bool:
    if name.startswith(SKIPPED_MODULES):
        return True
    return name.startswith(LAST) and not name.removeprefix(LAST).startswith(KEPT_OF_LAST)


def test_the_table_is_the_whole_file() -> None:
    table = published()
    assert len(table) == 2656
    listed = [name for name in table if without_influence(name)]
    assert len(listed) == 160
    assert sum(name.startswith(SKIPPED_MODULES) for name in listed) == 5 * 28
    values = sum(torch.Size(table[name]).numel() for name in listed if not name.endswith(".pe"))
    assert 182e6 < values < 184e6


def test_names_and_shapes() -> None:
    expected = {name: shape for name, shape in published().items() if not without_influence(name)}
    model = EMO(hallo(), device="meta")
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert found == expected


def test_a_small_one_runs_with_masks_and_face_tokens() -> None:
    model = small_model("hallo")
    conditions = make_conditions(model, batch=2)
    clip = model.denoising_unet.prepare(conditions)
    latents = draw(4, FRAMES, 4, 8, 8)
    branches = (frozenset(), frozenset({"reference", "audio", "region", "speed"}))
    audience = Audience.of_branches(branches, 2, torch.device("cpu"))
    out = model.denoising_unet(latents, torch.full((4,), 500), clip, audience)
    assert out.shape == latents.shape and out.isfinite().all()
    assert len(clip.masks) == 3 and len(clip.face) == 7
