"""What the wizard offers and says of models, without loading one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from toy import save_toy

from magicapture_core.models import HUB_ID, SDXL_ID, files
from magicapture_core.problems import Problem
from magicapture_core.ui import server_models
from magicapture_core.ui.hardware import gpu_gigabytes
from magicapture_core.ui.server_models import SD15, SDXL, ServerModels, is_xl
from magicapture_core.ui.stored_session import Session


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the PATH for a program that answers as nvidia-smi does."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    gpu_gigabytes.cache_clear()
    yield tmp_path
    gpu_gigabytes.cache_clear()


def answers(folder: Path, text: str, code: int = 0) -> None:
    script = folder / "nvidia-smi"
    script.write_text(f"#!/bin/sh\nprintf '{text}'\nexit {code}\n")
    script.chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="The stand-in is a shell script")
@pytest.mark.parametrize(
    ("said", "code", "gigabytes", "offered"),
    [
        ("8192\\n", 0, 8.6, False),
        ("12288\\n", 0, 12.9, True),
        ("8192\\n24576\\n", 0, 25.8, True),
        ("No devices were found\\n", 6, 0, False),
        ("[N/A]\\n", 0, 0, False),
    ],
)
def test_stable_diffusion_xl_is_offered_where_the_card_holds_it(
    card: Path, said: str, code: int, gigabytes: float, offered: bool
) -> None:
    answers(card, said, code)
    assert gpu_gigabytes() == pytest.approx(gigabytes, abs=0.1)
    models = ServerModels("mini", any_model=False)
    assert [name for _, name in models.choices()] == ["mini", SD15, *([SDXL] if offered else [])]
    if offered:
        assert models.checked(SDXL) == SDXL
    else:
        with pytest.raises(server_models.Problem, match="offers only these models"):
            models.checked(SDXL)


def test_a_session_s_model_that_is_no_longer_offered_gives_way_to_the_usual_one(tmp_path: Path) -> None:
    session = Session(tmp_path, tmp_path, model="somebody/else-s")
    assert ServerModels("mini", any_model=False).of(session) == "mini"
    assert ServerModels("mini", any_model=True).of(session) == "somebody/else-s"
    assert ServerModels("mini", any_model=False).of(replace(session, model=SD15)) == SD15
    assert ServerModels("mini", any_model=True).of(replace(session, model=None)) == "mini"


def test_what_is_said_of_it_without_its_files() -> None:
    assert (SD15, SDXL) == (HUB_ID, SDXL_ID)
    facts = ServerModels("mini", any_model=True).facts(SDXL)
    assert (facts.title, facts.resolution) == ("Stable Diffusion XL", 1024)
    for word in ("1024×1024", "7 to 14 GB", "16 GB", "12 GB", "768"):
        assert word in facts.needs


def test_folders_and_files_of_it_are_known(toy_folder: Path, toy_xl_folder: Path, tmp_path: Path) -> None:
    assert is_xl(toy_xl_folder)
    assert not is_xl(toy_folder)
    assert not is_xl(tmp_path / "nothing")
    file = tmp_path / "xl.safetensors"
    save_file({key: torch.zeros(1) for key in files.XL_TEXT_KEYS}, file)
    assert is_xl(file)
    models = ServerModels("mini", any_model=True)
    assert models.facts(str(file)).resolution == 1024
    assert models.facts(str(toy_xl_folder)).resolution == 64  # as its configuration says
    save_file({key: torch.zeros(1) for key in files.TEXT_KEYS}, tmp_path / "v1.safetensors")
    assert not is_xl(tmp_path / "v1.safetensors")
    assert models.facts(str(tmp_path / "v1.safetensors")).resolution == 512
    (tmp_path / "damaged.safetensors").write_bytes(b"\xff" * 6)
    assert not is_xl(tmp_path / "damaged.safetensors")


def test_only_schedules_that_fit_the_model_are_offered(tmp_path: Path) -> None:
    models = ServerModels("mini", any_model=True)
    mini = models.facts("mini")
    assert mini.schedule_names()[0] == "quick"
    assert "paper" not in mini.schedule_names()
    with pytest.raises(Problem, match=r"must be one of quick.*, custom, got 'paper'"):
        mini.config("paper")
    assert models.facts(SD15).schedule_names() == ["quick", "paper", "custom"]
    # One's own settings start from what fits, too: an agent names only those that it changes.
    own = mini.config("custom", own={"seed": 3})
    assert (own.seed, own.initial_words, own.attention_scale) == (3, "photos", "region")
    own = models.facts(SD15).config("custom", own={"seed": 3})
    assert (own.seed, own.initial_words, own.attention_scale) == (3, "paper", "extremes")
    only = save_toy(tmp_path / "only", magicapture={"schedules": {"slow": {"ti_steps": 7}}})
    facts = models.facts(str(only))
    assert facts.schedule_names() == ["slow", "custom"]
    assert facts.config("custom").ti_steps == 7


def test_the_page_shows_a_map_with_each_sample() -> None:
    config = ServerModels("mini", any_model=False).facts("mini").config("quick")
    assert config.attention_every == config.sample_every == 15
    unwatched = (
        ServerModels("mini", any_model=False).facts("mini").config("quick", own={"attention_every": 0})
    )
    assert unwatched.attention_every == 0
