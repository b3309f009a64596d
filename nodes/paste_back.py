"""EMOPasteBack: the film of a square portrait back in the whole picture."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..emo_core.film_pieces import film_facts, film_pieces
from ..emo_core.pasting import fading, paste, square_mask
from ..emo_core.sound_files import read_sound
from ..emo_core.video import VideoWriter
from .compat import InputImpl, Schema, io
from .faces import pictures_of, read_mask
from .host import check_interrupted
from .sockets import Crop, unpack_crop

logger = logging.getLogger(__name__)

_AT_ONCE = 16
Lay = Callable[[Tensor], Tensor]


class EMOPasteBack(io.ComfyNode):
    """Frames of a square portrait laid into the picture that it was cut from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the node takes and gives."""
        return Schema(
            node_id="EMOPasteBack",
            display_name="EMO Paste Back",
            category="EMO/face",
            description="Lays the film of a square portrait back into the whole picture that EMO "
            "Portrait Crop cut it from; outside of it the picture stays as it is.",
            search_aliases=["uncrop", "paste face", "stitch", "composite"],
            inputs=[
                Crop.Input(
                    "crop", tooltip="The whole picture and the square's place, from EMO Portrait "
                    "Crop.",
                ),
                io.Image.Input(
                    "images", optional=True, tooltip="The film's frames as pictures, square, of "
                    "any size in pixels; connect either these or video.",
                ),
                io.Video.Input(
                    "video", optional=True, tooltip="The film with its sound, as EMO Decode Video "
                    "gives it; it is read and written a few frames at a time, so that memory does "
                    "not grow with its length.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Where the film may show, white inside, of the "
                    "whole picture's shape; left open it is the square.",
                ),
                io.Float.Input(
                    "feather", default=0.08, min=0.0, max=0.5, step=0.01,
                    tooltip="Over how much of the square's side the film fades in from the edge, "
                    "0 to 0.5; raise it where the edge can be seen, 0 is a hard edge.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "images_out", display_name="images",
                    tooltip="The whole pictures, where images are connected; all of them are in "
                    "memory at once.",
                ),
                io.Video.Output(
                    "video_out", display_name="video",
                    tooltip="The film of the whole picture with the sound of the video, where "
                    "video is connected, in ComfyUI's temp folder until Save Video keeps it.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, crop: Any, feather: float, images: Tensor | None = None, video: Any = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        """Lay them back."""
        if (images is None) == (video is None):
            raise ValueError(
                "EMO Paste Back takes a film as images or as video, and "
                f"{'none is' if images is None else 'both are'} connected; connect one of them"
            )
        lay = _layer(crop, feather, mask)
        if images is not None:
            frames = pictures_of(images).movedim(-1, 1)
            _check_square(frames)
            whole = torch.cat([lay(piece) for piece in frames.split(_AT_ONCE)])
            return io.NodeOutput(
                whole.movedim(1, -1).contiguous(),
                ExecutionBlocker("EMO Paste Back got images and no video; connect images"),
            )
        blocked = ExecutionBlocker("EMO Paste Back got a video and no images; connect video")
        return io.NodeOutput(blocked, InputImpl.VideoFromFile(str(_film(video, lay))))


def _layer(crop: Any, feather: float, mask: Tensor | None) -> Lay:
    """What lays frames (f, 3, S, S) into the picture: (f, 3, H, W)."""
    pictures, square = unpack_crop(crop)
    picture = pictures[0].movedim(-1, 0)
    height, width = picture.shape[-2:]
    inside = square_mask(square, height, width)
    if mask is not None:
        allowed = read_mask(mask, height, width)
        if allowed is None:
            raise ValueError(
                "the mask is black, so the film would show nowhere; connect another, or nothing "
                "for the whole square"
            )
        inside = inside * allowed[0]
    shows = fading(inside, round(feather * square[2]))
    most = float(shows.max())
    if most == 0:
        raise ValueError(
            "nothing of the film would show: the mask lies outside of the crop's square, or is "
            f"narrower than its edges fade; lower feather, which is {feather:g}, or connect a "
            "larger mask"
        )
    if most < 0.99:
        logger.warning(
            "the film shows at most to %.0f %%, because the mask is narrower than its edges fade; "
            "lower feather", 100 * most,
        )  # fmt: skip
    return lambda frames: paste(frames, picture, square, shows)


def _check_square(frames: Tensor) -> None:
    height, width = frames.shape[-2:]
    if height != width:
        raise ValueError(
            f"the film's pictures are {width}x{height} and the crop is a square; connect the film "
            "that was made of the portrait of EMO Portrait Crop, with width and height at 0 in EMO "
            "ReferenceNet Encode"
        )


def _film(video: Any, lay: Lay) -> Path:
    """Write the film of the whole picture; an error or an interruption leaves nothing of it."""
    rate, total, pieces, sound = _opened(video)
    progress, done = comfy.utils.ProgressBar(max(total, 1)), 0
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"emo_{secrets.token_hex(8)}.mp4"
    with contextlib.ExitStack() as stack:
        writer = None
        for frames in pieces:
            check_interrupted()
            _check_square(frames)
            whole = lay(frames)
            if writer is None:
                size = (whole.shape[-1], whole.shape[-2])
                writer = stack.enter_context(VideoWriter(path, rate, size, sound))
            writer.write(whole)
            done += len(frames)
            progress.update_absolute(min(done, total))
        if writer is None:
            raise ValueError("the video holds no pictures; connect EMO Decode Video")
    return path


def _opened(video: Any) -> tuple[Fraction, int, Iterator[Tensor], tuple[Tensor, int] | None]:
    """Frame rate, number of frames, the frames in pieces (f, 3, S, S), and the sound."""
    source = video.get_stream_source() if isinstance(video, InputImpl.VideoFromFile) else None
    if isinstance(source, str):
        path = Path(source)
        facts = film_facts(path)
        # A host that cuts a film by its own account has its frames in memory.
        if abs(video.get_duration() - facts.seconds) <= 1 / facts.rate:
            sound = read_sound(path) if facts.sound else None
            return facts.rate, facts.frames, film_pieces(path, _AT_ONCE), sound
    parts = video.get_components()
    frames = pictures_of(parts.images).movedim(-1, 1)
    sound = None
    if parts.audio is not None:
        sound = parts.audio["waveform"][0], int(parts.audio["sample_rate"])
    rate = Fraction(parts.frame_rate).limit_denominator(1001)
    return rate, len(frames), iter(frames.split(_AT_ONCE)), sound
