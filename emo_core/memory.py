"""What a film takes in memory: bytes of weights, kept conditions and work; counted, not measured.

The networks are built on the meta device, where tensors have shapes and no numbers, and run through
every stage once, under live_bytes.LiveBytes. What libraries take besides (convolution workspaces,
the allocator's rounding, CUDA itself) is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .audio import AudioEncoder, stretch_rows
from .config import EMOConfig
from .live_bytes import LiveBytes, bytes_of
from .model import EMO, ClipInputs
from .pictures import Size
from .reference import halved
from .sampling import Guidance, predict
from .vae import AutoencoderKL, decode_in_parts
from .vae_config import VAEConfig
from .waveform import SAMPLE_RATE

# The first part that occurs in a name says whose weight it is.
_PARTS = (
    ("reference_unet.", "ReferenceNet"),
    ("audio_modules.", "audio modules"),
    ("attn_audio.", "audio modules"),
    ("norm_audio.", "audio modules"),
    ("motion_modules.", "temporal modules"),
    ("denoising_unet.", "backbone"),
    ("face_locator.", "face locator"),
    ("", "projections"),
)


@dataclass(frozen=True)
class Memory:
    """Bytes of one film.

    They do not depend on its length but for what hears a sound as a whole: wav2vec2 takes 13 MB
    for each second with Hallo's weights (windows "whole_file"), never more than for 60 s with
    Hallo2's.

    Attributes:
        weights: of each part of the model.
        kept: what stays beside them while a clip is sampled: the portrait's features, and the
            clip's conditions with their keys and values.
        work: what each stage needs on top, at its worst moment.
    """

    weights: dict[str, int]
    kept: dict[str, int]
    work: dict[str, int]

    @property
    def peak(self) -> int:
        """The most of a run in which every part stays on the device."""
        return sum(self.weights.values()) + sum(self.kept.values()) + max(self.work.values())


def memory_of(
    config: EMOConfig,
    dtype: torch.dtype = torch.float16,
    size: Size | None = None,
    vae: VAEConfig | None = None,
    audio_encoder: AudioEncoder | None = None,
    seconds: int = 60,
) -> Memory:
    """Count what a film of a model takes.

    Args:
        config: the model.
        dtype: what it is kept and computed in.
        size: rows and columns of the film; None for the model's own square.
        vae: the VAE's widths; None for SD 1.5's.
        audio_encoder: on the meta device; None leaves it out.
        seconds: of sound, for a model that hears all of it at once (Hallo); others hear 24 s at
            once, or 60 (Hallo2).
    """
    size = size or (config.picture_size, config.picture_size)
    vae = vae or VAEConfig.sd15()
    model = EMO(config, dtype, "meta").requires_grad_(False)
    coder = AutoencoderKL(vae, dtype, "meta").requires_grad_(False)
    weights = weights_of(model)
    weights["VAE"] = bytes_of(list(coder.parameters()))
    with torch.no_grad():
        kept, work = _run(model, coder, dtype, size)
        if audio_encoder is not None:
            weights["audio encoder"] = bytes_of(list(audio_encoder.parameters()))
            at_once = {"grid": 24, "pieces_60s": 60, "whole_file": seconds}[config.audio.windows]
            name = f"the audio encoder hears {at_once} s"
            work[name] = _hearing(audio_encoder, at_once, config.frame_rate)
    return Memory(weights, kept, work)


def weights_of(model: EMO) -> dict[str, int]:
    """Bytes of a network's weights, by part."""
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = next(part for piece, part in _PARTS if piece in name)
        found[part] = found.get(part, 0) + parameter.numel() * parameter.element_size()
    return found


def _run(
    model: EMO, vae: AutoencoderKL, dtype: torch.dtype, size: Size
) -> tuple[dict[str, int], dict[str, int]]:
    """One clip with guidance on the meta device: what is kept, and what each stage needs on top."""
    config, work = model.config, {}
    frames, count = config.temporal.num_frames, config.temporal.num_motion_frames

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    def stage(name: str, call: Callable[[], Any]) -> Any:
        made, work[name] = metered(call)
        return made

    latents = stage("VAE encodes the portrait", lambda: vae.encode(empty(1, 3, *size)))
    before = empty(1, count, *latents.shape[1:])
    if config.temporal.hand_over == "pixels":
        before = stage(
            "VAE decodes and encodes the motion frames",
            lambda: vae.encode(vae.decode(before[0]))[None],
        )
    inputs = empty_inputs(config, size, latents.shape[-2:], empty)
    portrait = stage(
        "ReferenceNet sees the portrait", lambda: model.encode_portrait(latents, inputs.face)
    )
    conditions = stage(
        "ReferenceNet sees the motion frames",
        lambda: model.conditions(portrait, model.encode_motion(before, inputs.face), inputs),
    )
    clip = stage("keys and values", lambda: model.denoising_unet.prepare(conditions))
    noise = empty(1, frames, *latents.shape[1:])
    stage(
        "a sampling step with guidance",
        lambda: predict(model.denoising_unet, noise, 999, clip, Guidance(3.5)),
    )
    stage("VAE decodes a clip", lambda: decode_in_parts(vae, noise[0]))
    of_portrait = bytes_of(portrait)
    kept = {
        "the portrait's features": of_portrait,
        "the clip's conditions": bytes_of((conditions, clip)) - of_portrait,
        "latents": 2 * bytes_of(noise),
    }
    return kept, work


def _hearing(encoder: AudioEncoder, seconds: int, frame_rate: int) -> int:
    dtype = next(encoder.parameters()).dtype
    sound = torch.empty(1, seconds * SAMPLE_RATE, dtype=dtype, device="meta")
    _, peak = metered(
        lambda: encoder(sound, lambda rows: stretch_rows(rows, seconds * frame_rate))
    )
    return peak


def empty_inputs(
    config: EMOConfig, size: Size, cells: Sequence[int], empty: Callable[..., Tensor]
) -> ClipInputs:
    """A clip's inputs without numbers.

    Args:
        config: the model.
        size: rows and columns of the film.
        cells: those of its latents.
        empty: makes a tensor of a shape.
    """
    audio, frames = config.audio, config.temporal.num_frames
    face, speed = None, None
    masks: tuple[Tensor, ...] = ()
    if config.unet.face_tokens:
        face = empty(1, config.unet.face_embedding_width)
    if config.speed is not None:
        speed = empty(1, frames, 2 * config.speed.window + 1)
    if audio.attention == "masked3":
        levels = range(len(config.unet.widths))
        masks = tuple(empty(3, halved(cells[0], i), halved(cells[1], i)) for i in levels)
    heard = empty(1, frames, 2 * audio.window + 1, audio.num_layers, audio.layer_width)
    return ClipInputs(heard, empty(1, config.locator.in_channels, *size), speed, face, masks)


def metered(call: Callable[[], Any]) -> tuple[Any, int]:
    """Call it; give what it returns, and the most bytes of tensors it had at once."""
    with _Fused(), LiveBytes() as live:
        made = call()
    return made, live.peak


class _Fused(TorchFunctionMode):
    """Attention and norms that make their output and nothing else, as fused kernels do.

    The meta device's own are made of small operators, with a matrix of all products among them.
    """

    _WHOLE = (
        functional.scaled_dot_product_attention, functional.group_norm, functional.layer_norm
    )  # fmt: skip

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run a function, or give an empty tensor of what it would give."""
        if func in self._WHOLE:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))
