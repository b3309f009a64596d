"""The pack in a real ComfyUI server: it loads, brings its pages, and costs nothing until used."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from client import Client
from comfyui import PACK, Server, link_pack
from repository import NODE_IDS, ROOT, shipped_files

HEAVY = ("transformers", "diffusers", "librosa", "facexlib", "accelerate", "av", "PIL", "cv2",
         "scipy", "matplotlib")  # fmt: skip
LACKING = ("librosa", "diffusers", "facexlib", "accelerate", "cv2", "matplotlib")
"""Those that ComfyUI does without."""
IMPORTED = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
sys.argv = ["main.py", "--cpu"]
for name in {lacking!r}:
    sys.modules[name] = None
import comfy.options
comfy.options.enable_args_parsing()
import nodes, folder_paths
from comfy_api.v0_0_2 import io, ui
before = set(sys.modules)
loaded = [asyncio.run(nodes.load_custom_node({without!r}))]
for name in {lacking!r}:
    del sys.modules[name]
    before.discard(name)
loaded.append(asyncio.run(nodes.load_custom_node({pack!r})))
names = {{name.split(".")[0] for name in set(sys.modules) - before}}
print(json.dumps([loaded, sorted(names)]))
"""
"""The pack under two names, without some packages and with them: a host's start takes long."""


def test_every_node_is_there(object_info: dict[str, Any]) -> None:
    ours = {name for name, info in object_info.items() if info["python_module"].endswith(PACK)}
    assert ours == NODE_IDS


def test_the_log_says_that_the_pack_was_imported_in_short_time(server: Server) -> None:
    started = server.log.partition("To see the GUI go to")[0]  # later lines are other tests' errors
    assert "IMPORT FAILED" not in started and "Traceback" not in started, started
    line = re.search(rf"([\d.]+) seconds: .*{PACK}", started)
    assert line is not None, started
    # Some 0.1 s on an idle machine; the bound tells an accident from a loaded machine.
    assert float(line[1]) < 20, line[0]


@pytest.mark.parametrize("node_id", sorted(NODE_IDS))
def test_help_pages_are_served_with_their_pictures(client: Client, node_id: str) -> None:
    page = client.read(f"/extensions/{PACK}/docs/{node_id}.md").decode()
    assert page == (ROOT / f"web/docs/{node_id}.md").read_text(encoding="utf-8")
    for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page):
        assert client.read(f"/extensions/{PACK}/docs/{picture}")


def test_workflows_are_in_browse_templates(client: Client) -> None:
    listed = client.get("/workflow_templates")[PACK]
    stems = {Path(name).stem for name in shipped_files() if name.startswith("example_workflows/")}
    assert set(listed) == stems
    for name in listed:
        assert client.get(f"/api/workflow_templates/{PACK}/{name}.json")["nodes"]
        assert client.read(f"/api/workflow_templates/{PACK}/{name}.jpg")


def test_the_import_needs_and_brings_no_heavy_package_and_writes_nothing(
    comfyui: Path, tmp_path: Path
) -> None:
    """Where a package is missing, that node says so and the others work.

    ComfyUI has imported some of them itself: what counts is what the pack adds.
    """
    packs = []
    for folder in ("without", "with"):
        (tmp_path / folder).mkdir()
        link_pack(tmp_path / folder)
        packs.append(str(tmp_path / folder / PACK))
    here = tmp_path / "here"
    here.mkdir()
    code = IMPORTED.format(lacking=LACKING, without=packs[0], pack=packs[1])
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, str(comfyui)], cwd=here, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded, added = json.loads(done.stdout.splitlines()[-1])
    assert loaded == [True, True], done.stderr
    assert not set(HEAVY) & set(added)
    assert not list(here.iterdir())
