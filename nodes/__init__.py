"""The nodes, in the order in which a talking portrait is made."""

from __future__ import annotations

from .compat import ComfyExtension, io
from .condition import EMOConditioning
from .example import EMOExampleInputs
from .face_embedding import EMOLoadFaceEmbedding
from .guide import EMOGuider
from .hallo_noise import EMOHalloNoise
from .load import EMOModelLoader
from .output import EMODecodeVideo
from .paste_back import EMOPasteBack
from .portrait_crop import EMOPortraitCrop
from .reference import ReferenceNetEncode
from .region import FaceLocatorMask
from .sample import EMOSampler, MotionFrameLooper
from .sound import LoadAudioEmbedding
from .speed import SpeedBuckets

NODES: list[type[io.ComfyNode]] = [
    EMOExampleInputs,
    EMOModelLoader,
    LoadAudioEmbedding,
    FaceLocatorMask,
    SpeedBuckets,
    ReferenceNetEncode,
    EMOConditioning,
    EMOGuider,
    EMOSampler,
    MotionFrameLooper,
    EMODecodeVideo,
    EMOLoadFaceEmbedding,
    EMOPortraitCrop,
    EMOPasteBack,
    EMOHalloNoise,
]


class EMOExtension(ComfyExtension):
    """What the host asks for its nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        return NODES
