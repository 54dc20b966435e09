"""The tool that trains the sample people: what counts as trained, and what its reference numbers compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from trainings import short, start

from magicapture_core.evaluation.scoring import People
from magicapture_core.models import ModelBundle
from tools.mini import personalise


def test_only_a_run_with_its_last_step_is_trained(
    toy: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, called = tmp_path / "run", []
    monkeypatch.setattr(personalise.subprocess, "run", lambda command, **_: called.append(command))
    pair = personalise.Pair("alma", "passport")
    config = short(ti_steps=1, lora_steps=3, checkpoint_every=1)
    assert not personalise.is_trained(out)
    out.mkdir()  # as a training leaves it that was stopped before its first step
    personalise.run_training(pair, out)
    assert "--resume" not in called[-1]
    out.rmdir()

    reports = start(toy, config, out)
    for _ in range(2):
        next(reports)
    reports.close()
    assert (out / "adapter").exists()
    personalise.run_training(pair, out)
    assert "--resume" in called[-1]

    list(start(toy, config, out, resume=True))
    personalise.run_training(pair, out)
    assert len(called) == 2


def test_each_photo_is_compared_with_the_others_alone() -> None:
    """Three faces at right angles have nothing in common: with the photo itself in the mean each would have .58."""
    apart = np.eye(3)
    colours = np.array([[50.0, 0, 0], [50, 3, 0], [50, 0, 0]])
    people = People((), apart, apart, colours)
    assert personalise.reference_numbers(people, people) == {
        "own_style": {"style": 0.0, "face_colour": 2.0},  # 1.5, 3 and 1.5
        "photos": 0.0,
    }
    alike = People((), np.ones((3, 4)), apart, colours)
    assert personalise.reference_numbers(alike, people)["photos"] == 1.0
