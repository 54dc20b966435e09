"""Passport-style specifications and papers, as data. Sizes in millimetres as the sources give them.

The sources state what they ask of photographs. Many authorities refuse generated or edited photos altogether:
meeting a specification here does not make a picture acceptable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from magicapture_core.languages import N_, _
from magicapture_core.problems import Problem

INCH = 25.4
_RGBA = re.compile(r"rgba?\(([\d.]+),\s*([\d.]+),\s*([\d.]+)(?:,\s*[\d.]+)?\)")

WHITE, OFF_WHITE, LIGHT_GREY = (255, 255, 255), (245, 245, 243), (221, 222, 224)

REFUSED = N_(
    "Passport-style only: this is not an official photo. Many authorities refuse generated or edited photos; ask "
    "yours before you use it."
)


@dataclass(frozen=True)
class Range:
    """What is permitted, both ends included."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        """What to aim at."""
        return (self.low + self.high) / 2

    def holds(self, value: float, tolerance: float = 0.0) -> bool:
        """Whether `value` is permitted, give or take `tolerance`."""
        return self.low - tolerance <= value <= self.high + tolerance


@dataclass(frozen=True)
class PhotoSpec:
    """What one authority asks of a photo."""

    name: str
    title: str
    """In English, marked by N_, as every text of it."""
    width: float
    """mm."""
    height: float
    """mm."""
    head: Range
    """Chin to crown in mm; to the top of the hair where `head_to_hair`."""
    background: tuple[int, int, int]
    """Colour that replaces the background, RGB 0..255; within what is permitted."""
    background_words: str
    """What the authority says of the background."""
    source: str
    """Who says so, and where."""
    eyes: Range | None = None
    """Height of the eye line over the lower edge in mm; None where the source states none."""
    top: Range | None = None
    """Space over the head in mm; None where the source states none."""
    head_to_hair: bool = False
    darkest_background: int = 200
    """Luma 0..255 that the background must reach."""
    most_tint: int = 255
    """Difference 0..255 that its red, green and blue may have at most; 255 where any light colour is permitted."""
    white: bool = True
    """Whether white is permitted, too."""
    dpi: int = 600
    """Resolution to write the photo at."""

    @property
    def pixels(self) -> tuple[int, int]:
        """(width, height) at `dpi`."""
        return to_pixels(self.width, self.dpi), to_pixels(self.height, self.dpi)

    def permits(self, background: tuple[int, int, int]) -> bool:
        """Whether a background of this colour (RGB 0..255) is as light, and white or not, as the source asks."""
        red, green, blue = background
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        if not self.white and min(background) >= CALLED_WHITE:
            return False
        return luma >= self.darkest_background and max(background) - min(background) <= self.most_tint

    @property
    def eye_range(self) -> Range:
        """Eye line in mm over the lower edge: the source's, else 45 to 75 % of the height, which they all show."""
        return self.eyes or Range(0.45 * self.height, 0.75 * self.height)


def to_pixels(millimetres: float, dpi: float) -> int:
    """Whole pixels of a length at a resolution."""
    return max(1, round(millimetres / INCH * dpi))


# The largest of red, green and blue over the smallest, of what is still called white, and cream (#fffdd0: 47).
MOST_TINT_OF_WHITE, MOST_TINT_OF_CREAM = 20, 50
CALLED_WHITE = 245
"""The least of red, green and blue from which on a background is white, where that is not permitted."""
_ICAO_EYES = Range(22.5, 31.5)

SPECS: dict[str, PhotoSpec] = {
    spec.name: spec
    for spec in (
        PhotoSpec(
            "icao", N_("ICAO 35×45 mm"), 35, 45, Range(31.5, 36), LIGHT_GREY, N_("plain and light"), eyes=_ICAO_EYES,
            source="ICAO Doc 9303 part 3 and ISO/IEC 19794-5: head 70 to 80 % of the height, eyes at 50 to 70 %",
        ),
        PhotoSpec(
            "us", N_("United States 2×2 in"), 2 * INCH, 2 * INCH, Range(INCH, 1.375 * INCH), WHITE,
            N_("white or off-white"),
            eyes=Range(1.125 * INCH, 1.375 * INCH), head_to_hair=True, darkest_background=225,
            most_tint=MOST_TINT_OF_WHITE,
            source="US Department of State, photo composition template (travel.state.gov)",
        ),
        PhotoSpec(
            "schengen", N_("Schengen visa 35×45 mm"), 35, 45, Range(32, 36), LIGHT_GREY, N_("light, one colour"),
            eyes=_ICAO_EYES,
            source="Visa Code, Regulation (EC) 810/2009, article 10, by ICAO Doc 9303: face 70 to 80 % of the height",
        ),
        PhotoSpec(
            "uk", N_("United Kingdom 35×45 mm"), 35, 45, Range(29, 34), LIGHT_GREY, N_("plain cream or light grey"),
            most_tint=MOST_TINT_OF_CREAM, white=False,
            source="HM Passport Office, printed passport photos (gov.uk/photos-for-passports)",
        ),
        PhotoSpec(
            "india", N_("India visa and OCI 2×2 in"), 2 * INCH, 2 * INCH, Range(25, 35), WHITE,
            N_("plain white or off-white"),
            eyes=Range(28, 35), head_to_hair=True, darkest_background=225, most_tint=MOST_TINT_OF_WHITE,
            source="Government of India, photos for visas and OCI (indianvisaonline.gov.in, passport.gov.in/oci)",
        ),
        PhotoSpec(
            "india-passport", N_("India passport 2×2 in"), 2 * INCH, 2 * INCH, Range(1.4 * INCH, 1.6 * INCH), WHITE,
            N_("plain and light"), darkest_background=225,
            source="Indian missions, passport photos: face 70 to 80 % of the height, 1.4 to 1.6 in (eoi.gov.in/harare)",
        ),
        PhotoSpec(
            "china", N_("China 33×48 mm"), 33, 48, Range(28, 33), WHITE, N_("white or close to white"),
            top=Range(3, 5),
            darkest_background=225, most_tint=MOST_TINT_OF_WHITE,
            source="Chinese Visa Application Service Center and embassies, photo requirements (visaforchina.cn)",
        ),
        PhotoSpec(
            "japan", N_("Japan 35×45 mm"), 35, 45, Range(32, 36), OFF_WHITE, N_("plain and light"), top=Range(2, 6),
            source="Ministry of Foreign Affairs of Japan, passport photos: head 34±2 mm, 4±2 mm over it (mofa.go.jp)",
        ),
        PhotoSpec(
            "canada", N_("Canada 50×70 mm"), 50, 70, Range(31, 36), WHITE, N_("plain white or light-coloured"),
            source="Immigration, Refugees and Citizenship Canada, passport photos (canada.ca)",
        ),
        PhotoSpec(
            "australia", N_("Australia 35×45 mm"), 35, 45, Range(32, 36), LIGHT_GREY,
            N_("plain and light, not white"), white=False,
            source="Australian Passport Office, photo guidelines: 35 to 40 × 45 to 50 mm (passports.gov.au)",
        ),
        PhotoSpec(
            "korea", N_("Korea 35×45 mm"), 35, 45, Range(32, 36), WHITE, N_("plain white"), darkest_background=225,
            most_tint=MOST_TINT_OF_WHITE,
            source="Ministry of Foreign Affairs of Korea, passport photo rules (passport.go.kr)",
        ),
    )
}  # fmt: skip
ALIASES = {"passport": "icao"}
"""Other names under which presets and people ask for a specification."""


def photo_spec(name: str) -> PhotoSpec:
    """The specification of that name. Problem if there is none."""
    found = SPECS.get(ALIASES.get(name, name))
    if found is None:
        raise Problem(
            _(
                "There is no photo specification {name}. Choose one of: {names}.",
                name=repr(name),
                names=", ".join(SPECS),
            )
        )
    return found


def background_colour(text: str) -> tuple[int, int, int]:
    """RGB 0..255 of a colour as CSS writes it: "#dde3ea", "rgb(221, 227, 234)", "white". Problem for anything else.

    rgba() with fractions is read, too, as gradio's colour picker writes it; how opaque it is does not count.
    """
    from PIL import ImageColor

    parts = _RGBA.fullmatch(text.strip())
    if parts and all(float(part) <= 255 for part in parts.groups()):
        red, green, blue = (round(float(part)) for part in parts.groups())
        return red, green, blue
    try:
        return ImageColor.getrgb(text.strip())[:3]
    except ValueError as error:
        raise Problem(
            _("The background colour is written as #dde3ea or white; got {got}.", got=repr(text))
        ) from error


def as_hex(colour: tuple[int, int, int]) -> str:
    """RGB 0..255 as #rrggbb."""
    return "#" + bytes(colour).hex()


@dataclass(frozen=True)
class Paper:
    """What a sheet is printed on, upright."""

    name: str
    title: str
    width: float
    """mm."""
    height: float
    """mm."""
    margin: float
    """What printers may leave blank, mm."""


PAPERS: dict[str, Paper] = {
    paper.name: paper
    for paper in (
        Paper("10x15cm", N_("10×15 cm"), 100, 150, 3),
        Paper("4x6in", N_("4×6 in"), 4 * INCH, 6 * INCH, 3),
        Paper("a4", "A4", 210, 297, 8),
    )
}


def paper(name: str) -> Paper:
    """The paper of that name. Problem if there is none."""
    if name not in PAPERS:
        raise Problem(
            _("There is no paper {name}. Choose one of: {names}.", name=repr(name), names=", ".join(PAPERS))
        )
    return PAPERS[name]
