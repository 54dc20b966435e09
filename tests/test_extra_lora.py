"""Somebody else's LoRA file beside what was learned, for both families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from portraits import QUICK, Snapshot, pixels
from safetensors.torch import load_file, save_file
from toy import ToyAnalyser, toy_run

from magicapture_core.__main__ import main
from magicapture_core.adapters.attach import ExtraLora
from magicapture_core.config import GenerateConfig
from magicapture_core.export import export_run
from magicapture_core.generation import generate
from magicapture_core.models import ModelBundle
from magicapture_core.problems import MissingFiles, Problem
from magicapture_core.provenance import read_provenance


@pytest.fixture(params=["toy", "toy_xl"])
def models(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def run(models: ModelBundle, tmp_path: Path) -> Path:
    return toy_run(models, tmp_path / "run")


@pytest.fixture
def other(models: ModelBundle, tmp_path: Path) -> Path:
    """A LoRA file as kohya's trainer writes it, which changes text encoders, too."""
    export_run(toy_run(models, tmp_path / "other", text_encoder=True, seed=9), "kohya", tmp_path / "kohya")
    return tmp_path / "kohya" / "other.safetensors"


def drawn(models: ModelBundle, run: Path | None, extra: ExtraLora | None, **changes: Any) -> np.ndarray:
    config = GenerateConfig(count=1, **{**QUICK, **changes})
    return pixels(next(generate(models, run, config, analyser=ToyAnalyser(), extra=extra)))


def test_it_is_used_beside_what_was_learned(models: ModelBundle, run: Path, other: Path) -> None:
    """Both at once, at strengths of their own, as plain diffusers adds two adapters; nothing is left behind."""
    before = Snapshot(models)
    plain = drawn(models, run, None)
    both = drawn(models, run, ExtraLora(other, 0.6))
    assert not np.array_equal(plain, both)
    assert not np.array_equal(both, drawn(models, run, ExtraLora(other, 0.6), adapter_scale=0.0))
    assert np.array_equal(plain, drawn(models, run, ExtraLora(other, 0.0)))
    before.check()
    pipeline = models.pipeline()
    pipeline.load_lora_weights(
        run / "adapter", weight_name="pytorch_lora_weights.safetensors", adapter_name="a"
    )
    pipeline.load_lora_weights(other.parent, weight_name=other.name, adapter_name="b")
    pipeline.set_adapters(["a", "b"], [0.8, 0.6])
    from magicapture_core.checkpoints import Run
    from magicapture_core.generation.job import Job
    from magicapture_core.generation.learned import Learned
    from magicapture_core.generation.loop import _encode

    job = Job.prepared(
        models, Learned.from_run(Run.open(run), models, ToyAnalyser()), GenerateConfig(**QUICK)
    )
    prompts = _encode(job)
    theirs = models.draw(
        pipeline, prompts[:1], prompts[1:], num_inference_steps=2, guidance_scale=7.0,
        generator=torch.Generator().manual_seed(QUICK["seed"]),
    ).images[0]  # fmt: skip
    assert np.array_equal(both, np.asarray(theirs.convert("RGB")).astype(int))


def test_without_a_run_and_in_phase_1_it_is_used_alone(
    models: ModelBundle, other: Path, tmp_path: Path
) -> None:
    for run in (None, toy_run(models, tmp_path / "early", lora=False)):
        prompt = "a photo of a cat"
        alone = drawn(models, run, ExtraLora(other), prompt=prompt)
        assert not np.array_equal(alone, drawn(models, run, None, prompt=prompt))


def test_what_cannot_be_used_is_told(toy: ModelBundle, toy_xl: ModelBundle, tmp_path: Path) -> None:
    run, first = toy_run(toy_xl, tmp_path / "run"), toy_run(toy, tmp_path / "first")
    before = Snapshot(toy_xl)
    config = GenerateConfig(**QUICK)

    def refused(file: Path, scale: float = 1.0) -> None:
        list(generate(toy_xl, run, config, analyser=ToyAnalyser(), extra=ExtraLora(file, scale)))

    with pytest.raises(MissingFiles, match="There is no LoRA file"):
        generate(toy_xl, run, config, extra=ExtraLora(tmp_path / "nothing.safetensors"))
    (tmp_path / "lora.pt").write_bytes(b"x")
    with pytest.raises(Problem, match=r"lora\.pt is no \.safetensors file"):
        generate(toy_xl, run, config, extra=ExtraLora(tmp_path / "lora.pt"))
    (tmp_path / "damaged.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(Problem, match=r"damaged\.safetensors does not fit this model or is damaged"):
        refused(tmp_path / "damaged.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "no-lora.safetensors")
    with pytest.raises(Problem, match=r"no-lora\.safetensors does not fit this model"):
        refused(tmp_path / "no-lora.safetensors")
    with pytest.raises(Problem, match=r"does not fit this model .*same kind of model"):
        refused(first / "adapter" / "pytorch_lora_weights.safetensors")
    fitting = run / "adapter" / "pytorch_lora_weights.safetensors"
    wide = {key: torch.cat([weight, weight], dim=1) for key, weight in load_file(fitting).items()}
    save_file(wide, tmp_path / "wide.safetensors")
    with pytest.raises(Problem, match=r"wide\.safetensors does not fit this model"):
        refused(tmp_path / "wide.safetensors")
    with pytest.raises(Problem, match="extra_lora_scale must be 0 to 2, got 3"):
        generate(toy_xl, run, config, extra=ExtraLora(fitting, 3.0))
    before.check()


def test_the_command_line_takes_one(
    toy_folder: Path, toy: ModelBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = toy_run(toy, tmp_path / "run", kind="object", embedder=None)
    toy.name = str(toy_folder)
    other = tmp_path / "lora.safetensors"
    other.write_bytes((run / "adapter" / "pytorch_lora_weights.safetensors").read_bytes())
    arguments = [
        "generate",
        str(run),
        "--out",
        str(tmp_path / "out"),
        "--count",
        "1",
        "--seed",
        "5",
        "--steps",
        "2",
    ]
    few = ["--scheduler", "lcm", "--guidance-scale", "1"]
    assert main([*arguments, *few, "--extra-lora", str(other), "--extra-lora-scale", "0.5"]) == 0
    found = read_provenance(tmp_path / "out" / "portrait-seed5.png")
    assert found is not None
    assert found.settings["extra_lora"] == "lora.safetensors:0.5"
    assert main([*arguments, "--extra-lora", str(tmp_path / "nothing.safetensors")]) == 1
    assert "There is no LoRA file" in " ".join(capsys.readouterr().out.split())
