"""From photos to what training eats, and what to tell people about their photos."""

from magicapture_core.concepts.examples import Concept, Example, Kind, Role, prepare_concept
from magicapture_core.concepts.verdicts import Level, Reason, Verdict, judge_photos

__all__ = [
    "Concept",
    "Example",
    "Kind",
    "Level",
    "Reason",
    "Role",
    "Verdict",
    "judge_photos",
    "prepare_concept",
]
