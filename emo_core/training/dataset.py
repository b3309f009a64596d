"""Films as the stages of the denoiser read them, and puppet films made into them.

The trainer knows films only through `FilmPiece`: portraits, frames, sound features, face boxes and
head speeds. Puppets are one source; films of people are another, for whoever has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..audio import AudioEncoder, encode_sound
from ..vae import AutoencoderKL
from .acting import head_speed
from .frames import find_places
from .identities import Identity
from .puppets import face_boxes, portrait_controls, render
from .truth_films import FRAME_RATE, make_film
from .voices import Utterance

PIECE_LENGTH = 32
NUM_PORTRAITS = 2


@dataclass(frozen=True)
class FilmPieces:
    """Pieces of films of equal length, stacked. N pieces, T frames, window m on both sides.

    Attributes:
        portraits: (N, P, C, h, w), latents of the person in other poses, the first a portrait.
        frames: (N, T, C, h, w), latents.
        audio: (N, T + 2m, L, D), sound features, m frames more on either side.
        boxes: (N, T, 4), face boxes as parts of the picture.
        speeds: (N, T + 2m), head speed in degrees per frame at 30 fps.
        places: (N, T, 3, 3), mouth and eyes: x, y, radius, where the loss looks closer.
    """

    portraits: Tensor
    frames: Tensor
    audio: Tensor
    boxes: Tensor
    speeds: Tensor
    places: Tensor

    def __len__(self) -> int:
        """Number of pieces."""
        return len(self.frames)

    def save(self, path: Path) -> None:
        """Write to one .safetensors file, whole or not at all."""
        partial = path.with_suffix(".partial")
        save_file({f.name: getattr(self, f.name).contiguous() for f in fields(self)}, partial)
        partial.replace(path)

    @classmethod
    def load(cls, paths: Sequence[Path]) -> FilmPieces:
        """Read files that save() wrote and put their pieces one after the other.

        Raises:
            ValueError: if there is no file.
        """
        if not paths:
            raise ValueError("no film pieces to train on; make some with `emo train films` first")
        parts: dict[str, list[Tensor]] = {field.name: [] for field in fields(cls)}
        for path in paths:
            with safe_open(path, "pt") as file:
                for name, tensors in parts.items():
                    tensors.append(file.get_tensor(name))
        return cls(**{name: torch.cat(tensors) for name, tensors in parts.items()})


class PuppetFilms:
    """Renders puppets that speak and encodes them into film pieces.

    Args:
        utterances: what they say; each piece takes the next.
        vae: gives the latents.
        encoder: gives the sound features.
        window: m.
    """

    def __init__(
        self, utterances: Sequence[Utterance], vae: AutoencoderKL, encoder: AudioEncoder,
        window: int,
    ) -> None:
        self.utterances, self.vae, self.encoder, self.window = utterances, vae, encoder, window

    def make(self, first_seed: int, count: int) -> FilmPieces:
        """Make the pieces of puppets first_seed .. first_seed + count - 1."""
        made = list(self._pieces(range(first_seed, first_seed + count)))
        return FilmPieces(*(torch.stack(tensors) for tensors in zip(*made, strict=True)))

    def _pieces(self, seeds: Sequence[int]) -> Iterator[tuple[Tensor, ...]]:
        for seed in seeds:
            utterance = self.utterances[seed % len(self.utterances)]
            film = make_film(utterance, seed)
            length = len(film.controls)
            generator = torch.Generator().manual_seed(seed)
            span = max(length - PIECE_LENGTH, 0) + 1
            first = int(torch.randint(span, (), generator=generator))
            other = int(torch.randint(length, (), generator=generator))
            index = torch.arange(first, first + PIECE_LENGTH).clamp(max=length - 1)
            around = torch.arange(first - self.window, first + PIECE_LENGTH + self.window)
            around = around.clamp(0, length - 1)
            controls = film.controls[index]
            poses = torch.cat(
                [portrait_controls(seed), film.controls[other : other + 1], controls]
            )
            latents = self._encode(film.identity, poses)
            heard = encode_sound(self.encoder, film.waveform, length, FRAME_RATE).features
            yield (
                latents[:NUM_PORTRAITS],
                latents[NUM_PORTRAITS:],
                heard[around].half(),
                face_boxes(film.identity, controls),
                head_speed(film.controls)[around],
                find_places([film.identity] * PIECE_LENGTH, controls),
            )

    @torch.no_grad()
    def _encode(self, identity: Identity, poses: Tensor) -> Tensor:
        device = next(self.vae.parameters()).device
        pictures = render(identity, poses.to(device)) * 2 - 1
        with torch.autocast(device.type, torch.bfloat16):
            latents = self.vae.encode(pictures.contiguous(memory_format=torch.channels_last))
        return latents.half().cpu()
