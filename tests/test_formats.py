"""Passport-style photos: specifications, the crop measured anew, the checklist, sheets at exact size."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fpdf import FPDF
from PIL import Image, ImageFont

from magicapture_core.faces import Face, choose_analyser
from magicapture_core.formats import PAPERS, REFUSED, SPECS, as_hex, background_colour, paper, photo_spec
from magicapture_core.formats.checklist import Check
from magicapture_core.formats.head import Head, find_head
from magicapture_core.formats.matte import guided_filter, matte, replace_background
from magicapture_core.formats.passport import PassportPhoto, _plan, make_passport_photo
from magicapture_core.formats.sheet import _TEXT, RULER, SHEET_DPI, layout, write_sheet
from magicapture_core.formats.specs import INCH
from magicapture_core.photos import read_photo
from magicapture_core.presets import load_preset
from magicapture_core.problems import PhotoProblem, Problem
from magicapture_core.provenance import read_provenance
from magicapture_core.weights import ASSETS

PEOPLE = ASSETS / "people"
MM = SHEET_DPI / 25.4


def person(who: str = "bruno", number: int = 5) -> np.ndarray:
    return read_photo(PEOPLE / who / f"{number}.jpg").pixels


def failed(photo: PassportPhoto) -> set[str]:
    return {check.name for check in photo.failed}


class TestSpecs:
    def test_what_must_be_there(self) -> None:
        assert set(SPECS) == {
            "icao", "us", "schengen", "uk", "india", "india-passport", "china", "japan", "canada",
            "australia", "korea",
        }  # fmt: skip
        assert set(PAPERS) == {"10x15cm", "4x6in", "a4"}

    @pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
    def test_each_can_be_met(self, spec: Any) -> None:
        assert 0.4 * spec.height < spec.head.low < spec.head.high < spec.height
        assert 0 < spec.eye_range.low < spec.eye_range.high < spec.height
        assert len(spec.source) > 20
        luma = np.dot(spec.background, [0.299, 0.587, 0.114])
        assert luma >= spec.darkest_background

    def test_sizes_in_pixels(self) -> None:
        assert SPECS["us"].pixels == (1200, 1200)  # 2 in at 600 dpi
        assert SPECS["icao"].pixels == (827, 1063)

    def test_unknown_names_list_the_known(self) -> None:
        with pytest.raises(Problem, match=r"no photo specification 'mars'.*icao, us"):
            photo_spec("mars")
        with pytest.raises(Problem, match=r"no paper 'a3'.*10x15cm"):
            paper("a3")

    def test_the_passport_preset_s_format_is_known(self) -> None:
        assert photo_spec(str(load_preset("passport").output)) == SPECS["icao"]


class TestHead:
    FACE = Face(
        box=(60, 60, 140, 160),
        landmarks=np.array([[80, 100], [120, 100], [100, 120], [85, 140], [115, 140]], np.float32),
        score=1.0,
        outline=np.array([[60, 100], [100, 60], [140, 100], [100, 160]], np.float32),
    )

    def test_worked_numbers(self) -> None:
        """Eyes at 100, chin at 160: the crown is as far above the eyes, unless the hair ends lower."""
        alpha = np.zeros((220, 200), np.float32)
        alpha[30:, 60:140] = 1  # hair up to 30
        head = find_head(self.FACE, alpha)
        assert head.chin == pytest.approx([100, 160])
        assert head.crown == pytest.approx([100, 40])
        assert head.hair[1] == pytest.approx(30, abs=1)
        assert (head.lean, head.cut) == (0, False)
        assert head.height(to_hair=False) == pytest.approx(120)
        alpha[:55] = 0  # a bald, flat head
        assert find_head(self.FACE, alpha).crown[1] == pytest.approx(55, abs=1)

    def test_hair_that_leaves_the_picture(self) -> None:
        assert find_head(self.FACE, np.ones((220, 200), np.float32)).cut

    @pytest.mark.parametrize("angle", [-12.0, 7.0])
    def test_turns_with_the_head(self, angle: float) -> None:
        turn = np.array(cv2.getRotationMatrix2D((100, 100), -angle, 1.0), np.float32)
        assert self.FACE.outline is not None

        def turned(points: np.ndarray) -> np.ndarray:
            moved: np.ndarray = (points @ turn[:, :2].T + turn[:, 2]).astype(np.float32)
            return moved

        alpha = np.zeros((220, 200), np.float32)
        alpha[30:, 60:140] = 1
        face = Face(self.FACE.box, turned(self.FACE.landmarks), 1.0, turned(self.FACE.outline))
        head = find_head(face, cv2.warpAffine(alpha, turn, (200, 220)))
        assert head.lean == pytest.approx(angle, abs=0.1)
        assert head.height(to_hair=False) == pytest.approx(120, abs=0.5)
        assert head.crown == pytest.approx(turned(np.array([[100, 40]], np.float32))[0], abs=1)


class TestMatte:
    def test_guided_filter_keeps_an_edge_and_a_flat_guide_blurs(self) -> None:
        guide = np.zeros((40, 40, 3), np.float32)
        guide[:, 20:] = 1
        values = np.zeros((40, 40), np.float32)
        values[:, 20:] = 1
        assert np.abs(guided_filter(guide, values, 4, 1e-6) - values).max() < 1e-3
        blurred = guided_filter(np.zeros_like(guide), values, 4, 1e-6)
        assert 0.2 < blurred[20, 18] < 0.8

    def test_finds_the_edge_that_a_coarse_segmentation_missed(self) -> None:
        """A disc, segmented 3 pixels too large: the matte ends where the disc does."""
        y, x = np.mgrid[:256, :256]
        away = np.hypot(x - 128, y - 128)
        pixels = np.where((away < 70)[..., None], [40, 30, 20], [200, 210, 220]).astype(np.uint8)
        alpha = matte(pixels, (away < 73).astype(np.float32))
        assert alpha[away < 66].min() == pytest.approx(1, abs=0.03)
        assert alpha[away > 80].max() < 0.03
        area = alpha.sum() / (np.pi * 70**2)
        assert area == pytest.approx(1, abs=0.04)

    def test_no_rim_of_the_old_background(self) -> None:
        """Half-covered pixels of black hair on green: on white they are grey, not greenish."""
        alpha = np.clip((np.arange(640, dtype=np.float32) - 240) / 16, 0, 1)[None].repeat(640, 0)
        green, black = np.array([0, 200, 0]), np.array([10, 10, 10])
        pixels = (alpha[..., None] * black + (1 - alpha[..., None]) * green).astype(np.uint8)
        out = replace_background(pixels, alpha, (255, 255, 255)).astype(int)
        assert np.abs(out[:, :, 1] - out[:, :, 0]).max() < 30  # mixing without the estimate leaves 50
        assert (out[:, :230] == 255).all()
        assert (out[:, 266:] < 25).all()


class TestPhoto:
    @pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
    def test_measured_anew_the_head_is_as_asked(self, spec: Any) -> None:
        """With room around the head every specification is met; measured on the finished photo, not on the plan."""
        photo = make_passport_photo(roomy(), spec)
        assert photo.pixels.shape == (spec.pixels[1], spec.pixels[0], 3)
        assert failed(photo) <= {"sharpness"}, list(photo.failed)

    @pytest.mark.parametrize("tall", [1.0, 1.2, 1.35])
    def test_hair_is_not_cut_where_the_picture_has_room(self, tall: float) -> None:
        eyes, up = np.array([600.0, 700.0]), np.array([0.0, -1.0])
        head = Head(eyes, eyes - 200 * up, eyes + 200 * up, eyes + 200 * tall * up, lean=0.0, cut=False)
        for spec in (
            spec for spec in SPECS.values() if spec.top is None
        ):  # the others say where the crown is
            top = _plan(head, spec, (1800, 1200), True) @ [*head.hair, 1]
            low = _plan(head, spec, (1800, 1200), True) @ [*head.chin, 1]
            assert top[1] * INCH / spec.dpi > 0.5, spec.name  # mm
            height = (low[1] - top[1]) * INCH / spec.dpi / (1 + (0 if spec.head_to_hair else tall / 2 - 0.5))
            assert spec.head.holds(height, 0.5), spec.name

    def test_background_is_the_colour_asked_for(self) -> None:
        photo = make_passport_photo(person(), SPECS["us"])
        corners = [photo.pixels[5, 5], photo.pixels[5, -5]]
        assert all((corner == 255).all() for corner in corners)

    def test_background_can_be_any_colour_that_the_specification_permits(self) -> None:
        photo = make_passport_photo(roomy(), SPECS["icao"], background=background_colour("#cfe0f5"))
        assert (photo.pixels[5, [5, -5]] == (0xCF, 0xE0, 0xF5)).all()
        assert failed(photo) <= {"sharpness"}
        dark = make_passport_photo(roomy(), SPECS["icao"], background=background_colour("navy"))
        assert failed(dark) - {"sharpness"} == {"background_colour"}
        with pytest.raises(Problem, match="written as #dde3ea or white; got '#12'"):
            background_colour("#12")
        assert background_colour("rgba(207.4, 224, 245, 1)") == (
            207,
            224,
            245,
        )  # as gradio's colour picker has it
        assert as_hex((207, 224, 245)) == "#cfe0f5"

    def test_every_specification_permits_its_own_background_and_no_dark_one(self) -> None:
        for spec in SPECS.values():
            assert spec.permits(spec.background)
            assert not spec.permits((40, 40, 90))
        yellow = (255, 240, 90)  # as light as white asks, but not white
        assert SPECS["icao"].permits(yellow)
        assert not SPECS["us"].permits(yellow)
        tinted = make_passport_photo(roomy(), SPECS["us"], background=yellow)
        assert "background_colour" in failed(tinted)

    @pytest.mark.parametrize("name", ["australia", "uk"])
    def test_white_is_refused_where_the_source_refuses_it(self, name: str) -> None:
        spec = SPECS[name]
        assert not spec.permits((255, 255, 255))
        assert not spec.permits((248, 249, 247))
        assert spec.permits((0xFF, 0xFD, 0xD0))  # cream
        assert SPECS["icao"].permits((255, 255, 255))

    def test_over_the_head_is_background_where_the_picture_ends(self) -> None:
        """And no mirror image of the hair."""
        photo = make_passport_photo(person("conrad", 1)[15:].copy(), SPECS["icao"])
        assert (photo.pixels[:40] == SPECS["icao"].background).all()

    def test_background_can_be_kept(self) -> None:
        photo = make_passport_photo(person("bruno", 1), SPECS["icao"], replace=False)
        assert "background" in failed(photo)

    def test_leaning_heads_are_straightened(self) -> None:
        turn = cv2.getRotationMatrix2D((512, 560), 9, 1.0)
        leaning = cv2.warpAffine(roomy(), turn, (1024, 1024), borderMode=cv2.BORDER_REPLICATE)
        photo = make_passport_photo(leaning, SPECS["icao"])
        (roll,) = (check for check in photo.checks if check.name == "roll")
        assert roll.passed
        assert abs(float(roll.value.removesuffix("°"))) < 2

    def test_no_face(self) -> None:
        with pytest.raises(PhotoProblem, match="No face was found"):
            make_passport_photo(np.full((200, 150, 3), 128, np.uint8), SPECS["icao"])

    def test_checks_are_plain_json(self) -> None:
        photo = make_passport_photo(person(), SPECS["japan"])
        read = json.loads(json.dumps([check.to_dict() for check in photo.checks]))
        assert {"name", "title", "passed", "value", "wanted", "required", "advice"} == set(read[0])


def roomy() -> np.ndarray:
    """A portrait with room around it: bruno on a wall of his own, over a jumper."""
    pixels = person()
    alpha = matte(pixels, choose_analyser("bundled")[0].foreground(pixels))[..., None]
    scene = np.full((1024, 1024, 3), (205, 208, 210), np.uint8)
    cv2.ellipse(scene, (512, 1100), (420, 330), 0, 0, 360, (70, 80, 95), -1)
    under = scene[250:762, 256:768]
    under[:] = (pixels * alpha + under * (1 - alpha)).astype(np.uint8)
    return scene


GOOD = (("bruno", 1), ("bruno", 2), ("bruno", 3), ("bruno", 5), ("bruno", 6))


@pytest.mark.parametrize(("who", "number"), GOOD)
def test_good_photos_pass(who: str, number: int) -> None:
    photo = make_passport_photo(person(who, number), SPECS["icao"])
    assert photo.passed, photo.failed


def _smile() -> np.ndarray:
    return person("alma", 1)


def _cut() -> np.ndarray:
    return person()[90:].copy()


def _side_light() -> np.ndarray:
    pixels = person().astype(np.float32)
    pixels *= np.clip(np.linspace(1.15, 0.1, 512), 0, 1)[None, :, None]
    return pixels.astype(np.uint8)


def _blurred() -> np.ndarray:
    blurred: np.ndarray = cv2.GaussianBlur(person(), (0, 0), 6)
    return blurred


def _dark() -> np.ndarray:
    return (person() * 0.3).astype(np.uint8)


def _small() -> np.ndarray:
    small: np.ndarray = cv2.resize(person(), (200, 200), interpolation=cv2.INTER_AREA)
    return small


def _sunglasses() -> np.ndarray:
    pixels = person()
    for eye in choose_analyser("bundled")[0].detect(pixels)[0].landmarks[:2]:
        cv2.ellipse(
            pixels, (round(float(eye[0])), round(float(eye[1]))), (48, 32), 0, 0, 360, (12, 12, 14), -1
        )
    return pixels


def _glare() -> np.ndarray:
    pixels = person()
    eye = choose_analyser("bundled")[0].detect(pixels)[0].landmarks[0]
    cv2.ellipse(
        pixels,
        (round(float(eye[0])) + 14, round(float(eye[1])) - 8),
        (14, 8),
        20,
        0,
        360,
        (255, 255, 255),
        -1,
    )
    return pixels


def _two() -> np.ndarray:
    return np.concatenate([person("conrad", 1), person()], axis=1)


BAD = {
    "neutral": _smile, "whole": _cut, "even_light": _side_light, "sharpness": _blurred, "exposure": _dark,
    "resolution": _small, "eyes_visible": _sunglasses, "glare": _glare, "one_face": _two,
}  # fmt: skip


@pytest.mark.parametrize("reason", BAD)
def test_bad_photos_fail_for_their_reason(reason: str) -> None:
    assert reason in failed(make_passport_photo(BAD[reason](), SPECS["icao"]))


class TestSheet:
    def photo(self, spec: str = "icao", passes: bool = True) -> PassportPhoto:
        """A mid-grey photo, so that its edges are easily found."""
        width, height = SPECS[spec].pixels
        pixels = np.full((height, width, 3), 128, np.uint8)
        check = Check("sharpness", "Sharp", passes, "blur 0.9", "at most 0.74")
        return PassportPhoto(SPECS[spec], pixels, [check], True)

    @pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
    @pytest.mark.parametrize("sheet", PAPERS.values(), ids=lambda sheet: sheet.name)
    @pytest.mark.parametrize("failed", [[], ["Sharp"] * 30])
    def test_nothing_overlaps_and_all_is_on_the_paper(self, spec: Any, sheet: Any, failed: list[str]) -> None:
        placed = layout(spec, sheet, failed)
        assert sorted((placed.width, placed.height)) == sorted((sheet.width, sheet.height))
        wide, high = placed.photo
        boxes = [(x, y, x + wide, y + high) for x, y in placed.photos]
        for i, (x0, y0, x1, y1) in enumerate(boxes):
            assert min(x0, y0) >= sheet.margin - 1e-9
            assert max(x1 - placed.width, y1 - placed.height) <= -sheet.margin
            assert y1 < placed.foot
            assert all(x1 <= a or c <= x0 or y1 <= b or d <= y0 for a, b, c, d in boxes[i + 1 :])
        for x0, y0, x1, y1 in placed.marks:
            assert min(x0, x1, y0, y1) >= 0
            for left, top, right, bottom in boxes:  # no mark over a photo
                assert x1 <= left + 1e-6 or x0 >= right - 1e-6 or y1 <= top + 1e-6 or y0 >= bottom - 1e-6

    def test_how_many_fit(self) -> None:
        counts = {name: len(layout(SPECS["icao"], sheet).photos) for name, sheet in PAPERS.items()}
        assert counts == {"10x15cm": 8, "4x6in": 8, "a4": 30}
        assert len(layout(SPECS["us"], PAPERS["4x6in"]).photos) == 2

    def test_a_warning_takes_no_more_room_than_it_needs(self) -> None:
        placed = layout(SPECS["icao"], PAPERS["10x15cm"], ["Sharp"])
        assert (len(placed.photos), placed.turned, placed.photo) == (6, True, (45, 35))

    @pytest.mark.parametrize("spec", SPECS)
    @pytest.mark.parametrize("sheet", PAPERS.values(), ids=lambda sheet: sheet.name)
    @pytest.mark.parametrize("failed", [[], ["Sharp"], [f"Check number {i} of many" for i in range(12)]])
    def test_the_text_is_whole_and_stays_in_its_room(self, spec: str, sheet: Any, failed: list[str]) -> None:
        placed = layout(SPECS[spec], sheet, failed)
        room = placed.width - 2 * placed.margin - RULER - 2
        font, pdf = ImageFont.load_default(40), FPDF(unit="mm")
        pdf.set_font("Helvetica", size=_TEXT / 25.4 * 72)
        for line, _ in placed.lines:
            assert max(font.getlength(line) / 40 * _TEXT, pdf.get_string_width(line)) <= room
        text = " ".join(line for line, _ in placed.lines)
        assert all(check.lower() in text for check in failed)
        assert text.endswith("authorities refuse it.")
        assert placed.foot + len(placed.lines) * 2.1 <= placed.height

    @pytest.mark.parametrize("suffix", [".png", ".jpg"])
    def test_pictures_have_the_exact_size(self, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"sheet{suffix}"
        placed = write_sheet(
            self.photo(), PAPERS["10x15cm"], path, prompt="a cat", seed=3, settings={"steps": 2}
        )
        with Image.open(path) as image:
            assert image.info["dpi"] == pytest.approx((SHEET_DPI, SHEET_DPI), abs=0.01)
            assert image.size == (round(150 * MM), round(100 * MM))
            grey = np.asarray(image.convert("L")).astype(int)
        _photos_are_at(grey, placed, SPECS["icao"], MM)
        said = read_provenance(path)
        assert said.generated
        assert (said.prompt, said.seed, said.settings["paper"]) == ("a cat", 3, "10x15cm")
        assert said.statement == REFUSED

    @pytest.mark.parametrize(("spec", "sheet"), [("icao", "10x15cm"), ("us", "4x6in"), ("china", "a4")])
    def test_pdf_prints_at_the_exact_size(self, spec: str, sheet: str, tmp_path: Path) -> None:
        if shutil.which("pdftoppm") is None:
            pytest.skip("pdftoppm is not installed (Debian: apt-get install poppler-utils)")
        path = tmp_path / "sheet.pdf"
        placed = write_sheet(self.photo(spec), PAPERS[sheet], path)
        subprocess.run(
            ["pdftoppm", "-r", "300", "-png", "-singlefile", path, tmp_path / "page"], check=True, timeout=60
        )
        with Image.open(tmp_path / "page.png") as image:
            assert image.size == pytest.approx((placed.width / 25.4 * 300, placed.height / 25.4 * 300), abs=1)
            grey = np.asarray(image.convert("L")).astype(int)
        _photos_are_at(grey, placed, SPECS[spec], 300 / 25.4)
        row = grey[round((placed.foot + 0.85) * 300 / 25.4)]
        ruler = np.flatnonzero(row[: round((placed.margin + RULER + 1) * 300 / 25.4)] < 150)
        assert (ruler[-1] - ruler[0]) / 300 * 25.4 == pytest.approx(RULER, abs=0.3)

    def test_pdf_says_what_it_is(self, tmp_path: Path) -> None:
        path = tmp_path / "sheet.pdf"
        write_sheet(self.photo(), PAPERS["a4"], path, prompt="a secret", private=True)
        raw = path.read_bytes()
        assert b"trainedAlgorithmicMedia</Iptc4xmpExt:DigitalSourceType>" in raw
        assert b"Many authorities refuse generated" in raw
        assert b"secret" not in raw
        assert raw.count(b"/Subtype /Image") == 1  # thirty photos, stored once

    @pytest.mark.parametrize("suffix", [".png", ".pdf"])
    def test_failed_checks_are_printed_and_told(self, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"sheet{suffix}"
        write_sheet(self.photo(passes=False), PAPERS["10x15cm"], path)
        if suffix == ".pdf":
            assert b"Written although checks failed: Sharp" in path.read_bytes()
            return
        assert "checks failed: Sharp" in str(read_provenance(path).statement)
        with Image.open(path) as image:
            pixels = np.asarray(image).astype(int)
        assert ((pixels[..., 0] > 150) & (pixels[..., 1] < 80)).sum() > 100  # in red

    def test_other_suffixes(self, tmp_path: Path) -> None:
        with pytest.raises(Problem, match=r"\.pdf, \.png"):
            write_sheet(self.photo(), PAPERS["a4"], tmp_path / "sheet.docx")


def _photos_are_at(grey: np.ndarray, placed: Any, spec: Any, per_mm: float) -> None:
    """Each photo fills its place to within a pixel: grey within its edges, paper or marks outside."""
    for x, y in placed.photos:
        left, top = x * per_mm, y * per_mm
        right, bottom = (x + spec.width) * per_mm, (y + spec.height) * per_mm
        middle = round((top + bottom) / 2), round((left + right) / 2)
        inside = np.abs(grey - 128) < 12
        row = np.flatnonzero(inside[middle[0], : round(right) + 5])
        column = np.flatnonzero(inside[: round(bottom) + 5, middle[1]])
        assert row[-1] + 1 == pytest.approx(right, abs=1.5)
        assert column[-1] + 1 == pytest.approx(bottom, abs=1.5)
        assert inside[middle[0], round(left) + 1 : round(right) - 1].all()
        assert inside[round(top) + 1 : round(bottom) - 1, middle[1]].all()
        assert not inside[middle[0], round(left) - 3]
        assert not inside[round(top) - 3, middle[1]]
