"""From picture to portrait: super-resolution and face restoration. Nothing is loaded at import."""

from magicapture_core.postprocess.finishing import Finished, finish
from magicapture_core.postprocess.restoration import RestoredFace

__all__ = ["Finished", "RestoredFace", "finish"]
