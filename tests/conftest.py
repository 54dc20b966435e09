"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from toy import ToyAnalyser, save_toy, save_toy_xl

if TYPE_CHECKING:
    from magicapture_core.faces import FaceAnalyser

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for magicapture_core and tools
os.environ["HF_HUB_OFFLINE"] = "1"  # tests never touch the network
# Toy tensors gain nothing from more threads, and threads that wait for a busy core cost much.
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def all_cores() -> Iterator[None]:
    """For networks of full size, which gain from more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model as a diffusers folder. Read only."""
    return save_toy(tmp_path_factory.mktemp("models") / "toy")


@pytest.fixture
def toy(toy_folder: Path) -> Any:
    """The toy model, loaded afresh on the CPU in float32."""
    from magicapture_core.models import load

    return load(toy_folder, device="cpu", dtype=torch.float32)


@pytest.fixture(scope="session")
def toy_xl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy Stable Diffusion XL as a diffusers folder. Read only."""
    return save_toy_xl(tmp_path_factory.mktemp("models") / "toy-xl")


@pytest.fixture
def toy_xl(toy_xl_folder: Path) -> Any:
    """The toy Stable Diffusion XL, loaded afresh on the CPU in float32."""
    from magicapture_core.models import load

    return load(toy_xl_folder, device="cpu", dtype=torch.float32)


@pytest.fixture
def toy_analyser() -> ToyAnalyser:
    """A face analyser without a network."""
    return ToyAnalyser()


@pytest.fixture(scope="session")
def analyser() -> FaceAnalyser:
    """The bundled face networks. They are loaded once."""
    from magicapture_core.faces import choose_analyser

    return choose_analyser("bundled")[0]


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """A photo (512, 512, 3) with one face."""
    import skimage.data

    return np.asarray(skimage.data.astronaut())


@pytest.fixture(scope="session")
def hopper() -> np.ndarray:
    """A photo (606, 512, 3) with one face, of somebody else."""
    import matplotlib.cbook

    return np.asarray(Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg")).convert("RGB"))
