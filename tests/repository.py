"""Which files are in the repository, and which of them the registry's package has."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pathspec import GitIgnoreSpec

ROOT = Path(__file__).resolve().parent.parent

NODE_IDS = frozenset(
    {
        "EMOModelLoader", "LoadAudioEmbedding", "FaceLocatorMask", "SpeedBuckets",
        "ReferenceNetEncode", "EMOConditioning", "EMOSampler", "MotionFrameLooper",
        "EMODecodeVideo", "EMOExampleInputs", "EMOGuider", "EMOLoadFaceEmbedding",
        "EMOHalloNoise", "EMOPortraitCrop", "EMOPasteBack",
    }
)  # fmt: skip
"""Every node of the pack. Workflows name them: none is ever renamed."""


@cache
def repository_files() -> tuple[str, ...]:
    """Files of the repository, committed or about to be, as paths with slashes from its root."""
    # The clone may belong to another user, whom git would not trust without safe.directory.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others",
               "--exclude-standard"]  # fmt: skip
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
        names: Iterator[str] = iter(listed.decode().split("\0"))
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive
        ignored = _patterns(".gitignore")
        names = (name for name in _walk() if not ignored.match_file(name))
    return tuple(sorted(name for name in set(names) if name and (ROOT / name).is_file()))


@cache
def shipped_files() -> tuple[str, ...]:
    """Files that `comfy node publish` packs: the repository's without those of .comfyignore."""
    left_out = _patterns(".comfyignore")
    return tuple(name for name in repository_files() if not left_out.match_file(name))


def shipped_modules() -> dict[str, ast.Module]:
    """The syntax tree of every Python file that is shipped, by its path."""
    return {name: parsed(name) for name in shipped_files() if name.endswith(".py")}


@cache
def parsed(name: str) -> ast.Module:
    """The syntax tree of a Python file of the repository."""
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), name)


def _patterns(name: str) -> GitIgnoreSpec:
    return GitIgnoreSpec.from_lines((ROOT / name).read_text(encoding="utf-8").splitlines())


def _walk() -> Iterator[str]:
    files = (path for path in ROOT.rglob("*") if path.is_file())
    return (path.relative_to(ROOT).as_posix() for path in files if ".git" not in path.parts)
