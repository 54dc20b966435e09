"""Broken and hostile input, in numbers: each gets a photo or a clear error, in bounded time, and the process lives."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from toy import ToyAnalyser
from trainings import short, toy_concept

from magicapture_core.checkpoints import Run
from magicapture_core.config import GenerateConfig, PostprocessConfig, TrainConfig, from_dict
from magicapture_core.generation import generate
from magicapture_core.photos import MAX_SIDE, Photo, read_photo
from magicapture_core.problems import PhotoProblem, Problem
from magicapture_core.prompts import expand
from magicapture_core.training import train

FORMATS = {"PNG": {}, "JPEG": {}, "WEBP": {}, "TIFF": {"compression": "tiff_deflate"}, "GIF": {}, "BMP": {},
           "HEIF": {}, "AVIF": {}}  # fmt: skip
LONGEST = 10.0
"""Seconds; all of it takes milliseconds on an idle machine."""


def encoded(format: str) -> bytes:
    """A small photo in a format."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    y, x = np.mgrid[:64, :80]
    pixels = np.stack([3 * x, 3 * y, x + y], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=format, **FORMATS[format])
    return buffer.getvalue()


def read_or_refuse(data: bytes) -> Photo | None:
    """What every input must lead to: a proper photo, or an error that names it and says what to do."""
    started = time.monotonic()
    try:
        photo = read_photo(data, "ann.jpg")
    except PhotoProblem as problem:
        text = str(problem)
        assert text.startswith("ann.jpg")
        assert text.endswith(".")
        assert "Traceback" not in text
        photo = None
    else:
        assert photo.pixels.dtype == np.uint8
        assert photo.pixels.ndim == 3
        assert photo.pixels.shape[2] == 3
        assert max(photo.pixels.shape) <= MAX_SIDE
    assert time.monotonic() - started < LONGEST
    return photo


@pytest.mark.parametrize("format", FORMATS)
def test_photos_cut_off_anywhere(format: str) -> None:
    data = encoded(format)
    for tenth in range(10):
        read_or_refuse(data[: len(data) * tenth // 10])


@pytest.mark.parametrize("format", FORMATS)
def test_photos_with_flipped_bytes(format: str) -> None:
    chance = random.Random(f"flip {format}")
    for _ in range(12):
        data = bytearray(encoded(format))
        for _ in range(chance.choice((1, 4, 32))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        read_or_refuse(bytes(data))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"II*\0", b"RIFF", b"", b"%PDF"]
    ),
    st.binary(max_size=400),
)
def test_anything_after_a_known_beginning(start: bytes, rest: bytes) -> None:
    read_or_refuse(start + rest)


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    """A JPEG whose frame claims another size than its data have."""
    data = bytearray(encoded("JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


BOMBS: dict[str, Callable[[], bytes]] = {
    "png 50000×50000": lambda: png(50_000, 50_000),
    "png of the largest number": lambda: png(2**31 - 1, 2**31 - 1),
    "png without width": lambda: png(0, 10),
    "png very wide": lambda: png(100_000_000, 1),
    "jpeg 65500×65500": lambda: jpeg(65_500, 65_500),
    "jpeg without height": lambda: jpeg(80, 0),
    "gif 65535×65535": lambda: b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + encoded("GIF")[10:],
    "bmp 50000×50000": lambda: encoded("BMP")[:18] + struct.pack("<ii", 50_000, 50_000) + encoded("BMP")[26:],
    "bmp of negative width": lambda: encoded("BMP")[:18] + struct.pack("<ii", -80, 64) + encoded("BMP")[26:],
}
POLYGLOTS: dict[str, Callable[[], bytes]] = {
    "page in a gif": lambda: b"GIF89a/*" + b"<script>alert(1)</script>" * 20,
    "zip behind a png": lambda: encoded("PNG") + b"PK\x03\x04" + bytes(2000),
    "pdf before a jpeg": lambda: b"%PDF-1.7\n" + encoded("JPEG"),
    "script behind a jpeg": lambda: encoded("JPEG") + b"<?php system($_GET[0]); ?>",
    "svg with a reference": lambda: (
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    ),
    "svg bomb": lambda: b'<!DOCTYPE svg [<!ENTITY a "' + b"a" * 999 + b'">]><svg>' + b"&a;" * 999 + b"</svg>",
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
    "pickle": lambda: pickle.dumps({"a": 1}),
    "elf": lambda: b"\x7fELF" + bytes(400),
    "null bytes": lambda: bytes(4096),
    "png of text chunks": lambda: (
        encoded("PNG")[:33] + 500 * (b"\0\0\0\4tEXtab\0c\0\0\0\0") + encoded("PNG")[33:]
    ),
}


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS)
def test_what_claims_to_be_huge_or_impossible(make: Callable[[], bytes]) -> None:
    photo = read_or_refuse(make())
    assert photo is None or photo.pixels.size <= 3 * 80 * 64 * 4


@pytest.mark.long
def test_no_bomb_takes_memory() -> None:
    """In a process of its own: the peak of this one may lie far above what a bomb would need."""
    code = (
        "import resource, test_hostile as t\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "t.read_or_refuse(t.encoded('PNG'))\n"
        "before = peak()\n"
        "[t.read_or_refuse(make()) for make in t.BOMBS.values()]\n"
        "print(peak() - before)"
    )
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 400_000  # kB


@pytest.mark.parametrize("make", POLYGLOTS.values(), ids=POLYGLOTS)
def test_files_that_are_two_things_or_none(make: Callable[[], bytes]) -> None:
    read_or_refuse(make())


# --- settings ---------------------------------------------------------------------------------------

WRONG: list[Any] = [
    -1, -1e9, float("nan"), float("inf"), float("-inf"), 10**40, "", "ten", "1; DROP TABLE", True, None, [], [1], {},
    {"__class__": "x"}, "\x00", "‮x",
]  # fmt: skip


def taken_or_named(kind: Any, name: str, value: Any) -> Any:
    """The config, or None where the setting was refused by its name."""
    try:
        return from_dict(kind, {name: value})
    except Problem as problem:
        if name not in str(problem):
            raise
        return None


@pytest.mark.parametrize("kind", [TrainConfig, GenerateConfig, PostprocessConfig])
def test_settings_take_or_refuse_in_words(kind: Any) -> None:
    """Every setting with every wrong value: a config, or a Problem that names the setting."""
    for name, default in kind().__dict__.items():
        for value in WRONG:
            config = taken_or_named(kind, name, value)
            if config is not None:
                taken = getattr(config, name)
                assert not isinstance(taken, float) or np.isfinite(taken), (name, value)
                assert default is None or isinstance(taken, type(default) | int | float | None), (name, value)


@pytest.mark.parametrize(
    "key", ["", "__init__", "lr", "ti_steps ", "TI_STEPS", "seed\x00", "a" * 10_000, "‮seed"]
)
def test_unknown_settings_are_refused(key: str) -> None:
    with pytest.raises(Problem, match="has no setting"):
        from_dict(TrainConfig, {key: 1})


# --- prompts ----------------------------------------------------------------------------------------

PROMPTS = {
    "endless": "{subject} " * 12_500,
    "one word of 100000 letters": "a" * 100_000,
    "control characters": "".join(map(chr, range(32))) + "{subject}\x7f\x80\x9f",
    "right to left": "صورة {subject} في نمط {style}",
    "direction overrides": "‮{subject}‭ ⁦{style}⁩",
    "emoji and combining marks": "👩🏽‍🦱 {subject} Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢",
    "lone surrogate": "\ud800 {subject}",
    "markup": "<script>alert(1)</script> {subject} <subject> <style> <|endoftext|> [V1]",
    "format string": "{subject} %s %n {{}} ${HOME} `id` $(id)",
    "blank": "   \n\t ",
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_prompts_of_all_kinds(toy: Any, run: Path, prompt: str) -> None:
    started = time.monotonic()
    try:
        portraits = list(generate(toy, run, GenerateConfig(prompt=prompt, count=1, steps=1)))
    except Problem as problem:
        if len(str(problem)) > 1000:
            raise
    else:
        assert portraits[0].image.size == (64, 64)
        assert all(len(warning) < 1000 for warning in portraits[0].warnings)
    assert time.monotonic() - started < 3 * LONGEST


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("{}subjectyl <>\n\x00é"), max_size=60))
def test_any_braces_expand_or_are_named(prompt: str) -> None:
    try:
        text = expand(prompt).text
    except Problem as problem:
        if "{" not in str(problem):
            raise
    else:
        assert "{subject}" not in text


# --- weights and run folders ------------------------------------------------------------------------


@pytest.fixture
def run(toy: Any, tmp_path: Path) -> Path:
    """A finished training."""
    folder = tmp_path / "run"
    steps = short(ti_steps=1, lora_steps=1)
    list(train(toy, toy_concept("subject"), toy_concept("style"), steps, folder, analyser=ToyAnalyser()))
    return folder


class Bomb:
    """What unpickling would run."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("unpickled"),))


def spoil_text(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text, encoding="utf-8") and None


def spoil_bytes(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def spoil_tensors(
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        from safetensors.torch import load_file

        save_file(change(load_file(path)), path)

    return spoil


TENSORS: dict[str, Callable[[Path], None]] = {
    "NaN": spoil_tensors(lambda held: {name: torch.full_like(t, float("nan")) for name, t in held.items()}),
    "infinity": spoil_tensors(
        lambda held: {name: torch.full_like(t, float("inf")) for name, t in held.items()}
    ),
    "other shape": spoil_tensors(lambda held: {name: t.repeat(*[2] * t.dim()) for name, t in held.items()}),
    "other names": spoil_tensors(lambda held: {f"x.{name}": t for name, t in held.items()}),
    "integers": spoil_tensors(
        lambda held: {name: torch.ones(t.shape, dtype=torch.int64) for name, t in held.items()}
    ),
    "nothing": spoil_tensors(lambda _: {}),
    "pickle": spoil_bytes(pickle.dumps(Bomb())),
    "header of 2⁶³ bytes": spoil_bytes(struct.pack("<Q", 2**63) + b"{}"),
    "header that is no JSON": spoil_bytes(struct.pack("<Q", 4) + b"{{{{"),
    "offsets beyond the file": spoil_bytes(
        struct.pack("<Q", 61) + b'{"a":{"dtype":"F32","shape":[9999],"data_offsets":[0,39996]}}' + bytes(8)
    ),
    "empty": spoil_bytes(b""),
    "text": spoil_text("hello"),
}
EDITED: dict[str, tuple[str, Callable[[Path], None]]] = {
    "config of other JSON": ("config.json", spoil_text("[1, 2]")),
    "config of no JSON": ("config.json", spoil_text("{")),
    "config without content": ("config.json", spoil_text("{}")),
    "config deep as a well": ("config.json", spoil_text("[" * 100_000)),
    "config with NaN": ("config.json", spoil_text('{"config": {"lambda_id": NaN}}')),
    "config in another encoding": ("config.json", spoil_bytes(b"\xff\xfe{\x00}\x00")),
}


@pytest.mark.parametrize("spoil", TENSORS.values(), ids=TENSORS)
@pytest.mark.parametrize("name", ["subject.safetensors", "pytorch_lora_weights.safetensors"])
def test_learned_weights_that_are_not(
    toy: Any,
    run: Path,
    name: str,
    spoil: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    spoil(run / "adapter" / name)
    with pytest.raises(Problem) as caught:
        list(generate(toy, run, GenerateConfig(count=1, steps=1)))
    assert str(caught.value).endswith(".")
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize(("name", "spoil"), EDITED.values(), ids=EDITED)
def test_run_folders_edited_by_hand(toy: Any, run: Path, name: str, spoil: Callable[[Path], None]) -> None:
    spoil(run / name)
    with pytest.raises(Problem):
        Run.open(run).facts()
    with pytest.raises(Problem):
        list(generate(toy, run, GenerateConfig(count=1, steps=1)))


def test_losses_edited_by_hand_are_left_out(run: Path) -> None:
    path = run / "losses.jsonl"
    rows = path.read_text(encoding="utf-8")
    for garbage in ("nonsense\n", '{"step": ', json.dumps([1]), "\x00\x00"):
        path.write_text(rows + garbage, encoding="utf-8")
        assert [row["step"] for row in Run.open(run).losses()] == [1, 2]
