"""Adapters on the Hugging Face hub, against a local stand-in of its API: what is uploaded, what is refused, and that
portraits of an uploaded adapter are those of its run."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy import toy_run

from magicapture_core.checkpoints import Run
from magicapture_core.models import ModelBundle
from magicapture_core.problems import Problem, RunProblem
from magicapture_core.provenance import save_picture
from magicapture_core.sharing import PORTRAITS, fetch_run, upload_run, write_shared

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_may_write"


class Hub(ThreadingHTTPServer):
    """As much of the hub's API as uploading and downloading a small repository takes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def answer(self, status: int, body: Any = None, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body if body is not None else {}).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid credentials"})
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            known = name in self.server.private
            self.server.private.setdefault(
                name, bool(asked.get("private", asked.get("visibility") == "private"))
            )
            self.server.files.setdefault(name, {})
            self.answer(409 if known else 200, {"url": f"{self.server.url}/{name}", "name": name})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            self.answer(200, {"files": modes})
        elif "/commit/" in self.path:
            name = "/".join(self.path.split("/")[3:5])
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.server.files[name][value["path"]] = base64.b64decode(value["content"])
            url = f"{self.server.url}/{name}/commit/{COMMIT}"
            self.answer(200, {"commitUrl": url, "commitOid": COMMIT, "success": True})
        else:
            self.answer(200)

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        files = self.server.files.get(name)
        may = self.headers.get("Authorization") == f"Bearer {TOKEN}" or not self.server.private.get(name)
        if files is None or not may:
            self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        elif parts[0] == "api" and "tree" in parts:
            entries = [
                {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for path, data in files.items()
            ]
            self.answer(200, entries, Content_Type="application/json")
        elif parts[0] == "api":
            siblings = [{"rfilename": path} for path in files]
            facts = {"id": name, "sha": COMMIT, "private": self.server.private[name], "siblings": siblings}
            self.answer(200, facts, Content_Type="application/json")
        else:
            data = files["/".join(parts[4:])]
            tag = f'"{hashlib.sha1(data).hexdigest()}"'
            self.answer(200, data, ETag=tag, X_Repo_Commit=COMMIT)

    do_HEAD = do_GET


@pytest.fixture
def hub() -> Iterator[Hub]:
    """The stand-in; commands in processes of their own find it."""
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


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
