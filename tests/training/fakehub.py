"""A hub on this machine: the real client is asked, and a small server answers as a hub does, or fails as one."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves one model, ``org/name``, whose files are those of `folder`; `trouble` says what goes wrong.

    "gated": files are refused, as to who has not accepted the terms; "missing": there is no such model; "revision":
    no such commit; "token": the token is none; "down": every answer is 503; "cut": the weights end half-way, and then
    the hub is down; "quota": more than a client should ask.
    """

    def __init__(self, folder: Path, commit: str = COMMIT) -> None:
        self.folder, self.commit, self.trouble = folder, commit, ""
        self.asked: list[tuple[str, str, dict[str, str]]] = []  # method, path and headers of every request
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *of: Any) -> None:
                """Nothing is printed."""

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()

    def answer(self, to: Any) -> None:
        """One request."""
        path = to.path.split("?")[0]
        self.asked.append((to.command, path, {k.lower(): v for k, v in to.headers.items()}))
        told = {"down": 503, "quota": 429}
        if self.trouble in told:
            self._send(to, told[self.trouble])
        elif self.trouble == "token":
            self._send(to, 401, **{"X-Error-Message": "Invalid credentials in Authorization header"})
        elif self.trouble == "missing":
            self._send(to, 401, **{"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif self.trouble == "revision":
            self._send(to, 404, **{"X-Error-Code": "RevisionNotFound"})
        elif "/tree/" in path:
            files = sorted(p for p in self.folder.rglob("*") if p.is_file())
            self._send(to, 200, json.dumps([self._entry(file) for file in files]).encode())
        elif path.startswith("/api/models/"):
            self._send(to, 200, json.dumps({"id": "org/name", "modelId": "org/name", "sha": self.commit}).encode())
        elif self.trouble == "gated":
            status = 403 if "authorization" in to.headers else 401
            self._send(to, status, **{"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        else:
            self._file(to, self.folder / path.split("/resolve/")[1].split("/", 1)[1])

    def _entry(self, file: Path) -> dict[str, Any]:
        raw = file.read_bytes()
        name, sha = file.relative_to(self.folder).as_posix(), hashlib.sha256(raw).hexdigest()
        large = {"lfs": {"oid": sha, "size": len(raw), "pointerSize": 134}} if file.suffix == ".safetensors" else {}
        return {"type": "file", "oid": sha[:40], "size": len(raw), "path": name, **large}

    def _file(self, to: Any, file: Path) -> None:
        if not file.is_file():
            self._send(to, 404, **{"X-Error-Code": "EntryNotFound"})
            return
        entry = self._entry(file)
        etag = entry.get("lfs", entry)["oid"]
        raw, start = file.read_bytes(), 0
        if span := to.headers.get("Range"):
            start = int(span.removeprefix("bytes=").partition("-")[0])
        where = {"ETag": f'"{etag}"', "X-Repo-Commit": self.commit, "Accept-Ranges": "bytes"}
        if start:
            where["Content-Range"] = f"bytes {start}-{len(raw) - 1}/{len(raw)}"
        if self.trouble == "cut" and file.suffix == ".safetensors" and to.command == "GET":
            self.trouble = "down"
            to.send_response(200)
            for key, value in {**where, "Content-Length": str(len(raw))}.items():
                to.send_header(key, value)
            to.end_headers()
            to.wfile.write(raw[: len(raw) // 2])
            to.wfile.flush()
            to.close_connection = True
            return
        self._send(to, 206 if start else 200, raw[start:], **where)

    @staticmethod
    def _send(to: Any, status: int, body: bytes = b"", **headers: str) -> None:
        to.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            to.send_header(key, value)
        to.end_headers()
        if to.command != "HEAD":
            to.wfile.write(body)
