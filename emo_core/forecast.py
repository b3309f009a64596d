"""What a film will need, counted before anything is sampled.

The networks run once on PyTorch's meta device, where tensors have sizes and no content. Not seen is
what an operator takes for itself, such as a convolution's workspace, and what the host keeps free.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .conditions import Conditions
from .config import EMOConfig
from .live_bytes import bytes_of
from .memory import blank_inputs, metered, weights_of
from .model import EMO
from .sampling import Guidance, predict


@dataclass(frozen=True)
class StepBytes:
    """What one sampling step needs on its device.

    Attributes:
        weights: of all networks of the model but VAE and audio encoder.
        conditions: of a clip, constant over its steps: features, tokens, keys and values.
        activations: most that lives at once beside them.
    """

    weights: int
    conditions: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.conditions + self.activations


@dataclass(frozen=True)
class Forecast:
    """What a whole film needs.

    Attributes:
        step: on the device.
        latents: of its frames, in memory or in a mapped file.
        clips: of the clips that are to be sampled, on disk if they are kept.
        pictures: of its frames as IMAGE, which EMODecodeVideo never holds.
    """

    step: StepBytes
    latents: int
    clips: int
    pictures: int

    def __str__(self) -> str:
        step = self.step
        return (
            f"needs {_size(step.total)} to sample (weights {_size(step.weights)}, a clip's "
            f"conditions {_size(step.conditions)}, activations {_size(step.activations)}); the "
            f"film's latents are {_size(self.latents)}, its frames as IMAGE would be "
            f"{_size(self.pictures)}"
        )


@dataclass(frozen=True)
class Room:
    """What there is, in bytes.

    Attributes:
        device: free where the networks run, or to be freed.
        memory: free in the computer's memory.
        disk: free where clips are kept; None if none are.
        shared: whether the device's memory is the computer's.
    """

    device: int
    memory: int
    disk: int | None
    shared: bool


@lru_cache(maxsize=8)
def step_bytes(config: EMOConfig, guidance: Guidance, dtype: torch.dtype) -> StepBytes:
    """Count what a step needs.

    Args:
        config: the model.
        guidance: how many branches run as one batch; the scales do not matter.
        dtype: what the networks compute in and are kept in.
    """
    with torch.no_grad():
        model = EMO(config, dtype, "meta")
        # Metered for the sake of norms, which meta is slow at.
        conditions, _ = metered(lambda: _conditions(model))
        clip = model.denoising_unet.prepare(conditions)
        side, channels = config.latent_size, config.unet.latent_channels
        shape = (1, config.temporal.num_frames, channels, side, side)
        latents = torch.empty(shape, device="meta", dtype=dtype)
        _, work = metered(lambda: predict(model.denoising_unet, latents, 999, clip, guidance))
        weights = sum(weights_of(model).values())
        return StepBytes(weights, bytes_of([conditions, clip]), work)


def forecast(config: EMOConfig, step: StepBytes, num_frames: int, clips_to_sample: int) -> Forecast:
    """Count what a film needs.

    Args:
        config: the model.
        step: of step_bytes().
        num_frames: of the film.
        clips_to_sample: clips that are not kept from before.
    """
    side, size = config.latent_size, config.picture_size
    frame = config.unet.latent_channels * side * side * torch.float32.itemsize
    return Forecast(
        step=step,
        latents=num_frames * frame,
        clips=clips_to_sample * config.temporal.num_frames * frame,
        pictures=num_frames * 3 * size * size * torch.float32.itemsize,
    )


def what_does_not_fit(needs: Forecast, room: Room) -> list[str]:
    """A sentence for everything that is too large, with what to change; [] if all fits."""
    step, said = needs.step, []
    running = step.conditions + step.activations
    if running > room.device:
        said.append(
            f"a step needs {_size(running)} beside the weights and {_size(room.device)} are free; "
            "set cfg to 1, load the model in fp16, close what else uses the memory, or take "
            "weights for smaller pictures"
        )
    elif step.total > room.device:
        said.append(
            f"the weights ({_size(step.weights)}) do not fit beside a step into the "
            f"{_size(room.device)} that are free, so that they are moved in parts, which is "
            "slower; load the model in fp16, or close what else uses the memory"
        )
    in_memory = needs.latents if room.disk is None else 0
    # Joining the clips needs them twice for a moment.
    if 2 * in_memory + (step.total if room.shared else 0) > room.memory and in_memory:
        said.append(
            f"the film's latents need {_size(2 * in_memory)} of memory and {_size(room.memory)} "
            "are free; turn keep_clips on, which leaves them on the disk, or make the film in parts"
        )
    if room.disk is not None and needs.clips + needs.latents > room.disk:
        said.append(
            f"keeping the clips and the film needs {_size(needs.clips + needs.latents)} of disk "
            f"and {_size(room.disk)} are free; make room there, or the clips that do not fit are "
            "not kept"
        )
    return said


def _conditions(model: EMO) -> Conditions:
    """Of a clip in the middle of a film, on the meta device."""
    config, dtype = model.config, next(model.parameters()).dtype
    channels, side, size = config.unet.latent_channels, config.latent_size, config.picture_size

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta", dtype=dtype)

    inputs = blank_inputs(config, (size, size), torch.Size((side, side)), empty)
    portrait = model.encode_portrait(empty(1, channels, side, side), inputs.face)
    before = empty(1, config.temporal.num_motion_frames, channels, side, side)
    return model.conditions(portrait, model.encode_motion(before, inputs.face), inputs)


def _size(count: int) -> str:
    """Bytes for people: 3.2 GB, 45 MB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1000:.0f} KB"
