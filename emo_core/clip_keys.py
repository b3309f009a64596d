"""The keys of finished clips: a hash over everything that a clip's latents depend on.

Two clips with one key have the same latents, whatever film they stand in: what a key does not see
may not change a clip. It sees the sound and the speeds through the windows that the networks see,
so that a change at second 40 leaves every clip that ends before it alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor

from .audio_tokens import window_features
from .clips import ClipPlan, clip_seed
from .speed import speed_windows

CODE_VERSION = 1
"""Counted up by hand with every change after which the same inputs give other latents."""

_PIECE_BYTES = 1 << 20

_Update = Callable[[bytes | memoryview], None]


@dataclass(frozen=True)
class FilmConstants:
    """What all clips of a film depend on alike.

    Numbers are told apart by type: 2 and 2.0 give different keys.

    Attributes:
        model: digest of the weight file; file_digest() makes one.
        portrait: (1, C, h, w), the reference latents.
        region: (channels, H, W), face region; (0,) where it moves and FilmTracks has it.
        sampler: everything that rules the sampling, in plain values and tensors: its name, its
            scheduler or solver, sigmas or steps, guidance scales.
        noise: which stream of noise the seed stands for: "clip_noise" for clips.clip_noise().
        dtype: what the networks compute in.
        hand_over: "latents", or "pixels" and the digest of the VAE that they go through.
        patches: contents of LoRAs and other patches of the model; None without any.
        extra: what else there is: a face embedding, masks, settings of joins.
    """

    model: str
    portrait: Tensor
    region: Tensor
    sampler: Mapping[str, object]
    noise: str
    dtype: torch.dtype
    hand_over: str
    patches: object = None
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class FilmTracks:
    """What differs from clip to clip, for the whole film.

    Attributes:
        audio: (F, L, D), features of the sound at the frame rate.
        audio_window: neighbours on each side that a frame sees of them.
        clip_length: frames that every clip is sampled at.
        seed: of the film's noise.
        speed: (F,), degrees per frame at 30 fps; None where the model is not told any, also
            because it has no speed layers.
        speed_window: neighbours on each side that a frame sees of them.
        frames: anything else that has a value for each frame, (F, ...) by name, such as a moving
            region: a clip sees those of its own frames, and the last is held.
    """

    audio: Tensor
    audio_window: int
    clip_length: int
    seed: int
    speed: Tensor | None = None
    speed_window: int = 0
    frames: Mapping[str, Tensor] = field(default_factory=dict)


def film_key(constants: FilmConstants, nonce: str | None = None) -> str:
    """The key of what is constant over a film, 64 hexadecimal digits.

    Args:
        constants: all of it that can be hashed.
        nonce: stands for what cannot, such as another pack's function: a random text that the
            caller keeps for as long as that thing is the same, at most until its process ends.
            None if everything is in `constants`.

    Raises:
        ValueError: for a value that has no digest; the message says where it is.
    """
    known = {item.name: getattr(constants, item.name) for item in fields(constants)}
    return digest({"code": CODE_VERSION, "nonce": nonce, **known})


def clip_keys(
    film: str, tracks: FilmTracks, clips: Iterable[ClipPlan], motion: Tensor | None = None
) -> Iterator[str]:
    """The keys of a film's clips, made as they are asked for.

    Args:
        film: film_key() of its constants.
        tracks: what differs from clip to clip.
        clips: which clips, in order and without a gap.
        motion: (1, n, C, h, w), given latents before the first of these clips; None for none.

    Yields:
        64 hexadecimal digits for each clip.
    """
    previous = None if motion is None else digest(motion)
    for plan in clips:
        key = clip_key(film, tracks, plan, previous)
        yield key
        previous = handed_on(key, tracks, plan)


def handed_on(key: str, tracks: FilmTracks, plan: ClipPlan) -> str:
    """What the next clip's key holds of a clip: its key, and how many of its frames come before.

    Args:
        key: clip_key() of the clip.
        tracks: what differs from clip to clip.
        plan: which clip.
    """
    return key if plan.kept == tracks.clip_length else digest([key, plan.kept])


def clip_key(film: str, tracks: FilmTracks, plan: ClipPlan, previous: str | None) -> str:
    """The key of one clip.

    How many of its frames the film keeps is no part of it: clips are sampled at full length. The
    next clip's key has it.

    Args:
        film: film_key() of the film's constants.
        tracks: what differs from clip to clip.
        plan: which clip.
        previous: handed_on() of the clip before it, digest() of given motion frames, or None for
            neither.
    """
    # The windows of neighbouring frames overlap; each frame in any of them is hashed once.
    length, around = tracks.clip_length, tracks.audio_window
    sound = window_features(tracks.audio, plan.first - around, length + 2 * around, 0)
    speed = None
    if tracks.speed is not None:
        around = tracks.speed_window
        speed = speed_windows(tracks.speed, plan.first - around, length + 2 * around, 0)
    frames = torch.arange(plan.first, plan.first + length)
    seen = {name: track[frames.clamp(max=len(track) - 1)] for name, track in tracks.frames.items()}
    return digest(
        {
            "film": film,
            "previous": previous,
            "length": length,
            "seed": clip_seed(tracks.seed, plan.index),
            "audio": [tracks.audio_window, sound],
            "speed": [tracks.speed_window, speed],
            "frames": seen,
            "shared": plan.shared,
        }
    )


def digest(value: object) -> str:
    """SHA-256 of a value, 64 hexadecimal digits: equal for equal values, in any process.

    Args:
        value: None, bool, int, float, str, bytes, torch.dtype, a dense tensor on any device (its
            dtype, shape and bytes count, not its strides), or lists, tuples and mappings of these.
            Tuples equal lists, and mappings have names in no order.

    Raises:
        ValueError: for anything else; the message says where it is.
    """
    found = hashlib.sha256()
    _feed(found.update, value, "value")
    return found.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits; a gigabyte takes about a second.

    Raises:
        OSError: if it cannot be read.
    """
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            found.update(piece)
    return found.hexdigest()


def _feed(update: _Update, value: object, place: str) -> None:
    """Every part is fed as a letter for its kind, its length and its bytes: no two alike."""
    if isinstance(value, Tensor):
        _feed_tensor(update, value, place)
    elif isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise ValueError(f"a key needs names that are text in {place}; make them text")
        update(b"m%d:" % len(value))
        for name in sorted(value):
            _feed(update, name, place)
            _feed(update, value[name], f"{place}.{name}")
    elif isinstance(value, (list, tuple)):
        update(b"l%d:" % len(value))
        for index, item in enumerate(value):
            _feed(update, item, f"{place}[{index}]")
    else:
        kind, content = _plain(value, place)
        update(b"%s%d:" % (kind, len(content)))
        update(content)


def _plain(value: object, place: str) -> tuple[bytes, bytes]:
    if value is None or isinstance(value, bool):
        return b"b", str(value).encode()
    if isinstance(value, int):
        return b"i", b"%d" % value
    if isinstance(value, float):
        return b"f", value.hex().encode()
    if isinstance(value, str):
        return b"s", value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return b"y", value
    if isinstance(value, torch.dtype):
        return b"d", str(value).encode()
    raise ValueError(
        f"a {type(value).__name__} at {place} has no digest for a clip's key; leave it out and "
        "give a nonce in its place"
    )


def _feed_tensor(update: _Update, tensor: Tensor, place: str) -> None:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise ValueError(
            f"the tensor at {place} is sparse, quantized or without values and has no digest for a "
            "clip's key; give a dense one"
        )
    _feed(update, [str(tensor.dtype), list(tensor.shape)], place)
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    content = plain.reshape(-1).view(torch.uint8).numpy()
    update(b"t%d:" % content.size)
    update(content.data)
