"""EMOHalloNoise: the random numbers of Hallo's own program, as NOISE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..emo_core.clips import StreamNoise
from .compat import Schema, io
from .host import parts_of

_PUBLISHED_SEED = 42


@dataclass(frozen=True)
class HalloNoise:
    """NOISE in one stream over all clips of a film.

    Attributes:
        seed: of the stream.
        clip_index: which clip generate_noise() is for; EMO's samplers count for themselves.
        greyed: pixels of a latent cell's side, for weights that draw a mask of the pixels before
            each clip's noise (Hallo2); None for others.
    """

    seed: int
    clip_index: int
    greyed: int | None

    def stream(self, shape: tuple[int, ...]) -> StreamNoise:
        """The stream for clips of a shape (F, C, h, w)."""
        mask = None
        if self.greyed is not None:
            mask = (shape[-2] * self.greyed, shape[-1] * self.greyed)
        return StreamNoise(self.seed, shape, mask)

    def generate_noise(self, latent: dict[str, Any]) -> Tensor:
        """What core samplers ask for: the noise of clip `clip_index`."""
        shape = tuple(latent["samples"].shape)
        return torch.as_tensor(self.stream(shape).latents(self.clip_index, shape))


class EMOHalloNoise(io.ComfyNode):
    """Hallo's own stream of noise."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the node takes and gives."""
        return Schema(
            node_id="EMOHalloNoise",
            display_name="EMO Hallo Noise",
            category="EMO/advanced",
            description="The random numbers of Hallo's own program, in one stream over all clips "
            "of a film, to make the film that it would make; for comparisons.",
            search_aliases=["hallo", "noise", "reproduce", "seed"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The MODEL of EMO Model Loader that samples the film, since "
                    "Hallo2's weights draw more numbers from the stream than Hallo's.",
                ),
                io.Int.Input(
                    "stream_seed", default=_PUBLISHED_SEED, min=0, max=0xFFFFFFFFFFFFFFFF,
                    tooltip="Seed of the stream, 0 to 2^64-1; Hallo's own program uses 42, another "
                    "number is another take.",
                ),
                io.Int.Input(
                    "clip_index", default=0, min=0, max=1_000_000,
                    tooltip="Which clip of the film the noise is for in core samplers, 0 for the "
                    "first; EMO Sampler and Motion Frame Looper count for themselves.",
                ),
            ],
            outputs=[
                io.Noise.Output(
                    "noise", display_name="noise",
                    tooltip="A NOISE for the noise socket of EMO's samplers and of core "
                    "SamplerCustomAdvanced.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model: Any, stream_seed: int, clip_index: int) -> io.NodeOutput:
        """Make it."""
        config = parts_of(model).config
        greyed = config.latent_factor if config.temporal.motion_mask else None
        return io.NodeOutput(HalloNoise(stream_seed, clip_index, greyed))
