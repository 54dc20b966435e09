"""The two-phase training: `for report in train(...)`."""

from magicapture_core.losses import TERMS
from magicapture_core.training.loop import StepReport, train
from magicapture_core.training.previews import AttentionView, Sample

__all__ = ["TERMS", "AttentionView", "Sample", "StepReport", "train"]
