"""What the registry, ComfyUI-Manager and pip see of the pack."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
from repository import NODE_IDS, ROOT, repository_files, shipped_files, shipped_modules

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it where Python has none

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LEGAL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
HOSTS_OWN = {
    "torch", "torchvision", "torchaudio", "torchsde", "xformers", "numpy", "scipy", "pillow",
    "safetensors", "transformers", "tokenizers", "huggingface-hub", "einops", "av", "kornia",
}  # fmt: skip
"""Packages of ComfyUI's requirements: a pack that names them can change them."""
BARE = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
from emo_core.cli import main
sys.exit(main())
"""
"""The command line of the folder it runs in; `pip install -e` would find the checkout's trainer."""


def requirements() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def nodes_by_scan() -> Iterator[tuple[str, str]]:
    """Node ids and their files, found as ComfyUI-Manager does: from the source alone."""
    for name, tree in shipped_modules().items():
        for part in ast.walk(tree):
            if isinstance(part, ast.ClassDef) and any(
                ast.unparse(base) in ("ComfyNode", "io.ComfyNode") for base in part.bases
            ):
                yield _literal_node_id(part), name


def _literal_node_id(node: ast.ClassDef) -> str:
    """The id in `Schema(node_id="...")` of define_schema; "" if it is no literal there."""
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "define_schema":
            for call in ast.walk(method):
                if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] == "Schema":
                    for given in call.keywords:
                        if given.arg == "node_id" and isinstance(given.value, ast.Constant):
                            return str(given.value.value)
    return ""


def test_the_registry_can_read_who_publishes_what_for_which_host() -> None:
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9._-]{1,98}", project["name"])
    assert "comfyui" not in project["name"], "the registry leaves it out of names"
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["license"] == {"file": "LICENSE"}, "a bare string is refused"
    assert project["dependencies"] == [], "ComfyUI's own packages are nobody's to change"
    assert comfy["PublisherId"] and comfy["DisplayName"] == "EMO Portrait"
    assert comfy["requires-comfyui"] == ">=0.3.64"
    assert "web" not in comfy, "with WEB_DIRECTORY it would load every script twice"


def test_pip_installs_the_core_alone() -> None:
    packages = PROJECT["tool"]["setuptools"]["packages"]
    assert {name.split(".")[0] for name in packages} == {"emo_core"}
    folders = {
        str(Path(name).parent).replace("/", ".")
        for name in repository_files()
        if name.startswith("emo_core/") and name.endswith(".py")
    }
    assert set(packages) == folders


def test_package_names_are_legal() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    named = [*requirements(), *(name for extra in extras.values() for name in extra)]
    for line in named:
        name = re.split(r"[\[<>=!~; ]", line)[0]
        assert LEGAL_NAME.fullmatch(name), line


def test_requirements_leave_the_hosts_packages_alone() -> None:
    assert requirements(), "SpeedBuckets needs librosa, which ComfyUI does not bring"
    for line in requirements():
        assert LEGAL_NAME.fullmatch(line), f"{line!r} is not a bare name"
        assert line.lower().replace("_", "-") not in HOSTS_OWN, f"{line} is ComfyUI's own"


def test_the_package_has_what_the_nodes_need_and_not_the_trainer() -> None:
    shipped = shipped_files()
    for needed in ("LICENSE", "README.md", "pyproject.toml", "requirements.txt", "__init__.py",
                   "emo_core/pretrained/emo-tiny.safetensors", "examples/portrait.png",
                   "examples/speech.wav"):  # fmt: skip
        assert needed in shipped, needed
    for folder in ("nodes/", "web/docs/", "example_workflows/"):
        assert any(name.startswith(folder) for name in shipped), folder
    for folder in ("tests/", ".ci/", "emo_core/training/"):
        assert not any(name.startswith(folder) for name in shipped), folder


@pytest.mark.parametrize("command", ["train", "puppet"])
def test_without_the_trainer_its_commands_say_where_it_is(tmp_path: Path, command: str) -> None:
    for name in shipped_files():
        if name.startswith("emo_core/") and name.endswith(".py"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            copyfile(ROOT / name, tmp_path / name)
    run = [sys.executable, "-c", BARE]
    said = subprocess.run([*run, command], cwd=tmp_path, capture_output=True, text=True)
    assert said.returncode == 2
    assert "emo_core/training" in said.stderr and said.stderr.count("\n") == 1, said.stderr
    helped = subprocess.run([*run, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert helped.returncode == 0 and "animate" in helped.stdout


def test_the_managers_scan_finds_exactly_our_nodes() -> None:
    found = list(nodes_by_scan())
    assert all(node_id for node_id, _ in found), "node_id must be a literal"
    assert sorted(node_id for node_id, _ in found) == sorted(NODE_IDS)
    assert all(name.startswith("nodes/") for _, name in found)


@pytest.mark.parametrize("node_id", sorted(NODE_IDS))
def test_every_node_has_a_help_page_with_a_picture(node_id: str) -> None:
    page = f"web/docs/{node_id}.md"
    assert page in shipped_files(), f"{page} is missing"
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert pictures, f"{page} has no picture"
    for picture in pictures:
        assert f"web/docs/{picture}" in shipped_files(), f"{page} shows {picture}, which is missing"


def test_pages_link_to_what_is_shipped() -> None:
    shipped = shipped_files()
    pages = [name for name in shipped if name.endswith(".md") and not name.startswith("web/")]
    assert {"README.md", "docs/emo-tiny.md", "docs/joins.md"} <= set(pages)
    for page in pages:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in target:
                there = (ROOT / page).parent.joinpath(target).resolve().relative_to(ROOT.resolve())
                assert there.as_posix() in shipped, f"{page} links to {target}"


def test_every_node_is_in_an_example_workflow() -> None:
    used: set[str] = set()
    for name in shipped_files():
        if name.startswith("example_workflows/") and name.endswith(".json"):
            workflow = json.loads((ROOT / name).read_text(encoding="utf-8"))
            used |= {node["type"] for node in workflow["nodes"]}
            inner = workflow.get("definitions", {}).get("subgraphs", [])
            used |= {node["type"] for graph in inner for node in graph["nodes"]}
    assert not NODE_IDS - used, f"in no example workflow: {sorted(NODE_IDS - used)}"


def test_every_example_workflow_has_its_picture() -> None:
    names = [name for name in shipped_files() if name.startswith("example_workflows/")]
    stems = {name.removesuffix(".json") for name in names if name.endswith(".json")}
    assert stems
    for stem in stems:
        assert f"{stem}.jpg" in names, f"Browse Templates shows {stem}.jpg, which is missing"
