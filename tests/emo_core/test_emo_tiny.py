"""The model that ships, from the README's own command: it speaks with the sound alone."""

from __future__ import annotations

import wave
from pathlib import Path

from torch import Tensor

from emo_core import cli
from emo_core.training.meters import load_meter
from emo_core.video import read_video

EXAMPLES = Path(__file__).parents[2] / "examples"


def openness(sound: Path, film: Path) -> Tensor:
    """What the meter reads off a second and a half of film."""
    words = ["animate", EXAMPLES / "portrait.png", sound, "-o", film, "--duration", "1.5",
             "--no-clips", "--quiet", "--device", "cpu"]  # fmt: skip
    assert cli.main([str(word) for word in words]) == 0
    frames, rate, _ = read_video(film)
    assert (len(frames), rate, tuple(frames.shape[1:])) == (38, 25, (128, 128, 3))
    return load_meter().read(frames.permute(0, 3, 1, 2)).mouth[:, 0]


def test_the_readmes_command_speaks_and_silence_keeps_the_mouth_closed(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "silence.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(bytes(2 * 24000))
    spoken = openness(EXAMPLES / "speech.wav", tmp_path / "spoken.mp4")
    silent = openness(tmp_path / "silence.wav", tmp_path / "silent.mp4")
    assert float(spoken.quantile(0.9)) > 0.35 and float(spoken.std()) > 0.1
    assert float(silent.mean()) < 0.15 and float(silent.std()) < 0.1
