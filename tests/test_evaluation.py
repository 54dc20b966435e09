"""The evaluation: metrics with known answers, cells that go on after a kill, a table, a page, a recommendation."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toy import ToyAnalyser, save_toy

from magicapture_core import __main__ as command_line
from magicapture_core import faces
from magicapture_core.commands.evaluate import DEFAULT_METHODS
from magicapture_core.config import VARIED, GenerateConfig
from magicapture_core.evaluation import cells, choose, judges, metrics, page, runner, table
from magicapture_core.evaluation.benchmark import Benchmark, load_benchmark
from magicapture_core.evaluation.cells import read_cell, run_cell
from magicapture_core.evaluation.edits import EDITS
from magicapture_core.evaluation.judges import FaceJudge, Judges, Seen, choose_face_judge
from magicapture_core.evaluation.methods import METHODS
from magicapture_core.evaluation.metrics import estimate
from magicapture_core.evaluation.tasks import Setup, Task
from magicapture_core.faces import Face
from magicapture_core.photos import read_photo
from magicapture_core.problems import MissingFiles, Problem
from magicapture_core.progress import StoppedError

QUICK = {"ti_steps": 2, "lora_steps": 2, "batch_size": 1, "gradient_accumulation": 1, "attention_resolution": 8,
         "checkpoint_every": 1, "lora_learning_rate": 1e-2}  # fmt: skip


# --- metrics --------------------------------------------------------------------------------------


def turned(degrees: float) -> np.ndarray:
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])


def test_csim_of_known_angles() -> None:
    photos = np.stack(
        [3 * turned(0), 0.5 * turned(60)]
    )  # lengths must not matter: the mean lies at 30 degrees
    assert metrics.csim_mean(turned(30), photos) == pytest.approx(1)
    assert metrics.csim_mean(turned(90), photos) == pytest.approx(0.5)
    assert metrics.csim_best(turned(70), photos) == pytest.approx(np.cos(np.radians(10)))
    assert metrics.csim_single(turned(60), photos) == pytest.approx((0.5 + 1) / 2)


def test_style_is_the_mean_over_references() -> None:
    assert metrics.style_similarity(turned(0), np.stack([turned(0), turned(90)])) == pytest.approx(0.5)


def test_the_colour_of_a_face_is_told_from_its_light() -> None:
    def face(*colour: int) -> np.ndarray:
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[2:6, 2:6] = colour
        return metrics.face_lab(pixels, keep)

    keep = np.ones((8, 8), bool)
    keep[2:6, 2:6] = False
    grey, light, red = face(90, 90, 90), face(200, 200, 200), face(255, 0, 0)
    np.testing.assert_allclose(grey[1:], 0, atol=0.1)
    np.testing.assert_allclose(red, [53.2, 80.1, 67.2], atol=0.2)  # sRGB's red in CIELAB
    assert metrics.colour_distance(light[1:], np.stack([grey, grey])[:, 1:]) == pytest.approx(0, abs=0.1)
    assert metrics.colour_distance(red[1:], np.stack([grey, red])[:, 1:]) == pytest.approx(52.3, abs=0.2)
    assert metrics.colour_distance(light, grey[None]) == pytest.approx(light[0] - grey[0], abs=0.1)


def test_a_lower_number_may_be_the_better_one() -> None:
    found = metrics.Estimate(-2.0, -3.0, -1.0, 9)
    columns = {column.name: column for column in table.COLUMNS}
    assert page._lead(found, columns["face_colour"])[2] == "ahead"
    assert page._lead(found, columns["csim"])[2] == "behind"


def test_diversity() -> None:
    assert metrics.diversity(np.stack([turned(10)] * 3)) == pytest.approx(0)
    assert metrics.diversity(np.stack([turned(0), turned(90)])) == pytest.approx(1)
    assert np.isnan(metrics.diversity(np.stack([turned(0)])))


def noise(seed: int, side: int = 64) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def test_a_copy_is_found_whatever_its_light_size_and_side() -> None:
    photos = [noise(1), noise(2)]
    assert metrics.copying(noise(2), photos) == pytest.approx(1)
    assert metrics.copying(noise(2)[:, ::-1], photos) == pytest.approx(1)
    darker = (np.asarray(Image.fromarray(noise(2)).resize((128, 128))) * 0.5 + 20).astype(np.uint8)
    assert metrics.copying(darker, photos) > 0.97
    assert metrics.copying(noise(3), photos) < 0.6
    assert metrics.copying(np.full((64, 64, 3), 9, np.uint8), photos) == 0


def test_the_interval_is_over_people_and_styles_not_pictures() -> None:
    same = {(i, s): 0.5 for i in "abc" for s in "xyz"}
    assert (estimate(same).low, estimate(same).high) == (0.5, 0.5)
    by_person = {(i, s): float(n) for n, i in enumerate("abc") for s in "xyz"}
    found = estimate(by_person)
    assert found.mean == pytest.approx(1)
    assert found.low == 0  # all three draws may be of the first person
    assert found.high == 2
    assert found.cells == 9
    turned_round = estimate({(s, i): value for (i, s), value in by_person.items()})
    assert (turned_round.low, turned_round.high) == (0, 2)  # or of the first style


def test_one_person_or_one_style_says_nothing_of_others() -> None:
    for few in ({("a", s): 0.5 for s in "xyz"}, {(i, "x"): 0.5 for i in "abc"}):
        found = estimate(few)
        assert found.mean == 0.5
        assert not found.known
        assert np.isnan(found.low)
        assert table.shown(found, 2) == "0.50"


def test_cells_without_a_value_are_left_out() -> None:
    found = estimate({("a", "x"): 1.0, ("a", "y"): float("nan"), ("b", "x"): 3.0})
    assert (found.mean, found.cells) == (2, 2)
    assert np.isnan(estimate({("a", "x"): float("nan")}).mean)


def test_differences_are_paired_by_cell() -> None:
    ours = {(i, s): 4.0 * n for n, (i, s) in enumerate(itertools.product("abc", "xy"))}
    theirs = {cell: value - 0.25 for cell, value in ours.items() if cell[0] != "c"}
    found = metrics.difference(ours, theirs)
    assert (found.mean, found.low, found.high, found.cells) == (0.25, 0.25, 0.25, 4)


def seen(pixels: np.ndarray, expressions: dict[str, float] | None = None) -> Seen:
    landmarks = np.array([[90, 100], [150, 100], [120, 130], [95, 160], [145, 160]], np.float32)
    face = Face((60, 60, 180, 200), landmarks, 1.0, expressions=expressions or {})
    return Seen(pixels, face, None, np.ones(pixels.shape[:2], bool), 1)


def test_edits_are_measured() -> None:
    grey = np.full((256, 256, 3), 128, np.uint8)
    assert EDITS["black-and-white"].shows(seen(grey))
    assert not EDITS["blue background"].shows(seen(grey))
    blue = grey.copy()
    blue[:60] = (20, 60, 180)
    assert EDITS["blue background"].shows(seen(blue))
    assert not EDITS["black-and-white"].shows(seen(blue))
    glasses = grey.copy()
    glasses[85:115, 70:170] = 15
    assert EDITS["sunglasses"].shows(seen(glasses))
    assert not EDITS["sunglasses"].shows(seen(grey))
    assert EDITS["smiling"].shows(seen(grey, {"mouthSmileLeft": 0.6, "mouthSmileRight": 0.5}))
    assert not EDITS["smiling"].shows(seen(grey))
    for light, name in ((240, "white background"), (20, "black background")):
        behind = grey.copy()
        behind[:60] = light
        assert EDITS[name].shows(seen(behind))
        assert not EDITS[name].shows(seen(grey))
    assert not EDITS["white background"].shows(seen(np.full((256, 256, 3), (250, 250, 205), np.uint8)))
    brown = np.clip(noise(5, 256).mean(-1, keepdims=True) * [1.1, 0.9, 0.7], 0, 255).astype(np.uint8)
    assert EDITS["sepia"].shows(seen(brown))
    assert not EDITS["sepia"].shows(seen(grey))
    assert not EDITS["sepia"].shows(seen(noise(5, 256)))
    dressed = grey.copy()
    dressed[220:] = 30
    assert EDITS["dark clothes"].shows(seen(dressed))
    assert not EDITS["dark clothes"].shows(seen(grey))


@pytest.mark.parametrize(("people", "styles"), [(7, 4), (3, 3), (2, 5), (5, 7), (1, 4)])
def test_the_cells_are_balanced_wherever_it_ends(people: int, styles: int) -> None:
    photos = (Path("1.png"), Path("2.png"))
    found = Benchmark(
        "b", Path(), {f"p{n}": photos for n in range(people)}, {f"s{n}": photos for n in range(styles)}, {}
    )
    methods = [METHODS["magicapture"], METHODS["dreambooth"]]
    tasks = runner.plan(found, methods)
    assert len(set(tasks)) == len(tasks) == 2 * people * styles
    assert [task.method for task in tasks] == ["magicapture", "dreambooth"] * (people * styles)
    pairs = [task.pair for task in tasks[::2]]
    for end in range(1, len(pairs) + 1):
        for position, names in enumerate((found.identities, found.styles)):
            counts = [sum(pair[position] == name for pair in pairs[:end]) for name in names]
            assert max(counts) - min(counts) <= 2


def test_the_budget_ends_between_pairs(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(runner.time, "monotonic", lambda: clock[0])

    def takes_ten_seconds(_task: Task, *_: Any) -> None:
        clock[0] += 10

    monkeypatch.setattr(runner, "run_cell", takes_ten_seconds)
    tasks = [Task(person, "oil", method) for person in "abcd" for method in ("magicapture", "no_ar")]
    setup = setup_of(tmp_path, toy_folder)

    def done(budget: float | None) -> int:
        clock[0] = 0
        return len(list(runner.run(tasks, setup, tmp_path / "out", budget=budget)))

    assert done(None) == 8
    assert done(5) == 2  # the first pair, however long it takes
    assert done(39) == 2
    assert done(40) == 4
    assert done(60) == 6


def test_with_a_budget_no_second_pair_begins_before_a_cell_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many workers there are: nobody knows yet how long a cell takes."""
    clock = [0.0]
    monkeypatch.setattr(runner.time, "monotonic", lambda: clock[0])
    tasks = [Task(person, "oil", method) for person in "abc" for method in ("magicapture", "no_ar")]
    limit = runner.Budget(50, tasks)
    assert limit.take(6) == tasks[:2]
    assert limit.take(4) == []
    clock[0] = 20
    limit.count()  # the first of two: at 20 seconds a cell, the other and two more would end at 80
    assert limit.take(5) == []
    limit.count()  # the second has ended, too: at 10 seconds a cell, two more end at 40, another two at 60
    assert limit.take(6) == tasks[2:4]
    assert runner.Budget(None, tasks).take(5) == tasks[:5]


# --- judges ---------------------------------------------------------------------------------------


def test_the_loss_s_own_network_is_never_passed_off_as_a_judge(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MAGICAPTURE_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(judges, "choose_analyser", lambda *_: (ToyAnalyser(), "a toy"))
    own = choose_face_judge("toy")
    assert "own" in own.name
    assert "OWN NETWORK" in own.note
    assert "w600k_mbf.onnx" in own.note
    other = choose_face_judge("arcface")
    assert other.name == "toy"
    assert "not the loss's network (arcface)" in other.note


def save_clip(folder: Path) -> None:
    """CLIP's real classes at toy size, but with ViT-L/14's 768 numbers, in the published layout."""
    from toy import save_tokenizer
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    save_tokenizer(folder)
    vocabulary = len(json.loads((folder / "vocab.json").read_text()))
    ids = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1}
    text = {**small, "vocab_size": vocabulary, "projection_dim": 768, **ids}
    vision = {**small, "image_size": 28, "patch_size": 14, "projection_dim": 768}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768)).save_pretrained(folder)


def test_arcface_sees_red_first_and_numbers_from_minus_one_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    fed = {}

    class Session:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def get_inputs(self) -> list[Any]:
            return [SimpleNamespace(name="pixels")]

        def run(self, _: None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
            fed.update(given)
            return [np.arange(1.0, 5.0)[None]]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    judge = judges.arcface_judge(Path("w600k_mbf.onnx"))
    judge._analyser = ToyAnalyser()  # type: ignore[assignment]
    red = np.zeros((256, 256, 3), np.uint8)
    red[..., 0] = 255
    vector = judge.look(red).vector
    assert vector is not None
    np.testing.assert_allclose(vector, np.arange(1, 5) / np.sqrt(30), rtol=1e-6)
    assert fed["pixels"].shape == (1, 3, 112, 112)
    np.testing.assert_allclose(fed["pixels"].mean((0, 2, 3)), [1, -1, -1], atol=1e-6)


def test_clip_and_the_aesthetic_predictor_are_used_where_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MAGICAPTURE_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingFiles, match="CLIP ViT-L/14 is not here"):
        judges.choose_image_encoder("clip")
    save_clip(tmp_path / judges.CLIP_FOLDER)
    encoder = judges.choose_image_encoder()
    assert isinstance(encoder, judges.ClipEncoder)
    assert judges.choose_aesthetic(encoder) is None
    pixels = noise(4, 256)
    keep = np.ones((256, 256), bool)
    keep[64:192, 64:192] = False
    other_face = pixels.copy()
    other_face[64:192, 64:192] = 255 - other_face[64:192, 64:192]
    np.testing.assert_allclose(encoder.embed(pixels, keep), encoder.embed(other_face, keep), atol=0.02)
    assert not np.allclose(encoder.embed(pixels), encoder.embed(other_face), atol=0.02)
    assert encoder.embed_text("a photo of a person").shape == (768,)

    state = {}
    widths = (768, 1024, 128, 64, 16, 1)
    for place, inside, outside in zip((0, 2, 4, 6, 7), widths[:-1], widths[1:], strict=True):
        state[f"layers.{place}.weight"] = torch.full((outside, inside), 1e-3)
        state[f"layers.{place}.bias"] = torch.zeros(outside)
    state["layers.7.bias"] += 5
    torch.save(state, tmp_path / "sac+logos+ava1-l14-linearMSE.pth")
    predictor = judges.choose_aesthetic(encoder)
    assert predictor is not None
    # The layers are linear: by hand, the sum of the unit vector times the widths between, plus the bias.
    total = metrics.unit(encoder.embed(pixels)).sum()
    by_hand = 5 + total * 1e-3 * (1024 * 1e-3) * (128 * 1e-3) * (64 * 1e-3) * (16 * 1e-3)
    assert predictor.score(pixels) == pytest.approx(by_hand, abs=1e-5)
    torch.save({"other": torch.zeros(1)}, tmp_path / "sac+logos+ava1-l14-linearMSE.pth")
    with pytest.raises(Problem, match="not the aesthetic predictor"):
        judges.choose_aesthetic(encoder)


# --- cells on the toy model -----------------------------------------------------------------------


class Colour:
    """An image encoder that sees the mean colour outside the face."""

    name = "colour"
    note = "mean colour, for tests."

    def embed(self, pixels: np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
        return (pixels if keep is None else pixels[keep]).reshape(-1, 3).mean(0) - 127.5


def toy_judges() -> Judges:
    embedder = ToyAnalyser().embedder()
    judge = FaceJudge("toy judge", "a toy.", lambda crop: embedder(crop)[0].numpy())
    judge._analyser = ToyAnalyser()  # type: ignore[assignment]
    return Judges(judge, Colour(), None)


@pytest.fixture
def toy_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A benchmark of two people and two styles; toy faces, judges and model. Returns its folder."""
    import magicapture_core.models as models_module

    real_load = models_module.load

    def load_toy(name: Any = None, **_: Any) -> Any:
        models = real_load(name, device="cpu")
        models.schedules = {"quick": QUICK}
        models.generate_defaults = {"steps": 2}
        return models

    toy_judge = toy_judges()
    monkeypatch.setattr(cells, "load", load_toy)
    monkeypatch.setattr(models_module, "load", load_toy)
    for module in (cells, judges, faces):
        monkeypatch.setattr(module, "choose_analyser", lambda *_: (ToyAnalyser(), "a toy"))
    monkeypatch.setattr(cells, "judges_for", lambda *_: toy_judge)
    for cached in (cells.models_for, cells._seen, cells._prepared):
        cached.cache_clear()
    folder = tmp_path / "benchmark"
    for what, names in (("identities", ("ann", "ben")), ("styles", ("oil", "ink"))):
        for n, name in enumerate(names):
            (folder / what / name).mkdir(parents=True)
            for photo in range(3):
                Image.fromarray(noise(10 * n + photo + (50 if what == "styles" else 0), 160)).save(
                    folder / what / name / f"{photo}.png"
                )
    groups = {"ben": {"age": "young"}, "ann": {"age": "older", "gender": "woman"}}
    facts = {"identities": groups, "about": "Noise."}
    (folder / "benchmark.json").write_text(json.dumps(facts))
    return folder


def setup_of(folder: Path, toy_folder: Path, **changes: Any) -> Setup:
    values = {
        "benchmark": str(folder), "model": str(toy_folder), "schedule": "quick", "pictures": 3, "edited_pictures": 1,
        "other_people": 0, "held_out": 1,
        "steps": None, "faces": "auto", "likeness": "toy", "encoder": "auto", "judged_by": ("toy judge", "colour"),
        "seed": 0, "keep_runs": False,
    }  # fmt: skip
    return Setup(**{**values, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "pictures").iterdir())}


class Killed(BaseException):
    """As if the process died here."""


@pytest.mark.long
def test_a_cell_goes_on_wherever_it_was_killed(
    toy_world: Path, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = setup_of(toy_world, toy_folder)
    task = Task("ann", "oil", "dreambooth")
    run_cell(task, setup, tmp_path / "whole")
    whole = read_cell(task, tmp_path / "whole")
    assert whole is not None

    out = tmp_path / "killed"
    real_train, real_generate = cells.train, cells.generate

    def dying_train(*args: Any, **kwargs: Any) -> Any:
        for n, report in enumerate(real_train(*args, **kwargs)):
            if n == 2:
                raise Killed
            yield report

    def dying_generate(*args: Any, **kwargs: Any) -> Any:
        for n, portrait in enumerate(real_generate(*args, **kwargs)):
            if n == 1:
                raise Killed
            yield portrait

    monkeypatch.setattr(cells, "train", dying_train)
    with pytest.raises(Killed):
        run_cell(task, setup, out)
    assert read_cell(task, out) is None
    monkeypatch.setattr(cells, "train", real_train)
    monkeypatch.setattr(cells, "generate", dying_generate)
    with pytest.raises(Killed):
        run_cell(task, setup, out)
    assert len(contents(task.folder(out))) == 1
    monkeypatch.setattr(cells, "generate", real_generate)
    monkeypatch.setattr(cells, "train", lambda *_a, **_k: pytest.fail("the training was over"))
    run_cell(task, setup, out)
    assert contents(task.folder(out)) == contents(task.folder(tmp_path / "whole"))
    again = read_cell(task, out)
    assert again is not None
    assert again["pictures"] == whole["pictures"]
    assert again["steps"] == 4
    assert not list((task.folder(out) / "run").glob("checkpoint-*"))
    assert not (task.folder(out) / "run" / "adapter" / "unet.safetensors").exists()


@pytest.mark.long
def test_a_training_that_is_done_again_and_killed_is_not_taken_for_whole(
    toy_world: Path, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, out, real = Task("ann", "oil", "dreambooth"), tmp_path / "out", cells.train
    run_cell(task, setup_of(toy_world, toy_folder, pictures=1, edited_pictures=0), out)

    def dying(*args: Any, **kwargs: Any) -> Any:
        for report in real(*args, **kwargs):
            yield report
            if report.step == 2:
                raise Killed

    more = setup_of(toy_world, toy_folder, pictures=2, edited_pictures=0)
    monkeypatch.setattr(cells, "train", dying)
    with pytest.raises(Killed):
        run_cell(task, more, out)
    assert (task.folder(out) / "run" / "adapter" / "unet.safetensors").exists()  # but of two steps
    monkeypatch.setattr(cells, "train", real)
    run_cell(task, more, out)
    whole = tmp_path / "whole"
    run_cell(task, more, whole)
    made, wanted = contents(task.folder(out)), contents(task.folder(whole))
    assert made.keys() == wanted.keys()
    for name in wanted:  # drawn alone and drawn together may differ by the rounding of one product
        pixels = [np.asarray(Image.open(io.BytesIO(each[name])), int) for each in (made, wanted)]
        assert np.abs(pixels[0] - pixels[1]).max() <= 2


def test_a_training_that_is_stopped_goes_on(toy_world: Path, toy_folder: Path, tmp_path: Path) -> None:
    task, setup = Task("ann", "oil", "magicapture"), setup_of(toy_world, toy_folder, edited_pictures=0)
    told: list[tuple[str, float, float | None]] = []

    def stop(what: str, done: float, total: float | None) -> None:
        told.append((what, done, total))
        if done == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        run_cell(task, setup, tmp_path, stop)
    assert told == [(str(task), step, 4) for step in (1, 2, 3)]
    run_cell(task, setup, tmp_path, lambda *now: told.append(now))
    assert told[3:] == [(str(task), 4, 4)]


def test_only_one_method_draws_without_its_lora_at_first(
    toy_world: Path, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, float]] = []

    def draw(_models: Any, _run: Path, config: GenerateConfig, **_: Any) -> Any:
        asked.append((config.adapter_scale, config.adapter_start))
        yield from ()

    monkeypatch.setattr(cells, "generate", draw)
    # What a model suggests must not change what the methods are compared by.
    models = SimpleNamespace(generate_defaults={"adapter_scale": 0.6, "adapter_start": 0.5})
    setup = setup_of(toy_world, toy_folder)
    for name in ("magicapture", "late", "custom_diffusion"):
        config = cells.portrait_settings(models, setup)  # type: ignore[arg-type]
        list(cells._portraits(Task("ann", "oil", name), setup, models, tmp_path, config))  # type: ignore[arg-type]
    assert asked == [(0.6, 0.0), (0.6, VARIED), (1.0, 0.0)]


def test_a_cell_knows_held_out_photos_other_people_and_neutral_styles(
    toy_world: Path, toy_folder: Path, tmp_path: Path
) -> None:
    facts = json.loads((toy_world / "benchmark.json").read_text())
    (toy_world / "benchmark.json").write_text(
        json.dumps({**facts, "styles": {"oil": {"neutral": True}, "ink": {}}})
    )
    setup = setup_of(toy_world, toy_folder, pictures=1, edited_pictures=0, other_people=2)
    rows = {}
    for style in ("oil", "ink"):
        task = Task("ann", style, "magicapture")
        run_cell(task, setup, tmp_path / "out")
        cell = read_cell(task, tmp_path / "out")
        assert cell is not None
        rows[style] = cell["pictures"]
        shown = table.cell_values(cell)
        assert np.isfinite(
            [shown[name] for name in ("csim_held_out", "copy_paste", "drift", "one_face")]
        ).all()
        assert np.isfinite(shown["skin"]) == (style == "oil")
    assert [row["kind"] for row in rows["oil"]] == ["composed", "anyone", "anyone"]
    made = rows["oil"][0]
    judge = toy_judges().faces
    photos = [
        judge.look(read_photo(path).pixels).vector
        for path in sorted((toy_world / "identities/ann").iterdir())
    ]
    vector = judge.look(read_photo(tmp_path / "out" / made["file"]).pixels).vector
    assert vector is not None
    known = np.stack([photo for photo in photos if photo is not None])
    assert made["csim_best"] == pytest.approx((known[:2] @ vector).max())  # the third was not trained on
    assert made["csim_held_out"] == pytest.approx(known[2] @ vector)


def test_the_held_out_photo_is_not_trained_on(
    toy_world: Path, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = []
    real = cells.train

    def train(models: Any, subject: Any, *rest: Any, **named: Any) -> Any:
        learned.append(len(subject.examples))
        return real(models, subject, *rest, **named)

    monkeypatch.setattr(cells, "train", train)
    for held_out in (0, 1):
        cells._prepared.cache_clear()
        setup = setup_of(toy_world, toy_folder, pictures=1, edited_pictures=0, held_out=held_out)
        run_cell(Task("ann", "oil", "textual_inversion"), setup, tmp_path / str(held_out))
    assert learned == [3, 2]
    with pytest.raises(Problem, match=r"3 photos; with 2 held out, at least 4 are needed"):
        run_cell(
            Task("ann", "oil", "no_ar"), setup_of(toy_world, toy_folder, held_out=2), tmp_path / "too many"
        )


def test_drafts_are_a_method_without_training(toy_world: Path, tmp_path: Path) -> None:
    model = save_toy(tmp_path / "toy", words=("toy", 16))
    setup = setup_of(toy_world, model, pictures=2, edited_pictures=0)
    task = Task("ann", "oil", "draft")
    run_cell(task, setup, tmp_path / "out")
    cell = read_cell(task, tmp_path / "out")
    assert cell is not None
    assert (cell["steps"], cell["seconds"], len(cell["pictures"])) == (0, 0, 2)
    assert not (task.folder(tmp_path / "out") / "run").exists()
    assert np.isfinite(table.cell_values(cell)["style"])


def test_every_machine_must_have_the_same_face_network(
    toy_world: Path, toy_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(Problem, match="toy here, expected ArcFace"):
        run_cell(
            Task("ann", "oil", "magicapture"), setup_of(toy_world, toy_folder, likeness="ArcFace"), tmp_path
        )


def test_more_pictures_are_added_to_a_finished_cell(
    toy_world: Path, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, out = Task("ann", "ink", "magicapture"), tmp_path / "out"
    run_cell(task, setup_of(toy_world, toy_folder, pictures=1, edited_pictures=0), out)
    first = contents(task.folder(out))
    monkeypatch.setattr(cells, "train", lambda *_a, **_k: pytest.fail("its adapter was kept"))
    run_cell(task, setup_of(toy_world, toy_folder, pictures=2, edited_pictures=0), out)
    both = contents(task.folder(out))
    assert len(both) == 2
    assert first.items() <= both.items()
    cell = read_cell(task, out)
    assert cell is not None
    assert {"attention_subject", "mean_subject", "mean_style", "diversity", "seconds"} <= set(cell)


@pytest.mark.long
def test_the_command_makes_table_sheets_and_page(
    toy_world: Path, toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet

    out = tmp_path / "out"
    where = ["--benchmark", str(toy_world), "--model", str(toy_folder), "--out", str(out)]
    what = [
        "--methods",
        "magicapture,textual_inversion",
        "--styles",
        "1",
        "--pictures",
        "2",
        "--edited-pictures",
        "1",
    ]
    arguments = ["evaluate", *where, *what]
    assert command_line.main(arguments) == 0
    rows = pyarrow.parquet.read_table(out / "results.parquet").to_pylist()
    assert len(rows) == 2 * 1 * 2 * (2 + len(EDITS) + 4)
    assert {row["identity"] for row in rows} == {"ann", "ben"}
    assert {row["age"] for row in rows} == {"older", "young"}
    assert {row["identity"]: row["gender"] for row in rows} == {"ann": "woman", "ben": None}
    by_method = csv_rows(out)
    plain = [row for row in rows if row["method"] == "magicapture" and row["kind"] == "composed"]
    assert float(by_method["magicapture"]["csim"]) == pytest.approx(
        np.mean([row["csim_mean"] for row in plain]), rel=1e-4
    )
    assert by_method["magicapture"]["cells"] == "2"
    text = (out / "table.md").read_text()
    assert "Aesthetic ↑" not in text  # it was not measured, so there is no column
    assert "not measured" in text
    assert "toy judge" in text
    report = (out / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|sheets/)', report)
    assert "Textual Inversion" in report
    assert not re.findall('<td class="(ahead|behind)">', report)  # one style proves nothing
    assert len(list((out / "sheets").iterdir())) == 2
    capsys.readouterr()

    assert command_line.main(arguments) == 0  # nothing is left to do
    assert "done in" not in capsys.readouterr().out
    assert command_line.main([*arguments, "--steps", "3"]) == 1
    assert "steps was None, now 3" in capsys.readouterr().out.replace("\n", " ")

    (out / "failed.json").write_text('{"ann × ink × dreambooth": "No memory."}')
    one = [*where, "--methods", "no_ar", *what[2:]]  # asked for later: the others stay in the report
    assert command_line.main(["evaluate", *one]) == 0
    assert set(csv_rows(out)) == {"magicapture", "no_ar", "textual_inversion"}
    assert "MagiCapture minus each method" in (out / "table.md").read_text()
    assert json.loads((out / "failed.json").read_text()) == {"ann × ink × dreambooth": "No memory."}
    Image.fromarray(noise(99, 160)).save(toy_world / "styles" / "ink" / "0.png")
    assert command_line.main(arguments) == 1
    assert "styles/ink changed" in capsys.readouterr().out.replace("\n", " ")


def test_a_model_without_schedules_is_compared_by_the_quick_one(
    toy_world: Path, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(runner, "run", lambda *_, **__: iter(()))
    monkeypatch.setattr("magicapture_core.evaluation.report.write_report", lambda *_: out / "report.html")
    cells.models_for(str(toy_folder)).schedules = {}  # as of a model without magicapture.json
    arguments = ["--benchmark", str(toy_world), "--model", str(toy_folder), "--out", str(out)]
    assert command_line.main(["evaluate", *arguments, "--schedule", "quick"]) == 0
    settings = json.loads((out / "settings.json").read_text())
    learned = settings["methods"]["magicapture"]
    assert (settings["schedule"], learned["ti_steps"], learned["lora_steps"]) == ("quick", 400, 500)
    assert command_line.main(["evaluate", *arguments, "--schedule", "fast"]) == 1


@pytest.mark.parametrize(("there", "said"), [(4, None), (1, "1 of 4 cells"), (0, "0 of 4 cells")])
def test_what_was_finished_before_counts_when_the_budget_is_used_up(
    toy_world: Path,
    toy_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    there: int,
    said: str | None,
) -> None:
    out, asked = tmp_path / "out", []
    monkeypatch.setattr(runner, "run", lambda *_, **__: iter(()))  # nothing more is begun
    monkeypatch.setattr(cells, "is_done", lambda *_: asked.append(1) or len(asked) <= there)
    monkeypatch.setattr("magicapture_core.evaluation.report.write_report", lambda *_: out / "report.html")
    arguments = [
        "--benchmark",
        str(toy_world),
        "--model",
        str(toy_folder),
        "--out",
        str(out),
        "--budget",
        "1",
    ]
    assert command_line.main(["evaluate", *arguments, "--methods", "magicapture"]) == 0
    told = capsys.readouterr().out
    assert ("is used up" in told) == (said is not None)
    assert said is None or said in told


def test_a_group_counts_the_people_who_were_measured() -> None:
    from magicapture_core.evaluation.table.written import _people

    groups = {"a": {"gender": "man"}, "b": {"gender": "man"}, "c": {"gender": "woman"}}
    measured = {"magicapture": {("a", "oil"): {}, ("c", "oil"): {}}, "no_ar": {("a", "ink"): {}}}
    results: Any = SimpleNamespace(
        values=measured, benchmark=SimpleNamespace(groups=groups, identities=dict.fromkeys("abc"))
    )
    assert [_people(results, "gender", group) for group in ("man", "woman")] == [1, 1]


def test_reference_values_are_of_the_pairs_that_were_measured(
    toy_world: Path, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from magicapture_core.evaluation.table import results as results_module
    from magicapture_core.evaluation.table.bounds import bounds

    found, judge = load_benchmark(str(toy_world)), toy_judges()

    def of(*pairs: tuple[str, str]) -> tuple[dict[str, float], dict[str, float]]:
        own, others = bounds(found, judge, pairs).values()
        return own, others

    alone, other = of(("ann", "oil"))[0], of(("ben", "ink"))[0]
    assert alone["csim"] != pytest.approx(other["csim"])
    weighed, across = of(("ann", "oil"), ("ann", "ink"), ("ben", "oil"))
    assert weighed["csim"] == pytest.approx((2 * alone["csim"] + other["csim"]) / 3)
    assert weighed["style"] == pytest.approx((2 * alone["style"] + other["style"]) / 3)
    assert np.isfinite([across["csim"], across["style"], across["copying"], across["drift"]]).all()
    assert np.isnan(weighed["skin"])  # no style of it is neutral
    assert np.isnan(of(("ann", "oil"))[1]["csim"])  # nobody else was measured

    cell = {"judges": {}, "pictures": [], "diversity": 0.0, "seconds": 1.0}
    monkeypatch.setattr(
        results_module, "finished_cell", lambda task, *_: cell if task.pair == ("ann", "oil") else None
    )
    tasks = runner.plan(found, [METHODS["magicapture"], METHODS["no_ar"]])
    table_of_one = table.collect(tasks, setup_of(toy_world, toy_folder), found, tmp_path, judge)
    assert next(iter(table_of_one.bounds.values()))["csim"] == pytest.approx(alone["csim"])


def test_files_beside_the_networks_must_stay_the_same(
    toy_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What makes words, what enlarges, and what the model says of its use: they decide the results, too."""
    model, out = save_toy(tmp_path / "model", words=("toy", 4)), tmp_path / "out"
    setup, methods = setup_of(toy_world, model), [METHODS["magicapture"]]
    found, models = load_benchmark(str(toy_world)), cells.models_for(str(model))
    monkeypatch.setattr(models, "generate_defaults", {"steps": 2, "enlarge": 2.0})
    monkeypatch.setattr(models, "strength_with", {"hat": 0.5})
    enlarger = tmp_path / "enlarger"
    enlarger.write_bytes(b"one")
    monkeypatch.setattr(runner, "enlarging_file", lambda factor, _device: enlarger if factor == 2 else None)

    def opened() -> dict[str, Any]:
        runner.open_evaluation(out, setup, found, methods)
        written: dict[str, Any] = json.loads((out / "settings.json").read_text())
        return written

    first = opened()
    beside = first[runner.BESIDE]
    assert (beside["strength_with"], beside["framing"]) == ({"hat": 0.5}, "photo")
    assert len(beside["words"]) == len(beside["upscaler"]) == 16
    assert opened() == first

    enlarger.write_bytes(b"two")
    with pytest.raises(
        Problem, match=r"another evaluation: the model's upscaler was '\w+', now '\w+'\. Go on"
    ):
        opened()
    with (model / "words.safetensors").open("ab") as file:
        file.write(b"x")
    models.strength_with = {}
    with pytest.raises(Problem, match=r"the model's words was.*upscaler was.*strength_with was"):
        opened()

    # An evaluation that was begun before these were written goes on, and has them from then on.
    (out / "settings.json").write_text(json.dumps({k: v for k, v in first.items() if k != runner.BESIDE}))
    later = opened()[runner.BESIDE]
    assert later["strength_with"] == {}
    assert later["words"] != beside["words"]
    enlarger.write_bytes(b"three")
    with pytest.raises(Problem, match="the model's upscaler was"):
        opened()


def test_the_report_says_which_words_lessen_the_strength() -> None:
    from magicapture_core.evaluation.report import _weaker

    assert _weaker({}) == ""
    assert _weaker({"hat": 0.5}) == ", times 0.5 with “hat” in the prompt"


def test_the_file_that_enlarges_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from magicapture_core.postprocess import networks

    cpu = torch.device("cpu")
    assert networks.enlarging_file(2.0, cpu) == networks.MINI_FILE
    assert networks.enlarging_file(1.0, cpu) is None
    monkeypatch.setattr(networks, "best_upscaler", lambda *_: "lanczos")
    assert networks.enlarging_file(2.0, cpu) is None


def csv_rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "table.csv").open() as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def test_what_cannot_be_done_is_told_and_the_rest_goes_on(
    toy_world: Path, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, out = setup_of(toy_world, toy_folder, pictures=1, edited_pictures=0), tmp_path / "out"
    real = cells._train

    def fails_for_ann(task: Task, *rest: Any) -> None:
        if task.identity == "ann":
            raise Problem("Ann cannot be learned.")
        real(task, *rest)

    monkeypatch.setattr(cells, "_train", fails_for_ann)
    tasks = [Task(name, "oil", "textual_inversion") for name in ("ann", "ben")]
    done = list(runner.run(tasks, setup, out))
    assert [one.problem for one in done] == ["Ann cannot be learned.", None]
    assert json.loads((out / "failed.json").read_text()) == {str(tasks[0]): "Ann cannot be learned."}
    monkeypatch.setattr(cells, "_train", real)
    assert [one.task for one in runner.run(tasks, setup, out)] == tasks[:1]
    assert not (out / "failed.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--benchmark", "nowhere"], "identities"),
        (["--benchmark", "mini", "--identities", "11"], "1 to 10"),
        (["--benchmark", "mini", "--identities", "p03,p11"], "no identities 'p11'"),
        (["--benchmark", "mini", "--methods", "dreambox"], "dreambox"),
        (["--benchmark", "mini", "--pictures", "0"], "--pictures"),
        (["--benchmark", "mini", "--budget", "0"], "--budget"),
        (["--benchmark", "mini", "--part", "tested"], "no part 'tested'. Its parts: chosen, reported"),
        ([], "either --benchmark"),
        (["--run", "nowhere"], "--subject and --style"),
    ],
)
def test_wrong_use_is_explained(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(["evaluate", "--out", str(tmp_path / "out"), *arguments]) == 1
    assert said in capsys.readouterr().out.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_checkpoints_and_scales_of_a_run_are_scored(
    toy_world: Path,
    toy_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from magicapture_core.evaluation.judges import Judges as Chosen

    task, out = Task("ann", "oil", "magicapture"), tmp_path / "cells"
    run_cell(task, setup_of(toy_world, toy_folder, pictures=1, edited_pictures=0, keep_runs=True), out)
    run = task.folder(out) / "run"
    monkeypatch.setattr(Chosen, "chosen", classmethod(lambda *_: toy_judges()))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    arguments = ["--subject", str(toy_world / "identities/ann"), "--style", str(toy_world / "styles/oil")]
    more = ["--scales", "0.5", "1", "--pictures", "2", "--out", str(tmp_path / "best")]
    assert command_line.main(["evaluate", "--run", str(run), *arguments, *more]) == 0
    choices = json.loads((tmp_path / "best" / "choices.json").read_text())["choices"]
    assert [(c["checkpoint"], c["scale"]) for c in choices] == [
        (name, scale) for name in ("checkpoint-000003", "checkpoint-000004") for scale in (0.5, 1.0)
    ]
    assert sum(choice["recommended"] for choice in choices) == 1
    assert (tmp_path / "best" / "choices.jpg").stat().st_size > 0
    assert "Recommended" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    # What `generate` uses is the checkpoint of the highest likeness where a run keeps that, else the newest.
    facts = json.loads((run / "config.json").read_text())
    facts["config"]["keep_best"] = True
    (run / "config.json").write_text(json.dumps(facts))
    for used, told in ((3, False), (4, True)):
        rows = [{"step": step, "likeness": float(step == used)} for step in (3, 4)]
        (run / "likeness.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with monkeypatch.context() as patch:
            patch.setattr(choose, "recommend", lambda choices: choices[0])  # of checkpoint 3
            assert command_line.main(["evaluate", "--run", str(run), *arguments, *more]) == 0
        assert ("take it with --adopt" in capsys.readouterr().out) is told
    assert command_line.main(["evaluate", "--run", str(run), *arguments, *more, "--adopt"]) == 0
    best = next(choice["checkpoint"] for choice in choices if choice["recommended"])
    for adopted in (run / "adapter").iterdir():
        assert adopted.read_bytes() == (run / best / adopted.name).read_bytes()


def test_a_line_of_a_sheet_is_never_cut_off() -> None:
    from magicapture_core.evaluation.sheets import GAP, labelled_rows

    text = "checkpoint-000300 at 0.6: CSIM 0.348, style 0.205, with a face 100%, nearest photo 0.64"
    one = Image.new("RGB", (64, 64))
    sheet = np.asarray(labelled_rows([(text, [one])], tile=64))
    assert (sheet[:, -GAP:] == 255).all()
    assert (sheet[:20, -40:] < 255).any()  # the end of the text
    assert labelled_rows([("a", [one] * 3)], tile=64).width == 3 * (64 + GAP) + GAP


def test_the_recommendation() -> None:
    from magicapture_core.evaluation.choose import Choice, recommend

    def choice(checkpoint: str, scale: float, csim: float, style: float) -> Choice:
        return Choice(checkpoint, scale, csim, style, 1.0, 0.5, ())

    clear = [choice("a", 0.6, 0.1, 0.5), choice("b", 1.0, 0.4, 0.5), choice("b", 0.6, 0.2, 0.5)]
    assert recommend(clear) is clear[1]
    close = [choice("a", 0.6, 0.4, 0.5), choice("b", 0.6, 0.395, 0.5), choice("b", 1.0, 0.41, 0.5)]
    assert recommend(close) is close[1]  # within the noise: the smaller scale, then the later checkpoint


# --- Ray ------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_dead_worker_s_task_is_run_again(
    toy_world: Path, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two real workers; one is killed in the middle of its task."""
    monkeypatch.setenv("RAY_worker_niceness", "0")  # or they starve where anything else runs
    pytest.importorskip("ray", reason="Ray is not installed (requirements-ray.txt)")
    setup, out = setup_of(toy_world, toy_folder), tmp_path / "out"
    out.mkdir()

    def work(task: Task, setup: Setup, out: Path) -> tuple[Task, float, str | None]:
        import os
        import signal

        with (out / f"{task.identity}.pids").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if task.identity == "ann" and (out / "ann.pids").read_text().count("\n") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return task, 0.0, None if setup.pictures == 3 else "the setup did not arrive"

    tasks = [Task(name, "oil", "magicapture") for name in ("ann", "ben")]
    done = {one.task: one for one in runner.run(tasks, setup, out, ray="local", work=work)}
    assert set(done) == set(tasks)
    assert all(one.problem is None for one in done.values())
    pids = (out / "ann.pids").read_text().split()
    assert len(set(pids)) == 2
    assert len((out / "ben.pids").read_text().split()) == 1


def test_without_ray_the_message_says_what_to_do(
    toy_world: Path, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingFiles, match=r"requirements-ray\.txt"):
        list(
            runner.run(
                [Task("ann", "oil", "magicapture")], setup_of(toy_world, toy_folder), tmp_path, ray="local"
            )
        )


# --- the mini benchmark ---------------------------------------------------------------------------


def test_the_mini_benchmark_is_whole() -> None:
    found = load_benchmark("mini")
    assert len(found.identities) == len(found.styles) == 10
    assert all(len(photos) == 6 for photos in [*found.identities.values(), *found.styles.values()])
    assert set(found.groups) == set(found.identities)
    assert all(set(facts) == {"skin_tone", "gender", "age"} for facts in found.groups.values())
    assert DEFAULT_METHODS.count(",") == 8
    chosen, reported = found.part(part="chosen"), found.part(part="reported")
    for what in ("identities", "styles"):
        assert not set(getattr(chosen, what)) & set(getattr(reported, what))
    assert (len(reported.identities), len(reported.styles)) == (7, 4)
    assert list(found.part("2", "duotone", "reported").identities) == ["p04", "p05"]
    assert found.neutral & set(reported.styles)
    some = found.part("p08, p05", "2")
    assert list(some.identities) == ["p08", "p05"]
    assert list(some.styles) == list(found.styles)[:2]


def test_the_statistics_rank_same_style_over_other_styles() -> None:
    """Every photo is nearer to the other photos of its style than to those of any other, with few exceptions."""
    encoder = judges.style_statistics()
    judge = FaceJudge("none", "no face is compared.", lambda _crop: np.ones(1))
    styles = {}
    for name, paths in load_benchmark("mini").styles.items():
        looked = [judge.look(np.asarray(Image.open(path).convert("RGB"))) for path in paths]
        styles[name] = np.stack([encoder.embed(one.pixels, one.keep) for one in looked])
    right = total = 0
    for name, vectors in styles.items():
        for n, vector in enumerate(vectors):
            rest = {**styles, name: np.delete(vectors, n, axis=0)}
            nearest = max(rest, key=lambda other: metrics.style_similarity(vector, rest[other]))
            right, total = right + (nearest == name), total + 1
    assert right / total > 0.9
