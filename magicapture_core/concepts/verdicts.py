"""Checks of a single photo before training; `comparing` compares the photos with each other.

The thresholds were set with tools/calibrate_verdicts.py on the synthetic faces, scikit-image's astronaut and
matplotlib's Grace Hopper, and on spoiled copies of them; its output is the reason for each value given here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from magicapture_core.concepts.examples import (
    MIN_FACE_PIXELS,
    Kind,
    Role,
    is_enlarged,
    main_face,
    style_square,
    subject_square,
)
from magicapture_core.concepts.measures import Measures, face_crop, measure, picture_range, reduced
from magicapture_core.concepts.turning import needed_turns
from magicapture_core.faces import Face, FaceAnalyser, embed_face
from magicapture_core.languages import _, n_
from magicapture_core.photos import Photo

Level = Literal["accept", "warn", "refuse"]

# Pixels of face below which features blur into each other after the crop; about the recogniser's own 112.
SMALL_FACE = 96
# Crisp faces lie at .38 to .69; a blur of 2 % of the face's size, just visible at 512 pixels, gives .78 and more.
BLUR = 0.74
# Smaller faces are enlarged to be measured, which looks like blur; they are called small instead.
BLUR_MIN_FACE = 96
# Well-lit skin of any complexion reaches a luma of 110 and more somewhere; at 35 % of the light it stays below 82.
DARK_HIGHLIGHTS = 75.0
# Good photos have under 1 % of the face at the top of the range.
BLOWN_SHARE = 0.12
# Beyond 40° to a side the far eye and cheek are out of sight, and recognition falls off; up or down likewise at 30°.
EXTREME_YAW = 40.0
EXTREME_PITCH = 30.0
# A lean is undone by alignment, but teaches the model leaning heads; half way to lying is hardly ever meant.
EXTREME_ROLL = 40.0
# Lids closer than this share of the eye's width AND a blink seen in the whole face: of 1638 good photos the lids
# alone are so close in 0.1 %, and blinks reach .39 in 99.9 %; painted-shut eyes give .02 to .12, and .42 to .75.
# Both eyes must be closed: a wink is an expression.
EYES_CLOSED_OPENNESS, EYES_CLOSED_BLINK = 0.13, 0.4
# Luma of eye patches over that of cheeks: .5 and more with clear or no glasses, under .45 behind dark ones.
SUNGLASSES = 0.45
# Colour from upper to lower face: beards, make-up and shadows reach 24, masks 20 to 50. Between, masks are told by
# how little there is to see around the mouth: deviations of .02 to .06, where lips and beards give .08 and more.
COVER_COLOUR, COVER_TEXTURE, COVER_COLOUR_SURE = 14.0, 0.08, 26.0
# A face that reaches out of the photo by more than this share of its size lacks something that matters.
CUT_OFF = 0.08
# Smaller second faces are passers-by; larger ones, in a crop around the subject, teach the model two people.
SECOND_FACE = 0.4
# An all but uniform picture teaches no style.
FLAT_PICTURE = 8.0


@dataclass(frozen=True)
class Reason:
    """Why a photo got its verdict."""

    code: str
    """Short and stable: no_face, several_faces, face_small, blurred, dark, blown_out, pose, eyes_closed, covered,
    cut_off, low_resolution, near_duplicate, other_person, flat."""
    text: str
    """One sentence in plain words, with what to do, in the language that was spoken when the photo was looked at;
    `languages.again` says it in another one."""


@dataclass(frozen=True)
class Finding:
    """A reason and its level."""

    level: Level
    reason: Reason


@dataclass(frozen=True, eq=False)
class Look:
    """What was found in one photo: all that its verdict and the comparison with other photos need."""

    name: str
    findings: tuple[Finding, ...]
    face: Face | None
    """The face that is meant, where there is one."""
    hashes: tuple[np.ndarray, ...]
    """(256,) bool perceptual hashes: of the whole picture, and of the aligned face where there is one."""
    mirrored: tuple[np.ndarray, ...]
    """The same of the mirrored picture."""
    embedding: np.ndarray | None
    """(dim,) who it is; None for styles, objects and where no face is large enough."""


def look_at(
    photo: Photo,
    role: Role,
    *,
    analyser: FaceAnalyser,
    resolution: int = 512,
    kind: Kind = "person",
) -> Look:
    """Judge one photo by itself. What takes time is done here; `comparing.compare` only compares.

    A style photo may lack a face or be dark: it is judged as a picture only. An object is judged without faces.
    """
    faces = analyser.detect(photo.pixels) if kind == "person" else []
    if role == "style":
        face = faces[0] if faces else None
        findings = _judge_style(photo, faces, resolution, kind)
    elif kind == "object":
        face = None
        findings = _judge_picture(photo, min(photo.pixels.shape[:2]), resolution)
    else:
        face = main_face(faces)
        findings = _judge_subject(photo, faces, resolution)
        turns = needed_turns(photo.pixels, analyser, face) if not faces or face is not None else 0
        if turns:
            findings = [_lying(turns)]
    views = [reduced(photo.pixels)] + ([] if face is None else [face_crop(photo.pixels, face)])
    known = role == "subject" and face is not None and face.size >= MIN_FACE_PIXELS
    return Look(
        photo.name,
        tuple(findings),
        face,
        tuple(_hash(view) for view in views),
        tuple(_hash(view[:, ::-1]) for view in views),
        embed_face(analyser, photo.pixels, face) if known and face is not None else None,
    )


def _lying(turns: int) -> Finding:
    upside_down = _("The photo is upside down. Turn it upright in a photo program, and add it again.")
    on_its_side = _("The photo lies on its side. Turn it upright in a photo program, and add it again.")
    return _refuse("pose", upside_down if turns == 2 else on_its_side)


def _hash(pixels: np.ndarray) -> np.ndarray:
    import imagehash
    from PIL import Image

    bits: np.ndarray = imagehash.phash(Image.fromarray(np.ascontiguousarray(pixels)), hash_size=16).hash
    return bits.ravel()


def _judge_subject(photo: Photo, faces: Sequence[Face], resolution: int) -> list[Finding]:
    height, width = photo.pixels.shape[:2]
    if not faces:
        return [
            _refuse(
                "no_face", _("No face was found. Choose an upright photo that shows the face from the front.")
            )
        ]
    face = main_face(faces)
    if face is None:
        text = n_(
            "{n} face of similar size: it is not clear who is meant. Crop the photo to one person.",
            "{n} faces of similar size: it is not clear who is meant. Crop the photo to one person.",
            len(faces),
        )
        return [_refuse("several_faces", text)]
    if face.size < MIN_FACE_PIXELS:
        text = n_(
            "The face is far too small ({n} pixel; at least {least} are needed). Choose a photo taken from closer.",
            "The face is far too small ({n} pixels; at least {least} are needed). Choose a photo taken from closer.",
            round(face.size), least=MIN_FACE_PIXELS,
        )  # fmt: skip
        return [_refuse("face_small", text)]
    findings: list[Finding] = []
    if len(faces) > 1 and faces[1].size > SECOND_FACE * face.size:
        text = _("There is a second person near the face that is meant. Crop the photo if you can.")
        findings.append(_warn("several_faces", text))
    if face.size < SMALL_FACE:
        text = _(
            "The face is small ({size} pixels), so its details will be missing. A closer photo is better.",
            size=round(face.size),
        )
        findings.append(_warn("face_small", text))
    findings += _enlarged(subject_square(face, height, width, resolution)[2], resolution)
    return findings + _judge_face(face, measure(photo.pixels, face), height, width)


def _judge_face(face: Face, measures: Measures, height: int, width: int) -> list[Finding]:
    findings: list[Finding] = []
    if measures.blur > BLUR and face.size >= BLUR_MIN_FACE:
        findings.append(
            _warn("blurred", _("The face is blurred. Choose a photo in focus, without motion blur."))
        )
    if measures.highlights < DARK_HIGHLIGHTS:
        findings.append(_warn("dark", _("The face is too dark. Choose a photo with more light on the face.")))
    if measures.blown > BLOWN_SHARE:
        text = _("Parts of the face are blown out to white. Choose a photo with softer light.")
        findings.append(_warn("blown_out", text))
    turned = _turned(face)
    if turned is not None:
        findings.append(_warn("pose", turned))
    covered = _covered(measures)
    if covered is not None:
        findings.append(_warn("covered", covered))
    elif _eyes_closed(face):
        findings.append(_warn("eyes_closed", _("The eyes look closed. Choose a photo with open eyes.")))
    left, top, right, bottom = face.box
    beyond = max(-left, right - width, -top, bottom - height)
    if beyond > CUT_OFF * face.size:
        findings.append(
            _warn("cut_off", _("The face is cut off by the photo's edge. Choose a photo with all of it."))
        )
    return findings


def _turned(face: Face) -> str | None:
    if face.pose is None:
        return None
    yaw, pitch, roll = face.pose
    if abs(yaw) > EXTREME_YAW:
        return _(
            "The face is turned far to the side ({angle}°). Choose a photo where both eyes are well seen.",
            angle=round(abs(yaw)),
        )
    if abs(pitch) > EXTREME_PITCH:
        up = _(
            "The face looks far up ({angle}°). Choose a photo taken from the height of the eyes.",
            angle=round(pitch),
        )
        down = _(
            "The face looks far down ({angle}°). Choose a photo taken from the height of the eyes.",
            angle=round(-pitch),
        )
        return up if pitch > 0 else down
    if abs(roll) > EXTREME_ROLL:
        return _(
            "The head is tilted by {angle}°. Turn the photo upright, or choose another.",
            angle=round(abs(roll)),
        )
    return None


def _covered(measures: Measures) -> str | None:
    if measures.eyes < SUNGLASSES:
        return _("The eyes are hidden, probably by sunglasses. Choose a photo without.")
    flat = measures.lower > COVER_COLOUR and measures.mouth_texture < COVER_TEXTURE
    if flat or measures.lower > COVER_COLOUR_SURE:
        return _("Mouth and chin look covered, as by a mask or a scarf. Choose a photo of the whole face.")
    return None


def _judge_style(photo: Photo, faces: Sequence[Face], resolution: int, kind: Kind) -> list[Finding]:
    height, width = photo.pixels.shape[:2]
    findings = _judge_picture(photo, style_square(faces, height, width)[2], resolution)
    if kind == "person" and not faces:
        text = _("No face was found, so the whole picture counts as style. Portraits in the style work best.")
        findings.append(Finding("accept", Reason("no_face", text)))
    if len(faces) > 1 and faces[1].size > SECOND_FACE * faces[0].size:
        text = n_(
            "{n} face: results may show several people. Portraits of one person work best.",
            "{n} faces: results may show several people. Portraits of one person work best.",
            len(faces),
        )
        findings.append(_warn("several_faces", text))
    return findings


def _judge_picture(photo: Photo, side: int, resolution: int) -> list[Finding]:
    findings = _enlarged(side, resolution)
    if picture_range(photo.pixels) < FLAT_PICTURE:
        findings.append(
            _refuse("flat", _("The picture is all but one colour: there is nothing to learn from it."))
        )
    return findings


def _eyes_closed(face: Face) -> bool:
    seen = face.expressions
    openness = max(seen.get("eyeOpennessLeft", 1.0), seen.get("eyeOpennessRight", 1.0))
    blink = min(seen.get("eyeBlinkLeft", 0.0), seen.get("eyeBlinkRight", 0.0))
    return openness < EYES_CLOSED_OPENNESS and blink > EYES_CLOSED_BLINK


def _enlarged(side: int, resolution: int) -> list[Finding]:
    if not is_enlarged(side, resolution):
        return []
    text = _(
        "The part that is used has {side}×{side} pixels and is enlarged to {resolution}×{resolution}, so the result "
        "will be softer; a larger photo is better.",
        side=side, resolution=resolution,
    )  # fmt: skip
    return [_warn("low_resolution", text)]


def _warn(code: str, text: str) -> Finding:
    return Finding("warn", Reason(code, text))


def _refuse(code: str, text: str) -> Finding:
    return Finding("refuse", Reason(code, text))
