"""accelerate drives the processes: two with half the batch each train as one with the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from trainings import short, start, weights_of

from magicapture_core.checkpoints import Run
from magicapture_core.losses import TERMS


@pytest.mark.long
def test_two_processes_train_as_one_with_twice_the_batch(toy: Any, toy_folder: Path, tmp_path: Path) -> None:
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent)])
    # accelerate's own launcher starts CPU processes through MPI only; torch's sets the same variables.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    # As `accelerate launch --mixed_precision bf16` sets it: the precision is the model's all the same.
    cpu = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "bf16"}
    done = subprocess.run(
        [*launch, str(here / "two_processes.py"), str(toy_folder), str(tmp_path / "two")],
        env={**os.environ, **cpu, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    list(start(toy, short(batch_size=2), tmp_path / "one"))
    two, one = Run.open(tmp_path / "two").losses(), Run.open(tmp_path / "one").losses()
    assert len(two) == len(one) == 7
    for row, expected in zip(two, one, strict=True):
        for term in TERMS.keys() & expected.keys():
            assert row[term] == pytest.approx(expected[term], rel=1e-4), (row["step"], term)
    weights = weights_of(tmp_path / "two")
    for name, tensor in weights_of(tmp_path / "one").items():
        # As a whole: Adam lets single numbers differ whose gradient is little but rounding.
        assert (weights[name] - tensor).norm() <= 1e-3 * tensor.norm() + 1e-5, name
