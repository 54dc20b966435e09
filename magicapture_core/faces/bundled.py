"""The bundled variant: MediaPipe for detection, landmarks and masks, SFace for recognition. Nothing is downloaded."""

from __future__ import annotations

import math
import os
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from magicapture_core.faces.hairline import to_hairline
from magicapture_core.faces.protocol import Face, FaceEmbedder, check_pixels
from magicapture_core.faces.sface import load_sface
from magicapture_core.languages import _
from magicapture_core.problems import MissingFiles
from magicapture_core.weights import ASSETS

DETECTOR_FILE = ASSETS / "faces" / "face_detection_full_range_sparse.tflite"
LANDMARKER_FILE = ASSETS / "faces" / "face_landmarker.task"
SEGMENTER_FILE = ASSETS / "faces" / "selfie_segmentation.tflite"

# Below this the full-range detector reports textures; above it, it misses faces half turned away.
MIN_DETECTION = 0.5
# A weak detection counts only if the landmarker also sees a face; a strong one counts alone.
SURE_DETECTION = 0.8
# The detector works on 192 pixels, so a face under about a tenth of the picture's side may escape it. Where it
# finds none, it looks again at windows of half the side, then of a quarter.
WINDOWS = (0.5, 0.25)
# Share of a window that it has in common with the next. A face larger than a fifth of the smaller windows is seen in
# the larger ones, so every smaller face lies whole, with room around it, in one of them.
WINDOW_OVERLAP = 1 / 3
# A face that fills the photo or touches its edge is found once there is some room around it.
PADDING = 0.3
# Longest side of the picture that is searched so: the smallest windows still have twice the detector's pixels, and the
# thirty passes over a photo without a face cost no more where it is large.
SEARCH_SIDE = 1536
# Sides of the crop shown to the landmarker, in detection boxes: it wants the whole head, but large. More than one
# is tried, because a face that fills the picture or is half cut off is found in one and not in another.
CROP_SCALES = (2.0, 1.5, 3.0)
# Sides of the blank pictures that a new task gets while stderr is redirected. MediaPipe writes one note, on misaligned
# memory, once per process, at the first call with such memory: after four calls 2 of 30 processes still wrote it.
WARM_UP_SIDES = tuple(range(64, 352, 12))
# Two boxes that overlap by more than this are one face, seen twice.
SAME_FACE_IOU = 0.3

# Indices in MediaPipe's mesh of 478 points; "left" and "right" are the picture's, for a face that looks at us.
LEFT_EYE = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)
RIGHT_EYE = (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466)
NOSE_TIP, LEFT_MOUTH, RIGHT_MOUTH = 4, 61, 291
FACE_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip


class BundledAnalyser:
    """MediaPipe's full-range detector, Face Landmarker and selfie segmentation, and SFace."""

    name = "bundled"
    description = (
        "MediaPipe's full-range face detector and Face Landmarker for the faces and their outline, MediaPipe's "
        "selfie segmentation for the person, and SFace for recognition (all Apache-2.0, bundled)."
    )

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a MediaPipe task serves one caller at a time
        self._tasks: dict[str, Any] = {}
        self._embedders: dict[str, FaceEmbedder] = {}
        # MediaPipe's own __del__ raises errors while the interpreter shuts down; a finalizer runs before that.
        self._finalizer = weakref.finalize(self, _close, self._tasks)

    def detect(self, pixels: np.ndarray, *, small: bool = True) -> list[Face]:
        check_pixels(pixels)
        faces: list[Face] = []
        with self._lock:
            for detections in self._looks(pixels, WINDOWS if small else WINDOWS[:1]):
                faces = self._confirmed(pixels, detections)
                if faces:
                    break
        return sorted(faces, key=lambda face: -face.size)

    def face_mask(self, pixels: np.ndarray, face: Face) -> np.ndarray:
        import cv2

        check_pixels(pixels)
        mask = np.zeros(pixels.shape[:2], np.uint8)
        outline = face.outline if face.outline is not None else _ellipse(face.box)
        cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 1, shift=4)
        return mask.astype(np.float32)

    def foreground(self, pixels: np.ndarray) -> np.ndarray:
        check_pixels(pixels)
        with self._lock:
            result = self._task("segmenter").segment(_mp_image(pixels))
            mask: np.ndarray = result.confidence_masks[0].numpy_view().copy()
        return np.clip(mask.reshape(pixels.shape[:2]), 0, 1).astype(np.float32)

    def embedder(self, device: torch.device | str = "cpu") -> FaceEmbedder:
        key = str(torch.device(device))
        with self._lock:
            if key not in self._embedders:
                self._embedders[key] = load_sface().to(device)
            return self._embedders[key]

    def _task(self, name: str) -> Any:
        if name not in self._tasks:
            self._tasks[name] = _create(name)
        return self._tasks[name]

    def _detections(self, pixels: np.ndarray, left: int, top: int) -> Iterator[Face]:
        """Detections in `pixels`, a window of the photo whose corner is at (left, top); in the photo's pixels."""
        height, width = pixels.shape[:2]
        offset = np.array([left, top], np.float32)
        for detection in self._task("detector").detect(_mp_image(pixels)).detections:
            box = detection.bounding_box
            points = np.array([[p.x * width, p.y * height] for p in detection.keypoints[:4]], np.float32)
            eye, other_eye, nose, mouth = points
            half_mouth = (other_eye - eye) * 0.35  # the detector gives the mouth's centre only
            landmarks = np.stack([eye, other_eye, nose, mouth - half_mouth, mouth + half_mouth]) + offset
            x, y = left + box.origin_x, top + box.origin_y
            yield Face(
                box=(float(x), float(y), float(x + box.width), float(y + box.height)),
                landmarks=landmarks.astype(np.float32),
                score=float(detection.categories[0].score),
            )

    def _looks(self, pixels: np.ndarray, windows: tuple[float, ...]) -> Iterator[Iterator[Face]]:
        """Detections in the whole picture, in the padded picture, then in windows of each size: ever slower."""
        small, factor = _for_searching(pixels)
        yield (face.scaled(factor) for face in self._detections(small, 0, 0))
        yield (face.scaled(factor) for face in self._search_padded(small))
        for share in windows:
            yield (face.scaled(factor) for face in self._search_windows(small, share))

    def _confirmed(self, pixels: np.ndarray, detections: Iterable[Face]) -> list[Face]:
        """The detections that the landmarker, or a high score, confirms, each face once."""
        faces: list[Face] = []
        for detection in sorted(detections, key=lambda d: -d.score):
            if any(_iou(detection.box, other.box) > SAME_FACE_IOU for other in faces):
                continue
            face = self.measure(pixels, detection) or (
                detection if detection.score > SURE_DETECTION else None
            )
            if face is not None and all(_iou(face.box, other.box) < SAME_FACE_IOU for other in faces):
                faces.append(face)
        return faces

    def _search_padded(self, pixels: np.ndarray) -> Iterator[Face]:
        import cv2

        border = round(max(pixels.shape[:2]) * PADDING)
        padded = cv2.copyMakeBorder(pixels, border, border, border, border, cv2.BORDER_REPLICATE)
        yield from self._detections(padded, -border, -border)

    def _search_windows(self, pixels: np.ndarray, share: float) -> Iterator[Face]:
        height, width = pixels.shape[:2]
        size = max(32, round(max(height, width) * share))
        for top in _window_starts(height, size):
            for left in _window_starts(width, size):
                yield from self._detections(pixels[top : top + size, left : left + size], left, top)

    def measure(self, pixels: np.ndarray, detection: Face) -> Face | None:
        """The detected face with outline, pose and expressions; None if the landmarker sees no face there."""
        for scale in CROP_SCALES:
            crop, left, top = _square(pixels, detection.box, scale)
            with self._lock:
                result = self._task("landmarker").detect(_mp_image(crop))
            if not result.face_landmarks:
                continue
            mesh = np.array([[p.x, p.y] for p in result.face_landmarks[0]], np.float32) * crop.shape[0] - 0.5
            mesh += np.array([left, top], np.float32)
            outline = mesh[list(FACE_OVAL)]
            box = (*outline.min(axis=0).tolist(), *outline.max(axis=0).tolist())
            if _iou(box, detection.box) < SAME_FACE_IOU:
                continue  # it found another face
            shapes = result.face_blendshapes[0] if result.face_blendshapes else []
            return Face(
                box=box,
                landmarks=_five_points(mesh),
                score=detection.score,
                outline=to_hairline(pixels, mesh, outline),
                pose=_pose(np.asarray(result.facial_transformation_matrixes[0])),
                expressions=_openness(mesh)
                | {s.category_name: float(s.score) for s in shapes if s.category_name != "_neutral"},
            )
        return None


def _window_starts(side: int, size: int) -> list[int]:
    """Where windows of `size` begin so that they cover `side` and overlap by WINDOW_OVERLAP or more."""
    steps = math.ceil(max(0, side - size) / (size * (1 - WINDOW_OVERLAP)))
    return [round(step * (side - size) / steps) for step in range(steps)] + [max(0, side - size)]


def _for_searching(pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """The picture at SEARCH_SIDE at most, and what its coordinates are multiplied by to be the photo's."""
    import cv2

    factor = max(1.0, max(pixels.shape[:2]) / SEARCH_SIDE)
    if factor == 1:
        return pixels, factor
    whole = min(
        int(factor), *pixels.shape[:2]
    )  # averaging whole blocks is several times faster than parts of them
    height, width = (side // whole * whole for side in pixels.shape[:2])
    blocks = cv2.resize(
        pixels[:height, :width], (width // whole, height // whole), interpolation=cv2.INTER_AREA
    )
    size = [max(1, round(side / factor)) for side in pixels.shape[1::-1]]
    return cv2.resize(blocks, size, interpolation=cv2.INTER_LINEAR), factor


def _openness(mesh: np.ndarray) -> dict[str, float]:
    """Distance of the lids over the eye's width: .2 and more when open. Blendshapes alone take a laugh for a blink."""

    def openness(outer: int, inner: int, *lids: tuple[int, int]) -> float:
        gap = np.mean([np.linalg.norm(mesh[upper] - mesh[lower]) for upper, lower in lids])
        return float(gap / max(float(np.linalg.norm(mesh[outer] - mesh[inner])), 1e-6))

    return {
        "eyeOpennessRight": openness(33, 133, (159, 145), (158, 153)),
        "eyeOpennessLeft": openness(263, 362, (386, 374), (385, 380)),
    }


def _five_points(mesh: np.ndarray) -> np.ndarray:
    """(5, 2): the eyes' centres are those of their contours, which do not move with the gaze."""
    return np.stack(
        [
            mesh[list(LEFT_EYE)].mean(axis=0),
            mesh[list(RIGHT_EYE)].mean(axis=0),
            mesh[NOSE_TIP],
            mesh[LEFT_MOUTH],
            mesh[RIGHT_MOUTH],
        ]
    ).astype(np.float32)


def _pose(matrix: np.ndarray) -> tuple[float, float, float]:
    """Yaw, pitch, roll in degrees of MediaPipe's (4, 4) head pose (camera axes: x right, y up, z to the viewer)."""
    rotation = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    yaw = math.degrees(math.atan2(rotation[0, 2], rotation[2, 2]))
    pitch = math.degrees(math.asin(float(np.clip(rotation[1, 2], -1, 1))))
    roll = math.degrees(math.atan2(-rotation[1, 0], rotation[1, 1]))
    return yaw, pitch, roll


def _square(
    pixels: np.ndarray, box: tuple[float, float, float, float], scale: float
) -> tuple[np.ndarray, int, int]:
    """A square of `scale` boxes around `box`, its border repeated beyond the photo, and its corner."""
    import cv2

    left, top, right, bottom = box
    side = max(8, round(max(right - left, bottom - top) * scale))
    x, y = round((left + right - side) / 2), round((top + bottom - side) / 2)
    height, width = pixels.shape[:2]
    inside = pixels[max(y, 0) : max(y + side, 0), max(x, 0) : max(x + side, 0)]
    if inside.size == 0:
        return pixels, 0, 0
    pads = (max(-y, 0), max(y + side - height, 0), max(-x, 0), max(x + side - width, 0))
    return cv2.copyMakeBorder(inside, *pads, cv2.BORDER_REPLICATE), x, y


def _iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def _ellipse(box: tuple[float, float, float, float]) -> np.ndarray:
    """(36, 2) outline of a face of which only the box is known."""
    angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    left, top, right, bottom = box
    x = (left + right) / 2 + (right - left) / 2 * np.cos(angles)
    y = (top + bottom) / 2 + (bottom - top) / 2 * np.sin(angles)
    return np.stack([x, y], axis=1).astype(np.float32)


def _mp_image(pixels: np.ndarray) -> Any:
    import mediapipe

    return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(pixels))


def _create(name: str) -> Any:
    """The MediaPipe task of that name, warmed up."""
    path = {"detector": DETECTOR_FILE, "landmarker": LANDMARKER_FILE, "segmenter": SEGMENTER_FILE}[name]
    if not path.is_file():
        raise MissingFiles(
            _(
                "The bundled face model {path} is not there. It belongs to MagiCapture; get it back from its "
                "repository.",
                path=path,
            )
        )
    with _quiet_stderr():
        task = _build_task(name, path)
        call = task.segment if name == "segmenter" else task.detect
        for side in WARM_UP_SIDES:
            call(_mp_image(np.zeros((side, side, 3), np.uint8)))
    return task


def _build_task(name: str, path: Path) -> Any:
    from mediapipe.tasks.python import BaseOptions, vision

    base = BaseOptions(model_asset_buffer=path.read_bytes())
    if name == "detector":
        options = vision.FaceDetectorOptions(base_options=base, min_detection_confidence=MIN_DETECTION)
        return vision.FaceDetector.create_from_options(options)
    if name == "segmenter":
        return vision.ImageSegmenter.create_from_options(
            vision.ImageSegmenterOptions(base_options=base, output_confidence_masks=True)
        )
    return vision.FaceLandmarker.create_from_options(
        vision.FaceLandmarkerOptions(
            base_options=base,
            min_face_detection_confidence=0.3,
            output_face_blendshapes=True,
            output_facial_transformation_matrixes=True,
        )
    )


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Keep MediaPipe's start-up notes (some seventy lines, written by C++ past every setting) from the user.

    They come once per task and process. What was written is shown after all if the start fails.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(saved, 2)
            notes.seek(0)
            sys.stderr.write(notes.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _close(tasks: dict[str, Any]) -> None:
    for task in tasks.values():
        task.close()
    tasks.clear()
