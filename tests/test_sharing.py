"""Adapters on the Hugging Face hub, against a local stand-in of its API: what is uploaded, what is refused, and that
portraits of an uploaded adapter are those of its run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hub_stand_in import TOKEN, Hub, serving
from PIL import Image
from toy import toy_run

from magicapture_core.checkpoints import Run
from magicapture_core.models import ModelBundle
from magicapture_core.problems import Problem, RunProblem
from magicapture_core.provenance import save_picture
from magicapture_core.sharing import PORTRAITS, fetch_run, upload_run, write_shared
from magicapture_core.ui.keeping import whole_name
from magicapture_core.ui.stored_session import StoredPortrait, StoredRun
from magicapture_core.ui.studio import Studio


@pytest.fixture
def hub() -> Iterator[Hub]:
    """The stand-in; commands in processes of their own find it."""
    with serving() as server:
        yield server


@pytest.fixture
def run(toy: ModelBundle, tmp_path: Path) -> Path:
    """A trained run, with everything that a training leaves."""
    return toy_run(toy, tmp_path / "run")


def portrait(path: Path, marked: bool = True) -> Path:
    """A picture as MagiCapture saves it, or, not marked, as a camera does."""
    image = Image.fromarray(np.full((64, 64, 3), 90, np.uint8))
    if marked:
        save_picture(image, path, prompt="a <b>bold</b> {subject}", seed=1, settings={})
    else:
        image.save(path)
    return path


def command(
    hub: Hub, tmp_path: Path, *arguments: str, token: str = TOKEN
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "cache"), "COLUMNS": "200", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "magicapture_core", *arguments],
        cwd=Path(__file__).parent.parent, env=environment, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip


def test_only_what_may_be_shared_is_written(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    write_shared(Run.open(run), folder, [portrait(tmp_path / "one.png")])
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert written == {
        "README.md", "config.json", "adapter/subject.safetensors", "adapter/style.safetensors",
        "adapter/pytorch_lora_weights.safetensors", f"{PORTRAITS}/1.png",
    }  # fmt: skip
    before, after = Run.open(run).facts(), Run.open(folder).facts()
    assert (after.config, after.model_fingerprint, after.family) == (
        before.config, before.model_fingerprint, before.family,
    )  # fmt: skip
    text = "".join((folder / name).read_text() for name in ("README.md", "config.json"))
    assert str(tmp_path) not in text
    assert not any(photo in text for photo in (*before.subject, *before.style))
    assert '    "a <b>bold</b> {subject}"' in (folder / "README.md").read_text()


def test_the_card_tells_how_far_the_run_came_and_that_the_model_is_a_folder(
    run: Path, tmp_path: Path
) -> None:
    facts = Run.open(run).facts()
    Run.open(run).append_losses({"step": 1300, "subject": 0.25})
    write_shared(Run.open(run), tmp_path / "shared")
    card = (tmp_path / "shared" / "README.md").read_text()
    assert "Trained so far: 1300 of 2700 optimizer steps" in card
    assert f'from_pretrained("/path/to/{Path(facts.model).name}")' in card


def test_refused_before_anything_is_sent(run: Path, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="agreed"):
        upload_run(run, "ada/portraits", consent=False)
    for wrong in ("ada", "ada/../x", "https://huggingface.co/ada/x", "/etc/passwd", "a/b/c"):
        with pytest.raises(Problem, match='must be "user/name"'):
            upload_run(run, wrong, consent=True)
        with pytest.raises(Problem, match='must be "user/name"'):
            fetch_run(wrong)
    with pytest.raises(Problem, match="not marked as generated"):
        upload_run(run, "ada/x", consent=True, portraits=[portrait(tmp_path / "selfie.png", marked=False)])
    (run / "adapter" / "subject.safetensors").unlink()
    with pytest.raises(RunProblem, match="Train it first"):
        upload_run(run, "ada/x", consent=True)


def test_commands_refuse_in_words(hub: Hub, run: Path, tmp_path: Path) -> None:
    hub.private["ada/public"], hub.files["ada/public"] = False, {}
    done = command(hub, tmp_path, "upload", str(run), "--to", "ada/public", "--consent")
    assert done.returncode == 1
    assert "public already" in done.stdout
    assert hub.files["ada/public"] == {}
    done = command(hub, tmp_path, "upload", str(run), "--to", "ada/mine", "--consent", token="hf_wrong")
    assert done.returncode == 1
    assert "did not take the upload" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    done = command(hub, tmp_path, "generate", "--adapter", "ada/nothing", "--out", str(tmp_path / "o"))
    assert done.returncode == 1
    assert "could not be downloaded" in done.stdout


@pytest.mark.long
def test_portraits_of_an_uploaded_adapter_are_those_of_its_run(
    hub: Hub, run: Path, toy_folder: Path, tmp_path: Path
) -> None:
    picture = str(portrait(tmp_path / "one.png"))
    done = command(hub, tmp_path, "upload", str(run), "--to", "ada/mine", "--consent", "--portraits", picture)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{hub.url}/ada/mine" in done.stdout
    assert hub.private["ada/mine"]
    assert set(hub.files["ada/mine"]) >= {"README.md", "config.json", "adapter/subject.safetensors"}
    assert not any("identity" in name or "checkpoint" in name for name in hub.files["ada/mine"])
    for source, out in ((["--adapter", "ada/mine"], "there"), ([str(run)], "here")):
        done = command(
            hub, tmp_path, "generate", *source, "--model", str(toy_folder), "--out", str(tmp_path / out), "-n", "1",
            "--seed", "3", "--steps", "2",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    there, here = (np.asarray(Image.open(tmp_path / out / "portrait-seed3.png")) for out in ("there", "here"))
    assert np.array_equal(there, here)
    (run / "adapter" / "pytorch_lora_weights.safetensors").unlink()
    done = command(hub, tmp_path, "upload", str(run), "--to", "ada/mine", "--consent")
    assert (done.returncode, done.stderr) == (0, "")
    assert set(hub.files["ada/mine"]) == {
        "README.md", "config.json", "adapter/subject.safetensors", "adapter/style.safetensors",
    }  # fmt: skip


@pytest.fixture
def studio(
    hub: Hub, toy: ModelBundle, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Studio, str]]:
    """A server's inside that finds the stand-in, and the key of a session with a trained run and a portrait."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    made = Studio(tmp_path / "runs", model=toy.name)
    key, _ = made.sessions.create()
    with made.sessions.changing(key) as session:
        stored = StoredRun("a" * 16, "Training 1", toy.name, "", "quick", {}, 0.0)
        shutil.copytree(run, session.run_folder(stored))
        session.runs, session.run = [stored], stored.id
        picture = portrait(tmp_path / "one.png")
        session.portraits = [StoredPortrait("p", stored.id, str(picture), "a {subject}", 1, 0.5, {}, [])]
    yield made, key
    made.close()


def test_a_visitor_keeps_a_training(hub: Hub, studio: tuple[Studio, str]) -> None:
    server, key = studio
    for token, consent, words in (
        ("", True, "access token"),
        (TOKEN, False, "agreed"),
        ("hf_no", True, "did not take"),
    ):
        with pytest.raises(Problem, match=words):
            server.runs.keep(key, "ada/mine", token, consent=consent)
    assert not hub.files.get("ada/mine")
    assert server.runs.keep(key, "ada/mine", TOKEN, consent=True) == f"{hub.url}/ada/mine"
    assert hub.private["ada/mine"]
    assert f"{PORTRAITS}/1.png" in hub.files["ada/mine"]
    assert not any("identity" in name for name in hub.files["ada/mine"])


def logged_in(name: str, token: str) -> dict[str, str]:
    """The cookie that gradio sets after a login in a Space: a stand-in of the login itself."""
    import base64
    import hashlib
    import json
    import time

    import itsdangerous

    person = {
        "name": name,
        "preferred_username": name,
        "profile": f"https://huggingface.co/{name}",
        "picture": "",
    }
    login = {
        "access_token": token,
        "scope": "contribute-repos",
        "expires_at": time.time() + 60,
        "userinfo": person,
    }
    secret = hashlib.sha256(f"{SECRET}-v4".encode()).hexdigest()
    data = base64.b64encode(json.dumps({"oauth_info": login}).encode())
    return {"session": itsdangerous.TimestampSigner(secret).sign(data).decode()}


def pressed(url: str, blocks: Any, values: list[Any], cookies: dict[str, str]) -> str:
    """What the page gets that presses “Upload”: everything that the server sends until the press is answered."""
    number = next(number for number, each in blocks.fns.items() if each.name == "keep")
    asked = {"fn_index": number, "data": values, "session_hash": "visitor"}
    with httpx.Client(base_url=url, cookies=cookies, timeout=120) as client:
        client.post("gradio_api/queue/join", json=asked).raise_for_status()
        with client.stream("GET", "gradio_api/queue/data?session_hash=visitor") as answers:
            return "".join(iter_until(answers.iter_lines(), "process_completed"))


def iter_until(lines: Iterator[str], word: str) -> Iterator[str]:
    for line in lines:
        yield line
        if word in line:
            return


SECRET = "stand-in"


@pytest.mark.long
def test_by_login_in_a_space(studio: tuple[Studio, str], hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page in a Space's environment (a stand-in), with the cookie of a login; the upload is the real one."""
    from gradio import oauth

    import app

    for name, value in {
        "SYSTEM": "spaces", "SPACE_ID": "ada/magicapture", "OAUTH_CLIENT_ID": "stand-in", "OAUTH_CLIENT_SECRET": SECRET,
        "OAUTH_SCOPES": "openid profile contribute-repos", "OPENID_PROVIDER_URL": hub.url,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
        if hasattr(oauth, name):
            monkeypatch.setattr(oauth, name, value)
    server, key = studio
    blocks = app.build(server, languages=())
    _, url, _ = blocks.queue().launch(prevent_thread_lock=True, quiet=True, ssr_mode=False)
    url = url.replace("0.0.0.0", "127.0.0.1")
    try:
        said = pressed(url, blocks, [key, "mine", "", True], {})
        assert "Log in to Hugging Face first" in said
        said = pressed(url, blocks, [key, "mine", "", False], logged_in("ada", TOKEN))
        assert "(consent)" in said
        assert not hub.files
        said = pressed(url, blocks, [key, "mine", "", True], logged_in("ada", TOKEN))
        assert f"{hub.url}/ada/mine" in said
        assert hub.private == {"ada/mine": True}
        assert "config.json" in hub.files["ada/mine"]
    finally:
        blocks.close()


def test_a_repository_of_ones_own_needs_no_user() -> None:
    assert whole_name(" mine ", "ada") == "ada/mine"
    assert whole_name("team/mine", "ada") == "team/mine"
    assert whole_name("", "ada") == ""
