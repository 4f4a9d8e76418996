"""Queries from a stub of OpenAI's chat completions on loopback, which answers well, badly, late, or not at all."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from builders import pair_row, write_pairs

from pipeline_lib.config.queries import QueryWriterConfig
from pipeline_lib.errors import TransientError, UserError
from pipeline_lib.pairs.query_writer import BAD_SUFFIX, estimate, queries_of, write_queries
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

TEXTS = [f"def f{n}(a):\n    return a + {n}" for n in range(6)]
Reply = tuple[int, bytes, dict[str, str]]


def completion(content: Any, end: str = "stop") -> Reply:
    body = {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": end}]}
    return 200, json.dumps(body).encode(), {}


class Stub:
    """What the server was asked, and how it answers each text: a list of replies, the last one for good."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.at: list[float] = []
        self.replies: dict[str, list[Reply | str]] = {}
        self.usual: Callable[[str], Reply | str] = lambda text: completion(f"1. what does {text[4:6]} add\n- {text[4:6]} sum")


@contextmanager
def serving() -> Iterator[tuple[Stub, str]]:
    stub = Stub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if not data:  # the other side gave up
                return
            body = json.loads(data)
            text = body["messages"][0]["content"].rpartition("\n\n")[2]
            stub.asked.append(text)
            stub.headers.append(dict(self.headers))
            stub.at.append(time.monotonic())
            planned = stub.replies.get(text, [])
            reply = (planned.pop(0) if len(planned) > 1 else planned[0]) if planned else stub.usual(text)
            if reply == "hang":
                time.sleep(5)
            elif reply == "drip":
                self.send_response(200)
                self.end_headers()
                for _ in range(50):
                    self.wfile.write(b" ")
                    time.sleep(0.1)
            elif reply == "drop":
                self.connection.close()
            else:
                status, data, headers = reply
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield stub, f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def extracted(tmp_path: Path) -> Artifact:
    rows = [pair_row(f"adds {n}", text, name=f"f{n}", position=n) for n, text in enumerate(TEXTS)]
    return write_pairs(Store(tmp_path / "store"), "extract", {"a": rows[:4], "b": [*rows[3:]]})  # a text in two parts


def config(url: str, **fields: Any) -> QueryWriterConfig:
    given: dict[str, Any] = {"backoff_seconds": 0.01, "wait_seconds": 30, "attempts": 4, "key_variable": "STUB_KEY", **fields}
    return QueryWriterConfig(endpoint=url, model="stub", **given)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_text_is_asked_about_once_and_never_again(
    extracted: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_KEY", "sk-secret-of-the-stub")
    out = tmp_path / "queries.jsonl"
    with serving() as (stub, url):
        expected = estimate(extracted, config(url, price_in=1.0, price_out=2.0), out)
        assert (expected.texts, expected.answered, stub.asked) == (6, 0, [])
        assert expected.price == pytest.approx((expected.tokens_in + 2 * expected.tokens_out) / 1e6)
        written = write_queries(extracted, config(url), out)
        assert (written.texts, written.queries, written.unanswered, written.bad) == (6, 12, 0, Counter())
        assert sorted(stub.asked) == TEXTS
        assert {headers["Authorization"] for headers in stub.headers} == {"Bearer sk-secret-of-the-stub"}
        assert "sk-secret" not in out.read_text()
        rows = rows_of(out)
        hashes = {row["y"]: str(row["y_hash"]) for row in (pair_row("x", text) for text in TEXTS)}
        assert {(row["document"], row["query"]) for row in rows} >= {(hashes[TEXTS[2]], "what does f2 add")}
        assert write_queries(extracted, config(url), out).texts == 0
        assert len(stub.asked) == 6
        assert estimate(extracted, config(url, queries_per_text=3), out).texts == 6, "other rules are other questions"


def test_a_server_that_misbehaves_costs_no_other_text(extracted: Artifact, tmp_path: Path) -> None:
    out = tmp_path / "queries.jsonl"
    with serving() as (stub, url):
        good = completion("a good query")
        stub.replies = {
            TEXTS[0]: [(500, b"oops", {}), "drop", good],
            TEXTS[1]: [(429, b"", {"Retry-After": "0.05"}), good],
            TEXTS[2]: ["drip", "hang", good],
            TEXTS[3]: [(200, b"<html>busy</html>", {})],
            TEXTS[4]: [(400, b"too long", {})],
            TEXTS[5]: [(503, b"", {})],
        }
        written = write_queries(extracted, config(url, wait_seconds=1.5), out)
        assert (written.texts, written.queries, written.unanswered) == (3, 3, 1)
        assert written.bad == {"not_a_completion": 1, "refused": 1}
        bad = rows_of(Path(f"{out}{BAD_SUFFIX}"))
        assert sorted(row["reason"] for row in bad) == ["not_a_completion", "refused"]
        assert any("too long" in row["detail"] for row in bad)
        before = len(stub.asked)
        stub.replies = {}
        again = write_queries(extracted, config(url), out)
        assert (again.texts, len(stub.asked) - before) == (1, 1), "only the one that stayed unanswered"


def test_a_killed_run_goes_on_with_the_text_that_it_was_at(extracted: Artifact, tmp_path: Path) -> None:
    out = tmp_path / "queries.jsonl"
    with serving() as (stub, url):
        write_queries(extracted, config(url, concurrency=1), out)
        whole = out.read_bytes()
        lines = whole.splitlines(keepends=True)
        for cut in (b"".join(lines[:11]), b"".join(lines[:11]) + lines[11][:30], b"".join(lines[:10]) + lines[10][:5]):
            out.write_bytes(cut)
            before = len(stub.asked)
            assert write_queries(extracted, config(url, concurrency=1), out).texts == 1
            assert len(stub.asked) == before + 1
            assert out.read_bytes() == whole
    for other in ("something of the user's", '{"text": "theirs"}\n'):
        out.write_text(other)
        with pytest.raises(UserError, match="give another --out"):
            write_queries(extracted, config(url), out)
        assert out.read_text() == other


def test_what_is_wrong_for_all_ends_the_run(extracted: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as (stub, url):
        stub.usual = lambda _: (401, b"bad key", {})
        with pytest.raises(UserError, match=r"HTTP 401 .*bad key.*STUB_KEY"):
            write_queries(extracted, config(url), tmp_path / "a.jsonl")
        monkeypatch.setattr("pipeline_lib.pairs.query_writer.UNANSWERED_IN_A_ROW", 3)
        stub.usual = lambda _: (502, b"", {})
        with pytest.raises(TransientError, match="3 texts in a row stayed unanswered"):
            write_queries(extracted, config(url, concurrency=1), tmp_path / "b.jsonl")


def test_the_rate_is_kept_and_a_sample_is_the_same_each_time(extracted: Artifact, tmp_path: Path) -> None:
    with serving() as (stub, url):
        write_queries(extracted, config(url, requests_per_minute=120, limit=4), tmp_path / "a.jsonl")
        assert len(stub.asked) == 4
        assert max(stub.at) - min(stub.at) > 0.9, "three times half a second, less what the first was late"
        first = set(stub.asked)
        write_queries(extracted, config(url, limit=4), tmp_path / "b.jsonl")
        assert set(stub.asked) == first


@pytest.mark.parametrize(
    ("content", "end", "reason"),
    [
        (None, "stop", "no_text"),
        (["a"], "stop", "no_text"),
        ("", "stop", "no_query"),
        ("--- \n ***", "stop", "no_query"),
        ("Here are your queries:", "stop", "no_query"),
        ("half of a", "length", "cut_short"),
        ("word " * 70, "stop", "query_too_long"),
        ("lone \ud800 half", "stop", "not_unicode"),
        ("nul \0 byte", "stop", "not_unicode"),
    ],
)
def test_answers_that_are_none(content: Any, end: str, reason: str) -> None:
    found = queries_of(completion(content, end)[1], config("http://127.0.0.1/v1"))
    assert not isinstance(found, list)
    assert found.reason == reason


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b'{"choices": []}', b'{"choices": [{"message": null}]}', b"\xff", b"[" * 99_999]
)
def test_bodies_that_are_no_completion(data: bytes) -> None:
    found = queries_of(data, config("http://127.0.0.1/v1"))
    assert not isinstance(found, list)
    assert found.reason == "not_a_completion"


def test_numbers_quotes_thoughts_and_preambles_are_taken_off() -> None:
    content = '<think>\nhm\n</think>\nHere they are:\n\n1. "parse a date"\n2) parse a date\n- 3d plot of points\n4. a third'
    assert queries_of(completion(content)[1], config("http://127.0.0.1/v1")) == ["parse a date", "3d plot of points"]
