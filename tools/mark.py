"""Mark the pictures that come with the project as generated: IPTC's digital source type in an XMP packet.

python -m tools.mark FILE.jpg FILE.webp ...

What is drawn stays as it is, bit for bit; a file that is marked already is left alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from magicapture_core.files import atomic_file
from magicapture_core.problems import Problem
from magicapture_core.provenance import WRAPPED, read_provenance, xmp

NOTICE = "AI-generated picture of somebody who does not exist. For demonstration and research."
JPEG, APP0, APP1 = b"\xff\xd8", b"\xff\xe0", b"\xff\xe1"
JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
WEBP_HAS_XMP = 0x04


def packet() -> bytes:
    """What is written."""
    return WRAPPED.format(packet=xmp(NOTICE)).encode("utf-8")


def mark(path: Path) -> None:
    """Add the mark to a JPEG or simple lossy WebP file. Problem where it is none, or holds other XMP metadata."""
    if read_provenance(path).generated:
        return
    with Image.open(path) as image:
        kind, size, holds = image.format, image.size, "xmp" in image.info
    data = path.read_bytes()
    if holds or not (kind == "JPEG" or (kind == "WEBP" and data[12:16] == b"VP8 ")):
        raise Problem(
            f"{path} cannot be marked: expected a JPEG or a lossy WebP file without XMP metadata, got "
            f"{kind}{' with XMP' if holds else ''}."
        )
    with atomic_file(path) as temporary:
        temporary.write_bytes(_in_jpeg(data) if kind == "JPEG" else _in_webp(data, size))


def _in_jpeg(data: bytes) -> bytes:
    """With an APP1 segment behind the one that makes it JFIF."""
    place = len(JPEG)
    if data[place : place + 2] == APP0:
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    content = JPEG_XMP + packet()
    return data[:place] + APP1 + (len(content) + 2).to_bytes(2, "big") + content + data[place:]


def _in_webp(data: bytes, size: tuple[int, int]) -> bytes:
    """In the extended layout: what there is (VP8X), the picture's chunk as it was, then the XMP chunk."""
    extents = b"".join((side - 1).to_bytes(3, "little") for side in size)
    header = _chunk(b"VP8X", bytes((WEBP_HAS_XMP, 0, 0, 0)) + extents)
    return _chunk(b"RIFF", b"WEBP" + header + data[12:] + _chunk(b"XMP ", packet()))


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + len(content).to_bytes(4, "little") + content + b"\0" * (len(content) % 2)


def main() -> None:
    """Mark what was named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    for path in parser.parse_args().files:
        try:
            mark(path)
        except Problem as problem:
            raise SystemExit(str(problem)) from problem


if __name__ == "__main__":
    main()
