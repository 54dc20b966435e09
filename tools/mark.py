"""Mark the pictures that come with the project as generated: IPTC's digital source type in an XMP packet.

python -m tools.mark FILE.jpg ...

What is drawn stays as it is, bit for bit; a file that is marked already is left alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from magicapture_core.provenance import WRAPPED, read_provenance, xmp

NOTICE = "AI-generated picture of somebody who does not exist. For demonstration and research."
START, APP0, APP1 = b"\xff\xd8", b"\xff\xe0", b"\xff\xe1"
XMP = b"http://ns.adobe.com/xap/1.0/\0"


def packet() -> bytes:
    """What is written."""
    return WRAPPED.format(packet=xmp(NOTICE)).encode("utf-8")


def mark(path: Path) -> None:
    """Add the mark to a JPEG file, behind the segment that makes it JFIF."""
    if read_provenance(path).generated:
        return
    data = path.read_bytes()
    if not data.startswith(START):
        raise SystemExit(f"{path} is no JPEG file.")
    place = len(START)
    if data[place : place + 2] == APP0:
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    content = XMP + packet()
    path.write_bytes(data[:place] + APP1 + (len(content) + 2).to_bytes(2, "big") + content + data[place:])


def main() -> None:
    """Mark what was named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    for path in parser.parse_args().files:
        mark(path)


if __name__ == "__main__":
    main()
