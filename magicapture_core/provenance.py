"""Every picture that leaves MagiCapture says that it was generated, and how.

The mark is IPTC's digital source type in an XMP packet, which galleries, press agencies and social networks
read. It cannot be switched off; only the prompt may be left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from magicapture_core.files import atomic_file
from magicapture_core.problems import Problem

GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for media made by a model that was trained on sampled content."""
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}
NOTICE = "AI-generated picture, made with MagiCapture."
PROMPT_SETTINGS = ("prompt", "negative_prompt", "attention_words")
LONGEST = 8000
"""Characters of the parameters kept in a file: a JPEG's XMP packet must stay below 64 KiB."""
# Characters that XML 1.0 cannot hold, even escaped.
NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="{rdf}">
  <rdf:Description rdf:about="" xmlns:dc="{dc}" xmlns:xmp="{xmp}" xmlns:Iptc4xmpExt="{Iptc4xmpExt}">
   <Iptc4xmpExt:DigitalSourceType>{generated}</Iptc4xmpExt:DigitalSourceType>
   <xmp:CreatorTool>MagiCapture</xmp:CreatorTool>
   <dc:description>
    <rdf:Alt><rdf:li xml:lang="x-default">{description}</rdf:li></rdf:Alt>
   </dc:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


@dataclass(frozen=True)
class Provenance:
    """What a picture says about its making."""

    source_type: str | None
    """IPTC digital source type, `GENERATED` for MagiCapture's pictures."""
    prompt: str | None = None
    """None where it was left out."""
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def generated(self) -> bool:
        """Whether the picture is marked as made by a trained model."""
        return self.source_type == GENERATED


def save_picture(
    image: Image.Image,
    path: Path | str,
    *,
    prompt: str | None,
    seed: int | None,
    settings: Mapping[str, Any],
    private: bool = False,
) -> None:
    """Write `image` as PNG or JPEG (by the path's suffix), marked as generated.

    settings: plain JSON values. private: leave prompts out; the mark and the seed stay.
    The write is atomic. Raises Problem on another suffix, RunProblem where the file cannot be written.
    """
    path = Path(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise Problem(
            f"Pictures are written as {', '.join(FORMATS)}; got {path.name!r}. Choose one of those."
        )
    text = parameters(prompt, seed, settings, private=private)
    packet = PACKET.format(**NAMESPACES, generated=GENERATED, description=escape(text)).encode("utf-8")
    with atomic_file(path) as file:
        if kind == "JPEG":
            image.convert("RGB").save(file, "JPEG", quality=95, subsampling=0, xmp=packet)
        else:
            chunks = PngImagePlugin.PngInfo()
            chunks.add_itxt("XML:com.adobe.xmp", packet.decode("utf-8"))
            chunks.add_itxt("parameters", text)
            chunks.add_itxt("Software", "MagiCapture")
            image.save(file, "PNG", pnginfo=chunks)


def parameters(prompt: str | None, seed: int | None, settings: Mapping[str, Any], *, private: bool) -> str:
    """The text that travels with a picture: the notice, then prompt, seed and settings, a line each."""
    hidden = PROMPT_SETTINGS if private else ()
    shown = {name: value for name, value in settings.items() if name not in hidden and name != "seed"}
    lines = [NOTICE]
    if prompt is not None and not private:
        lines.append(f"Prompt: {_one_line(prompt)[: LONGEST // 2]}")
    if seed is not None:
        lines.append(f"Seed: {seed}")
    written = json.dumps(shown, ensure_ascii=False)
    if len(written) <= LONGEST // 2:
        lines.append(f"Settings: {NOT_XML.sub('', written)}")
    return "\n".join(lines)


def _one_line(text: str) -> str:
    return NOT_XML.sub("", re.sub(r"\s+", " ", text)).strip()


def read_provenance(path: Path | str) -> Provenance:
    """What the picture at `path` says about its making; source_type is None where it says nothing.

    Raises Problem if the file is no picture.
    """
    try:
        with Image.open(path) as image:
            packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise Problem(f"{path} cannot be read as a picture ({error}). Choose a PNG or JPEG file.") from error
    source, text = _read_packet(packet.encode("utf-8") if isinstance(packet, str) else packet)
    if source is None or not text.startswith(NOTICE):
        return Provenance(source)
    fields = dict(line.split(": ", 1) for line in text.splitlines()[1:] if ": " in line)
    seed = fields.get("Seed", "")
    return Provenance(
        source,
        fields.get("Prompt"),
        int(seed) if seed.isdecimal() else None,
        _settings(fields.get("Settings", "{}")),
    )


def _settings(written: str) -> dict[str, Any]:
    try:
        settings = json.loads(written)
    except ValueError:
        return {}
    return settings if isinstance(settings, dict) else {}


def _read_packet(packet: bytes) -> tuple[str | None, str]:
    """(digital source type, description) of an XMP packet from anywhere."""
    if b"<!" in packet:  # document types and entities: never in XMP, and a way to exhaust memory
        return None, ""
    try:
        root = ElementTree.fromstring(packet.strip(b"\0 \n")) if packet else None
    except ElementTree.ParseError:
        root = None
    if root is None:
        return None, ""
    for element in root.iter(f"{{{NAMESPACES['rdf']}}}Description"):
        source = element.findtext("Iptc4xmpExt:DigitalSourceType", None, NAMESPACES)
        # XMP may write a simple property as an attribute, too.
        source = source or element.get(f"{{{NAMESPACES['Iptc4xmpExt']}}}DigitalSourceType")
        if source:
            return source.strip(), element.findtext("dc:description/rdf:Alt/rdf:li", "", NAMESPACES)
    return None, ""
