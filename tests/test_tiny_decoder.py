"""Eq. 7 by a tiny decoder: the real class at toy size. The published TAESD is not needed."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trainings import short, start

from magicapture_core.checkpoints import Run
from magicapture_core.generation.learned import Learned
from magicapture_core.models import tiny
from magicapture_core.problems import MissingFiles, Problem, RunProblem

CONFIG = short(ti_steps=0, lora_steps=2, identity_decode="tiny", lambda_id=1.0)


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
    """Saves a random tiny decoder that enlarges latents 2**(stages - 1) times where weights are looked for."""
    from diffusers import AutoencoderTiny

    monkeypatch.setenv("MAGICAPTURE_WEIGHTS", str(tmp_path / "weights"))

    def save(stages: int) -> Path:
        widths, blocks = (8,) * stages, (1,) * stages
        decoder = AutoencoderTiny(
            encoder_block_out_channels=widths, decoder_block_out_channels=widths,
            num_encoder_blocks=blocks, num_decoder_blocks=blocks,
        )  # fmt: skip
        decoder.save_pretrained(tmp_path / "weights" / "taesd")
        return tmp_path / "weights" / "taesd"

    return save


def losses(models: Any, config: Any, folder: Path) -> list[float]:
    return [report.losses["identity"] for report in start(models, config, folder)]


def test_the_identity_loss_sees_the_tiny_decoder_s_picture(
    toy: Any, saved: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(3)
    monkeypatch.setattr(tiny, "ALIKE", 0.0)  # a random decoder never makes the autoencoder's picture
    by_tiny = losses(toy, CONFIG, tmp_path / "tiny")
    by_own = losses(toy, short(**{**CONFIG.__dict__, "identity_decode": "face"}), tmp_path / "own")
    assert len(by_tiny) == 2
    assert by_tiny != by_own


def test_a_decoder_of_other_latents_is_refused(
    toy: Any, saved: Callable[[int], Path], tmp_path: Path
) -> None:
    for stages in (3, 4):  # other pictures; other sizes
        saved(stages)
        with pytest.raises(Problem, match="does not belong to"):
            list(start(toy, CONFIG, tmp_path / f"run{stages}"))


class Rough:
    """The autoencoder's own pictures with noise, behind AutoencoderTiny's interface."""

    def __init__(self, models: Any, noise: float) -> None:
        self.models, self.noise = models, noise
        self.config = SimpleNamespace(
            latent_channels=models.vae.config.latent_channels,
            decoder_block_out_channels=models.vae.config.block_out_channels,
        )

    def decode(self, latents: torch.Tensor) -> Any:
        picture = self.models.vae.decode(latents / self.models.vae.config.scaling_factor).sample
        generator = torch.Generator().manual_seed(0)
        return SimpleNamespace(sample=picture + self.noise * torch.randn(picture.shape, generator=generator))


def test_the_autoencoder_s_own_picture_passes_and_a_rough_one_too(toy: Any, tmp_path: Path) -> None:
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    for noise in (0.0, 0.1):  # 0.1 of [-1, 1] is 26 dB
        tiny._check(Rough(toy, noise), toy, latents, tmp_path)
    with pytest.raises(Problem, match="does not belong to"):
        tiny._check(Rough(toy, 0.4), toy, latents, tmp_path)  # 14 dB
    with pytest.raises(Problem, match="does not belong to"):
        tiny._check(Rough(toy, float("nan")), toy, latents, tmp_path)


def test_another_decoder_is_noticed_on_resume(
    toy: Any, saved: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "ALIKE", 0.0)
    saved(3)
    reports = start(toy, CONFIG, tmp_path / "run")
    next(reports)
    reports.close()  # type: ignore[attr-defined]
    saved(3)  # random again
    with pytest.raises(RunProblem):
        list(start(toy, CONFIG, tmp_path / "run", resume=True))


def test_the_decoder_makes_no_other_model_of_a_run_s(
    toy: Any, saved: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "ALIKE", 0.0)
    saved(3)
    list(start(toy, CONFIG, tmp_path / "run"))
    run = Run.open(tmp_path / "run")
    moved = dataclasses.replace(toy, name="elsewhere")
    assert Learned.from_run(run, moved, None).warnings == Learned.from_run(run, toy, None).warnings
    with torch.no_grad():
        other = dataclasses.replace(moved, vae=copy.deepcopy(toy.vae))
        next(other.vae.parameters()).add_(1.0)
    assert any("was trained on" in warning for warning in Learned.from_run(run, other, None).warnings)


def test_a_missing_or_broken_decoder_is_named(
    toy: Any, saved: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGICAPTURE_WEIGHTS", str(tmp_path / "weights"))
    with pytest.raises(MissingFiles, match='use identity_decode "face"'):
        list(start(toy, CONFIG, tmp_path / "missing"))
    folder = saved(3)
    next(folder.glob("*.safetensors")).write_bytes(b"broken")
    with pytest.raises(Problem, match="cannot be read"):
        list(start(toy, CONFIG, tmp_path / "broken"))


def test_without_the_identity_loss_nobody_looks_for_it(toy: Any, tmp_path: Path) -> None:
    list(start(toy, short(**{**CONFIG.__dict__, "lambda_id": 0.0}), tmp_path / "run"))
