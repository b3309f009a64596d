"""EMOLoadFaceEmbedding: a face embedding that was made elsewhere, for weights that see one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths

from ..emo_core.subject import read_embedding
from .compat import Schema, io
from .host import file_stamp
from .sockets import Face, pack_face

INPUT, MODELS = "input", "models/emo"
_FOLDER = "emo"
_WIDTH = 512
_NUMBERS = (".npy", ".json")
_LARGEST = 1 << 20
"""Bytes; a .safetensors file that is larger is a model."""
_RECOGNISER = "InsightFace"


def embedding_files() -> list[str]:
    """Files that may hold an embedding, in the host's input folder and in models/emo."""
    inside = Path(folder_paths.get_input_directory())
    found = [f"{INPUT}/{path.name}" for path in _files_of(inside)]
    names = folder_paths.get_filename_list(_FOLDER)
    return found + [f"{MODELS}/{name}" for name in names if _may_be(_in_models(name))]


def embedding_path(entry: str) -> Path | None:
    """The file of an entry of the list; None if it is gone."""
    folder, _, name = entry.partition("/")
    if folder == INPUT:
        path = Path(folder_paths.get_input_directory()) / Path(name).name
    else:
        path = _in_models(entry.removeprefix(f"{MODELS}/"))
    return path if path is not None and path.is_file() else None


def _files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _may_be(path)) if folder.is_dir() else []


def _in_models(name: str) -> Path | None:
    path = folder_paths.get_full_path(_FOLDER, name)
    return None if path is None else Path(path)


def _may_be(path: Path | None) -> bool:
    if path is None or not path.is_file():
        return False
    small = path.suffix == ".safetensors" and path.stat().st_size <= _LARGEST
    return path.suffix in _NUMBERS or small


class EMOLoadFaceEmbedding(io.ComfyNode):
    """A face embedding from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the node takes and gives."""
        return Schema(
            node_id="EMOLoadFaceEmbedding",
            display_name="EMO Load Face Embedding",
            category="EMO/face",
            description="Reads the face embedding of the portrait from a file: 512 numbers of "
            "InsightFace's recogniser, which Hallo's weights look at beside the picture.",
            search_aliases=["insightface", "identity", "likeness", "arcface", "hallo"],
            inputs=[
                io.Combo.Input(
                    "file", options=embedding_files(),
                    tooltip="A .npy, .json or .safetensors file with the 512 numbers, in ComfyUI's "
                    "input folder or in models/emo; press R after putting one there.",
                ),
            ],
            outputs=[
                Face.Output(
                    "face", display_name="face",
                    tooltip="The embedding for EMO ReferenceNet Encode, which must get the "
                    "portrait of the same person.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        """True: a file that is gone is named when it is read."""
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None, **_: Any) -> str:
        """A file that was replaced is read again."""
        return "" if file is None else file_stamp(embedding_path(file)) or file

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        """Read it."""
        path = embedding_path(file)
        if path is None:
            raise FileNotFoundError(
                f"there is no face embedding {file}; put a .npy, .json or .safetensors file of "
                f"{_WIDTH} numbers into {folder_paths.get_input_directory()} or "
                f"{folder_paths.get_folder_paths(_FOLDER)[0]} and press R, or connect nothing"
            )
        return io.NodeOutput(pack_face(read_embedding(path), _RECOGNISER))
