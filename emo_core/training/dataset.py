"""Films as the stages of the denoiser read them, and puppet films made into them.

The trainer knows films only through `FilmPieces`: portraits, frames, sound features, face boxes
and head speeds. Puppets are one source; films of people are another, for whoever has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ..audio import AudioEncoder, encode_sound
from ..face import union_box
from ..vae import AutoencoderKL
from ..weight_writer import save_whole
from .acting import FRAME_RATE, head_speed
from .frames import find_places
from .identities import Identity
from .puppets import face_boxes, portrait_controls, render
from .truth_films import TruthFilm, make_film
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
        boxes: (N, T, 4), face boxes of the frames as parts of the picture.
        faces: (N, P, 4), the face box of each portrait.
        whole: (N, 4), the union of the face boxes of the whole film: how far the head goes in it.
        speeds: (N, T + 2m), head speed in degrees per frame at 30 fps.
        places: (N, T, 3, 3), mouth and eyes: x, y, radius, where the loss looks closer.
    """

    portraits: Tensor
    frames: Tensor
    audio: Tensor
    boxes: Tensor
    faces: Tensor
    whole: Tensor
    speeds: Tensor
    places: Tensor

    def __len__(self) -> int:
        """Number of pieces."""
        return len(self.frames)

    def save(self, path: Path, header: Mapping[str, str] | None = None) -> None:
        """Write to one .safetensors file, whole or not at all.

        Args:
            path: the file.
            header: text entries, such as the origin of the latents and the sound features.
        """
        tensors = {field.name: getattr(self, field.name).contiguous() for field in fields(self)}
        save_whole(path, tensors, header or {})

    @classmethod
    def load(cls, paths: Sequence[Path]) -> FilmPieces:
        """Read files that save() wrote and put their pieces one after the other.

        Raises:
            ValueError: if there is no file, or one lacks a field.
        """
        if not paths:
            raise ValueError("no film pieces to train on; make some with `emo train films` first")
        parts: dict[str, list[Tensor]] = {field.name: [] for field in fields(cls)}
        for path in paths:
            with safe_open(path, "pt") as file:
                if lacking := sorted(set(parts) - set(file.keys())):
                    raise ValueError(
                        f"{path.name} has no {', '.join(lacking)}: an earlier version made it; "
                        "delete it and run `emo train films` again"
                    )
                for name, tensors in parts.items():
                    tensors.append(file.get_tensor(name))
        return cls(**{name: torch.cat(tensors) for name, tensors in parts.items()})


class PuppetFilms:
    """Renders puppets that speak and encodes them into film pieces.

    Args:
        utterances: what they say; a puppet's seed chooses which.
        vae: gives the latents.
        encoder: gives the sound features.
        window: m.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        vae: AutoencoderKL,
        encoder: AudioEncoder,
        window: int,
    ) -> None:
        self.utterances, self.vae, self.encoder, self.window = utterances, vae, encoder, window

    def make(self, seeds: range) -> FilmPieces:
        """Make the pieces of these puppets."""
        made = [self._piece(seed) for seed in seeds]
        return FilmPieces(*(torch.stack(tensors) for tensors in zip(*made, strict=True)))

    def hear(self, seeds: range) -> Tensor:
        """Only `FilmPieces.audio` of these puppets, for another audio encoder."""
        return torch.stack([self._hear(*self._film(seed)[::2]) for seed in seeds])

    def _film(self, seed: int) -> tuple[TruthFilm, int, Tensor]:
        """A puppet's whole film, the frame of it for a second portrait, and the piece's frames."""
        film = make_film(self.utterances[seed % len(self.utterances)], seed)
        length = len(film.controls)
        generator = torch.Generator().manual_seed(seed)
        first = int(torch.randint(max(length - PIECE_LENGTH, 0) + 1, (), generator=generator))
        other = int(torch.randint(length, (), generator=generator))
        return film, other, torch.arange(first, first + PIECE_LENGTH).clamp(max=length - 1)

    def _piece(self, seed: int) -> tuple[Tensor, ...]:
        film, other, index = self._film(seed)
        controls = film.controls[index]
        poses = [portrait_controls(seed), film.controls[other : other + 1], controls]
        latents = self._encode(film.identity, torch.cat(poses))
        return (
            latents[:NUM_PORTRAITS],
            latents[NUM_PORTRAITS:],
            self._hear(film, index),
            face_boxes(film.identity, controls),
            face_boxes(film.identity, torch.cat(poses[:NUM_PORTRAITS])),
            torch.tensor(union_box(face_boxes(film.identity, film.controls))),
            head_speed(film.controls)[self._around(film, index)],
            find_places([film.identity] * PIECE_LENGTH, controls),
        )

    def _around(self, film: TruthFilm, index: Tensor) -> Tensor:
        """The piece's frames with m more on either side, within the film."""
        first = int(index[0])
        around = torch.arange(first - self.window, first + PIECE_LENGTH + self.window)
        return around.clamp(0, len(film.controls) - 1)

    @torch.no_grad()
    def _hear(self, film: TruthFilm, index: Tensor) -> Tensor:
        heard = encode_sound(self.encoder, film.waveform, len(film.controls), FRAME_RATE)
        return heard.features[self._around(film, index)].half()

    @torch.no_grad()
    def _encode(self, identity: Identity, poses: Tensor) -> Tensor:
        device = next(self.vae.parameters()).device
        pictures = render(identity, poses.to(device)) * 2 - 1
        with torch.autocast(device.type, torch.bfloat16):
            latents = self.vae.encode(pictures.contiguous(memory_format=torch.channels_last))
        return latents.half().cpu()
