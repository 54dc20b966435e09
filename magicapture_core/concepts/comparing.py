"""Verdicts on photos: accept, warn or refuse, from each photo by itself and from the comparison of all.

The thresholds were set with tools/calibrate_verdicts.py, as those of verdicts.py were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from magicapture_core.concepts.examples import Kind, Role
from magicapture_core.concepts.verdicts import Finding, Level, Look, Reason, look_at
from magicapture_core.faces import Face, FaceAnalyser
from magicapture_core.languages import _
from magicapture_core.photos import Photo

# Bits of 256 in which perceptual hashes differ, of the whole picture or of the aligned face. Copies (scaled,
# recompressed, brightened) differ by up to 20, cropped ones by that in the face; different photos of one person by
# 44 and more, and in the face by 32 and more.
NEAR_DUPLICATE_BITS = 24
# Cosine of SFace embeddings, mean over the other photos of the group. Photos of one man .73 to .80, of one synthetic
# person .60 to .80; different real people .13 and at most .33, synthetic ones .27 (they are drawn near an average
# face; one in ten passes). SFace's makers decide single pairs at .363. ArcFace IR-SE50 separates at about the same.
SAME_PERSON = 0.4
# What would be learned as if it were the person: somebody else, several people, the same photo twice as much.
LEFT_OUT = ("other_person", "several_faces", "near_duplicate")


@dataclass(frozen=True)
class Verdict:
    """The verdict on one photo. "accept" can have reasons, too: facts that the user should know."""

    name: str
    level: Level
    """refuse: cannot be used; warn: can, but the result suffers."""
    reasons: tuple[Reason, ...]
    face: Face | None
    """The face that is meant, where there is one."""

    @property
    def left_out(self) -> bool:
        """Whether a photo that could be used is not, unless somebody who looked at it says so."""
        return self.level != "refuse" and any(reason.code in LEFT_OUT for reason in self.reasons)


def judge_photos(
    photos: Sequence[Photo],
    role: Role,
    *,
    analyser: FaceAnalyser,
    resolution: int = 512,
    kind: Kind = "person",
) -> list[Verdict]:
    """A verdict per photo, in order. `resolution`: side of the training squares in pixels."""
    return compare(
        [look_at(photo, role, analyser=analyser, resolution=resolution, kind=kind) for photo in photos]
    )


def compare(looks: Sequence[Look]) -> list[Verdict]:
    """A verdict per photo, in order, from what each shows by itself and how they go together."""
    found = [list(look.findings) for look in looks]
    _add(found, _strangers(looks))
    _add(found, _duplicates(looks, [_worth_keeping(findings) for findings in found]))
    return [
        Verdict(look.name, _worst(findings), tuple(f.reason for f in findings), look.face)
        for look, findings in zip(looks, found, strict=True)
    ]


def _worth_keeping(findings: Sequence[Finding]) -> bool:
    """Whether a photo is learned from, so that a copy of it has nothing to add."""
    return not any(f.level == "refuse" or f.reason.code in LEFT_OUT for f in findings)


def _duplicates(looks: Sequence[Look], worth: Sequence[bool]) -> list[Finding | None]:
    """Every photo that is all but a copy of an EARLIER one that is learned from.

    Mirrored copies count, as training mirrors, too. A crop of a photo that is left out replaces it.
    """
    findings: list[Finding | None] = []
    for i, look in enumerate(looks):
        twin = next(
            (j for j in range(i) if worth[j] and findings[j] is None and _alike(look, looks[j])), None
        )
        if twin is None:
            findings.append(None)
            continue
        text = _("Almost the same photo as {name}. Different photos teach more.", name=looks[twin].name)
        findings.append(_warn("near_duplicate", text))
    return findings


def _alike(look: Look, other: Look) -> bool:
    return any(
        int((a != b).sum()) <= NEAR_DUPLICATE_BITS
        for side in (look.hashes, look.mirrored)
        for a, b in zip(side, other.hashes, strict=False)
    )


def _strangers(looks: Sequence[Look]) -> list[Finding | None]:
    """Photos whose face is not that of the largest group that agrees on one person."""
    known = [i for i, look in enumerate(looks) if look.embedding is not None]
    findings: list[Finding | None] = [None] * len(looks)
    if len(known) < 2:
        return findings
    embeddings = np.stack([look.embedding for look in looks if look.embedding is not None])
    likeness = embeddings @ embeddings.T
    group = _largest_group(likeness)
    if len(group) < 2:
        text = _("The photos seem to show different people. Use photos of one person only.")
        for i in known:
            findings[i] = _warn("other_person", text)
        return findings
    for row, i in enumerate(known):
        others = [j for j in group if j != row]
        if float(likeness[row, others].mean()) < SAME_PERSON:
            text = _(
                "This seems to be a different person from the other photos (or looks very unlike them). Use photos of "
                "one person only."
            )
            findings[i] = _warn("other_person", text)
    return findings


def _largest_group(likeness: np.ndarray) -> list[int]:
    """Rows of the largest set in which everyone is connected to everyone by likeness; the first one on a tie."""
    best: list[int] = []
    unseen = set(range(len(likeness)))
    while unseen:
        group, frontier = [], [min(unseen)]
        while frontier:
            row = frontier.pop()
            if row in unseen:
                unseen.discard(row)
                group.append(row)
                frontier += [int(j) for j in np.flatnonzero(likeness[row] >= SAME_PERSON) if int(j) in unseen]
        if len(group) > len(best):
            best = sorted(group)
    return best


def _add(found: list[list[Finding]], more: Sequence[Finding | None]) -> None:
    for findings, finding in zip(found, more, strict=True):
        if finding is not None:
            findings.append(finding)


def _worst(findings: Sequence[Finding]) -> Level:
    order: tuple[Level, ...] = ("refuse", "warn")
    return next((level for level in order if any(f.level == level for f in findings)), "accept")


def _warn(code: str, text: str) -> Finding:
    return Finding("warn", Reason(code, text))
