"""A stand-in of the Hugging Face hub's API: as much as uploading and downloading a small repository takes."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_may_write"


@contextmanager
def serving() -> Iterator[Hub]:
    """A stand-in on a free port, for as long as the context lasts."""
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class Hub(ThreadingHTTPServer):
    """Its repositories: files by path, and which are private."""

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
                elif entry["key"] == "deletedFile":
                    del self.server.files[name][entry["value"]["path"]]
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
