"""The named endpoints, as gradio_client sees them: the whole flow, errors, and nobody sees anybody else's."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

PATIENCE = 180.0
NOBODY = "0" * 48
ENDLESS = {"ti_steps": 100_000}


@pytest.fixture(scope="module")
def client(server: Any) -> Client:
    return Client(server.url, verbose=False)


def begun(client: Client, people: list[list[Path]], who: int = 0) -> str:
    """A session with photos of a person and of a style; its key."""
    answer = client.predict(
        files=[handle_file(str(path)) for path in people[who][:2]], role="subject", consent=True,
        api_name="/check_photos",
    )  # fmt: skip
    key = str(answer["session"])
    style = [handle_file(str(path)) for path in people[1 - who][:2]]
    client.predict(files=style, role="style", session=key, api_name="/check_photos")
    return key


def ended(client: Client, key: str) -> dict[str, Any]:
    """The status once the training has ended."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        status: dict[str, Any] = client.predict(session=key, api_name="/status")
        if status["state"] in ("done", "failed", "stopped", "saved"):
            return status
        time.sleep(0.2)
    raise AssertionError(f"the training did not end: {status}")


def status_of(address: str) -> int:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_only_the_named_endpoints_are_offered(client: Client) -> None:
    offered = client.view_api(return_format="dict", print_info=False)
    assert set(offered["named_endpoints"]) == {
        "/check_photos", "/make_masks", "/draft", "/train", "/status", "/generate", "/export", "/delete",
    }  # fmt: skip
    assert offered["unnamed_endpoints"] == {}


def test_the_whole_flow(client: Client, server: Any, people: list[list[Path]]) -> None:
    key = begun(client, people)
    pictures, facts = client.predict(session=key, role="subject", api_name="/make_masks")
    assert len(pictures) == len(facts) == 2
    assert all(fact["problem"] is None for fact in facts)

    client.predict(session=key, schedule="quick", settings={"lora_steps": 6}, api_name="/train")
    status = ended(client, key)
    assert (status["state"], status["step"], status["total_steps"], status["phase"]) == (
        "done",
        12,
        12,
        "lora",
    )
    assert set(status["losses"]) == {"source", "reference", "composed", "identity", "attention"}

    pictures, portraits = client.predict(session=key, count=2, seed=5, steps=2, api_name="/generate")
    assert len(pictures) == 2
    assert sorted(portrait["seed"] for portrait in portraits) == [5, 6]
    assert len(client.predict(session=key, count=1, api_name="/generate")[0]) == 1
    drawn = [portrait.settings for portrait in server.studio.sessions.find(key).portraits]
    assert [(each["steps"], each["guidance_scale"]) for each in drawn] == [(2, 7.0), (2, 7.0), (3, 7.0)]
    names = {Path(path).name for path in client.predict(session=key, format="diffusers", api_name="/export")}
    assert {"subject.safetensors", "style.safetensors", "pytorch_lora_weights.safetensors"} <= names

    session = server.studio.sessions.find(key)
    assert session.folder.exists()
    assert session.shown.exists()
    assert client.predict(session=key, api_name="/delete") == {"deleted": True}
    assert not session.folder.exists()
    assert not session.shown.exists()
    with pytest.raises(AppError, match="no longer here"):
        client.predict(session=key, api_name="/status")


def test_photos_need_consent(client: Client, people: list[list[Path]]) -> None:
    with pytest.raises(AppError, match="consent=true"):
        client.predict(files=[handle_file(str(people[0][0]))], consent=False, api_name="/check_photos")


def test_a_document_called_a_photo_is_refused_in_words(client: Client, tmp_path: Path) -> None:
    fake = tmp_path / "selfie.jpg"
    fake.write_bytes(b"%PDF-1.7\n" + b"x" * 500)
    answer = client.predict(files=[handle_file(str(fake))], consent=True, api_name="/check_photos")
    assert answer["photos"] == []
    assert "selfie.jpg is not a photo" in answer["refused"][0]
    assert "PDF" in answer["refused"][0]


@pytest.mark.parametrize(
    ("endpoint", "values", "words"),
    [
        ("/check_photos", {"files": None, "role": "boss"}, "role must be"),
        ("/make_masks", {"session": NOBODY}, "no longer here"),
        ("/train", {"session": NOBODY}, "no longer here"),
        ("/status", {"session": "../../etc"}, "no longer here"),
        ("/generate", {"session": NOBODY}, "no longer here"),
        ("/export", {"session": NOBODY, "format": "zip"}, "format must be"),
        ("/delete", {"session": NOBODY}, "no longer here"),
    ],
)
def test_errors_are_words(client: Client, endpoint: str, values: dict[str, Any], words: str) -> None:
    with pytest.raises(AppError, match=words) as caught:
        client.predict(**values, api_name=endpoint)
    assert "Traceback" not in str(caught.value)


def test_what_would_be_left_out_is_used_where_one_says_so(client: Client, people: list[list[Path]]) -> None:
    twice = [handle_file(str(people[0][0]))] * 2
    answer = client.predict(files=twice, consent=True, api_name="/check_photos")
    assert [photo["used"] for photo in answer["photos"]] == [True, False]
    answer = client.predict(files=None, session=answer["session"], use_all=True, api_name="/check_photos")
    assert [photo["used"] for photo in answer["photos"]] == [True, True]


def test_training_says_what_is_missing(client: Client, people: list[list[Path]]) -> None:
    answer = client.predict(
        files=[handle_file(str(people[0][0]))], role="subject", consent=True, api_name="/check_photos"
    )
    with pytest.raises(AppError, match="no usable style photos"):
        client.predict(session=answer["session"], api_name="/train")


def test_wrong_settings_are_named(client: Client, people: list[list[Path]]) -> None:
    key = begun(client, people)
    with pytest.raises(AppError, match="no setting 'lerning_rate'"):
        client.predict(session=key, settings={"lerning_rate": 1}, api_name="/train")
    with pytest.raises(AppError, match="no trained run yet"):
        client.predict(session=key, api_name="/generate")


def test_nobody_sees_stops_or_downloads_anything_of_another(
    client: Client, server: Any, people: list[list[Path]]
) -> None:
    ann, bob = begun(client, people, 0), begun(client, people, 1)
    client.predict(session=ann, schedule="quick", settings=ENDLESS, api_name="/train")
    try:
        assert client.predict(session=bob, api_name="/status")["state"] == "none"
        client.predict(session=bob, stop=True, api_name="/status")
        client.predict(session=bob, schedule="quick", api_name="/train")
        waiting = client.predict(session=bob, api_name="/status")
        assert (waiting["state"], waiting["ahead_in_queue"]) == ("waiting", 1)
        assert "losses" not in waiting
        assert client.predict(session=bob, stop=True, api_name="/status")["state"] == "stopped"
        assert client.predict(session=ann, api_name="/status")["state"] in ("preparing", "running")
        with pytest.raises(AppError, match="still under way"):
            client.predict(session=ann, schedule="quick", api_name="/train")
    finally:
        client.predict(session=ann, stop=True, api_name="/status")
    assert ended(client, ann)["state"] == "stopped"

    session = server.studio.sessions.find(ann)
    files = [file for file in session.folder.rglob("*") if file.is_file()]
    assert any(file.name == "adapter" or file.suffix == ".safetensors" for file in files)
    sideways = [server.runs / "shown" / ".." / file.relative_to(server.runs) for file in files]
    folders = [session.folder, session.shown, server.runs, server.runs / "shown"]
    for path in [*files, *sideways, *folders, server.runs / "browser-secret", server.runs / "pace.json"]:
        assert status_of(f"{server.url}gradio_api/file={path}") == 403, path
    # Pictures have names that cannot be guessed, and their folder's name is not the key.
    assert ann not in str(session.shown)
    assert all(len(file.stem) == 24 for file in session.shown.iterdir() if file.is_file())


def test_deleting_during_training_stops_it_and_leaves_nothing(
    client: Client, server: Any, people: list[list[Path]]
) -> None:
    key = begun(client, people)
    session = server.studio.sessions.find(key)
    client.predict(session=key, schedule="quick", settings=ENDLESS, api_name="/train")
    job = server.studio.jobs.active(session.id)
    next(snapshot for snapshot in job.follow(0.05) if snapshot.reports)
    client.predict(session=key, api_name="/delete")
    assert job.wait(PATIENCE)
    assert not session.folder.exists()
    assert not session.shown.exists()


def test_uploads_do_not_stay_beside_the_session(
    client: Client, server: Any, people: list[list[Path]]
) -> None:
    def uploads() -> set[Path]:
        return {file for file in (server.runs / "shown").rglob("*.jpg") if len(file.parent.name) == 64}

    before = uploads()  # what other tests sent and no step took in
    key = begun(client, people)
    client.predict(session=key, api_name="/delete")
    assert uploads() <= before
