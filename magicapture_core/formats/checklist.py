"""Checks of a passport-style photo, with the measured values. Each threshold names its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from magicapture_core.concepts.measures import Measures, face_crop, measure
from magicapture_core.faces import Face, FaceAnalyser
from magicapture_core.formats.head import Head, find_head
from magicapture_core.formats.specs import INCH, PhotoSpec

# ISO/IEC 19794-5 permits 5° of yaw and pitch and 8° of roll. MediaPipe's pose of faces that look straight ahead
# was seen to err by 3° in yaw and by 6° in pitch, so that much more is let through.
MOST_YAW, MOST_PITCH, MOST_ROLL = 8.0, 11.0, 8.0
# ISO/IEC 19794-5: at least 90 pixels between the eyes; fewer cannot be printed sharply.
LEAST_EYE_PIXELS = 90
# ISO/IEC 19794-5: the face's middle within 45 to 55 % of the width.
MOST_OFF_CENTRE = 0.05
# Lids over eye width and blink, as in concepts/verdicts.py, but a passport wants both eyes well open.
LEAST_OPENNESS, MOST_BLINK = 0.15, 0.5
MOST_JAW_OPEN, MOST_SMILE = 0.08, 0.35
# Luma of the darker half of the face over the brighter one; side light gives less than .7.
LEAST_EVENNESS = 0.75
# As in concepts/verdicts.py: crisp faces lie at .38 to .69.
MOST_BLUR = 0.74
DARK_HIGHLIGHTS, MOST_BLOWN = 75.0, 0.08
SUNGLASSES = 0.45
# A catch light covers under 1 % of the patch around an eye, a lamp in spectacles several.
MOST_GLARE = 0.02
# Deviation of luma over the background; a plain wall in even light stays below 6.
MOST_UNEVEN = 8.0
# Share of the photo that lies beyond the picture: of the person, or of anything where the background is kept. A
# strip of shoulder of under a millimetre, continued as a mirror image, is not seen.
MOST_BEYOND = 0.02
SECOND_FACE = 0.4
# The head is measured to within this, mm; landmarks move by a pixel or two between two crops of one face.
_TOLERANCE = 0.3


@dataclass(frozen=True)
class Check:
    """One line of the checklist."""

    name: str
    """Short and stable."""
    title: str
    passed: bool | None
    """None: cannot be measured here."""
    value: str
    """What was measured, with its unit."""
    wanted: str
    """What is asked for."""
    required: bool = True
    """Whether the photo fails with it; otherwise it is worth knowing."""
    advice: str = ""
    """What to do where it failed."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def check_photo(
    pixels: np.ndarray,
    alpha: np.ndarray,
    spec: PhotoSpec,
    *,
    analyser: FaceAnalyser,
    source_faces: Sequence[Face],
    invented: float,
    outside: float,
    replaced: bool,
    head_cut: bool,
) -> list[Check]:
    """Measure a photo of `spec`'s size anew, whatever the crop aimed at.

    pixels: (h, w, 3) uint8 RGB; alpha: (h, w) the person's matte. source_faces: faces of the picture that it was cut
    from, the largest first. invented, outside: shares of the photo beyond that picture, showing the person and in all.
    """
    found = analyser.detect(pixels)
    checks = [_one_face(source_faces), _resolution(source_faces[0])]
    if not found:
        lost = "the face is not found again in the photo"
        return [
            *checks,
            Check("face", "Face in the photo", False, lost, "a whole face", advice="Choose another."),
        ]
    face = found[0]
    head = find_head(face, alpha)
    measures = measure(pixels, face)
    return [
        *checks,
        *_geometry(head, spec, pixels.shape),
        _whole(invented, outside, replaced, head_cut),
        *_pose(face, head),
        *_expression(face),
        *_light(pixels, face, measures),
        *_background(pixels, alpha, spec),
        _at_most("sharpness", "Sharp", measures.blur, MOST_BLUR, "blur {:.2f}", "Choose a sharper picture."),
    ]


def _one_face(faces: Sequence[Face]) -> Check:
    count = 1 + sum(face.size > SECOND_FACE * faces[0].size for face in faces[1:])
    return Check(
        "one_face", "One person", count == 1, f"{count} face{'s' if count > 1 else ''}", "1 face",
        advice="Choose a picture of one person.",
    )  # fmt: skip


def _resolution(face: Face) -> Check:
    distance = float(np.linalg.norm(face.landmarks[1] - face.landmarks[0]))
    return Check(
        "resolution", "Enough pixels", distance >= LEAST_EYE_PIXELS, f"{distance:.0f} pixels between the eyes",
        f"at least {LEAST_EYE_PIXELS}", advice="Enlarge it first (finish), or choose a larger picture.",
    )  # fmt: skip


def _geometry(head: Head, spec: PhotoSpec, shape: tuple[int, ...]) -> list[Check]:
    mm = INCH / spec.dpi
    height = head.height(spec.head_to_hair) * mm
    eyes = (shape[0] - float(head.eyes[1])) * mm
    top = float(head.crown[1]) * mm
    off = abs(float(head.eyes[0]) + 0.5 - shape[1] / 2) / shape[1]
    allowed = spec.eye_range
    checks = [
        Check(
            "head_height", "Head height", spec.head.holds(height, _TOLERANCE), f"{height:.1f} mm",
            f"{spec.head.low:.1f} to {spec.head.high:.1f} mm, chin to {'hair' if spec.head_to_hair else 'crown'}",
            advice="The picture shows too little around the head; choose another.",
        ),
        Check(
            "eye_line", "Eye line", allowed.holds(eyes, _TOLERANCE), f"{eyes:.1f} mm over the lower edge",
            f"{allowed.low:.1f} to {allowed.high:.1f} mm", required=spec.eyes is not None,
            advice="The picture shows too little around the head; choose another.",
        ),
    ]  # fmt: skip
    if spec.top is not None:
        checks.append(
            Check(
                "top", "Space over the head", spec.top.holds(top, _TOLERANCE), f"{top:.1f} mm",
                f"{spec.top.low:.0f} to {spec.top.high:.0f} mm", advice="Choose a picture with room over the head.",
            )
        )  # fmt: skip
    checks.append(
        Check(
            "centred",
            "Centred",
            off <= MOST_OFF_CENTRE,
            f"{off:.1%} off the middle",
            f"at most {MOST_OFF_CENTRE:.0%}",
        )
    )
    return checks


def _whole(invented: float, outside: float, replaced: bool, head_cut: bool) -> Check:
    missing = invented if replaced else outside
    passed = missing <= MOST_BEYOND and not head_cut
    cut = "the head is cut off above" if head_cut else f"{missing:.1%} lies beyond the picture"
    return Check(
        "whole", "Head and shoulders whole", passed, cut, f"the whole head, at most {MOST_BEYOND:.0%} beyond",
        advice="Choose a picture with more room around the head and shoulders.",
    )  # fmt: skip


def _pose(face: Face, head: Head) -> list[Check]:
    roll = Check(
        "roll", "Head upright", abs(head.lean) <= MOST_ROLL, f"{head.lean:+.1f}°", f"within ±{MOST_ROLL:.0f}°",
        advice="Choose a picture with the head held straight.",
    )  # fmt: skip
    if face.pose is None:
        unknown = ("cannot be measured", "")
        return [
            Check("yaw", "Facing forward", None, *unknown),
            Check("pitch", "Not looking up or down", None, *unknown),
            roll,
        ]
    yaw, pitch, _ = face.pose
    return [
        Check(
            "yaw", "Facing forward", abs(yaw) <= MOST_YAW, f"turned by {yaw:+.1f}°", f"within ±{MOST_YAW:.0f}°",
            advice="Choose a picture that looks straight at the camera.",
        ),
        Check(
            "pitch", "Not looking up or down", abs(pitch) <= MOST_PITCH, f"{pitch:+.1f}°", f"within ±{MOST_PITCH:.0f}°",
            advice="Choose a picture taken from the height of the eyes.",
        ),
        roll,
    ]  # fmt: skip


def _expression(face: Face) -> list[Check]:
    seen = face.expressions
    if not seen:
        return [
            Check(name, title, None, "cannot be measured", "")
            for name, title in (("eyes_open", "Eyes open"), ("mouth", "Mouth closed"), ("neutral", "Neutral"))
        ]
    openness = min(seen["eyeOpennessLeft"], seen["eyeOpennessRight"])
    blink = max(seen["eyeBlinkLeft"], seen["eyeBlinkRight"])
    smile = (seen["mouthSmileLeft"] + seen["mouthSmileRight"]) / 2
    return [
        Check(
            "eyes_open", "Eyes open", openness >= LEAST_OPENNESS and blink <= MOST_BLINK,
            f"open {openness:.2f}, blink {blink:.2f}", f"at least {LEAST_OPENNESS}, at most {MOST_BLINK}",
            advice="Choose a picture with both eyes open.",
        ),
        _at_most("mouth", "Mouth closed", seen["jawOpen"], MOST_JAW_OPEN, "open {:.2f}", "Choose closed lips."),
        _at_most("neutral", "Neutral expression", smile, MOST_SMILE, "smile {:.2f}", "Choose a serious picture."),
    ]  # fmt: skip


def _light(pixels: np.ndarray, face: Face, measures: Measures) -> list[Check]:
    crop = face_crop(pixels, face)
    luma = crop.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    # Both cheeks and halves of the forehead, mirrored about the nose, in ArcFace's crop of 224 pixels.
    halves = [float(np.median(luma[60:170, left : left + 44])) for left in (44, 136)]
    evenness = min(halves) / max(*halves, 1.0)
    eyes = [crop[84:124, 50:102], crop[84:124, 122:174]]
    glare = max(float((eye.min(axis=2) >= 250).mean()) for eye in eyes)
    exposed = measures.highlights >= DARK_HIGHLIGHTS and measures.blown <= MOST_BLOWN
    return [
        Check(
            "even_light", "Even light", evenness >= LEAST_EVENNESS, f"{evenness:.2f} of the brighter side",
            f"at least {LEAST_EVENNESS}", advice="Choose a picture lit from the front.",
        ),
        Check(
            "exposure", "Neither too dark nor too bright", exposed,
            f"brightest skin {measures.highlights:.0f}, {measures.blown:.1%} blown out",
            f"at least {DARK_HIGHLIGHTS:.0f}, at most {MOST_BLOWN:.0%}", advice="Choose a better lit picture.",
        ),
        Check(
            "eyes_visible", "Eyes not covered", measures.eyes >= SUNGLASSES, f"brightness {measures.eyes:.2f}",
            f"at least {SUNGLASSES}", advice="Choose a picture without dark glasses or hair over the eyes.",
        ),
        _at_most("glare", "No glare over the eyes", glare, MOST_GLARE, "{:.1%} blown out", "Avoid the lamp."),
    ]  # fmt: skip


def _background(pixels: np.ndarray, alpha: np.ndarray, spec: PhotoSpec) -> list[Check]:
    import cv2

    # A little away from the person, whose edge is soft.
    near = cv2.dilate((alpha > 0.02).astype(np.uint8), np.ones((3, 3)), iterations=max(2, len(alpha) // 80))
    luma = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)[near == 0]
    if len(luma) < 0.02 * alpha.size:
        unseen = ("hardly any background is seen", "")
        return [Check("background", "Background plain", None, *unseen)]
    uneven, level = float(luma.std()), float(np.median(luma))
    return [
        _at_most(
            "background", "Background plain", uneven, MOST_UNEVEN, "varies by {:.1f} of 255", "Let it be replaced."
        ),
        Check(
            "background_colour", "Background colour", level >= spec.darkest_background, f"brightness {level:.0f}",
            f"{spec.background_words} (at least {spec.darkest_background})", advice="Let it be replaced.",
        ),
    ]  # fmt: skip


def _at_most(name: str, title: str, value: float, most: float, words: str, advice: str) -> Check:
    percent = "%" in words
    limit = f"{most:.0%}" if percent else f"{most:g}"
    return Check(name, title, value <= most, words.format(value), f"at most {limit}", advice=advice)
