"""A sheet of equal photos with cut marks, at exact physical size: PDF, PNG or JPEG.

What is printed on it is English in any language: the fonts that are always there have letters for no more.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from magicapture_core.files import atomic_file
from magicapture_core.formats.passport import PassportPhoto
from magicapture_core.formats.specs import INCH, REFUSED, Paper, PhotoSpec, to_pixels
from magicapture_core.languages import _
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
_INK, _RED = (60, 60, 60), (190, 20, 20)
# Text is measured in Pillow's own font, Aileron; in Helvetica, which PDFs have, the same is up to 2.7 % wider.
_WIDER = 1.04
_MEASURED_AT = 100

Line = tuple[str, tuple[int, int, int]]
"""Text and its colour."""


@dataclass(frozen=True)
class Layout:
    """Where things stand on the sheet, in mm from its upper left corner."""

    width: float
    height: float
    photos: list[tuple[float, float]]
    """Upper left corner of each photo."""
    photo: tuple[float, float]
    """Width and height of each as it stands on the sheet."""
    turned: bool
    """Whether the photos lie on their sides, because more of them fit so."""
    marks: list[tuple[float, float, float, float]]
    """Cut marks: lines x0, y0, x1, y1 along the photos' edges, none of them over a photo."""
    foot: float
    """Where the text begins."""
    lines: list[Line]
    """The text beside the ruler."""
    margin: float


def layout(spec: PhotoSpec, sheet: Paper, failed: Sequence[str] = ()) -> Layout:
    """As many photos as fit, the paper and the photos upright or lying. failed: checks that the sheet must name.

    Problem if not even one fits.
    """
    best: Layout | None = None
    for turned, (width, height) in itertools.product(
        (False, True), ((sheet.width, sheet.height), (sheet.height, sheet.width))
    ):
        lines = _foot_lines(spec, failed, width - 2 * sheet.margin - RULER - 2)
        foot = sheet.margin + _FOOT + (len(lines) - 1) * _LINE_HEIGHT
        photo = (spec.height, spec.width) if turned else (spec.width, spec.height)
        columns = int((width - 2 * sheet.margin + _GAP) // (photo[0] + _GAP))
        rows = int((height - sheet.margin - foot + _GAP) // (photo[1] + _GAP))
        if columns * rows > (len(best.photos) if best else 0):
            size = width, height
            best = _placed(photo, sheet, size, foot, (columns, rows), turned=turned, lines=lines)
    if best is None:
        raise Problem(
            _(
                "A photo of {width:g}×{height:g} mm does not fit on {paper}. Choose larger paper.",
                width=spec.width,
                height=spec.height,
                paper=_(sheet.title),
            )
        )
    return best


def _placed(
    photo: tuple[float, float],
    sheet: Paper,
    size: tuple[float, float],
    foot: float,
    grid: tuple[int, int],
    *,
    turned: bool,
    lines: list[Line],
) -> Layout:
    (width, height), (columns, rows), (wide, high) = size, grid, photo
    grid_width = columns * (wide + _GAP) - _GAP
    grid_height = rows * (high + _GAP) - _GAP
    left = (width - grid_width) / 2
    top = sheet.margin + (height - sheet.margin - foot - grid_height) / 2
    xs = [left + i * (wide + _GAP) for i in range(columns)]
    ys = [top + i * (high + _GAP) for i in range(rows)]
    marks = []
    for x in (edge for start in xs for edge in (start, start + wide)):
        marks += [(x, top - _MARK_OFF - _MARK, x, top - _MARK_OFF)]
        marks += [(x, y + high, x, y + high + _GAP) for y in ys[:-1]]
        marks += [(x, top + grid_height + _MARK_OFF, x, top + grid_height + _MARK_OFF + _MARK)]
    for y in (edge for start in ys for edge in (start, start + high)):
        marks += [(left - _MARK_OFF - _MARK, y, left - _MARK_OFF, y)]
        marks += [(x + wide, y, x + wide + _GAP, y) for x in xs[:-1]]
        marks += [(left + grid_width + _MARK_OFF, y, left + grid_width + _MARK_OFF + _MARK, y)]
    text = height - foot + 2 * _MARK_OFF + _MARK
    places = [(x, y) for y in ys for x in xs]
    return Layout(width, height, places, photo, turned, marks, text, lines, sheet.margin)


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
        raise Problem(
            _(
                "Sheets are written as {suffixes}; got {name}. Choose one of those.",
                suffixes=", ".join(SUFFIXES),
                name=repr(path.name),
            )
        )
    placed = layout(photo.spec, sheet, [check.title for check in photo.failed])
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


def _foot_lines(spec: PhotoSpec, failed: Sequence[str], room: float) -> list[Line]:
    """The text beside the ruler, in lines of at most `room` mm."""
    title = spec.title.replace("×", "x")  # Pillow's own font has no such sign
    text = (
        f"Passport-style, {title}. Print at 100 %: this line is {RULER:.0f} mm. AI-generated; many "
        "authorities refuse it."
    )
    warning = f"CHECKS FAILED: {', '.join(failed).lower()}" if failed else ""
    return [(line, _RED) for line in _wrapped(warning, room)] + [
        (line, _INK) for line in _wrapped(text, room)
    ]


def _wrapped(text: str, room: float) -> list[str]:
    font = ImageFont.load_default(_MEASURED_AT)
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) / _MEASURED_AT * _TEXT * _WIDER <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


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
    picture = _standing(photo, placed)
    for x, y in placed.photos:
        box = (px(x), px(y), px(x + placed.photo[0]), px(y + placed.photo[1]))
        image.paste(picture.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.LANCZOS), box[:2])
    middle = placed.foot + _TEXT / 2
    pen.line((px(placed.margin), px(middle), px(placed.margin + RULER), px(middle)), fill=_INK, width=px(0.2))
    font = ImageFont.load_default(px(_TEXT))
    for number, (text, colour) in enumerate(placed.lines):
        at = px(placed.margin + RULER + 2), px(placed.foot + number * _LINE_HEIGHT)
        pen.text(at, text, fill=colour, font=font)
    return image


def _standing(photo: PassportPhoto, placed: Layout) -> Image.Image:
    picture = Image.fromarray(photo.pixels)
    return picture.transpose(Image.Transpose.ROTATE_90) if placed.turned else picture


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
    picture = _standing(photo, placed)
    for x, y in placed.photos:
        pdf.image(picture, x, y, *placed.photo)
    pdf.set_line_width(0.2)
    middle = placed.foot + _TEXT / 2
    pdf.line(placed.margin, middle, placed.margin + RULER, middle)
    pdf.set_font("Helvetica", size=_TEXT / INCH * 72)
    for number, (line, colour) in enumerate(placed.lines):
        pdf.set_text_color(*colour)
        pdf.text(placed.margin + RULER + 2, placed.foot + 0.8 * _TEXT + number * _LINE_HEIGHT, line)
    with atomic_file(path) as file:
        pdf.output(str(file))
