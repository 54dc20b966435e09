"""Photos of every kind, and files that are none."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from magicapture_core.photos import MAX_SIDE, Photo, list_photos, read_photo
from magicapture_core.problems import PhotoProblem


def picture(height: int = 40, width: int = 60) -> Image.Image:
    """Left red, right blue, the top row of blocks green: every turn and flip of it differs."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = (200, 30, 30)
    pixels[:, width // 2 :] = (30, 30, 200)
    pixels[: height // 4] = (30, 200, 30)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def close(photo: Photo, expected: Image.Image, tolerance: float = 6.0) -> bool:
    return float(np.abs(photo.pixels.astype(int) - np.asarray(expected.convert("RGB"))).mean()) < tolerance


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF"])
def test_formats(format: str) -> None:
    if format == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    options = {"quality": 95} if format in ("JPEG", "WEBP", "AVIF", "HEIF") else {}
    photo = read_photo(encoded(picture(), format, **options), f"p.{format.lower()}")
    assert photo.pixels.shape == (40, 60, 3)
    assert photo.pixels.dtype == np.uint8
    assert close(photo, picture())


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),  # stored turned to the left, so that turning it right sets it upright
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_exif_rotation(orientation: int, undo: Image.Transpose) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = picture().transpose(undo)
    assert close(read_photo(encoded(stored, "JPEG", exif=exif, quality=95), "p.jpg"), picture())


def test_broken_exif_is_no_reason_to_refuse() -> None:
    assert close(
        read_photo(encoded(picture(), "JPEG", exif=b"Exif\x00\x00garbage", quality=95), "p.jpg"), picture()
    )


def test_alpha_lies_over_white() -> None:
    image = picture().convert("RGBA")
    alpha = np.full((40, 60), 255, np.uint8)
    alpha[:, :10], alpha[:, 10:20] = 0, 128
    image.putalpha(Image.fromarray(alpha))
    pixels = read_photo(encoded(image, "PNG"), "p.png").pixels
    assert (pixels[20, 5] == 255).all()
    assert (
        np.abs(pixels[20, 15].astype(int) - (227, 142, 142)).max() <= 1
    )  # half of (200, 30, 30), half of white
    assert tuple(pixels[20, 25]) == (200, 30, 30)


def test_palette_with_transparency() -> None:
    image = picture().convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    index = image.getpixel((50, 30))
    pixels = read_photo(encoded(image, "PNG", transparency=index), "p.png").pixels
    assert (pixels[30, 50] == 255).all()
    assert np.abs(pixels[30, 10].astype(int) - (200, 30, 30)).max() <= 4


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "CMYK"])
def test_modes(mode: str) -> None:
    image = picture().convert(mode)
    format = "TIFF" if mode == "CMYK" else "PNG"
    assert close(read_photo(encoded(image, format), "p"), image.convert("RGB"))


def test_cmyk_jpeg() -> None:
    assert close(read_photo(encoded(picture().convert("CMYK"), "JPEG", quality=95), "p.jpg"), picture(), 12)


@pytest.mark.parametrize(("values", "format"), [(np.uint16, "PNG"), (np.uint16, "TIFF"), (np.int32, "TIFF")])
def test_sixteen_bit_grey(values: type, format: str) -> None:
    ramp = np.tile(np.linspace(0, 65535, 64), (8, 1)).astype(values)
    pixels = read_photo(encoded(Image.fromarray(ramp), format), "p").pixels
    assert np.abs(pixels[0, :, 0] - np.linspace(0, 255, 64)).max() <= 1


def test_sixteen_bit_rgb_png() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\x00" + struct.pack(">HHH", 65535, 32768, 0) * 4
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 2, 16, 2, 0, 0, 0))
    data += chunk(b"IDAT", zlib.compress(row * 2)) + chunk(b"IEND", b"")
    assert np.abs(read_photo(data, "p.png").pixels[0, 0].astype(int) - (255, 128, 0)).max() <= 1


def test_float_tiff() -> None:
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (8, 1))
    pixels = read_photo(encoded(Image.fromarray(ramp), "TIFF"), "p.tif").pixels
    assert np.abs(pixels[0, :, 0] - np.linspace(0, 255, 64)).max() <= 1


def test_colour_profile_is_followed() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert close(read_photo(encoded(picture(), "PNG", icc_profile=lab), "p.png"), picture(), 1)
    assert close(read_photo(encoded(picture(), "PNG", icc_profile=b"no profile"), "p.png"), picture(), 1)


def test_animation_gives_its_first_frame() -> None:
    frames = [picture(), Image.new("RGB", (60, 40), "white")]
    for format in ("GIF", "WEBP"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        assert close(read_photo(data, "p"), picture())


def test_large_photos_are_scaled_down() -> None:
    photo = read_photo(encoded(picture(2000, 9000), "JPEG", quality=60), "wide.jpg")
    assert photo.pixels.shape == (round(2000 * MAX_SIDE / 9000), MAX_SIDE, 3)
    assert np.abs(photo.pixels[600, 100].astype(int) - (200, 30, 30)).max() < 8


def test_bomb_is_refused_before_it_is_decoded() -> None:
    ihdr = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + ihdr
    data += (
        struct.pack(">I", zlib.crc32(b"IHDR" + ihdr)) + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", 0)
    )
    with pytest.raises(PhotoProblem, match=r"bomb\.png is too large.*120 megapixels"):
        read_photo(data, "bomb.png")


def test_too_many_megapixels_are_refused() -> None:
    data = encoded(Image.new("1", (16000, 8000)), "PNG")
    with pytest.raises(PhotoProblem, match="128 megapixels"):
        read_photo(data, "scan.png")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (b"%PDF-1.7 ...", "a PDF document"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "an SVG drawing"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"hello, this is no picture", "a text file"),
        (b"PK\x03\x04rest", "a ZIP archive"),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00", "a video"),
        (bytes(range(200, 256)), "a file of an unknown kind"),
        (b"\xff\xd8\xff\xe0 but then nothing", "damaged"),
    ],
)
def test_what_is_no_photo(data: bytes, kind: str) -> None:
    with pytest.raises(PhotoProblem) as error:
        read_photo(data, "holiday.jpg")
    assert "holiday.jpg" in str(error.value)
    assert kind in str(error.value)
    assert "JPEG" in str(error.value)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_truncated_files(format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = encoded(noise, format)
    with pytest.raises(PhotoProblem, match=r"half\.x is damaged"):
        read_photo(data[: len(data) // 2], "half.x")


def test_paths(tmp_path: Path) -> None:
    path = tmp_path / "päivä 1.png"
    picture().save(path)
    assert read_photo(path).name == "päivä 1.png"
    assert read_photo(str(path), "other").name == "other"
    with pytest.raises(PhotoProblem, match="does not exist"):
        read_photo(tmp_path / "none.jpg")
    with pytest.raises(PhotoProblem, match="is a folder"):
        read_photo(tmp_path)


def test_list_photos(tmp_path: Path) -> None:
    for name in ("10.jpg", "2.JPG", "a.heic", ".hidden.jpg", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    assert [path.name for path in list_photos(tmp_path)] == ["2.JPG", "10.jpg", "a.heic"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(PhotoProblem, match="holds no photos"):
        list_photos(tmp_path / "empty")
    with pytest.raises(PhotoProblem, match="does not exist"):
        list_photos(tmp_path / "none")
    with pytest.raises(PhotoProblem, match="is a file"):
        list_photos(tmp_path / "notes.txt")


def test_one_pixel() -> None:
    assert read_photo(encoded(Image.new("RGB", (1, 1), "red"), "PNG"), "p").pixels.tolist() == [[[255, 0, 0]]]
