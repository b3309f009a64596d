"""ReferenceNetEncode: the portrait through VAE and ReferenceNet, once for a whole film."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from ..emo_core.config import EMOConfig
from ..emo_core.film_size import MOST, STEP, film_size
from ..emo_core.pictures import Size
from .compat import Schema, io
from .conditioner import encode_portrait
from .host import EMOParts, parts_of
from .seen import see
from .sockets import Face, Reference, pack_reference, unpack_face

logger = logging.getLogger(__name__)

_MOST_PICTURES = 16
"""Every step of every frame attends to the tokens of all of them."""


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
                    "crop it yourself if the face lies elsewhere; several pictures as one batch "
                    "are one person seen several times, and the first is the film's portrait.",
                ),
                Face.Input(
                    "face", optional=True, tooltip="The face embedding of the same portrait, from "
                    "EMO Load Face Embedding; only Hallo's weights see one, and without it they "
                    "keep the likeness from the picture alone.",
                ),
                io.Int.Input(
                    "width", default=0, min=0, max=MOST, step=STEP, optional=True,
                    tooltip="Width of the film in pixels, a multiple of 64 from 256 to 1024; 0 is "
                    "the model's own and the only one for emo-tiny, others are for weights of SD "
                    "1.5's size.",
                ),
                io.Int.Input(
                    "height", default=0, min=0, max=MOST, step=STEP, optional=True,
                    tooltip="Height of the film in pixels, a multiple of 64 from 256 to 1024; 0 "
                    "is the model's own; the largest part of this shape is cut out of the "
                    "portrait.",
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
                    tooltip="The portrait's own latent, one for each picture of the batch; decode "
                    "it to see what the model sees of your portrait.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: Any, vae: Any, image: Tensor, face: Any = None, width: int = 0, height: int = 0
    ) -> io.NodeOutput:
        """Encode it."""
        parts = parts_of(model)
        size = _size(parts, width, height)
        pictures = pictures_of_a_person(image)
        shape = (pictures.shape[-2], pictures.shape[-1])
        views = [see(picture, size, parts.reproduce) for picture in pictures]
        cut, window = torch.stack([view for view, _ in views]), views[0][1]
        side = min(shape)
        if side < min(size) // 2:
            logger.warning(
                "the portrait has %d pixels along its shorter side and %s was made for %d; a "
                "larger picture gives a clearer face", side, parts.config.name, min(size),
            )  # fmt: skip
        embedding = _embedding(face, parts.config)
        if vae is None:
            raise ValueError(
                f"{parts.config.name} brings no VAE of its own; connect an SD 1.5 VAE (Load VAE)"
            )
        latents = vae.encode(cut.movedim(1, -1).contiguous())
        channels = parts.config.unet.latent_channels
        rows, columns = (side // parts.config.latent_factor for side in size)
        if tuple(latents.shape[1:]) != (channels, rows, columns):
            raise ValueError(
                f"the VAE gives latents of the shape {tuple(latents.shape[1:])}, and "
                f"{parts.config.name} needs {channels} channels of {columns}x{rows}; connect the "
                "VAE of EMO Model Loader"
            )
        scaled = model.model.process_latent_in(latents.float().cpu())
        features = encode_portrait(parts, scaled, embedding)
        pixels = cut[:1] if parts.config.temporal.motion_mask else None
        reference = pack_reference(
            parts.identity, scaled, features, shape, window, embedding, pixels
        )
        return io.NodeOutput(reference, {"samples": latents.float().cpu()})


def _size(parts: EMOParts, width: int, height: int) -> Size:
    """Rows and columns of the film; 0 stands for the model's own."""
    own = parts.config.picture_size
    size = film_size(parts.config, (height or own, width or own), (own, own))
    if parts.reproduce and size[0] != size[1]:
        raise ValueError(
            f"reproduce does what Hallo's own program does, which makes squares, and the film is "
            f"{size[1]}x{size[0]}; set width and height to 0, or reproduce off in EMO Model Loader"
        )
    return size


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


def pictures_of_a_person(image: Tensor) -> Tensor:
    """All pictures of an IMAGE as (r, 3, H, W), transparency laid over white.

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
    if len(image) > _MOST_PICTURES:
        raise ValueError(
            f"a portrait of {len(image)} pictures is a film, and a person's pictures are at most "
            f"{_MOST_PICTURES}; take some of them (ImageFromBatch), or make a list of them for a "
            "film of each"
        )
    pictures = image.float().cpu().movedim(-1, 1)
    if not bool(torch.isfinite(pictures).all()):
        raise ValueError("the portrait holds NaN or infinite values; make or load it again")
    pictures = pictures.clamp(0, 1)
    if pictures.shape[1] == 4:
        return pictures[:, :3] * pictures[:, 3:] + 1 - pictures[:, 3:]
    return pictures.expand(-1, 3, -1, -1)
