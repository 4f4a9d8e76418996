"""The gate: who is let in, what is too much, and that a refusal says so in one shape."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from pipeline_lib.errors import UserError
from pipeline_lib.serve.config import ServeConfig, is_loopback, read_token
from pipeline_lib.serve.figures import Figures
from pipeline_lib.serve.gate import Buckets, Gate

TOKEN = "a-token-of-some-length"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that says what it was sent."""
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


class Asking:
    """Requests to a gate in front of an application."""

    def __init__(self, app: Any = echo, token: str = "", **options: Any) -> None:
        self.figures = Figures()
        self.gate = Gate(app, ServeConfig(**options), token, self.figures)

    async def ask(
        self,
        path: str = "/search",
        headers: dict[str, str] | None = None,
        chunks: Iterable[bytes] = (b"",),
        query: bytes = b"",
        **scoped: Any,
    ) -> tuple[int, dict[str, str], bytes]:
        given = {"host": "127.0.0.1:8000"} | (headers or {})
        parts = list(chunks)
        messages = [{"type": "http.request", "body": part, "more_body": i < len(parts) - 1} for i, part in enumerate(parts)]
        sent: list[Any] = []

        async def receive() -> Any:
            return messages.pop(0) if messages else await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": query,
            "client": ("10.0.0.1", 5),
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
            **scoped,
        }
        await self.gate(scope, receive, send)
        start, *rest = sent
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        return start["status"], found, b"".join(part.get("body", b"") for part in rest)

    def __call__(self, *args: Any, **given: Any) -> tuple[int, dict[str, str], bytes]:
        return asyncio.run(self.ask(*args, **given))


def code(body: bytes) -> str:
    return json.loads(body)["error"]["code"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "LOCALHOST", "[::1]:8000"])
def test_loopbacks_names_are_let_in(host: str) -> None:
    assert Asking()(headers={"host": host})[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "", "[", "localhost:x", "a/localhost", "1.2.3.4"],
)
def test_names_of_other_hosts_are_not(host: str) -> None:
    status, _, body = Asking()(headers={"host": host})
    assert (status, code(body)) == (403, "wrong_host")


def test_a_name_that_is_listed_is_let_in_and_no_other() -> None:
    asking = Asking(host="0.0.0.0", hosts=("search.example",))
    assert asking(headers={"host": "search.example"})[0] == 200
    assert asking(headers={"host": "other.example"})[0] == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9", "http://[", "https://localhost:8000"])
def test_pages_of_other_sites_are_refused(origin: str) -> None:
    status, _, body = Asking()(headers={"origin": origin})
    assert (status, code(body)) == (403, "wrong_origin")


def test_the_page_itself_is_not() -> None:
    assert Asking()(headers={"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"})[0] == 200
    assert Asking()(headers={"sec-fetch-site": "cross-site"})[0] == 403
    assert Asking()("/", headers={"sec-fetch-site": "cross-site"})[0] == 200  # a link from elsewhere


@pytest.mark.parametrize(
    "given",
    ["", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer", "Bearer \xe9", TOKEN, f"Bearer  {TOKEN} x"],
)
def test_a_wrong_token_is_refused_and_not_repeated(given: str) -> None:
    status, headers, body = Asking(token=TOKEN)(headers={"authorization": given} if given else {})
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert TOKEN[:-1].encode() not in body


def test_the_token_opens_and_health_needs_none() -> None:
    asking = Asking(token=TOKEN)
    assert asking(headers={"authorization": f"bearer {TOKEN}"})[0] == 200
    assert [asking(path)[0] for path in ("/healthz", "/healthz/ready", "/", "/metrics", "/openapi.json")] == [
        200,
        200,
        200,
        401,
        401,
    ]


@pytest.mark.parametrize("said", [{}, {"content-length": "3000"}, {"content-length": "9" * 500}])
def test_a_body_over_the_bound_is_refused_whether_or_not_it_says_so(said: dict[str, str]) -> None:
    status, headers, body = Asking(max_body_bytes=2000, max_query_characters=9)(headers=said, chunks=[b"x" * 1000] * 3)
    assert (status, headers["connection"], code(body)) == (413, "close", "body_too_large")


def test_a_body_within_the_bound_arrives_whole() -> None:
    assert Asking(max_body_bytes=3000, max_query_characters=9)(chunks=[b"abc" * 500] * 2)[2] == b"abc" * 1000


def test_a_body_that_never_ends_is_given_up() -> None:
    assert Asking(receive_seconds=0.1)(chunks=())[0] == 408


def test_an_answer_that_takes_too_long_is_cut_off() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(60)

    status, _, body = Asking(slow, timeout_seconds=0.05)()
    assert (status, code(body)) == (504, "timeout")


def test_more_at_once_than_is_worked_on_is_told_to_come_again() -> None:
    go = asyncio.Event()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        await go.wait()
        await echo(scope, receive, send)

    asking = Asking(waits, max_in_flight=2)

    async def ask() -> tuple[Any, list[Any], int]:
        first = [asyncio.create_task(asking.ask()) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        over = await asking.ask()
        health = asyncio.create_task(asking.ask("/healthz"))
        go.set()
        return over, await asyncio.gather(*first, health), asking.gate.in_flight.total()

    (status, headers, _), answered, left = asyncio.run(ask())
    assert (status, headers["retry-after"], left) == (503, "1", 0)
    assert [one[0] for one in answered] == [200, 200, 200]


def test_long_work_leaves_room_for_searches() -> None:
    go = asyncio.Event()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/search":
            await go.wait()
        await echo(scope, receive, send)

    asking = Asking(waits, max_in_flight=4)

    async def ask() -> list[int]:
        held = [asyncio.create_task(asking.ask(path)) for path in ("/v1/embeddings", "/compare.json")]
        await asyncio.sleep(0.01)
        over = [await asking.ask(path) for path in ("/v1/embeddings", "/search", "/compare.json")]
        go.set()
        return [status for status, *_ in (*over, *await asyncio.gather(*held))]

    assert asyncio.run(ask()) == [503, 200, 503, 200, 200]


def test_who_asks_for_the_head_alone_is_answered_as_by_get() -> None:
    async def method(scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = type("Route", (), {"path": "/here"})
        await send({"type": "http.response.start", "status": 200 if scope["method"] == "GET" else 405, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    asking = Asking(method)
    assert [asking(path, method="HEAD")[0] for path in ("/healthz", "/search")] == [200, 200]
    assert 'cpt_serve_requests_total{route="/here",status="200"} 2.0' in asking.figures.page().decode()


def test_bodies_are_counted_until_they_are_answered() -> None:
    go = asyncio.Event()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        await go.wait()
        await echo(scope, receive, send)

    asking = Asking(waits, max_body_bytes=1024, max_query_characters=9)

    async def ask() -> tuple[Any, list[Any], int]:
        held = [asyncio.create_task(asking.ask(chunks=[b"x" * 1024])) for _ in range(16)]
        await asyncio.sleep(0.01)
        over = await asking.ask(chunks=[b"x"])
        go.set()
        return over, await asyncio.gather(*held), asking.gate._held_bytes

    over, held, left = asyncio.run(ask())
    assert (over[0], code(over[2]), left) == (503, "busy", 0) and [one[0] for one in held] == [200] * 16


def test_long_work_ends_when_nobody_waits_for_it() -> None:
    ended: list[str] = []

    async def works(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append(scope["path"])
            raise

    async def hang_up() -> None:
        messages = [{"type": "http.request", "body": b"{}", "more_body": False}, {"type": "http.disconnect"}]
        headers = [(b"host", b"127.0.0.1")]
        scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "query_string": b"", "headers": headers}
        asking = Asking(works)

        async def receive() -> Any:
            return messages.pop(0)

        async def send(message: Any) -> None:
            raise AssertionError(message)

        await asyncio.wait_for(asking.gate(scope, receive, send), 10)
        await asyncio.sleep(0)
        assert asking.gate.in_flight.total() == 0 and 'status="499"' in asking.figures.page().decode()

    asyncio.run(hang_up())
    assert ended == ["/v1/embeddings"]


def test_addresses_of_one_network_of_ipv6_are_one_client() -> None:
    buckets = Buckets(rate=1.0, burst=1)
    assert buckets.take("2001:db8::1", 0.0) == 0 and buckets.take("2001:db8::ffff:2%eth0", 0.0) > 0
    assert buckets.take("2001:db8:0:1::1", 0.0) == 0
    assert buckets.take("::ffff:10.0.0.1", 0.0) == 0 and buckets.take("::ffff:10.0.0.2", 0.0) == 0
    assert buckets.take("10.0.0.1", 0.0) == 0 and buckets.take("10.0.0.2", 0.0) == 0


def test_a_client_over_its_rate_waits_and_others_do_not() -> None:
    buckets = Buckets(rate=2.0, burst=3)
    assert [buckets.take("a", 0.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b", 0.0) == 0
    assert buckets.take("a", 0.5) == 0 and buckets.take("a", 0.5) > 0
    assert [buckets.take("a", 100.0) for _ in range(4)] == [0, 0, 0, 0.5]  # never more than the burst


def test_the_rates_of_a_million_clients_take_bounded_memory() -> None:
    buckets = Buckets(rate=1.0, burst=1)
    for number in range(30_000):
        buckets.take(str(number), 0.0)
    assert len(buckets._held) == 10_000


def test_over_the_rate_is_429_with_the_time_to_wait() -> None:
    asking = Asking(rate_per_second=0.1, rate_burst=1)
    assert asking()[0] == 200
    status, headers, body = asking()
    assert (status, headers["retry-after"], code(body)) == (429, "10", "rate_limit_exceeded")
    assert asking("/healthz")[0] == 200


def test_a_query_string_of_no_encoding_is_refused() -> None:
    assert Asking()(query=b"q=%ff")[0] == 400
    assert Asking()(query=b"q=%c3%bc%00")[0] == 200


def test_every_answer_carries_the_headers_and_is_counted() -> None:
    asking = Asking()
    for path in ("/search", "/healthz"):
        _, headers, _ = asking(path)
        assert headers["x-content-type-options"] == "nosniff" and headers["content-security-policy"].startswith(
            "default-src 'none'"
        )
    asking(headers={"host": "evil.example"})
    page = asking.figures.page().decode()
    assert 'cpt_serve_requests_total{route="other",status="200"} 2.0' in page
    assert 'cpt_serve_refused_total{reason="wrong_host"} 1.0' in page


# ---- who may reach it


@pytest.mark.parametrize(("host", "inside"), [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("0.0.0.0", False)])
def test_loopback_is_known(host: str, inside: bool) -> None:
    assert is_loopback(host) == inside


def test_another_host_needs_a_token_that_cannot_be_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CPT_SERVE_TOKEN", raising=False)
    assert read_token("127.0.0.1") == ""
    for weak in ("", "   ", "short", "with a space in it, long", "gr\xf6\xdfer als sechzehn"):
        monkeypatch.setenv("CPT_SERVE_TOKEN", weak)
        with pytest.raises(UserError) as error:
            read_token("0.0.0.0")
        assert not weak.strip() or weak not in str(error.value)
    monkeypatch.setenv("CPT_SERVE_TOKEN", TOKEN)
    assert read_token("0.0.0.0") == read_token("127.0.0.1") == TOKEN


def test_an_address_that_is_none_is_told() -> None:
    with pytest.raises(UserError, match=r"--host nowhere\.invalid"):
        is_loopback("nowhere.invalid")


def test_rate_is_unbounded_on_loopback_alone() -> None:
    assert ServeConfig().rate is None
    assert ServeConfig(host="0.0.0.0").rate == 50
    assert ServeConfig(rate_per_second=3.0).rate == 3
