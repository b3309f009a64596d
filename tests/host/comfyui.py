"""A real ComfyUI server with this pack, in folders of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError

from client import Client
from repository import ROOT, repository_files

PACK = "emo-portrait"
"""The pack's folder in custom_nodes, as the registry installs it."""
ANOTHER_PACK = Path(__file__).with_name("counting_node.py")
"""A node of the tests, loaded beside the pack as one of somebody else."""
START_SECONDS = 300.0
"""A cold disk and a busy processor have needed 160 s."""


def find_comfyui() -> Path | None:
    """ComfyUI's folder: COMFYUI_PATH, else where comfy-cli installs it; None if it is not there."""
    folder = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "comfy" / "ComfyUI")
    return folder.resolve() if (folder / "main.py").is_file() else None


def link_pack(custom_nodes: Path) -> None:
    """Put this repository into a custom_nodes folder, as a link where the system allows it."""
    place = custom_nodes / PACK
    if place.exists():  # a server's folder that is used again
        return
    try:
        place.symlink_to(ROOT, target_is_directory=True)
    except OSError:  # Windows without the developer mode
        for name in repository_files():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, place / name)


class Server:
    """A running server.

    Args:
        comfyui: its program's folder.
        folder: where models, input, output, user and custom_nodes are put.

    Attributes:
        folder: the same.
        models: folder of models; models/emo is there.
        url: without a slash at the end.
        client: talks with it.
    """

    def __init__(self, comfyui: Path, folder: Path) -> None:
        self.folder, self.models = folder, folder / "models"
        for name in ("custom_nodes", "input", "output", "user", "models/emo"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        link_pack(folder / "custom_nodes")
        shutil.copyfile(ANOTHER_PACK, folder / "custom_nodes" / ANOTHER_PACK.name)
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.client = Client(self.url)
        self._log = folder / "server.log"
        command = [
            sys.executable, str(comfyui / "main.py"), "--cpu", "--port", str(port),
            "--base-directory", str(folder), "--disable-api-nodes",
            # Else it lies in ComfyUI's own folder, which two servers would share.
            "--database-url", f"sqlite:///{(folder / 'user' / 'comfyui.db').as_posix()}",
        ]  # fmt: skip
        with self._log.open("wb") as log:
            # A group of its own, so that Ctrl-C in the terminal reaches the tests first.
            self._process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=os.name != "nt",
            )  # fmt: skip

    @property
    def log(self) -> str:
        """What the server has written so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_until_ready(self) -> None:
        """Wait until it answers.

        Raises:
            RuntimeError: if it died or did not answer in time, with its log.
        """
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with {self._process.returncode}:\n{self.log}")
            try:
                self.client.get("/system_stats")
                return
            except (URLError, OSError):
                time.sleep(0.2)
        raise RuntimeError(f"ComfyUI did not answer within {START_SECONDS:g} s:\n{self.log}")

    def stop(self) -> None:
        """End the server and what it started."""
        for end in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
            if self._process.poll() is None:
                self._signal(end)
            try:
                self._process.wait(20)
                return
            except subprocess.TimeoutExpired:
                continue

    def kill(self) -> None:
        """End the server at once, as a power failure does."""
        self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        self._process.wait(20)

    def _signal(self, end: int) -> None:
        if os.name == "nt":
            self._process.kill()
        else:
            os.killpg(self._process.pid, end)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
