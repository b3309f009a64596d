"""EMOExampleInputs: a portrait and a recording that come with the pack."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..emo_core.pictures import fit_portrait, read_picture
from ..emo_core.sound_files import read_sound
from .compat import Schema, io

_FOLDER = Path(__file__).resolve().parent.parent / "examples"


class EMOExampleInputs(io.ComfyNode):
    """The pack's own portrait and recording, so that a template runs without any file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets of the node."""
        return Schema(
            node_id="EMOExampleInputs",
            display_name="EMO Example Inputs",
            category="EMO",
            description="Gives a drawn puppet's portrait and a spoken sentence, so that you can "
            "try the pack before you choose files of your own.",
            search_aliases=["example", "demo", "portrait", "speech"],
            inputs=[],
            outputs=[
                io.Image.Output(
                    "portrait", display_name="portrait",
                    tooltip="The portrait of a puppet, 128x128 pixels; put Load Image in this "
                    "node's place when you have a portrait of your own.",
                ),
                io.Audio.Output(
                    "audio", display_name="audio",
                    tooltip="Some seconds of a computer's voice, mono; put Load Audio in this "
                    "node's place when you have a recording of your own.",
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Read both files."""
        picture = read_picture(_example("portrait.png"))
        waveform, rate = read_sound(_example("speech.wav"))
        audio = {"waveform": waveform[None], "sample_rate": rate}
        return io.NodeOutput(picture.permute(1, 2, 0)[None].contiguous(), audio)


def _example(name: str) -> Path:
    """A file of the pack's examples folder.

    Raises:
        FileNotFoundError: if it is not there.
    """
    path = _FOLDER / name
    if not path.is_file():
        raise FileNotFoundError(
            f"the pack's own file {path} is missing; install the pack again, or use Load Image "
            "and Load Audio in place of this node"
        )
    return path


def example_portrait(size: int) -> Tensor:
    """The portrait as an IMAGE (1, size, size, 3).

    Raises:
        FileNotFoundError: if it is not there.
    """
    portrait = fit_portrait(read_picture(_example("portrait.png")), size)
    return portrait.picture.permute(1, 2, 0)[None].contiguous()
