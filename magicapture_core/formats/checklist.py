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
from magicapture_core.languages import N_, _, n_

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
CHIN_TO_HAIR = N_("{low:.1f} to {high:.1f} mm, chin to hair")
CHIN_TO_CROWN = N_("{low:.1f} to {high:.1f} mm, chin to crown")
# The head is measured to within this, mm; landmarks move by a pixel or two between two crops of one face.
_TOLERANCE = 0.3


@dataclass(frozen=True)
class Check:
    """One line of the checklist."""

    name: str
    """Short and stable."""
    title: str
    """In English, marked by N_: shown by `_(title)`; `advice`, too."""
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
    from, the largest first. invented, outside: shares of the photo beyond that picture,
    showing the person and in all.
    """
    found = analyser.detect(pixels)
    checks = [_one_face(source_faces), _resolution(source_faces[0])]
    if not found:
        lost = _("the face is not found again in the photo")
        return [
            *checks,
            Check(
                "face", N_("Face in the photo"), False, lost, _("a whole face"), advice=N_("Choose another.")
            ),
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
        _at_most(
            "sharpness",
            N_("Sharp"),
            measures.blur,
            MOST_BLUR,
            N_("blur {value:.2f}"),
            N_("Choose a sharper picture."),
        ),
    ]


def _one_face(faces: Sequence[Face]) -> Check:
    count = 1 + sum(face.size > SECOND_FACE * faces[0].size for face in faces[1:])
    return Check(
        "one_face", N_("One person"), count == 1, n_("{n} face", "{n} faces", count),
        n_("{n} face", "{n} faces", 1),
        advice=N_("Choose a picture of one person."),
    )  # fmt: skip


def _resolution(face: Face) -> Check:
    distance = float(np.linalg.norm(face.landmarks[1] - face.landmarks[0]))
    return Check(
        "resolution", N_("Enough pixels"), distance >= LEAST_EYE_PIXELS,
        _("{pixels:.0f} pixels between the eyes", pixels=distance),
        _at_least(LEAST_EYE_PIXELS), advice=N_("Enlarge it first (finish), or choose a larger picture."),
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
            "head_height", N_("Head height"), spec.head.holds(height, _TOLERANCE), f"{height:.1f} mm",
            _(CHIN_TO_HAIR if spec.head_to_hair else CHIN_TO_CROWN, low=spec.head.low, high=spec.head.high),
            advice=N_("The picture shows too little around the head; choose another."),
        ),
        Check(
            "eye_line", N_("Eye line"), allowed.holds(eyes, _TOLERANCE),
            _("{height:.1f} mm over the lower edge", height=eyes),
            _("{low:.1f} to {high:.1f} mm", low=allowed.low, high=allowed.high), required=spec.eyes is not None,
            advice=N_("The picture shows too little around the head; choose another."),
        ),
    ]  # fmt: skip
    if spec.top is not None:
        checks.append(
            Check(
                "top", N_("Space over the head"), spec.top.holds(top, _TOLERANCE), f"{top:.1f} mm",
                _("{low:.0f} to {high:.0f} mm", low=spec.top.low, high=spec.top.high),
                advice=N_("Choose a picture with room over the head."),
            )
        )  # fmt: skip
    checks.append(
        Check(
            "centred",
            N_("Centred"),
            off <= MOST_OFF_CENTRE,
            _("{share:.1%} off the middle", share=off),
            _at_most_words(f"{MOST_OFF_CENTRE:.0%}"),
        )
    )
    return checks


def _whole(invented: float, outside: float, replaced: bool, head_cut: bool) -> Check:
    missing = invented if replaced else outside
    passed = missing <= MOST_BEYOND and not head_cut
    cut = (
        _("the head is cut off above")
        if head_cut
        else _("{share:.1%} lies beyond the picture", share=missing)
    )
    return Check(
        "whole", N_("Head and shoulders whole"), passed, cut,
        _("the whole head, at most {share:.0%} beyond", share=MOST_BEYOND),
        advice=N_("Choose a picture with more room around the head and shoulders."),
    )  # fmt: skip


def _pose(face: Face, head: Head) -> list[Check]:
    roll = Check(
        "roll", N_("Head upright"), abs(head.lean) <= MOST_ROLL, f"{_signed(head.lean)}°",
        _("within ±{degrees:.0f}°", degrees=MOST_ROLL),
        advice=N_("Choose a picture with the head held straight."),
    )  # fmt: skip
    if face.pose is None:
        unknown = (_("cannot be measured"), "")
        return [
            Check("yaw", N_("Facing forward"), None, *unknown),
            Check("pitch", N_("Not looking up or down"), None, *unknown),
            roll,
        ]
    yaw, pitch, _roll = face.pose
    return [
        Check(
            "yaw", N_("Facing forward"), abs(yaw) <= MOST_YAW, _("turned by {degrees}°", degrees=_signed(yaw)),
            _("within ±{degrees:.0f}°", degrees=MOST_YAW),
            advice=N_("Choose a picture that looks straight at the camera."),
        ),
        Check(
            "pitch", N_("Not looking up or down"), abs(pitch) <= MOST_PITCH, f"{_signed(pitch)}°",
            _("within ±{degrees:.0f}°", degrees=MOST_PITCH),
            advice=N_("Choose a picture taken from the height of the eyes."),
        ),
        roll,
    ]  # fmt: skip


def _expression(face: Face) -> list[Check]:
    seen = face.expressions
    if not seen:
        return [
            Check(name, title, None, _("cannot be measured"), "")
            for name, title in (
                ("eyes_open", N_("Eyes open")),
                ("mouth", N_("Mouth closed")),
                ("neutral", N_("Neutral")),
            )
        ]
    openness = min(seen["eyeOpennessLeft"], seen["eyeOpennessRight"])
    blink = max(seen["eyeBlinkLeft"], seen["eyeBlinkRight"])
    smile = (seen["mouthSmileLeft"] + seen["mouthSmileRight"]) / 2
    return [
        Check(
            "eyes_open", N_("Eyes open"), openness >= LEAST_OPENNESS and blink <= MOST_BLINK,
            _("open {open:.2f}, blink {blink:.2f}", open=openness, blink=blink),
            _("at least {least}, at most {most}", least=LEAST_OPENNESS, most=MOST_BLINK),
            advice=N_("Choose a picture with both eyes open."),
        ),
        _at_most("mouth", N_("Mouth closed"), seen["jawOpen"], MOST_JAW_OPEN, N_("open {value:.2f}"),
                 N_("Choose closed lips.")),
        _at_most("neutral", N_("Neutral expression"), smile, MOST_SMILE, N_("smile {value:.2f}"),
                 N_("Choose a serious picture.")),
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
            "even_light", N_("Even light"), evenness >= LEAST_EVENNESS,
            _("{share:.2f} of the brighter side", share=evenness),
            _at_least(LEAST_EVENNESS), advice=N_("Choose a picture lit from the front."),
        ),
        Check(
            "exposure", N_("Neither too dark nor too bright"), exposed,
            _("brightest skin {level:.0f}, {share:.1%} blown out", level=measures.highlights, share=measures.blown),
            _("at least {least}, at most {most}", least=f"{DARK_HIGHLIGHTS:.0f}", most=f"{MOST_BLOWN:.0%}"),
            advice=N_("Choose a better lit picture."),
        ),
        Check(
            "eyes_visible", N_("Eyes not covered"), measures.eyes >= SUNGLASSES,
            _("brightness {level:.2f}", level=measures.eyes),
            _at_least(SUNGLASSES), advice=N_("Choose a picture without dark glasses or hair over the eyes."),
        ),
        _at_most("glare", N_("No glare over the eyes"), glare, MOST_GLARE, N_("{value:.1%} blown out"),
                 N_("Avoid the lamp.")),
    ]  # fmt: skip


def _background(pixels: np.ndarray, alpha: np.ndarray, spec: PhotoSpec) -> list[Check]:
    import cv2

    # A little away from the person, whose edge is soft.
    near = cv2.dilate((alpha > 0.02).astype(np.uint8), np.ones((3, 3)), iterations=max(2, len(alpha) // 80))
    seen = pixels[near == 0]
    luma = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)[near == 0]
    if len(luma) < 0.02 * alpha.size:
        unseen = (_("hardly any background is seen"), "")
        return [Check("background", N_("Background plain"), None, *unseen)]
    uneven, level = float(luma.std()), float(np.median(luma))
    red, green, blue = (int(value) for value in np.median(seen, axis=0))
    tint = max(red, green, blue) - min(red, green, blue)
    value = _("brightness {level:.0f}", level=level)
    if tint > spec.most_tint:
        value = _("brightness {level:.0f}, coloured by {tint}", level=level, tint=tint)
    return [
        _at_most(
            "background", N_("Background plain"), uneven, MOST_UNEVEN, N_("varies by {value:.1f} of 255"),
            N_("Let it be replaced."),
        ),
        Check(
            "background_colour", N_("Background colour"), spec.permits((red, green, blue)), value,
            _("{colour} (at least {least})", colour=_(spec.background_words), least=spec.darkest_background),
            advice=N_("Let it be replaced."),
        ),
    ]  # fmt: skip


def _at_least(least: float) -> str:
    return _("at least {least}", least=least)


def _at_most_words(most: str) -> str:
    return _("at most {most}", most=most)


def _at_most(name: str, title: str, value: float, most: float, words: str, advice: str) -> Check:
    percent = "%" in words
    limit = f"{most:.0%}" if percent else f"{most:g}"
    return Check(name, title, value <= most, _(words, value=value), _at_most_words(limit), advice=advice)


def _signed(degrees: float) -> str:
    """+4.2, -6.5 or 0.0; never -0.0."""
    return f"{degrees:+.1f}" if abs(degrees) >= 0.05 else "0.0"
