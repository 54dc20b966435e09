"""Decoding of photo files to 8-bit RGB: every mode and bit depth that Pillow opens, and floats in colour."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin

from magicapture_core.languages import _
from magicapture_core.photos.colours import CodePoints, code_points, to_srgb

# A third of Lanczos' time. What is learned from is scaled once more, by far more, where no difference is left.
_SCALING = Image.Resampling.HAMMING
# Up to this factor OpenCV's bilinear filter is as near to Lanczos' result (within 0.6 dB on photographs), in a third of
# the time.
_BILINEAR = 1.6
_WHITE = (255, 255, 255)
_PNG = b"\x89PNG\r\n\x1a\n"
# What a PNG's grey values of few bits are multiplied by to become 8 bits.
_GREY_STEPS = {"1": 255, "L;2": 85, "L;4": 17}
# Tags of TIFF.
_PAGE_KIND, WIDTH, HEIGHT, _BITS, _ORIENTATION, _SAMPLES = 254, 256, 257, 258, 274, 277
_SUB_PAGES, _SAMPLE_FORMAT, _DNG_VERSION = 330, 339, 50706
_MOST_PAGES = 50


def essential(data: bytes) -> bytes:
    """A PNG without its text chunks and damaged ancillary chunks, which no pixel needs; other files unchanged."""
    if not data.startswith(_PNG):
        return data
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind, whole = data[at + 4 : at + 8], data[at : at + 12 + length]
        needed = kind[:1].isupper()  # of the format's own chunks; the others are optional
        intact = zlib.crc32(whole[4:-4]) == int.from_bytes(whole[-4:], "big")
        if needed or (intact and kind not in (b"tEXt", b"zTXt", b"iTXt")):
            kept.append(whole)
        at += len(whole)
    return b"".join(kept)


def tiff_directory(data: bytes) -> TiffImagePlugin.ImageFileDirectory_v2 | None:
    """Tags of a TIFF's first page; None for other files and for damaged ones."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return None
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(directory.next)
        directory.load(file)
        return directory if WIDTH in directory and HEIGHT in directory else None
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return None


def is_raw(directory: TiffImagePlugin.ImageFileDirectory_v2) -> bool:
    """Whether it is a camera's raw file: DNG, or (NEF, ARW) a reduced first page, the photo in a sub-page."""
    return _DNG_VERSION in directory or (_SUB_PAGES in directory and bool(directory.get(_PAGE_KIND, 0) & 1))


def has_floats(directory: TiffImagePlugin.ImageFileDirectory_v2) -> bool:
    """Whether the pixels are floats in colour or of 64 bits, which Pillow does not read."""
    floats = set(directory.get(_SAMPLE_FORMAT, (1,))) == {3}
    return floats and (directory.get(_SAMPLES, 1) > 1 or directory.get(_BITS, (0,))[0] > 32)


def float_tiff(data: bytes, directory: TiffImagePlugin.ImageFileDirectory_v2) -> Image.Image:
    import cv2

    values: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.shape[2:] not in ((), (3,)):
        raise OSError(_("floats of an unusual kind"))
    values = np.repeat(values[..., None], 3, axis=2) if values.ndim == 2 else values[..., ::-1]
    image = Image.fromarray(_eight_bits(values, (1.0, 255.0, 65535.0)))
    image.getexif()[_ORIENTATION] = directory.get(_ORIENTATION, 1)
    return image


def seek_largest(image: Image.Image) -> None:
    """Go to the largest page of a TIFF; the first one may be a preview."""
    if image.format != "TIFF":
        return
    sizes = []
    for page in range(min(getattr(image, "n_frames", 1), _MOST_PAGES)):
        image.seek(page)
        sizes.append(image.width * image.height)
    image.seek(sizes.index(max(sizes)))


def decode(image: Image.Image, data: bytes, side: int | None) -> np.ndarray:
    """(h, w, 3) uint8 sRGB of an opened picture, upright. side: the longest side at most; None: not scaled."""
    _set_transparency(image)
    if side is not None:  # JPEG decoders can scale by 2, 4 and 8 while reading, at no memory
        image.draft(None, (side, side))
    image.load()  # the first frame, of HEIC the primary picture
    profile, points = image.info.get("icc_profile"), code_points(data, image.info)
    unsigned = image.mode == "I" and _is_unsigned(image)
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        image = image.convert("RGB")  # many programs write 32 bits and leave the fourth byte empty
    # Scaled before the colours are converted: less memory, and the same picture.
    if side is not None and image.mode in ("RGB", "RGBA", "L", "CMYK", "LA", "YCbCr"):
        image = _reduced(image, side)
    image = _to_rgb(_upright(image), profile, points, unsigned=unsigned)
    if side is not None:
        image.thumbnail((side, side), _SCALING)
    return np.array(image, dtype=np.uint8)


def _reduced(image: Image.Image, side: int) -> Image.Image:
    """The picture with its longest side at most `side`; smaller ones are returned as they are."""
    import cv2

    factor = max(image.size) / side
    if image.format not in ("JPEG", "MPO") or image.mode != "RGB" or not 1 < factor <= _BILINEAR:
        image.thumbnail((side, side), _SCALING, reducing_gap=2.0)
        return image
    width, height = (max(1, round(length / factor)) for length in image.size)
    pixels = cv2.resize(np.asarray(image), (width, height), interpolation=cv2.INTER_LINEAR)
    small = Image.fromarray(pixels)
    small.info = image.info  # with its EXIF, which says how it is turned
    return small


def _set_transparency(image: Image.Image) -> None:
    """A PNG's transparent colour as its pixels have it: Pillow scales those to 8 bits, but not the colour."""
    transparent = image.info.get("transparency")
    tiles = getattr(image, "tile", ()) if image.format == "PNG" else ()
    stored = str(tiles[0][3]) if tiles else ""
    if isinstance(transparent, int) and stored in _GREY_STEPS:
        image.info["transparency"] = transparent * _GREY_STEPS[stored]
    if isinstance(transparent, tuple) and stored == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in transparent)


def _is_unsigned(image: Image.Image) -> bool:
    """Whether 32-bit integers are unsigned, which Pillow's are not."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(_BITS, (0,))[0] == 32 and tags.get(_SAMPLE_FORMAT, (1,))[0] == 1


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, ZeroDivisionError):
        return image  # a broken EXIF block is no reason to refuse a photo


def _to_rgb(
    image: Image.Image, profile: bytes | None, points: CodePoints | None, *, unsigned: bool
) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        return _from_deep(values.view(np.uint32) if unsigned else values, image)
    if image.has_transparency_data:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        over = Image.new("RGBA", image.size, (*_WHITE, 255))
        return _managed(Image.alpha_composite(over, image).convert("RGB"), profile, points)
    if image.mode in ("P", "1", "PA"):
        image = image.convert("RGB")
    return _managed(image, profile, points)


def _managed(image: Image.Image, profile: bytes | None, points: CodePoints | None) -> Image.Image:
    """Colours to sRGB by the photo's own profile: phones save Display P3, print shops CMYK."""
    if (profile and image.mode in ("RGB", "CMYK", "L")) or image.mode == "LAB":
        from PIL import ImageCms

        try:
            if image.mode == "LAB":
                source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
            else:
                source = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
            managed = ImageCms.profileToProfile(
                image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if managed is not None:
                return managed
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # a profile that does not fit its picture is common; the plain conversion is close
    image = image.convert("RGB")
    return image if profile or points is None else to_srgb(image, points)


def _from_deep(values: np.ndarray, image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits or floats to 8-bit RGB. Deeper than 16 bits, the values themselves tell their range."""
    limits = (65535.0,) if image.mode.startswith("I;16") else (1.0, 255.0, 65535.0)
    grey = _eight_bits(values, limits)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _eight_bits(values: np.ndarray, limits: tuple[float, ...]) -> np.ndarray:
    """0..255 of values that reach up to the first of the limits that holds them all."""
    values = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    top = float(values.max(initial=0.0))
    scale = next((limit for limit in limits if top <= limit), max(top, 1.0))
    scaled: np.ndarray = np.clip(values / scale * 255, 0, 255).round().astype(np.uint8)
    return scaled
