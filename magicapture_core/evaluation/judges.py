"""The networks that score pictures: a face network that the loss did not use; image encoders for Style and Aesthetic.

Nothing is loaded at import, and nothing is downloaded. Where a weight file is missing, the next best network is used,
and the notes say so.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from magicapture_core.evaluation.tasks import EncoderName
from magicapture_core.faces import Face, align, choose_analyser
from magicapture_core.models import best_device
from magicapture_core.problems import MissingFiles, Problem
from magicapture_core.weights import find_weight, read_state, weight, weights_dir

ARCFACE = "w600k_mbf"
AESTHETIC = "aesthetic_sac_logos_ava1_l14"
CLIP_ID = "openai/clip-vit-large-patch14"
CLIP_FOLDER = "clip-vit-large-patch14"
SMALLEST = 256
"""Shorter side in pixels to which smaller pictures are enlarged before face detection: detectors need larger ones."""


# --- faces ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Seen:
    """One picture with its largest face."""

    pixels: np.ndarray
    """(h, w, 3) uint8 RGB, at least 256 pixels."""
    face: Face | None
    vector: np.ndarray | None
    """(dim,) face embedding of unit length; None without a face."""
    keep: np.ndarray
    """(h, w) bool: True outside all faces."""
    faces: int
    """How many faces the picture shows."""


class FaceJudge:
    """Finds faces with the bundled detector and compares persons with another network."""

    def __init__(self, name: str, note: str, embed: Any) -> None:
        self.name = name
        """Name of the network, for tables."""
        self.note = note
        """One sentence: which network, and whether it is the loss's own."""
        self._embed = embed
        """(1, 3, 112, 112) RGB in [0, 1] → (dim,) numpy."""
        self._analyser = choose_analyser("bundled")[0]

    def look(self, pixels: np.ndarray) -> Seen:
        """Find the faces in a picture ((h, w, 3) uint8 RGB) and compute the embedding of the largest one."""
        pixels = enlarged(pixels)
        faces = self._analyser.detect(pixels)
        keep = np.ones(pixels.shape[:2], bool)
        for face in faces:
            keep &= self._analyser.face_mask(pixels, face) < 0.5
        if not faces:
            return Seen(pixels, None, None, keep, 0)
        image = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255
        crop = align(image, torch.from_numpy(faces[0].landmarks)[None])
        vector = np.asarray(self._embed(crop), np.float32).ravel()
        return Seen(pixels, faces[0], vector / np.linalg.norm(vector), keep, len(faces))


def choose_face_judge(loss_network: str) -> FaceJudge:
    """The network that scores likeness; if possible not the network of the loss.

    loss_network: name of the network in Eq. 7, as in config.json ("likeness"). The first choice is ArcFace w600k_mbf,
    whose file must be in MAGICAPTURE_WEIGHTS; the second is the one of facexlib's ArcFace and SFace that the loss did
    not use. The loss's own network is used only where no other one is present; the note then says so.
    """
    path, runtime = find_weight(ARCFACE), importlib.util.find_spec("onnxruntime")
    if path is not None and runtime is not None:
        return arcface_judge(path)
    lacking = (
        "onnxruntime is not installed" if path is not None else f"{weight(ARCFACE).filename} is not here"
    )
    for variant in _other_variants():
        embedder = choose_analyser(variant)[0].embedder()
        if embedder.name != loss_network:
            note = f"not the loss's network ({loss_network}); ArcFace w600k_mbf is preferred, but {lacking}."
            return FaceJudge(embedder.name, note, _torch_embedding(embedder))
    embedder = choose_analyser("bundled")[0].embedder()
    note = (
        f"THE LOSS'S OWN NETWORK: {lacking}. Methods with the identity loss were trained to please this judge, "
        "so that their CSIM cannot be compared with the others'. " + how_to_get(ARCFACE)
    )
    return FaceJudge(f"{embedder.name} (the loss's own)", note, _torch_embedding(embedder))


def arcface_judge(path: Path) -> FaceJudge:
    """ArcFace w600k_mbf from its .onnx file."""
    return FaceJudge("ArcFace w600k_mbf", f"{path.name}, which no loss uses.", _onnx_arcface(str(path)))


def how_to_get(name: str) -> str:
    """A sentence that says where to get a file and where to put it."""
    entry = weight(name)
    return f"Get {entry.filename} ({entry.url}; {entry.licence}) and put it into {weights_dir()}."


def _other_variants() -> list[Literal["facexlib", "bundled"]]:
    auto = choose_analyser("auto")[0].name
    return ["facexlib", "bundled"] if auto == "facexlib" else ["bundled"]


def _torch_embedding(embedder: Any) -> Any:
    @torch.no_grad()
    def embed(crop: Tensor) -> np.ndarray:
        vector: np.ndarray = embedder(crop)[0].numpy()
        return vector

    return embed


def _onnx_arcface(path: str) -> Any:
    """Its input, as for all ArcFace networks: RGB 112×112, (x - 127.5) / 127.5."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
    except Exception as error:  # onnxruntime's errors share no class of their own
        raise Problem(f"{path} cannot be opened ({type(error).__name__}). Get the file again.") from error

    def embed(crop: Tensor) -> np.ndarray:
        vector: np.ndarray = session.run(None, {name: (crop * 2 - 1).numpy()})[0][0]
        return vector

    return embed


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """The picture ((h, w, 3) uint8), enlarged if its shorter side is below 256 pixels."""
    import cv2

    scale = SMALLEST / min(pixels.shape[:2])
    if scale <= 1:
        return pixels
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC))


# --- pictures as a whole --------------------------------------------------------------------------


class ImageEncoder(Protocol):
    """Computes vectors of pictures; the cosine of two vectors is the similarity of style."""

    name: str
    note: str

    def embed(self, pixels: np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
        """(h, w, 3) uint8 RGB and (h, w) bool, True where the picture counts (None: everywhere) → (dim,)."""
        ...


def choose_image_encoder(name: EncoderName = "auto") -> ImageEncoder:
    """CLIP ViT-L/14, as in the paper, where its files are present; else the statistics, which come with the project."""
    if name == "statistics":
        return style_statistics()
    folder = find_clip()
    if folder is not None:
        return clip_encoder(str(folder))
    if name == "clip":
        raise MissingFiles(
            f"CLIP ViT-L/14 is not here: expected the folder {weights_dir() / CLIP_FOLDER} (config.json, "
            f"model.safetensors, tokenizer files; 1.7 GB) or {CLIP_ID} in the Hugging Face cache. Copy it there, or "
            "use the statistics encoder."
        )
    return style_statistics()


def find_clip() -> Path | None:
    """The folder of CLIP ViT-L/14, if it is in the weights folder or in the hub's cache; else None."""
    folder = weights_dir() / CLIP_FOLDER
    if (folder / "config.json").is_file():
        return folder
    import huggingface_hub

    # A lookup of one file in the cache stays offline; a snapshot would connect to the hub.
    found = huggingface_hub.try_to_load_from_cache(CLIP_ID, "config.json")
    return Path(found).parent if isinstance(found, str) else None


@lru_cache(maxsize=1)
def clip_encoder(folder: str) -> ClipEncoder:
    """Loaded once per process."""
    return ClipEncoder(Path(folder))


@lru_cache(maxsize=1)
def style_statistics() -> ImageEncoder:
    """Loaded once per process."""
    from magicapture_core.evaluation.statistics import StyleStatistics

    return StyleStatistics()


class ClipEncoder:
    """CLIP's image encoder and text encoder, with the projections to their common space."""

    name = "CLIP ViT-L/14"
    note = f"image embeddings of {CLIP_ID}; a masked face is filled with CLIP's mean colour."
    MEAN = (0.48145466, 0.4578275, 0.40821073)
    SPREAD = (0.26862954, 0.26130258, 0.27577711)

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer, CLIPVisionModelWithProjection

        options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
        try:
            self.vision = CLIPVisionModelWithProjection.from_pretrained(folder, **options).eval()
            self.text = CLIPTextModelWithProjection.from_pretrained(folder, **options).eval()
            self.tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise Problem(
                f"CLIP in {folder} cannot be read ({error}). Expected config.json, model.safetensors and the "
                "tokenizer's files of the published model. Copy them again."
            ) from error
        self.side: int = self.vision.config.image_size
        self.device = best_device()
        self.vision.to(self.device)
        self.text.to(self.device)

    @torch.no_grad()
    def embed(self, pixels: np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
        """See ImageEncoder."""
        if keep is not None:  # before the picture is made smaller, or the edge of the face would remain
            pixels = np.where(keep[..., None], pixels, np.round(255 * np.array(self.MEAN)).astype(np.uint8))
        image = torch.from_numpy(self._square(pixels)).permute(2, 0, 1).float() / 255
        image = (image - torch.tensor(self.MEAN).view(3, 1, 1)) / torch.tensor(self.SPREAD).view(3, 1, 1)
        vector: np.ndarray = self.vision(image[None].to(self.device)).image_embeds[0].cpu().numpy()
        return vector

    @torch.no_grad()
    def embed_text(self, text: str) -> np.ndarray:
        """(dim,) vector of a description, to be compared with vectors of pictures without a mask."""
        tokens = self.tokenizer([text], truncation=True, return_tensors="pt").to(self.device)
        vector: np.ndarray = self.text(**tokens).text_embeds[0].cpu().numpy()
        return vector

    def _square(self, pixels: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 → (side, side, 3): shorter side scaled to `side`, centre cropped, as in CLIP's training."""
        from PIL import Image

        image = Image.fromarray(pixels).convert("RGB")
        scale = self.side / min(image.size)
        image = image.resize(
            (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
        )
        left, top = (image.width - self.side) // 2, (image.height - self.side) // 2
        return np.array(image.crop((left, top, left + self.side, top + self.side)))


class Aesthetic:
    """LAION's predictor, sac+logos+ava1-l14-linearMSE: about 1 (bad) to 10 (good), from a CLIP ViT-L/14 embedding."""

    WIDTHS = (768, 1024, 128, 64, 16, 1)
    PLACES = (0, 2, 4, 6, 7)  # the other layers are dropout

    def __init__(self, path: Path, clip: ClipEncoder) -> None:
        self.clip = clip
        state = read_state(path)
        self.layers = nn.Sequential(
            *(nn.Linear(*widths) for widths in zip(self.WIDTHS[:-1], self.WIDTHS[1:], strict=True))
        )
        renamed = {
            f"{number}.{part}": state.get(f"layers.{place}.{part}")
            for number, place in enumerate(self.PLACES)
            for part in ("weight", "bias")
        }
        try:
            self.layers.load_state_dict(renamed)
        except (RuntimeError, AttributeError) as error:
            raise Problem(
                f"{path} is not the aesthetic predictor: expected layers of {self.WIDTHS} numbers called layers.0 … "
                f"layers.7. {how_to_get(AESTHETIC)}"
            ) from error

    @torch.no_grad()
    def score(self, pixels: np.ndarray) -> float:
        """(h, w, 3) uint8 RGB → about 1 to 10."""
        vector = torch.from_numpy(self.clip.embed(pixels))
        return float(self.layers(torch.nn.functional.normalize(vector, dim=0)))


def choose_aesthetic(encoder: ImageEncoder) -> Aesthetic | None:
    """The predictor, where its file is present and CLIP ViT-L/14 is used; else None: nothing replaces it."""
    path = find_weight(AESTHETIC)
    if path is None or not isinstance(encoder, ClipEncoder):
        return None
    return Aesthetic(path, encoder)


@dataclass(frozen=True, eq=False)
class Judges:
    """All networks that score pictures, chosen once."""

    faces: FaceJudge
    images: ImageEncoder
    aesthetic: Aesthetic | None

    @classmethod
    def chosen(cls, loss_network: str, encoder: EncoderName = "auto") -> Judges:
        """See `choose_face_judge`, `choose_image_encoder` and `choose_aesthetic`."""
        images = choose_image_encoder(encoder)
        return cls(choose_face_judge(loss_network), images, choose_aesthetic(images))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the networks. Scores of different networks must not be in one table."""
        return (self.faces.name, self.images.name, *((AESTHETIC,) if self.aesthetic is not None else ()))

    @property
    def as_in_the_paper(self) -> bool:
        """Whether the scores can be compared with the paper's: faces scored by an ArcFace, style by CLIP ViT-L/14."""
        faces = "ArcFace" in self.faces.name and "own" not in self.faces.name
        return faces and isinstance(self.images, ClipEncoder)

    def notes(self) -> dict[str, str]:
        """Column → which network scores it and how, for the notes below every table."""
        aesthetic = "not measured: " + " and ".join(
            what
            for what, here in (
                (f"{weight(AESTHETIC).filename} is not here", find_weight(AESTHETIC) is not None),
                ("CLIP ViT-L/14 is not used", isinstance(self.images, ClipEncoder)),
            )
            if not here
        )
        if self.aesthetic is not None:
            entry = weight(AESTHETIC)
            aesthetic = f"{entry.filename} (sha256 {entry.sha256}) on CLIP ViT-L/14."
        return {
            "CSIM": f"{self.faces.name}: {self.faces.note}",
            "Style": f"{self.images.name}: {self.images.note}",
            "Aesthetic": aesthetic,
        }
