"""What many tests share: a model with every part at the smallest size, a picture and a sound."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_checkpoint import save_smallest, smallest_config

from emo_core.config import EMOConfig


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the soak tests out unless a marker expression was given."""
    if config.option.markexpr:
        return
    skip = pytest.mark.skip(reason="soak test; run with -m soak")
    for item in items:
        if "soak" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def user_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`emo animate` keeps clips in the user's cache folder; a test finds nobody's there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path.with_name(f"{tmp_path.name} cache")))


@pytest.fixture(scope="session")
def smallest() -> EMOConfig:
    """The configuration of the checkpoint below."""
    return smallest_config()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with VAE and audio encoder, in a file."""
    return save_smallest(tmp_path_factory.mktemp("model") / "smallest.safetensors")


@pytest.fixture
def portrait(tmp_path: Path) -> Path:
    """A picture of coloured blocks, 48 x 40 pixels."""
    from PIL import Image

    blocks = np.random.default_rng(0).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    path = tmp_path / "portrait.png"
    Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(path)
    return path


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """0.41 s at 16 kHz: 11 frames at 25 fps."""
    return write_wav(tmp_path / "sound.wav", noise_and_tone(1, 6560, 16000), 16000)


@pytest.fixture
def make_wav(tmp_path: Path) -> Callable[[str, int, int, int], Path]:
    """Write a sound of a name, with channels, samples and a rate."""

    def make(name: str, channels: int, samples: int, rate: int) -> Path:
        return write_wav(tmp_path / name, noise_and_tone(channels, samples, rate), rate)

    return make


def noise_and_tone(channels: int, samples: int, rate: int) -> np.ndarray:
    """A waveform (C, T) that differs from channel to channel."""
    time = np.arange(samples) / rate
    beat = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * time)
    tones = [0.4 * beat * np.sin(2 * np.pi * (180 + 60 * c) * time) for c in range(channels)]
    return np.stack(tones)


def write_wav(path: Path, waveform: np.ndarray, rate: int) -> Path:
    """Write (C, T) as 16-bit PCM."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(waveform.shape[0])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((waveform.T * 32767).astype("<i2").tobytes())
    return path
