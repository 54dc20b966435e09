"""finish, sheet and weights, run in this process on real files."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_weights import NAME, Server, server  # noqa: F401
from toy import ToyAnalyser

from magicapture_core import __main__ as command_line
from magicapture_core.commands.sheet import Sheet
from magicapture_core.formats import REFUSED, SPECS
from magicapture_core.postprocess import networks
from magicapture_core.provenance import read_provenance, save_picture
from magicapture_core.weights import ASSETS, WEIGHTS, weights_dir

PEOPLE = ASSETS / "people"
GOOD, BAD = PEOPLE / "bruno" / "5.jpg", PEOPLE / "dana" / "1.jpg"


@pytest.fixture(autouse=True)
def nothing_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGICAPTURE_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.chdir(tmp_path)


def run(*arguments: str | Path) -> int:
    return command_line.main([str(argument) for argument in arguments])


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


class TestFinish:
    @pytest.fixture(autouse=True)
    def toy_faces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("magicapture_core.faces.choose_analyser", lambda *_: (ToyAnalyser(), "a toy"))

    @pytest.fixture
    def portrait(self, tmp_path: Path) -> Path:
        path = tmp_path / "portrait.png"
        pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
        save_picture(Image.fromarray(pixels), path, prompt="a secret", seed=7, settings={"model": "mini"})
        return path

    def test_writes_what_it_is_and_how_it_was_made(
        self, portrait: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        assert run("finish", portrait, "--out", out, "--upscaler", "lanczos", "--upscale", "3") == 0
        with Image.open(out / "portrait.finished.png") as image:
            assert image.size == (96, 72)
        facts = read_provenance(out / "portrait.finished.png")
        assert facts.generated
        assert (facts.prompt, facts.seed, facts.settings["model"]) == ("a secret", 7, "mini")
        assert facts.settings["finish"]["upscaled_with"] == "Lanczos"
        printed = said(capsys)
        assert "32×24 → 96×72" in printed
        assert "Faces were not restored: GFPGANv1.4.pth (349 MB) is not here" in printed

    def test_larger_pictures_keep_their_size(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Image.new("RGB", (6000, 40)).save(tmp_path / "wide.png")
        out = tmp_path / "out"
        assert run("finish", tmp_path / "wide.png", "--out", out, "--upscaler", "lanczos") == 0
        with Image.open(out / "wide.finished.png") as image:
            assert image.size == (6000, 40)
        assert "is not enlarged: max_side is 4096" in said(capsys)

    def test_library_warnings_stay_off_the_screen(
        self, portrait: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            Image, "MAX_IMAGE_PIXELS", 400
        )  # Pillow warns from there on, and refuses from twice that
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("default")
            assert (
                run("finish", portrait, "--out", tmp_path / "out", "--upscale", "1", "--restore", "none") == 0
            )
        assert [str(each.message) for each in shown] == []

    def test_private_leaves_the_prompt_out(self, portrait: Path, tmp_path: Path) -> None:
        assert run("finish", portrait, "--out", tmp_path, "--upscaler", "lanczos", "--private") == 0
        written = tmp_path / "portrait.finished.png"
        assert b"a secret" not in written.read_bytes()
        assert read_provenance(written).generated

    def test_several_go_on_past_one_that_cannot_be_read(
        self, portrait: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fake = tmp_path / "fake.jpg"
        fake.write_bytes(b"%PDF-1.7")
        out = tmp_path / "out"
        assert run("finish", fake, portrait, portrait, "--out", out, "--upscaler", "lanczos") == 1
        assert sorted(path.name for path in out.iterdir()) == [
            "portrait.finished-2.png",
            "portrait.finished.png",
        ]
        assert "fake.jpg is not a photo" in said(capsys)

    @pytest.mark.parametrize("restore", ["gfpgan", "codeformer"])
    def test_weights_asked_for_by_name_and_offline(
        self, restore: str, portrait: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        for name in networks.RESTORER_WEIGHTS.values():
            monkeypatch.setitem(WEIGHTS, name, replace(WEIGHTS[name], url="http://127.0.0.1:9/x.pth"))
        assert (
            run("finish", portrait, "--out", tmp_path / "out", "--restore", restore, "--upscaler", "lanczos")
            == 1
        )
        printed = said(capsys)
        assert "cannot be downloaded" in printed
        assert "Traceback" not in printed
        assert ("non-commercial use only" in printed) == (restore == "codeformer")

    def test_bad_values(self, portrait: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for arguments, words in (
            (("--fidelity", "1.5"), "fidelity must be 0 to 1, got 1.5"),
            (("--restore", "magic"), "magic"),
            (("--no-metadata",), "no-metadata"),
        ):
            with pytest.raises(SystemExit) as leaving:
                run("finish", portrait, "--out", tmp_path, *arguments)
            assert leaving.value.code == 2
            printed = capsys.readouterr()
            assert words in printed.out + printed.err
        assert run("finish", tmp_path / "nothing.png", "--out", tmp_path) == 1


class TestSheet:
    def test_a_good_portrait(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("sheet", GOOD, "--out", tmp_path / "sheet.pdf") == 0
        assert (tmp_path / "sheet.pdf").read_bytes().startswith(b"%PDF")
        printed = said(capsys)
        assert "ICAO" in printed
        assert "Head height" in printed
        assert "FAIL" not in printed
        assert " ".join(REFUSED.split()) in printed

    def test_a_bad_one_is_not_written_unless_forced(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "sheet.png"
        assert run("sheet", BAD, "--spec", "us", "--paper", "4x6in", "--out", path) == 1
        assert not path.exists()
        printed = said(capsys)
        assert "FAIL" in printed
        assert "--force" in printed
        assert run("sheet", BAD, "--spec", "us", "--paper", "4x6in", "--out", path, "--force") == 1
        assert "checks failed" in str(read_provenance(path).statement)

    def test_json_is_json_and_nothing_else(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("sheet", BAD, "--out", tmp_path / "sheet.pdf", "--json") == 1
        facts: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert (facts["passed"], facts["written"], facts["notice"]) == (False, None, REFUSED)
        checks = {check["name"]: check for check in facts["checks"]}
        assert checks["neutral"]["passed"] is False
        assert checks["one_face"] == {
            "name": "one_face", "title": "One person", "passed": True, "value": "1 face", "wanted": "1 face",
            "required": True, "advice": "Choose a picture of one person.",
        }  # fmt: skip

    def test_help_names_every_specification(self) -> None:
        import ast
        import inspect

        source = ast.unparse(ast.parse(inspect.getsource(Sheet)))
        assert all(name in source for name in SPECS)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--spec", "mars"), "no photo specification 'mars'"),
            (("--out", "sheet.docx"), "must end in .pdf"),
            (("--background", "sky-ish"), "got 'sky-ish'"),
            (("--background", "white", "--keep-background"), "one of the two"),
            (("--c2pa-key", "key.pem"), "both --c2pa-key and --c2pa-certificates"),
        ],
    )
    def test_bad_values(
        self, arguments: tuple[str, str], words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = () if "--out" in arguments else ("--out", "sheet.pdf")
        assert run("sheet", GOOD, *out, *arguments) == 1
        assert words in said(capsys)

    def test_no_face(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        Image.new("RGB", (300, 400), "grey").save(tmp_path / "wall.png")
        assert run("sheet", tmp_path / "wall.png", "--out", tmp_path / "sheet.pdf") == 1
        assert "No face was found" in said(capsys)


class TestWeights:
    def test_list_says_everything_of_each(self, capsys: pytest.CaptureFixture[str]) -> None:
        weights_dir().mkdir()
        (weights_dir() / "codeformer.pth").write_bytes(b"x")
        assert run("weights", "list") == 0
        printed = said(capsys)
        for name, entry in WEIGHTS.items():
            for part in (name, entry.purpose, entry.licence, entry.url):
                assert part in printed
        assert printed.count("not here") == len(WEIGHTS) - 1

    def test_get_then_verify(self, server: Server, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
        assert run("weights", "get", NAME) == 0
        assert run("weights", "verify") == 0
        assert "as published" in said(capsys)
        (weights_dir() / "parsing_bisenet.pth").write_bytes(b"damaged")
        assert run("weights", "verify", NAME) == 1
        assert "differs from what was published" in said(capsys)
        assert len(server.asked) == 1

    def test_get_offline_and_misspelt(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(WEIGHTS, NAME, replace(WEIGHTS[NAME], url="http://127.0.0.1:9/x.pth"))
        assert run("weights", "get", NAME) == 1
        assert "cannot be downloaded" in said(capsys)
        assert run("weights", "get", NAME, "gfpgun") == 1
        assert "no weight file called 'gfpgun'" in said(capsys)
        assert run("weights", "get") == 1
        assert "Say which weight files" in said(capsys)
        assert run("weights", "verify", NAME) == 1
        assert "not here" in said(capsys)
        assert run("weights", "verify") == 0
