"""A server that dies in the middle of a film: the next one goes on with the clips that are kept."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from client import Prompt, Run
from comfyui import Server
from prompts import Graph
from safetensors.torch import load_file

from emo_core.sound_files import read_sound
from emo_core.video import read_video

SECONDS, CLIPS, STEPS = 1.8, 4, 12
"""45 frames of emo-tiny, which are four clips of 12; steps enough to be quicker than the film."""
KILLS = int(os.environ.get("EMO_SOAK_KILLS", "20"))


@pytest.fixture
def start(comfyui: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers, one after the other in the same folder, or in another."""
    started: list[Server] = []

    def ready(name: str = "comfyui") -> Server:
        started.append(Server(comfyui, tmp_path / name))
        started[-1].wait_until_ready()
        return started[-1]

    yield ready
    for server in started:
        server.stop()


def film_prompt(info: dict[str, Any], name: str, seconds: float = SECONDS, **looper: Any) -> Prompt:
    """A film whose latents core's Save Latent writes; nothing is decoded."""
    graph = Graph(info)
    graph.talking_portrait(seconds, **({"steps": STEPS, "joins": "plain"} | looper))
    prompt = {
        node_id: node
        for node_id, node in graph.prompt.items()
        if node["class_type"] not in ("EMODecodeVideo", "SaveVideo")
    }
    given = {"samples": [looper_of(prompt), 0], "filename_prefix": name}
    return {**prompt, "99": {"class_type": "SaveLatent", "inputs": given}}


def node_of(prompt: Prompt, class_type: str) -> str:
    """The id of the only node of a class."""
    (found,) = (name for name, node in prompt.items() if node["class_type"] == class_type)
    return found


def looper_of(prompt: Prompt) -> str:
    return node_of(prompt, "MotionFrameLooper")


def kept_film_prompt(info: dict[str, Any]) -> tuple[str, Prompt]:
    """The newest film that is kept, decoded in the graph that makes it."""
    graph = Graph(info)
    graph.talking_portrait(SECONDS, steps=STEPS)
    offered = info["EMODecodeVideo"]["input"]["optional"]["kept_film"]
    names = offered[1]["options"] if offered[0] == "COMBO" else offered[0]
    graph.prompt[node_of(graph.prompt, "EMODecodeVideo")]["inputs"]["kept_film"] = names[1]
    return names[1], graph.prompt


def kept_files(server: Server) -> list[Path]:
    return list((server.folder / "output" / "emo_clips").glob("*/*.safetensors"))


def said(clips: int, kept: int) -> str:
    """What the looper shows of a film of several clips, some of which were kept."""
    return f"{clips} clips: {kept} from cache, {clips - kept} sampled"


def text_of(run: Run, prompt: Prompt) -> str:
    """What the looper shows."""
    assert run.succeeded, f"{run.error_node}: {run.error}"
    return str(run.outputs[looper_of(prompt)]["text"][0])


def latents(server: Server, name: str) -> torch.Tensor:
    (file,) = (server.folder / "output").glob(f"{name}_*.latent")
    return load_file(file)["latent_tensor"]


def test_a_killed_servers_clips_are_seen_and_not_sampled_again(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    first = start()
    prompt = film_prompt(first.client.object_info(), "again")
    first.client.queue(prompt)
    until = time.monotonic() + 300
    while len(kept_files(first)) < 2:
        assert time.monotonic() < until, first.log
        time.sleep(0.02)
    first.kill()
    kept = len(kept_files(first))
    assert 2 <= kept < CLIPS
    second = start()
    name, decode = kept_film_prompt(second.client.object_info())
    seen = second.client.run(decode)
    assert seen.succeeded, seen.error
    assert looper_of(decode) not in seen.outputs, "the looper must not run for a kept film"
    shown = seen.outputs[node_of(decode, "EMODecodeVideo")]["text"][0]
    assert shown.startswith(f"{name}: {kept} of {CLIPS} clips, {kept * 0.48:.2f} of 1.80 s; ")
    (file,) = (entry for entry in seen.files() if entry["filename"].endswith(".mp4"))
    early = second.client.download(file, tmp_path)
    assert len(read_video(early)[0]) == kept * 12
    waveform, rate = read_sound(early)
    assert waveform.shape[1] / rate == pytest.approx(kept * 0.48, abs=0.001)
    again = second.client.run(prompt)
    assert text_of(again, prompt) == said(CLIPS, kept)
    assert f"clip {CLIPS} of {CLIPS}, 0:01.44-0:01.80, {kept} from cache" in second.log
    assert f"clip {kept} of" not in second.log
    # The film has grown, so the same prompt decodes it again.
    whole = second.client.run(decode)
    shown = whole.outputs[node_of(decode, "EMODecodeVideo")]["text"][0]
    assert shown == f"{name}: {CLIPS} of {CLIPS} clips, 1.80 of 1.80 s"
    alone = film_prompt(second.client.object_info(), "alone", keep_clips=False)
    assert text_of(second.client.run(alone), alone) == said(CLIPS, 0)
    film = latents(second, "again")
    assert len(film) == 45 and torch.equal(film, latents(second, "alone"))


@pytest.mark.soak
def test_two_servers_that_share_the_folder_do_not_harm_each_other(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    """Both make the same film at the same time, and then each finds what the other made."""
    (tmp_path / "other" / "output").mkdir(parents=True)
    shared = tmp_path / "comfyui" / "output" / "emo_clips"
    (tmp_path / "other" / "output" / "emo_clips").symlink_to(shared, target_is_directory=True)
    shared.mkdir(parents=True)
    servers = [start("comfyui"), start("other")]
    info = servers[0].client.object_info()
    prompts = [film_prompt(info, name, seed=3) for name in ("one", "other")]
    queued = [server.client.queue(prompt) for server, prompt in zip(servers, prompts, strict=True)]
    for server, prompt, each in zip(servers, prompts, queued, strict=True):
        assert re.fullmatch(
            f"{CLIPS} clips: [0-4] from cache, [0-4] sampled",
            text_of(server.client.wait(each), prompt),
        )
    assert len(kept_files(servers[0])) == CLIPS
    others = [film_prompt(info, f"take-{seed}", seed=seed) for seed in (4, 5)]
    for server, prompt in zip(servers, others, strict=True):
        text_of(server.client.run(prompt), prompt)
    for server, prompt in zip(servers, reversed(others), strict=True):
        assert text_of(server.client.run(prompt), prompt) == said(CLIPS, CLIPS)
    assert torch.equal(latents(servers[0], "one"), latents(servers[1], "other"))
    assert not [path for path in shared.rglob("*") if path.suffix in (".damaged", ".partial")]
    assert not any("damaged" in server.log for server in servers)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_kills_at_random_moments_cost_at_most_the_clip_in_progress(
    start: Callable[..., Server],
) -> None:
    """EMO_SOAK_KILLS times, 20 by default; whenever a film is finished another is begun."""
    seconds, clips = 7.0, 15
    draw, seed, finished = random.Random(20), 0, list[int]()
    for _ in range(KILLS):
        server = start()
        before = len(kept_files(server))
        info = server.client.object_info()
        prompt = film_prompt(info, f"film-{seed}", seconds, seed=seed, steps=4)
        queued = server.client.queue(prompt)
        # Some moments lie before the first clip, most within one, some where one is written.
        more, until = draw.choice([0, 0, 1, 2, 3]), time.monotonic() + 300
        while len(kept_files(server)) < before + more and server.client.running():
            assert time.monotonic() < until, server.log
            time.sleep(0.005)
        time.sleep(draw.choice([draw.uniform(0, 0.05), draw.uniform(0, 4)]))
        ended = not server.client.running()
        if ended:
            text_of(server.client.wait(queued), prompt)
            finished.append(seed)
            seed += 1
        server.kill()
        assert len(kept_files(server)) >= before + more * (not ended), "a kept clip was lost"
        # The first clip that was begun is the first whose file was not there.
        begun = re.search(rf"clip (\d+) of {clips}", server.log)
        assert begun is None or int(begun[1]) == before - clips * (len(finished) - ended) + 1
        assert "damaged" not in server.log
    last = start()
    info, kept = last.client.object_info(), len(kept_files(last)) - clips * len(finished)
    prompt = film_prompt(info, f"film-{seed}", seconds, seed=seed, steps=4)
    assert text_of(last.client.run(prompt, 1200), prompt) == said(clips, kept)
    for each in [*finished, seed]:
        alone = film_prompt(info, f"alone-{each}", seconds, seed=each, steps=4, keep_clips=False)
        text_of(last.client.run(alone, 1200), alone)
        assert torch.equal(latents(last, f"film-{each}"), latents(last, f"alone-{each}"))
    assert not list((last.folder / "output" / "emo_clips").rglob("*.damaged"))
