"""The part of the Hugging Face hub's API that a push asks for, on loopback: repositories, branches, large files, commits."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "Standing0In1For2A3Login"


@dataclass
class Repository:
    """Branches and commits: of each file the identity that the hub tells, and its bytes' sha256."""

    private: bool | None  # None: an older hub, which does not say
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, tuple[str, str]], message: str) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {sorted(files.items())}".encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        self.messages.append(message)
        return oid


@dataclass
class Hub:
    """What the server holds; `content` are the bytes by sha256, `asked` the requests, `hold` lets large files wait."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    content: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    authorized: set[str] = field(default_factory=set)
    gitignore: tuple[str, ...] = ()  # ends of names, in every repository
    left_out: tuple[str, ...] = ()  # the same, whatever the client says of a .gitignore
    broken: str = ""  # requests whose path ends so are answered with 503
    least_large: int = 1000  # bytes
    large_let_through: int = 1_000_000
    let_go: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def files(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        """The files of a branch."""
        found = self.repositories[repo]
        return {name: self.content[sha256] for name, (_, sha256) in found.commits[found.branches[branch]].items()}

    def puts(self) -> int:
        """How many large files were sent."""
        return sum(1 for line in self.asked if line.startswith("PUT "))

    def kept(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.content[digest] = content
        return digest


class Answer(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.asked.append(f"{self.command} {path}")
            self.hub.authorized.add(self.headers.get("Authorization", ""))
        if self.hub.broken and path.endswith(self.hub.broken):
            return self.say(503, {"error": "the hub is being mended"})
        if self.command == "PUT":
            return self.large(path.rpartition("/")[2], body)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.say(401, {"error": "Invalid username or password."})
        with self.hub.lock:
            return self.say(*self.answer(path, json.loads(body) if body and "/commit/" not in path else body))

    do_GET = do_POST = do_PUT = handle_one

    def large(self, oid: str, body: bytes) -> None:
        with self.hub.lock:
            waits = self.hub.puts() > self.hub.large_let_through
        if waits:
            self.hub.let_go.wait(60)
            self.close_connection = True
            return
        self.hub.kept(body)
        self.say(200 if oid in self.hub.content else 400, {})

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        hub = self.hub
        if path == "/api/repos/create":
            repo = f"{body['organization'] or 'somebody'}/{body['name']}"
            is_new = repo not in hub.repositories
            if is_new:
                made = hub.repositories[repo] = Repository(private=body["visibility"] == "private")
                made.commit("main", {".gitattributes": ("g", hub.kept(b"*.onnx filter=lfs\n"))}, "initial commit")
            return 200 if is_new else 409, {"url": f"{hub.address}/{repo}", "error": "" if is_new else "You have it already"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith("/info/lfs/objects/batch"):
            links = {"upload": {"href": f"{hub.address}/large/"}}
            there = [{"oid": o["oid"], "size": o["size"]} for o in body["objects"]]
            sends = [
                {} if o["oid"] in hub.content else {"actions": {"upload": {"href": links["upload"]["href"] + o["oid"]}}}
                for o in there
            ]
            return 200, {"transfer": "basic", "objects": [{**o, **send} for o, send in zip(there, sends, strict=True)]}
        _, _, _, owner, name, *rest = path.split("/")
        repo = hub.repositories.get(f"{owner}/{name}")
        if repo is None:
            return 404, "RepoNotFound"
        what, _, revision = "/".join(rest).partition("/")
        if what == "branch":
            repo.branches[revision] = repo.branches["main"]
            return 200, {}
        oid = repo.branches.get(revision or "main", revision)
        if oid not in repo.commits:
            return 404, "RevisionNotFound"
        if what == "preupload":
            return 200, {"files": [self.mode(file, repo.commits[oid], "gitIgnore" in body) for file in body["files"]]}
        if what == "commit":
            code, oid = self.commit(repo, revision, [json.loads(line) for line in body.splitlines()])
            return code, {"commitUrl": f"{hub.address}/{owner}/{name}/commit/{oid}", "commitOid": oid, "error": oid}
        siblings = [{"rfilename": name} for name in sorted(repo.commits[oid])]
        return 200, {"id": f"{owner}/{name}", "sha": oid, "private": repo.private, "siblings": siblings}

    def mode(self, file: dict[str, Any], there: dict[str, tuple[str, str]], has_own: bool) -> dict[str, Any]:
        mode = "lfs" if file["size"] >= self.hub.least_large else "regular"
        found = there.get(file["path"])
        ignored = self.hub.left_out + (() if has_own else self.hub.gitignore)
        told = {"path": file["path"], "uploadMode": mode, "shouldIgnore": file["path"].endswith(ignored)}
        return {**told, **({"oid": found[0]} if found else {})}

    def commit(self, repo: Repository, branch: str, lines: list[dict[str, Any]]) -> tuple[int, str]:
        head = lines[0]["value"]
        if head.get("parentCommit", repo.branches[branch]) != repo.branches[branch]:
            return 412, "A commit has happened since. Please refresh and try again."
        files = dict(repo.commits[repo.branches[branch]])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "lfsFile":
                assert value["oid"] in self.hub.content, "a large file is committed before it came"
                files[value["path"]] = value["oid"], value["oid"]
            else:
                content = base64.b64decode(value["content"])
                git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                files[value["path"]] = git, self.hub.kept(content)
        return 200, repo.commit(branch, files, head["summary"])

    def say(self, code: int, said: Any) -> None:
        content = json.dumps(said if not isinstance(said, str) else {"error": said}).encode()
        self.send_response(code)
        if isinstance(said, str):
            self.send_header("X-Error-Code", said)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def hub_server() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Answer,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.let_go.set()
        server.shutdown()
        server.server_close()
