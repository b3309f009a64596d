"""ReferenceNetEncode: the portrait through VAE and ReferenceNet, once for a whole film."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from ..emo_core.config import EMOConfig
from .compat import Schema, io
from .conditioner import encode_portrait
from .host import parts_of
from .seen import see
from .sockets import Face, Reference, pack_reference, unpack_face

logger = logging.getLogger(__name__)


class ReferenceNetEncode(io.ComfyNode):
    """The portrait's features, which every clip of a film reads."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the node takes and gives."""
        return Schema(
            node_id="ReferenceNetEncode",
            display_name="EMO ReferenceNet Encode",
            category="EMO",
            description="Looks at the portrait once: what ReferenceNet sees here, every clip of "
            "the film reads, so that the face stays the same.",
            search_aliases=["reference", "portrait", "identity", "face"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The MODEL of EMO Model Loader, whose ReferenceNet looks at "
                    "the portrait.",
                ),
                io.Vae.Input(
                    "vae", tooltip="The VAE of EMO Model Loader, or an SD 1.5 VAE for weights of "
                    "that size; latents of another kind are refused.",
                ),
                io.Image.Input(
                    "image", tooltip="The portrait, any size; the largest square is cut out of "
                    "it, in the middle of a wide picture and a little above it in a tall one, so "
                    "crop it yourself if the face lies elsewhere.",
                ),
                Face.Input(
                    "face", optional=True, tooltip="The face embedding of the same portrait, from "
                    "EMO Load Face Embedding; only Hallo's weights see one, and without it they "
                    "keep the likeness from the picture alone.",
                ),
            ],
            outputs=[
                Reference.Output(
                    "reference", display_name="reference",
                    tooltip="The portrait as EMO's nodes read it, encoded by this "
                    "model; it does not change with the sound, the speed or the seed.",
                ),
                io.Latent.Output(
                    "portrait_latent", display_name="latent",
                    tooltip="The portrait's own latent, one picture; decode it to see what the "
                    "model sees of your portrait.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model: Any, vae: Any, image: Tensor, face: Any = None) -> io.NodeOutput:
        """Encode it."""
        parts = parts_of(model)
        size, channels = parts.config.picture_size, parts.config.unet.latent_channels
        picture = one_picture(image)
        cut, square = see(picture, size, parts.reproduce)
        side = min(picture.shape[-2:])
        if side < size // 2:
            logger.warning(
                "the portrait has %d pixels along its shorter side and %s was made for %d; a "
                "larger picture gives a clearer face", side, parts.config.name, size,
            )  # fmt: skip
        embedding = _embedding(face, parts.config)
        if vae is None:
            raise ValueError(
                f"{parts.config.name} brings no VAE of its own; connect an SD 1.5 VAE (Load VAE)"
            )
        latents = vae.encode(cut.permute(1, 2, 0)[None].contiguous())
        if tuple(latents.shape[1:]) != (channels, parts.config.latent_size,
                                        parts.config.latent_size):  # fmt: skip
            raise ValueError(
                f"the VAE gives latents of the shape {tuple(latents.shape[1:])}, and "
                f"{parts.config.name} needs {channels} channels of {parts.config.latent_size}x"
                f"{parts.config.latent_size}; connect the VAE of EMO Model Loader"
            )
        scaled = model.model.process_latent_in(latents.float().cpu())
        features = encode_portrait(parts, scaled, embedding)
        height, width = picture.shape[-2:]
        pixels = cut[None] if parts.config.temporal.motion_mask else None
        reference = pack_reference(
            parts.identity, scaled, features, (height, width), square, embedding, pixels
        )
        return io.NodeOutput(reference, {"samples": latents.float().cpu()})


def _embedding(face: Any, config: EMOConfig) -> Tensor | None:
    """The face embedding that the model sees; what is missing or left out is said."""
    if not config.unet.face_tokens:
        if face is not None:
            logger.warning("%s sees no face embedding: face changes nothing", config.name)
        return None
    if face is None:
        logger.info(
            "no face embedding is connected: %s sees the face of nobody there, and keeps the "
            "likeness from the picture alone", config.name,
        )  # fmt: skip
        return None
    return unpack_face(face, config)


def one_picture(image: Tensor) -> Tensor:
    """The first picture of an IMAGE as (3, H, W), transparency laid over white.

    Raises:
        ValueError: if it is no IMAGE, is empty, or holds NaN.
    """
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.numel() == 0 or image.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"a portrait is an IMAGE (pictures, height, width, 3), got {tuple(image.shape)}; "
            "connect Load Image"
        )
    if len(image) > 1:
        logger.warning("the portrait holds %d pictures; the first is used", len(image))
    picture = image[0].float().cpu().permute(2, 0, 1)
    if not bool(torch.isfinite(picture).all()):
        raise ValueError("the portrait holds NaN or infinite values; make or load it again")
    picture = picture.clamp(0, 1)
    if len(picture) == 4:
        return picture[:3] * picture[3:] + 1 - picture[3:]
    return picture.expand(3, -1, -1)
