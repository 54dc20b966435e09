"""Reading photo files: all usual formats, orientations and colour spaces, with a clear error for everything else."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from magicapture_core.languages import N_, _
from magicapture_core.photos.decoding import (
    HEIGHT,
    WIDTH,
    decode,
    essential,
    float_tiff,
    has_floats,
    is_raw,
    seek_largest,
    tiff_directory,
)
from magicapture_core.problems import PhotoProblem

PHOTO_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".pjpeg",
    ".mpo",
    ".png",
    ".apng",
    ".webp",
    ".heic",
    ".heif",
    ".hif",
    ".avif",
    ".tif",
    ".tiff",
    ".bmp",
    ".dib",
    ".gif",
)
"""File names that `list_photos` takes for photos."""

# Cameras reach 102 megapixels and phones 108; what claims more is a panorama, a scan or a decompression bomb, and
# 120 megapixels of RGB are already 360 MB of memory.
MAX_MEGAPIXELS = 120
# Larger photos are scaled down when read. Training crops are 512 pixels: a face is large enough in 4096.
MAX_SIDE = 4096
# The largest photo file that is read at all; 120 megapixels of 16-bit RGB without compression are 720 MB.
MAX_FILE_BYTES = 800_000_000

_OF_THE_SYSTEM = ("Thumbs.db", "desktop.ini")
_EXPECTED = N_("a photo as JPEG, PNG, WebP, HEIC, AVIF, TIFF, BMP or GIF")
_FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF", "BMP", "GIF")

# What else arrives under a photo's name, by its first bytes.
_NOT_PHOTOS: tuple[tuple[bytes, str], ...] = (
    (rb"%PDF", N_("a PDF document")),
    (rb"PK\x03\x04", N_("a ZIP archive or office document")),
    (rb"\x1f\x8b|Rar!|7z\xbc\xaf", N_("an archive")),
    (rb"8BPS", N_("a Photoshop document")),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", N_("a JPEG XL file")),
    (rb"\x00\x00\x01\x00", N_("an icon")),
    (rb"....ftyp(isom|iso\d|mp4|M4V|qt  |3gp|avc1|dash)", N_("a video")),
    (rb"\x1aE\xdf\xa3|RIFF....AVI ", N_("a video")),
    (rb"II(RO|\x1a\x00\x00\x00HEAP|U\x00)|FUJIFILM|....ftypcrx ", N_("a camera's raw file")),
    (rb"\s*(<\?xml[^>]*>\s*|<!--.*?-->\s*|<!DOCTYPE svg[^>]*>\s*)*<svg", N_("an SVG drawing")),
    (rb"(?i)\s*<(!doctype html|html|head|body)", N_("a web page")),
    (rb"\s*[\[{]", N_("a text file")),
)


@dataclass(frozen=True, eq=False)
class Photo:
    """One photo, ready to be looked at."""

    name: str
    """Its file name, as the user knows it."""
    pixels: np.ndarray
    """(h, w, 3) uint8 RGB, upright, the longest side at most MAX_SIDE unless asked otherwise."""


def read_photo(
    source: Path | str | bytes,
    name: str | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
    *,
    max_side: int | None = MAX_SIDE,
) -> Photo:
    """Read one photo from a file or from a file's bytes.

    Upright by its EXIF; colours brought to sRGB by its profile; transparency over white; grey, CMYK and 16 bit
    become 8-bit RGB; of an animation the first frame. Photos beyond max_side are scaled down; None: none is.
    PhotoProblem, naming the photo, for everything that is not a photo, is damaged, or is larger than max_megapixels
    (at most MAX_MEGAPIXELS).
    """
    data, name = _bytes_of(source, name)
    most = min(max_megapixels, MAX_MEGAPIXELS)
    if not data:
        raise PhotoProblem(
            _(
                "{name} is empty (0 bytes): expected {expected}. Copy or export the photo again.",
                name=name,
                expected=_(_EXPECTED),
            )
        )
    _register_heif()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of large photos and odd EXIF; both are dealt with here
        try:
            pixels = _pixels(data, name, most, max_side)
        except UnidentifiedImageError as error:
            raise PhotoProblem(_not_a_photo(data, name)) from error
        except Image.DecompressionBombError as error:
            raise PhotoProblem(_too_large(name, most, _("far more"))) from error
        except PhotoProblem:
            raise
        except MemoryError as error:
            raise PhotoProblem(
                _("{name} does not fit into memory. Scale it down and try again.", name=name)
            ) from error
        except Exception as error:
            raise PhotoProblem(
                _(
                    "{name} is damaged or incomplete ({reason}): expected {expected}. Copy it again from where it "
                    "came, or open it in a photo program and save it anew.",
                    name=name,
                    reason=str(error) or type(error).__name__,
                    expected=_(_EXPECTED),
                )
            ) from error
    return Photo(name, pixels)


def list_photos(folder: Path | str) -> list[Path]:
    """The photo files directly in `folder`, in natural order ("2.jpg" before "10.jpg").

    PhotoProblem if there is no such folder or no photo in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PhotoProblem(
            _("{folder} is a file: expected a folder with photos.", folder=folder)
            if folder.is_file()
            else _("{folder} does not exist: expected a folder with photos.", folder=folder)
        )
    files = [path for path in folder.iterdir() if _named_as_photo(path) and path.is_file()]
    if not files:
        raise PhotoProblem(
            _(
                "{folder} holds no photos: expected files that end in {endings}.",
                folder=folder,
                endings=", ".join(PHOTO_SUFFIXES),
            )
        )
    return sorted(files, key=_counting_order)


def other_files(folder: Path) -> list[Path]:
    """The files directly in `folder` that `list_photos` does not take, without hidden files."""
    others = [
        path
        for path in folder.iterdir()
        if path.is_file() and not _named_as_photo(path) and not path.name.startswith(".")
    ]
    return sorted((path for path in others if path.name not in _OF_THE_SYSTEM), key=_counting_order)


def _named_as_photo(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".")


def _counting_order(path: Path) -> tuple[Any, ...]:
    parts = re.split(r"(\d+)", path.name.lower())
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts), path.name


def _bytes_of(source: Path | str | bytes, name: str | None) -> tuple[bytes, str]:
    if isinstance(source, bytes):
        return source, name or _("The photo")
    path = Path(source)
    name = name or path.name
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise PhotoProblem(
                _(
                    "{name} is a file of {size} MB: expected at most {most} MB. Export it as JPEG and try again.",
                    name=name,
                    size=f"{path.stat().st_size / 1e6:.0f}",
                    most=f"{MAX_FILE_BYTES / 1e6:.0f}",
                )
            )
        return path.read_bytes(), name
    except FileNotFoundError as error:
        raise PhotoProblem(
            _("{path} does not exist: expected {expected}.", path=path, expected=_(_EXPECTED))
        ) from error
    except IsADirectoryError as error:
        raise PhotoProblem(
            _("{path} is a folder: expected {expected}.", path=path, expected=_(_EXPECTED))
        ) from error
    except OSError as error:
        raise PhotoProblem(
            _(
                "{path} cannot be read ({reason}). Check its permissions.",
                path=path,
                reason=error.strerror or error,
            )
        ) from error


@cache
def _register_heif() -> None:
    """HEIC, through pillow-heif; Pillow alone reads AVIF but not iPhones' HEIC."""
    import pillow_heif

    pillow_heif.register_heif_opener()


def _check_size(width: int, height: int, name: str, most: float) -> None:
    megapixels = width * height / 1e6
    if megapixels > most:
        got = _(
            "{width}×{height} pixels, {megapixels} megapixels",
            width=width, height=height, megapixels=f"{megapixels:.0f}",
        )  # fmt: skip
        raise PhotoProblem(_too_large(name, most, got))


def _too_large(name: str, most: float, got: str) -> str:
    return _(
        "{name} is too large: expected at most {most} megapixels, got {got}. Scale it down and try again; 2000 pixels "
        "a side are plenty.",
        name=name, most=f"{most:g}", got=got,
    )  # fmt: skip


def _not_a_photo(data: bytes, name: str) -> str:
    kind = next((_(kind) for magic, kind in _NOT_PHOTOS if re.match(magic, data[:2048], re.DOTALL)), None)
    if kind is None and tiff_directory(data) is not None:
        kind = _("a TIFF of a kind that is not known here")
    if kind is None:
        known = re.match(
            rb"\xff\xd8\xff|\x89PNG|GIF8|BM|II\*\x00|MM\x00\*|RIFF....WEBP|....ftyp", data, re.DOTALL
        )
        if known:
            return _(
                "{name} is damaged: it begins like a photo but cannot be read further. Expected {expected}. Copy it "
                "again from where it came.",
                name=name, expected=_(_EXPECTED),
            )  # fmt: skip
        kind = _("a text file") if _is_text(data[:512]) else _("a file of an unknown kind")
    return _no_photo(name, kind)


def _no_photo(name: str, kind: str) -> str:
    return _(
        "{name} is not a photo: expected {expected}, got {kind}. Export or save it as JPEG and try again.",
        name=name, expected=_(_EXPECTED), kind=kind,
    )  # fmt: skip


def _is_text(start: bytes) -> bool:
    controls = any(byte < 32 and byte not in b"\t\r\n\f" for byte in start)
    cut_off = 3  # bytes of a character that the end of `start` may have split
    return not controls and len(start) - len(start.decode(errors="ignore").encode()) <= cut_off


def _pixels(data: bytes, name: str, most: float, side: int | None) -> np.ndarray:
    """(h, w, 3) uint8 RGB. Raises what Pillow raises, and PhotoProblem."""
    directory = tiff_directory(data)
    if directory is not None and is_raw(directory):
        raise PhotoProblem(
            _no_photo(name, _("a camera's raw file, of which only a small preview could be read"))
        )
    try:
        if directory is not None and has_floats(directory):
            _check_size(directory[WIDTH], directory[HEIGHT], name, most)
            return decode(float_tiff(data, directory), data, side)
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            seek_largest(image)
            _check_size(image.width, image.height, name, most)
            return decode(image, data, side)
    except (PhotoProblem, MemoryError, Image.DecompressionBombError):
        raise
    except Exception:
        whole = essential(data)
        if whole == data:
            raise
        return _pixels(whole, name, most, side)
