"""Hostile requests to the search service, those among them that schemathesis makes from its OpenAPI: none is its fault."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from search_homes import SearchHome, ask, raw, serving

from pipeline_lib.errors import CorruptArtifact
from pipeline_lib.index.rows import Ranked
from pipeline_lib.search.hits import Hit
from pipeline_lib.search.query import Searcher
from pipeline_lib.serve.engine import Question
from pipeline_lib.serve.replies import Refused
from pipeline_lib.serve.server import Service

CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "negative_data_rejection", "unsupported_method", "missing_required_header"),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> SearchHome:
    made = SearchHome(tmp_path_factory.mktemp("serve") / "home")
    made.publish(extra=30)
    return made


@pytest.fixture(scope="module")
def service(home: SearchHome) -> Iterator[Service]:
    with serving(home) as service:
        yield service


@pytest.mark.parametrize("examples", [8, pytest.param(300, marks=pytest.mark.slow)])
def test_nothing_that_the_openapi_allows_or_forbids_breaks_it(service: Service, examples: int, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{service.url}/openapi.json", "--no-color"]
    bounds = ["--max-examples", str(examples), "--seed", "7", "--checks", ",".join(CHECKS), "--request-timeout", "60"]
    answer = subprocess.run([*command, *bounds], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout[-6000:] + answer.stderr[-2000:]
    page = service.figures.page().decode()
    assert 'status="5' not in page and 'route="/search",status="400"' in page and 'route="/v1/embeddings",status="200"' in page


def test_it_listens_on_loopback_alone(service: Service) -> None:
    assert service._socket.fileno() < 0 or service._socket.getsockname()[0] == "127.0.0.1"
    assert service.url.startswith("http://127.0.0.1:")


HOSTILE = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"x"',
    b"[" * 100_000,
    b'{"query":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    b'{"query": "x", "k": NaN}',
    b'{"query": "x", "k": Infinity}',
    b'{"query": "x", "k": -1e400}',
    b'{"query": "x", "k": ' + b"9" * 10_000 + b"}",
    b'{"query": "\\ud800", "k": 1}',
    b'{"query": "\\udfff\\ud800x"}',
    b'{"\\ud800": 1, "query": "x"}',
    b'{"query": "x", "language": ["\\ud800"]}',
    b'{"query": "\xff\xfe", "k": 1}',
    b"\xff" * 1000,
    b"\x00" * 1000,
    b'{"query": ["x"]}',
    b'{"query": {"a": 1}}',
    b'{"query": "x", "k": true}',
    b'{"input": "x", "dimensions": true}',
    b'{"query": "x", "k": "\xd9\xa3"}',
    b'{"query": "x", "__proto__": {}}',
    b'{"query": "x", "k": "1"}',
    b'{"query": "x", "path": "' + b"*" * 300 + b'"}',
]


@pytest.mark.parametrize("path", ["/search", "/v1/embeddings", "/neighbours.json", "/compare.json"])
@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_bodies_are_refused_in_one_shape(service: Service, path: str, number: int) -> None:
    status, headers, body = ask(service, path, HOSTILE[number])
    assert 400 <= status < 500 and headers["content-type"] == "application/json"
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"} and len(body) < 1000


@pytest.mark.parametrize(
    "query", ["\x00", "a\x00b", "\u202e\u200f", "\U0010ffff", "'; DROP TABLE x; --", "../../etc/passwd", "%00"]
)
def test_odd_queries_are_searched(service: Service, query: str) -> None:
    status, _, body = ask(service, "/search", {"query": query})
    assert status == 200 and json.loads(body)["query"] == query


@pytest.mark.parametrize("given", [[1, 2], [[1], [2, 3]], ["a", 3], [1.5], [True]])
def test_token_ids_are_refused_by_their_name(service: Service, given: list) -> None:
    status, _, body = ask(service, "/v1/embeddings", {"input": given})
    error = json.loads(body)["error"]
    assert (status, error["param"]) == (400, "input") and "token ids are not taken" in error["message"]


@pytest.mark.parametrize(
    ("body", "content_type", "said"),
    [
        (b'{"query": "a"} x', "application/json", "the body: no JSON from its character 15 on"),
        (b"{'query': 'a'}", "application/json", "the body: no JSON from its character 1 on"),
        (b'{"query": "a"}', "text/plain", "the body: a JSON object is expected, sent with Content-Type: application/json"),
        (b"[]", "application/json", "the body: a JSON object is expected"),
        (b"", "application/json", "the body: a JSON object is expected"),
    ],
)
def test_a_body_that_is_no_object_is_told_what_it_should_be(
    service: Service, body: bytes, content_type: str, said: str
) -> None:
    status, _, answer = ask(service, "/search", body, {"Content-Type": content_type})
    error = json.loads(answer)["error"]
    assert (status, error["param"]) == (400, None) and error["message"].startswith(said), error


def test_a_text_that_is_empty_is_told_by_its_place(service: Service) -> None:
    status, _, body = ask(service, "/v1/embeddings", {"input": ["a", ""]})
    assert status == 400 and json.loads(body)["error"]["message"].startswith("input.1: ")


def test_the_head_alone_has_no_body(service: Service) -> None:
    for path in ("/healthz", "/", "/search?q=date"):
        status, headers, body = ask(service, path, method="HEAD")
        assert (status, body) == (200, b"") and int(headers["content-length"]) > 0


def test_a_search_at_fault_fails_alone(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Searcher.hits

    def hits(self: Searcher, ranked: Sequence[Ranked], query: str = "") -> list[Hit]:
        if query == "at fault":  # as of a hit whose text has a changed byte
            raise CorruptArtifact(f"{service.engine.home}/texts.arrow: sha256 is another")
        return whole(self, ranked, query)

    monkeypatch.setattr(Searcher, "hits", hits)
    answers = service.engine.answer([Question(query, None, 2, None, "auto") for query in ("date", "at fault", "socket")])
    assert [json.loads(answers[at])["query"] for at in (0, 2)] == ["date", "socket"]
    assert isinstance(answers[1], Refused) and answers[1].status == 500 and "sha256" not in answers[1].message


def test_content_types_and_methods_and_paths_that_there_are_not(service: Service) -> None:
    assert ask(service, "/search", b'{"query": "x"}', {"Content-Type": "text/plain"})[0] in (400, 415)
    status, headers, _ = ask(service, "/search", method="DELETE")
    assert (status, set(headers["allow"].split(", ")) - {"HEAD"}) == (405, {"GET", "POST"})
    for path in (
        "/../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/page.html",
        "//etc/passwd",
        "/search/",
        "/docs",
        "/\\..\\x",
    ):
        assert ask(service, path)[0] in (404, 307), path


def test_a_chunked_body_over_the_bound_is_cut_off(service: Service) -> None:
    head = b"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    said = raw(service, head + chunk * 6)
    assert said.startswith(b"HTTP/1.1 413") or not said, "or closed while it is still sent"
    assert ask(service, "/healthz")[0] == 200


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"GET /search HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /search?q=a HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
)
def test_what_is_no_request_harms_nobody(service: Service, data: bytes) -> None:
    said = raw(service, data, 2.0)
    assert not said.startswith(b"HTTP/1.1 5")
    assert ask(service, "/healthz")[0] == 200


def test_who_reads_nothing_of_an_answer_is_hung_up_on(home: SearchHome) -> None:
    with serving(home, receive_seconds=1.0, keep_alive_seconds=600) as service, socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect((urlsplit(service.url).hostname, urlsplit(service.url).port))
        n = 12_000_000 // len(ask(service, "/openapi.json")[2])  # more than the system's own buffers hold
        reader.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * n)
        held, deadline = service._server.server_state.connections, time.monotonic() + 60
        answered = 0
        while time.monotonic() < deadline and (held or answered < 2):
            time.sleep(0.1)
            answered = sum(int(metric.value) for one in service.figures.requests.collect() for metric in one.samples
                           if metric.labels.get("status") == "200" and metric.name.endswith("_total"))  # fmt: skip
        assert 1 < answered <= n and not held, "answers would be kept until they are read"
        assert ask(service, "/healthz")[0] == 200


def test_a_header_that_never_ends_is_hung_up_on(home: SearchHome) -> None:
    with serving(home, receive_seconds=0.3) as service:
        began = time.monotonic()
        assert raw(service, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX:", 30) == b""
        whole = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        assert raw(service, whole + b"GET /heal", 30).count(b"HTTP/1.1 200") == 1
        assert time.monotonic() - began < 25


def test_idle_connections_keep_nobody_out(home: SearchHome) -> None:
    """As many as may be, and more, some of whom had an answer: a newcomer takes the place of the longest idle."""
    with serving(home, max_connections=12) as service, contextlib.ExitStack() as stack:
        place = ("127.0.0.1", int(service.url.rsplit(":", 1)[1]))
        for number in range(30):
            idle = stack.enter_context(socket.create_connection(place, timeout=5))
            if number % 3 == 0:
                idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert idle.recv(100).startswith(b"HTTP/1.1 200")
        busy = [stack.enter_context(socket.create_connection(place, timeout=5)) for _ in range(6)]
        for one in busy:  # a header that is whole, of a body that is not
            one.sendall(
                b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 21\r\n\r\n"
            )
        for _ in range(30):
            assert ask(service, "/healthz")[0] == 200
        for one in busy:
            one.sendall(b'{"query": "a matrix"}')
            assert one.recv(100).startswith(b"HTTP/1.1 200")
