"""Metadata that mark every picture from MagiCapture as generated, and say how it was made.

The mark is IPTC's digital source type in an XMP packet, which galleries, press agencies and social networks
read. It cannot be switched off; only the prompt may be left out.
"""

from __future__ import annotations

import importlib.util
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
from magicapture_core.languages import _
from magicapture_core.problems import Problem, RunProblem

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

PACKET = """<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="{rdf}">
  <rdf:Description rdf:about="" xmlns:dc="{dc}" xmlns:xmp="{xmp}" xmlns:Iptc4xmpExt="{Iptc4xmpExt}">
   <Iptc4xmpExt:DigitalSourceType>{generated}</Iptc4xmpExt:DigitalSourceType>
   <xmp:CreatorTool>MagiCapture</xmp:CreatorTool>
   <dc:description>
    <rdf:Alt><rdf:li xml:lang="x-default">{description}</rdf:li></rdf:Alt>
   </dc:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>"""
WRAPPED = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
{packet}
<?xpacket end="w"?>"""


@dataclass(frozen=True)
class Provenance:
    """The metadata about how a picture was made."""

    source_type: str | None
    """IPTC digital source type, `GENERATED` for MagiCapture's pictures."""
    prompt: str | None = None
    """None where it was left out."""
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    statement: str | None = None

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
    statement: str | None = None,
    dpi: int | None = None,
) -> None:
    """Write `image` as PNG or JPEG (by the path's suffix), marked as generated.

    settings: plain JSON values. private: leave prompts out; the mark and the seed stay. statement: one more line
    that goes with the picture. dpi: resolution to print it at.
    The write is atomic. Raises Problem on another suffix, RunProblem where the file cannot be written.
    """
    path = Path(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise Problem(
            _(
                "Pictures are written as {formats}; got {name}. Choose one of those.",
                formats=", ".join(FORMATS),
                name=repr(path.name),
            )
        )
    text = parameters(prompt, seed, settings, private=private, statement=statement)
    packet = WRAPPED.format(packet=xmp(text)).encode("utf-8")
    printed: dict[str, Any] = {} if dpi is None else {"dpi": (dpi, dpi)}
    with atomic_file(path) as file:
        if kind == "JPEG":
            image.convert("RGB").save(file, "JPEG", quality=95, subsampling=0, xmp=packet, **printed)
        else:
            chunks = PngImagePlugin.PngInfo()
            chunks.add_itxt("XML:com.adobe.xmp", packet.decode("utf-8"))
            chunks.add_itxt("parameters", text)
            chunks.add_itxt("Software", "MagiCapture")
            image.save(file, "PNG", pnginfo=chunks, **printed)


def xmp(text: str) -> str:
    """The XMP metadata of a generated picture or document, without the packet's wrapping; `text` describes it."""
    return PACKET.format(**NAMESPACES, generated=GENERATED, description=escape(text))


def parameters(
    prompt: str | None,
    seed: int | None,
    settings: Mapping[str, Any],
    *,
    private: bool,
    statement: str | None = None,
) -> str:
    """The text that travels with a picture: the notice, then statement, prompt, seed and settings, a line each."""
    hidden = PROMPT_SETTINGS if private else ()
    shown = {name: value for name, value in settings.items() if name not in hidden and name != "seed"}
    lines = [NOTICE]
    if statement is not None:
        lines.append(f"Statement: {_one_line(statement)[: LONGEST // 4]}")
    if prompt is not None and not private:
        lines.append(f"Prompt: {_one_line(prompt)[: LONGEST // 2]}")
    if seed is not None:
        lines.append(f"Seed: {seed}")
    written = json.dumps(shown, ensure_ascii=False)
    if len(written) <= LONGEST // 2:
        lines.append(f"Settings: {NOT_XML.sub('', written)}")
    return "\n".join(lines)


@dataclass(frozen=True)
class Signer:
    """Who signs pictures by C2PA (content credentials)."""

    key: Path
    """Private key, PEM (PKCS#8)."""
    certificates: Path
    """The signer's certificate and those above it, PEM, the signer's first."""
    algorithm: str = "ES256"
    """The key's algorithm by C2PA's name: ES256, ES384, ES512, PS256, PS384, PS512 or ED25519."""

    def check(self) -> None:
        """Raise Problem unless c2pa-python is installed and both files are there."""
        if importlib.util.find_spec("c2pa") is None:
            raise Problem(
                _("Signing needs the package c2pa-python, which is not installed: pip install c2pa-python")
            )
        for path in (self.key, self.certificates):
            if not path.is_file():
                raise Problem(
                    _("{path} does not exist: expected a PEM file to sign pictures with.", path=path)
                )

    def sign(self, path: Path) -> None:
        """Add a signed C2PA manifest to the PNG or JPEG at `path`, which says that a trained model made it.

        Only the mark goes into the manifest, neither prompt nor seed. The write is atomic. Problem where key and
        certificates do not fit each other or C2PA's rules.
        """
        self.check()
        import c2pa

        manifest = {
            "claim_generator_info": [{"name": "MagiCapture"}],
            "assertions": [
                {
                    "label": "c2pa.actions.v2",
                    "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": GENERATED}]},
                }
            ],
        }
        try:
            info = c2pa.C2paSignerInfo(
                self.algorithm.lower().encode(), self.certificates.read_bytes(), self.key.read_bytes(), None
            )
            with atomic_file(path) as file:
                # c2pa tells the format by the file's suffix, which the temporary file does not have.
                format = "image/png" if path.suffix.lower() == ".png" else "image/jpeg"
                with path.open("rb") as source, file.open("w+b") as target:
                    c2pa.Builder(manifest).sign(c2pa.Signer.from_info(info), format, source, target)
        except (c2pa.C2paError, RunProblem) as error:
            raise Problem(
                _(
                    "{name} could not be signed: {error}. Expected a key and certificates of {algorithm} that "
                    "belong together and may sign content credentials. The picture itself was written.",
                    name=path.name,
                    error=error,
                    algorithm=self.algorithm,
                )
            ) from error


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
        raise Problem(
            _(
                "{path} cannot be read as a picture ({error}). Choose a PNG or JPEG file.",
                path=path,
                error=error,
            )
        ) from error
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
        fields.get("Statement"),
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
