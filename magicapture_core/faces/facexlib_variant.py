"""The paper's variant: RetinaFace detects, BiSeNet or ParseNet parses, ArcFace recognises (facexlib's networks)."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from magicapture_core.faces.align import crop_to_image
from magicapture_core.faces.bundled import BundledAnalyser
from magicapture_core.faces.protocol import Face, FaceEmbedder, check_pixels
from magicapture_core.gpu import has_gpu
from magicapture_core.languages import _
from magicapture_core.problems import Problem
from magicapture_core.weights import WEIGHTS, fetch_weight, find_weight, read_state

DETECTOR, RECOGNISER = "detection_Resnet50_Final", "recognition_arcface_ir_se50"
PARSERS = ("parsing_bisenet", "parsing_parsenet")
"""Either will do; the first one is fetched where neither is here."""

# What both parsers were trained to label belongs to the face, in the order of each one's classes: skin, brows,
# eyes, glasses, nose, mouth and lips; neither ears nor hair, hat, neck.
FACE_CLASSES = {
    "parsing_bisenet": (1, 2, 3, 4, 5, 6, 10, 11, 12, 13),
    "parsing_parsenet": (1, 2, 3, 4, 5, 6, 7, 10, 11, 12),
}
# Mean and deviation that each parser's input is normalised with: ImageNet's, and [-1, 1].
_NORMALISATION = {
    "parsing_bisenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "parsing_parsenet": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
# The parsers know faces as FFHQ aligns them; these are the five points in its 512-pixel crop.
FFHQ_SIZE = 512
FFHQ_POINTS = (
    (192.98138, 239.94708),
    (318.90277, 240.1936),
    (256.63416, 314.01935),
    (201.26117, 371.41043),
    (313.08905, 371.15118),
)
# RetinaFace finds faces of 16 pixels; at this side a 4096-pixel photo's face of 64 pixels is just that large, and
# a photo takes seconds, not minutes, on a CPU.
DETECTION_SIDE = 1024
MIN_DETECTION = 0.8


class ArcFace(FaceEmbedder):
    """facexlib's IR-SE50, which takes RGB in [-1, 1] (the convention of InsightFace_Pytorch, whose weights it uses)."""

    name = "ArcFace"
    size = 112
    dim = 512

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def features(self, aligned: Tensor) -> Tensor:
        self.check_input(aligned)
        features: Tensor = self.backbone(aligned.float() * 2 - 1)  # facexlib's network normalises them itself
        return features


class FacexlibAnalyser:
    """RetinaFace (ResNet-50), BiSeNet or ParseNet, and ArcFace; expressions and foreground from the bundled models."""

    name = "facexlib"

    def __init__(self) -> None:
        """Get and load the weights. MissingFiles where they cannot be had."""
        self._lock = threading.RLock()  # RetinaFace keeps the picture's scale in itself while it detects
        self._device = torch.device("cuda" if has_gpu() else "cpu")
        self._bundled = BundledAnalyser()
        self._embedders: dict[str, FaceEmbedder] = {}
        self._parser_name = fetch_weights()
        self._detector = _load(DETECTOR, lambda: _retinaface(self._device)).to(self._device)
        self._parser = _load(self._parser_name, lambda: _parsing_network(self._parser_name)).to(self._device)
        parser = "BiSeNet" if self._parser_name == "parsing_bisenet" else "ParseNet"
        self.description = (
            f"RetinaFace (ResNet-50) finds faces, {parser} cuts them out and ArcFace (IR-SE50) recognises them, as in "
            "the paper; MediaPipe adds pose, expressions and the person's outline."
        )

    def detect(self, pixels: np.ndarray, *, small: bool = True) -> list[Face]:  # noqa: ARG002
        import cv2

        check_pixels(pixels)
        scale = min(1.0, DETECTION_SIDE / max(pixels.shape[:2]))
        size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
        shrunk = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
        with self._lock, torch.no_grad():
            rows = self._detector.detect_faces(np.ascontiguousarray(shrunk[:, :, ::-1]), MIN_DETECTION)
        height, width = pixels.shape[:2]
        faces = [_face(row, scale) for row in rows if np.isfinite(row).all()]
        faces = [self._with_pose(pixels, face) for face in faces if _is_in(face, height, width)]
        return sorted(faces, key=lambda face: -face.size)

    def face_mask(self, pixels: np.ndarray, face: Face) -> np.ndarray:
        import cv2

        check_pixels(pixels)
        to_photo = crop_to_image(torch.tensor(face.landmarks)[None], FFHQ_SIZE, FFHQ_POINTS)[0].numpy()
        # INTER_AREA has no meaning in a warp; where the face is larger than the crop, parsing loses nothing by it.
        crop = cv2.warpAffine(
            pixels, to_photo, (FFHQ_SIZE, FFHQ_SIZE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        mean, deviation = _NORMALISATION[self._parser_name]
        values = (
            torch.tensor(crop, device=self._device).float() / 255 - torch.tensor(mean, device=self._device)
        ) / (torch.tensor(deviation, device=self._device))
        with self._lock, torch.no_grad():
            labels = self._parser(values.permute(2, 0, 1)[None])[0].argmax(dim=1)[0].cpu()
        region = torch.isin(labels, torch.tensor(FACE_CLASSES[self._parser_name])).float().numpy()
        back = cv2.warpAffine(region, to_photo, pixels.shape[1::-1], flags=cv2.INTER_LINEAR)
        return (back >= 0.5).astype(np.float32)

    def foreground(self, pixels: np.ndarray) -> np.ndarray:
        return self._bundled.foreground(pixels)

    def embedder(self, device: torch.device | str = "cpu") -> FaceEmbedder:
        key = str(torch.device(device))
        with self._lock:
            if key not in self._embedders:
                backbone = _load(RECOGNISER, _arcface_backbone)
                self._embedders[key] = ArcFace(backbone).eval().requires_grad_(False).to(device)
            return self._embedders[key]

    def _with_pose(self, pixels: np.ndarray, face: Face) -> Face:
        """Pose and expressions, which RetinaFace does not give, where MediaPipe sees the same face."""
        measured = self._bundled.measure(pixels, face)
        if measured is None:
            return face
        return replace(face, pose=measured.pose, expressions=measured.expressions)


def fetch_weights() -> str:
    """Download what is missing of the three weight files. Returns the parser's name. Raises MissingFiles."""
    parser = next((name for name in PARSERS if find_weight(name)), PARSERS[0])
    for name in (DETECTOR, parser, RECOGNISER):
        fetch_weight(name)
    return parser


def _face(row: np.ndarray, scale: float) -> Face:
    """A row of RetinaFace: box, score, five points, in pixels of the picture scaled by `scale`."""
    left, top, right, bottom = (float(v) / scale for v in row[:4])
    return Face(
        box=(left, top, right, bottom),
        landmarks=((row[5:15].reshape(5, 2) + 0.5) / scale - 0.5).astype(np.float32),
        score=float(row[4]),
    )


def _is_in(face: Face, height: int, width: int) -> bool:
    """Whether the box overlaps the photo and is less than twice its size; damaged weights give any numbers."""
    left, top, right, bottom = face.box
    meets = left < width and right > 0 and top < height and bottom > 0
    return meets and 0 < right - left < 2 * width and 0 < bottom - top < 2 * height


def _load(name: str, build: Callable[[], nn.Module]) -> Any:
    """The network with the weights of that name, frozen. Problem if the file belongs to another network."""
    path = fetch_weight(name)
    state = read_state(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # facexlib builds its networks with torchvision arguments of old
        network = build()
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise Problem(
            _(
                "{path} is not {file} ({purpose}): its tensors are those of another network. Delete it and get it "
                "again from {url}.",
                path=path,
                file=WEIGHTS[name].filename,
                purpose=_(WEIGHTS[name].purpose),
                url=WEIGHTS[name].url,
            )
        ) from error
    return network.eval().requires_grad_(False)


def _retinaface(device: torch.device) -> nn.Module:
    from facexlib.detection.retinaface import RetinaFace

    network: nn.Module = RetinaFace(network_name="resnet50", half=False, device=device)
    return network


def _parsing_network(name: str) -> nn.Module:
    from facexlib.parsing.bisenet import BiSeNet
    from facexlib.parsing.parsenet import ParseNet

    network: nn.Module
    if name == "parsing_bisenet":
        network = BiSeNet(num_class=19)
    else:
        network = ParseNet(in_size=FFHQ_SIZE, out_size=FFHQ_SIZE, parsing_ch=19)
    return network


def _arcface_backbone() -> nn.Module:
    # Built here, since facexlib's own init_recognition_model() insists on CUDA and on downloading.
    from facexlib.recognition.arcface_arch import Backbone

    network: nn.Module = Backbone(num_layers=50, drop_ratio=0.6, mode="ir_se")
    return network
