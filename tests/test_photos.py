"""Photos of every kind, and files that are none."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from magicapture_core.photos import MAX_SIDE, Photo, list_photos, other_files, read_photo
from magicapture_core.photos.colours import CodePoints, to_srgb
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


def png_with(*chunks: tuple[bytes, bytes], damaged: bytes = b"", **options: object) -> bytes:
    """picture() as PNG with more chunks after the header; those of the `damaged` kind with a wrong checksum."""
    data, more = encoded(picture(), "PNG", **options), b""
    for kind, body in chunks:
        check = zlib.crc32(kind + body) ^ (kind == damaged)
        more += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)
    return data[:33] + more + data[33:]


@pytest.mark.parametrize(
    "data",
    [
        png_with((b"tEXt", b"workflow\0" + b"x" * 2_000_000)),
        png_with((b"zTXt", b"prompt\0\0" + zlib.compress(b"x" * 5_000_000))),
        png_with((b"tEXt", b"Comment\0hello"), damaged=b"tEXt"),
        png_with((b"iCCP", b"p\0\0" + zlib.compress(b"nothing")), damaged=b"iCCP"),
    ],
    ids=["large", "compressed", "text", "profile"],
)
def test_damaged_side_notes_do_not_damage_a_photo(data: bytes) -> None:
    assert close(read_photo(data, "p.png"), picture(), 0.1)


def test_damaged_pixels_still_do() -> None:
    data = png_with((b"tEXt", b"a\0" + b"x" * 2_000_000))
    with pytest.raises(PhotoProblem, match="damaged"):
        read_photo(data[: len(data) - 60], "p.png")


def test_sixteen_bit_grey_with_a_transparent_value() -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype("u2"), (64, 1))
    pixels = read_photo(encoded(Image.fromarray(ramp), "PNG", transparency=7), "p.png").pixels
    assert np.abs(pixels[0, :, 0] - np.linspace(0, 255, 64)).max() <= 1
    there = int(ramp[0, 32])
    pixels = read_photo(encoded(Image.fromarray(ramp), "PNG", transparency=there), "p.png").pixels
    assert pixels[0, 31:34, 0].tolist()[1] == 255
    assert abs(int(pixels[0, 31, 0]) - 125) <= 1


@pytest.mark.parametrize(("bits", "values"), [(1, (0, 255)), (2, (85, 170)), (4, (17, 238))])
def test_grey_of_few_bits_with_a_transparent_value(bits: int, values: tuple[int, int]) -> None:
    """Of two pixels the first is the transparent one, which lies over white."""
    first, second = (value * (2**bits - 1) // 255 for value in values)
    row = bytes([0, (first << (8 - bits)) | (second << (8 - 2 * bits))])
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in (
        (b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0)),
        (b"tRNS", struct.pack(">H", first)),
        (b"IDAT", zlib.compress(row)),
        (b"IEND", b""),
    ):
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    assert read_photo(data, "p.png").pixels[0, :, 0].tolist() == [255, values[1]]


def test_bmp_without_alpha_in_its_fourth_byte() -> None:
    image = picture().convert("RGBA")
    for alpha, expected in ((0, (200, 30, 30)), (255, (200, 30, 30))):
        image.putalpha(alpha)
        body = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).tobytes("raw", "BGRA")
        head = struct.pack("<IiiHHIIiiII", 124, 60, 40, 1, 32, 3, len(body), 2835, 2835, 0, 0)
        head += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(64)
        data = b"BM" + struct.pack("<IHHI", 14 + len(head) + len(body), 0, 0, 14 + len(head)) + head + body
        assert tuple(read_photo(data, "p.bmp").pixels[30, 10]) == expected


def tiff(pixels: np.ndarray, **tags: object) -> bytes:
    tifffile = pytest.importorskip("tifffile", reason="writes the unusual TIFFs; scikit-image brings it")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **tags)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("top", [1, 255])
def test_float_tiff_in_colour(kind: type, top: int) -> None:
    pixels = (np.asarray(picture()) / 255 * top).astype(kind)
    assert close(read_photo(tiff(pixels, photometric="rgb"), "p.tif"), picture(), 1)


def test_unsigned_integers_of_32_bits() -> None:
    ramp = np.tile(np.linspace(0, 2**32 - 1, 64), (8, 1)).astype(np.uint32)
    pixels = read_photo(tiff(ramp), "p.tif").pixels
    assert np.abs(pixels[0, :, 0] - np.linspace(0, 255, 64)).max() <= 1


def test_what_tiff_cannot_be_read_is_not_called_damaged() -> None:
    with pytest.raises(PhotoProblem, match="a TIFF of a kind that is not known here"):
        read_photo(tiff(np.zeros((8, 8), np.float16)), "p.tif")


def test_a_large_page_after_its_preview() -> None:
    small = picture().resize((15, 10))
    data = encoded(small, "TIFF", save_all=True, append_images=[picture(), small])
    assert close(read_photo(data, "p.tif"), picture(), 0.1)


@pytest.mark.parametrize("tags", [{50706: b"\1\4\0\0"}, {254: 1, 330: 8}], ids=["DNG", "NEF"])
def test_of_a_camera_s_raw_file_not_the_preview_is_taken(tags: dict[int, object]) -> None:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info.tagtype[tag] = 1 if isinstance(value, bytes) else 4
        info[tag] = value
    with pytest.raises(PhotoProblem, match=r"a camera's raw file.*save it as JPEG"):
        read_photo(encoded(picture(), "TIFF", tiffinfo=info), "p.dng")


def nclx(format: str, colour: tuple[int, int, int], primaries: int, transfer: int) -> np.ndarray:
    """The middle pixel of a picture of one colour that says by code points what it means."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    image = Image.new("RGB", (64, 64), colour)
    if format == "HEIF":
        options = {"chroma": 444, "color_primaries": primaries, "transfer_characteristics": transfer}
        data = encoded(image, "HEIF", quality=100, **options)
    elif format == "AVIF":
        data = encoded(image, "AVIF", quality=100, subsampling="4:4:4")
        at = data.index(b"colrnclx") + 8
        data = data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]
    else:
        data = encoded(image, "PNG")
        body = b"cICP" + bytes((primaries, transfer, 0, 1))
        data = data[:33] + struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]
    return read_photo(data, "p").pixels[32, 32].astype(int)


@pytest.mark.parametrize("format", ["HEIF", "AVIF", "PNG"])
@pytest.mark.parametrize(
    ("colour", "primaries", "transfer", "expected"),
    [
        ((224, 160, 128), 1, 13, (224, 160, 128)),
        ((224, 160, 128), 2, 2, (224, 160, 128)),
        ((224, 160, 128), 12, 13, (235, 157, 122)),  # Display P3: as an ICC profile of it gives
        ((128, 128, 128), 9, 13, (128, 128, 128)),  # grey is grey in every colour space
        # BT.2408: paper white of 203 cd/m² is 58 % of PQ and 75 % of HLG, a grey card of 26 cd/m² 38 % of both. The
        # card is .128 of white, in sRGB 100; white is compressed to .8 + .2 (1 - 1/e) = .926, in sRGB 246.6.
        ((148, 148, 148), 9, 16, (246, 246, 246)),
        ((97, 97, 97), 9, 16, (100, 100, 100)),
        ((191, 191, 191), 9, 18, (246, 246, 246)),
        ((97, 97, 97), 9, 18, (100, 100, 100)),
    ],
)
def test_colours_told_by_code_points(
    format: str, colour: tuple[int, int, int], primaries: int, transfer: int, expected: tuple[int, int, int]
) -> None:
    assert np.abs(nclx(format, colour, primaries, transfer) - expected).max() <= 2


def test_display_p3_by_published_matrices() -> None:
    """A grid of Display P3, in and out of sRGB, against other people's matrices."""
    values = np.stack(np.meshgrid(*[np.arange(0, 256, 51)] * 3), axis=-1).reshape(6, 36, 3).astype(np.uint8)
    light = np.where(values / 255 <= 0.04045, values / 255 / 12.92, ((values / 255 + 0.055) / 1.055) ** 2.4)
    # Display P3 to sRGB, as CSS Color 4 (section 18) has the matrices.
    to_xyz = [[0.4865709, 0.2656677, 0.1982173], [0.2289746, 0.6917385, 0.0792869], [0, 0.0451134, 1.0439444]]
    from_xyz = [
        [3.2409699, -1.5373832, -0.4986108],
        [-0.9692436, 1.8759675, 0.0415551],
        [0.0556301, -0.203977, 1.0569715],
    ]
    shown = np.clip(light @ (np.array(from_xyz) @ np.array(to_xyz)).T, 0, 1)
    expected = np.where(shown <= 0.0031308, shown * 12.92, 1.055 * shown ** (1 / 2.4) - 0.055) * 255
    found = np.asarray(to_srgb(Image.fromarray(values), CodePoints(12, 13)))
    assert np.abs(found - expected).max() <= 1


def test_full_size_where_asked() -> None:
    data = encoded(picture(10, MAX_SIDE + 900), "PNG")
    assert read_photo(data, "p.png").pixels.shape[1] == MAX_SIDE
    assert read_photo(data, "p.png", max_side=None).pixels.shape == (10, MAX_SIDE + 900, 3)


def test_every_name_of_a_photo(tmp_path: Path) -> None:
    names = ["1.jpg", "2.jfif", "3.JPE", "4.hif", "5.dib", "6.apng"]
    for name in (*names, "notes.txt", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).touch()
    assert [path.name for path in list_photos(tmp_path)] == names
    assert [path.name for path in other_files(tmp_path)] == ["notes.txt"]


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("factor", [1.05, 1.5, 2.5])
def test_large_photos_are_reduced_in_the_same_way_whatever_the_factor(
    factor: float, orientation: int
) -> None:
    import skimage.data

    scene = Image.fromarray(np.asarray(skimage.data.coffee()))  # 600×400
    exif = Image.Exif()
    exif[274] = orientation
    side = round(600 / factor)
    pixels = read_photo(encoded(scene, "JPEG", quality=95, exif=exif), max_side=side).pixels
    upright = {1: scene, 3: scene.rotate(180), 6: scene.rotate(-90, expand=True)}[orientation]
    wanted = upright.resize(pixels.shape[1::-1], Image.Resampling.LANCZOS)
    assert max(pixels.shape) == side
    assert np.abs(pixels.astype(float) - np.asarray(wanted)).mean() < 4
