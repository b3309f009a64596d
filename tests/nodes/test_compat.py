"""One way to write a node for every host."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from typing import Any


def test_what_the_host_does_not_know_is_left_out(pack: Any) -> None:
    compat = import_module(f"{pack.__name__}.compat")
    known = {field.name for field in fields(compat.io.Schema)}
    made = compat.Schema(node_id="A", category="EMO", search_aliases=["b"], from_the_future=1)
    assert made.node_id == "A" and made.category == "EMO"
    assert not hasattr(made, "from_the_future")
    assert hasattr(made, "search_aliases") == ("search_aliases" in known)


def test_the_host_is_asked_for_one_version_of_its_interface(pack: Any) -> None:
    compat, host = import_module(f"{pack.__name__}.compat"), import_module("comfy_api.v0_0_2")
    assert compat.io is host.io and compat.ComfyExtension is host.ComfyExtension
    assert all(issubclass(node, host.io.ComfyNode) for node in pack.NODES)
