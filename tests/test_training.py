"""The loop on the real classes at toy size: what it trains, what it leaves alone, and that it resumes exactly."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from toy import ToyAnalyser
from trainings import short, start, toy_concept, weights_of

from magicapture_core.adapters.lora import add_lora, remove_lora
from magicapture_core.checkpoints import Run
from magicapture_core.files import atomic_file, atomic_folder
from magicapture_core.models import load
from magicapture_core.models.fingerprint import fingerprint
from magicapture_core.problems import OutOfMemory, Problem, RunProblem, ran_out_of_memory
from magicapture_core.training import memory
from magicapture_core.training.data import encode_concept, face_windows, mirror_landmarks
from magicapture_core.training.draws import Sizes, draw_step
from magicapture_core.training.optimisation import PHASES
from magicapture_core.training.preparation import prepared
from magicapture_core.training.recompute import decoder_parts, unet_parts


def everything(models: Any) -> dict[str, torch.Tensor]:
    """A copy of every weight and buffer of a bundle."""
    return {
        f"{part}.{name}": tensor.clone()
        for part in ("unet", "vae", "text_encoder")
        for name, tensor in getattr(models, part).state_dict().items()
    }


# --- what is trained ------------------------------------------------------------------------------


def test_both_phases_run_and_leave_an_adapter(toy: Any, tmp_path: Path) -> None:
    reports = list(start(toy, short(), tmp_path / "run"))
    assert [report.step for report in reports] == list(range(1, 8))
    assert [report.phase for report in reports] == ["textual_inversion"] * 3 + ["lora"] * 4
    assert set(reports[0].losses) == {"source", "reference"}
    assert set(reports[-1].losses) == {"source", "reference", "composed", "identity", "attention"}
    assert all(math.isfinite(value) for report in reports for value in report.losses.values())
    assert reports[-1].seconds_left == 0
    assert sorted(path.name for path in (tmp_path / "run" / "adapter").iterdir()) == [
        "pytorch_lora_weights.safetensors",
        "style.safetensors",
        "subject.safetensors",
    ]
    rows = [json.loads(line) for line in (tmp_path / "run" / "losses.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 8))
    assert {"phase", "source", "reference", "lr_embeddings", "seconds"} <= set(rows[0])
    card = (tmp_path / "run" / "README.md").read_text()
    assert "load_textual_inversion" in card
    assert "7 of 7" in card


def test_losses_fall(toy: Any, tmp_path: Path) -> None:
    config = short(
        ti_steps=40, lora_steps=60, lambda_id=0, lora_learning_rate=3e-2, learning_rate_decay="constant"
    )
    reports = list(start(toy, config, tmp_path / "run"))

    def mean(term: str, part: slice) -> float:
        values = [report.losses[term] for report in reports[40:][part]]
        return sum(values) / len(values)

    for term in ("source", "reference", "composed", "attention"):
        assert mean(term, slice(-20, None)) < mean(term, slice(0, 20)), term


def test_the_models_come_back_as_they_were(toy: Any, tmp_path: Path) -> None:
    before, vocabulary = everything(toy), toy.tokenizer.get_vocab()
    list(
        start(
            toy, short(lora_targets=("cross", "text_encoder"), gradient_checkpointing=True), tmp_path / "run"
        )
    )
    after = everything(toy)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert toy.tokenizer.get_vocab() == vocabulary
    assert not any(parameter.requires_grad for parameter in toy.unet.parameters())


def test_only_cross_attention_and_two_rows_are_trained(toy: Any, tmp_path: Path) -> None:
    """In the middle of phase 2 every weight but the LoRA ones and the two rows is what it was."""
    before = everything(toy)
    reports = start(toy, short(), tmp_path / "run")
    list(islice(reports, 5))
    trained = {name: p for name, p in toy.unet.named_parameters() if p.requires_grad}
    assert trained
    assert all(".attn2." in name and "lora_" in name for name in trained)
    projections = {name.split(".attn2.")[1].split(".lora_")[0] for name in trained}
    assert projections == {"to_q", "to_k", "to_v", "to_out.0"}
    assert not any(p.requires_grad for p in [*toy.text_encoder.parameters(), *toy.vae.parameters()])
    now = {
        name.replace(".base_layer", ""): tensor
        for name, tensor in everything(toy).items()
        if "lora_" not in name
    }
    assert now.keys() == before.keys()
    assert all(torch.equal(before[name], now[name]) for name in before)
    changed = [p for name, p in trained.items() if "lora_B" in name and bool((p != 0).any())]
    assert len(changed) == len(trained) / 2
    reports.close()  # type: ignore[attr-defined]


def test_lora_is_the_paper_s_low_rank_update(toy: Any, tmp_path: Path) -> None:
    """Eq. 3 by hand: the layer's output is W x + U (Vᵀ x), with alpha equal to the rank."""
    reports = start(toy, short(lora_rank=2), tmp_path / "run")
    list(islice(reports, 6))
    layer = toy.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn2.to_q
    x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0))
    v_t, u = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert v_t.shape == (2, layer.in_features)
    expected = x @ layer.base_layer.weight.T + x @ v_t.T @ u.T
    torch.testing.assert_close(layer(x), expected)
    assert (u @ v_t).abs().max() > 0
    reports.close()  # type: ignore[attr-defined]


def test_phase_1_trains_the_rows_alone(toy: Any, tmp_path: Path) -> None:
    list(start(toy, short(lora_steps=0), tmp_path / "run"))
    assert not (tmp_path / "run" / "adapter" / "pytorch_lora_weights.safetensors").exists()
    weights = weights_of(tmp_path / "run")
    assert set(weights) == {"subject.safetensors:<subject>", "style.safetensors:<style>"}


@pytest.mark.parametrize(
    ("changes", "terms"),
    [
        ({"lambda_id": 0.0}, {"source", "reference", "composed", "attention"}),
        ({"lambda_attn": 0.0}, {"source", "reference", "composed", "identity"}),
        ({"lambda_id": 0.0, "composed_weight": 0.0}, {"source", "reference", "attention"}),
        ({"lambda_colour": 1.0}, {"source", "reference", "composed", "attention", "identity", "colour"}),
        (
            {"lambda_colour": 1.0, "lambda_id": 0.0},
            {"source", "reference", "composed", "attention", "colour"},
        ),
    ],
)
def test_terms_can_be_turned_off(toy: Any, tmp_path: Path, changes: dict[str, Any], terms: set[str]) -> None:
    last = list(start(toy, short(ti_steps=0, lora_steps=1, **changes), tmp_path / "run"))[-1]
    assert set(last.losses) == terms


def test_the_second_unet_pass_is_made_only_for_the_identity_loss(toy: Any, tmp_path: Path) -> None:
    calls: list[int] = []
    handle = toy.unet.register_forward_hook(lambda _m, args, _out: calls.append(len(args[0])))
    list(start(toy, short(ti_steps=1, lora_steps=1), tmp_path / "a"))
    assert calls == [8, 12, 4]  # two tasks of four items; three tasks; the composed items again
    calls.clear()
    list(start(toy, short(ti_steps=1, lora_steps=1, lambda_id=0.0), tmp_path / "b"))
    assert calls == [8, 12]
    handle.remove()


def test_the_colour_that_the_styles_faces_share() -> None:
    from magicapture_core.concepts import Concept
    from magicapture_core.training.data import shared_face_colour

    def plain(*reds: float) -> Concept:
        concept = toy_concept("style", len(reds))
        images = [torch.zeros(3, 64, 64) for _ in reds]
        for image, red in zip(images, reds, strict=True):
            image[0] += red * 2
        examples = [replace(e, image=image) for e, image in zip(concept.examples, images, strict=True)]
        return replace(concept, examples=tuple(examples))

    grey = shared_face_colour(plain(0, 0), 8)
    assert grey is not None
    assert grey.mean.abs().max() < 1e-5
    assert grey.variety < 1e-5
    reddish = shared_face_colour(plain(0.1, 0.3), 8)  # Cb -.0168736 and Cr .05 for each .1 of red
    assert reddish is not None
    torch.testing.assert_close(reddish.mean, torch.tensor([-0.0337472, 0.1]), atol=1e-4, rtol=0)
    assert reddish.variety.item() == pytest.approx((0.0168736**2 + 0.05**2) ** 0.5, abs=1e-4)
    assert shared_face_colour(toy_concept("style", faces=False), 8) is None


def test_a_dark_skin_stays_as_dark_among_the_styles_faces() -> None:
    from magicapture_core.training.data import TYPICAL_LIGHTNESS, wanted_lightness

    def plain(role: Any, level: float) -> Any:
        concept = toy_concept(role, 1)
        image = torch.full((3, 64, 64), level * 2 - 1)
        return replace(concept, examples=(replace(concept.examples[0], image=image),))

    wanted = wanted_lightness(plain("subject", 0.33), plain("style", 0.5))
    assert wanted is not None
    assert wanted.item() == pytest.approx(0.5 * 0.33 / TYPICAL_LIGHTNESS, abs=1e-4)
    bright = wanted_lightness(plain("subject", 0.7), plain("style", 0.5))
    assert bright is not None
    assert bright.item() == pytest.approx(0.5, abs=1e-4)
    assert wanted_lightness(plain("subject", 0.3), toy_concept("style", faces=False)) is None


def test_lightness_is_asked_of_what_the_noise_leaves_open(toy: Any) -> None:
    config = short(lambda_lightness=1.0, lambda_id=0.0)
    arguments = (
        toy,
        toy_concept("subject"),
        toy_concept("style"),
        config,
        PartialState(cpu=True),
        ToyAnalyser(),
    )
    with prepared(*arguments) as ready:
        optimisation = ready.optimisation
        optimisation.start_phase("lora")
        optimisation.objective.lightness = torch.tensor(
            5.0
        )  # no face can be: 35 to 50 units of .1 away, less .05
        draw = draw_step(optimisation.generator, optimisation.sizes, "lora", config)
        assert draw.identity is not None
        for timestep in (0, 500):
            draw.identity.timesteps.fill_(timestep)
            asked = optimisation.objective.step(draw, "lora", 2.0, config.items_per_step)["lightness"].item()
            share = 1 - toy.noise_scheduler.alphas_cumprod[timestep].item()
            assert 1200 < asked / share < 2500


def test_an_object_is_learned_by_image_features(toy: Any, tmp_path: Path) -> None:
    reports = list(start(toy, short(subject_kind="object"), tmp_path / "run"))
    assert reports[-1].losses["identity"] > 0
    assert not (tmp_path / "run" / "identity.safetensors").exists()


def test_an_object_is_compared_where_it_belongs_alone(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from magicapture_core.training.likeness import FeatureLikeness

    compared, real = [], FeatureLikeness.__call__

    def watch(self: Any, pictures: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
        compared.append(pictures.detach())
        return real(self, pictures, landmarks)

    monkeypatch.setattr(FeatureLikeness, "__call__", watch)
    list(start(toy, short(subject_kind="object", ti_steps=0, lora_steps=1), tmp_path / "run"))
    place = toy_concept("style", kind="object").examples[0].masks.face[0] > 0  # the same in all of them
    for pictures in compared:  # the subject's photos first, then what is drawn
        assert not pictures[:, :, ~place].any()
        assert pictures[:, :, place].any()


def test_style_photos_without_a_face(toy: Any, tmp_path: Path) -> None:
    """The whole picture is style; nothing is compared with the subject, and [V1] is not held to nothing."""
    reports = list(
        start(toy, short(ti_steps=1, lora_steps=1), tmp_path / "run", style=toy_concept("style", faces=False))
    )
    assert reports[-1].losses["identity"] == 0
    assert math.isfinite(reports[-1].losses["attention"])


@pytest.mark.parametrize("targets", [("cross", "self"), ("cross", "feed_forward"), ("cross", "text_encoder")])
def test_more_targets_than_the_paper_s(toy: Any, tmp_path: Path, targets: Any) -> None:
    list(start(toy, short(ti_steps=0, lora_steps=1, lora_targets=targets), tmp_path / "run"))
    names = " ".join(weights_of(tmp_path / "run"))
    assert {"self": "attn1", "feed_forward": "ff.net", "text_encoder": "text_encoder."}[targets[1]] in names
    assert "attn2" in names


@pytest.mark.parametrize("device", ["cuda", "mps", "xpu"])
def test_fresh_lora_weights_leave_a_gpu_s_random_numbers_alone(
    toy: Any, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """Without the hardware: nothing may even ask to seed it."""
    seeded: list[int] = []
    name = "manual_seed" if device == "mps" else "manual_seed_all"
    monkeypatch.setattr(f"torch.{device}.{name}", seeded.append)
    before = torch.get_rng_state()
    first = {name: weight.detach().clone() for name, weight in add_lora(toy, short(seed=3)).items()}
    remove_lora(toy)
    assert seeded == []
    assert torch.equal(torch.get_rng_state(), before)
    again = add_lora(toy, short(seed=3))
    remove_lora(toy)
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    assert any(weight.any() for weight in first.values())


@pytest.mark.gpu
def test_fresh_lora_weights_leave_a_real_gpu_s_random_numbers_alone(toy: Any) -> None:
    torch.cuda.manual_seed(17)
    before = torch.cuda.get_rng_state()
    add_lora(toy, short(seed=3))
    remove_lora(toy)
    assert torch.equal(torch.cuda.get_rng_state(), before)


# --- one gradient, however it is computed ---------------------------------------------------------


def gradients(models: Any, config: Any, **options: Any) -> dict[str, torch.Tensor]:
    """Gradients of the first phase-2 step, with LoRA's zero half filled so that both halves get one."""
    processes = PartialState(cpu=True)
    arguments = (models, toy_concept("subject"), toy_concept("style"), config, processes, ToyAnalyser())
    with prepared(*arguments) as ready:
        optimisation = ready.optimisation
        optimisation.start_phase("lora")
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in optimisation.weights.parameters.values():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        draw = draw_step(optimisation.generator, optimisation.sizes, "lora", config)
        optimisation.objective.step(draw, "lora", 2.0, options.get("per_call", config.items_per_step))
        return {
            name: tensor.grad.clone()
            for name, tensor in optimisation._named().items()
            if tensor.grad is not None
        }


def assert_same_gradient(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("per_call", [1, 2, 3])
def test_accumulation_is_a_larger_batch(toy: Any, per_call: int) -> None:
    config = short(lora_steps=10)
    assert_same_gradient(gradients(toy, config), gradients(toy, config, per_call=per_call))


def test_accumulation_and_batch_size_are_interchangeable(toy: Any) -> None:
    one = gradients(toy, short(batch_size=4, gradient_accumulation=1))
    assert_same_gradient(one, gradients(toy, short(batch_size=1, gradient_accumulation=4)))


def test_gradient_checkpointing_gives_the_same_gradient(toy: Any) -> None:
    assert_same_gradient(gradients(toy, short()), gradients(toy, short(gradient_checkpointing=True)))


def test_the_identity_loss_alone_reaches_the_lora_weights(toy: Any) -> None:
    with_id, without = gradients(toy, short(lambda_id=0.5)), gradients(toy, short(lambda_id=0.0))
    moved = [
        name for name in with_id if not torch.allclose(with_id[name], without[name], rtol=1e-3, atol=1e-9)
    ]
    assert any("lora_A" in name for name in moved)
    assert any("lora_B" in name for name in moved)
    assert "embeddings" in moved


def test_two_processes_draw_what_one_with_twice_the_batch_draws() -> None:
    sizes = Sizes(subject=6, style=6, compared=3, latent=(4, 8, 8), timesteps=1000)
    whole = draw_step(torch.Generator().manual_seed(1), sizes, "lora", short(batch_size=4))
    parts = [
        draw_step(
            torch.Generator().manual_seed(1), sizes, "lora", short(batch_size=2), rank=rank, processes=2
        )
        for rank in range(2)
    ]
    for number, task in enumerate(whole.tasks):
        assert torch.equal(task.noise, torch.cat([part.tasks[number].noise for part in parts]))
        assert torch.equal(task.prompts, torch.cat([part.tasks[number].prompts for part in parts]))
    assert whole.identity is not None
    assert torch.equal(
        whole.identity.timesteps, torch.cat([part.identity.timesteps for part in parts if part.identity])
    )


def test_draws_stay_in_range_and_vary() -> None:
    sizes = Sizes(subject=6, style=4, compared=3, latent=(4, 2, 2), timesteps=1000)
    generator, config = torch.Generator().manual_seed(0), short(identity_time_limit=0.5)
    draws = [draw_step(generator, sizes, "lora", config) for _ in range(100)]
    prompts = torch.cat([task.prompts for draw in draws for task in draw.tasks])
    assert prompts.unique().tolist() == list(range(10))
    identity = torch.cat([draw.identity.timesteps for draw in draws if draw.identity])
    assert identity.max() < 500 <= torch.cat([draw.tasks[2].timesteps for draw in draws]).max()
    assert torch.cat([draw.tasks[0].items for draw in draws]).unique().tolist() == list(range(6))


# --- resuming -------------------------------------------------------------------------------------


Result = tuple[dict[str, torch.Tensor], list[Any]]


@pytest.fixture(scope="module")
def uninterrupted(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The adapter and losses of a run that was never stopped."""
    from magicapture_core.models import load

    folder = tmp_path_factory.mktemp("runs") / "whole"
    list(start(load(toy_folder, device="cpu", dtype=torch.float32), short(), folder))
    return weights_of(folder), Run.open(folder).losses()


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 6])
def test_resume_is_exact(toy: Any, tmp_path: Path, cut: int, uninterrupted: Result) -> None:
    folder = tmp_path / "run"
    reports = start(toy, short(), folder)
    list(islice(reports, cut))
    reports.close()  # type: ignore[attr-defined]
    assert Run.open(folder).checkpoints()[-1].name == f"checkpoint-{cut:06d}"
    rest = list(start(toy, short(), folder, resume=True))
    assert [report.step for report in rest] == list(range(cut + 1, 8))
    weights, losses = uninterrupted
    resumed = weights_of(folder)
    assert resumed.keys() == weights.keys()
    assert all(torch.equal(resumed[name], weights[name]) for name in weights)
    assert without_seconds(Run.open(folder).losses()) == without_seconds(losses)


def test_previews_do_not_change_what_is_learned(toy: Any, tmp_path: Path, uninterrupted: Result) -> None:
    config = short(sample_every=2, attention_every=1, sample_steps=2, checkpoint_every=2, keep_checkpoints=2)
    reports = list(start(toy, config, tmp_path / "run"))
    run = tmp_path / "run"
    resumed = weights_of(run)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in uninterrupted[0].items())
    assert [path.name for path in Run(run).checkpoints()] == ["checkpoint-000006", "checkpoint-000007"]
    views = reports[-1].attention
    assert [(view.task, view.token) for view in views] == [
        ("source", "<subject>"),
        ("reference", "<style>"),
        ("composed", "<subject>"),
        ("composed", "<style>"),
    ]
    assert all(0 <= view.outside <= 1 and view.heat.max() == 1 for view in views)
    sample = reports[-1].sample
    assert sample is not None
    assert sample.image.size == (64, 64)
    assert sample.identity is not None
    assert -1 <= sample.identity <= 1
    assert {path.name for path in (run / "attention").iterdir()} >= {
        "step-000007-subject.png",
        "step-000007-style.png",
    }
    assert (run / "samples" / "step-000007.png").exists()


def test_a_killed_run_goes_on_from_its_last_checkpoint(
    toy: Any, tmp_path: Path, uninterrupted: Result
) -> None:
    """Steps after the checkpoint are lost, and computed again to the same end."""
    folder = tmp_path / "run"
    reports = start(toy, short(checkpoint_every=2), folder)
    list(islice(reports, 5))
    with pytest.raises(RuntimeError, match="killed"):
        reports.throw(RuntimeError("killed"))  # type: ignore[attr-defined]
    assert Run.open(folder).checkpoints()[-1].name == "checkpoint-000004"
    (folder / "losses.jsonl").open("a").write('{"step": 6, "sou')
    list(start(toy, short(checkpoint_every=2), folder, resume=True))
    assert all(torch.equal(weights_of(folder)[name], tensor) for name, tensor in uninterrupted[0].items())
    assert without_seconds(Run.open(folder).losses()) == without_seconds(uninterrupted[1])


def test_resuming_a_finished_run_yields_nothing(toy: Any, tmp_path: Path) -> None:
    list(start(toy, short(), tmp_path / "run"))
    assert list(start(toy, short(), tmp_path / "run", resume=True)) == []


def test_resume_refuses_other_settings_and_photos(toy: Any, tmp_path: Path) -> None:
    reports = start(toy, short(), tmp_path / "run")
    next(reports)
    reports.close()  # type: ignore[attr-defined]
    with pytest.raises(RunProblem, match=r"lambda_id was 0\.25, now 0\.5"):
        next(start(toy, short(lambda_id=0.5), tmp_path / "run", resume=True))
    with pytest.raises(RunProblem, match="subject photos or their masks changed"):
        next(start(toy, short(), tmp_path / "run", resume=True, subject=toy_concept("subject", 2)))
    with pytest.raises(RunProblem, match="already holds a run"):
        next(start(toy, short(), tmp_path / "run"))
    next(start(toy, short(checkpoint_every=1), tmp_path / "run", resume=True))


def test_a_model_is_the_same_wherever_it_lies(toy_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_folder, tmp_path / "moved")
    here, there = load(toy_folder), load(tmp_path / "moved")
    assert here.unet.config["_name_or_path"] != there.unet.config["_name_or_path"]
    assert fingerprint(here) == fingerprint(there)
    with torch.no_grad():
        next(there.unet.parameters()).view(-1)[0] += 1
    assert fingerprint(here) != fingerprint(there)


def test_resume_refuses_another_model(toy: Any, tmp_path: Path) -> None:
    reports = start(toy, short(), tmp_path / "run")
    next(reports)
    reports.close()  # type: ignore[attr-defined]
    toy.unet.conv_in.weight.data.add_(1)
    with pytest.raises(RunProblem, match="other weights"):
        next(start(toy, short(), tmp_path / "run", resume=True))


@pytest.mark.parametrize("name", ["state.pt", "trainable.safetensors", "position.json"])
def test_a_damaged_checkpoint_is_named(toy: Any, tmp_path: Path, name: str) -> None:
    reports = start(toy, short(), tmp_path / "run")
    next(reports)
    reports.close()  # type: ignore[attr-defined]
    (tmp_path / "run" / "checkpoint-000001" / name).write_bytes(b"no")
    with pytest.raises(RunProblem, match="checkpoint-000001"):
        next(start(toy, short(), tmp_path / "run", resume=True))


def test_resume_without_a_run(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(RunProblem, match="No run in"):
        next(start(toy, short(), tmp_path / "nothing", resume=True))


# --- trouble --------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run(toy: Any, tmp_path: Path) -> None:
    reports = start(toy, short(checkpoint_every=1), tmp_path / "run")
    list(islice(reports, 2))

    def spoil(_module: Any, _args: Any, output: Any) -> None:
        output.sample = output.sample * float("nan")

    handle = toy.unet.register_forward_hook(spoil)
    with pytest.raises(RunProblem, match="losses are not finite numbers at step 3: source, reference"):
        next(reports)
    handle.remove()
    rest = list(start(toy, short(checkpoint_every=1), tmp_path / "run", resume=True))
    assert rest[-1].step == 7
    assert all(math.isfinite(value) for value in rest[-1].losses.values())


def test_a_gradient_that_is_not_finite_stops_it_too_and_what_was_learned_is_saved(
    toy: Any, tmp_path: Path
) -> None:
    reports = start(toy, short(), tmp_path / "run")  # no periodic checkpoint so far
    list(islice(reports, 2))
    handle = toy.unet.conv_in.register_full_backward_hook(lambda _m, grads, _out: (grads[0] * float("inf"),))
    hidden = toy.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
    spoil = hidden.register_full_backward_hook(lambda _m, grads, _out: (grads[0] * float("inf"),))
    with pytest.raises(RunProblem, match="gradient is not a finite number at step 3"):
        next(reports)
    handle.remove()
    spoil.remove()
    assert Run.open(tmp_path / "run").checkpoints()[-1].name == "checkpoint-000002"


def test_the_way_a_step_is_split_may_change_on_resume(
    toy: Any, tmp_path: Path, uninterrupted: Result
) -> None:
    """As the advice after running out of memory says."""
    reports = start(toy, short(), tmp_path / "run")
    list(islice(reports, 4))
    reports.close()  # type: ignore[attr-defined]
    list(start(toy, short(items_per_call=1, gradient_checkpointing=True), tmp_path / "run", resume=True))
    for name, tensor in uninterrupted[0].items():
        torch.testing.assert_close(weights_of(tmp_path / "run")[name], tensor, rtol=1e-2, atol=1e-4)


def test_a_kill_between_checkpoint_and_adapter_is_mended(
    toy: Any, tmp_path: Path, uninterrupted: Result
) -> None:
    folder = tmp_path / "run"
    list(start(toy, short(), folder))
    for path in (folder / "adapter").iterdir():
        path.unlink()
    (folder / ".checkpoint-000006.123.tmp").mkdir()
    assert list(start(toy, short(), folder, resume=True)) == []
    assert weights_of(folder).keys() == uninterrupted[0].keys()
    assert not list(folder.glob(".checkpoint-*"))


def test_an_older_checkpoint_is_published_without_what_came_later(toy: Any, tmp_path: Path) -> None:
    config = short(checkpoint_every=1, keep_checkpoints=100)
    list(start(toy, config, tmp_path / "run"))
    run = Run.open(tmp_path / "run")
    words = run.checkpoints()[0]
    run.publish(words.name)
    assert {path.name for path in run.adapter.iterdir()} == {"subject.safetensors", "style.safetensors"}
    assert (run.adapter / "subject.safetensors").read_bytes() == (words / "subject.safetensors").read_bytes()
    with pytest.raises(RunProblem, match="no longer has checkpoint-999999"):
        run.publish("checkpoint-999999")


def test_without_a_recognisable_face_nothing_is_scored(toy: Any, tmp_path: Path) -> None:
    """As with masks painted on photos in which no face was found."""
    subject = toy_concept("subject", faces=False)
    for example in subject.examples:
        example.masks.face[..., 16:48, 16:48] = 1
    reports = list(start(toy, short(sample_every=7, sample_steps=1), tmp_path / "run", subject=subject))
    assert reports[-1].sample is not None
    assert reports[-1].sample.identity is None
    assert "identity" not in reports[-1].losses


def test_another_recogniser_on_resume_is_refused(toy: Any, tmp_path: Path) -> None:
    reports = start(toy, short(), tmp_path / "run")
    next(reports)
    reports.close()  # type: ignore[attr-defined]
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace('"likeness": "toy', '"likeness": "other'))
    with pytest.raises(RunProblem, match="likeness was judged by other"):
        next(start(toy, short(), tmp_path / "run", resume=True))


def test_the_attention_maps_are_chosen_by_the_resolution(toy: Any, tmp_path: Path) -> None:
    """None: near resolution / 32, which is 2 here; the toy's smallest maps have side 4."""
    last = list(start(toy, short(ti_steps=0, lora_steps=1, attention_resolution=None), tmp_path / "run"))[-1]
    assert last.losses["attention"] > 0


def test_running_out_of_memory_offers_a_smaller_setting(toy: Any, tmp_path: Path) -> None:
    def explode(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    handle = toy.unet.register_forward_pre_hook(explode)
    with pytest.raises(OutOfMemory, match="items_per_call = 1") as caught:
        next(start(toy, short(), tmp_path / "run"))
    assert caught.value.smaller == {"items_per_call": 1}
    handle.remove()


def test_what_was_so_already_is_not_offered_as_smaller(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nobody set it: memory was planned so."""

    def explode(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    handle = toy.unet.register_forward_pre_hook(explode)
    for free, smaller in ((0, {}), (10**13, {"gradient_checkpointing": True})):
        monkeypatch.setattr(memory, "free_bytes", lambda _, free=free: free)
        with pytest.raises(OutOfMemory) as caught:
            next(start(toy, short(batch_size=1, gradient_accumulation=1), tmp_path / f"run-{free}"))
        assert caught.value.smaller == smaller
    assert "lower resolution" not in str(caught.value)
    handle.remove()


def test_no_split_is_offered_where_memory_ran_out_before_the_first_step(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(toy.vae, "encode", explode)
    with pytest.raises(OutOfMemory, match="lower resolution") as caught:
        next(start(toy, short(), tmp_path / "run"))
    assert caught.value.smaller == {}


def test_checkpointing_that_memory_asked_for_is_done_and_undone(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: 0)
    reports = start(toy, short(), tmp_path / "less")
    next(reports)
    parts = unet_parts(toy.unet, "all") + decoder_parts(toy.vae.decoder)
    assert all("forward" in vars(part) for part in parts)
    list(reports)
    assert not any("forward" in vars(part) for part in parts)
    assert Run.open(tmp_path / "less").load_checkpoint().items_per_call == 1
    monkeypatch.undo()
    list(start(toy, short(), tmp_path / "more"))
    assert Run.open(tmp_path / "more").load_checkpoint().items_per_call == 4
    for row, other in zip(
        Run.open(tmp_path / "less").losses(), Run.open(tmp_path / "more").losses(), strict=True
    ):
        assert row["source"] == pytest.approx(other["source"], rel=1e-4)


@pytest.mark.parametrize(
    "sentence",
    [
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 7.79 GiB",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "HIP out of memory. Tried to allocate 20.00 MiB.",
        "XPU out of memory. Tried to allocate 20.00 MiB.",
        "Native API failed. Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
        "Native API failed. Native API returns: -5 (PI_ERROR_OUT_OF_RESOURCES)",
        "MPS backend out of memory (MPS allocated: 8.98 GB, other allocations: 384.00 KB, max allowed: 9.07 GB).",
        "Invalid buffer size: 24.00 GB",
        '[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can\'t allocate memory: you tried to '
        "allocate 40000000000 bytes. Error code 12 (Cannot allocate memory)",
        "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate 4 "
        "bytes.",
        "std::bad_alloc",
    ],
)  # fmt: skip
def test_every_device_s_way_of_saying_so_counts_as_out_of_memory(sentence: str) -> None:
    assert ran_out_of_memory(RuntimeError(sentence))


def test_other_errors_do_not_count_as_out_of_memory() -> None:
    assert ran_out_of_memory(MemoryError())
    assert ran_out_of_memory(torch.OutOfMemoryError())
    for error in (
        RuntimeError(
            "The size of tensor a (4) must match the size of tensor b (3) at non-singleton dimension 1"
        ),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED."),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        Problem("The device ran out of memory."),
    ):
        assert not ran_out_of_memory(error)


def test_memory_that_python_really_cannot_have_counts(toy: Any, tmp_path: Path) -> None:
    """The CPU's allocator itself speaks here."""

    def greedy(*_: Any) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    handle = toy.unet.register_forward_pre_hook(greedy)
    with pytest.raises(OutOfMemory):
        next(start(toy, short(), tmp_path / "run"))
    handle.remove()


def test_a_full_disk_leaves_the_last_checkpoint(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from magicapture_core import checkpoints

    reports = start(toy, short(checkpoint_every=1), tmp_path / "run")
    list(islice(reports, 2))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.torch, "save", full)
        with pytest.raises(RunProblem, match="No space left on device"):
            next(reports)
    assert Run.open(tmp_path / "run").checkpoints()[-1].name == "checkpoint-000002"
    assert not list((tmp_path / "run").glob(".*"))
    assert list(start(toy, short(checkpoint_every=1), tmp_path / "run", resume=True))[-1].step == 7


def test_a_really_full_disk_is_told(toy: Any, tmp_path: Path) -> None:
    """The writers of torch and safetensors raise their own errors: the system refuses the bytes here."""
    import resource

    reports = start(toy, short(checkpoint_every=1), tmp_path / "run")
    list(islice(reports, 4))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, before[1]))
    try:
        with pytest.raises(RunProblem, match="Free some disk space"):
            next(reports)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert Run.open(tmp_path / "run").checkpoints()[-1].name == "checkpoint-000004"
    assert list(start(toy, short(checkpoint_every=1), tmp_path / "run", resume=True))[-1].step == 7


def test_a_folder_that_may_not_be_written_is_not_called_a_full_disk(toy: Any, tmp_path: Path) -> None:
    reports = start(toy, short(checkpoint_every=1), tmp_path / "run")
    next(reports)
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(RunProblem, match=r"Could not write.*may be written to") as caught:
        next(reports)
    assert "disk space" not in str(caught.value)


@pytest.mark.parametrize("write", [atomic_folder, atomic_file])
def test_a_fault_of_the_program_while_writing_is_not_called_a_full_disk(tmp_path: Path, write: Any) -> None:
    with pytest.raises(RuntimeError, match="must match the size"), write(tmp_path / "x"):
        raise RuntimeError("The size of tensor a (4) must match the size of tensor b (3)")
    with pytest.raises(torch.OutOfMemoryError), write(tmp_path / "x"):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    assert not list(tmp_path.iterdir())


def test_a_second_training_of_one_run_folder_is_refused(toy: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = start(toy, short(), folder)
    next(first)
    for resume in (True, False):
        with pytest.raises(RunProblem, match=r"is being trained already.*stop it first"):
            next(start(load(toy.source, device="cpu"), short(), folder, resume=resume))
    list(islice(first, 1))
    first.close()  # type: ignore[attr-defined]
    rest = list(start(toy, short(), folder, resume=True))
    assert [row["step"] for row in Run.open(folder).losses()] == [1, 2, 3, 4, 5, 6, 7]
    assert rest[0].step == 3


def test_two_programs_that_resume_one_run_do_not_mix(toy: Any, tmp_path: Path) -> None:
    """The second is a process of its own; killed, it leaves no lock behind."""
    folder = tmp_path / "run"
    next(reports := start(toy, short(), folder))
    reports.close()  # type: ignore[attr-defined]
    script = (
        "import sys, time; from pathlib import Path; from magicapture_core.checkpoints import Run\n"
        "with Run.claimed(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    here = Path(__file__).parent
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True, cwd=here.parent
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunProblem, match="is being trained already"):
            next(start(toy, short(), folder, resume=True))
        assert len(Run.open(folder).losses()) == 1
    finally:
        other.kill()  # no clean end
        other.wait(60)
    assert list(start(toy, short(), folder, resume=True))[-1].step == 7


def test_resuming_where_no_run_is_leaves_no_folder_behind(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(RunProblem, match="No run in"):
        next(start(toy, short(), tmp_path / "typo", resume=True))
    assert not (tmp_path / "typo").exists()


def test_photos_of_another_size_or_kind_are_refused(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="prepared at 64"):
        next(start(toy, short(resolution=128), tmp_path / "run"))
    with pytest.raises(Problem, match="prepared as 'person'"):
        next(start(toy, short(subject_kind="object"), tmp_path / "run", subject=toy_concept("subject")))
    assert not (tmp_path / "run").exists()


# --- the data -------------------------------------------------------------------------------------


def test_every_augmentation_has_its_own_latents_and_mask(toy: Any) -> None:
    concept = toy_concept("subject", 1)
    example = concept.examples[0]
    example.masks.face[..., :32] = 0  # only the right half of the face
    encoded = encode_concept(concept, toy, flip=True)
    assert len(encoded) == 2
    plain, mirrored = encoded.face
    assert torch.equal(plain.flip(-1), mirrored)
    assert not torch.equal(plain, mirrored)
    direct = toy.vae.encode(example.image.flip(-1)[None]).latent_dist.mean * toy.vae.config.scaling_factor
    torch.testing.assert_close(encoded.latents[1:], direct)


def test_mirrored_landmarks_change_sides() -> None:
    landmarks = torch.tensor([[10.0, 1.0], [20.0, 2.0], [15.0, 3.0], [11.0, 4.0], [19.0, 5.0]])
    mirrored = mirror_landmarks(landmarks, 64)
    # The eye on the right (20) becomes the one on the left, at 63 - 20 = 43.
    assert mirrored[0].tolist() == [43.0, 2.0]
    assert mirrored[1].tolist() == [53.0, 1.0]
    assert torch.equal(mirror_landmarks(mirrored, 64), landmarks)


def test_face_windows_hold_the_face_and_stay_inside(toy: Any) -> None:
    encoded = encode_concept(toy_concept("style"), toy, flip=True)
    windows = face_windows(encoded, 4, whole=False)
    assert windows.side < 16
    cut = windows.cut(encoded.latents, torch.arange(6))
    assert cut.shape[-2:] == (windows.side, windows.side)
    shifted = windows.shifted(encoded.landmarks, 4)
    assert shifted.min() >= 0
    assert shifted.max() < windows.side * 4
    top, left = windows.corners[3].tolist()
    assert torch.equal(cut[3], encoded.latents[3, :, top : top + windows.side, left : left + windows.side])


def test_phases_are_named_in_order() -> None:
    assert PHASES == ("textual_inversion", "lora")


def test_a_run_whose_files_notepad_saved_goes_on(toy: Any, tmp_path: Path) -> None:
    """It begins every file with a byte-order mark."""
    reports = start(toy, short(), tmp_path / "run")
    list(islice(reports, 2))
    reports.close()  # type: ignore[attr-defined]
    for name in ("config.json", "losses.jsonl"):
        path = tmp_path / "run" / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [row["step"] for row in Run.open(tmp_path / "run").losses()] == [1, 2]
    assert list(start(toy, short(), tmp_path / "run", resume=True))[-1].step == 7


SETTLING = {"ti_steps": 1, "lora_steps": 8, "sample_every": 1, "sample_steps": 2, "keep_checkpoints": 1}


def test_a_run_ends_where_likeness_no_longer_rises(toy: Any, tmp_path: Path) -> None:
    config = short(**SETTLING, stop_when_settled=2, lora_learning_rate=0.0, embedding_learning_rate=0.0)
    reports = list(start(toy, config, tmp_path / "run"))
    assert [report.settled for report in reports] == [False] * 6 + [
        True
    ]  # the style weighs more until step 5
    assert "no longer rises" in (reports[-1].note or "")
    assert list(start(toy, config, tmp_path / "run", resume=True)) == []
    on = list(start(toy, replace(config, stop_when_settled=0), tmp_path / "run", resume=True))
    assert [report.step for report in on] == [8, 9]


def test_the_checkpoint_of_the_highest_likeness_is_used(toy: Any, tmp_path: Path) -> None:
    config = short(**SETTLING, keep_best=True, sample_pictures=2)
    list(start(toy, config, tmp_path / "run"))
    run = Run.open(tmp_path / "run")
    rows = [row for row in run.likeness() if row["step"] > 1]
    best = max(rows, key=lambda row: (row["likeness"], row["step"]))["step"]
    assert len(rows) == 8
    assert len({row["likeness"] for row in rows}) > 1  # there was something to choose
    assert run.best_step() == best
    names = {path.name for path in run.checkpoints()}
    assert names == {f"checkpoint-{best:06d}", "checkpoint-000009"}
    before = weights_of(tmp_path / "run")
    run.publish(f"checkpoint-{best:06d}")
    after = weights_of(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_keeping_the_best_can_begin_when_a_run_goes_on(toy: Any, tmp_path: Path) -> None:
    config = short(**SETTLING)
    reports = start(toy, config, tmp_path / "run")
    for _ in range(2):
        next(reports)
    reports.close()  # type: ignore[attr-defined]
    list(start(toy, replace(config, keep_best=True), tmp_path / "run", resume=True))
    run = Run.open(tmp_path / "run")
    assert run.facts().config.keep_best
    best = max(run.likeness()[1:], key=lambda row: (row["likeness"], row["step"]))["step"]
    assert run.best_step() == best
    assert {path.name for path in run.checkpoints()} == {f"checkpoint-{best:06d}", "checkpoint-000009"}


def test_a_copy_of_a_checkpoint_beside_it_is_left_alone(toy: Any, tmp_path: Path) -> None:
    config = short(ti_steps=1, lora_steps=2, checkpoint_every=1, keep_checkpoints=1)
    reports = start(toy, config, tmp_path / "run")
    for _ in range(2):
        next(reports)
    reports.close()  # type: ignore[attr-defined]
    copies = [tmp_path / "run" / f"checkpoint-000002{more}" for more in (" (copy)", "-mine")]
    for copy in copies:
        shutil.copytree(tmp_path / "run" / "checkpoint-000002", copy)
    assert list(start(toy, config, tmp_path / "run", resume=True))[-1].step == 3
    assert all(copy.is_dir() for copy in copies)
    assert [path.name for path in Run(tmp_path / "run").checkpoints()] == ["checkpoint-000003"]


def test_a_run_that_keeps_the_best_resumes_bit_for_bit(toy: Any, tmp_path: Path) -> None:
    config = short(**SETTLING, keep_best=True, stop_when_settled=2)
    whole = list(start(toy, config, tmp_path / "whole"))
    reports = start(toy, config, tmp_path / "parts")
    for _ in range(3):
        next(reports)
    reports.close()  # type: ignore[attr-defined]
    rest = list(start(toy, config, tmp_path / "parts", resume=True))
    assert [report.losses for report in rest] == [report.losses for report in whole[3:]]
    assert Run(tmp_path / "parts").likeness() == Run(tmp_path / "whole").likeness()
    assert Run(tmp_path / "parts").best_step() == Run(tmp_path / "whole").best_step()
    one, other = weights_of(tmp_path / "parts"), weights_of(tmp_path / "whole")
    assert all(torch.equal(one[name], other[name]) for name in one)
