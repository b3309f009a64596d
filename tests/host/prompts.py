"""Prompts for the host: written by hand in few words, or from a workflow of the front end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from client import Prompt

Info = dict[str, dict[str, Any]]
"""The host's object_info: what it knows of every node, by class_type."""

MUTED, BYPASSED = 2, 4
WITHOUT_PROMPT = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}
"""Nodes of the front end, which the host does not know."""


def inputs_of(info: dict[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any], bool]]:
    """Name, type, options and whether it is required of every input of a node, in order."""
    for group in ("required", "optional"):
        for name, spec in info["input"].get(group, {}).items():
            yield name, spec[0], spec[1] if len(spec) > 1 else {}, group == "required"


def is_widget(kind: Any, options: dict[str, Any]) -> bool:
    """Whether an input has a widget, and so a place in widgets_values."""
    widgets = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
    return (isinstance(kind, list) or kind in widgets) and not options.get("forceInput")


def choices(kind: Any, options: dict[str, Any]) -> list[Any] | None:
    """What a combo offers; None for other inputs."""
    if isinstance(kind, list):
        return kind
    return list(options["options"]) if kind == "COMBO" else None


@dataclass(frozen=True)
class Node:
    """A node of a prompt, whose outputs others can take."""

    id: str
    types: list[str]

    def out(self, kind: str) -> list[Any]:
        """Its first output of a type, as an input of another node."""
        return [self.id, self.types.index(kind)]


class Graph:
    """A prompt that is being written.

    Args:
        info: object_info of the host.
    """

    def __init__(self, info: Info) -> None:
        self._info = info
        self.prompt: Prompt = {}

    def add(self, class_type: str, *sources: Node, **inputs: Any) -> Node:
        """Add a node.

        Args:
            class_type: which.
            sources: nodes that give what its sockets take: each socket gets the first output of its
                type.
            inputs: values, or links of Node.out, by name; None leaves a socket open. Widgets that
                are not named have their defaults.
        """
        info, values = self._info[class_type], dict(inputs)
        unknown = set(inputs) - {name for name, *_ in inputs_of(info)}
        assert not unknown, f"{class_type} has no {sorted(unknown)}"
        for name, kind, options, required in inputs_of(info):
            if name in values:
                continue
            if not is_widget(kind, options):
                giving = (node.out(kind) for node in sources if kind in node.types)
                values[name] = next(giving, None)
            elif required or "default" in options:
                offered = choices(kind, options)
                values[name] = options.get("default", offered[0] if offered else "")
        given = {name: value for name, value in values.items() if value is not None}
        node_id = str(len(self.prompt) + 1)
        self.prompt[node_id] = {"class_type": class_type, "inputs": given}
        return Node(node_id, [str(kind) for kind in info["output"]])

    def talking_portrait(self, seconds: float, **looper: Any) -> None:
        """The basic workflow, from the pack's own portrait and sound to core's SaveVideo.

        Args:
            seconds: of the sound.
            looper: widgets of MotionFrameLooper.
        """
        example, loader = self.add("EMOExampleInputs"), self.add("EMOModelLoader")
        heard = self.add("LoadAudioEmbedding", example, loader, duration=seconds)
        region, speed = self.add("FaceLocatorMask", example), self.add("SpeedBuckets")
        reference = self.add("ReferenceNetEncode", example, loader)
        # What would continue another film or voice it anew stays open.
        apart = dict.fromkeys(("motion_frames", "motion_images", "existing_film", "lips"))
        film = self.add("MotionFrameLooper", loader, reference, heard, region, speed,
                        **(apart | looper))  # fmt: skip
        video = self.add("EMODecodeVideo", film, loader, heard)
        self.add("SaveVideo", video, filename_prefix="video/hand-written")


def from_workflow(workflow: dict[str, Any], info: Info) -> Prompt:
    """What the front end sends for a workflow that it saved.

    Muted nodes are left out; a bypassed one hands on its first input of each output's type.

    Args:
        workflow: nodes, links and widgets_values.
        info: object_info of the host.

    Raises:
        ValueError: if it has a node that the host does not know.
    """
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: (link[1], link[2]) for link in workflow["links"]}
    prompt: Prompt = {}
    for node in nodes.values():
        if node["type"] in WITHOUT_PROMPT or node.get("mode", 0) in (MUTED, BYPASSED):
            continue
        if node["type"] not in info:
            raise ValueError(f"the host does not know the node {node['type']}")
        values = dict(_widget_values(node, info[node["type"]]))
        for socket in node.get("inputs", []):
            if socket.get("link") is not None:
                source = _source(socket["link"], nodes, links)
                if source is not None:
                    values[socket["name"]] = source
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": values}
    return prompt


def _widget_values(node: dict[str, Any], info: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Widgets by name; they are saved by position, a seed with what becomes of it beside it."""
    saved = iter(node.get("widgets_values") or [])
    for name, kind, options, _ in inputs_of(info):
        if not is_widget(kind, options):
            continue
        try:
            yield name, next(saved)
        except StopIteration:  # saved before the widget was added: its default
            if "default" in options:
                yield name, options["default"]
            continue
        seed = kind == "INT" and name in ("seed", "noise_seed")
        if options.get("control_after_generate") or seed:
            next(saved, None)


def _source(link: int, nodes: dict[int, Any], links: dict[int, tuple[int, int]]) -> Any:
    """The output behind a link: [node id, slot], a primitive's value, or None for a muted node."""
    origin, slot = links[link]
    node = nodes[origin]
    if node["type"] == "PrimitiveNode":
        return node["widgets_values"][0]
    if node["type"] != "Reroute" and node.get("mode", 0) != BYPASSED:
        return None if node.get("mode", 0) == MUTED else [str(origin), slot]
    for socket in node["inputs"]:
        same = node["type"] == "Reroute" or socket["type"] == node["outputs"][slot]["type"]
        if same and socket.get("link") is not None:
            return _source(socket["link"], nodes, links)
    return None
