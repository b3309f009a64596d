"""Loading takes one copy of the weights: bytes that torch's allocator gives out, counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from published_hallo import published_state, write_vae, write_wav2vec
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from emo_core.vae_files import open_vae
from emo_core.wav2vec import load_wav2vec2
from emo_core.weights import load_model


def peak_of(call: Callable[[], Any], mapped: Path | None = None) -> tuple[Any, int]:
    """What it returns, and the most bytes that were given out and not taken back.

    A file that is mapped as a whole is told by its size, and takes no memory of its own.
    """
    largest = math.inf if mapped is None else mapped.stat().st_size
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen:
        made = call()
    alive = most = 0
    for event in sorted(seen.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]" and abs(event.nbytes()) < largest:
            alive += event.nbytes()
            most = max(most, alive)
    return made, most


def bytes_of(module: nn.Module) -> int:
    tensors = module.state_dict().values()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return published_state()


def test_the_count_sees_a_second_copy() -> None:
    first = torch.zeros(1 << 18)
    _, peak = peak_of(lambda: [first.clone(), first.clone()])
    assert peak == 2 * first.numel() * 4
    _, peak = peak_of(lambda: [first.clone().sum() for _ in range(3)])
    assert first.numel() * 4 <= peak < 1.1 * first.numel() * 4


@pytest.mark.parametrize(
    ("ending", "kept", "wanted"),
    [
        (".pth", torch.float32, torch.float16),
        (".pth", torch.float16, torch.float16),
        (".safetensors", torch.float32, torch.float32),
        (".safetensors", torch.float16, torch.float32),
    ],
)
def test_weights_are_never_there_twice(
    state: dict[str, Tensor], tmp_path: Path, ending: str, kept: torch.dtype, wanted: torch.dtype
) -> None:
    path = tmp_path / f"net{ending}"
    tensors = {name: tensor.to(kept).contiguous() for name, tensor in state.items()}
    torch.save(tensors, path) if ending == ".pth" else save_file(tensors, path)
    loaded, peak = peak_of(lambda: load_model(path, dtype=wanted), path)
    assert peak <= 1.1 * bytes_of(loaded.model)
    if kept == wanted:
        # On the CPU they stay where the file is mapped.
        assert peak < 0.1 * bytes_of(loaded.model)


def test_vae_and_audio_encoder(tmp_path: Path) -> None:
    file = write_vae(tmp_path / "vae.safetensors")
    vae, peak = peak_of(lambda: open_vae(file, dtype=torch.float16), file)
    assert peak <= 1.1 * bytes_of(vae)
    folder = write_wav2vec(tmp_path / "wav2vec2")
    encoder, peak = peak_of(lambda: load_wav2vec2(folder), folder / "model.safetensors")
    assert peak <= 1.1 * bytes_of(encoder)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_bytes((folder / "config.json").read_bytes())
    file = pickled / "pytorch_model.bin"
    torch.save(encoder.wav2vec2.state_dict(), file)
    again, peak = peak_of(lambda: load_wav2vec2(pickled), file)
    assert peak <= 1.1 * bytes_of(again)
