"""Broken and hostile input through the wizard's own doors: each gets its words, and the server lives on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_hostile import BOMBS, FORMATS, POLYGLOTS, PROMPTS, WRONG, encoded

from magicapture_core.config import TrainConfig

LONGEST = 180.0
"""Seconds until an answer; all of it takes less than one on an idle machine."""
NOBODY = "0" * 48


class Visitor:
    """Talks to the endpoints without a client that would tidy up what it sends."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(
            base_url=f"{url}gradio_api/", timeout=LONGEST, trust_env=False, headers={"connection": "close"}
        )  # a server that met an error closes the connection, and the next request would find it so

    def upload(self, name: str, data: bytes) -> dict[str, Any]:
        """Send a file under a name; what an endpoint takes as one."""
        answer = self.http.post("upload", files=[("files", (name, data))])
        answer.raise_for_status()
        return file_at(answer.json()[0])

    def call(self, endpoint: str, *data: Any) -> tuple[bool, Any]:
        """Whether it went well, and the answer: the outputs, or the words of the error."""
        body = json.dumps({"data": data}, allow_nan=True).encode("utf-8", "surrogatepass")
        begun = self.http.post(f"call/{endpoint}", content=body, headers={"content-type": "application/json"})
        if begun.status_code != 200:
            return False, begun.text
        with self.http.stream("GET", f"call/{endpoint}/{begun.json()['event_id']}") as stream:
            event = ""
            for line in stream.iter_lines():
                if line.startswith("event: "):
                    event = line[7:]
                elif line.startswith("data: ") and event in ("complete", "error"):
                    return event == "complete", json.loads(line[6:])
        raise AssertionError(f"{endpoint} never answered")

    def refused(self, endpoint: str, *data: Any) -> str:
        """The words in which it was refused."""
        well, answer = self.call(endpoint, *data)
        assert not well, (endpoint, data, answer)
        words = answer if isinstance(answer, str) else str((answer or {}).get("error", ""))
        assert "Traceback" not in words
        assert "site-packages" not in words
        return words


def file_at(path: str) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


@pytest.fixture
def visitor(server: Any) -> Iterator[Visitor]:
    """A visitor, after whom the server must still answer others, in time."""
    made = Visitor(server.url)
    yield made
    made.http.close()
    started, next_one = time.monotonic(), Visitor(server.url)
    assert "no longer here" in next_one.refused("status", NOBODY, False)
    assert time.monotonic() - started < LONGEST
    next_one.http.close()


@pytest.fixture
def key(visitor: Visitor) -> str:
    """A session with photos of a person and a style."""
    well, answer = visitor.call("check_photos", None, "subject", "", True, "alma", "passport", False)
    assert well, answer
    return str(answer[0]["session"])


def snapshot(folder: Path) -> set[Path]:
    """Files in a folder, but for the sessions' own."""
    return {path for path in folder.rglob("*") if path.is_file() and "runs" not in path.parts}


def test_files_that_are_no_photos(visitor: Visitor, server: Any) -> None:
    makers: dict[str, Callable[[], bytes]] = {**BOMBS, **POLYGLOTS}
    contents = {name: make() for name, make in makers.items()}
    for kind in FORMATS:
        contents[f"half of a {kind}"] = encoded(kind)[: len(encoded(kind)) // 2]
    before = snapshot(server.runs.parent)
    for start in range(0, len(contents), 10):
        names = list(contents)[start : start + 10]
        files = [visitor.upload(f"{name}.jpg", contents[name]) for name in names]
        well, answer = visitor.call("check_photos", files, "subject", "", True, "", "", False)
        assert well, answer
        taken, refused = answer[0]["photos"], answer[0]["refused"]
        # Some are photos with something behind them; all others are named, one by one.
        assert len(taken) + len(refused) == len(names)
        assert all(line.endswith(".") and "Traceback" not in line for line in refused)
        assert visitor.call("delete", answer[0]["session"]) == (True, [{"deleted": True}])
    assert snapshot(server.runs.parent) == before


@pytest.mark.parametrize(
    "name",
    [
        "../../../evil.jpg", "..\\..\\evil.jpg", "/etc/evil.jpg", "a/b/../../evil.jpg", "‮gpj.exe", "con.jpg",
        "-rf.jpg", "$(touch evil).jpg", "evil\n.jpg", "x" * 200 + ".jpg", ".jpg", "…",
        "<img src=x onerror=alert(1)>.jpg", "%2e%2e%2fevil.jpg", "evil.jpg/", "session.json",
    ],
)  # fmt: skip
def test_names_lead_nowhere(visitor: Visitor, server: Any, name: str) -> None:
    before = snapshot(server.runs.parent)
    file = visitor.upload(name, encoded("PNG"))
    assert Path(file["path"]).resolve().is_relative_to((server.runs / "shown").resolve())
    well, answer = visitor.call("check_photos", [file], "subject", "", True, "", "", False)
    assert well, answer
    assert len(answer[0]["photos"]) == 1
    session = server.studio.sessions.find(answer[0]["session"])
    assert [photo.file for photo in session.photos["subject"]] == [
        path.name for path in (session.folder / "photos").iterdir()
    ]
    assert snapshot(server.runs.parent) == before
    visitor.call("delete", answer[0]["session"])


def test_files_that_were_not_uploaded_are_not_taken(visitor: Visitor, server: Any, key: str) -> None:
    """Neither the machine's own, nor what another session shows: taking a file in also removes it."""
    session = server.studio.sessions.find(key)
    shown = Path(session.photos["subject"][0].thumb)
    paths = [
        "/etc/passwd", "/proc/self/environ", str(session.folder / "session.json"), str(server.runs / "browser-secret"),
        str(shown), str(shown.parent / ".." / shown.parent.name / shown.name), str(server.runs / "shown"), "",
        "\0", "a" * 5000, "http://127.0.0.1:1/x.jpg", "file:///etc/passwd",
    ]  # fmt: skip
    for path in paths:
        well, answer = visitor.call("check_photos", [file_at(path)], "subject", "", True, "", "", False)
        assert not well or answer[0]["photos"] == [], path
    for value in ({}, {"path": None}, "/etc/passwd", 7, [[]], {"url": "http://127.0.0.1:1/"}):
        well, answer = visitor.call("check_photos", [value], "subject", "", True, "", "", False)
        assert not well or answer[0]["photos"] == [], value
    assert shown.is_file()
    assert (session.folder / "session.json").is_file()


def test_a_link_in_the_place_of_an_upload_is_not_followed(visitor: Visitor, server: Any, key: str) -> None:
    secret = server.studio.sessions.find(key).folder / "photos"
    uploaded = Path(visitor.upload("link.jpg", encoded("PNG"))["path"])
    uploaded.unlink()
    uploaded.symlink_to(next(secret.iterdir()))
    well, answer = visitor.call("check_photos", [file_at(str(uploaded))], "subject", "", True, "", "", False)
    assert not well or answer[0]["photos"] == []
    assert all(path.is_file() for path in secret.iterdir())


KEYS: list[Any] = [
    "", "0", NOBODY, NOBODY.upper()[:-1] + "A", "../" * 16, "a" * 100_000, "\0" * 48, "‮" * 48, None, 7, True, [], {},
    [NOBODY], {"key": NOBODY}, "0" * 47 + "\n", "٠" * 48, "' OR 1=1 --",
]  # fmt: skip


@pytest.mark.parametrize("wrong", KEYS, ids=lambda wrong: repr(wrong)[:24])
def test_keys_that_open_nothing(visitor: Visitor, server: Any, wrong: Any) -> None:
    before = {path.name for path in (server.runs / "sessions").iterdir()}
    for endpoint, rest in {
        "status": [True], "make_masks": ["subject"], "train": ["", "", {}, False], "export": ["kohya"], "delete": [],
        "generate": ["{subject}", "", 1, -1, -1, -1, -1, -1],
    }.items():  # fmt: skip
        assert "no longer here" in visitor.refused(endpoint, wrong, *rest)
    assert {path.name for path in (server.runs / "sessions").iterdir()} == before


@pytest.mark.long
def test_settings_of_all_kinds(visitor: Visitor, server: Any, key: str) -> None:
    """Every setting with a wrong value each: refused by name, or so harmless that training starts, and is stopped."""
    names = [field.name for field in fields(TrainConfig)]
    odd: list[Any] = [
        [1],
        "x",
        7,
        None,
        {"ti_steps": {"a": [{}]}},
        {"": 1},
        {"a" * 100_000: 1},
        {"__class__": 1},
    ]
    wrong: list[Any] = [{name: WRONG[number % len(WRONG)]} for number, name in enumerate(names)]
    for values in [*wrong, *odd]:
        well, answer = visitor.call("train", key, "", "quick", values, False)
        if well:
            visitor.call("status", key, True)
            job = server.studio.jobs.active(server.studio.sessions.find(key).id)
            assert job is None or job.wait(LONGEST)
        else:
            assert "not your doing" not in str(answer), (values, answer)
    for schedule in ("", "fast", "../quick", "\0", "a" * 10_000):
        well, answer = visitor.call("train", key, "", schedule, {"ti_steps": -5}, False)
        assert not well
    for model in ("../../etc", "/etc/passwd", "\0", "a" * 10_000, "http://127.0.0.1/", "…"):
        well, answer = visitor.call("train", key, model, "quick", {}, False)
        if well:
            job = server.studio.jobs.active(server.studio.sessions.find(key).id)
            assert job is None or job.wait(LONGEST)
            assert (
                server.studio.training_jobs.job(server.studio.sessions.find(key)).snapshot().state == "failed"
            )


@pytest.mark.long
def test_prompts_and_numbers_of_all_kinds(visitor: Visitor, server: Any, key: str) -> None:
    small = {"ti_steps": 1, "lora_steps": 1, "attention_every": 0, "sample_every": 0}
    assert visitor.call("train", key, "", "quick", small, False)[0]
    assert server.studio.jobs.active(server.studio.sessions.find(key).id).wait(LONGEST)
    for name, prompt in PROMPTS.items():
        well, answer = visitor.call("generate", key, prompt, prompt, 1, 5, 1, -1, -1, -1)
        assert well or "not your doing" not in str(answer), (name, answer)
    huge, nan = 10**40, float("nan")
    for numbers in (
        [0, 1, 1, 1, 1, 1], [-5, 1, 1, 1, 1, 1], [huge, 1, 1, 1, 1, 1], [nan, 1, 1, 1, 1, 1], [1, huge, 1, 1, 1, 1],
        [1, nan, 1, 1, 1, 1], [1, 1, huge, 1, 1, 1], [1, 1, 0.5, 1, 1, 1], [1, 1, 1, nan, 1, 1], [1, 1, 1, huge, 1, 1],
        [1, 1, 1, 1, nan, 1], [1, 1, 1, 1, huge, 1], [1, 1, 1, 1, 1, nan], [1, 1, 1, 1, 1, huge], [1, 1, 1, 1, 1, {}],
        [[], 1, 1, 1, 1, 1], ["x", 1, 1, 1, 1, 1], [None, 1, 1, 1, 1, 1], [1, None, 1, 1, 1, 1],
        [True, 1, 1, 1, 1, 1], [1, {}, 1, 1, 1, 1], [33, 1, 1, 1, 1, 1],
    ):  # fmt: skip
        well, answer = visitor.call("generate", key, "{subject}", "", *numbers)
        assert well or "not your doing" not in str(answer), (numbers, answer)


def test_requests_that_are_none(visitor: Visitor) -> None:
    """What no client would send."""
    post = visitor.http.post
    for body in (
        b"", b"{", b"[]", b"null", b'{"data": 7}', b'{"data": []}', b'{"data": [1,2,3,4,5,6,7,8,9]}', b"[" * 100_000,
        b'{"data": ["' + b"a" * 1_000_000 + b'", false]}', b"\xff\xfe", b'{"data": {"a": 1}}',
    ):  # fmt: skip
        answer = post("call/status", content=body, headers={"content-type": "application/json"})
        assert "Traceback" not in answer.text
    for path in ("call/nothing", "call/../status", "call/%00", "run/predict", "queue/join", "api/status"):
        assert "Traceback" not in post(path, json={"data": ["x", False]}).text, path
    for number in (-1, 0, 10**6):
        body = {"data": ["x"], "fn_index": number, "session_hash": "x"}
        assert "Traceback" not in post("queue/join", json=body).text
    for path in (
        "file=/etc/passwd", "file=../../etc/passwd", "file=", "file=%00", "file=/proc/self/environ",
        "file=http://127.0.0.1:1/", "proxy=http://127.0.0.1:1/", "stream/a/b/c/d", "theme.css/../x",
    ):  # fmt: skip
        answer = visitor.http.get(path)
        assert answer.status_code >= 400, (path, answer.status_code)
        assert b"root:" not in answer.content
