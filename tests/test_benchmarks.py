"""The scripts that measure a GPU, at a size that a CPU takes: a lent GPU is no place to find their mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from toy import ToyAnalyser
from trainings import short, toy_concept

from benchmarks import counting, full_size
from benchmarks.counting import Case, Counter, Living, shapes_of_sd15
from benchmarks.full_size import PARTS, Arguments, Teller
from benchmarks.measuring import SMALL
from benchmarks.plain_loop import PlainLoop
from magicapture_core.concepts import Concept
from magicapture_core.losses import FaceColour
from magicapture_core.models import ModelBundle
from magicapture_core.training.draws import draw_step
from magicapture_core.training.memory import DECODER_BYTES, DECODER_WORK, UNET_BYTES, UNET_WORK
from magicapture_core.training.preparation import prepared

SHORT: dict[str, Any] = {
    "model": "small",
    "steps": 1,
    "pictures": 2,
    "drawing_steps": 2,
    "rounds": 1,
    "seconds": 900.0,
}
LANDMARKS = torch.tensor([[47.0, 50], [80, 50], [64, 68], [51, 85], [76, 85]])[None]
"""Of a face in a picture of 128 pixels."""


def measured_all(tmp_path: Path) -> dict[str, Any]:
    out = tmp_path / "found.json"
    found = full_size.main(Arguments(**SHORT, out=out))
    assert json.loads(out.read_text()) == json.loads(json.dumps(found))
    assert list(found) == ["machine", *PARTS]
    assert not any("failed" in part or "left out" in part for part in found.values()), found
    assert found["standard"]["paper_schedule_minutes"] > 0
    assert found["looking"]["samples"] >= 2
    assert found["looking"]["maps"] > 0
    assert found["portraits"]["over_diffusers"] > 0
    assert found["plain loop"]["times_faster"] > 0
    assert len(found["profile"]) > 5
    assert 0 < max(value for name, value in found["agreement"].items() if name != "part_seconds") < 0.5
    return found


@pytest.mark.long
def test_everything_that_a_gpu_is_lent_for_runs_on_a_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured_all(tmp_path)
    assert "over_diffusers" in capsys.readouterr().out


@pytest.mark.long
def test_two_settings_take_turns(capsys: pytest.CaptureFixture[str]) -> None:
    found = full_size.main(Arguments(**SHORT, compare=("fused_adamw=0", "fused_adamw=1,ahead=1")))
    assert set(found) == {"machine", "compare"}
    assert found["compare"]["seconds_phase2 times faster"] > 0
    assert found["compare"]["minutes fused_adamw=1,ahead=1"] > 0
    assert capsys.readouterr().out


def test_each_part_is_told_at_once_and_none_stops_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teller = Teller(tmp_path / "found.json", limit=900)

    def broken() -> dict[str, Any]:
        raise RuntimeError("CUDA out of memory")

    teller.part("one", broken)
    assert "out of memory" in json.loads((tmp_path / "found.json").read_text())["one"]["failed"]
    teller.part("two", lambda: {"seconds": 1})
    assert teller.results["two"]["seconds"] == 1
    assert "two" in capsys.readouterr().out
    late = Teller(None, limit=-1.0)
    late.part("three", broken)
    assert "left out" in late.results["three"]


def test_a_part_that_does_not_exist_is_said() -> None:
    with pytest.raises(SystemExit, match="no part speed"):
        full_size.main(Arguments(model="small", parts=("speed",)))


@pytest.mark.parametrize("number", [3, 4])
def test_the_plain_loop_s_terms_are_the_trainer_s(toy: ModelBundle, number: int) -> None:
    """Also where the drawn style photo shows no face, and at every noise level."""
    config = short(
        ti_steps=0, lambda_colour=1.0, lambda_lightness=1.0, identity_decode="full", identity_time_limit=1.0
    )
    faceless = toy_concept("style", 2, faces=False).examples[1:]
    style = Concept("style", "person", (*toy_concept("style", 1).examples, *faceless))
    subject = toy_concept("subject")
    with prepared(toy, subject, style, config, PartialState(cpu=True), ToyAnalyser()) as ready:
        optimisation = ready.optimisation
        optimisation.settle(optimisation.launch())  # phase 2 puts its LoRA into the networks
        objective = optimisation.objective
        objective.lightness = torch.tensor(0.05)  # far from what random pictures have
        objective.face_colour = FaceColour(torch.tensor([0.3, 0.3]), torch.tensor(0.0))
        draw = draw_step(torch.Generator().manual_seed(number), optimisation.sizes, "lora", config)
        assert draw.identity is not None
        assert not objective.comparable[draw.identity.items].all()
        ours = objective.step(draw, "lora", config.style_weight, per_call=4)
        theirs = PlainLoop(objective, subject, style, optimisation.trained()).step(draw, "lora")
    assert theirs.keys() == ours.keys()
    assert {"identity", "colour", "lightness"} < theirs.keys()
    for name, value in theirs.items():
        assert value == pytest.approx(float(ours[name]), rel=1e-3), name


# --- counting ---------------------------------------------------------------------------------------


def test_living_counts_what_lives_at_one_time() -> None:
    old = torch.zeros(1000)
    living = Living([old])
    with living:
        one = torch.zeros(250)  # 1000 bytes
        two = one + 1
        view = two[:10]
        assert living.now == 2000
        del one
        assert living.now == 1000
        assert old.view(10, 100).shape == (10, 100)
        three = view * 2
    assert living.now == 1040
    assert living.peak == 2000
    assert len(three) == 10


@pytest.fixture(scope="module")
def small() -> Counter:
    return Counter(shapes_of_sd15(torch.bfloat16, SMALL), LANDMARKS, resolution=128)


@pytest.mark.long
def test_a_step_is_counted_without_any_numbers(small: Counter) -> None:
    one, two = (small.tflop(Case(items=items)) for items in (1, 2))
    assert set(one) == {"UNet", "decoder", "text encoder", "face recognition"}
    for part in ("UNet", "decoder", "face recognition"):
        assert two[part] == pytest.approx(2 * one[part], rel=1e-3)
    assert set(small.tflop(Case("textual_inversion", items=1))) == {"UNet", "text encoder"}
    again = small.tflop(Case(items=1, recomputed="all", decoder_recomputed=True))
    assert 1.2 < again["UNet"] / one["UNet"] < 1.4
    assert again["decoder"] > one["decoder"]
    # Nothing of it is left in the model.
    assert small.tflop(Case(items=1)) == one


@pytest.mark.long
def test_the_planner_s_numbers_are_those_that_are_counted() -> None:
    counter = Counter(shapes_of_sd15(torch.bfloat16), counting.landmarks_of_a_style())
    operations = counter.tflop(Case())
    share = (counter.window / 64) ** 2
    each = operations["UNet"] / 16
    assert operations["decoder"] / 4 / share / each == pytest.approx(DECODER_WORK[False], rel=0.03)
    again = counter.tflop(Case(recomputed="all", decoder_recomputed=True))
    assert again["UNet"] / 16 / each == pytest.approx(UNET_WORK["all"], rel=0.01)
    assert again["decoder"] / 4 / share / each == pytest.approx(DECODER_WORK[True], rel=0.03)
    for name, counted in counting.by_item(counter, lambda *_: None).items():
        network, what = name.split(", ")
        word = what.split()[0]
        stored = UNET_BYTES[word] if network == "UNet" else DECODER_BYTES[word == "all"]  # type: ignore[index]
        assert stored == pytest.approx(counted * 1e9, rel=0.03), name


@pytest.mark.gpu
def test_everything_runs_on_a_gpu(tmp_path: Path) -> None:
    found = measured_all(tmp_path)
    assert "channels_last=True" in found["machine"]["kernels"]
    assert found["standard"]["peak_gb_phase2"] > 0


@pytest.mark.gpu
@pytest.mark.parametrize("switch", ["channels_last", "fused_adamw", "tf32", "compiled"])
def test_each_switch_can_be_measured_alone(switch: str) -> None:
    found = full_size.main(Arguments(**SHORT, compare=(f"{switch}=0,ahead=0", f"{switch}=1,ahead=0")))
    assert "failed" not in found["compare"], found
