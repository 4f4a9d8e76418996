"""Questions to a Prefect server: one that is busy is asked again, for as long as an answer may take."""

from __future__ import annotations

import time
import urllib.error
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from flows.orchestrator.api import Api


@pytest.fixture
def codes() -> list[int]:
    """What the server answers with, one by one; the last is its answer from then on."""
    return [200]


@pytest.fixture
def url(codes: list[int]) -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(codes.pop(0) if len(codes) > 1 else codes[0])
            self.end_headers()
            self.wfile.write(b'[{"id": "1"}]')

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_server_whose_database_is_locked_is_asked_again(url: str, codes: list[int]) -> None:
    codes[:] = [503, 503, 200]
    assert Api(url, 10).flow_runs({}, "START_TIME_DESC") == [{"id": "1"}]
    assert codes == [200]


def test_a_server_that_stays_busy_is_given_up_in_time(url: str, codes: list[int]) -> None:
    codes[:] = [503]
    begun = time.monotonic()
    with pytest.raises(urllib.error.HTTPError, match="503"):
        Api(url, 1).post("/flow_runs/filter", {})
    assert 1 <= time.monotonic() - begun < 5


@pytest.mark.parametrize("code", [400, 404, 500])
def test_any_other_refusal_is_told_at_once(url: str, codes: list[int], code: int) -> None:
    codes[:] = [code, 200]
    with pytest.raises(urllib.error.HTTPError, match=str(code)):
        Api(url, 10).post("/flow_runs/filter", {})
