"""Utterances in one file: made once, where espeak-ng is installed, and read where only torch is."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..weight_writer import save_whole
from .phones import PHONES, mouth_track
from .voices import Utterance


def save_utterances(path: str | Path, utterances: Sequence[Utterance]) -> None:
    """Store utterances in one safetensors file: int16 sound, phones, mouths at 25 fps.

    Args:
        path: the file to write.
        utterances: with phones named as in PHONES.
    """
    mouths = [mouth_track(one.phones, one.num_frames) for one in utterances]
    phones = [phone for one in utterances for phone in one.phones]
    tensors = {
        "sound": torch.cat([(one.waveform * 32767).round().to(torch.int16) for one in utterances]),
        "sound_offsets": _offsets([len(one.waveform) for one in utterances]),
        "mouth": torch.cat(mouths),
        "mouth_offsets": _offsets([len(mouth) for mouth in mouths]),
        "phone_times": torch.tensor([phone[:2] for phone in phones], dtype=torch.float32),
        "phone_names": torch.tensor([PHONES.index(p[2]) for p in phones], dtype=torch.int16),
        "phone_offsets": _offsets([len(one.phones) for one in utterances]),
    }
    about = [{"voice": one.voice, "text": one.text, "kind": one.kind} for one in utterances]
    metadata = {"utterances": json.dumps(about), "phones": json.dumps(PHONES), "fps": "25"}
    save_whole(Path(path), tensors, metadata)


def load_utterances(path: str | Path) -> list[Utterance]:
    """Read what save_utterances stored; needs no synthesiser.

    Returns:
        Utterances with float32 sound.

    Raises:
        ValueError: if the file holds something else.
    """
    tensors, metadata = _read(path)
    names = json.loads(metadata["phones"])
    sounds = _split(tensors, "sound")
    times, labels = _split(tensors, "phone_times"), _split(tensors, "phone_names")
    result = []
    for index, about in enumerate(json.loads(metadata["utterances"])):
        spans = zip(times[index].tolist(), labels[index].tolist(), strict=True)
        phones = tuple((start, end, names[label]) for (start, end), label in spans)
        result.append(Utterance(sounds[index].float() / 32767, phones, **about))
    return result


def load_mouth_tracks(path: str | Path) -> list[Tensor]:
    """Read the stored mouths: for each utterance (F, 4) at 25 fps, as mouth_track gives them."""
    return _split(_read(path)[0], "mouth")


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file; make it again") from error
    if "utterances" not in metadata:
        raise ValueError(f"{path} holds no utterances; give a file written by save_utterances")
    return tensors, metadata


def _offsets(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int64)


def _split(tensors: dict[str, Tensor], key: str) -> list[Tensor]:
    """Cut a concatenated tensor at its offsets (the phones' two tensors share theirs)."""
    offsets = tensors[key.replace("_times", "").replace("_names", "") + "_offsets"].tolist()
    return [tensors[key][a:b] for a, b in itertools.pairwise(offsets)]
