"""LoRAs of SD 1.5 in every style of keys that the host reads, on a backbone with diffusers' names.

The host finds a UNet's LoRA keys from a description of its blocks, and names its weights as
Stable Diffusion's first code did. Ours have diffusers' names: what the host addresses by the one is
patched by the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.model_patcher
import comfy.utils

from ..emo_core.config import UNetConfig

_PREFIX = "diffusion_model."

CoreModelPatcher = getattr(
    comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher
)  # newer hosts load weights as they are used, through a patcher of another name


def describe_blocks(unet: UNetConfig) -> dict[str, Any]:
    """A backbone's blocks as the host describes those of a UNet."""
    levels, layers = range(len(unet.widths)), unet.layers_per_block
    depths = [int(level in unet.attention_levels) for level in levels]
    return {
        # The width is what FreeU and its like ask for.
        "model_channels": unet.widths[0],
        "channel_mult": [width // unet.widths[0] for width in unet.widths],
        "num_res_blocks": [layers for _ in levels],
        "transformer_depth": [depth for depth in depths for _ in range(layers)],
        "transformer_depth_output": [depth for depth in depths for _ in range(layers + 1)],
        "transformer_depth_middle": 1,
    }


def own_names(blocks: Mapping[str, Any]) -> dict[str, str]:
    """Names of our weights by those under which the host addresses them."""
    theirs = comfy.utils.unet_to_diffusers(blocks)
    return {f"{_PREFIX}{name}": f"{_PREFIX}{ours}" for ours, name in theirs.items()}


class EMOPatcher(CoreModelPatcher):  # type: ignore[misc, valid-type]
    """The host's patcher, which takes patches by the host's names too."""

    def add_patches(self, patches: Mapping[Any, Any], *args: Any, **kwargs: Any) -> list[Any]:
        """See the host; the keys that were patched come back as they were given."""
        ours = self._own(patches)
        self._check_merge({one: patches[key] for key, one in ours.items()})
        found = set(super().add_patches({one: patches[key] for key, one in ours.items()},
                                        *args, **kwargs))  # fmt: skip
        return [key for key, one in ours.items() if one in found]

    def add_hook_patches(
        self, hook: Any, patches: Mapping[Any, Any], *args: Any, **kwargs: Any
    ) -> list[Any]:
        """The same for LoRAs that are scheduled by hooks."""
        ours = self._own(patches)
        found = set(super().add_hook_patches(hook, {one: patches[key] for key, one in ours.items()},
                                             *args, **kwargs))  # fmt: skip
        return [key for key, one in ours.items() if one in found]

    def _check_merge(self, patches: Mapping[Any, Any]) -> None:
        """Refuse weights of another network, of which the host would merge a part in silence.

        Where a shape differs it takes the first ratio of ours and adds nothing.
        """
        for name, patch in patches.items():
            if not isinstance(patch, list):  # a list is a whole weight, as merges bring it
                continue
            theirs, own = patch[0][0].shape, self._weight(name)
            if own is None or own.shape != theirs:
                here = "has none of that name" if own is None else f"has {tuple(own.shape)}"
                raise ValueError(
                    f"the MODEL that is merged in is another network: its {name} has the shape "
                    f"{tuple(theirs)} and EMO's {here}; merge MODELs of EMO Model Loader with the "
                    "same layers"
                )

    def _weight(self, name: str) -> Any:
        try:
            return comfy.utils.get_attr(self.model, name)
        except AttributeError:
            return None

    def _own(self, patches: Mapping[Any, Any]) -> dict[Any, Any]:
        """Our key by each given one; of a key with an offset its name is the first part."""
        names: Mapping[str, str] = self.model.own_names
        return {
            key: names.get(key, key) if isinstance(key, str)
            else (names.get(key[0], key[0]), *key[1:])
            for key in patches
        }  # fmt: skip
