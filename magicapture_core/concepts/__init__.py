"""Training examples from photos, and verdicts on photos."""

from magicapture_core.concepts.comparing import Verdict, compare, judge_photos
from magicapture_core.concepts.doubts import doubt
from magicapture_core.concepts.examples import Concept, Example, Kind, Role, prepare_concept
from magicapture_core.concepts.verdicts import Level, Look, Reason, look_at

__all__ = [
    "Concept",
    "Example",
    "Kind",
    "Level",
    "Look",
    "Reason",
    "Role",
    "Verdict",
    "compare",
    "doubt",
    "judge_photos",
    "look_at",
    "prepare_concept",
]
