"""A client of ComfyUI's HTTP interface, from the standard library alone."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import ProxyHandler, Request, build_opener

PROMPT_SECONDS = 300.0
"""How long a prompt may take on a slow machine with other work to do."""

Prompt = dict[str, dict[str, Any]]
"""Nodes by their id, as the host's interface takes them: class_type and inputs."""


class Refused(Exception):
    """The host refused a prompt before it ran.

    Attributes:
        messages: what it says about the prompt and each node, in its words.
    """

    def __init__(self, answer: dict[str, Any]) -> None:
        nodes = answer.get("node_errors") or {}
        errors = [error for node in nodes.values() for error in node["errors"]]
        self.messages = [str(error["details"] or error["message"]) for error in errors]
        if not self.messages:
            self.messages = [str(answer["error"]["message"])]
        super().__init__("; ".join(self.messages))


class NotGiven(Exception):
    """The host answered with an error.

    Attributes:
        code: of HTTP.
        content: what it said.
    """

    def __init__(self, url: str, code: int, content: bytes) -> None:
        self.code, self.content = code, content
        super().__init__(f"{url}: {code}")


@dataclass(frozen=True)
class Run:
    """A prompt that ended.

    Attributes:
        outputs: what the nodes show, by node id: images, videos, text.
        messages: events of the run by name, the last of each.
    """

    outputs: dict[str, dict[str, Any]]
    messages: dict[str, dict[str, Any]]

    @property
    def succeeded(self) -> bool:
        """Whether every node ran."""
        return "execution_success" in self.messages

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped from outside."""
        return "execution_interrupted" in self.messages

    @property
    def cached(self) -> set[str]:
        """Ids of the nodes that did not run again."""
        return set(self.messages["execution_cached"]["nodes"])

    @property
    def error(self) -> str:
        """What the node that failed says; "" if none did."""
        return str(self.messages.get("execution_error", {}).get("exception_message", "")).strip()

    @property
    def error_type(self) -> str:
        """The name of the exception of the node that failed."""
        return str(self.messages.get("execution_error", {}).get("exception_type", ""))

    @property
    def error_node(self) -> str:
        """The class_type of the node that failed."""
        return str(self.messages.get("execution_error", {}).get("node_type", ""))

    def files(self) -> list[dict[str, str]]:
        """Every file that the nodes wrote: filename, subfolder, type."""
        lists = [value for shown in self.outputs.values() for value in shown.values()]
        entries = [entry for items in lists if isinstance(items, list) for entry in items]
        return [entry for entry in entries if isinstance(entry, dict) and "filename" in entry]


class Client:
    """One user of a server.

    Args:
        url: of the server, without a slash at the end.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._name = uuid.uuid4().hex
        # A proxy of the machine's environment does not know this server.
        self._opener = build_opener(ProxyHandler({}))

    def read(self, path: str) -> bytes:
        """What the server gives under a path.

        Raises:
            NotGiven: if there is nothing.
        """
        return self._send(Request(self.url + quote(path, safe="/?=&%")))

    def get(self, path: str) -> Any:
        """The JSON under a path."""
        return json.loads(self.read(path))

    def object_info(self) -> dict[str, dict[str, Any]]:
        """What the host knows of every node, by its id."""
        info: dict[str, dict[str, Any]] = self.get("/object_info")
        return info

    def queue(self, prompt: Prompt) -> str:
        """Queue a prompt.

        Returns:
            Its id.

        Raises:
            Refused: if it does not fit together.
        """
        try:
            answer = self._post("/prompt", {"prompt": prompt, "client_id": self._name})
        except NotGiven as error:
            raise Refused(json.loads(error.content)) from None
        if answer["node_errors"]:
            # The host runs the outputs that are well and drops the others: no test wants that.
            self._post("/queue", {"delete": [answer["prompt_id"]]})
            self.interrupt()
            raise Refused(answer)
        return str(answer["prompt_id"])

    def wait(self, prompt_id: str, seconds: float = PROMPT_SECONDS) -> Run:
        """Wait until a prompt has ended.

        Raises:
            TimeoutError: after `seconds`; the prompt is interrupted.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                messages = dict(entry["status"]["messages"])
                return Run(outputs=entry["outputs"], messages=messages)
            time.sleep(0.1)
        self.interrupt()
        raise TimeoutError(f"the prompt did not end within {seconds:g} s")

    def run(self, prompt: Prompt, seconds: float = PROMPT_SECONDS) -> Run:
        """Queue a prompt and wait for its end."""
        return self.wait(self.queue(prompt), seconds)

    def running(self) -> bool:
        """Whether a prompt is being executed or waits."""
        queue = self.get("/queue")
        return bool(queue["queue_running"] or queue["queue_pending"])

    def interrupt(self) -> None:
        """Ask the host to stop what it executes."""
        self._post("/interrupt", {})

    def free(self) -> None:
        """Let the host forget its cached results and models when it next has nothing to do."""
        self._post("/free", {"unload_models": True, "free_memory": True})

    def upload(self, file: Path) -> str:
        """Put a file into the host's input folder, over one of that name.

        Returns:
            Its name there, for LoadImage and LoadAudio.
        """
        border = uuid.uuid4().hex
        head = (
            f'--{border}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
            f'--{border}\r\nContent-Disposition: form-data; name="image"; '
            f'filename="{file.name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        )
        body = head.encode() + file.read_bytes() + f"\r\n--{border}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={border}"}
        answer = self._send(Request(f"{self.url}/upload/image", body, kind))
        return str(json.loads(answer)["name"])

    def download(self, entry: dict[str, str], folder: Path) -> Path:
        """Fetch a file that a node wrote.

        Args:
            entry: of Run.files().
            folder: where to put it.
        """
        query = urlencode({key: entry[key] for key in ("filename", "subfolder", "type")})
        path = folder / entry["filename"]
        path.write_bytes(self._send(Request(f"{self.url}/view?{query}")))
        return path

    def _post(self, path: str, content: dict[str, Any]) -> Any:
        kind = {"Content-Type": "application/json"}
        answer = self._send(Request(self.url + path, json.dumps(content).encode(), kind))
        return json.loads(answer) if answer else None

    def _send(self, request: Request) -> bytes:
        try:
            with self._opener.open(request, timeout=60) as answer:
                content: bytes = answer.read()
                return content
        except HTTPError as error:
            with error:  # its socket would stay open
                raise NotGiven(request.full_url, error.code, error.read()) from None
