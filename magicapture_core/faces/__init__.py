"""Face detection, landmarks, alignment and embedding: two variants behind one protocol. Nothing is loaded at import."""

from magicapture_core.faces.align import ARCFACE_POINTS, Warps, align, align_in_photo
from magicapture_core.faces.choice import choose_analyser, embed_face, recognisability
from magicapture_core.faces.protocol import Face, FaceAnalyser, FaceEmbedder

__all__ = [
    "ARCFACE_POINTS",
    "Face",
    "FaceAnalyser",
    "FaceEmbedder",
    "Warps",
    "align",
    "align_in_photo",
    "choose_analyser",
    "embed_face",
    "recognisability",
]
