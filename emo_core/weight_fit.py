"""Whether a weight file fits the networks that are to be filled from it, told group by group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from torch import nn

from .hallo_files import ORIGIN
from .weight_files import WeightFile

# The first part that occurs in a name says which group of layers it belongs to.
_GROUPS = (
    ("audio_encoder.", "audio encoder"),
    ("vae.", "VAE"),
    ("audio_modules", "audio modules"),
    ("audio", "audio layers"),
    ("speed", "speed layers"),
    ("motion_modules", "temporal modules"),
    ("face_locator", "face locator"),
    ("imageproj", "face embedding"),
    ("reference_unet", "ReferenceNet"),
    ("denoising_unet", "backbone"),
)


def check_fit(file: WeightFile, modules: Mapping[str, nn.Module]) -> None:
    """Compare names and shapes with the networks, by the prefix of their names.

    Raises:
        ValueError: if something does not fit; it is said group by group.
    """
    wanted = {
        prefix + name: tuple(tensor.shape)
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
    }
    missing = wanted.keys() - file.shapes.keys()
    unknown = sorted(file.shapes.keys() - wanted.keys())
    other = [n for n, shape in wanted.items() if n in file.shapes and file.shapes[n] != shape]
    faults = _by_group(missing, wanted)
    if unknown:
        faults.append(f"{len(unknown)} unknown keys (first: {unknown[0]})")
    if other:
        name = sorted(other)[0]
        faults.append(
            f"{len(other)} keys of another shape (first: {name}, expected {wanted[name]}, got "
            f"{file.shapes[name]})"
        )
    if faults:
        whose = "Hallo's network" if ORIGIN in file.header else "its own configuration"
        raise ValueError(
            f"{file.path} does not fit {whose}: {'; '.join(faults)}; fetch the file again or ask "
            "whoever made it"
        )


def _by_group(missing: Iterable[str], wanted: Iterable[str]) -> list[str]:
    lacks = Counter(map(_group, missing))
    total = Counter(map(_group, wanted))
    return [
        f"{'no' if count == total[group] else 'incomplete'} {group}: "
        f"{count} of {total[group]} keys missing"
        for group, count in sorted(lacks.items())
    ]


def _group(name: str) -> str:
    return next((group for part, group in _GROUPS if part in name), "other layers")
