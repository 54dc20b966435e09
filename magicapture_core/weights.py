"""All weight files except diffusion models: what they are, where they come from, and safe downloads."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicapture_core.languages import N_, _
from magicapture_core.problems import MissingFiles, Problem
from magicapture_core.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

ASSETS = Path(__file__).resolve().parent.parent / "assets"
"""Files that come with the project: face models, the mini model, sample people."""

_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte; also slow connections deliver something in this time
_ATTEMPTS = 3  # a broken download is continued; after three breaks the user is told
_SEARCH_DEPTH = 3  # deep enough for CodeFormer's weights/facelib/… and gfpgan/weights/…, never a whole disk


@dataclass(frozen=True)
class Weight:
    """One published weight file."""

    name: str
    filename: str
    """Its published file name."""
    size: int | None
    """Bytes, if known."""
    sha256: str | None
    """If published."""
    licence: str
    url: str
    purpose: str
    aliases: tuple[str, ...] = ()
    """Other file names of the same weights."""

    @property
    def readable_size(self) -> str:
        """The size as text."""
        return _("size unknown") if self.size is None else f"{self.size / 1e6:.0f} MB"


_FACEXLIB = "https://github.com/xinntao/facexlib/releases/download"
_REALESRGAN = "https://github.com/xinntao/Real-ESRGAN/releases/download"

WEIGHTS: dict[str, Weight] = {
    weight.name: weight
    for weight in (
        Weight(
            "detection_Resnet50_Final",
            "detection_Resnet50_Final.pth",
            109_497_761,
            "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d",
            "MIT (facexlib, Pytorch_Retinaface)",
            f"{_FACEXLIB}/v0.1.0/detection_Resnet50_Final.pth",
            N_("RetinaFace with ResNet-50: finds faces and their five points"),
        ),
        Weight(
            "parsing_parsenet",
            "parsing_parsenet.pth",
            85_331_193,
            "3d558d8d0e42c20224f13cf5a29c79eba2d59913419f945545d8cf7b72920de2",
            "MIT (facexlib, PSFRGAN); trained on CelebAMask-HQ, whose terms are non-commercial",
            f"{_FACEXLIB}/v0.2.2/parsing_parsenet.pth",
            N_("ParseNet: labels skin, eyes, hair and neck; face restoration pastes back with it"),
        ),
        Weight(
            "parsing_bisenet",
            "parsing_bisenet.pth",
            53_289_463,
            "468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567",
            "MIT (facexlib, face-parsing.PyTorch); trained on CelebAMask-HQ, whose terms are non-commercial",
            f"{_FACEXLIB}/v0.2.0/parsing_bisenet.pth",
            N_("BiSeNet: labels skin, eyes, hair and neck; the face mask comes from it"),
            ("79999_iter.pth",),
        ),
        Weight(
            "recognition_arcface_ir_se50",
            "recognition_arcface_ir_se50.pth",
            175_367_323,
            "a035c768259b98ab1ce0e646312f48b9e1e218197a0f80ac6765e88f8b6ddf28",
            "MIT (facexlib, InsightFace_Pytorch); trained on MS1M, which is for research only",
            f"{_FACEXLIB}/v0.1.0/recognition_arcface_ir_se50.pth",
            N_("ArcFace IR-SE50: tells people apart; the identity loss of the paper"),
            ("model_ir_se50.pth",),
        ),
        Weight(
            "RealESRGAN_x2plus",
            "RealESRGAN_x2plus.pth",
            67_061_725,
            "49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
            "BSD-3-Clause",
            f"{_REALESRGAN}/v0.2.1/RealESRGAN_x2plus.pth",
            N_("Real-ESRGAN ×2: super-resolution of the whole picture"),
        ),
        Weight(
            "RealESRGAN_x4plus",
            "RealESRGAN_x4plus.pth",
            67_040_989,
            "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
            "BSD-3-Clause",
            f"{_REALESRGAN}/v0.1.0/RealESRGAN_x4plus.pth",
            N_("Real-ESRGAN ×4: super-resolution of the whole picture"),
            ("RealESRGAN_x4plus.safetensors", "RealESRGAN_x4plus.fp16.safetensors"),
        ),
        Weight(
            "GFPGANv1.4",
            "GFPGANv1.4.pth",
            348_632_874,
            "e2cd4703ab14f4d01fd1383a8a8b266f9a5833dacee8e6a79d3bf21a1b6be5ad",
            "Apache-2.0; contains StyleGAN2 parts under Nvidia's own terms",
            "https://github.com/TencentARC/GFPGAN/releases/download/v1.3.4/GFPGANv1.4.pth",
            N_("GFPGAN 1.4: face restoration, the default"),
        ),
        Weight(
            "CodeFormer",
            "codeformer.pth",
            376_637_898,
            "1009e537e0c2a07d4cabce6355f53cb66767cd4b4297ec7a4a64ca4b8a5684b7",
            "S-Lab License 1.0: non-commercial use only",
            "https://github.com/sczhou/CodeFormer/releases/download/v0.1.0/codeformer.pth",
            N_("CodeFormer: face restoration with a fidelity setting, the paper's"),
            ("codeformer-v0.1.0.pth",),
        ),
        Weight(
            "w600k_mbf",
            "w600k_mbf.onnx",
            13_616_099,
            "9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f",
            "InsightFace's models: non-commercial research only",
            "https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_s.zip",
            N_("ArcFace MobileFaceNet: judges likeness in evaluations, and is in no loss"),
        ),
        Weight(
            "aesthetic_sac_logos_ava1_l14",
            "sac+logos+ava1-l14-linearMSE.pth",
            3_714_759,
            "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
            "Apache-2.0 (LAION, improved-aesthetic-predictor)",
            "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/"
            "sac%2Blogos%2Bava1-l14-linearMSE.pth",
            N_("LAION's aesthetic predictor over CLIP ViT-L/14, as in the paper"),
        ),
    )
}


def weight(name: str) -> Weight:
    """The entry of WEIGHTS; Problem for an unknown name."""
    if name not in WEIGHTS:
        raise Problem(_(
            "There is no weight file called {name}. Known: {known}.", name=repr(name), known=", ".join(WEIGHTS),
        ))  # fmt: skip
    return WEIGHTS[name]


def weights_dir() -> Path:
    """The folder for weight files: MAGICAPTURE_WEIGHTS, else a folder in the platform's cache. It may not exist yet."""
    chosen = os.environ.get("MAGICAPTURE_WEIGHTS", "").strip()
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("magicapture", appauthor=False) / "weights"


def find_weight(name: str) -> Path | None:
    """The file of this weight, if it is on this computer, in any published folder layout; else None.

    Searches weights_dir() and its subfolders (GFPGAN's gfpgan/weights, CodeFormer's weights/facelib, …), then the
    folders in which facexlib, GFPGAN and Real-ESRGAN store their own downloads.
    """
    entry = weight(name)
    wanted = [filename.lower() for filename in (entry.filename, *entry.aliases)]
    for folder in _search_folders():
        found = {path.name.lower(): path for path in _files(folder, _SEARCH_DEPTH)}
        for filename in wanted:
            if filename in found:
                return found[filename]
    return None


def fetch_weight(name: str, progress: Progress | None = None) -> Path:
    """The file of this weight, downloaded first if necessary.

    A broken download is continued, now or at the next call. The file is compared with the published size and sha256
    before it gets its final name. progress: called with bytes; a StoppedError that it raises ends the download, and the
    next call continues it. Raises MissingFiles if the file cannot be downloaded.
    """
    with _fetching:
        found = find_weight(name)
        if found is not None:
            return found
        return _download(weight(name), weights_dir(), progress)


def verify_weight(name: str) -> bool | None:
    """Whether the file is the published one; None if this is not known (no file, or no published sha256)."""
    path, entry = find_weight(name), weight(name)
    if path is None or entry.sha256 is None or path.name.lower() != entry.filename.lower():
        return None
    return _sha256(path) == entry.sha256


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth or .safetensors file, on the CPU. Code in a pickle file is not run.

    Unwraps the usual "params_ema", "params" and "state_dict" and strips "module.". Raises Problem for other files.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    loaded: Any
    try:
        if path.suffix == ".safetensors":
            loaded = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (
        SafetensorError,
        RuntimeError,
        pickle.UnpicklingError,
        EOFError,
        KeyError,
        ValueError,
        OSError,
    ) as error:
        raise Problem(_(
            "{path} cannot be read as a weight file ({error}). It may be a broken download: delete it and get "
            "it again.",
            path=path, error=type(error).__name__,
        )) from error  # fmt: skip
    for key in ("params_ema", "params", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise Problem(
            _("{path} holds no table of tensors, so it is not a weight file for this purpose.", path=path)
        )
    return {str(key).removeprefix("module."): value for key, value in loaded.items()}


_fetching = threading.RLock()


def _fetch_anew() -> None:
    """In a forked process, where whoever held the lock does not live on."""
    global _fetching
    _fetching = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fetch_anew)


def _search_folders() -> Iterator[Path]:
    yield weights_dir()
    for package, folder in (("facexlib", "weights"), ("gfpgan", "weights"), ("realesrgan", "../weights")):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            yield Path(next(iter(spec.submodule_search_locations))) / folder
    yield Path("gfpgan") / "weights"


def _files(folder: Path, depth: int) -> Iterator[Path]:
    """Files in `folder` and `depth` levels of subfolders. Files of higher levels come last: they replace others."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if depth > 0 and entry.is_dir() and not entry.name.startswith("."):
            yield from _files(entry, depth - 1)
    for entry in entries:
        if entry.is_file():
            yield entry


def _download(entry: Weight, folder: Path, progress: Progress | None) -> Path:
    if entry.url.endswith(".zip"):
        archive = entry.url.rpartition("/")[2]
        raise MissingFiles(
            _not_here(
                entry, folder, _("it is inside {archive}, which must be unpacked by hand", archive=archive)
            )
        )
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{entry.filename}.part"
    have = part.stat().st_size if part.exists() else 0
    if entry.size is not None and shutil.disk_usage(folder).free < entry.size - have:
        raise MissingFiles(_(
            "{file} needs {size}, but the disk of {folder} has less room. Make room, or set MAGICAPTURE_WEIGHTS "
            "to a folder on another disk.",
            file=entry.filename, size=entry.readable_size, folder=folder,
        ))  # fmt: skip
    for attempt in range(_ATTEMPTS):
        try:
            _stream(entry, part, progress)
            break
        except urllib.error.HTTPError as error:
            raise MissingFiles(
                _not_here(
                    entry,
                    folder,
                    _("the server answered {code} {reason}", code=error.code, reason=error.reason),
                )
            ) from error
        except (OSError, HTTPException) as error:
            if attempt == _ATTEMPTS - 1:
                raise MissingFiles(_not_here(entry, folder, _reason(error))) from error
    _check(entry, part)
    target = folder / entry.filename
    part.replace(target)
    return target


def _stream(entry: Weight, part: Path, progress: Progress | None) -> None:
    """Append the missing bytes of `entry` to `part`. Raises OSError when the connection breaks before the end."""
    have = part.stat().st_size if part.exists() else 0
    if entry.size is not None and have >= entry.size:
        if have > entry.size:
            part.unlink()
            have = 0
        else:
            return
    request = urllib.request.Request(entry.url, headers={"User-Agent": "magicapture"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # the partial file is not the beginning of the file on the server
            part.unlink()
            raise ConnectionError(_("the server did not accept the partial file; starting again")) from error
        raise
    with response:
        resumed = response.status == 206
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else entry.size
        with part.open("ab" if resumed else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                if progress is not None:
                    progress(_("Downloading {file}", file=entry.filename), have, total)
    if total is not None and have < total:
        raise ConnectionError(
            _("the download broke off after {have} of {total} bytes", have=f"{have:,}", total=f"{total:,}")
        )


def _check(entry: Weight, part: Path) -> None:
    """Delete `part` and raise MissingFiles unless it is the published file."""
    size, digest = part.stat().st_size, _sha256(part) if entry.sha256 else None
    if (entry.size is None or size == entry.size) and digest == entry.sha256:
        return
    part.unlink()
    sizes = entry.size is not None and size != entry.size
    expected = _("{size} bytes", size=f"{entry.size:,}") if sizes else entry.sha256
    got = _("{size} bytes", size=f"{size:,}") if sizes else digest
    raise MissingFiles(_(
        "What came from {url} is not {file}: expected {expected}, got {got}. It was deleted. Try again later; "
        "if it happens again, something on the way (a proxy?) replaces the file.",
        url=entry.url, file=entry.filename, expected=expected, got=got,
    ))  # fmt: skip


def _not_here(entry: Weight, folder: Path, why: str) -> str:
    return _(
        "{file} ({size}; {purpose}) is not here and cannot be downloaded: {why}. Get it from {url} on a machine "
        "with a connection and put it into {folder}, or set MAGICAPTURE_WEIGHTS to a folder that has it. What has "
        "arrived so far is kept and continued next time.",
        file=entry.filename,
        size=entry.readable_size,
        purpose=_(entry.purpose),
        why=why,
        url=entry.url,
        folder=folder,
    )


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason) or type(error).__name__


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
