"""EMOPortraitCrop: a square around the face, and what it takes to bring its film back."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from ..emo_core.face_masks import box_of_region, box_pixels
from ..emo_core.pasting import FACE_SHARE, square_around
from ..emo_core.pictures import Square, portrait_square
from .compat import Schema, io
from .faces import pictures_of, read_boxes, read_mask
from .region import Boxes
from .sockets import Crop, pack_crop

logger = logging.getLogger(__name__)


class EMOPortraitCrop(io.ComfyNode):
    """A square portrait out of a picture of any shape."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the node takes and gives."""
        return Schema(
            node_id="EMOPortraitCrop",
            display_name="EMO Portrait Crop",
            category="EMO/face",
            description="Cuts a square around the face out of a picture, for EMO ReferenceNet "
            "Encode; EMO Paste Back lays the talking face into the whole picture again.",
            search_aliases=["crop face", "square", "portrait", "inpaint crop"],
            inputs=[
                io.Image.Input(
                    "image", tooltip="The whole picture, of any size and shape; of several the "
                    "first is taken.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Where the face is, white inside, from "
                    "EMO Face Locator Mask or painted; without it and a box, the largest square is "
                    "cut where portraits have their face.",
                ),
                Boxes.Input(
                    "bounding_box", optional=True, tooltip="The face's box of another node, in "
                    "pixels of the image, used when no mask is connected; several are joined.",
                    extra_dict={"forceInput": True},
                ),
                io.Float.Input(
                    "face_share", default=FACE_SHARE, min=0.1, max=1.0, step=0.05,
                    tooltip="How much of the square's side the face takes, 0.1 to 1; Hallo's "
                    "authors ask for 0.5 to 0.7, lower it to see more of the shoulders.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "portrait", display_name="portrait",
                    tooltip="The square, in the picture's own pixels, for EMO ReferenceNet Encode "
                    "and EMO Face Locator Mask.",
                ),
                Crop.Output(
                    "crop", display_name="crop",
                    tooltip="The whole picture and the square's place in it, for EMO Paste Back.",
                ),
                io.Mask.Output(
                    "region", display_name="region",
                    tooltip="The connected mask or box inside the square, for region of the "
                    "samplers; black where nothing was connected.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, image: Tensor, face_share: float, mask: Tensor | None = None, bounding_box: Any = None
    ) -> io.NodeOutput:
        """Cut it out."""
        picture = pictures_of(image)[:1]
        height, width = int(picture.shape[1]), int(picture.shape[2])
        face = _face(mask, bounding_box, height, width)
        square = portrait_square(width, height)
        if face is not None:
            square = square_around(box_of_region(face), height, width, face_share)
            _say_if_small(square, face, face_share)
        left, top, side = square
        rows, columns = slice(top, top + side), slice(left, left + side)
        region = picture.new_zeros(1, side, side) if face is None else face[:, rows, columns]
        portrait = picture[:, rows, columns].contiguous()
        return io.NodeOutput(portrait, pack_crop(picture, square), region.contiguous())


def _face(mask: Tensor | None, boxes: Any, height: int, width: int) -> Tensor | None:
    """The face's region (1, H, W), or None where nobody says."""
    if mask is not None:
        face = read_mask(mask, height, width)
        if face is None:
            raise ValueError(
                "the mask is black, so there is no face to cut out; connect EMO Face Locator Mask, "
                "or nothing for the largest square"
            )
        return face
    if boxes is None:
        return None
    box = read_boxes(boxes, height, width)
    if box is None:
        raise ValueError(
            "there is no box inside the picture; connect EMO Face Locator Mask, or nothing for the "
            "largest square"
        )
    return box_pixels(box, height, width)[None].float() / 255


def _say_if_small(square: Square, face: Tensor, share: float) -> None:
    _, _, width, height = box_of_region(face)
    taken = max(width * face.shape[2], height * face.shape[1]) / square[2]
    if taken > share * 1.1:
        logger.info(
            "the picture is too small for a face of %.0f %% of the square's side; it takes %.0f %%",
            100 * share, 100 * taken,
        )  # fmt: skip
