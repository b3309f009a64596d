"""What a film will need, counted before it is made: no step is run, and nothing is guessed by name.

The networks run once on PyTorch's meta device, where tensors have sizes and no content. Not seen is
what an operator takes for itself, such as a convolution's workspace, and what the host keeps free;
nor the audio encoder, which has heard the sound before a film is forecast (memory.py counts it).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .conditions import Clip, Conditions
from .config import EMOConfig
from .live_bytes import bytes_of
from .memory import empty_inputs, metered
from .model import EMO
from .pictures import Size
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
def step_bytes(
    config: EMOConfig, guidance: Guidance, dtype: torch.dtype, size: Size | None = None
) -> StepBytes:
    """Count what a step needs.

    Args:
        config: the model.
        guidance: how many branches run as one batch; the scales do not matter.
        dtype: what the networks compute in and are kept in.
        size: rows and columns of the film; None for the model's own square.
    """
    temporal = config.temporal
    size, cells = _sizes(config, size)
    model = EMO(config, dtype, "meta").requires_grad_(False)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    def conditions() -> tuple[Conditions, Clip]:
        """Of a clip in the middle of a film."""
        channels = config.unet.latent_channels
        portrait = model.encode_portrait(empty(1, channels, *cells))
        motion = model.encode_motion(empty(1, temporal.num_motion_frames, channels, *cells))
        inputs = empty_inputs(config, size, cells, empty)
        made = model.conditions(portrait, motion, inputs)
        return made, model.denoising_unet.prepare(made)

    latents = empty(1, temporal.num_frames, config.unet.latent_channels, *cells)
    (made, clip), _ = metered(conditions)
    _, peak = metered(lambda: predict(model.denoising_unet, latents, 999, clip, guidance))
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return StepBytes(weights, bytes_of([made, clip]), peak)


def forecast(
    config: EMOConfig, step: StepBytes, num_frames: int, clips_to_sample: int,
    size: Size | None = None,
) -> Forecast:
    """Count what a film needs.

    Args:
        config: the model.
        step: of step_bytes().
        num_frames: of the film.
        clips_to_sample: clips that are not kept from before.
        size: rows and columns of the film; None for the model's own square.
    """
    size, cells = _sizes(config, size)
    frame = config.unet.latent_channels * cells[0] * cells[1] * torch.float32.itemsize
    return Forecast(
        step=step,
        latents=num_frames * frame,
        clips=clips_to_sample * config.temporal.num_frames * frame,
        pictures=num_frames * 3 * size[0] * size[1] * torch.float32.itemsize,
    )


def _sizes(config: EMOConfig, size: Size | None) -> tuple[Size, Size]:
    """Rows and columns of a film and of its latents."""
    rows, columns = size or (config.picture_size, config.picture_size)
    return (rows, columns), (rows // config.latent_factor, columns // config.latent_factor)


def what_does_not_fit(needs: Forecast, room: Room) -> list[str]:
    """A sentence for everything that is too large, with what to change; [] if all fits."""
    step, said = needs.step, []
    running = step.conditions + step.activations
    if running > room.device:
        said.append(
            f"a step needs {_size(running)} beside the weights and {_size(room.device)} are free; "
            "set cfg to 1, load the model in fp16, close what else uses the memory, or make "
            "a smaller film"
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


def _size(count: int) -> str:
    """Bytes for people: 3.2 GB, 45 MB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1000:.0f} KB"
