"""Secrets planted in every input are nowhere after a run: not in logs, artifacts, reports, the store or Prefect's database."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from flows.retrain import retrain

PROJECT = Path(__file__).parents[2]
LOGIN, QUERY, OF_ENVIRONMENT, KEY, HUB, PROXY, HOOK = (f"planted-{n}-9f3c1a7e" for n in range(7))
SECRETS = (LOGIN, QUERY, OF_ENVIRONMENT, KEY, HUB, PROXY, HOOK)
SENTENCE = "The lamp of the harbour keeper {n} burns all night, and the boats of the fishermen come home by its light. "


class Dumps(BaseHTTPRequestHandler):
    """A server of dumps that wants a login and a token; below /broken/ it lists what it then does not give."""

    text = "\n".join(json.dumps({"text": SENTENCE.format(n=n) * 8, "id": f"doc-{n}"}) for n in range(40)).encode()
    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        parts = urlsplit(self.path)
        login = self.headers.get("Authorization", "") == "Basic " + base64.b64encode(f"me:{LOGIN}".encode()).decode()
        token = parse_qs(parts.query).get("token", [""])[0] in (QUERY, OF_ENVIRONMENT)
        self.asked.append(parts.path)
        if not (login and token):
            self.send_error(403)
        elif body and parts.path.startswith("/broken/"):
            self.send_error(500)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.text)))
            self.send_header("ETag", '"one"')
            self.end_headers()
            if body:
                self.wfile.write(self.text)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def dumps() -> Iterator[str]:
    """The host and port of the server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Dumps)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def planted(home: Path) -> dict[str, str]:
    """An environment with secrets as people have them."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    return kept | {
        "CPT_HOME": str(home),
        "DUMP_TOKEN": OF_ENVIRONMENT,
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": KEY,
        "HF_TOKEN": HUB,
        "HTTPS_PROXY": f"http://me:{PROXY}@127.0.0.1:9",
        "OPS_WEBHOOK_URL": f"https://hooks.example.org/{HOOK}",
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "OMP_NUM_THREADS": "1",
    }


def cpt(env: dict[str, str], *words: str) -> tuple[int, str]:
    """The exit code and all that was said."""
    command = [sys.executable, "-m", "flows.cli", *words]
    answer = subprocess.run(command, env=env, cwd=PROJECT, capture_output=True, text=True, timeout=500, check=False)
    return answer.returncode, answer.stdout + answer.stderr


def texts_of(path: Path) -> str:
    """All that a file says, a table's columns unpacked."""
    if path.suffix == ".parquet":
        return str(pq.read_table(path).to_pylist())
    if path.suffix == ".arrow":
        with pa.memory_map(str(path)) as source:
            return str(pa.ipc.open_file(source).read_all().to_pylist())
    return path.read_bytes().decode(errors="replace")


def leaks(folder: Path) -> list[str]:
    """The files below a folder that hold a planted secret, and which."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = {
        path: [secret for secret in SECRETS if secret in (said := texts_of(path)) or escaped(secret) in said] for path in files
    }
    return [f"{path.relative_to(folder)}: {secrets}" for path, secrets in found.items() if secrets]


def escaped(secret: str) -> str:
    return base64.b64encode(f"me:{secret}".encode()).decode()


def test_the_search_for_leaks_finds_a_secret_in_each_kind_of_file(tmp_path: Path) -> None:
    table, held = pa.table({"text": [f"https://me:{LOGIN}@host"]}), tmp_path / "held"
    held.mkdir()
    pq.write_table(table, held / "a.parquet", compression="zstd")
    with pa.OSFile(str(held / "b.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with sqlite3.connect(held / "c.db") as database:
        database.execute("create table log (message text)")
        database.execute("insert into log values (?)", (f"GET /x?token={QUERY}",))
    (held / "d.log").write_text(f"Authorization: Basic {escaped(LOGIN)}")
    (held / "e.json").write_text(json.dumps({"place": "https://***@host"}))
    assert sorted(found.partition(":")[0] for found in leaks(held)) == ["a.parquet", "b.arrow", "c.db", "d.log"]


def assert_nothing_is_told(home: Path, said: str) -> None:
    assert [secret for secret in SECRETS if secret in said] == []
    assert (home / "prefect" / "prefect.db").stat().st_size > 0
    assert leaks(home) == []


def test_a_run_that_fails_at_a_server_tells_no_secret(tmp_path: Path, dumps: str) -> None:
    home, spec = tmp_path / "home", tmp_path / "dump.yaml"
    url = f"http://me:{LOGIN}@{dumps}/broken/prose.jsonl?token={QUERY}"
    spec.write_text(f"- {{reader: json_lines, url: '{url}', licence: MIT}}\n")
    code, said = cpt(planted(home), "build-dataset", "--preset", "smoke", "--source", str(spec))
    assert code == 2, said
    assert "***@127.0.0.1" in said, "the place is told, the login is not"
    assert_nothing_is_told(home, said)
    assert any(path.read_bytes().count(b"***@127.0.0.1") for path in (home / "prefect").glob("prefect.db*"))


def test_a_secret_in_a_parameter_is_refused_and_not_repeated(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for words in (
        ["--source", f"https://me:{LOGIN}@host.org/dump.yaml"],
        ["--artifacts", f"s3://{KEY}:{LOGIN}@bucket/run"],
        ["--set", f"contamination.folder=https://host.org/a?token={QUERY}"],
        ["--name", "x", "--set", f"name={HUB}"],
    ):
        code, said = cpt(planted(home), "run", "--preset", "smoke", *words)
        assert code == 2, said
        assert "secret" in said
        assert not [secret for secret in SECRETS if secret in said]
    assert leaks(home) == []


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_what_a_dump_is_is_told_without_its_login(tmp_path: Path, dumps: str, more: list[str]) -> None:
    url = f"http://me:{LOGIN}@{dumps}/prose/prose.jsonl?token={QUERY}"
    code, said = cpt(planted(tmp_path), "inspect", url, *more)
    assert code == 0, said
    assert "prose.jsonl" in said
    assert "fishermen" in said
    assert not [secret for secret in SECRETS if secret in said]


def test_prefect_refuses_a_secret_before_there_is_a_run() -> None:
    schema = parameter_schema(retrain).model_dump(exclude_unset=True)

    def faults(**params: Any) -> list[Any]:
        return validate({"params": {"preset": "smoke", **params}}, schema)

    assert faults(source="s3://bucket/a?b=1", set=["train.steps=1"], machine={"artifacts": "abfs://c@a.dfs.org/x"}) == []
    assert faults(source=f"https://me:{LOGIN}@host.org/a.yaml")
    assert faults(set=[f"contamination.folder=https://host.org/a?part=1&token={QUERY}"])
    assert faults(machine={"artifacts": f"s3://{KEY}:{LOGIN}@bucket/run"})
    plain = ("git+https://git@github.com/a/b", "https://host.org/hook", "https://host.org/a?monkey=1", "me@host.org", "$HOOK")
    assert [faults(set=[f"notify.webhook={text}"]) for text in plain] == [[]] * len(plain)
    for secret in (
        f"https://{HUB}@github.com/a/b",
        f"https://host.org/a?X-Amz-Signature={QUERY}",
        f"https://hooks.host.org/{QUERY}",
        f"https://host.org/webhooks/1/{QUERY}",
    ):
        assert faults(set=[f"notify.webhook={secret}"]), secret


@pytest.mark.slow
def test_a_whole_run_leaves_no_secret_anywhere(tmp_path: Path, dumps: str, corpus: Path, s3: Any) -> None:
    home, spec = tmp_path / "home", tmp_path / "dump.yaml"
    s3.mkdir("secrets")
    plain = f"http://me:{LOGIN}@{dumps}/prose/prose.jsonl?token={QUERY}"
    by_variable = f"http://me:{LOGIN}@{dumps}/more/more.jsonl?token=${{DUMP_TOKEN}}"
    entries = [{"reader": "tree", "url": str(corpus), "name": "tree", "licence": "MIT"}]
    entries += [{"reader": "json_lines", "url": url, "licence": "MIT"} for url in (plain, by_variable)]
    spec.write_text(json.dumps(entries))
    Dumps.asked.clear()
    env = planted(home)
    code, said = cpt(env, "run", "--preset", "smoke", "--source", str(spec), "--artifacts", "s3://secrets/run")
    assert code == 0, said[-3000:]
    assert {"/prose/prose.jsonl", "/more/more.jsonl"} <= set(Dumps.asked)
    s3.get("secrets", str(tmp_path / "bucket"), recursive=True)
    assert len(list((tmp_path / "bucket").rglob("manifest.json"))) > 10
    assert_nothing_is_told(home, said)
    assert leaks(tmp_path / "bucket") == []
    for words in (["runs", "--artifacts", "s3://secrets/run"], ["search", "harbour lamp"]):
        code, said = cpt(env, *words)
        assert code == 0, said
        assert not [secret for secret in SECRETS if secret in said], words
