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
from magicapture_core.provenance import GENERATED, NOTICE, read_provenance, save_picture

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
        "image", "path", "prompt", "seed", "settings", "private",
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
