"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from toy import ToyAnalyser, save_toy

# Tests never touch the network, and never hurry each other on a small machine.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model as a diffusers folder. Read only."""
    return save_toy(tmp_path_factory.mktemp("models") / "toy")


@pytest.fixture
def toy(toy_folder: Path) -> Any:
    """The toy model, loaded afresh on the CPU in float32."""
    from magicapture_core.models import load

    return load(toy_folder, device="cpu")


@pytest.fixture
def toy_analyser() -> ToyAnalyser:
    """A face analyser without a network."""
    return ToyAnalyser()
