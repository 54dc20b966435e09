"""A sheet of equal photos with cut marks, at exact physical size: PDF, PNG or JPEG."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from magicapture_core.files import atomic_file
from magicapture_core.formats.passport import PassportPhoto
from magicapture_core.formats.specs import INCH, REFUSED, Paper, PhotoSpec, to_pixels
from magicapture_core.problems import Problem
from magicapture_core.provenance import parameters, save_picture, xmp

SHEET_DPI = 600
"""Resolution of sheets as pictures."""
SUFFIXES = (".pdf", ".png", ".jpg", ".jpeg")

# All in mm. With this gap eight photos of 35×45 mm fit on 10×15 cm; a cut on either side of it loses nothing.
_GAP = 1.0
_MARK, _MARK_OFF, _MARK_WIDTH = 1.3, 0.3, 0.1
_TEXT, _LINE_HEIGHT = 1.7, 2.1
# Under the photos, beside the margin: cut marks and the first line of text, which reaches 0.6 mm into the margin.
_FOOT = 3.0
RULER = 50.0
"""Length in mm of the line that tells whether a printer scaled the page."""
# Narrower sheets need the text in three lines beside the ruler, wider ones in one.
_ONE_LINE = 140.0
_INK, _RED = (60, 60, 60), (190, 20, 20)


@dataclass(frozen=True)
class Layout:
    """Where things stand on the sheet, in mm from its upper left corner."""

    width: float
    height: float
    photos: list[tuple[float, float]]
    """Upper left corner of each photo."""
    marks: list[tuple[float, float, float, float]]
    """Cut marks: lines x0, y0, x1, y1 along the photos' edges, none of them over a photo."""
    foot: float
    """Where the text begins."""
    margin: float


def layout(spec: PhotoSpec, sheet: Paper, warning: bool = False) -> Layout:
    """As many photos as fit, the paper upright or lying. warning: with room for a line of it.

    Problem if not even one fits.
    """
    best: Layout | None = None
    for width, height in ((sheet.width, sheet.height), (sheet.height, sheet.width)):
        lines = (1 if width >= _ONE_LINE else 3) + warning
        foot = sheet.margin + _FOOT + (lines - 1) * _LINE_HEIGHT
        columns = int((width - 2 * sheet.margin + _GAP) // (spec.width + _GAP))
        rows = int((height - sheet.margin - foot + _GAP) // (spec.height + _GAP))
        if columns * rows > (len(best.photos) if best else 0):
            best = _placed(spec, sheet, (width, height), foot, (columns, rows))
    if best is None:
        raise Problem(
            f"A photo of {spec.width:g}×{spec.height:g} mm does not fit on {sheet.title}. Choose larger paper."
        )
    return best


def _placed(
    spec: PhotoSpec, sheet: Paper, size: tuple[float, float], foot: float, grid: tuple[int, int]
) -> Layout:
    (width, height), (columns, rows) = size, grid
    grid_width = columns * (spec.width + _GAP) - _GAP
    grid_height = rows * (spec.height + _GAP) - _GAP
    left = (width - grid_width) / 2
    top = sheet.margin + (height - sheet.margin - foot - grid_height) / 2
    xs = [left + i * (spec.width + _GAP) for i in range(columns)]
    ys = [top + i * (spec.height + _GAP) for i in range(rows)]
    marks = []
    for x in (edge for start in xs for edge in (start, start + spec.width)):
        marks += [(x, top - _MARK_OFF - _MARK, x, top - _MARK_OFF)]
        marks += [(x, y + spec.height, x, y + spec.height + _GAP) for y in ys[:-1]]
        marks += [(x, top + grid_height + _MARK_OFF, x, top + grid_height + _MARK_OFF + _MARK)]
    for y in (edge for start in ys for edge in (start, start + spec.height)):
        marks += [(left - _MARK_OFF - _MARK, y, left - _MARK_OFF, y)]
        marks += [(x + spec.width, y, x + spec.width + _GAP, y) for x in xs[:-1]]
        marks += [(left + grid_width + _MARK_OFF, y, left + grid_width + _MARK_OFF + _MARK, y)]
    text = height - foot + 2 * _MARK_OFF + _MARK
    return Layout(width, height, [(x, y) for y in ys for x in xs], marks, text, sheet.margin)


def write_sheet(
    photo: PassportPhoto,
    sheet: Paper,
    path: Path | str,
    *,
    prompt: str | None = None,
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    private: bool = False,
) -> Layout:
    """Write the sheet as PDF, PNG or JPEG, by the path's suffix; returns where things stand on it.

    prompt, seed, settings, private: of the portrait, as for `save_picture`. Failed required checks are printed on the
    sheet and stand in its metadata. Problem on another suffix, RunProblem where it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise Problem(f"Sheets are written as {', '.join(SUFFIXES)}; got {path.name!r}. Choose one of those.")
    placed = layout(photo.spec, sheet, bool(photo.failed))
    statement = REFUSED
    if photo.failed:
        statement += f" Written although checks failed: {', '.join(check.title for check in photo.failed)}."
    about = {**(settings or {}), "format": photo.spec.name, "paper": sheet.name}
    if path.suffix.lower() == ".pdf":
        text = parameters(prompt, seed, about, private=private, statement=statement)
        _write_pdf(photo, placed, path, statement, text)
    else:
        save_picture(
            draw(photo, placed), path, prompt=prompt, seed=seed, settings=about, private=private,
            statement=statement, dpi=SHEET_DPI,
        )  # fmt: skip
    return placed


def _foot_lines(
    photo: PassportPhoto, placed: Layout, width_of: Callable[[str], float]
) -> list[tuple[str, tuple[int, int, int]]]:
    """The text beside the ruler, in lines that fit; width_of measures in mm."""
    title = photo.spec.title.replace("×", "x")  # Pillow's own font has no such sign
    text = (
        f"Passport-style, {title}. Print at 100 %: this line is {RULER:.0f} mm. AI-generated; many "
        "authorities refuse it."
    )
    room = placed.width - 2 * placed.margin - RULER - 2
    lines, line = [], ""
    for word in text.split():
        if line and width_of(f"{line} {word}") > room:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    found = [(each, _INK) for each in [*lines, line]]
    if photo.failed:
        failed = f"CHECKS FAILED: {', '.join(check.title.lower() for check in photo.failed)}"
        while width_of(failed) > room:
            failed = f"{failed.removesuffix('...')[:-1]}..."
        found.insert(0, (failed, _RED))
    return found


def draw(photo: PassportPhoto, placed: Layout) -> Image.Image:
    """The sheet as a picture of SHEET_DPI."""

    def px(millimetres: float) -> int:
        return round(millimetres / INCH * SHEET_DPI)

    image = Image.new(
        "RGB", (to_pixels(placed.width, SHEET_DPI), to_pixels(placed.height, SHEET_DPI)), "white"
    )
    pen = ImageDraw.Draw(image)
    for x0, y0, x1, y1 in placed.marks:
        # A mark lies just outside of the photo's edge, which is where the cut goes.
        pen.line((px(x0), px(y0), px(x1), px(y1)), fill=_INK, width=max(1, px(_MARK_WIDTH)))
    picture = Image.fromarray(photo.pixels)
    for x, y in placed.photos:
        box = (px(x), px(y), px(x + photo.spec.width), px(y + photo.spec.height))
        image.paste(picture.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.LANCZOS), box[:2])
    middle = placed.foot + _TEXT / 2
    pen.line((px(placed.margin), px(middle), px(placed.margin + RULER), px(middle)), fill=_INK, width=px(0.2))
    font = ImageFont.load_default(px(_TEXT))
    lines = _foot_lines(photo, placed, lambda text: font.getlength(text) / SHEET_DPI * INCH)
    for number, (text, colour) in enumerate(lines):
        at = px(placed.margin + RULER + 2), px(placed.foot + number * _LINE_HEIGHT)
        pen.text(at, text, fill=colour, font=font)
    return image


def _write_pdf(photo: PassportPhoto, placed: Layout, path: Path, statement: str, text: str) -> None:
    """One page; the photo is stored once, without loss, and placed in exact mm."""
    from fpdf import FPDF

    pdf = FPDF(unit="mm", format=(placed.width, placed.height))
    pdf.set_auto_page_break(False)
    pdf.add_page()
    pdf.set_title(f"Passport-style photos, {photo.spec.title}")
    pdf.set_subject(statement)
    pdf.set_creator("MagiCapture")
    pdf.set_keywords("AI-generated, trainedAlgorithmicMedia, passport-style")
    pdf.set_xmp_metadata(xmp(text))
    pdf.set_draw_color(*_INK)
    pdf.set_line_width(_MARK_WIDTH)
    for mark in placed.marks:
        pdf.line(*mark)
    picture = Image.fromarray(photo.pixels)
    for x, y in placed.photos:
        pdf.image(picture, x, y, photo.spec.width, photo.spec.height)
    pdf.set_line_width(0.2)
    middle = placed.foot + _TEXT / 2
    pdf.line(placed.margin, middle, placed.margin + RULER, middle)
    pdf.set_font("Helvetica", size=_TEXT / INCH * 72)
    for number, (line, colour) in enumerate(_foot_lines(photo, placed, pdf.get_string_width)):
        pdf.set_text_color(*colour)
        pdf.text(placed.margin + RULER + 2, placed.foot + 0.8 * _TEXT + number * _LINE_HEIGHT, line)
    with atomic_file(path) as file:
        pdf.output(str(file))
