"""Queries from a stub of OpenAI's chat completions on loopback, which answers well, badly, late, or not at all."""

from __future__ import annotations

import fcntl
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from builders import pair_row, write_pairs
from pydantic import ValidationError

from pipeline_lib.config.queries import QueryWriterConfig
from pipeline_lib.errors import TransientError, UserError
from pipeline_lib.pairs.query_answers import asked_wait, queries_of
from pipeline_lib.pairs.query_writer import BAD_SUFFIX, estimate, write_queries
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


KEY = "key-that-nobody-may-see-0123456789"


@pytest.mark.parametrize("status", [400, 401, 200])
@pytest.mark.parametrize("before", [0, 170, 195])  # a message shows 200 bytes: no half of a key stays before their end
def test_an_endpoint_that_repeats_the_key_has_it_nowhere_written(
    extracted: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, before: int
) -> None:
    monkeypatch.setenv("STUB_KEY", KEY)  # a name that says nothing of a secret
    with serving() as (stub, url):
        stub.usual = lambda _: (status, b"x" * before + stub.headers[-1]["Authorization"].encode(), {})
        stub.replies = {TEXTS[1]: [completion(f"a query with {KEY} in it")]}
        said = ""
        try:
            write_queries(extracted, config(url), tmp_path / "q.jsonl")
        except UserError as error:
            said = str(error)
        assert bool(said) == (status == 401)
    written = "".join(path.read_text() for path in tmp_path.glob("q.jsonl*"))
    assert "Bearer" in said + written or before
    assert KEY[:5] not in said + written


@pytest.mark.parametrize("key", ["some words", "line\nbreak: b", "schl\u00fcssel"])
def test_a_key_that_no_request_can_carry_is_told_and_not_shown(
    extracted: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    with serving() as (stub, url):
        monkeypatch.setenv("STUB_KEY", key)
        with pytest.raises(UserError, match="STUB_KEY: a space, a line break or no ASCII in it") as refused:
            write_queries(extracted, config(url), tmp_path / "a.jsonl")
        assert key not in str(refused.value) and stub.asked == []
        monkeypatch.setenv("STUB_KEY", "sk-from-a-file\n")
        assert write_queries(extracted, config(url), tmp_path / "a.jsonl").texts == 6
        assert stub.headers[0]["Authorization"] == "Bearer sk-from-a-file"


@pytest.mark.parametrize(
    "endpoint",
    ["http://", "http:///v1", "http://a b/v1", "http://[::1/v1", "http://a:99999/v1", "http://a:b/v1", "http://a/v1?key=b",
     "http://a/v1#b", "ftp://a/v1", "http://a\n/v1", "http://a:0/v1"],
)  # fmt: skip
def test_what_is_no_endpoint_is_refused_before_anybody_is_asked(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="endpoint"):
        config(endpoint)


def test_a_file_that_nothing_can_be_written_to_is_told(extracted: Artifact, tmp_path: Path) -> None:
    with serving() as (stub, url):
        with pytest.raises(UserError, match=r"there is no folder .*none; make it"):
            write_queries(extracted, config(url), tmp_path / "none" / "q.jsonl")
        with pytest.raises(UserError, match="a folder, expected a file in JSON Lines"):
            write_queries(extracted, config(url), tmp_path)
        with (tmp_path / "q.jsonl").open("a") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            other.write('{"query": "half of a r')
            other.flush()
            estimate(extracted, config(url), tmp_path / "q.jsonl")
            with pytest.raises(UserError, match="another run of `cpt queries` writes to it"):
                write_queries(extracted, config(url), tmp_path / "q.jsonl")
        assert (tmp_path / "q.jsonl").read_text() == '{"query": "half of a r', "what another run is writing is left to it"
        assert stub.asked == []


def test_an_endpoint_that_answers_nothing_of_use_sets_no_text_aside(
    extracted: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline_lib.pairs.query_writer.BAD_IN_A_ROW", 3)
    bad = Path(f"{tmp_path / 'q.jsonl'}{BAD_SUFFIX}")
    with serving() as (stub, url):
        for usual in ((400, b"no such parameter", {}), (200, b"<html>log in</html>", {}), completion(None)):
            stub.usual = lambda _, usual=usual: usual  # type: ignore[misc]
            with pytest.raises(UserError, match=r"none of the first 3 answers holds queries; .*nothing was set"):
                write_queries(extracted, config(url, concurrency=1), tmp_path / "q.jsonl")
            assert bad.read_text() == ""
        stub.replies = {TEXTS[2]: [completion("a good query")]}
        assert write_queries(extracted, config(url, concurrency=1), tmp_path / "q.jsonl").bad == {"no_text": 5}
        assert len(rows_of(bad)) == 5, "an endpoint that gives one answer gives others for a reason"


def test_an_answer_that_ends_early_is_asked_for_again(extracted: Artifact, tmp_path: Path) -> None:
    with serving() as (stub, url):
        whole = completion("a good query")
        stub.replies = {
            text: [(200, whole[1][:cut], {}), whole] for text, cut in zip(TEXTS, (0, 1, 30, 60, 90, -1), strict=True)
        }
        written = write_queries(extracted, config(url), tmp_path / "q.jsonl")
        assert (written.texts, written.bad, len(stub.asked)) == (6, Counter(), 12)


def test_a_wait_is_asked_for_in_seconds_or_as_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < asked_wait(later) <= 30 and asked_wait("2.5") == 2.5 and asked_wait("inf") > 60
    for value in ("", "soon", "-3", "nan", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Oct 2015", "1 Jan 99999999 00:00:00"):
        assert asked_wait(value) == 0


def test_what_is_wrong_for_all_ends_the_run(extracted: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as (stub, url):
        stub.usual = lambda _: (401, b"bad key", {})
        with pytest.raises(UserError, match=r"HTTP 401 .*bad key.*STUB_KEY"):
            write_queries(extracted, config(url), tmp_path / "a.jsonl")
        for status in (302, 304, 402, 410):  # a redirect would carry the key elsewhere
            stub.usual = lambda _, status=status: (status, b"", {"Location": url})  # type: ignore[misc]
            with pytest.raises(UserError, match=f"HTTP {status} "):
                write_queries(extracted, config(url), tmp_path / "a.jsonl")
            assert rows_of(Path(f"{tmp_path / 'a.jsonl'}{BAD_SUFFIX}")) == []
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
        ("red \x1b[31m letters", "stop", "not_unicode"),
        ("<think>never done\nwith this", "stop", "no_query"),
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


@pytest.mark.parametrize(
    "content",
    [
        "so that is\nhow it is\n</think>\n\nparse a date\nread a day",  # a template opened the thought
        "<think>a</think>parse a date\nread a day\n<think>and more",
        "```text\nparse a date\nread a day\n```",
        "**1.** parse a date\n**Query 2:** read a day",
        "* parse a date\n\u2022 **read a day**",
        "Queries:\n(1) parse a date\nQuery 2. read a day",
    ],
)
def test_what_stands_around_queries_is_taken_off(content: str) -> None:
    assert queries_of(completion(content)[1], config("http://127.0.0.1/v1")) == ["parse a date", "read a day"]
