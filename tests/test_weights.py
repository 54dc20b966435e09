"""The registry, finding files, and downloads from a server that misbehaves."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from safetensors.torch import save_file

from magicapture_core import weights
from magicapture_core.problems import MissingFiles, Problem
from magicapture_core.progress import StoppedError
from magicapture_core.weights import (
    WEIGHTS,
    fetch_weight,
    find_weight,
    read_state,
    verify_weight,
    weights_dir,
)

CONTENT = bytes(range(256)) * 4096  # 1 MiB
NAME = "parsing_bisenet"


class Server(ThreadingHTTPServer):
    """Serves CONTENT. `breaks` answers break off after a third of what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.breaks, self.ranges = CONTENT, 0, True
        self.asked: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if self.path != "/file.pth":
            self.send_error(404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.server.ranges else 0  # type: ignore[index]
        if start >= len(self.server.content):
            self.send_error(416)
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.breaks:
            self.server.breaks -= 1
            body = body[: len(body) // 3]
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MAGICAPTURE_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.chdir(tmp_path)
    entry = replace(
        WEIGHTS[NAME],
        url=f"http://127.0.0.1:{server.server_port}/file.pth",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    monkeypatch.setitem(WEIGHTS, NAME, entry)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("server")
def test_download_tells_its_progress_and_is_kept() -> None:
    told: list[tuple[str, float, float | None]] = []
    path = fetch_weight(NAME, lambda *now: told.append(now))
    assert path == weights_dir() / "parsing_bisenet.pth"
    assert path.read_bytes() == CONTENT
    assert told[-1] == (f"Downloading {WEIGHTS[NAME].filename}", len(CONTENT), len(CONTENT))
    assert [p.name for p in weights_dir().iterdir()] == ["parsing_bisenet.pth"]
    assert verify_weight(NAME) is True


def test_what_is_here_is_not_fetched(server: Server) -> None:
    fetch_weight(NAME)
    fetch_weight(NAME)
    assert len(server.asked) == 1


def test_broken_line_is_taken_up_where_it_broke(server: Server) -> None:
    server.breaks = 2
    assert fetch_weight(NAME).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={len(CONTENT) // 3}-", server.asked[2]]


def test_download_continues_at_the_next_call(server: Server) -> None:
    server.breaks = 3
    with pytest.raises(MissingFiles, match="broke off"):
        fetch_weight(NAME)
    assert find_weight(NAME) is None
    assert fetch_weight(NAME).read_bytes() == CONTENT
    assert server.asked[-1] is not None


def test_a_stopped_download_continues_at_the_next_call(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise StoppedError

    monkeypatch.setattr("magicapture_core.weights.downloads._CHUNK", 1 << 16)
    with pytest.raises(StoppedError):
        fetch_weight(NAME, stop)
    assert fetch_weight(NAME).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={1 << 16}-"]


def test_server_without_ranges_starts_again(server: Server) -> None:
    server.ranges, server.breaks = False, 1
    assert fetch_weight(NAME).read_bytes() == CONTENT


def test_wrong_checksum_leaves_nothing(server: Server) -> None:
    server.content = CONTENT[::-1]
    with pytest.raises(MissingFiles, match=r"not parsing_bisenet\.pth"):
        fetch_weight(NAME)
    assert list(weights_dir().iterdir()) == []


def test_wrong_size_leaves_nothing(server: Server) -> None:
    server.content = CONTENT + b"more"
    with pytest.raises(MissingFiles, match=r"expected 1,048,576 bytes, got 1,048,580 bytes"):
        fetch_weight(NAME)
    assert list(weights_dir().iterdir()) == []


def test_left_over_part_of_something_else_is_caught(server: Server) -> None:
    weights_dir().mkdir(parents=True)
    (weights_dir() / "parsing_bisenet.pth.part").write_bytes(b"x" * 1000)
    with pytest.raises(MissingFiles):
        fetch_weight(NAME)
    assert fetch_weight(NAME).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-", None]


def test_missing_on_the_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = replace(WEIGHTS[NAME], url=f"http://127.0.0.1:{server.server_port}/gone.pth")
    monkeypatch.setitem(WEIGHTS, NAME, entry)
    with pytest.raises(MissingFiles, match="404"):
        fetch_weight(NAME)


def test_offline_message_says_all(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        WEIGHTS, NAME, replace(WEIGHTS[NAME], url="http://127.0.0.1:9/x.pth", size=53_289_463)
    )
    with pytest.raises(MissingFiles) as error:
        fetch_weight(NAME)
    for part in ("parsing_bisenet.pth", "53 MB", "http://127.0.0.1:9/x.pth", str(weights_dir())):
        assert part in str(error.value)
    assert server.asked == []


def test_full_disk(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WEIGHTS, NAME, replace(WEIGHTS[NAME], size=10**18))
    with pytest.raises(MissingFiles, match="less room"):
        fetch_weight(NAME)
    assert server.asked == []


@pytest.mark.parametrize(
    "where",
    [
        "parsing_bisenet.pth",
        "facelib/parsing_bisenet.pth",
        "gfpgan/weights/parsing_bisenet.pth",
        "79999_iter.pth",
    ],
)
def test_published_layouts_are_found(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGICAPTURE_WEIGHTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert find_weight(NAME) is None
    (tmp_path / where).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / where).write_bytes(b"x")
    assert find_weight(NAME) == tmp_path / where


def test_other_sum_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGICAPTURE_WEIGHTS", str(tmp_path))
    assert verify_weight(NAME) is None
    (tmp_path / "parsing_bisenet.pth").write_bytes(b"x")
    assert verify_weight(NAME) is False


def test_what_lies_in_an_archive_is_not_downloaded_but_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGICAPTURE_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingFiles, match=r"inside buffalo_s\.zip, which must be unpacked by hand"):
        fetch_weight("w600k_mbf")
    assert list(tmp_path.iterdir()) == []


def test_registry() -> None:
    assert set(WEIGHTS) == {
        "detection_Resnet50_Final",
        "parsing_parsenet",
        "parsing_bisenet",
        "recognition_arcface_ir_se50",
        "RealESRGAN_x2plus",
        "RealESRGAN_x4plus",
        "GFPGANv1.4",
        "CodeFormer",
        "w600k_mbf",
        "aesthetic_sac_logos_ava1_l14",
    }
    for name, entry in WEIGHTS.items():
        assert entry.name == name
        assert entry.url.startswith("https://")
        assert unquote(entry.url).endswith((entry.filename, ".zip"))
        assert entry.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
        assert entry.licence
        assert entry.purpose
    with pytest.raises(Problem, match="no weight file called"):
        find_weight("nothing")


def test_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAGICAPTURE_WEIGHTS", raising=False)
    assert weights_dir().name == "weights"
    assert "magicapture" in str(weights_dir())
    monkeypatch.setenv("MAGICAPTURE_WEIGHTS", "~/models")
    assert weights_dir() == Path.home() / "models"


def test_read_state_unwraps_and_refuses(tmp_path: Path) -> None:
    state = {"a": torch.ones(2), "b": torch.zeros(3)}
    torch.save({"params_ema": {"module.a": state["a"], "b": state["b"]}}, tmp_path / "x.pth")
    save_file(state, tmp_path / "x.safetensors")
    for name in ("x.pth", "x.safetensors"):
        read = read_state(tmp_path / name)
        assert set(read) == {"a", "b"}
        assert torch.equal(read["a"], state["a"])
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "broken.pth").write_bytes((tmp_path / "x.pth").read_bytes()[:200])
    (tmp_path / "text.safetensors").write_text("hello")
    for name in ("list.pth", "broken.pth", "text.safetensors", "none.pth"):
        with pytest.raises(Problem, match=name):
            read_state(tmp_path / name)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


def test_pickled_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(Problem):
        read_state(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_assets_are_there() -> None:
    assert (weights.ASSETS / "faces" / "sface-1.safetensors").is_file()
    assert all(path.stat().st_size < 9_500_000 for path in (weights.ASSETS / "faces").iterdir())
