"""Words for a picture: attributes (measured, or made by variants.py and therefore true) -> a caption.

Every phrase is left out now and then and the order changes, so that each word gets a meaning of its own. Phrases of
what variants.py did are seldom left out, so that plain "a photo of a person" stays a natural photo.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

BACKGROUNDS = {
    "white": ["white background", "plain white background"],
    "light grey": ["light grey background", "plain light grey background"],
    "grey": ["grey background", "plain grey background"],
    "dark grey": ["dark grey background", "dark background"],
    "black": ["black background", "plain black background"],
    "blue": ["blue background", "plain blue background"],
    "light blue": ["light blue background", "plain light blue background"],
    "green": ["green background", "plain green background"],
    "red": ["red background", "plain red background"],
    "beige": ["beige background", "plain beige background"],
    "outdoor": ["blurred outdoor background", "blurred green outdoor background", "outdoors", "in a park"],
    "city": ["city lights at night", "night city background", "blurred city lights"],
    "sunset": ["sunset sky", "sunset background", "sky at sunset"],
}
FINISHES = {
    "black-and-white": ["black-and-white photo", "black and white", "black-and-white"],
    "sepia": ["sepia photo", "sepia", "sepia tones"],
    "vintage": ["vintage film photo", "vintage film", "faded vintage photo", "old film photo"],
}
LIGHTS = {
    "soft": ["soft studio light", "soft even light", "studio light"],
    "warm": ["warm evening light", "golden hour", "warm light", "warm golden light"],
    "cool": ["cool blue light", "cool light", "cold blue light"],
    "side": ["dramatic side light", "dramatic light", "side light"],
}
ACCESSORIES = {
    "sunglasses": ["wearing sunglasses", "with sunglasses", "wearing dark sunglasses"],
    "round glasses": ["wearing round glasses", "with round glasses", "wearing glasses"],
}
FRAMINGS = {"close": ["close-up", "close-up of the face"], "far": ["from further away", "head and shoulders"]}
STYLE_WORDS = {
    "black-and-white": "black-and-white",
    "sepia": "sepia",
    "vintage": "vintage film",
    "soft": "studio",
    "warm": "golden hour",
    "cool": "cool blue",
    "side": "dramatic",
    "outdoor": "outdoor",
    "city": "night city",
    "sunset": "sunset",
    "white": "white background",
    "black": "dark",
}
CLOTHES = {
    "dark": ["in dark clothes", "wearing dark clothing"],
    "light": ["in light clothes", "wearing light clothing"],
}
EXPRESSIONS = {
    "smiling": ["smiling", "with a smile", "smiling at the camera"],
    "neutral": ["with a neutral expression", "serious", "neutral expression"],
}
OPENINGS = [
    "a photo of",
    "a photo of",
    "a photo of",
    "a portrait of",
    "a portrait photo of",
    "a picture of",
    "photo of",
]


def _pick(choices: list[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


PERSON_MARK, STYLE_MARK = "~", "^"
"""Words that networks.Denoiser replaces by what a face recognition sees in the face, and by the colours around it.

So the space of the words holds people and looks, as that of a large model holds the names of many people.
"""


NAMED, STYLED = 0.5, 0.35
"""Shares of captions with a mark; of the captions without a named style."""
BESIDE_MARK = (0.5, 0.5)
"""How often gender and age, where known, are said beside a person's mark: so they can correct what it got wrong."""
SELDOM_BESIDE_MARK = (0.2, 0.1)
"""The same in the captions that the first models at 256 px learned from."""


HAIR = ("black", "brown", "blond", "grey")
"""Colours of hair that measure.py tells."""


def vocabulary() -> list[str]:
    """Every word that a caption can have, in the order of the alphabet."""
    tables = (BACKGROUNDS, FINISHES, LIGHTS, ACCESSORIES, FRAMINGS, CLOTHES, EXPRESSIONS)
    phrases = [phrase for table in tables for each in table.values() for phrase in each]
    phrases += [
        *STYLE_WORDS.values(),
        *OPENINGS,
        *HAIR,
        "in front of",
        "on",
        "with hair",
        "the style",
        "close-up",
    ]
    phrases += ["an old man", "a young middle-aged woman", "person"]
    return sorted({word for phrase in phrases for word in re.findall("[a-z]+", phrase.lower())})


def noun(
    attributes: Mapping[str, str],
    rng: np.random.Generator,
    mark: str = "",
    beside: tuple[float, float] = BESIDE_MARK,
) -> str:
    """ "a person", "an old man", "a ~ woman": the noun is "person" about half of the time."""
    said_who, said_age = beside if mark else (0.48, 0.4)
    who = attributes.get("who", "person") if rng.random() < said_who else "person"
    age = attributes.get("age", "") if rng.random() < said_age else ""
    return " ".join(word for word in ("an" if age[:1] == "o" else "a", age, mark, who) if word)


def looks(attributes: Mapping[str, str], rng: np.random.Generator) -> list[str]:
    """Phrases of what the photo shows by itself; each is left out about half of the time."""
    phrases = []
    if "hair" in attributes and rng.random() < 0.5:
        phrases.append(f"with {attributes['hair']} hair")
    if "expression" in attributes and rng.random() < 0.5:
        phrases.append(_pick(EXPRESSIONS[attributes["expression"]], rng))
    if "clothes" in attributes and rng.random() < 0.55:
        phrases.append(_pick(CLOTHES[attributes["clothes"]], rng))
    return phrases


def _background(name: str, rng: np.random.Generator) -> str:
    phrase = _pick(BACKGROUNDS[name], rng)
    if "background" in phrase and rng.random() < 0.5:
        return f"{_pick(['in front of a', 'on a', 'with a'], rng)} {phrase}"
    return phrase


def caption(
    attributes: Mapping[str, str], rng: np.random.Generator, beside: tuple[float, float] = BESIDE_MARK
) -> str:
    """One caption for a picture with these attributes; another draw gives another caption.

    beside: how often gender and age are said beside a person's mark.
    """
    get = attributes.get
    mark = PERSON_MARK if rng.random() < NAMED else ""
    style = None
    named = [key for kind in ("finish", "light", "background") if (key := get(kind)) in STYLE_WORDS]
    if named and rng.random() < 0.35:
        style = _pick(named, rng)  # said as "in the … style" instead of by its phrase
    opening = _pick(OPENINGS, rng)
    if get("finish") and style != get("finish") and rng.random() < 0.3:
        opening, style_said = f"a {FINISHES[attributes['finish']][0]} of", True
    else:
        style_said = style == get("finish")
    if get("framing") == "close" and rng.random() < 0.3:
        opening = opening.replace("a photo", "a close-up photo")
    start = f"{opening} {noun(attributes, rng, mark, beside)}"
    if not style and rng.random() < STYLED:
        start += f" in the {STYLE_MARK} style"
    elif style:
        start += f" in the {STYLE_WORDS[style]} style"
    phrases = looks(attributes, rng)
    if get("accessory"):  # never unsaid, or people of no such prompt would wear glasses
        phrases.append(_pick(ACCESSORIES[attributes["accessory"]], rng))
    if get("background") and style != get("background") and rng.random() < 0.85:
        phrases.append(_background(attributes["background"], rng))
    if get("light") and style != get("light") and rng.random() < 0.85:
        phrases.append(_pick(LIGHTS[attributes["light"]], rng))
    if get("finish") and not style_said:
        phrases.append(_pick(FINISHES[attributes["finish"]], rng))
    if get("framing") and rng.random() < 0.6:
        phrases.append(_pick(FRAMINGS[attributes["framing"]], rng))
    rng.shuffle(phrases)
    return ", ".join([start, *phrases]) if rng.random() < 0.8 else " ".join([start, *phrases])
