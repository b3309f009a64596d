"""Face boxes in a picture by facexlib's RetinaFace, wherever facexlib and its weights are there.

EMO, "Face Locator", trains on the boxes of a face detector and names none. facexlib's own `init_*`
functions download their weights; here its network is built and a file that the user has is read
into it, so nothing is fetched and nothing in the file can run.
"""

from __future__ import annotations

import math
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .face import Box
from .weight_files import WeightFile, open_weights

INSTALL = "pip install facexlib"
PAGE = "https://github.com/xinntao/facexlib/releases/tag/v0.1.0"
WEIGHT_FILES = tuple(
    stem + ending
    for stem in ("detection_Resnet50_Final", "detection_mobilenet0.25_Final")
    for ending in (".safetensors", ".pth")
)
"""Names under which the weights are looked for, the better network first."""

CONFIDENCE = 0.8
"""From which score on a box counts as a face; facexlib's own default."""

_LONGEST_SIDE = 840
"""Larger pictures are shrunk to what the network was trained on, pixels along the longer side."""

_OVERLAP = 0.4
_MEAN = (104.0, 117.0, 123.0)  # of blue, green, red in 0..255: the order that the network reads


def detector_installed() -> bool:
    """Whether facexlib can be found; it is not imported for that."""
    return find_spec("facexlib") is not None


def load_detector(path: Path) -> nn.Module:
    """Build RetinaFace around a file of its weights, of either backbone, whatever its name.

    Args:
        path: a .pth or .safetensors file.

    Returns:
        The network on the CPU in float32, for `find_faces`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if facexlib is not there, or the file is broken or of something else.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there are no face detector weights at {path}; get {WEIGHT_FILES[1]} from {PAGE}"
        )
    try:
        file = open_weights(path)
    except ValueError as error:
        raise ValueError(
            f"the face detector weights {path} cannot be read as a file of tensors; fetch the file "
            f"again from {PAGE}"
        ) from error
    names = {name.removeprefix("module."): name for name in file.shapes}
    detector = _build("resnet50" if "body.layer1.0.conv1.weight" in names else "mobile0.25")
    _fill(detector, file, names)
    return detector.requires_grad_(False).eval()


def _build(network: str) -> nn.Module:
    try:
        from facexlib.detection.retinaface import RetinaFace
    except ImportError as error:
        raise ValueError(
            f"finding faces needs facexlib, which cannot be imported ({error}); run `{INSTALL}` in "
            "the Python that runs this, or give a mask or a box"
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision by names of old
        detector = RetinaFace(network_name=network, device=torch.device("cpu"))
    assert isinstance(detector, nn.Module)
    return detector


def _fill(detector: nn.Module, file: WeightFile, names: dict[str, str]) -> None:
    # The counters of batches play no part in inference and are missing in converted files.
    wanted = {n: t for n, t in detector.state_dict().items() if "num_batches_tracked" not in n}
    wrong = [n for n, t in wanted.items() if file.shapes.get(names.get(n, "")) != tuple(t.shape)]
    if wrong:
        raise ValueError(
            f"{file.path} does not hold RetinaFace's weights: {len(wrong)} of {len(wanted)} "
            f"tensors are missing or of another shape (first: {wrong[0]}); get {WEIGHT_FILES[1]} "
            f"from {PAGE}"
        )
    state = {name: file.read(names[name]).float() for name in wanted}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
        raise ValueError(f"{file.path} holds NaN or infinite weights; fetch it again from {PAGE}")
    detector.load_state_dict(state, strict=False)


def find_faces(detector: nn.Module, picture: Tensor, confidence: float = CONFIDENCE) -> Tensor:
    """Find every face in a picture.

    Args:
        detector: of `load_detector`, on any device.
        picture: (3, H, W), 0..1, red first, of any size; NaN counts as black.
        confidence: lowest score that counts, 0 to 1.

    Returns:
        (N, 5) float32 on the CPU, best first: x, y, width, height as fractions of the picture, cut
        at its edges, and the score.
    """
    return find_mouths(detector, picture, confidence)[:, :5]


def find_mouths(detector: nn.Module, picture: Tensor, confidence: float = CONFIDENCE) -> Tensor:
    """Find every face in a picture, and the corners of its mouth.

    Args:
        detector: of `load_detector`, on any device.
        picture: as for find_faces().
        confidence: as for find_faces().

    Returns:
        (N, 9), the columns of find_faces() and x, y of both corners, as fractions of the picture.
    """
    from facexlib.detection.retinaface_utils import PriorBox, decode, decode_landm, py_cpu_nms

    pixels = _network_input(picture)
    shape = tuple(pixels.shape[-2:])
    sides = torch.tensor((shape[1], shape[0]) * 2)
    with torch.no_grad():
        offsets, scores, points = detector(pixels.to(next(detector.parameters()).device))
    config: Any = detector.cfg
    priors = PriorBox(config, image_size=shape).forward()
    corners = decode(offsets[0].float().cpu(), priors, config["variance"])
    # Both eyes and the nose come first.
    mouths = decode_landm(points[0].float().cpu(), priors, config["variance"])[:, 6:]
    score = scores[0, :, 1].float().cpu()
    good = (score >= confidence) & torch.isfinite(torch.cat([corners, mouths], 1)).all(1)
    found = torch.cat([corners * sides, score[:, None]], 1)[good]
    kept = [int(index) for index in py_cpu_nms(found, _OVERLAP)]
    found, mouths = found[kept], mouths[good][kept]
    corners = (found[:, :4] / sides).clamp(0, 1)
    faces = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2], found[:, 4:], mouths], 1)
    return faces[(faces[:, 2:4] > 0).all(1)]


def _network_input(picture: Tensor) -> Tensor:
    """(3, H, W) in 0..1 to the (1, 3, h, w) that the network was trained on."""
    picture = torch.nan_to_num(picture.detach().float().cpu(), 0.0).clamp(0, 1)[None]
    height, width = picture.shape[-2:]
    shrink = _LONGEST_SIDE / max(height, width)
    if shrink < 1:
        size = max(round(height * shrink), 1), max(round(width * shrink), 1)
        picture = functional.interpolate(picture, size, mode="bilinear", antialias=True)
    return picture.flip(1) * 255 - torch.tensor(_MEAN).view(1, 3, 1, 1)


def largest_face(faces: Tensor) -> Box | None:
    """The box that covers most of the picture, of `find_faces`; None where there is none.

    The paper films one person and does not say which face is taken of several; we take the nearest.
    """
    if len(faces) == 0:
        return None
    x, y, width, height = faces[int((faces[:, 2] * faces[:, 3]).argmax()), :4].tolist()
    return x, y, width, height


def largest_mouth(faces: Tensor, height: int, width: int) -> Box | None:
    """A box of the lips of the face that largest_face() takes, of `find_mouths`; None without one.

    As large as Hallo's, which is twice that of its lip landmarks: two distances of the mouth's
    corners wide, and 0.8 high, since closed lips are about 0.4 of it.

    Args:
        faces: (N, 9), of find_mouths().
        height: of the picture, in pixels.
        width: of the picture, in pixels.
    """
    if len(faces) == 0:
        return None
    x1, y1, x2, y2 = faces[int((faces[:, 2] * faces[:, 3]).argmax()), 5:].tolist()
    apart = math.hypot((x2 - x1) * width, (y2 - y1) * height)
    across, down = 2 * apart / width, 0.8 * apart / height
    return (x1 + x2 - across) / 2, (y1 + y2 - down) / 2, across, down
