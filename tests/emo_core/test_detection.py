"""The face detector: reading its weights, and its boxes against facexlib's own."""

import copy
import functools
import importlib.util
import warnings
from pathlib import Path

import pytest
import torch

from emo_core.detection import (
    WEIGHT_FILES,
    detector_installed,
    find_faces,
    find_mouths,
    largest_face,
    largest_mouth,
    load_detector,
)

needs_facexlib = pytest.mark.skipif(
    importlib.util.find_spec("facexlib") is None or importlib.util.find_spec("cv2") is None,
    reason="FACEXLIB IS NOT INSTALLED: the face detector is not tested (pip install facexlib)",
)


@functools.cache
def _network(name: str = "mobile0.25") -> torch.nn.Module:
    """RetinaFace with random weights, whose scores spread over 0 to 1."""
    from facexlib.detection.retinaface import RetinaFace

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = RetinaFace(name, device=torch.device("cpu"))
    # Random convolutions fade out; one look at noise in training mode sets the norms' statistics.
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(2, 3, 96, 96) * 60)
    return network.eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detector") / WEIGHT_FILES[3]
    torch.save({f"module.{n}": t for n, t in _network().state_dict().items()}, path)
    return path


def _picture(height: int, width: int) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(1))


def test_the_largest_of_several_faces_is_taken() -> None:
    faces = torch.tensor([[0.1, 0.1, 0.1, 0.1, 0.99], [0.4, 0.3, 0.2, 0.4, 0.85]])
    assert largest_face(faces) == pytest.approx((0.4, 0.3, 0.2, 0.4))
    assert largest_face(torch.zeros(0, 5)) is None


def test_the_lips_are_about_the_corners_of_the_mouth() -> None:
    """Of the largest face; a slanted mouth is as wide as a level one."""
    small = [0.1, 0.1, 0.1, 0.1, 0.99, 0.0, 0.0, 0.1, 0.0]
    faces = torch.tensor([small, [0.4, 0.3, 0.2, 0.4, 0.85, 0.44, 0.6, 0.56, 0.6]])
    box = largest_mouth(faces, 100, 200)
    assert box == pytest.approx((0.38, 0.504, 0.24, 0.192))
    level = torch.tensor([[0, 0, 1, 1, 1, 0.4, 0.5, 0.5, 0.5]])
    steep = torch.tensor([[0, 0, 1, 1, 1, 0.42, 0.46, 0.48, 0.54]])
    assert largest_mouth(level, 50, 50)[2:] == pytest.approx(largest_mouth(steep, 50, 50)[2:])
    assert largest_mouth(torch.zeros(0, 9), 9, 9) is None


def test_no_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"detection_Resnet50_Final\.pth from https"):
        load_detector(tmp_path / "none.pth")


def test_a_broken_file_says_to_fetch_it_again(tmp_path: Path) -> None:
    path = tmp_path / WEIGHT_FILES[1]
    path.write_bytes(b"<!DOCTYPE html><html>not found</html>")
    with pytest.raises(ValueError, match="fetch the file again from https"):
        load_detector(path)


@pytest.mark.skipif(detector_installed(), reason="facexlib is installed")
def test_without_facexlib_the_way_out_is_named(tmp_path: Path) -> None:
    path = tmp_path / WEIGHT_FILES[3]
    torch.save({"body.stage1.0.0.weight": torch.zeros(8, 3, 3, 3)}, path)
    with pytest.raises(ValueError, match="pip install facexlib"):
        load_detector(path)


@needs_facexlib
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_both_formats_are_read(weights: Path, tmp_path: Path, ending: str) -> None:
    from safetensors.torch import save_file

    path = weights
    if ending == "safetensors":
        path = tmp_path / "renamed.safetensors"
        state = _network().state_dict()
        save_file({n: t for n, t in state.items() if "num_batches" not in n}, path)
    read, expected = load_detector(path).state_dict(), _network().state_dict()
    assert read.keys() == expected.keys()
    weighty = [name for name in expected if "num_batches" not in name]
    assert all(torch.equal(read[name], expected[name]) for name in weighty)


@needs_facexlib
def test_the_larger_network_is_told_from_its_names(tmp_path: Path) -> None:
    path = tmp_path / "any_name.pth"
    torch.save(_network("resnet50").state_dict(), path)
    detector = load_detector(path)
    assert detector.backbone == "Resnet50"
    assert not detector.training and not any(p.requires_grad for p in detector.parameters())
    assert find_faces(detector, _picture(64, 48), 0.0).shape[1] == 5
    assert find_mouths(detector, _picture(64, 48), 0.0).shape[1] == 9


@needs_facexlib
def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / WEIGHT_FILES[1]
    torch.save({"conv_in.weight": torch.zeros(4, 4)}, path)
    with pytest.raises(ValueError, match=r"does not hold RetinaFace's weights: \d+ of \d+ tensors"):
        load_detector(path)


@needs_facexlib
def test_weights_of_nan_are_refused(tmp_path: Path) -> None:
    path, network = tmp_path / WEIGHT_FILES[3], copy.deepcopy(_network())
    network.ClassHead[0].conv1x1.bias.data.fill_(float("nan"))
    torch.save(network.state_dict(), path)
    with pytest.raises(ValueError, match="NaN or infinite"):
        load_detector(path)


@needs_facexlib
@pytest.mark.parametrize("height, width", [(160, 96), (61, 203)])
def test_boxes_are_those_of_facexlib(weights: Path, height: int, width: int) -> None:
    picture = _picture(height, width)
    blue_first = (picture.flip(0) * 255).permute(1, 2, 0).numpy()
    with torch.no_grad():
        everything = torch.from_numpy(_network().detect_faces(blue_first, 0.6))
    expected = everything[:, :5]
    assert len(expected) > 3
    corners = expected[:, :4] / torch.tensor((width, height) * 2)
    faces = find_faces(load_detector(weights), picture, 0.6)
    best = torch.cat([corners.clamp(0, 1), expected[:, 4:]], 1)  # ours are cut at the edges
    best[:, 2:4] -= best[:, :2]
    inside = (best[:, 2:4] > 0).all(1)
    torch.testing.assert_close(faces, best[inside], atol=1e-4, rtol=0)
    mouths = find_mouths(load_detector(weights), picture, 0.6)[:, 5:]
    theirs = everything[:, 11:15] / torch.tensor((width, height) * 2)
    torch.testing.assert_close(mouths, theirs[inside], atol=1e-4, rtol=0)


@needs_facexlib
@pytest.mark.parametrize("height, width", [(1, 1), (1, 300), (33, 2), (900, 20)])
def test_boxes_lie_in_pictures_of_any_size(weights: Path, height: int, width: int) -> None:
    faces = find_faces(load_detector(weights), _picture(height, width), 0.0)
    assert faces.dtype == torch.float32 and len(faces) > 0
    assert bool((faces[:, :2] >= 0).all()) and bool((faces[:, 2:4] > 0).all())
    assert bool((faces[:, :2] + faces[:, 2:4] <= 1 + 1e-6).all())


@needs_facexlib
def test_large_pictures_are_shrunk_to_what_the_network_knows(weights: Path) -> None:
    detector, colour = load_detector(weights), torch.tensor([0.9, 0.5, 0.1]).view(3, 1, 1)
    large = find_faces(detector, colour.expand(-1, 1680, 600), 0.5)
    half = find_faces(detector, colour.expand(-1, 840, 300), 0.5)
    twice = find_faces(detector, colour.expand(-1, 420, 150), 0.5)
    torch.testing.assert_close(large, half, atol=1e-3, rtol=0)
    assert twice.shape != half.shape or not torch.allclose(twice, half, atol=1e-2)


@needs_facexlib
def test_nan_pixels_count_as_black(weights: Path) -> None:
    detector, picture = load_detector(weights), _picture(64, 64)
    holes = picture.clone()
    picture[:, 10:20], holes[:, 10:20] = 0.0, float("nan")
    assert torch.equal(find_faces(detector, holes, 0.0), find_faces(detector, picture, 0.0))
    assert len(find_faces(detector, picture, 1.0)) == 0
