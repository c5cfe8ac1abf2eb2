"""As much of W&B's server as keeping a run or a report needs, on a port of this machine."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VIEWER = {"id": "1", "entity": "someone", "username": "someone", "email": "", "flags": "{}", "teams": {"edges": []}}
PROJECT = {"id": "1", "name": "lab", "entityName": "someone", "entity": {"id": "1", "name": "someone"}}
VIEW = {"id": "VmlldzoxMg==", "description": ""}


class Handler(BaseHTTPRequestHandler):
    """Answers, and keeps what was sent in its server's `reports` and `history`."""

    server: Server

    def do_GET(self) -> None:
        self.answer({})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/graphql":
            question = json.loads(body)
            self.answer(self.reply(question["query"], question.get("variables") or {}))
            return
        if self.path.endswith("/file_stream"):
            of = self.server.history.setdefault(self.path.split("/")[-2], {})
            sent = json.loads(body).get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
            of |= {sent["offset"] + n: json.loads(line) for n, line in enumerate(sent["content"])}
        self.answer({})

    def reply(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        if "upsertView" in query:
            self.server.reports.append(given)
            view = VIEW | {"name": given["name"], "displayName": given["displayName"], "spec": given["spec"]}
            return {"upsertView": {"view": view | {"project": PROJECT}, "inserted": True}}
        if "GetProjects" in query:
            node = PROJECT | {"__typename": "Project", "isBenchmark": False, "createdAt": "2026-01-01T00:00:00"}
            page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
            return {"models": {"pageInfo": page, "edges": [{"node": node | {"user": None}}]}}
        if "RunResumeStatus" in query:
            return {"model": PROJECT | {"bucket": None}}  # no such run yet
        if "upsertBucket" in query:
            self.server.started.append(given["name"])
            bucket = {"id": "1", "name": given["name"], "displayName": "", "config": "{}", "sweepName": None}
            bucket |= {"description": None, "project": PROJECT, "historyLineCount": 0}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "createRunFiles" in query:
            url = f"http://127.0.0.1:{self.server.server_port}/file"
            files = [{"name": name, "uploadUrl": url} for name in given["files"]]
            return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
        return {"viewer": VIEWER}

    def answer(self, data: dict[str, Any]) -> None:
        content = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Serves from a thread of its own until the `with` ends.  `history`: run id -> lines by their place."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reports: list[dict[str, Any]] = []
        self.started: list[str] = []
        self.history: dict[str, dict[int, dict[str, Any]]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Server:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
