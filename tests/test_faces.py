"""Face analysis: alignment against OpenCV, SFace against its published embeddings, both variants' real code."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from magicapture_core.faces import (
    ARCFACE_POINTS,
    Face,
    FaceAnalyser,
    align,
    choice,
    choose_analyser,
    embed_face,
    hairline,
)
from magicapture_core.faces.align import align_in_photo, crop_to_image
from magicapture_core.faces.bundled import BundledAnalyser, _window_starts
from magicapture_core.faces.sface import load_sface
from magicapture_core.photos import read_photo
from magicapture_core.problems import MissingFiles, Problem

FACES = Path(__file__).parent / "data" / "faces"
PEOPLE = Path(__file__).parent.parent / "assets" / "people"


def in_crop(scale: float, angle: float, x: float, y: float) -> torch.Tensor:
    """(1, 5, 2): ArcFace's points, scaled, turned and moved."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return torch.tensor(np.array(ARCFACE_POINTS) @ turn.T * scale + (x, y), dtype=torch.float32)[None]


def smooth_picture(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.interpolate(
        torch.rand(1, 3, height // 8, width // 8, generator=generator), (height, width), mode="bicubic"
    ).clamp(0, 1)


class TestAlign:
    def test_points_in_place_give_the_picture_itself(self) -> None:
        picture = smooth_picture(112, 112)
        assert torch.allclose(align(picture, in_crop(1, 0, 0, 0)), picture, atol=1e-4)

    @pytest.mark.parametrize(("scale", "angle"), [(0.6, 0.0), (1.0, 0.5), (1.3, -0.9), (1.45, 2.5)])
    def test_equals_opencv(self, scale: float, angle: float) -> None:
        picture, landmarks = smooth_picture(400, 400), in_crop(scale, angle, 200, 190)
        matrix = crop_to_image(landmarks)[0].numpy()
        pixels = picture[0].permute(1, 2, 0).numpy()
        expected = cv2.warpAffine(
            pixels,
            matrix,
            (112, 112),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        difference = np.abs(align(picture, landmarks)[0].permute(1, 2, 0).numpy() - expected)
        assert difference.max() < 0.01  # OpenCV interpolates at 1/32 pixel

    def test_similarity_is_the_least_squares_one(self) -> None:
        from skimage.transform import SimilarityTransform

        landmarks = (
            in_crop(1.7, 0.3, 80, 60) + torch.randn(1, 5, 2, generator=torch.Generator().manual_seed(1)) * 3
        )
        theirs = SimilarityTransform.from_estimate(landmarks[0].numpy(), np.array(ARCFACE_POINTS))
        assert np.allclose(crop_to_image(landmarks)[0].numpy(), theirs.inverse.params[:2], atol=1e-3)

    def test_large_faces_do_not_alias(self) -> None:
        # One-pixel stripes, sixteen to a pixel of the crop: all that is left of them is their mean.
        stripes = (torch.arange(2000) % 2).float().expand(1, 3, 2000, 2000).contiguous()
        crop = align(stripes, in_crop(16, 0, 60, 60))
        assert (crop[..., 2:-2, 2:-2] - 0.5).abs().max() < 0.02

    def test_large_faces_equal_a_shrunk_picture(self) -> None:
        blobs = torch.rand(1, 3, 14, 14, generator=torch.Generator().manual_seed(0))
        picture = torch.nn.functional.interpolate(blobs, (1120, 1120), mode="bicubic")
        landmarks = in_crop(9, 0.1, 50, 20)
        small = torch.nn.functional.avg_pool2d(picture, 8)
        expected = align(small, (landmarks + 0.5) / 8 - 0.5)
        assert (align(picture, landmarks) - expected).abs().mean() < 0.005

    @pytest.mark.parametrize("scale", [0.8, 2.7, 4.3, 9.0])
    @pytest.mark.parametrize(("x", "y"), [(250, 200), (-300, 150), (700, 900)])
    def test_of_a_photo_only_the_surroundings_are_looked_at(self, scale: float, x: float, y: float) -> None:
        pixels = (smooth_picture(1000, 1400)[0].permute(1, 2, 0) * 255).round().byte().numpy()
        landmarks = in_crop(scale, 0.3, x, y)
        whole = align(torch.from_numpy(pixels).permute(2, 0, 1)[None].float(), landmarks)
        found = align_in_photo(pixels, landmarks[0].numpy())
        assert torch.allclose(found, whole, atol=0.51)  # averages are rounded to bytes
        assert whole.std() > 1

    def test_result_does_not_depend_on_the_batch(self) -> None:
        pictures = smooth_picture(300, 300).expand(3, -1, -1, -1)
        landmarks = torch.cat([in_crop(scale, 0, 20, 20) for scale in (1.0, 2.2, 0.5)])
        together = align(pictures, landmarks)
        for i in range(3):
            alone = align(pictures[i : i + 1], landmarks[i : i + 1])
            assert torch.allclose(together[i : i + 1], alone, atol=1e-4)  # rounding of the five points' fit

    @pytest.mark.parametrize("scale", [1.0, 2.3, 5.0])
    def test_gradient_reaches_the_picture(self, scale: float) -> None:
        picture = smooth_picture(112 * 6, 112 * 6).requires_grad_()
        align(picture, in_crop(scale, 0.2, 60, 40)).sum().backward()
        assert picture.grad is not None
        # Every crop pixel is a weighted mean, so the weights add up to their number.
        assert picture.grad.sum().item() == pytest.approx(3 * 112 * 112, rel=1e-3)

    def test_half_precision_pictures(self) -> None:
        picture = smooth_picture(112, 112)
        crop = align(picture.bfloat16(), in_crop(1, 0, 0, 0))
        assert crop.dtype == torch.float32
        assert (crop - picture).abs().max() < 0.01

    def test_shapes_are_checked(self) -> None:
        with pytest.raises(ValueError, match=r"\(1, 4, 2\)"):
            align(torch.zeros(1, 3, 8, 8), torch.zeros(1, 4, 2))


class TestSFace:
    def test_equals_the_published_network(self) -> None:
        """Against onnxruntime's embeddings of the original file (tests/data/faces/sface.npz: inputs and outputs)."""
        stored = np.load(FACES / "sface.npz")
        aligned = torch.from_numpy(stored["aligned"]).permute(0, 3, 1, 2).float() / 255
        ours = load_sface()(aligned).numpy()
        assert (ours * stored["embeddings"]).sum(axis=1).min() > 1 - 1e-3
        assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)

    def test_gradient_reaches_the_input_and_not_the_weights(self) -> None:
        network = load_sface()
        aligned = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0)).requires_grad_()
        likeness = (network(aligned)[0] * network(aligned)[1].detach()).sum()
        likeness.backward()
        assert aligned.grad is not None
        assert aligned.grad[0].abs().max() > 0
        assert all(p.grad is None and not p.requires_grad for p in network.parameters())

    def test_gradient_is_right(self) -> None:
        """A step along the gradient changes the likeness as the gradient says."""
        network = load_sface().double()
        network.forward = lambda x: torch.nn.functional.normalize(  # type: ignore[method-assign]
            network.linear(network.layers((x * 255 - 127.5) / 128).flatten(1)), dim=1
        )
        x = torch.rand(1, 3, 112, 112, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        target = network(x.flip(-1)).detach()
        x.requires_grad_()
        (gradient,) = torch.autograd.grad((network(x) * target).sum(), x)
        step = 1e-6 * gradient / gradient.norm()
        with torch.no_grad():
            change = ((network(x + step) - network(x - step)) * target).sum() / 2
        assert change.item() == pytest.approx(1e-6 * gradient.norm().item(), rel=1e-3)

    def test_wrong_input_is_told(self) -> None:
        with pytest.raises(ValueError, match=r"SFace expects .* got \(1, 3, 100, 100\)"):
            load_sface()(torch.zeros(1, 3, 100, 100))

    def test_missing_shard_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(MissingFiles, match="incomplete"):
            load_sface((tmp_path / "sface-1.safetensors",))


class TestBundled:
    def test_real_photos(self, analyser: FaceAnalyser, astronaut: np.ndarray, hopper: np.ndarray) -> None:
        for pixels, eyes, mouth in (
            (astronaut, ((203, 101), (246, 103)), (223, 140)),
            (hopper, ((222, 192), (305, 188)), (268, 278)),
        ):
            [face] = analyser.detect(pixels)
            assert np.abs(face.landmarks[:2] - eyes).max() < 9
            assert np.abs(face.landmarks[3:].mean(axis=0) - mouth).max() < 12
            assert face.pose is not None
            assert max(map(abs, face.pose)) < 15
            assert face.landmarks.dtype == np.float32

    def test_small_face_in_a_large_photo(self, analyser: FaceAnalyser, astronaut: np.ndarray) -> None:
        photo = np.full((1500, 2000, 3), 120, np.uint8)
        photo[1100:1356, 1500:1756] = cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA)
        [face] = analyser.detect(photo)
        expected = np.array([203.5, 101]) / 2 + (1500, 1100)
        assert np.abs(face.landmarks[0] - expected).max() < 4

    def test_nobody(self, analyser: FaceAnalyser) -> None:
        import skimage.data

        assert analyser.detect(skimage.data.coffee()) == []
        assert analyser.detect(np.full((1, 1, 3), 7, np.uint8)) == []
        assert analyser.detect(np.full((3, 900, 3), 7, np.uint8)) == []

    def test_two_people_largest_first(
        self, analyser: FaceAnalyser, astronaut: np.ndarray, hopper: np.ndarray
    ) -> None:
        pixels = np.concatenate([astronaut[:, 100:356], hopper[60:572, 128:384]], axis=1)
        faces = analyser.detect(pixels)
        assert len(faces) == 2
        assert faces[0].size > faces[1].size
        assert faces[0].landmarks[0, 0] > 256

    @pytest.mark.parametrize("degrees", [-45, 30, 60])
    def test_roll(self, analyser: FaceAnalyser, astronaut: np.ndarray, degrees: int) -> None:
        turned = np.asarray(Image.fromarray(astronaut).rotate(-degrees, resample=Image.Resampling.BICUBIC))
        [face] = analyser.detect(turned)
        assert face.pose is not None
        assert face.pose[2] == pytest.approx(degrees + 3, abs=6)

    def test_pose_mirrors(self, analyser: FaceAnalyser) -> None:
        pixels = read_photo(FACES / "00290.jpg").pixels
        [face], [mirrored] = analyser.detect(pixels), analyser.detect(pixels[:, ::-1].copy())
        assert face.pose is not None
        assert mirrored.pose is not None
        assert abs(face.pose[0]) > 5
        assert mirrored.pose[0] == pytest.approx(-face.pose[0], abs=5)
        assert mirrored.pose[1] == pytest.approx(face.pose[1], abs=5)
        assert 255 - mirrored.landmarks[0, 0] == pytest.approx(face.landmarks[1, 0], abs=3)

    def test_expressions(self, analyser: FaceAnalyser, astronaut: np.ndarray, hopper: np.ndarray) -> None:
        smile, stern = analyser.detect(astronaut)[0].expressions, analyser.detect(hopper)[0].expressions
        assert smile["mouthSmileLeft"] > 0.5 > stern["mouthSmileLeft"]
        assert all(0 <= value <= 1 for value in smile.values())
        assert smile["eyeOpennessLeft"] > 0.2

    def test_mask_is_the_face_without_hair_and_neck(
        self, analyser: FaceAnalyser, astronaut: np.ndarray
    ) -> None:
        [face] = analyser.detect(astronaut)
        mask = analyser.face_mask(astronaut, face)
        assert mask.shape == (512, 512)
        assert mask.dtype == np.float32
        assert set(np.unique(mask)) == {0.0, 1.0}
        inside = {"nose": (223, 120), "chin": (224, 165), "cheek": (200, 130), "forehead": (225, 82)}
        outside = {"hair": (225, 40), "hair at the side": (165, 100), "neck": (225, 195), "flag": (30, 100)}
        assert all(mask[y, x] == 1 for x, y in inside.values())
        assert all(mask[y, x] == 0 for x, y in outside.values())

    def test_fringe_is_not_face(self, analyser: FaceAnalyser) -> None:
        """A photo with dark hair over the brow: MediaPipe's own oval runs through it."""
        pixels = read_photo(FACES / "07891.jpg").pixels
        [face] = analyser.detect(pixels)
        mask = analyser.face_mask(pixels, face) > 0
        luma = pixels.mean(axis=2)
        assert luma[mask].min() >= 0
        assert (luma[mask] < 35).mean() < 0.08

    def test_mask_of_a_large_photo_costs_no_more_and_is_the_same(
        self, analyser: FaceAnalyser, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        blurred: list[int] = []
        real = cv2.GaussianBlur

        def watched(image: np.ndarray, *rest: Any) -> np.ndarray:
            blurred.append(image.shape[0] * image.shape[1])
            return real(image, *rest)

        small = read_photo(PEOPLE / "alma" / "1.jpg").pixels
        large = cv2.resize(small, (3072, 3072), interpolation=cv2.INTER_CUBIC)
        masks = {}
        monkeypatch.setattr(cv2, "GaussianBlur", watched)
        for pixels in (small, large):
            masks[len(pixels)] = analyser.face_mask(pixels, analyser.detect(pixels)[0])
        assert max(blurred) <= (2 * hairline._WORKING_RADIUS + 1) ** 2
        grown = cv2.resize(masks[512], (3072, 3072), interpolation=cv2.INTER_NEAREST)
        assert (grown != masks[3072]).sum() < 0.01 * masks[3072].sum()

    def test_looking_for_faces_in_a_large_photo_costs_no_more_than_in_a_small_one(
        self, analyser: FaceAnalyser, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where there is no face, every part is looked at. Counted, not timed: 4096 pixels are a photo of 24 MP."""
        import skimage.data

        looked: list[int] = []
        real = BundledAnalyser._detections

        def watched(self: BundledAnalyser, pixels: np.ndarray, left: int, top: int) -> Iterator[Face]:
            looked.append(pixels.shape[0] * pixels.shape[1])
            return real(self, pixels, left, top)

        monkeypatch.setattr(BundledAnalyser, "_detections", watched)
        photo = cv2.resize(np.asarray(skimage.data.coffee()), (4096, 2731))
        assert analyser.detect(photo) == []
        assert len(looked) <= 33
        assert max(looked) <= 5_000_000
        looked.clear()
        assert analyser.detect(photo, small=False) == []
        assert len(looked) <= 8

    @pytest.mark.parametrize("side", [1, 31, 384, 385, 1536, 4096])
    @pytest.mark.parametrize("size", [32, 384, 768])
    def test_windows_cover_everything(self, side: int, size: int) -> None:
        starts = _window_starts(side, size)
        assert starts[0] == 0
        assert starts[-1] == max(0, side - size)
        assert all(0 < after - before <= size * 2 / 3 + 1 for before, after in pairwise(starts))

    def test_foreground(self, analyser: FaceAnalyser, hopper: np.ndarray) -> None:
        foreground = analyser.foreground(hopper)
        assert foreground.shape == hopper.shape[:2]
        assert foreground.min() >= 0
        assert foreground.max() <= 1
        assert foreground[250, 268] > 0.9
        assert foreground[30, 480] < 0.1

    def test_recognition(self, analyser: FaceAnalyser, astronaut: np.ndarray, hopper: np.ndarray) -> None:
        def embedding(pixels: np.ndarray) -> np.ndarray:
            return embed_face(analyser, pixels, analyser.detect(pixels)[0])

        one, mirrored, other = embedding(astronaut), embedding(astronaut[:, ::-1].copy()), embedding(hopper)
        assert one.shape == (128,)
        assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
        assert one @ mirrored > 0.9
        assert one @ other < 0.33
        people = {
            name: [embedding(read_photo(PEOPLE / name / f"{i}.jpg").pixels) for i in (1, 2)]
            for name in ("alma", "conrad")
        }
        assert all(first @ second > 0.5 for first, second in people.values())
        assert people["alma"][0] @ people["conrad"][0] < 0.33

    def test_embedder_is_built_once(self, analyser: FaceAnalyser) -> None:
        assert analyser.embedder() is analyser.embedder("cpu")

    def test_threads(self, analyser: FaceAnalyser, astronaut: np.ndarray) -> None:
        found: list[int] = []
        threads = [
            threading.Thread(target=lambda: found.append(len(analyser.detect(astronaut)))) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [1] * 6

    def test_pixels_are_checked(self, analyser: FaceAnalyser) -> None:
        for wrong in (
            np.zeros((8, 8), np.uint8),
            np.zeros((8, 8, 3), np.float32),
            np.zeros((0, 8, 3), np.uint8),
        ):
            with pytest.raises(ValueError, match="uint8"):
                analyser.detect(wrong)

    def test_quiet_at_start_and_exit(self) -> None:
        code = (
            "import skimage.data; from magicapture_core.faces import choose_analyser as c; a, _ = c('bundled'); "
            "p = skimage.data.astronaut(); print(len(a.detect(p)), a.foreground(p).shape)"
        )
        root = Path(__file__).parent.parent
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
        )
        assert done.stdout == "1 (512, 512)\n"
        assert done.stderr == ""


@pytest.fixture(scope="module")
def facexlib_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of facexlib's published layout with random weights, in folders as GFPGAN and CodeFormer leave them."""
    from magicapture_core.faces import facexlib_variant

    folder = tmp_path_factory.mktemp("weights")
    (folder / "facelib").mkdir()
    (folder / "gfpgan" / "weights").mkdir(parents=True)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision, about how facexlib calls it
        retinaface = facexlib_variant._retinaface(torch.device("cpu"))
    for head in retinaface.ClassHead:  # type: ignore[union-attr]
        # A network that is sure of nothing, as random ones are of everything.
        head.conv1x1.weight.data.zero_()  # type: ignore[union-attr]
        head.conv1x1.bias.data.copy_(torch.tensor([4.0, -4.0, 4.0, -4.0]))  # type: ignore[union-attr]
    state = {f"module.{name}": value for name, value in retinaface.state_dict().items()}
    torch.save(state, folder / "facelib" / "detection_Resnet50_Final.pth")
    parser = facexlib_variant._parsing_network("parsing_bisenet")
    torch.save(parser.state_dict(), folder / "gfpgan" / "weights" / "parsing_bisenet.pth")
    torch.save(facexlib_variant._arcface_backbone().state_dict(), folder / "recognition_arcface_ir_se50.pth")
    return folder


@pytest.fixture
def facexlib_here(facexlib_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MAGICAPTURE_WEIGHTS", str(facexlib_weights))
    monkeypatch.setattr(choice, "_built", {})
    return facexlib_weights


class _EllipseParser(torch.nn.Module):
    """Labels an ellipse of FFHQ's crop as class 1 (skin) and the band below as `neck`."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        y, x_ = torch.meshgrid(torch.arange(512.0), torch.arange(512.0), indexing="ij")
        scores = torch.zeros(1, 19, 512, 512)
        scores[0, 1] = (((x_ - 256) / 120) ** 2 + ((y - 300) / 160) ** 2 < 1).float()
        scores[0, 17] = (y > 470).float() * 2
        assert x.shape == (1, 3, 512, 512)
        return (scores,)


@pytest.mark.usefixtures("facexlib_here")
class TestFacexlib:
    def test_auto_takes_it_and_says_so(self) -> None:
        analyser, why = choose_analyser()
        assert analyser.name == "facexlib"
        assert "weight files are here" in why
        assert "BiSeNet" in analyser.description

    def test_runs_from_files(self, astronaut: np.ndarray) -> None:
        analyser, _ = choose_analyser("facexlib")
        assert analyser.detect(astronaut[:256, :256].copy()) == []
        face = Face((180, 60, 270, 180), in_crop(1, 0, 170, 50)[0].numpy(), 1.0)
        assert analyser.face_mask(astronaut, face).shape == (512, 512)
        embedding = embed_face(analyser, astronaut, face)
        assert embedding.shape == (512,)
        assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)
        assert analyser.foreground(astronaut).shape == (512, 512)

    def test_embedder_lets_the_gradient_through(self) -> None:
        embedder = choose_analyser("facexlib")[0].embedder()
        aligned = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0)).requires_grad_()
        embedder(aligned).sum().backward()
        assert aligned.grad is not None
        assert aligned.grad.abs().max() > 0
        assert not embedder.training

    def test_detections_become_faces(self, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rows as RetinaFace gives them: pixels of the scaled picture, nonsense among them."""
        analyser: Any = choose_analyser("facexlib")[0]
        large = cv2.resize(astronaut, (2048, 2048))
        points = np.array([[203, 101], [246, 103], [223, 127], [202, 139], [244, 140]]) * 2.0
        row = np.array([360, 130, 540, 360, 0.99, *points.reshape(-1)], np.float32)
        nonsense = np.full(15, np.inf, np.float32)
        far = row + np.where(np.arange(15) == 4, 0, 5000).astype(np.float32)

        def rows(bgr: np.ndarray, threshold: float) -> np.ndarray:
            assert bgr.shape == (1024, 1024, 3)
            assert bgr[900, 100, 2] != bgr[900, 100, 0]
            assert threshold == 0.8
            return np.stack([row, nonsense, far])

        monkeypatch.setattr(analyser._detector, "detect_faces", rows)
        [face] = analyser.detect(large)
        assert np.abs(face.landmarks - points * 2).max() < 1
        assert face.box == pytest.approx((720, 260, 1080, 720))
        assert face.pose is not None  # MediaPipe sees the same face
        assert face.expressions["mouthSmileLeft"] > 0.5

    def test_parsed_face_lands_on_the_face(self, astronaut: np.ndarray, analyser: FaceAnalyser) -> None:
        facexlib: Any = choose_analyser("facexlib")[0]
        facexlib._parser = _EllipseParser()
        [face] = analyser.detect(astronaut)
        mask = facexlib.face_mask(astronaut, face)
        theirs = analyser.face_mask(astronaut, face)
        assert (mask * theirs).sum() / np.maximum(mask, theirs).sum() > 0.7

    def test_auto_needs_all_files(
        self, facexlib_here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "recognition_arcface_ir_se50.pth").symlink_to(
            facexlib_here / "recognition_arcface_ir_se50.pth"
        )
        monkeypatch.setenv("MAGICAPTURE_WEIGHTS", str(tmp_path))
        analyser, why = choose_analyser()
        assert analyser.name == "bundled"
        assert "detection_Resnet50_Final.pth" in why
        assert "recognition_arcface_ir_se50.pth" not in why

    def test_file_of_another_network(
        self, facexlib_here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in (
            "detection_Resnet50_Final.pth",
            "parsing_bisenet.pth",
            "recognition_arcface_ir_se50.pth",
        ):
            (tmp_path / name).symlink_to(facexlib_here / "recognition_arcface_ir_se50.pth")
        monkeypatch.setenv("MAGICAPTURE_WEIGHTS", str(tmp_path))
        with pytest.raises(Problem, match=r"detection_Resnet50_Final\.pth .*another network"):
            choose_analyser("facexlib")


def test_bundled_by_default_and_said_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGICAPTURE_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(choice, "_built", {})
    analyser, why = choose_analyser("auto")
    assert analyser.name == "bundled"
    assert "because" in why
    assert "SFace" in analyser.description
    with pytest.raises(Problem, match="auto, bundled or facexlib"):
        choose_analyser("best")  # type: ignore[arg-type]


@pytest.mark.weights
def test_facexlib_with_published_weights(astronaut: np.ndarray, hopper: np.ndarray) -> None:
    from magicapture_core.weights import find_weight

    missing = [names[0] for names in choice.FACEXLIB_WEIGHTS if not any(map(find_weight, names))]
    if missing:
        pytest.skip(f"published weight files are not in MAGICAPTURE_WEIGHTS: {', '.join(missing)}")
    analyser, _ = choose_analyser("facexlib")
    [one], [other] = analyser.detect(astronaut), analyser.detect(hopper)
    [mirrored] = analyser.detect(astronaut[:, ::-1].copy())
    first = embed_face(analyser, astronaut, one)
    assert first @ embed_face(analyser, astronaut[:, ::-1].copy(), mirrored) > 0.8
    assert first @ embed_face(analyser, hopper, other) < 0.3
    mask = analyser.face_mask(astronaut, one)
    assert mask[120, 223] == 1
    assert mask[40, 225] == 0
