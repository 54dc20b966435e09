"""Words that a model makes of photos: look features, faces that lie outside, the start of a training, drafts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import WIDTH, ToyAnalyser, save_toy, save_toy_words
from trainings import short, start, toy_concept

from magicapture_core.config import GenerateConfig
from magicapture_core.generation import draft
from magicapture_core.models import load
from magicapture_core.models.words import (
    FILE,
    LEAST_KEPT,
    LOOK_SIZE,
    Words,
    face_statistics,
    look_features,
    read_words,
    save_words,
)
from magicapture_core.problems import Problem

ASSETS = Path(__file__).parent.parent / "assets"


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The toy model with words for the toy recogniser."""
    folder = save_toy(tmp_path_factory.mktemp("speaking") / "toy", words=("toy", 16))
    return load(str(folder), device="cpu", dtype=torch.float32)


def words_with(**changes: Any) -> Words:
    plain = Words(
        "toy", torch.zeros(4, 2), torch.zeros(4), torch.zeros(4, LOOK_SIZE), torch.zeros(4), torch.zeros(LOOK_SIZE),
        torch.ones(LOOK_SIZE), torch.zeros(2), torch.eye(2), torch.ones(2), torch.eye(2), torch.zeros(2),
    )  # fmt: skip
    return replace(plain, **changes)


def test_look_features_worked_example() -> None:
    # Left half red, right half black: cells of the 4×4 grid in columns 0 and 1 are red, the inner four left out.
    picture = torch.full((1, 3, 64, 64), -1.0)
    picture[:, 0, :, :32] = 1
    look = look_features(picture)[0]
    red, black = [255.0, 0, 0], [0.0, 0, 0]
    rows = [red * 2 + black * 2, red + black, red + black, red * 2 + black * 2]
    assert look[:36].tolist() == [value for row in rows for value in row]
    assert look[36].item() == pytest.approx(127.5)  # half of it is as colourful as can be
    # A sixth of all values is 255, the others 0: 255 · sqrt(1/6 · 5/6).
    assert look[37].item() == pytest.approx(255 * (5 / 36) ** 0.5, rel=1e-5)


def test_look_features_do_not_depend_on_the_pictures_size() -> None:
    small = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    large = torch.nn.functional.interpolate(small, scale_factor=4, mode="nearest")
    torch.testing.assert_close(look_features(small), look_features(large), atol=1e-3, rtol=1e-5)


def test_faces_like_the_trainings_stay_and_others_are_pulled_in() -> None:
    words = words_with(face_mean=torch.tensor([1.0, 0.0]), face_spread=torch.tensor([0.1, 0.2]))
    near = torch.tensor([1.05, 0.1])  # half a deviation along each
    torch.testing.assert_close(words.within(near), near)
    assert words.deviation(near) == pytest.approx(0.5)
    far = torch.tensor([1.16, 0.0])  # 1.6 along one of two: sqrt(2.56 / 2)
    assert words.deviation(far) == pytest.approx(1.1314, abs=1e-4)
    assert words.deviation(words.within(far)) == pytest.approx(0.8)
    farthest = torch.tensor([2.0, 0.0])
    torch.testing.assert_close(words.within(farthest)[0], torch.tensor(1 + LEAST_KEPT))


def test_statistics_of_faces() -> None:
    generator = torch.Generator().manual_seed(1)
    faces = torch.randn(4000, 3, generator=generator) * torch.tensor([3.0, 1.0, 0.1]) + 5
    found = face_statistics(faces)
    torch.testing.assert_close(found["face_mean"], torch.full((3,), 5.0), atol=0.2, rtol=0)
    torch.testing.assert_close(found["face_spread"], torch.tensor([3.0, 1.0, 0.1]), atol=0.1, rtol=0.05)
    assert found["face_directions"][0].abs().argmax() == 0


def test_a_person_is_cleaned_before_they_are_mapped() -> None:
    turned = words_with(
        person_weight=torch.tensor([[1.0, 0], [0, 1], [0, 0], [0, 0]]),
        person_bias=torch.tensor([0.0, 0, 0, 7]),
        clean_weight=torch.tensor([[0.0, 1], [1, 0]]),
        face_mean=torch.tensor([0.0, 1.0]),
    )
    word = turned.person(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(word, torch.tensor([0.0, 1, 0, 7]))


def test_words_are_read_back_and_damaged_ones_refused(tmp_path: Path) -> None:
    assert read_words(tmp_path) is None
    save_toy_words(tmp_path)
    words = read_words(tmp_path)
    assert words is not None
    assert words.recogniser == "toy"
    assert words.person(torch.eye(16)[:2]).shape == (WIDTH,)
    save_words(tmp_path / FILE, {"person_weight": torch.zeros(3, 3)}, "toy")
    with pytest.raises(Problem, match="Copy the model again"):
        read_words(tmp_path)


def test_a_training_starts_from_the_photos_words(speaking: Any, tmp_path: Path) -> None:
    config = short(ti_steps=1, lora_steps=0, initial_words="photos", ti_learning_rate=0.0)
    [report] = start(speaking, config, tmp_path / "run")
    assert report.note is None
    from safetensors.torch import load_file

    subject, style = toy_concept("subject"), toy_concept("style")
    analyser = ToyAnalyser()
    from magicapture_core.faces import align

    faces = torch.cat(
        [analyser.embedder()(align(e.image[None] / 2 + 0.5, e.landmarks[None])) for e in subject.examples]  # type: ignore[index]
    )
    looks = look_features(torch.stack([example.image for example in style.examples]))
    for name, expected in (
        ("subject", speaking.words.person(faces)),
        ("style", speaking.words.style(looks)),
    ):
        row = load_file(tmp_path / "run" / "adapter" / f"{name}.safetensors")[f"<{name}>"]
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-4)


def test_without_words_a_training_starts_as_in_the_paper_and_says_so_once(toy: Any, tmp_path: Path) -> None:
    settings = {"ti_steps": 2, "lora_steps": 0, "ti_learning_rate": 0.0}
    reports = list(start(toy, short(initial_words="photos", **settings), tmp_path / "photos"))
    assert "as in the paper" in (reports[0].note or "")
    assert reports[1].note is None
    list(start(toy, short(**settings), tmp_path / "paper"))
    rows = [
        (tmp_path / name / "adapter" / "subject.safetensors").read_bytes() for name in ("photos", "paper")
    ]
    assert rows[0] == rows[1]


def test_another_face_network_keeps_the_persons_start(tmp_path: Path) -> None:
    folder = save_toy(tmp_path / "toy", words=("another", 16))
    models = load(str(folder), device="cpu", dtype=torch.float32)
    config = short(ti_steps=1, lora_steps=0, initial_words="photos", ti_learning_rate=0.0)
    [report] = start(models, config, tmp_path / "run")
    assert "another" in (report.note or "")
    assert "toy" in (report.note or "")


def test_drafts_need_no_training(speaking: Any) -> None:
    config = GenerateConfig(count=2, seed=3, steps=2)
    steps: list[float] = []
    made = list(
        draft(
            speaking, toy_concept("subject"), toy_concept("style"), config, analyser=ToyAnalyser(),
            progress=lambda _what, done, _total: steps.append(done),
        )
    )  # fmt: skip
    assert [portrait.seed for portrait in made] == [3, 4]
    assert all(portrait.identity is not None for portrait in made)
    assert steps == [1, 2]
    again = next(
        draft(speaking, toy_concept("subject"), toy_concept("style"), config, analyser=ToyAnalyser())
    )
    assert again.image.tobytes() == made[0].image.tobytes()


def test_what_the_person_is_called_is_in_the_prompt(speaking: Any) -> None:
    config = GenerateConfig(count=1, seed=3, steps=2)
    concepts = toy_concept("subject"), toy_concept("style")
    pictures = [
        next(draft(speaking, *concepts, config, analyser=ToyAnalyser(), noun=noun)).image.tobytes()
        for noun in ("person", "woman", "old man")
    ]
    assert len(set(pictures)) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [({"faces": False}, "No face"), ({"kind": "object"}, "people only")],
)
def test_no_draft_where_there_is_no_person(speaking: Any, change: dict[str, Any], said: str) -> None:
    with pytest.raises(Problem, match=said):
        draft(
            speaking, toy_concept("subject", **change), toy_concept("style"), GenerateConfig(), analyser=ToyAnalyser()
        )  # fmt: skip


def test_a_model_without_words_makes_no_drafts(toy: Any) -> None:
    with pytest.raises(Problem, match=r"words\.safetensors"):
        draft(toy, toy_concept("subject"), toy_concept("style"), GenerateConfig(), analyser=ToyAnalyser())


def test_the_mini_models_words() -> None:
    words = read_words(ASSETS / "mini")
    assert words is not None
    assert words.recogniser == "SFace"
    assert words.person_weight.shape == (256, 128)
    assert 0.99 < float(words.face_directions[0].norm()) < 1.01
