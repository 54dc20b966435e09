"""What is a visitor's stays theirs: deletion leaves nothing, age removes, --auth guards every door."""

from __future__ import annotations

import os
import re
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from test_hostile import encoded

from magicapture_core.ui.sessions import Sessions
from magicapture_core.ui.stored_session import StoredPhoto
from magicapture_core.ui.studio import Studio


def files_with(marks: list[bytes], *folders: Path) -> list[tuple[Path, bytes]]:
    """Every file in the folders whose name or bytes hold a mark."""
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            named = [mark for mark in marks if mark in os.fsencode(path)]
            held = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            found += [(path, mark) for mark in marks if mark in named or mark in held]
    return found


@pytest.mark.long
def test_deletion_leaves_no_trace_on_disk(
    server: Any, people: list[list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos, prompt, words and names of a whole visit are searched for in every file that the server can write."""
    own_temporary = tmp_path / "temporary"
    own_temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own_temporary))
    mark, word = secrets.token_hex(16), f"word{secrets.token_hex(8)}"
    sent = []
    for number, photo in enumerate(people[0][:2]):
        sent.append(tmp_path / f"{word}-{number}.jpg")
        sent[-1].write_bytes(photo.read_bytes() + mark.encode())
    client = Client(server.url, verbose=False)
    answer = client.predict(
        files=[handle_file(str(path)) for path in sent], role="subject", consent=True, preset="passport",
        api_name="/check_photos",
    )  # fmt: skip
    assert answer["refused"] == []
    key = answer["session"]
    session = server.studio.sessions.find(key)
    client.predict(session=key, role="subject", api_name="/make_masks")
    client.predict(
        session=key, schedule="quick", settings={"ti_steps": 2, "lora_steps": 2}, api_name="/train"
    )
    assert server.studio.jobs.active(session.id).wait(180)
    prompt = f"a photo of a {{subject}} in the {{style}}, {word}"
    client.predict(session=key, prompt=prompt, count=1, api_name="/generate")
    client.predict(session=key, format="kohya", api_name="/export")
    with server.studio.sessions.changing(key) as changed:  # a step that only the page offers
        portrait = changed.portraits[0]
    server.studio.finishing_jobs.start(key, portrait.id, {"upscale": 2, "restore": "none"}).wait(180)

    marks = [mark.encode(), word.encode(), session.id.encode(), key.encode()]
    folders = (server.runs, own_temporary)
    before = {mark for _, mark in files_with(marks, *folders)}
    assert before >= {mark.encode(), word.encode(), session.id.encode()}, "the search finds what is there"
    client.predict(session=key, api_name="/delete")
    assert files_with(marks, *folders) == []
    assert server.studio.jobs._of(session.id) == []


def test_the_key_is_nowhere_on_disk(server: Any) -> None:
    key, _ = server.studio.sessions.create()
    assert files_with([key.encode()], server.runs) == []
    server.studio.delete(key)


def test_what_nobody_opened_for_long_is_removed(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "runs", keep_days=7)
    (old, gone), (fresh, kept) = sessions.create(), sessions.create()
    for key in (old, fresh):
        with sessions.changing(key) as session:
            shown = session.new_shown(".webp")
            shown.write_bytes(b"picture")
            session.photos["subject"].append(StoredPhoto("a", "a.jpg", "a", str(shown), 1, 1))
    week_ago = time.time() - 7 * 86400 - 60
    os.utime(gone.folder / "session.json", (week_ago, week_ago))
    uploads = {name: sessions.shown / (letter * 64) for name, letter in (("old", "a"), ("new", "b"))}
    for upload in uploads.values():
        upload.mkdir()
        (upload / "selfie.jpg").write_bytes(b"x")
    os.utime(uploads["old"], (week_ago, week_ago))

    assert sessions.sweep() == [gone.id]
    assert not gone.folder.exists()
    assert not gone.shown.exists()
    assert kept.folder.exists()
    assert kept.shown.exists()
    assert not uploads["old"].exists()
    assert uploads["new"].exists()
    assert sessions.find(fresh).photos["subject"]
    assert sessions.open(old)[0] != old


def test_opening_keeps_a_session(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "runs", keep_days=7)
    key, session = sessions.create()
    os.utime(session.folder / "session.json", (1, 1))
    assert sessions.open(key)[0] == key
    assert sessions.sweep() == []


# --- --auth -----------------------------------------------------------------------------------------


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Any, Studio, str]]:
    """Address and Blocks of a server that asks for a password, its inside, and the key of a session with a photo."""
    import app

    runs = tmp_path / "runs"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(runs / "shown"))
    studio = Studio(runs, model="mini")
    blocks = app.build(studio, languages=())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _, url, _ = blocks.launch(
        server_port=port, prevent_thread_lock=True, quiet=True, ssr_mode=False, auth=("ann", "right"),
        blocked_paths=[str(runs / "sessions")],
    )  # fmt: skip
    key, _ = studio.sessions.create()
    photo = tmp_path / "ann.png"
    photo.write_bytes(encoded("PNG"))
    studio.photos.consent(key, True)
    studio.photos.add(key, "subject", [(photo, photo.name)])
    yield url, blocks, studio, key
    studio.close()
    blocks.close()


def routes_of(router: Any) -> Iterator[tuple[str, str]]:
    """(method, path) of everything that a server answers."""
    for route in router.routes:
        inner = getattr(route, "original_router", None) or route
        if getattr(route, "methods", None):
            yield from ((method, route.path) for method in route.methods if method in ("GET", "POST"))
        elif hasattr(inner, "routes"):
            yield from routes_of(inner)


def test_auth_guards_every_route(guarded: tuple[str, Any, Studio, str]) -> None:
    """Without the password no route gives a picture, anything of a session, or the page with its addresses."""
    url, blocks, studio, key = guarded
    session = studio.sessions.find(key)
    shown = session.photos["subject"][0].thumb
    picture = Path(shown).read_bytes()
    places = {"path_or_url": shown, "path": shown, "api_name": "status", "url_path": shown}
    http = httpx.Client(base_url=url, timeout=5, trust_env=False, headers={"connection": "close"})
    denied, seen = set(), sorted(set(routes_of(blocks.app)))
    for method, path in seen:
        address = re.sub(r"\{(\w+)[^}]*\}", lambda found: places.get(found[1], "x"), path)
        body = {"data": [key, False]} if method == "POST" else None
        try:
            with http.stream(method, address, json=body) as answer:
                status, content = answer.status_code, answer.read()
        except httpx.TimeoutException:  # a stream that only says it lives
            continue
        if status in (401, 403):
            denied.add(path)
        for secret in (picture, session.id.encode(), b"mc-people"):
            assert secret not in content, (method, path)
    for path in ("/config", "/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/queue/data"):
        assert path in denied, sorted(denied)
    assert any(path.startswith("/gradio_api/file") for path in denied)
    assert any(path.startswith("/gradio_api/call") for path in denied)

    assert http.post("login", data={"username": "ann", "password": "wrong"}).status_code == 400
    assert http.get(f"gradio_api/file={shown}").status_code == 401
    entered = httpx.Client(base_url=url, timeout=60, trust_env=False)
    assert entered.post("login", data={"username": "ann", "password": "right"}).status_code == 200
    assert entered.get(f"gradio_api/file={shown}").content == picture
    assert b"mc-people" in entered.get("config").content


def test_nothing_is_kept_in_the_browser_by_gradio(guarded: tuple[str, Any, Studio, str]) -> None:
    """Its history of calls would outlive "delete my data"."""
    assert guarded[1].run_history is False
