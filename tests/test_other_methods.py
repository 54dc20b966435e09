"""Training what other methods train: exactly those weights, in full precision, resumable, and put back afterwards."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy import ToyAnalyser
from trainings import short, start, toy_concept

from magicapture_core.adapters.files import UNET_FILE
from magicapture_core.checkpoints import Run
from magicapture_core.config import GenerateConfig
from magicapture_core.evaluation.methods import METHODS, QUICK_PRIOR, choose_methods, differing, in_order
from magicapture_core.evaluation.table import COLUMNS
from magicapture_core.export import export_run
from magicapture_core.generation import generate
from magicapture_core.models import load
from magicapture_core.problems import Problem, RunProblem

QUICK: dict[str, Any] = {
    "ti_steps": 2, "lora_steps": 2, "batch_size": 1, "gradient_accumulation": 1, "attention_resolution": 8,
    "ti_learning_rate": 1e-2, "lora_learning_rate": 1e-2, "embedding_learning_rate": 1e-3, "prior_pictures": 3,
}  # fmt: skip


@pytest.fixture
def quick(toy: Any) -> Any:
    """The toy model with a quick schedule of four steps."""
    toy.schedules = {"quick": QUICK}
    toy.generate_defaults = {"steps": 2}
    return toy


def weights(models: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in models.unet.named_parameters()}


def changed_after(models: Any, config: Any, folder: Path) -> tuple[set[str], set[int]]:
    """Names of the UNet's weights that a training changes or adds (LoRA's B starts at 0: it counts where it is no
    longer that), and which of the two rows it changes."""
    before = weights(models)
    steps = config.ti_steps + config.lora_steps
    reports = start(models, config, folder)
    list(islice(reports, steps))
    now = {name.replace(".base_layer", ""): tensor for name, tensor in weights(models).items()}
    changed = {
        name
        for name, tensor in now.items()
        if (tensor.any() if name not in before else not torch.equal(tensor, before[name]))
    }
    reports.close()  # type: ignore[attr-defined]
    first = initial(models, config)
    rows = load_file(sorted(folder.glob("checkpoint-*"))[-1] / "trainable.safetensors")["embeddings"]
    return changed, {k for k in (0, 1) if not torch.equal(rows[k], first[k])}


def initial(models: Any, config: Any) -> torch.Tensor:
    from magicapture_core.models.placeholders import initial_embeddings

    generator = torch.Generator().manual_seed(config.seed)
    return initial_embeddings(models.tokenizer, models.text_encoder, config, generator)


EXPECTED = {
    "magicapture": ("lora", {0, 1}),
    "paper_ar": ("lora", {0, 1}),
    "paper_start": ("lora", {0, 1}),
    "no_ar": ("lora", {0, 1}),
    "no_composed": ("lora", {0, 1}),
    "no_ar_no_composed": ("lora", {0, 1}),
    "no_identity": ("lora", {0, 1}),
    "one_phase": ("lora", {0, 1}),
    "late": ("lora", {0, 1}),
    "dreambooth": ("unet", set()),
    "dreambooth_prior": ("unet", set()),
    "textual_inversion": ("nothing", {0, 1}),
    "textual_inversion_photos": ("nothing", {0, 1}),
    "custom_diffusion": ("cross_kv", {0, 1}),
    "custom_diffusion_photos": ("cross_kv", {0, 1}),
}
TRAINED = [name for name, method in METHODS.items() if method.trains]


@pytest.mark.parametrize("name", TRAINED)
def test_each_method_changes_only_what_it_should(quick: Any, tmp_path: Path, name: str) -> None:
    kind, rows = EXPECTED[name]
    config = METHODS[name].config("quick", quick)
    names, changed_rows = changed_after(quick, config, tmp_path / "run")
    every = set(weights(quick))
    cross = {n for n in every if ".attn2.to_k." in n or ".attn2.to_v." in n}
    if kind == "lora":
        assert all("lora_" in n and ".attn2." in n for n in names)
        learned = {n.partition(".lora_B")[0].rpartition(".attn2.")[2] for n in names if ".lora_B" in n}
        assert learned == {"to_q", "to_k", "to_v", "to_out.0"}
    elif kind == "cross_kv":
        assert names == cross
    elif kind == "unet":
        # A bias before a softmax or a norm may have no gradient at all; everything else must move.
        assert cross < names <= every
        assert len(names) > 0.9 * len(every)
    else:
        assert names == set()
    assert changed_rows == rows


def test_no_method_decodes_for_losses_that_it_has_not(quick: Any) -> None:
    """A schedule can ask more of the decoded composed picture than the paper does."""
    quick.schedules = {
        "quick": {**QUICK, "lambda_colour": 4.0, "lambda_lightness": 0.02, "initial_words": "photos"}
    }
    configs = {name: METHODS[name].config("quick", quick) for name in TRAINED}
    decoding = {name for name, config in configs.items() if config.decodes}
    assert decoding == {"magicapture", "paper_ar", "paper_start", "no_ar", "no_identity", "one_phase", "late"}
    assert configs["late"] == configs["magicapture"]
    from_photos = {name for name, config in configs.items() if config.initial_words == "photos"}
    plain = {"paper_start", "dreambooth", "dreambooth_prior", "textual_inversion", "custom_diffusion"}
    assert from_photos == set(TRAINED) - plain


@pytest.mark.parametrize("name", TRAINED)
def test_each_method_computes_only_its_own_terms(quick: Any, tmp_path: Path, name: str) -> None:
    plain = {"source", "reference"}
    expected = {
        "magicapture": plain | {"composed", "identity", "attention"},
        "paper_ar": plain | {"composed", "identity", "attention"},
        "paper_start": plain | {"composed", "identity", "attention"},
        "no_ar": plain | {"composed", "identity"},
        "no_composed": plain | {"attention"},
        "no_ar_no_composed": plain,
        "no_identity": plain | {"composed", "attention"},
        "one_phase": plain | {"composed", "identity", "attention"},
        "late": plain | {"composed", "identity", "attention"},
        "dreambooth_prior": plain | {"prior"},
    }
    config = METHODS[name].config("smoke", quick)
    last = list(start(quick, config, tmp_path / "run"))[-1]
    assert set(last.losses) == expected.get(name, plain)


def test_what_is_said_of_a_method_is_what_it_changes() -> None:
    """Whoever lacks the losses of the face's colour and lightness is not told to lack the identity loss alone."""
    for name in ("no_composed", "no_ar_no_composed"):
        assert METHODS[name].changes["lambda_colour"] == METHODS[name].changes["lambda_lightness"] == 0
        assert "colour and lightness" in METHODS[name].about
    assert "paper's schedule" in METHODS["magicapture"].about
    assert f"{QUICK_PRIOR} pictures" in METHODS["dreambooth_prior"].about
    told = {column.name: column.about for column in COLUMNS}
    assert "lambda_colour" in told["face_colour"]
    assert "lambda_lightness" in told["skin"]


def test_all_get_as_many_steps(quick: Any) -> None:
    for method in METHODS.values():
        config = method.config("quick", quick)
        assert config.ti_steps + config.lora_steps == 4, method.name
    assert [method.name for method in METHODS.values() if not method.trains] == ["draft"]


def test_the_papers_schedules(quick: Any) -> None:
    def of(name: str) -> tuple[int, int, float]:
        config = METHODS[name].config("paper", quick)
        return config.ti_steps, config.lora_steps, config.lora_learning_rate

    assert of("magicapture") == (1200, 1500, 1e-4)
    assert of("one_phase")[:2] == (0, 2700)
    assert of("dreambooth") == (0, 1000, 5e-6)
    assert of("custom_diffusion") == (0, 500, 8e-5)
    inversion = METHODS["textual_inversion"].config("paper", quick)
    assert (inversion.ti_steps, inversion.lora_steps, inversion.ti_learning_rate) == (5000, 0, 5e-3)
    assert METHODS["no_ar"].config("paper", quick).lambda_attn == 0


def test_unknown_methods_are_named() -> None:
    with pytest.raises(Problem, match="'dreambox'"):
        choose_methods("magicapture,dreambox")
    assert [m.name for m in choose_methods("no_ar, magicapture,no_ar")] == ["no_ar", "magicapture"]


def test_a_method_with_other_learning_rates_is_a_row_of_its_own(quick: Any) -> None:
    chosen = choose_methods("dreambooth@2,magicapture, dreambooth@0.50,dreambooth,dreambooth@2.0")
    assert [m.name for m in chosen] == ["dreambooth@2", "magicapture", "dreambooth@0.5", "dreambooth"]
    assert [m.name for m in in_order(m.name for m in chosen)] == [
        "magicapture", "dreambooth@0.5", "dreambooth", "dreambooth@2",
    ]  # fmt: skip
    for name in ("dreambooth", "textual_inversion", "custom_diffusion"):
        for schedule in ("quick", "paper"):
            own, twice = (each.config(schedule, quick) for each in choose_methods(f"{name},{name}@2"))
            changed = differing(twice, own)
            assert set(changed) <= {"ti_learning_rate", "lora_learning_rate", "embedding_learning_rate"}
            assert all(value == 2 * getattr(own, rate) for rate, value in changed.items())
            assert changed
    for wrong in ("dreambooth@", "dreambooth@-1", "dreambooth@inf", "dreambooth@nan", "draft@2"):
        with pytest.raises(Problem, match="is not understood"):
            choose_methods(wrong)


def test_evaluations_know_every_schedule_of_a_model(quick: Any) -> None:
    def steps(name: str) -> tuple[int, int, int]:
        config = METHODS["magicapture"].config(name, quick)
        return config.ti_steps, config.lora_steps, config.prior_pictures

    quick.schedules = {}  # as of a model without magicapture.json
    assert steps("quick") == (400, 500, QUICK_PRIOR)
    assert steps("paper") == (1200, 1500, 200)
    assert steps("smoke") == (2, 2, 2)
    with pytest.raises(Problem, match="one of smoke, quick, paper for this model, got 'fast'"):
        steps("fast")
    quick.schedules = {"slow": {"ti_steps": 9, "prior_pictures": 5}}
    assert steps("slow") == (9, 1500, 5)
    with pytest.raises(Problem, match="one of smoke, slow, paper"):
        steps("quick")


@pytest.mark.parametrize("trained", ["unet", "cross_kv"])
def test_the_models_come_back_and_the_run_resumes_exactly(toy: Any, tmp_path: Path, trained: Any) -> None:
    toy.generate_defaults = {"steps": 2}
    config = short(trained=trained, prior_weight=1.0, prior_pictures=3)
    before = weights(toy)
    list(start(toy, config, tmp_path / "whole"))
    stopped = start(toy, config, tmp_path / "stopped")
    list(islice(stopped, 5))
    stopped.close()  # type: ignore[attr-defined]
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(toy).items())
    assert not any(parameter.requires_grad for parameter in toy.unet.parameters())
    rest = list(start(toy, config, tmp_path / "stopped", resume=True))
    assert [report.step for report in rest] == [6, 7]
    whole, again = (load_file(tmp_path / name / "adapter" / UNET_FILE) for name in ("whole", "stopped"))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_changed_unet_is_drawn_with_and_put_back(toy: Any, tmp_path: Path) -> None:
    list(start(toy, short(trained="unet"), tmp_path / "run"))
    before = weights(toy)

    def draw(scale: float) -> np.ndarray:
        config = GenerateConfig(count=1, seed=1, steps=2, adapter_scale=scale)
        (portrait,) = generate(toy, tmp_path / "run", config, analyser=ToyAnalyser())
        return np.asarray(portrait.image)

    assert not np.array_equal(draw(0), draw(1))
    trained = load_file(tmp_path / "run" / "adapter" / UNET_FILE)
    portraits = generate(
        toy, tmp_path / "run", GenerateConfig(count=2, seed=1, steps=2, adapter_scale=1, pictures_per_call=1)
    )
    next(portraits)
    assert all(torch.equal(toy.unet.state_dict()[name], tensor) for name, tensor in trained.items())
    portraits.close()
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(toy).items())


def test_whole_weights_are_not_exported_for_other_programs(toy: Any, tmp_path: Path) -> None:
    list(start(toy, short(trained="cross_kv", ti_steps=0, lora_steps=1), tmp_path / "run"))
    with pytest.raises(RunProblem, match="cross_kv"):
        export_run(tmp_path / "run", "diffusers", tmp_path / "out")
    assert "weights of the UNet" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.long
def test_whole_weights_are_trained_in_fp32_in_a_half_precision_model(
    toy_folder: Path, tmp_path: Path
) -> None:
    models = load(toy_folder, device="cpu", dtype=torch.bfloat16)
    reports = start(models, short(trained="unet", sample_every=2, attention_every=2), tmp_path / "run")
    list(islice(reports, 6))
    assert all(parameter.dtype == torch.float32 for parameter in models.unet.parameters())
    reports.close()  # type: ignore[attr-defined]
    assert all(parameter.dtype == torch.bfloat16 for parameter in models.unet.parameters())


def test_the_whole_picture_counts_without_masks(toy: Any, tmp_path: Path) -> None:
    """A subject whose mask is empty outside a corner loses differently with and without masks; one that fills the
    picture does not."""
    whole, masked = (
        next(iter(start(toy, short(masked=masked), tmp_path / str(masked)))).losses
        for masked in (False, True)
    )
    assert whole["source"] != masked["source"]
    faceless = [
        next(
            iter(
                start(
                    toy,
                    short(masked=masked),
                    tmp_path / f"style-{masked}",
                    style=toy_concept("style", faces=False),
                )
            )
        ).losses
        for masked in (False, True)
    ]
    assert faceless[0]["reference"] == faceless[1]["reference"]


def test_attention_is_written_down(toy: Any, tmp_path: Path) -> None:
    list(start(toy, short(attention_every=3), tmp_path / "run"))
    rows = Run.open(tmp_path / "run").attention()
    assert {row["step"] for row in rows} == {3, 6, 7}
    assert {(row["task"], row["token"]) for row in rows} == {
        ("source", "<subject>"), ("reference", "<style>"), ("composed", "<subject>"), ("composed", "<style>"),
    }  # fmt: skip
    assert all(0 <= row["outside"] <= 1 for row in rows)
    assert all(0 < row["mean"] < 1 for row in rows)
