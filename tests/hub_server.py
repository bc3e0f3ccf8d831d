"""A model hub on the loopback interface: the few requests that huggingface_hub makes, and ways for them to fail."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

_COMMIT = hashlib.sha1(b"a commit", usedforsecurity=False).hexdigest()


@dataclass
class Repository:
    """One model on the hub."""

    folder: Path
    token: str = ""
    """What a client must send; empty means that the model is public."""
    gated: bool = False
    revisions: tuple[str, ...] = ("main",)
    cut_short: dict[str, int] = field(default_factory=dict)
    """Names of files whose next download breaks off after so many bytes."""


class Hub:
    """A running hub; `requests` are the paths that were asked for, in order."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.failing = 0
        """The status that every request gets; 0 is none."""
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is to be."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Go down; connections are refused from now on."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *arguments: Any) -> None:
        """Stay silent."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.failing:
            self._send(self.hub.failing, b"out of order")
            return
        is_api = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models" if is_api else "").strip("/").split("/")
        repository = self.hub.repositories.get("/".join(parts[:2]))
        if repository is None or not self._may_read(repository):
            refusal = "GatedRepo" if repository is not None and repository.gated else "RepoNotFound"
            self._send(401, b"{}", {"X-Error-Code": refusal})
            return
        action, revision = (*parts[2:4], "main")[:2] if len(parts) > 3 else ("revision", "main")
        if revision not in (*repository.revisions, _COMMIT):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif action == "resolve":
            self._send_file(repository, "/".join(parts[4:]))
        else:
            self._send_json(_tree(repository) if action == "tree" else _info("/".join(parts[:2]), repository))

    def _may_read(self, repository: Repository) -> bool:
        return not repository.token or self.headers.get("Authorization") == f"Bearer {repository.token}"

    def _send_file(self, repository: Repository, name: str) -> None:
        file = repository.folder / name
        if not file.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": _COMMIT})
            return
        content = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": _COMMIT}
        status, start = 200, 0
        if (wanted := self.headers.get("Range", "")).startswith("bytes="):
            status, start = 206, int(wanted.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = repository.cut_short.pop(name, None) if self.command == "GET" else None
        self._send(status, content[start:], headers, cut)

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True


def _info(name: str, repository: Repository) -> dict[str, Any]:
    files = [{"rfilename": entry["path"]} for entry in _tree(repository)]
    return {"id": name, "modelId": name, "sha": _COMMIT, "siblings": files, "tags": [], "downloads": 0, "likes": 0}


def _tree(repository: Repository) -> list[dict[str, Any]]:
    return [
        {
            "type": "file",
            "path": file.relative_to(repository.folder).as_posix(),
            "size": file.stat().st_size,
            "oid": hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest(),
        }
        for file in sorted(repository.folder.rglob("*"))
        if file.is_file()
    ]
