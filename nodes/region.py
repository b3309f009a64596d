"""FaceLocatorMask: where in the picture the face may be."""

from __future__ import annotations

import logging
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ..emo_core.face import CENTRED_PRIOR, WHOLE_PICTURE, Box, expand_box, region_mask
from ..emo_core.face_masks import box_of_region, box_pixels, lip_box
from .compat import Schema, io, ui
from .faces import (
    cut_box,
    detect_face,
    detector_file,
    detector_installed,
    detector_missing,
    mask_edges,
    pictures_of,
    read_boxes,
    read_mask,
    scale_mask,
)
from .host import file_stamp
from .landmarks import boxes_from_landmarks

_LOG = logging.getLogger(__name__)

_DETECTORS = ["automatic", "facexlib", "box widgets", "centred prior"]
_NO_FACE = ["centred prior", "whole picture", "error"]

_OUTSIDE = 0.35  # brightness that is left outside of the region in the preview
_OUTLINE, _LIPS = (1.0, 0.75, 0.1), (0.9, 0.2, 0.3)

_NO_DETECTOR = "a detector"
_TAKEN = {
    "centred prior": "the usual place of a portrait's face",
    "whole picture": "the whole picture",
}
_OTHERWISE = (
    "for photographs that are framed otherwise choose box widgets, connect a mask, or add facexlib"
)

Boxes = io.Custom("BOUNDING_BOX")  # no class of its own in older hosts
Landmarks = io.Custom("FACE_LANDMARKS")


def _fraction(name: str, default: float, what: str) -> io.Float.Input:
    tooltip = (
        f"{what} of the face box as a fraction of the picture, 0 to 1; it is used only when the "
        "detector is 'box widgets' and neither mask nor bounding_box is connected."
    )
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip)


def _factor(name: str, side: str) -> io.Float.Input:
    tooltip = (
        f"Factor from 0.1 to 5 by which the region's {side} is multiplied about its middle, cut at "
        "the picture's edges; raise it when the head should have more room to move."
    )
    return io.Float.Input(name, default=1.0, min=0.1, max=5.0, step=0.05, tooltip=tooltip)


class FaceLocatorMask(io.ComfyNode):
    """EMO, "Face Locator": the union of the face boxes over the clip, as a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The sockets and widgets."""
        x, y, width, height = CENTRED_PRIOR
        return Schema(
            node_id="FaceLocatorMask",
            display_name="EMO Face Locator Mask",
            category="EMO/face",
            description="Marks where in the picture the face may be over the whole film: from a "
            "mask, a bounding box, a face detector, or a box of your own.",
            search_aliases=["face region", "face box", "face detection", "facexlib", "locator"],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The portrait, as it goes to EMO ReferenceNet Encode, of any size in "
                    "pixels from 1x1; of several pictures the region covers the face in each.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="A mask of the face from anywhere (painted, SAM, Impact), 1 inside, of "
                    "any size in pixels: connect it to say yourself where the face is; it is taken "
                    "before all else, several are joined, and a black one counts as no face.",
                ),
                Boxes.Input(
                    "bounding_box",
                    optional=True,
                    tooltip="A box or boxes (x, y, width, height in pixels of the image) of "
                    "another node, used when no mask is connected: connect it to use another "
                    "detector; several are joined.",
                    # Newer hosts would draw a widget, whose box would overrule the detector.
                    extra_dict={"forceInput": True},
                ),
                io.Combo.Input(
                    "detector",
                    options=_DETECTORS,
                    default=_DETECTORS[0],
                    tooltip="Who finds the face when neither mask nor bounding_box is connected: "
                    "'automatic' is facexlib where it and its weights are installed; change it to "
                    "'facexlib' to be told what it lacks, to 'box widgets' to place the box by "
                    "hand, or to 'centred prior' for the place where portraits have their face.",
                ),
                _fraction("x", x, "Left edge"),
                _fraction("y", y, "Top edge"),
                _fraction("width", width, "Width"),
                _fraction("height", height, "Height"),
                _factor("expand_x", "width"),
                _factor("expand_y", "height"),
                io.Combo.Input(
                    "on_no_face",
                    options=_NO_FACE,
                    default=_NO_FACE[0],
                    tooltip="What to do when no face is found: take the place where portraits have "
                    "it, take the whole picture (the head may go anywhere), or stop with an error; "
                    "change it to 'error' when a wrong region must not go unnoticed.",
                ),
                Landmarks.Input(
                    "landmarks",
                    optional=True,
                    tooltip="Landmarks of the face: core's FACE_LANDMARKS, or 68, 468 or 478 "
                    "points in pixels of the image; they say where the lips are, and the face "
                    "too where no mask is connected.",
                ),
            ],
            outputs=[
                io.Mask.Output(
                    "region", display_name="region",
                    tooltip="The face region at the size of the picture in pixels, 0 outside to 1 "
                    "inside; connect it to region of Motion Frame Looper, EMO Sampler or "
                    "EMO Conditioning.",
                ),
                io.Image.Output(
                    "preview", display_name="preview",
                    tooltip="The first picture, 0 to 1, dark outside of the region and with its "
                    "box drawn in, and the lips' where they are known; look at it when the film's "
                    "head is in the wrong place.",
                ),
                io.Mask.Output(
                    "lips", display_name="lips",
                    tooltip="Where the lips are, 1 inside, from landmarks or facexlib, else their "
                    "usual place in the region; connect it to lips where Hallo's weights sample, "
                    "others do not look at it.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, detector: str = "", **_: Any) -> str:
        """Run again once the detector's weights have come, or others in their place."""
        looks = detector in _DETECTORS[:2] and detector_installed()
        return file_stamp(detector_file()) if looks else ""

    @classmethod
    def execute(
        cls,
        image: Tensor,
        detector: str,
        x: float,
        y: float,
        width: float,
        height: float,
        expand_x: float,
        expand_y: float,
        on_no_face: str,
        mask: Tensor | None = None,
        bounding_box: Any = None,
        landmarks: Any = None,
    ) -> io.NodeOutput:
        """Give the region, its preview and the lips."""
        pictures = pictures_of(image)
        size = int(pictures.shape[1]), int(pictures.shape[2])
        factors = expand_x, expand_y
        marked = None if landmarks is None else boxes_from_landmarks(landmarks, *size)
        lips = None if marked is None else cut_box(marked[1])
        if mask is not None:
            given, who = read_mask(mask, *size), "the connected mask"
            region = None if given is None else scale_mask(given, *factors)
        else:
            if landmarks is not None:
                box, who = None if marked is None else marked[0], "the connected landmarks"
            elif bounding_box is not None:
                box, who = read_boxes(bounding_box, *size), "the connected bounding box"
            else:
                box, lips, who = _look(detector, pictures, (x, y, width, height))
            region = None if box is None else region_mask(expand_box(box, *factors), *size)
        said = f"region by {who}"
        if region is None:
            lacks = f" ({detector_missing()})" if who == _NO_DETECTOR else ""
            region = _stand_in(on_no_face, f"no face by {who}{lacks}", factors, size)
            said = f"no face by {who}, so the {on_no_face} is taken"
            if lacks:
                said = f"{_TAKEN[on_no_face]} is taken; {_OTHERWISE}{lacks}"
            _LOG.info("EMO Face Locator Mask: %s", said)
        preview = draw_region(pictures[0], region, lips)
        text = f"{said}; it covers {float(region.mean()):.0%} of the picture"
        shown = {**ui.PreviewImage(preview, cls=cls).as_dict(), "text": (text,)}
        mouth = box_pixels(lips or _usual_lips(region), *size).float() / 255
        return io.NodeOutput(region, preview, mouth[None], ui=shown)


def _look(
    detector: str, pictures: Tensor, widgets: Box
) -> tuple[Box | None, Box | None, str]:
    """The box of the face and, where it is known, of the lips, or None, and who looked for it."""
    if detector == "centred prior":
        return CENTRED_PRIOR, None, "the centred prior"
    if detector == "box widgets":
        return cut_box(widgets), None, "the box of the widgets"
    if detector == "facexlib":
        return *detect_face(pictures), "facexlib"
    if detector_missing():
        return None, None, _NO_DETECTOR
    try:
        return *detect_face(pictures), "facexlib"
    except comfy.model_management.InterruptProcessingException:
        raise
    except Exception as error:  # whatever ails an optional detector, it must not end the film
        _LOG.warning("EMO Face Locator Mask: the face detector failed", exc_info=True)
        return None, None, f"facexlib, which failed ({error})"


def _stand_in(
    on_no_face: str, why: str, factors: tuple[float, float], size: tuple[int, int]
) -> Tensor:
    """The region (1, H, W) where no face was found, or the error that was asked for."""
    if on_no_face == "error":
        raise ValueError(
            f"{why}; connect a mask, place the box with 'box widgets', or set on_no_face to "
            "'centred prior' or 'whole picture'"
        )
    if on_no_face == "whole picture":
        return region_mask(WHOLE_PICTURE, *size)
    return region_mask(expand_box(CENTRED_PRIOR, *factors), *size)


def _usual_lips(region: Tensor) -> Box:
    """Where the lips usually are in a region (1, H, W)."""
    return lip_box(box_of_region(region))


def draw_region(picture: Tensor, region: Tensor, lips: Box | None = None) -> Tensor:
    """A picture (H, W, 3), dark outside of the region (1, H, W) and with its box: (1, H, W, 3)."""
    drawn = picture * (_OUTSIDE + (1 - _OUTSIDE) * region[0, :, :, None])
    _outline(drawn, region, _OUTLINE)
    if lips is not None:
        _outline(drawn, box_pixels(lips, *picture.shape[:2])[None].float() / 255, _LIPS)
    return drawn[None]


def _outline(picture: Tensor, region: Tensor, colour: tuple[float, ...]) -> None:
    """Draw a region's box into a picture."""
    edges = mask_edges(region)
    if edges is not None:
        left, top, right, bottom = edges
        line = max(min(picture.shape[:2]) // 150, 1)
        box = torch.zeros(picture.shape[:2], dtype=torch.bool)
        box[top:bottom, left:right] = True
        box[top + line : bottom - line, left + line : right - line] = False
        picture[box] = torch.tensor(colour)
