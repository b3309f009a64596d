"""Which node of ComfyUI a weight file is for when it is no EMO checkpoint."""

from __future__ import annotations

_NOT_YET = "this pack does not run its weights; take Hallo's net.pth or an EMO checkpoint"
_INSIDE = (
    "it is one part of a model, and Hallo's net.pth already holds its own; choose net.pth or an "
    "EMO checkpoint"
)
_PICTURES = "put it into {folder} and open it with {node}; EMO Model Loader needs an EMO checkpoint"

_WAYS = {
    "LoRA": "put it into models/loras, and connect this node's MODEL to LoraLoaderModelOnly",
    "VAE": "put it into models/vae, open it with Load VAE, and connect that to the vae sockets",
    "audio encoder": "put it into models/audio_encoders, and choose it in EMO Load Audio Embedding",
    "text encoder": "put it into models/text_encoders and open it with Load CLIP for other models; "
    "EMO reads no text, so choose an EMO checkpoint here",
    "ControlNet": _PICTURES.format(folder="models/controlnet", node="Load ControlNet Model"),
    "SDXL checkpoint": _PICTURES.format(folder="models/checkpoints", node="Load Checkpoint"),
    "Stable Diffusion checkpoint": "put it into models/checkpoints and open it with Load "
    "Checkpoint, whose VAE fits Hallo's weights; EMO Model Loader needs an EMO checkpoint",
    "Stable Diffusion 1.5 UNet": _PICTURES.format(
        folder="models/diffusion_models", node="Load Diffusion Model"
    ),
    "diffusers UNet": _PICTURES.format(
        folder="models/diffusion_models", node="Load Diffusion Model"
    ),
    "AnimateDiff motion module": _INSIDE,
    "face locator": _INSIDE,
    "part of a Hallo checkpoint": "choose the whole net.pth",
    "EchoMimic network": _NOT_YET,
    "V-Express checkpoint": _NOT_YET,
    "MEMO checkpoint": _NOT_YET,
}


def way_out(kind: str, otherwise: str) -> str:
    """What to do in ComfyUI with a file of a kind, by the kind's name.

    Args:
        kind: name of a weight_files.Kind.
        otherwise: what to say of kinds that no node opens.
    """
    return _WAYS.get(kind, otherwise)
