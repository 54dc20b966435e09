from __future__ import annotations
from dataclasses import dataclass
from typing import Literal
from magicapture_core.faces import Face
Level = Literal["accept", "warn", "refuse"]
@dataclass(frozen=True)
class Reason:
    code: str
    text: str
@dataclass(frozen=True)
class Verdict:
    name: str
    level: Level
    reasons: tuple[Reason, ...]
    face: Face | None
def judge_photos(photos, role, *, analyser, resolution=512, kind="person"):
    raise NotImplementedError
