"""One ComfyUI server for all tests of this folder; without ComfyUI they are skipped, loudly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client import Client
from comfyui import Server, find_comfyui

HERE = Path(__file__).parent
ABSENT = (
    "ComfyUI was not found (COMFYUI_PATH, else ~/comfy/ComfyUI): THE TESTS OF tests/host, the pack "
    "in a real server, WERE SKIPPED"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests here time for a slow machine, or skip them where there is no host."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.host)
            # More than the bounds inside, which say what was waited for.
            item.add_marker(pytest.mark.timeout(1200))
            if find_comfyui() is None:
                item.add_marker(pytest.mark.skip(reason=ABSENT))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say once, at the end, that there was no host."""
    if find_comfyui() is None:
        terminalreporter.write_line(ABSENT, yellow=True, bold=True)


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """ComfyUI's folder."""
    folder = find_comfyui()
    assert folder is not None, ABSENT
    return folder


@pytest.fixture(scope="session")
def server(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A ComfyUI server with this pack and the tests' counting node, on the CPU."""
    running = Server(comfyui, tmp_path_factory.mktemp("comfyui"))
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


@pytest.fixture
def client(server: Server) -> Client:
    """A user of the server, who has uploaded nothing yet."""
    return server.client


@pytest.fixture(scope="session")
def object_info(server: Server) -> dict[str, dict[str, Any]]:
    """What the server knows of every node."""
    return server.client.object_info()
