"""A file in Hallo's published layout in a real server: net.pth in models/emo to a saved film."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch
from client import Client
from comfyui import Server
from prompts import Graph
from published_hallo import WAV2VEC, published_state, write_wav2vec
from safetensors.torch import save_file

from emo_core.config import AudioConfig, EMOConfig, LocatorConfig
from emo_core.presets import hallo

TAESD = """
import sys
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, ".")
import comfy.options
comfy.options.enable_args_parsing()
import torch
from comfy.taesd.taesd import TAESD
from safetensors.torch import save_file
torch.manual_seed(0)
coder = TAESD()
for name in ("encoder", "decoder"):
    part = getattr(coder, f"taesd_{name}")
    state = {key: torch.randn(one.shape) * (0.6 / max(one[0].numel(), 9) ** 0.5)
             for key, one in part.state_dict().items()}
    save_file(state, f"{FOLDER}/taesd_{name}.safetensors")
"""
"""Seeded weights for the host's smallest VAE: SD 1.5's own would take an hour on a CPU."""


def narrow() -> EMOConfig:
    """Hallo with few channels; all that its file cannot say is as published."""
    config = hallo()
    return replace(
        config,
        unet=replace(config.unet, widths=(32, 32, 32, 32), time_width=64, face_token_width=12),
        audio=AudioConfig("masked3", 12, 16, 2, 4, 16, 20, "wav2vec2", "before", "whole_file"),
        locator=LocatorConfig(3, (8, 8, 16, 16)),
    )


def small() -> EMOConfig:
    """The same in pictures and clips that a CPU samples in seconds."""
    config = narrow()
    temporal = replace(config.temporal, num_frames=4)
    return replace(config, picture_size=128, temporal=temporal)


@pytest.fixture(scope="module")
def files(server: Server, comfyui: Path) -> Server:
    """What the README asks to download, in the host's folders."""
    torch.save(published_state(narrow()), server.models / "emo" / "net.pth")
    tensors = {name: one.contiguous() for name, one in published_state(small()).items()}
    header = {"emo_config": small().to_json()}
    save_file(tensors, server.models / "emo" / "small.safetensors", header)
    encoders, coders = server.models / "audio_encoders", server.models / "vae_approx"
    for folder in (encoders, coders):
        folder.mkdir(parents=True, exist_ok=True)
    write_wav2vec(encoders / "wav2vec2-base-960h", {**WAV2VEC, "num_hidden_layers": 12})
    (server.folder / "input" / "face.json").write_text(str(torch.randn(512).tolist()))
    made = subprocess.run(
        [sys.executable, "-c", f"FOLDER = {str(coders)!r}\n{TAESD}"], cwd=comfyui,
        capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return server


def test_net_pth_is_loaded_from_its_folder(files: Server, client: Client) -> None:
    """And looks at a portrait of 512 pixels."""
    graph = Graph(client.object_info())
    example, vae = graph.add("EMOExampleInputs"), graph.add("VAELoader", vae_name="taesd")
    loader = graph.add("EMOModelLoader", model_name="net.pth")
    reference = graph.add("ReferenceNetEncode", vae, loader, example, face=None)
    graph.add("PreviewImage", graph.add("VAEDecode", reference, vae))
    run = client.run(graph.prompt, seconds=600)
    assert run.succeeded, f"{run.error_node}: {run.error}"
    assert "net.pth is taken for hallo: nothing about it says hallo2" in files.log


def test_the_published_layout_goes_to_a_saved_film(
    files: Server, client: Client, tmp_path: Path
) -> None:
    """Out of a photograph and back into it, with everything that Hallo's weights see."""
    info = client.object_info()
    graph = Graph(info)
    example, vae = graph.add("EMOExampleInputs"), graph.add("VAELoader", vae_name="taesd")
    loader = graph.add("EMOModelLoader", model_name="small.safetensors", variant="hallo2")
    heard = graph.add("LoadAudioEmbedding", example, loader, duration=0.2,
                      encoder="wav2vec2-base-960h/model.safetensors")  # fmt: skip
    place = graph.add("FaceLocatorMask", example, detector="box widgets")
    crop = graph.add("EMOPortraitCrop", example, place, face_share=0.8)
    lips = graph.add("FaceLocatorMask", crop, detector="box widgets", mask=None)
    face = graph.add("EMOLoadFaceEmbedding", file="input/face.json")
    reference = graph.add("ReferenceNetEncode", vae, loader, crop, face)
    noise = graph.add("EMOHalloNoise", loader)
    names = info["FaceLocatorMask"]["output_name"]
    masks = {name: [lips.id, names.index(name)] for name in ("region", "lips")}
    film = graph.add("MotionFrameLooper", vae, loader, reference, heard, noise, steps=2,
                     motion_frames=None, motion_images=None, existing_film=None,
                     **masks)  # fmt: skip
    video = graph.add("EMODecodeVideo", vae, film, heard)
    back = graph.add("EMOPasteBack", crop, video, images=None, mask=None)
    graph.add("SaveVideo", back, filename_prefix="video/hallo")
    run = client.run(graph.prompt, seconds=600)
    assert run.succeeded, f"{run.error_node}: {run.error}"
    (saved,) = (entry for entry in run.files() if entry["filename"].endswith(".mp4"))
    with av.open(str(client.download(saved, tmp_path))) as file:
        frames = list(file.decode(video=0))
        assert len(frames) == 5 and (frames[0].width, frames[0].height) == (128, 128)
        assert file.streams.audio
    assert "small.safetensors is taken for hallo2: it was chosen" in files.log
