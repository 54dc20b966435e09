"""Every picture says that it was generated, whatever the prompt."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from magicapture_core.problems import Problem, RunProblem
from magicapture_core.provenance import GENERATED, NOTICE, Signer, read_provenance, save_picture
from tools.mark import mark

ROOT = Path(__file__).resolve().parents[1]
SETTINGS: dict[str, Any] = {"steps": 50, "guidance_scale": 7.0, "negative_prompt": "blur", "model": "mini"}


def picture(side: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG"])
def test_a_saved_picture_says_what_it_is_and_how_it_was_made(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"portrait{suffix}"
    save_picture(picture(), path, prompt="a photo of a <subject> person", seed=7, settings=SETTINGS)
    said = read_provenance(path)
    assert said.generated
    assert said.source_type == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    assert (said.prompt, said.seed, said.settings) == ("a photo of a <subject> person", 7, SETTINGS)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # nothing half-written stays


def test_a_png_keeps_every_pixel_and_a_readable_text(tmp_path: Path) -> None:
    save_picture(picture(), tmp_path / "p.png", prompt="a cat", seed=7, settings=SETTINGS)
    with Image.open(tmp_path / "p.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(picture()))
        text = image.info["parameters"]
        assert image.info["Software"] == "MagiCapture"
    assert text.splitlines()[:3] == [NOTICE, "Prompt: a cat", "Seed: 7"]
    assert "AI-generated" in text


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_the_mark_is_the_published_property(tmp_path: Path, suffix: str) -> None:
    """What IPTC's and other tools look for, byte for byte."""
    save_picture(picture(), tmp_path / f"p{suffix}", prompt="p", seed=1, settings={})
    raw = (tmp_path / f"p{suffix}").read_bytes()
    assert b'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"' in raw
    assert f"<Iptc4xmpExt:DigitalSourceType>{GENERATED}</Iptc4xmpExt:DigitalSourceType>".encode() in raw


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_private_leaves_the_prompts_out_and_the_mark_in(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"p{suffix}"
    secret = {**SETTINGS, "prompt": "secret", "negative_prompt": "secret", "attention_words": ["secret"]}
    save_picture(picture(), path, prompt="secret", seed=7, settings=secret, private=True)
    said = read_provenance(path)
    assert said.generated
    assert (said.prompt, said.seed) == (None, 7)
    assert b"secret" not in path.read_bytes()


def test_the_mark_cannot_be_switched_off() -> None:
    assert set(inspect.signature(save_picture).parameters) == {
        "image", "path", "prompt", "seed", "settings", "private", "statement", "dpi",
    }  # fmt: skip


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@given(prompt=st.text(max_size=200), value=st.text(max_size=40))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_prompt_can_break_or_forge_the_packet(
    tmp_path: Path, suffix: str, prompt: str, value: str
) -> None:
    path = tmp_path / f"p{suffix}"
    save_picture(picture(), path, prompt=prompt, seed=3, settings={"word": value})
    said = read_provenance(path)
    assert said.generated
    assert said.seed == 3
    assert (said.prompt or "").split() == "".join(
        c
        for c in prompt
        if c.isspace() or (c >= " " and c not in "\ufffe\uffff" and not "\ud800" <= c <= "\udfff")
    ).split()


@pytest.mark.parametrize(
    "prompt",
    [
        "</rdf:li></rdf:Alt></dc:description><Iptc4xmpExt:DigitalSourceType>digitalCapture",
        '"]]> <!ENTITY x "y"> &x; <?xpacket end="w"?>',
        "one\nSeed: 99\nSettings: {}",
        "\x00\x01\x1b[31m zero \x7f",
        "日本語 🎨 " * 20,
        "long " * 20000,
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_hostile_prompts(tmp_path: Path, prompt: str, suffix: str) -> None:
    path = tmp_path / f"p{suffix}"
    save_picture(picture(), path, prompt=prompt, seed=3, settings=SETTINGS)
    said = read_provenance(path)
    assert (said.source_type, said.seed, said.settings) == (GENERATED, 3, SETTINGS)


def test_pictures_from_elsewhere_say_nothing(tmp_path: Path) -> None:
    picture().save(tmp_path / "plain.png")
    said = read_provenance(tmp_path / "plain.png")
    assert (said.source_type, said.generated, said.prompt) == (None, False, None)


@pytest.mark.parametrize(
    "packet",
    [b"<broken", b'<!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;</x>', b"\xff\xfe\x00", b"<x/>"],
)
def test_strange_packets_say_nothing(tmp_path: Path, packet: bytes) -> None:
    picture().save(tmp_path / "strange.jpg", xmp=packet)
    assert read_provenance(tmp_path / "strange.jpg").source_type is None


def test_the_mark_as_an_attribute_is_read_too(tmp_path: Path) -> None:
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<r:Description xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'e:DigitalSourceType="{GENERATED}"/></r:RDF></x:xmpmeta>'
    )
    picture().save(tmp_path / "other.jpg", xmp=packet.encode())
    assert read_provenance(tmp_path / "other.jpg").generated


def test_other_formats_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"written as \.png, \.jpg, \.jpeg; got 'p.webp'"):
        save_picture(picture(), tmp_path / "p.webp", prompt="p", seed=1, settings={})
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(Problem, match="cannot be read as a picture"):
        read_provenance(tmp_path / "text.png")
    with pytest.raises(Problem, match="cannot be read as a picture"):
        read_provenance(tmp_path / "nothing.png")


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises((RunProblem, OSError)):
        save_picture(picture(), tmp_path / "file" / "p.png", prompt="p", seed=1, settings={})


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_statement_and_resolution_travel_along(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"p{suffix}"
    save_picture(
        picture(), path, prompt=None, seed=None, settings={}, statement="No official\nphoto", dpi=600
    )
    assert read_provenance(path).statement == "No official photo"
    with Image.open(path) as image:
        assert image.info["dpi"] == pytest.approx((600, 600), abs=0.01)


class TestSigning:
    @pytest.fixture
    def signer(self, tmp_path: Path) -> Signer:
        """A key and a chain of two certificates with the extensions that C2PA asks for."""
        pytest.importorskip("c2pa", reason="c2pa-python is not installed")
        return Signer(*_key_and_chain(tmp_path))

    @pytest.mark.parametrize("suffix", [".png", ".jpg"])
    def test_the_manifest_says_generated_and_nothing_private(
        self, tmp_path: Path, suffix: str, signer: Signer
    ) -> None:
        import c2pa

        path = tmp_path / f"p{suffix}"
        save_picture(picture(64), path, prompt="a secret", seed=7, settings={})
        with Image.open(path) as image:
            before = np.asarray(image)
        signer.sign(path)
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image), before)
        with c2pa.Reader(str(path)) as reader:
            told = reader.json()
        assert GENERATED in told
        assert "secret" not in told
        assert "assertion.dataHash.match" in told  # the signature covers these very bytes
        assert read_provenance(path).generated

    def test_a_key_that_does_not_fit(self, tmp_path: Path, signer: Signer) -> None:
        save_picture(picture(64), tmp_path / "p.png", prompt=None, seed=None, settings={})
        before = (tmp_path / "p.png").read_bytes()
        signer.key.write_text("no key")
        with pytest.raises(Problem, match=r"p\.png could not be signed"):
            signer.sign(tmp_path / "p.png")
        assert (tmp_path / "p.png").read_bytes() == before

    def test_missing_files_are_told(self, tmp_path: Path, signer: Signer) -> None:
        with pytest.raises(Problem, match=r"none\.pem does not exist"):
            Signer(tmp_path / "none.pem", signer.certificates).check()


def _key_and_chain(folder: Path) -> tuple[Path, Path]:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def certificate(subject: str, key: Any, issuer: str, issuer_key: Any, authority: bool) -> Any:
        def name(text: str) -> x509.Name:
            parts = [(NameOID.COMMON_NAME, text), (NameOID.ORGANIZATION_NAME, "Test")]
            return x509.Name([x509.NameAttribute(*part) for part in parts])

        now = datetime.datetime.now(datetime.UTC)
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
             "decipher_only"), False,
        )  # fmt: skip
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **usage
                ),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
            )
        )
        if not authority:
            purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(purpose, critical=False)
        return builder.sign(issuer_key, hashes.SHA256())

    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    chain = [
        certificate("Signer", key, "Root", root_key, authority=False),
        certificate("Root", root_key, "Root", root_key, authority=True),
    ]
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
    (folder / "chain.pem").write_bytes(b"".join(each.public_bytes(pem) for each in chain))
    return folder / "key.pem", folder / "chain.pem"


def test_the_pictures_that_come_with_the_project_say_that_they_are_generated() -> None:
    pictures = [
        path
        for folder in ("assets", "presets")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".jpg", ".jpeg", ".png", ".webp")
    ]
    assert len(pictures) > 190
    assert [path for path in pictures if not read_provenance(path).generated] == []


@pytest.mark.parametrize("side", [32, 33])
@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_the_mark_leaves_what_a_file_shows_as_it_is(tmp_path: Path, suffix: str, side: int) -> None:
    path = tmp_path / f"photo{suffix}"
    picture(side).save(path, quality=80)
    before = np.asarray(Image.open(path))
    mark(path)
    marked = path.read_bytes()
    assert read_provenance(path).generated
    assert np.array_equal(np.asarray(Image.open(path)), before)
    mark(path)
    assert path.read_bytes() == marked


def test_what_cannot_be_marked_is_refused_and_left_alone(tmp_path: Path) -> None:
    foreign, other = tmp_path / "foreign.jpg", tmp_path / "other.png"
    picture().save(foreign, xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    picture().save(other)
    for path in (foreign, other):
        before = path.read_bytes()
        with pytest.raises(Problem, match="cannot be marked"):
            mark(path)
        assert path.read_bytes() == before
