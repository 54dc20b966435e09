"""Faces: detect, landmarks, align, embed. Two variants behind one protocol; nothing is loaded at import."""

from magicapture_core.faces.align import ARCFACE_POINTS, Warps, align, align_in_photo
from magicapture_core.faces.choice import choose_analyser, embed_face
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
]
