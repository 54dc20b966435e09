"""Tools for agents, with a real MCP client: a whole order, from photos to portraits; consent; nobody else's files."""

from __future__ import annotations

import ast
import asyncio
import base64
import io
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from toy import save_toy

from magicapture_core.ui.sample_people import sample_people

pytest.importorskip("mcp", reason="mcp is not installed (pip install 'gradio[mcp]')")

PATIENCE = 240.0
QUICK = {
    "ti_steps": 3, "lora_steps": 3, "attention_resolution": 8, "gradient_accumulation": 1, "sample_every": 4,
    "sample_steps": 2, "attention_every": 4,
}  # fmt: skip
Call = Callable[..., Awaitable[Any]]


@pytest.fixture(scope="module")
def agents_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server of `agents_url` keeps everything."""
    return tmp_path_factory.mktemp("agents") / "runs"


@pytest.fixture(scope="module")
def agents_url(agents_runs: Path) -> Iterator[str]:
    """A server with the tools for agents, on the toy model."""
    folder = agents_runs.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "runs" / "shown"))
        import app
        from magicapture_core.ui.studio import Studio

        model = save_toy(
            folder / "toy",
            magicapture={"schedules": {"quick": QUICK}, "generate": {"steps": 3}},
            words=("SFace", 128),
        )
        studio = Studio(folder / "runs", model=str(model))
        blocks = app.build(studio, mcp=True, languages=())
        _, url, _ = blocks.queue().launch(
            prevent_thread_lock=True, quiet=True, ssr_mode=False, mcp_server=True
        )
        yield str(url)
        studio.close()
        blocks.close()


def ordered(url: str, order: Callable[[Any, Call], Awaitable[None]]) -> None:
    """Run `order(tools, call)` with an MCP client. call(tool, …) returns what the tool answered."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def main() -> None:
        async with (
            streamablehttp_client(f"{url}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as client,
        ):
            await client.initialize()

            async def call(tool: str, **values: Any) -> Any:
                answer = await client.call_tool(tool, values)
                text = "\n".join(part.text for part in answer.content)
                if answer.isError:
                    raise RuntimeError(text)
                return ast.literal_eval(text)

            await order((await client.list_tools()).tools, call)

    asyncio.run(main())


def as_data(path: Path) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}"


def test_tools_read_well(agents_url: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")

    async def order(tools: Any, call: Call) -> None:  # noqa: ARG001
        assert {tool.name for tool in tools} == {
            "add_photos", "make_masks", "draft", "train", "status", "generate", "export", "delete",
        }  # fmt: skip
        for tool in tools:
            assert len(tool.description) > 30
            jsonschema.Draft202012Validator.check_schema(tool.inputSchema)
            for name, schema in tool.inputSchema["properties"].items():
                assert schema.get("description"), f"{tool.name}: {name}"
        adds = next(tool for tool in tools if tool.name == "add_photos")
        assert adds.inputSchema["properties"]["role"]["enum"] == ["subject", "style"]
        assert "consent" in adds.description

    ordered(agents_url, order)


@pytest.mark.long
def test_a_whole_order(agents_url: str) -> None:
    people = [person.photos for person in sample_people()]

    async def order(_: Any, call: Call) -> None:
        photos = [as_data(path) for path in people[0][:2]]
        answer = await call("add_photos", role="subject", photos=photos, consent=True)
        assert [photo["used"] for photo in answer["photos"]] == [True, True]
        key = answer["session"]
        await call("add_photos", role="style", session=key, photos=[as_data(people[1][0])])
        drafts, facts = await call("draft", session=key)
        assert "own" in [fact["look"] for fact in facts]
        with urllib.request.urlopen(drafts[0]["url"], timeout=60) as picture:
            assert Image.open(io.BytesIO(picture.read())).size == (64, 64)
        await call("train", session=key, schedule="quick", settings={"seed": 1})
        deadline = time.monotonic() + PATIENCE
        while (status := await call("status", session=key))["state"] not in ("done", "failed"):
            assert time.monotonic() < deadline, status
            await asyncio.sleep(0.3)
        assert (status["state"], status["problem"]) == ("done", None)
        portraits, facts = await call("generate", session=key, count=2, seed=5)
        assert len(portraits) == len(facts) == 2
        assert sorted(fact["seed"] for fact in facts) == [5, 6]
        assert await call("delete", session=key) == {"deleted": True}
        with pytest.raises(RuntimeError, match="no longer here"):
            await call("status", session=key)

    ordered(agents_url, order)


def test_without_consent_nothing_is_taken(agents_url: str, agents_runs: Path) -> None:
    photos = [as_data(path) for path in sample_people()[0].photos[:2]]

    def kept() -> list[Path]:
        return [path for path in agents_runs.rglob("*.jp*g") if len(path.parent.name) == 64]

    async def order(_: Any, call: Call) -> None:
        sessions = list((agents_runs / "sessions").iterdir())
        with pytest.raises(RuntimeError, match="consent=true"):
            await call("add_photos", role="subject", photos=photos)
        assert kept() == []
        assert list((agents_runs / "sessions").iterdir()) == sessions
        with pytest.raises(RuntimeError, match="Photo 2"):  # the first is one
            await call("add_photos", role="subject", photos=[photos[0], "x"], consent=True)
        assert kept() == []
        with pytest.raises(RuntimeError, match="no sample person"):
            await call("add_photos", role="subject", photos=photos, consent=True, person="x")
        assert kept() == []

    ordered(agents_url, order)


@pytest.mark.parametrize(
    "photo", ["/etc/hosts", "http://127.0.0.1:1/x.jpg", "http://x/gradio_api/file=/etc/hosts"]
)
def test_no_other_file_is_opened(agents_url: str, photo: str) -> None:
    async def order(_: Any, call: Call) -> None:
        with pytest.raises(RuntimeError, match=r"data:image|as an upload"):
            await call("add_photos", role="subject", photos=[photo], consent=True)

    ordered(agents_url, order)
