"""Inside a step nothing asks the device for a number: one copy to it before, one from it after."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from toy import ToyAnalyser
from trainings import short, start, toy_concept, weights_of

from magicapture_core.checkpoints import Run
from magicapture_core.models.kernels import Kernels, changed, kernels_for
from magicapture_core.problems import Problem, RunProblem
from magicapture_core.training import objective as objective_module
from magicapture_core.training.draws import Sizes, draw_step
from magicapture_core.training.optimisation import Optimisation
from magicapture_core.training.preparation import prepared
from magicapture_core.training.sending import Arrival, packed, sent, unpacked

READING = ("tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__")
"""Methods of a tensor that wait for its device."""
WAITING = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "_unique2", "unique_dim", "masked_select",
           "lift_fresh"}  # fmt: skip
"""Operations that do; the last makes a tensor of Python's numbers, which a GPU copies from the host."""


class Reads(TorchDispatchMode):
    """Counts what would make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in WAITING:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def _counting(found: Counter[str], name: str, method: Any) -> Any:
    def counting(tensor: Tensor, *values: Any) -> Any:
        found[name] += 1
        return method(tensor, *values)

    return counting


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    with Reads() as mode, monkeypatch.context() as patch:
        for name in READING:
            patch.setattr(Tensor, name, _counting(mode.found, name, getattr(Tensor, name)))
        yield mode.found


@contextmanager
def opened(models: Any, config: Any) -> Iterator[Optimisation]:
    arguments = (models, toy_concept("subject", kind=config.subject_kind), toy_concept("style"), config)
    processes = PartialState(cpu=models.device.type == "cpu")
    with prepared(*arguments, processes, ToyAnalyser()) as ready:
        yield ready.optimisation


EVERYTHING: dict[str, Any] = {
    "lora_targets": ("cross", "self", "feed_forward", "text_encoder"), "lambda_colour": 1.0, "lambda_lightness": 0.1,
    "embedding_norm": 0.4, "max_grad_norm": 1.0, "attention_scale": "region", "items_per_call": 3,
}  # fmt: skip
VARIANTS = {
    "paper": {},
    "everything": EVERYTHING,
    "whole picture": {"identity_decode": "full"},
    "object": {"subject_kind": "object"},
    "checkpointed": {"gradient_checkpointing": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("phase", ["textual_inversion", "lora"])
def test_nothing_is_read_back_while_a_step_is_computed(
    toy: Any, monkeypatch: pytest.MonkeyPatch, phase: Any, variant: str
) -> None:
    config = short(**{**VARIANTS[variant], "ti_steps": 3 * (phase != "lora")})
    with opened(toy, config) as optimisation:
        optimisation.advance()  # what a phase begins with
        objective = optimisation.objective
        draw = draw_step(optimisation.generator, optimisation.sizes, phase, config)
        there = sent(draw, objective.prompts.ids, objective.prompts.token_ids, toy.device)
        with counted(monkeypatch) as found:
            terms = objective.backpropagate(there, phase, 1.0, optimisation.plan.items_per_call)
        assert not found
    assert set(terms) >= ({"source"} if phase != "lora" else {"source", "identity", "attention"})


def test_a_step_is_one_copy_to_the_device_and_one_back(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimizer's side of it, too, where the device itself looks whether all is finite."""
    toy.kernels = Kernels(fused_adamw=True, ahead=True)
    copies = []

    def seen(*arguments: Any) -> Any:
        copies.append("to")
        with torch.utils._python_dispatch._disable_current_modes(), monkeypatch.context() as patch:
            for name in READING:  # of the draw, which is on the host
                patch.setattr(Tensor, name, originals[name])
            return sent(*arguments)

    originals = {name: getattr(Tensor, name) for name in READING}
    monkeypatch.setattr(objective_module, "sent", seen)
    with opened(toy, short(**EVERYTHING)) as optimisation:
        optimisation.advance()
        copies.clear()
        with counted(monkeypatch) as found:
            step = optimisation.launch()
            assert not found
            optimisation.settle(step)
        assert found == {"tolist": 1}
        assert copies == ["to"]


def test_a_count_of_reads_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.ones(3)
    with counted(monkeypatch) as found:
        assert numbers.sum().item() == 3
        assert numbers.tolist() == [1, 1, 1]
        assert bool(numbers[0])
        numbers.new_tensor([1.0])
    assert found["item"] == found["tolist"] == found["__bool__"] == found["lift_fresh"] == 1


def test_one_copy_carries_tensors_of_all_kinds() -> None:
    sizes = Sizes(subject=6, style=6, compared=3, latent=(4, 3, 5), timesteps=1000)
    task = draw_step(torch.Generator().manual_seed(1), sizes, "lora", short()).tasks[0]
    tensors = [task.items, task.noise, torch.tensor(3.5, dtype=torch.bfloat16), torch.arange(6).view(2, 3).T,
               torch.zeros(0, 2), task.timesteps, torch.tensor([True, False])]  # fmt: skip
    whole = packed(tensors)
    assert whole.dtype == torch.uint8
    back = unpacked(whole, tensors)
    for one, other in zip(tensors, back, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert torch.equal(one, other)
        assert other.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr() or not one.numel()


def test_numbers_arrive_once() -> None:
    arrival = Arrival(torch.tensor([1.5, 2.0]))
    assert arrival.values() == [1.5, 2.0]
    assert arrival.values() is arrival.values()


# --- a step that begins before the last one's losses were read ------------------------------------


GUARDED = Kernels(fused_adamw=True)
AHEAD = Kernels(fused_adamw=True, ahead=True)


def run(models: Any, kernels: Kernels, folder: Path, **changes: Any) -> list[Any]:
    models.kernels = kernels
    return list(start(models, short(embedding_norm=0.4, **changes), folder))


def test_working_ahead_changes_nothing(toy: Any, tmp_path: Path) -> None:
    due = {"attention_every": 2, "sample_every": 3, "sample_steps": 1}
    behind = run(toy, GUARDED, tmp_path / "behind", **due)
    ahead = run(toy, AHEAD, tmp_path / "ahead", **due)
    assert [each.losses for each in ahead] == [each.losses for each in behind]
    assert [each.learning_rates for each in ahead] == [each.learning_rates for each in behind]
    assert [(each.phase, each.phase_step, len(each.attention)) for each in ahead] == [
        (each.phase, each.phase_step, len(each.attention)) for each in behind
    ]
    one, other = weights_of(tmp_path / "ahead"), weights_of(tmp_path / "behind")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_closed_ahead_goes_on_from_the_step_that_was_made(toy: Any, tmp_path: Path) -> None:
    toy.kernels = AHEAD
    whole = run(toy, AHEAD, tmp_path / "whole")
    reports = start(toy, short(embedding_norm=0.4), tmp_path / "run")
    assert [each.step for each in islice(reports, 4)] == [1, 2, 3, 4]
    reports.close()  # type: ignore[attr-defined]
    assert Run.open(tmp_path / "run").load_checkpoint().step == 5
    assert [row["step"] for row in Run.open(tmp_path / "run").losses()] == [1, 2, 3, 4, 5]
    rest = list(start(toy, short(embedding_norm=0.4), tmp_path / "run", resume=True))
    assert [each.losses for each in rest] == [each.losses for each in whole[5:]]
    one, other = weights_of(tmp_path / "run"), weights_of(tmp_path / "whole")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("bad_step", [2, 5, 6])
def test_a_bad_step_ahead_leaves_no_trace(toy: Any, tmp_path: Path, bad_step: int) -> None:
    """Its weights, the optimizer's moments, and what the host counts are those of the step before, though the next
    step was launched already; that run goes on as one that never met it."""
    toy.kernels = AHEAD
    whole = run(toy, AHEAD, tmp_path / "whole")
    calls = 0

    def spoil(_unet: Any, _values: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == spoilt:
            return dataclasses.replace(output, sample=output.sample * float("nan"))
        return None

    spoilt = bad_step if bad_step <= 3 else 3 + 2 * (bad_step - 3)  # phase 2 has two calls a step
    handle = toy.unet.register_forward_hook(spoil)
    reports = start(toy, short(embedding_norm=0.4), tmp_path / "run")
    made = []
    with pytest.raises(RunProblem, match=f"at step {bad_step}"):
        made.extend(reports)
    handle.remove()
    assert calls > spoilt  # a step was launched after it
    checkpoint = Run.open(tmp_path / "run").load_checkpoint()
    assert checkpoint.step == bad_step - 1
    assert all(tensor.isfinite().all() for tensor in checkpoint.trainable.values())
    rest = list(start(toy, short(embedding_norm=0.4), tmp_path / "run", resume=True))
    assert [each.losses for each in rest] == [each.losses for each in whole[bad_step - 1 :]]
    one, other = weights_of(tmp_path / "run"), weights_of(tmp_path / "whole")
    assert all(torch.equal(one[name], other[name]) for name in one)


# --- the switches ---------------------------------------------------------------------------------


def test_switches_are_off_on_a_cpu_and_safe_ones_on_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAGICAPTURE_KERNELS", raising=False)
    assert kernels_for(torch.device("cpu")) == Kernels()
    assert kernels_for(torch.device("cuda")) == Kernels(
        channels_last=True, fused_adamw=True, ahead=True, tf32=True, compiled=False
    )
    monkeypatch.setenv("MAGICAPTURE_KERNELS", "compiled=1, tf32=0")
    assert kernels_for(torch.device("cuda")) == Kernels(
        channels_last=True, fused_adamw=True, ahead=True, compiled=True
    )


@pytest.mark.parametrize("words", ["fast=1", "compiled", "compiled=2", "compiled=on"])
def test_a_misspelt_switch_is_refused(words: str) -> None:
    with pytest.raises(Problem, match="expected name=0 or name=1"):
        changed(Kernels(), words)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "changes", [{}, EVERYTHING, {"gradient_checkpointing": True}, {"subject_kind": "object"}]
)
def test_no_step_on_a_gpu_waits_for_it(toy_folder: Path, changes: dict[str, Any]) -> None:
    """torch itself raises wherever the host would wait."""
    from magicapture_core.models import load

    models = load(toy_folder, device="cuda", dtype=torch.bfloat16)
    with opened(models, short(**changes)) as optimisation:
        for _ in range(optimisation.total_steps):
            phase_begins = optimisation.step in (0, optimisation.config.ti_steps)
            torch.cuda.set_sync_debug_mode("default" if phase_begins else "error")
            try:
                step = optimisation.launch()
            finally:
                torch.cuda.set_sync_debug_mode("default")
            assert optimisation.settle(step)
