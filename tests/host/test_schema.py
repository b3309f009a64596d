"""The nodes as the host sees them: a saved workflow stores widgets by position, links by name."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from prompts import choices, inputs_of
from repository import NODE_IDS, ROOT

SNAPSHOT = Path(__file__).with_name("object_info.json")
RENEW = "EMO_RENEW_OBJECT_INFO"
KEPT = ("default", "min", "max", "step", "round", "multiline", "forceInput", "lazy",
        "control_after_generate")  # fmt: skip
# Weight files, and films that were kept.
OF_THE_MACHINE = re.compile(
    r"\.(safetensors|sft|pth|pt|pt2|ckpt|bin|pkl)$|_\d+s(_seed\d+)?_[0-9a-f]{12}$"
)


def outline(info: dict[str, Any], host: dict[str, list[Any]]) -> dict[str, Any]:
    """What of a node may not change unseen: no texts, nothing of the machine or the host's version.

    Args:
        info: of the node.
        host: combos of the host's own, by the name that stands for them.
    """
    inputs = []
    for name, kind, options, required in inputs_of(info):
        offered = choices(kind, options)
        entry = {"name": name, "type": "COMBO" if offered is not None else kind}
        entry["required"] = required
        entry |= {key: options[key] for key in KEPT if options.get(key) not in (None, False)}
        if offered is not None:
            known = [title for title, combo in host.items() if combo == offered]
            mine = [item for item in offered if not OF_THE_MACHINE.search(str(item))]
            entry["options"] = known[0] if known else mine
        inputs.append(entry)
    outputs = zip(info["output"], info["output_name"], strict=True)
    return {
        "display_name": info["display_name"],
        "category": info["category"],
        "inputs": inputs,
        "outputs": [{"name": name, "type": kind} for kind, name in outputs],
        "output_node": info["output_node"],
    }


def test_schemas_are_those_of_saved_workflows(object_info: dict[str, Any]) -> None:
    """Widgets are only ever appended; nothing is renamed. Renew with EMO_RENEW_OBJECT_INFO=1."""
    sampler = {name: choices(kind, options) or []
               for name, kind, options, _ in inputs_of(object_info["KSampler"])}  # fmt: skip
    host = {"the host's samplers": sampler["sampler_name"],
            "the host's schedulers": sampler["scheduler"]}  # fmt: skip
    now = {name: outline(object_info[name], host) for name in sorted(NODE_IDS)}
    if os.environ.get(RENEW):
        SNAPSHOT.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
    assert now == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


@pytest.mark.parametrize("node_id", sorted(NODE_IDS))
def test_every_socket_and_widget_is_explained(object_info: dict[str, Any], node_id: str) -> None:
    info = object_info[node_id]
    texts = {name: options.get("tooltip") for name, _, options, _ in inputs_of(info)}
    texts |= dict(zip(info["output_name"], info["output_tooltips"], strict=True))
    texts["description"] = info["description"]
    for name, text in texts.items():
        assert text, f"{name} has no tooltip"
        assert text.endswith(".") and text[0].isupper(), f"{name}: {text!r} is no sentence"
        assert len(text.split()) >= 5, f"{name}: {text!r} says too little"
    assert info["category"].split("/")[0] == "EMO"


@pytest.mark.parametrize("node_id", sorted(NODE_IDS))
def test_help_pages_name_every_input_and_output(object_info: dict[str, Any], node_id: str) -> None:
    info = object_info[node_id]
    page = (ROOT / f"web/docs/{node_id}.md").read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", page))
    for name in [*(name for name, *_ in inputs_of(info)), *info["output_name"]]:
        assert name in words or name in page, f"{node_id}.md does not mention {name}"


def test_the_page_about_graphs_names_every_node_of_core_that_changes_a_model(
    object_info: dict[str, Any],
) -> None:
    page = (ROOT / "docs" / "graph.md").read_text(encoding="utf-8")
    for name, info in object_info.items():
        kinds = {str(kind) for _, kind, *_ in inputs_of(info)}
        changes = "MODEL" in info["output"] and "MODEL" in kinds
        if changes and info["python_module"].split(".")[0] in ("nodes", "comfy_extras"):
            assert name in page or name.startswith("ModelMerge"), name
