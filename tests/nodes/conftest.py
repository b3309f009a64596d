"""The nodes outside of a server: ComfyUI's modules, the pack under its own name, a small model."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from small_checkpoint import save_smallest

ROOT = Path(__file__).parents[2]
COMFYUI = Path(os.environ.get("COMFYUI_PATH", Path.home() / "comfy" / "ComfyUI"))
THERE = (COMFYUI / "main.py").is_file()

if not THERE:
    collect_ignore_glob = ["test_*.py"]


def _host() -> None:
    """Make ComfyUI's modules importable; they read the command line when they are imported."""
    sys.path.insert(0, str(COMFYUI))
    before, sys.argv = sys.argv, ["main.py", "--cpu"]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args
    finally:
        sys.argv = before


def _import_pack() -> ModuleType:
    """Import the pack as the host does: by its folder's path, under another name."""
    spec = importlib.util.spec_from_file_location(
        "emo_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["emo_pack"] = module
    spec.loader.exec_module(module)
    return importlib.import_module("emo_pack.nodes")


if THERE:
    _host()


@pytest.fixture(scope="session", autouse=True)
def no_output_of_the_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Films' clips are kept in the host's output folder; those of fixtures lie elsewhere too."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("output")
        patch.setattr(importlib.import_module("folder_paths"), "output_directory", str(folder))
        yield


@pytest.fixture(autouse=True)
def output_folder(
    no_output_of_the_hosts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The host's output folder, of the test's own."""
    folders = importlib.import_module("folder_paths")
    monkeypatch.setattr(folders, "output_directory", str(tmp_path / "output"))
    return tmp_path / "output"


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """The pack's `nodes`."""
    return _import_pack()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest checkpoint with a VAE that the host can build."""
    return save_smallest(tmp_path_factory.mktemp("model") / "smallest.safetensors", 32)


@pytest.fixture(scope="session")
def model_and_vae(pack: ModuleType, checkpoint: Path) -> tuple[Any, Any]:
    """MODEL and VAE of the smallest checkpoint, untrained."""
    load = importlib.import_module("emo_pack.nodes.load").load
    model, vae = load(checkpoint)
    return model, vae


@pytest.fixture(scope="session")
def run() -> Callable[..., tuple[Any, ...]]:
    """Runs a node as the host does, with its widgets' defaults for what is not given."""

    def run_node(node: Any, **inputs: Any) -> tuple[Any, ...]:
        schema = node.GET_SCHEMA()
        given = {
            one.id: one.default
            for one in schema.inputs
            if getattr(one, "default", None) is not None
        }
        prepared = node.PREPARE_CLASS_CLONE({})
        out = getattr(prepared, "EXECUTE_NORMALIZED", prepared.execute)(**{**given, **inputs})
        if inspect.isawaitable(out):
            out = asyncio.run(out)
        return tuple(out.result)

    return run_node
