"""A whole order by a client of the Model Context Protocol, written down: python -m tools.agent_order [--out FILE]

Starts app.py --mcp on the built-in model, and calls its tools as an agent does: photos of a sample person without and
then with consent, a ready-made style, drafts, a training, portraits, and everything deleted. docs/agents.md is what it
wrote.
"""

from __future__ import annotations

import ast
import asyncio
import base64
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tyro

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 600.0
"""Seconds that the start and each call may take: the machine may be busy."""
ACTIVE = ("waiting", "preparing", "running", "stopping")
KEY = re.compile(r"\b[0-9a-f]{48}\b")
HEAD = """# An agent's order

What an agent is told of the tools, and what a whole order looks like, as `python -m tools.agent_order {options}`
wrote it: the client of the package `mcp`, `python app.py --mcp` on the built-in model, a person who does not exist.
How to offer the tools: [by API](api.md#agents). Photos and the session's key are cut short here.
"""


@dataclass
class Order:
    """Where to write, and what to learn."""

    out: Path | None = None
    """A Markdown file; None prints it."""
    schedule: str = "quick"
    """Of the training."""
    minutes: float = 60.0
    """After which the agent stops the training: what was learned is used."""
    tools_only: bool = False
    """Only list the tools, as a client gets them."""


class Transcript:
    """The calls and their answers, as Markdown."""

    def __init__(self) -> None:
        self.lines = [HEAD.format(options=" ".join(sys.argv[1:]))]
        self._last: tuple[str, str] | None = None

    def tools(self, tools: list[Any]) -> None:
        """The list of tools."""
        self.lines.append("## The tools\n")
        for tool in tools:
            described = " ".join(tool.description.split())
            self.lines.append(f"**{tool.name}**: {described}\n")
            for name, schema in tool.inputSchema["properties"].items():
                self.lines.append(f"- `{name}` ({kind(schema)}): {' '.join(schema['description'].split())}")
            self.lines.append("")
        self.lines.append("## The order\n")

    def says(self, words: str) -> None:
        """What the agent does next, and why."""
        self.lines.append(f"{words}\n")

    def call(self, tool: str, values: dict[str, Any], answer: Any, seconds: float) -> None:
        """A call and what came back; not again, where the same call had the same answer."""
        asked = ", ".join(
            f"{name}={json.dumps(short(value), ensure_ascii=False)}" for name, value in values.items()
        )
        said = answer if isinstance(answer, str) else json.dumps(short(answer), ensure_ascii=False)
        if (tool, said) == self._last:
            return
        self._last = tool, said
        self.lines.append(f"    → {tool}({asked})\n    ← {said}   [{seconds:.0f} s]\n")


def kind(schema: dict[str, Any]) -> str:
    """A JSON schema's type, in words."""
    if "enum" in schema:
        return " or ".join(map(json.dumps, schema["enum"]))
    if "oneOf" in schema:
        return " or ".join(map(kind, schema["oneOf"]))
    return f"list of {kind(schema['items'])}s" if schema.get("type") == "array" else schema.get("type", "any")


def short(value: Any) -> Any:
    """A value with long texts, keys and files cut short."""
    if isinstance(value, dict):
        if {"path", "url"} <= value.keys():
            return (
                f"a picture at {value['url'].partition('/gradio_api/')[0]}/…/{Path(value['path']).name[-8:]}"
            )
        return {name: short(each) for name, each in value.items()}
    if isinstance(value, list):
        if len(value) > 1 and all(isinstance(each, str) and each.startswith("data:") for each in value):
            return [short(value[0]), f"{len(value)} in all"]
        return [short(each) for each in value]
    if isinstance(value, str):
        value = KEY.sub(lambda found: f"{found[0][:6]}…", value)
        return value if len(value) <= 400 and not value.startswith("data:") else f"{value[:30]}…"
    return round(value, 3) if isinstance(value, float) else value


Call = Callable[..., Awaitable[Any]]


async def order(call: Call, transcript: Transcript, wanted: Order) -> None:
    """What an agent does from photos to portraits."""
    photos = [
        f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}"
        for path in sorted((ROOT / "assets" / "people" / "dana").glob("*.jpg"))
    ]
    transcript.says("The user sent six photos. Without their consent nothing is taken:")
    await call("add_photos", role="subject", photos=photos)
    transcript.says("The agent asks, and the user agrees:")
    answer = await call("add_photos", role="subject", photos=photos, consent=True)
    key = answer["session"]
    await call("add_photos", role="style", session=key, preset="golden-hour")
    transcript.says("What it will be like, before anything is learned:")
    await call("draft", session=key)
    transcript.says("The user likes it. Learning takes minutes; the agent asks now and then how it stands:")
    status = await call("train", session=key, schedule=wanted.schedule)
    began = time.monotonic()
    while status["state"] in ACTIVE:
        await asyncio.sleep(max(5, min(120, (status.get("seconds_left") or 20) / 2)))
        if time.monotonic() - began > 60 * wanted.minutes and status["state"] == "running":
            transcript.says("The user does not want to wait for longer:")
            status = await call("status", session=key, stop=True)
        else:
            status = await call("status", session=key)
    transcript.says(f"It took {(time.monotonic() - began) / 60:.0f} minutes, on {os.cpu_count()} CPU cores.")
    await call(
        "generate", session=key, prompt="a photo of a {subject} in the {style}, smiling", count=2, seed=5
    )
    transcript.says("The user has the portraits and wants nothing kept:")
    await call("delete", session=key)


async def place(url: str, wanted: Order, transcript: Transcript) -> None:
    """The order, by a client of the package mcp."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async with (
        streamablehttp_client(f"{url}gradio_api/mcp/", timeout=PATIENCE, sse_read_timeout=PATIENCE) as (
            read,
            write,
            _,
        ),
        ClientSession(read, write) as client,
    ):
        await client.initialize()
        transcript.tools((await client.list_tools()).tools)

        async def call(tool: str, **values: Any) -> Any:
            began = time.monotonic()
            answer = await client.call_tool(tool, values)
            text = "\n".join(part.text for part in answer.content)
            found = text if answer.isError else ast.literal_eval(text)
            transcript.call(tool, values, found, time.monotonic() - began)
            print(transcript.lines[-1], flush=True)
            return found

        if not wanted.tools_only:
            await order(call, transcript, wanted)


def main() -> int:
    """Exit code 1 where the app does not start."""
    wanted, transcript = tyro.cli(Order, description=__doc__), Transcript()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with TemporaryDirectory() as folder:
        program = [
            sys.executable,
            "app.py",
            "--mcp",
            "--model",
            "mini",
            "--port",
            str(port),
            "--runs",
            folder,
        ]
        server = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            if not listens(server, port):
                print("The app did not start.", file=sys.stderr)
                return 1
            asyncio.run(place(f"http://127.0.0.1:{port}/", wanted, transcript))
        finally:
            server.terminate()
            server.wait(PATIENCE)
    text = "\n".join(transcript.lines)
    if wanted.out is None:
        print(text)
    else:
        wanted.out.write_text(text, encoding="utf-8")
    return 0


def listens(server: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the app answers; False if it ended, or takes too long."""
    end = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(1)
    return False


if __name__ == "__main__":
    sys.exit(main())
