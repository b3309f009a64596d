"""EMODecodeVideo: latents become a film with sound, decoded and written piece by piece."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ..emo_core.finite import all_finite
from ..emo_core.video import VideoWriter
from .compat import InputImpl, Schema, io, ui
from .host import check_interrupted
from .kept_film import (
    NONE,
    about,
    check_film,
    check_vae,
    film_state,
    film_widget,
    opened_film,
    wants_latent,
)
from .waveform import cut_audio

logger = logging.getLogger(__name__)

_BROADCAST = (24, 30, 48, 60, 120)
"""Frame rates that have a sister a thousandth slower: 29.97 is 30000/1001."""


class EMODecodeVideo(io.ComfyNode):
    """LATENT and AUDIO in, VIDEO out; memory does not grow with the film."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets of the node."""
        return Schema(
            node_id="EMODecodeVideo",
            display_name="EMO Decode Video",
            category="EMO",
            description="Decodes the frames of a film a few at a time, writes them at once to a "
            "file with the sound, and gives the film for Save Video.",
            search_aliases=["decode", "video", "film", "latent to video", "combine video"],
            inputs=_inputs(),
            outputs=[
                io.Video.Output(
                    "video",
                    display_name="video",
                    tooltip="The film, H.264 with AAC sound, in ComfyUI's temp folder until "
                    "ComfyUI ends or starts again; connect Save Video to keep it.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, kept_film: str = NONE) -> bool | str:
        """A saved workflow may name a film that is gone; the list that was offered is no matter."""
        return check_film(kept_film)

    @classmethod
    def fingerprint_inputs(cls, kept_film: str = NONE, **_: Any) -> str:
        """A kept film is decoded again when it has grown."""
        return film_state(kept_film)

    @classmethod
    def check_lazy_status(cls, kept_film: str = NONE, **given: Any) -> list[str]:
        """For a kept film nothing is sampled."""
        return ["latent"] if wants_latent(given, kept_film) else []

    @classmethod
    def execute(
        cls, vae: Any, fps: float, clip_frames: int, latent: Any = None, audio: Any = None,
        kept_film: str = NONE,
    ) -> io.NodeOutput:  # fmt: skip
        """Write the film."""
        rate, scale, shown = frame_rate(fps), 1.0, None
        if kept_film != NONE:
            opened = opened_film(kept_film)
            rate, scale = Fraction(opened.film.frame_rate), opened.film.scale
            doubt = check_vae(opened, kept_film, vae)
            said = about(opened, kept_film, float(rate))
            shown = ui.PreviewText(said if doubt is None else f"{said}\n{doubt}")
            latent = {"samples": opened.frames}
        samples = _samples(latent, vae)
        sound = None if audio is None else _film_sound(audio, len(samples), rate)
        path = _new_film()
        try:
            _write(path, _decoded(vae, samples, clip_frames, scale), rate, sound)
        except OSError as error:
            raise ValueError(
                f"{error} (the folder for films on their way is ComfyUI's start option "
                "--temp-directory)"
            ) from error
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), ui=shown)


def _inputs() -> list[Any]:
    return [
        io.Vae.Input(
            "vae",
            tooltip="What turns latents into pictures: the VAE of EMO Model Loader, or the one "
            "that the reference was encoded with.",
        ),
        io.Latent.Input(
            "latent",
            optional=True,
            lazy=True,
            tooltip="The frames of the film as a batch [frames, channels, height, width], from "
            "EMO Motion Frame Looper, EMO Sampler or a core sampler; left out, and not even "
            "sampled, where a kept film is chosen.",
        ),
        io.Audio.Input(
            "audio",
            optional=True,
            tooltip="The sound of the film, at any sample rate and with up to eight channels; "
            "connect EMO Load Audio Embedding's, which is cut to the film, or nothing for a silent "
            "film.",
        ),
        io.Float.Input(
            "fps",
            default=25.0,
            min=1.0,
            max=240.0,
            step=0.001,
            tooltip="Frames per second, from 1 to 240: connect EMO Load Audio Embedding's, because "
            "with any other number the lips leave the sound.",
        ),
        io.Int.Input(
            "clip_frames",
            default=12,
            min=1,
            max=256,
            tooltip="Frames decoded at once, from 1 to 256: lower it when memory runs out, raise "
            "it when a large GPU has nothing to do; the film is the same.",
        ),
        film_widget(),
    ]


def frame_rate(fps: float) -> Fraction:
    """The exact rate that a number of frames per second stands for; 29.97 is 30000/1001.

    Raises:
        ValueError: if it is not finite or not above 0.
    """
    if not 0 < fps < float("inf"):
        raise ValueError(
            f"fps must be a number above 0, got {fps}; connect EMO Load Audio Embedding's"
        )
    for nominal in _BROADCAST:
        slower = Fraction(nominal * 1000, 1001)
        if abs(fps - slower) < 0.005:
            return slower
    return Fraction(fps).limit_denominator(1001)


def _samples(latent: Any, vae: Any) -> Tensor:
    """The latents (F, C, h, w) of a LATENT, checked against the VAE."""
    if vae is None:
        raise ValueError("there is no VAE; connect the VAE output of EMO Model Loader")
    if latent is None:
        raise ValueError(
            "there is nothing to decode: connect EMO Motion Frame Looper to latent, or choose a "
            "kept_film"
        )
    samples = latent["samples"]
    if not isinstance(samples, Tensor) or samples.ndim != 4:
        got = list(samples.shape) if isinstance(samples, Tensor) else type(samples).__name__
        raise ValueError(
            f"the latent must be [frames, channels, height, width], got {got}; connect "
            "EMO Motion Frame Looper or EMO Sampler, not a video model's or an audio model's latent"
        )
    if samples.numel() == 0:
        raise ValueError(
            f"the latent holds no frames, its shape is {list(samples.shape)}; give at least one"
        )
    channels = getattr(vae, "latent_channels", samples.shape[1])
    if samples.shape[1] != channels:
        raise ValueError(
            f"the latent has {samples.shape[1]} channels and the VAE decodes {channels}; connect "
            "the VAE of the model that sampled it, which is EMO Model Loader's for emo-tiny"
        )
    if not all_finite(samples):
        raise ValueError(
            "the latent holds NaN or infinite numbers, so sampling failed: lower cfg, take more "
            "steps, or load the model in fp32"
        )
    return samples.detach()


def _film_sound(audio: Any, num_frames: int, rate: Fraction) -> tuple[Tensor, int] | None:
    """Waveform (C, T) and sample rate, no longer than the film; None if no sample fits in it."""
    sound = cut_audio(audio, 0.0, 0.0)
    length = int(num_frames * sound.sample_rate / rate)
    surplus = sound.waveform.shape[-1] - length
    if surplus > 0:
        logger.warning(
            "the sound is %.2f s longer than the film of %d frames and was cut to it",
            surplus / sound.sample_rate,
            num_frames,
        )
    return (sound.waveform[:, :length], sound.sample_rate) if length else None


def _new_film() -> Path:
    """A name in the host's temp folder that nobody else writes; nobody here removes the film."""
    folder = Path(folder_paths.get_temp_directory())
    os.makedirs(folder, exist_ok=True)
    return folder / f"emo_{secrets.token_hex(8)}.mp4"


def _decoded(vae: Any, samples: Tensor, clip_frames: int, scale: float = 1.0) -> Iterator[Tensor]:
    """The film's frames, a piece (f, 3, H, W) in 0..1 at a time; latents are divided by scale."""
    firsts = range(0, len(samples), clip_frames)
    progress = comfy.utils.ProgressBar(len(firsts))
    for done, first in enumerate(firsts):
        check_interrupted()
        piece = samples[first : first + clip_frames]
        yield _decode(vae, piece if scale == 1 else piece / scale)
        progress.update_absolute(done + 1)


def _decode(vae: Any, latents: Tensor) -> Tensor:
    """Pictures (f, 3, H, W) in 0..1; the host's VAE finds device, precision and memory."""
    pictures = vae.decode(latents)
    if pictures.ndim != 4 or len(pictures) != len(latents) or pictures.shape[-1] != 3:
        raise ValueError(
            f"the VAE made {list(pictures.shape)} out of {len(latents)} frames and not [frames, "
            "height, width, 3]; connect a VAE for pictures, such as EMO Model Loader's"
        )
    if not bool(torch.isfinite(pictures).all()):
        raise ValueError(
            "the VAE decoded NaN from latents that hold none, as some VAEs do in 16 bits: start "
            "ComfyUI with --fp32-vae, or connect the VAE of the model that sampled them"
        )
    return torch.as_tensor(pictures.movedim(-1, 1))


def _write(
    path: Path, pieces: Iterator[Tensor], rate: Fraction, sound: tuple[Tensor, int] | None
) -> None:
    """Write the film; an error or an interruption leaves nothing of it."""
    with contextlib.ExitStack() as stack:
        film = None
        for pictures in pieces:
            if film is None:
                film = stack.enter_context(_open_film(path, pictures, rate, sound))
            film.write(pictures)
            del pictures  # or two pieces would be in memory while the next is decoded


def _open_film(
    path: Path, pictures: Tensor, rate: Fraction, sound: tuple[Tensor, int] | None
) -> VideoWriter:
    height, width = pictures.shape[-2:]
    if height % 2 or width % 2:
        logger.warning(
            "H.264 needs even sides: the film of %dx%d pixels repeats its last row or column to "
            "%dx%d", width, height, width + width % 2, height + height % 2,
        )  # fmt: skip
    return VideoWriter(path, rate, (width, height), sound)
