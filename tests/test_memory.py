"""How a step is split so that memory holds it, in worked numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import short, start

from magicapture_core.config import TrainConfig
from magicapture_core.models import ModelBundle
from magicapture_core.models.files import CONFIGS
from magicapture_core.models.stable_diffusion import StableDiffusion
from magicapture_core.training.memory import (
    DECODER_BYTES,
    TINY_BYTES,
    UNET_BYTES,
    Costs,
    Plan,
    Planner,
    Watch,
    _work,
    costs,
    free_bytes,
    plan,
)
from magicapture_core.training.optimisation import Optimisation
from magicapture_core.training.recompute import decoder_parts, recompute, unet_parts

GB = 1e9
# Of an item, in round numbers: the UNet, what its largest parts are computed again for, and all; the decoder.
UNET: dict[Any, float] = {"nothing": 1 * GB, "largest": 0.6 * GB, "all": 0.25 * GB}
DECODER = {False: 3 * GB, True: 0.8 * GB}
COSTS = Costs(UNET, DECODER, tasks=3)
ROOMY = Costs({"nothing": 5 * GB, "largest": 5 * GB, "all": 5 * GB}, {False: 5 * GB, True: 5 * GB}, tasks=3)
FOUR: dict[str, int] = {"least": 1, "most": 4, "wanted": 4}


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        # Four items: three tasks keep 12 GB, and Eq. 7 after them 4 · (1 + 3) = 16.
        (80, Plan(4, "nothing", False)),
        (16, Plan(4, "nothing", False)),
        # The UNet's largest parts are computed again: 4 · (.6 + 3) = 14.4 for Eq. 7.
        (15.9, Plan(4, "largest", False)),
        # Or the decoder: 12 GB for the tasks, 4 · (1 + .8) = 7.2 for Eq. 7.
        (12, Plan(4, "nothing", True)),
        (1.1, Plan(1, "all", True)),
        (1, Plan(1, "all", True)),
        (0, Plan(1, "all", True)),
        (-2, Plan(1, "all", True)),
    ],
)  # fmt: skip
def test_the_fastest_plan_that_memory_holds(budget: float, expected: Plan) -> None:
    assert plan(budget * GB, COSTS, **FOUR) == expected


def test_more_memory_is_never_slower_and_no_plan_takes_more_than_there_is() -> None:
    found = [(budget / 10, plan(budget * GB / 10, COSTS, **FOUR)) for budget in range(11, 200)]
    works = [_work(each, COSTS, 4) for _, each in found]
    assert works == sorted(works, reverse=True)
    assert all(COSTS.of(each) <= budget * GB for budget, each in found)
    assert len(set(each for _, each in found)) > 4  # noqa: C401


def test_the_decoder_counts_where_it_takes_more_than_the_tasks() -> None:
    sizes = {"least": 1, "most": 9, "wanted": 9}
    large = Costs(UNET, {False: 9 * GB, True: 9 * GB}, tasks=3)
    assert large.of(Plan(2, "nothing", False)) == 20 * GB  # 1 + 9 an item
    without = Costs(UNET, {False: 0.0, True: 0.0}, tasks=3)
    assert without.of(Plan(8, "nothing", False)) == 24 * GB
    assert plan(27 * GB, without, **sizes) == Plan(9, "nothing", False)


def test_a_number_that_was_asked_for_stays() -> None:
    asked = {"least": 3, "most": 3, "wanted": 4}
    assert plan(12 * GB, COSTS, **asked) == Plan(3, "nothing", False)
    assert plan(5.4 * GB, COSTS, **asked) == Plan(3, "largest", True)
    assert plan(1 * GB, COSTS, **asked) == Plan(3, "all", True)


def test_checkpointing_that_was_asked_for_stays() -> None:
    assert plan(99 * GB, COSTS, **FOUR, checkpointing=True) == Plan(4, "all", True)
    assert plan(3.2 * GB, COSTS, **FOUR, checkpointing=True) == Plan(2, "all", True)


# --- what a step has taken --------------------------------------------------------------------------


def planner(budget: float, **changes: Any) -> Planner:
    return Planner(COSTS, budget * GB, **{**FOUR, "checkpointing": False, **changes})


def test_a_plan_that_took_what_it_was_to_take_stays() -> None:
    for budget in (2, 5, 9, 13, 20):
        made = planner(budget).plan()
        assert planner(budget).corrected(made, COSTS.of(made)) == made


def test_a_plan_that_took_more_than_there_is_is_made_smaller() -> None:
    made = planner(16).plan()
    assert made == Plan(4, "nothing", False)
    better = planner(16).corrected(made, 20 * GB)  # a quarter more than counted
    assert better == Plan(4, "nothing", True)
    assert COSTS.of(better) * 1.25 <= 16 * GB
    assert planner(1.5).corrected(Plan(1, "all", True), 2 * GB) == Plan(1, "all", True)


def test_a_plan_that_left_room_takes_more_items_but_drops_no_caution() -> None:
    made = Plan(1, "all", True)
    assert planner(1.1).plan() == made
    assert planner(1.1).corrected(made, 0.27 * GB) == Plan(4, "all", True)
    assert planner(1.1).corrected(made, 0.3 * GB) == Plan(2, "all", True)  # three would take two calls, too
    assert planner(1.1, most=1).corrected(made, 0.27 * GB) == made


def test_a_resumed_run_splits_its_steps_as_before_where_there_is_room_and_else_as_it_fits() -> None:
    assert planner(16).plan_with(4) == Plan(4, "nothing", False)
    assert planner(16).plan_with(2) == Plan(2, "nothing", False)
    # Little memory: the same four items, with more computed again.
    assert planner(4.3).plan_with(4) == Plan(4, "all", True)
    # No room for four at all: fewer. But where the same numbers are promised it tries all the same.
    assert planner(2).plan_with(4) == planner(2).plan() != Plan(4, "all", True)
    assert planner(2, exact=True).plan_with(4) == Plan(4, "all", True)


def test_room_that_phase_1_finds_is_not_taken_for_room_in_phase_2(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watch, "taken", lambda watch: None if watch.before else 1.0)  # next to nothing, once
    monkeypatch.setattr(Planner, "of", lambda *_: replace(planner(16), most=4, costs=ROOMY))
    seen: list[tuple[str, int]] = []
    advance = Optimisation.launch

    def launch(self: Optimisation) -> Any:
        step = advance(self)
        seen.append((step.phase, self.plan.items_per_call))
        if step.phase == "lora":
            monkeypatch.setattr(Watch, "taken", lambda _: None)
        return step

    monkeypatch.setattr(Optimisation, "launch", launch)
    phase_2_starts: list[int] = []
    begin = Optimisation._follow
    monkeypatch.setattr(
        Optimisation,
        "_follow",
        lambda self, plan: (phase_2_starts.append(plan.items_per_call), begin(self, plan)),
    )
    list(start(toy, short(ti_steps=2, lora_steps=1, batch_size=4), tmp_path / "run"))
    assert [phase for phase, _ in seen] == ["textual_inversion", "textual_inversion", "lora"]
    assert seen[1][1] == 4
    # As planned, as phase 1 then allowed, and for phase 2 as planned again.
    assert phase_2_starts[:3] == [1, 4, 1]


def test_a_device_that_counts_nothing_corrects_nothing() -> None:
    assert Watch(torch.device("cpu")).taken() is None


# --- parts that are computed again ------------------------------------------------------------------


def test_recomputed_parts_keep_less_and_give_the_same_gradient(toy: Any) -> None:
    kept: dict[str, int] = {}
    gradients = {}
    generator = torch.Generator().manual_seed(1)
    noisy, hidden = (
        torch.randn(2, 4, 16, 16, generator=generator),
        torch.randn(2, 77, 32, generator=generator),
    )
    names: tuple[Any, ...] = ("nothing", "largest", "all")
    for name in names:
        end = recompute(unet_parts(toy.unet, name))
        leaf = hidden.clone().requires_grad_()
        own = {parameter.untyped_storage().data_ptr() for parameter in toy.unet.parameters()}
        alive: dict[int, int] = {}

        def keep(tensor: torch.Tensor, own: set[int] = own, alive: dict[int, int] = alive) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                alive[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = toy.unet(noisy, torch.tensor([3, 500]), leaf).sample
        kept[name] = sum(alive.values())
        output.square().sum().backward()
        gradients[name] = leaf.grad
        end()
    assert kept["all"] < kept["largest"] < kept["nothing"]
    for name in names:
        torch.testing.assert_close(gradients[name], gradients["nothing"])
    assert not any("forward" in vars(module) for module in toy.unet.modules())


def test_a_recomputed_decoder_gives_the_same_gradient(toy: Any) -> None:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    found = []
    for parts in ([], decoder_parts(toy.vae.decoder)):
        end = recompute(parts)
        leaf = latents.clone().requires_grad_()
        toy.decode(leaf).square().sum().backward()
        found.append(leaf.grad)
        end()
    torch.testing.assert_close(*found)


def test_nothing_is_computed_again_where_no_gradient_is_wanted(toy: Any) -> None:
    end = recompute(unet_parts(toy.unet, "all"))
    with torch.no_grad():
        output = toy.unet(torch.zeros(1, 4, 16, 16), torch.tensor([3]), torch.zeros(1, 77, 32)).sample
    assert not output.requires_grad
    end()


# --- what a model takes -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sd15() -> ModelBundle:
    """Stable Diffusion 1.5's networks as shapes, without any numbers."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(CONFIGS / "v1" / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(CONFIGS / "v1" / "vae"))
    nothing: dict[str, Any] = dict.fromkeys(
        ("tokenizer", "text_encoder", "noise_scheduler", "safety_checker", "feature_extractor")
    )
    return StableDiffusion(
        name="sd15",
        source="",
        unet=unet,
        vae=vae,
        device=torch.device("meta"),
        dtype=torch.bfloat16,
        **nothing,
    )


@pytest.mark.parametrize(
    ("changes", "window", "unet", "decoder"),
    [
        ({}, 64, 1, 1),
        ({}, 32, 1, 0.25),  # the face takes a quarter of the picture
        ({"resolution": 256}, 32, 0.25, 0.25),
        ({"lambda_id": 0.0}, 64, 1, 0),
        ({"lora_steps": 0}, 64, 1, 0),
    ],
)  # fmt: skip
def test_costs_follow_the_picture_the_window_and_what_is_decoded(
    sd15: ModelBundle, changes: dict[str, Any], window: int, unet: float, decoder: float
) -> None:
    found = costs(sd15, TrainConfig(**changes), window)
    assert found.unet == pytest.approx({name: unet * value for name, value in UNET_BYTES.items()}, rel=1e-3)
    assert found.decode == pytest.approx({name: decoder * value for name, value in DECODER_BYTES.items()})
    assert found.tasks == (2 if changes.get("lora_steps") == 0 else 3)


def test_the_tiny_decoder_takes_less(sd15: ModelBundle) -> None:
    found = costs(sd15, TrainConfig(identity_decode="tiny"), 32)
    assert found.decode == {False: TINY_BYTES / 4, True: TINY_BYTES / 4}
    assert DECODER_BYTES[False] > TINY_BYTES


def test_twice_the_bits_take_twice_the_memory(sd15: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    half = costs(sd15, TrainConfig(), 64)
    monkeypatch.setattr(sd15, "dtype", torch.float32)
    assert costs(sd15, TrainConfig(), 64) == half.times(2)


def test_a_device_that_cannot_be_asked_is_taken_to_hold_nothing() -> None:
    assert free_bytes(torch.device("meta")) == 0
    assert free_bytes(torch.device("cpu")) > 0


@pytest.mark.gpu
def test_what_torch_keeps_without_using_it_counts_as_free() -> None:
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    before = free_bytes(device)
    block = torch.empty(10**9, dtype=torch.uint8, device=device)
    assert free_bytes(device) == pytest.approx(before - 1e9, abs=0.1e9)
    del block
    assert torch.cuda.memory_reserved(device) >= 10**9
    assert free_bytes(device) == pytest.approx(before, abs=0.1e9)


@pytest.mark.gpu
def test_a_job_that_ran_out_of_memory_gives_the_gpu_s_back(toy_folder: Path, tmp_path: Path) -> None:
    """Really out of it: a block that no GPU holds is asked for within a step that holds a large one."""
    from trainings import start

    from magicapture_core.models import load
    from magicapture_core.problems import OutOfMemory
    from magicapture_core.ui.jobs import Job, Jobs, Stream

    device = torch.device("cuda")
    models = load(toy_folder, device=device, dtype=torch.float32)
    config, calls = short(), 0

    def greedy(_unet: Any, values: tuple[Any, ...]) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            large = torch.empty(4 * 10**9, dtype=torch.uint8, device=device)
            torch.empty(10**13, dtype=torch.uint8, device=device)
            assert len(large) == len(values)

    handle = models.unet.register_forward_pre_hook(greedy)

    def training(_job: Job) -> Stream:
        yield from start(models, config, tmp_path / "run")

    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(device)
    jobs = Jobs()
    job = jobs.start("ann", "training", training)
    assert job.wait(300)
    assert jobs.close(300)
    handle.remove()
    assert isinstance(job.failure, OutOfMemory)
    torch.cuda.synchronize()
    assert torch.cuda.memory_reserved(device) < before + 10**9
    assert list(start(models, config, tmp_path / "run-again"))[-1].step == config.ti_steps + config.lora_steps


@pytest.mark.gpu
def test_a_watch_counts_what_a_device_held_at_most() -> None:
    device = torch.device("cuda")
    held = torch.empty(10**8, dtype=torch.uint8, device=device)
    watch = Watch(device)
    block = torch.empty(5 * 10**8, dtype=torch.uint8, device=device)
    del block
    taken = watch.taken()
    assert taken is not None
    assert taken == pytest.approx(5e8, rel=0.01)
    assert len(held) == 10**8
