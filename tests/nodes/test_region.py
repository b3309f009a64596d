"""FaceLocatorMask: sources and their order, expansion, what happens where no face is found."""

from __future__ import annotations

import importlib
import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

H, W = 40, 60
Find = Callable[..., tuple[Tensor, Tensor]]


def _box_mask(x: int, y: int, width: int, height: int, size: tuple[int, int] = (H, W)) -> Tensor:
    mask = torch.zeros(1, *size)
    mask[:, y : y + height, x : x + width] = 1
    return mask


WIDGETS = {"x": 0.25, "y": 0.5, "width": 0.5, "height": 0.25}
OF_WIDGETS = _box_mask(15, 20, 30, 10)


@pytest.fixture
def faces(pack: ModuleType) -> ModuleType:
    return importlib.import_module(f"{pack.__name__}.faces")


@pytest.fixture
def prior(pack: ModuleType) -> Tensor:
    face = importlib.import_module(f"{pack.__name__.rsplit('.', 1)[0]}.emo_core.face")
    return face.region_mask(face.CENTRED_PRIOR, H, W)


@pytest.fixture
def find(pack: ModuleType, run: Callable[..., Any]) -> Find:
    """The node, with a picture, told to look at the widgets' box."""
    node = importlib.import_module(f"{pack.__name__}.region").FaceLocatorMask

    def find(**inputs: Any) -> tuple[Tensor, Tensor]:
        given = {
            "image": torch.full((1, H, W, 3), 0.5), "detector": "box widgets", **WIDGETS,
            "expand_x": 1.0, "expand_y": 1.0, "on_no_face": "centred prior",
        }  # fmt: skip
        region, preview, _ = run(node, **{**given, **inputs})
        return region, preview

    return find


def test_the_widgets_are_fractions_of_the_picture(find: Find) -> None:
    region, preview = find()
    assert torch.equal(region, OF_WIDGETS)
    assert preview.shape == (1, H, W, 3)


def test_a_mask_goes_before_a_box_and_a_box_before_the_detector(find: Find) -> None:
    mask, box = _box_mask(3, 4, 10, 20), {"x": 6, "y": 8, "width": 12, "height": 16}
    assert torch.equal(find(mask=mask, bounding_box=box)[0], mask)
    assert torch.equal(find(bounding_box=box)[0], _box_mask(6, 8, 12, 16))


def test_masks_keep_their_soft_edges_and_are_joined(find: Find) -> None:
    soft = torch.linspace(0.01, 1, W).expand(H, W)
    masks = torch.stack([soft, soft.flip(1)])
    region = find(mask=masks)[0]
    assert torch.equal(region[0], torch.maximum(soft, soft.flip(1)))
    assert torch.equal(find(mask=soft)[0][0], soft)
    assert torch.equal(find(mask=masks[:, None])[0], region)


def test_a_mask_of_another_size_is_resized(find: Find) -> None:
    region = find(mask=_box_mask(30, 0, 60, 80, (80, 120)))[0]
    expected = _box_mask(15, 0, 30, 40)
    assert region.shape == (1, H, W)
    # The resize may soften the pixels along the edge.
    assert float((region - expected).abs().max()) <= 0.5
    assert float(region.mean()) == pytest.approx(float(expected.mean()), abs=0.01)


@pytest.mark.parametrize(
    "mask",
    [torch.zeros(1, 64, 64), torch.zeros(H, W), torch.zeros(0, H, W),
     torch.full((1, H, W), float("nan"))],
)  # fmt: skip
def test_a_black_mask_is_no_face(find: Find, prior: Tensor, mask: Tensor) -> None:
    box = {"x": 1, "y": 1, "width": 5, "height": 5}
    assert torch.equal(find(mask=mask, bounding_box=box)[0], prior)
    assert bool((find(mask=mask, on_no_face="whole picture")[0] == 1).all())
    with pytest.raises(ValueError, match="no face by the connected mask; connect a mask"):
        find(mask=mask, on_no_face="error")


def test_a_mask_of_wrong_axes_is_refused(find: Find) -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 40, 60\).*\(batch, height, width\)"):
        find(mask=torch.ones(2, 3, H, W))


FACE = {"x": 6.0, "y": 8.0, "width": 12.0, "height": 16.0, "label": "face", "score": 0.9}
OTHER = {"x": 40, "y": 2, "width": 10, "height": 10}


@pytest.mark.parametrize(
    "value",
    [FACE, [FACE], [[FACE], []], (6, 8, 12, 16), [[6, 8, 12, 16]], torch.tensor([[6, 8, 12, 16]]),
     [None, FACE], {"x": 0.1, "y": 0.2, "width": 0.2, "height": 0.4}],
)  # fmt: skip
def test_every_spelling_of_a_box_is_read(find: Find, value: Any) -> None:
    torch.testing.assert_close(find(bounding_box=value)[0], _box_mask(6, 8, 12, 16))


@pytest.mark.parametrize("value", [[FACE, OTHER], [[FACE], [OTHER]]])
def test_the_union_covers_each_box(find: Find, value: Any) -> None:
    region = find(bounding_box=value)[0]
    torch.testing.assert_close(region, _box_mask(6, 2, 44, 22))


def test_boxes_are_cut_at_the_edges(find: Find) -> None:
    box = {"x": -10, "y": 30, "width": 20, "height": 1000}
    assert torch.equal(find(bounding_box=box)[0], _box_mask(0, 30, 10, 10))


@pytest.mark.parametrize(
    "value",
    [[], [[]], {**OTHER, "width": 0}, {**OTHER, "height": -4}, {**OTHER, "x": 60},
     {**OTHER, "y": float("nan")}, {**OTHER, "width": float("inf")}],
)  # fmt: skip
def test_a_box_with_nothing_inside_is_no_face(find: Find, prior: Tensor, value: Any) -> None:
    assert torch.equal(find(bounding_box=value)[0], prior)
    with pytest.raises(ValueError, match="no face by the connected bounding box"):
        find(bounding_box=value, on_no_face="error")


@pytest.mark.parametrize("value", [(20, 10, 0.3, 0.4), (1.2, 0, 1, 8), (0.5, 0.5, 0.01, 0.2)])
def test_a_box_that_is_smaller_than_any_face_is_refused(find: Find, value: Any) -> None:
    with pytest.raises(ValueError, match=r"less than 2 pixels .* or all four as fractions"):
        find(bounding_box=value)


@pytest.mark.parametrize("value", ["face", {"x": 1, "y": 2}, [1, 2, 3], {**OTHER, "x": "left"}])
def test_what_is_no_box_is_refused(find: Find, value: Any) -> None:
    with pytest.raises(ValueError, match="should be x, y, width and height in pixels"):
        find(bounding_box=value)


def test_the_widgets_box_may_lie_outside(find: Find, prior: Tensor) -> None:
    assert torch.equal(find(x=1.0)[0], prior)
    assert torch.equal(find(x=0.75)[0], _box_mask(45, 20, 15, 10))
    with pytest.raises(ValueError, match="no face by the box of the widgets"):
        find(width=0.0, on_no_face="error")


@pytest.mark.parametrize("source", ["box", "mask"])
def test_expansion_doubles_the_sides_about_the_middle(find: Find, source: str) -> None:
    box = {"bounding_box": (20, 16, 12, 8)}
    inputs = box if source == "box" else {"mask": _box_mask(20, 16, 12, 8)}
    torch.testing.assert_close(find(**inputs, expand_x=2.0)[0].round(), _box_mask(14, 16, 24, 8))
    torch.testing.assert_close(find(**inputs, expand_y=2.0)[0].round(), _box_mask(20, 12, 12, 16))
    half = find(**inputs, expand_x=0.5, expand_y=0.5)[0].round()
    torch.testing.assert_close(half, _box_mask(23, 18, 6, 4))
    beyond = find(**inputs, expand_x=5.0, expand_y=1.0)[0].round()
    assert torch.equal(beyond[:, 16:24], _box_mask(0, 16, 56, 8)[:, 16:24])


def test_an_expanded_mask_keeps_its_shape(find: Find) -> None:
    rows, columns = torch.meshgrid(torch.arange(H) - 19.5, torch.arange(W) - 29.5, indexing="ij")
    disc = (rows**2 + columns**2 < 8**2).float()
    larger = (rows**2 + columns**2 < 16**2).float()
    region = find(mask=disc, expand_x=2.0, expand_y=2.0)[0][0]
    assert float((region - larger).abs().mean()) < 0.03


def test_a_stand_in_is_said_in_the_log(find: Find, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        find(mask=torch.zeros(1, H, W))
    assert "no face by the connected mask, so the centred prior is taken" in caplog.text


def test_the_preview_is_dark_outside_and_outlined(find: Find) -> None:
    image = torch.rand(3, H, W, 3)
    region, preview = find(image=image, mask=_box_mask(10, 10, 20, 20))
    assert torch.equal(preview[0, 12, 12], image[0, 12, 12])
    torch.testing.assert_close(preview[0, 0, 0], image[0, 0, 0] * 0.35)
    edge = preview[0, 10, 10:30]
    assert torch.equal(edge, edge[:1].expand_as(edge))
    assert region.shape[0] == preview.shape[0] == 1


def test_odd_pictures_pass(find: Find) -> None:
    clear = torch.zeros(1, H, W, 4)
    assert float(find(image=clear)[1].max()) == 1  # transparency lies over white
    assert torch.isfinite(find(image=torch.full((1, H, W, 3), float("nan")))[1]).all()
    assert find(image=torch.rand(1, H, W, 1))[1].shape == (1, H, W, 3)
    region, preview = find(image=torch.rand(1, 1, 1, 3), mask=torch.ones(1, 7, 9), expand_x=3.0)
    assert region.tolist() == [[[1]]] and preview.shape == (1, 1, 1, 3)
    assert find(image=torch.rand(1, 1, 1, 3))[0].tolist() == [[[0.125]]]


@pytest.mark.parametrize("shape", [(H, W, 3), (0, H, W, 3), (1, H, W, 2), (1, 0, W, 3)])
def test_what_is_no_picture_is_refused(find: Find, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"an IMAGE is \(batch, height, width"):
        find(image=torch.zeros(shape))


@pytest.fixture
def models(tmp_path: Path, faces: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder of the host without any detector."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    registered = {k: v for k, v in folder_paths.folder_names_and_paths.items()
                  if k not in faces.FOLDERS}  # fmt: skip
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", registered)
    return tmp_path


def test_without_a_detector_automatic_goes_on_and_facexlib_says_what_it_lacks(
    find: Find, faces: ModuleType, models: Path, prior: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    lacks = r"detection_Resnet50_Final\.pth" if faces.detector_installed() else "pip install"
    with caplog.at_level(logging.INFO):
        assert torch.equal(find(detector="automatic")[0], prior)
    assert caplog.text.count("the usual place of a portrait's face is taken; for photographs") == 1
    assert re.search(lacks, caplog.text) and "no face" not in caplog.text
    assert bool((find(detector="automatic", on_no_face="whole picture")[0] == 1).all())
    for asked in ({"detector": "automatic", "on_no_face": "error"}, {"detector": "facexlib"}):
        with pytest.raises((ValueError, FileNotFoundError), match=lacks):
            find(**asked)
    assert torch.equal(find(detector="facexlib", mask=OF_WIDGETS)[0], OF_WIDGETS)


def test_the_centred_prior_needs_nobody(find: Find, prior: Tensor) -> None:
    assert torch.equal(find(detector="centred prior", on_no_face="error")[0], prior)


@pytest.mark.parametrize("folder", ["detection", "facedetection", "facexlib"])
def test_weights_are_found_where_packs_keep_them(
    faces: ModuleType, models: Path, folder: str
) -> None:
    assert faces.detector_file() is None
    (models / folder).mkdir()
    for name in reversed(faces.WEIGHT_FILES):
        path = models / folder / name
        path.touch()
        assert faces.detector_file() == path  # the better network, and safetensors, go first


def _write_detector(path: Path, score: float) -> None:
    """RetinaFace that sees faces of 256 and 512 pixels everywhere, with this score in logits."""
    from facexlib.detection.retinaface import RetinaFace

    path.parent.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = RetinaFace("mobile0.25", device=torch.device("cpu"))
    for heads in (network.ClassHead, network.BboxHead):
        for head in heads:
            torch.nn.init.zeros_(head.conv1x1.weight)
            torch.nn.init.zeros_(head.conv1x1.bias)
    for head, logit in zip(network.ClassHead, (-9.0, -9.0, score), strict=True):
        head.conv1x1.bias.data[1::2] = logit
    torch.save(network.state_dict(), path)


def test_facexlib_finds_through_the_hosts_memory_management(
    find: Find, faces: ModuleType, models: Path, prior: Tensor
) -> None:
    if not faces.detector_installed():
        pytest.skip("FACEXLIB IS NOT INSTALLED: detection in the host is not tested")
    path = models / "facedetection" / "detection_mobilenet0.25_Final.pth"
    _write_detector(path, 9.0)
    image = torch.rand(2, H, W, 3)
    for detector in ("facexlib", "automatic"):
        region = find(image=image, detector=detector, on_no_face="error")[0]
        assert bool((region == 1).all())  # its boxes are larger than the picture
    path.unlink()
    path.parent.rmdir()
    _write_detector(path, -9.0)
    assert torch.equal(find(image=image, detector="facexlib")[0], prior)
    with pytest.raises(ValueError, match="no face by facexlib"):
        find(image=image, detector="facexlib", on_no_face="error")


def test_a_broken_detector_ends_no_film_unless_asked(
    find: Find, faces: ModuleType, models: Path, prior: Tensor
) -> None:
    if not faces.detector_installed():
        pytest.skip("FACEXLIB IS NOT INSTALLED: detection in the host is not tested")
    (models / "detection").mkdir()
    (models / "detection" / "detection_Resnet50_Final.pth").write_bytes(b"<html>not found</html>")
    assert torch.equal(find(detector="automatic")[0], prior)
    for asked in ({"detector": "automatic", "on_no_face": "error"}, {"detector": "facexlib"}):
        with pytest.raises(ValueError, match="fetch the file again"):
            find(**asked)


def test_every_input_and_output_says_what_it_is(pack: ModuleType) -> None:
    node = importlib.import_module(f"{pack.__name__}.region").FaceLocatorMask
    schema = node.define_schema()
    schema.validate()
    sockets = [*schema.inputs, *schema.outputs]
    assert all(len(s.tooltip) > 60 and s.tooltip.endswith(".") for s in sockets)
    inputs = node.INPUT_TYPES()
    assert list(inputs["optional"]) == ["mask", "bounding_box", "landmarks"]
    assert inputs["optional"]["bounding_box"][1]["forceInput"]
    assert list(inputs["required"]) == [
        "image", "detector", "x", "y", "width", "height", "expand_x", "expand_y", "on_no_face",
    ]  # fmt: skip


@pytest.fixture
def lips_of(find: Find, pack: ModuleType, run: Callable[..., Any]) -> Callable[..., Any]:
    """All that the node gives, as whole pixels."""
    node = importlib.import_module(f"{pack.__name__}.region").FaceLocatorMask

    def look(**inputs: Any) -> tuple[Tensor, ...]:
        given = {"image": torch.full((1, H, W, 3), 0.5), "detector": "box widgets", **WIDGETS}
        return tuple(run(node, **{**given, **inputs}))

    return look


def _points(count: int) -> Tensor:
    """Landmarks: all at 20, 10 to 40, 30, and the lips about 30, 26."""
    from emo_core.landmark_boxes import _LIPS_68, _LIPS_478

    points = torch.tensor([[20.0, 10.0], [40.0, 30.0]]).repeat(count // 2 + 1, 1)[:count]
    lips = list(_LIPS_68 if count == 68 else _LIPS_478)
    points[lips] = torch.tensor([[28.0, 25.0], [32.0, 27.0]]).repeat(10, 1)
    return points


@pytest.mark.parametrize("count", [478, 468, 68])
def test_landmarks_say_where_face_and_lips_are(lips_of: Any, count: int) -> None:
    from emo_core.face_masks import box_pixels
    from emo_core.landmark_boxes import boxes_of_landmarks

    face, lips = boxes_of_landmarks(_points(count), H, W)
    region, preview, mouth = lips_of(landmarks=_points(count))
    assert torch.equal((region * 255).round().to(torch.uint8)[0], box_pixels(face, H, W))
    assert torch.equal((mouth * 255).to(torch.uint8)[0], box_pixels(lips, H, W))
    assert mouth.shape == (1, H, W) and 0 < mouth.sum() < region.sum()
    # Drawn in, where they are known.
    red = preview[0, :, :, 2].sub(0.3).abs() < 1e-6
    assert bool(red.any()) and not bool((lips_of()[1][0, :, :, 2].sub(0.3).abs() < 1e-6).any())


def test_landmarks_of_core_nodes(lips_of: Any) -> None:
    """Several frames are joined; of several faces the largest counts; sizes are brought to ours."""
    small = {"landmarks_xy": (_points(478) * 0.2).numpy()}
    face = {"landmarks_xy": (_points(478) * 2).numpy()}
    value = {"frames": [[small, face], [], [face]], "image_size": (2 * H, 2 * W)}
    for one, other in zip(lips_of(landmarks=value), lips_of(landmarks=_points(478)), strict=True):
        assert torch.equal(one, other)
    fractions = (_points(478) / torch.tensor([W, H]))[None]
    assert torch.equal(lips_of(landmarks=value)[2], lips_of(landmarks=fractions)[2])


def test_a_mask_keeps_the_face_and_landmarks_the_lips(lips_of: Any) -> None:
    region, _, lips = lips_of(mask=OF_WIDGETS, landmarks=_points(68))
    assert torch.equal(region, OF_WIDGETS)
    assert torch.equal(lips, lips_of(landmarks=_points(68))[2])


def test_without_landmarks_the_lips_are_at_their_usual_place(lips_of: Any, prior: Tensor) -> None:
    from emo_core.face_masks import box_pixels, lip_box

    wanted = box_pixels(lip_box((0.25, 0.5, 0.5, 0.25)), H, W)
    for given in ({}, {"mask": OF_WIDGETS}, {"mask": OF_WIDGETS * 0.1}):
        assert torch.equal((lips_of(**given)[2][0] * 255).to(torch.uint8), wanted)
    nobody = {"frames": [[]], "image_size": (H, W)}
    assert torch.equal(lips_of(landmarks=nobody)[0], prior)


@pytest.mark.parametrize("value", ["x", torch.zeros(5, 2), {"a": 1}, [[1, 2], [3]]])
def test_what_are_no_landmarks_is_refused(lips_of: Any, value: Any) -> None:
    with pytest.raises(ValueError, match=r"the landmarks are .* connect nothing"):
        lips_of(landmarks=value)
