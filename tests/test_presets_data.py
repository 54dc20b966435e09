"""The shipped presets and sample people: valid, small, one face a photo, the same person where they should be."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from magicapture_core.concepts import doubt, prepare_concept
from magicapture_core.faces import choose_analyser, embed_face
from magicapture_core.models.words import look_features
from magicapture_core.photos import read_photo
from magicapture_core.presets import load_preset, preset_names
from magicapture_core.provenance import read_provenance
from magicapture_core.ui.prompt_chips import ideas_for
from magicapture_core.ui.stored_session import OWN

ROOT = Path(__file__).parent.parent
PEOPLE = sorted(path for path in (ROOT / "assets" / "people").iterdir() if path.is_dir())


def faces_of(folder: Path) -> np.ndarray:
    """Embeddings (6, 128) of the folder's photos, each of which must show exactly one face and be 512 px or more."""
    analyser, _ = choose_analyser("bundled")
    found = []
    for path in sorted(folder.glob("*.jpg")):
        pixels = read_photo(path).pixels
        assert min(pixels.shape[:2]) >= 512, path
        faces = analyser.detect(pixels)
        assert len(faces) == 1, f"{path}: {len(faces)} faces"
        found.append(embed_face(analyser, pixels, faces[0]))
    assert len(found) == 6, folder
    return np.stack(found)


def test_there_are_four_people_and_sixteen_presets() -> None:
    assert len(PEOPLE) == 4
    assert {"passport", "profile"} < set(preset_names())
    assert len(preset_names()) >= 16
    assert OWN not in preset_names()  # the visitor's own style photos have this name in the wizard
    assert len({load_preset(name).title for name in preset_names()}) == len(preset_names())


def looks_of(name: str) -> torch.Tensor:
    """Look features (6, 38) of a preset's photos."""
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in load_preset(name).photos]
    return look_features(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1)


def test_presets_differ_clearly() -> None:
    """By 22 grey levels at least (root mean square of the features); passport and profile by 24."""
    means = {name: looks_of(name).mean(0) for name in preset_names()}
    for one, other in itertools.combinations(means, 2):
        assert (means[one] - means[other]).square().mean().sqrt() > 20, (one, other)


@pytest.mark.parametrize("name", preset_names())
def test_references_are_small_marked_and_have_masks_that_nobody_doubts(name: str) -> None:
    paths = load_preset(name).photos
    assert sum(path.stat().st_size for path in paths) < 300_000
    assert all(read_provenance(path).generated for path in paths)
    analyser, _ = choose_analyser("bundled")
    concept = prepare_concept(
        [read_photo(path) for path in paths], "style", resolution=256, analyser=analyser, framing="aligned"
    )
    assert {example.name: doubt(example) for example in concept.examples if doubt(example)} == {}


@pytest.mark.parametrize("folder", PEOPLE, ids=lambda path: path.name)
def test_a_sample_person_is_one_person(folder: Path) -> None:
    embeddings = faces_of(folder)
    mean = embeddings.mean(axis=0)
    assert (embeddings @ mean / np.linalg.norm(mean)).min() >= 0.45


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_valid_and_shows_six_different_people(name: str) -> None:
    preset = load_preset(name)
    assert preset.title
    assert preset.description.endswith(".")
    assert all("{subject}" in prompt and "{style}" in prompt for prompt in preset.prompts)
    assert len(preset.photos) == 6
    cosines = (embeddings := faces_of(preset.photos[0].parent)) @ embeddings.T
    assert (
        cosines[~np.eye(6, dtype=bool)].max() < 0.6
    )  # photos of one sample person: .6 to .9 with each other


def test_pictures_are_small_in_all() -> None:
    pictures = [*(ROOT / "assets" / "people").rglob("*.jpg"), *(ROOT / "presets").rglob("*.jpg")]
    assert sum(path.stat().st_size for path in pictures) < 8e6


def test_only_what_the_mini_model_can_do_is_offered_for_it() -> None:
    known = tuple(
        json.loads((ROOT / "assets" / "mini" / "magicapture.json").read_text(encoding="utf-8"))["edits"]
    )
    prompts = [prompt for name in preset_names() for prompt in load_preset(name).prompts[1:]]
    offered = ideas_for(prompts, known)
    assert len(offered) > 6
    assert any("smiling" in prompt for prompt in offered)
    assert ideas_for(
        ["a {subject} on a horse in the {style}", "a {subject} in the {style}, smiling"], known
    ) == ["a {subject} in the {style}, smiling"]
    assert ideas_for(prompts, ()) == prompts
