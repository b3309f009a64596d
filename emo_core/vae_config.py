"""What a picture autoencoder is: its widths, and their names in LDM and ComfyUI."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class VAEConfig:
    """Widths of an autoencoder, by the names of LDM's `ddconfig`.

    Attributes:
        ch: channels at full resolution; `ch * ch_mult[i]` must be multiples of `norm_groups`.
        ch_mult: width of each level over `ch`; every level but the last halves the picture.
        num_res_blocks: ResNet blocks per encoder level; the decoder has one more.
        z_channels: latent channels.
        in_channels: channels of the picture that is encoded.
        out_ch: channels of the picture that is decoded.
        scaling_factor: multiplies the posterior mean, so that latents have about unit variance.
        double_z: whether the encoder also gives a log-variance.
        norm_groups: groups of every GroupNorm. LDM's code has 32 at its 128 channels; 32 groups of
            one channel would take each channel's mean away, and the picture's colours with it.
    """

    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    z_channels: int
    in_channels: int
    out_ch: int
    scaling_factor: float
    double_z: bool
    norm_groups: int

    def __post_init__(self) -> None:
        """Refuse widths that the groups of the normalisation cannot divide."""
        for multiple in self.ch_mult:
            if (self.ch * multiple) % self.norm_groups:
                raise ValueError(
                    f"every level of the VAE needs a multiple of {self.norm_groups} channels, "
                    f"got ch={self.ch} x {multiple}; choose ch and ch_mult accordingly"
                )

    @classmethod
    def sd15(cls) -> VAEConfig:
        """Stable Diffusion 1.5's autoencoder."""
        return cls(128, (1, 2, 4, 4), 2, 4, 3, 3, 0.18215, True, 32)

    @classmethod
    def tiny(cls) -> VAEConfig:
        """emo-tiny's autoencoder: 12 latent channels of unit variance, so no scaling.

        Its deepest level is narrow because everything emo-tiny ships must fit in 16 MB.
        """
        return cls(32, (1, 1, 2, 3), 1, 12, 3, 3, 1.0, True, 8)

    @property
    def factor(self) -> int:
        """Picture side over latent side."""
        return 1 << (len(self.ch_mult) - 1)

    def to_json(self) -> str:
        """The configuration as one line of JSON, for a checkpoint's header."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> VAEConfig:
        """Read what `to_json` wrote.

        Raises:
            ValueError: if the text is not a VAE configuration.
        """
        try:
            values = json.loads(text)
            return cls(**{**values, "ch_mult": tuple(values["ch_mult"])})
        except (TypeError, KeyError, json.JSONDecodeError, RecursionError) as error:
            raise ValueError(
                f"expected the JSON of a VAE configuration, got {text[:80]!r} ({error})"
            ) from error

    def ddconfig(self) -> dict[str, Any]:
        """The keyword arguments from which LDM (and ComfyUI) build the same encoder and decoder.

        They have no word for the groups: with `norm_groups` other than 32 the weights still load
        strictly, but every GroupNorm's `num_groups` must then be set, or the pictures are wrong.
        """
        values = asdict(self)
        del values["scaling_factor"], values["norm_groups"]
        values["ch_mult"] = list(self.ch_mult)
        return {**values, "resolution": 256, "attn_resolutions": [], "dropout": 0.0}
