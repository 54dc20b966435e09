"""All weight files except diffusion models: where they are on this computer, and how to get and to read them."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicapture_core.languages import _
from magicapture_core.problems import Problem
from magicapture_core.progress import Progress
from magicapture_core.weights.downloads import download, sha256_of
from magicapture_core.weights.published import WEIGHTS, Weight, weight

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ASSETS", "WEIGHTS", "Weight", "fetch_weight", "find_weight", "read_state", "verify_weight", "weight",
    "weights_dir",
]  # fmt: skip

ASSETS = Path(__file__).resolve().parents[2] / "assets"
"""Files that come with the project: face models, the mini model, sample people."""

_SEARCH_DEPTH = 3  # deep enough for CodeFormer's weights/facelib/… and gfpgan/weights/…, never a whole disk


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
        return download(weight(name), weights_dir(), progress)


def verify_weight(name: str) -> bool | None:
    """Whether the file is the published one; None if this is not known (no file, or no published sha256)."""
    path, entry = find_weight(name), weight(name)
    if path is None or entry.sha256 is None or path.name.lower() != entry.filename.lower():
        return None
    return sha256_of(path) == entry.sha256


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
