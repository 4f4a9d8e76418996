"""The door of the service: hosts, token, rate, concurrency, body and time are checked before any route sees a request.

A request's body is read here, whole and within its bound, so that no route can be fed more than that, or for ever.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline_lib.serve.config import ServeConfig, is_loopback
from pipeline_lib.serve.figures import Figures
from pipeline_lib.serve.replies import (
    BAD,
    BUSY,
    FAULT,
    FORBIDDEN,
    HEADERS,
    SLOW_BODY,
    TIMEOUT,
    TOO_LARGE,
    TOO_MANY,
    UNAUTHORISED,
    Refused,
)

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
HEALTH = ("/healthz", "/healthz/ready")  # answered however busy it is, and to whoever asks
OPEN = (*HEALTH, "/", "/map", "/neighbours", "/compare")  # without a token: the pages ask for it
SLOW = ("/v1/embeddings", "/compare.json")  # which may open a model first
SLOW_SHARE = 0.5  # of the requests that may be under way at once
CLIENT_BITS = 64  # of an address of IPv6: its network
MOST_CLIENTS = 10_000  # whose rates are remembered
BODIES = 16  # the largest ones that may be held at once
OTHER = "other"  # route of whatever has none


class Gate:
    """ASGI middleware around all routes.

    Args:
        token: what a request has to show as `Authorization: Bearer TOKEN`; empty: nothing.
    """

    def __init__(self, app: ASGIApp, config: ServeConfig, token: str, figures: Figures) -> None:
        self.app, self.config, self.figures = app, config, figures
        self.is_stopping = False
        self.in_flight: Counter[str] = Counter()  # by path, of those that are checked
        self._token = token.encode()
        self._hosts = {name.lower() for name in (*config.hosts, *LOOPBACK_NAMES, _in_url(config.host))}
        self._any_host = not config.hosts and not is_loopback(config.host)
        self._buckets = Buckets(config.rate, config.rate_burst)
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or say why not."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope.get("method") == "HEAD":  # the server leaves the body out
            scope = {**scope, "method": "GET"}
        answer = _Answer(send)
        began = time.perf_counter()
        try:
            await self._answer(scope, receive, answer)
        except Refused as refusal:
            await self._refuse(scope, answer, refusal)
        finally:
            route = getattr(scope.get("route"), "path", OTHER)
            self.figures.requests.labels(route, str(answer.status or 499)).inc()  # 499: the client went away, as nginx has it
            self.figures.seconds.labels(route).observe(time.perf_counter() - began)

    async def _answer(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        path = scope["path"]
        self._check(scope, Headers(scope=scope))
        if path in HEALTH:
            await self.app(scope, receive, answer)
            return
        if self.is_stopping:
            raise Refused(BUSY, "the service stops; ask again in a moment", "stopping", headers=_later(1, close=True))
        body = await self._body(scope, receive)
        try:
            await self._let_in(scope, body, receive, answer)
        finally:
            self._held_bytes -= len(body)

    async def _let_in(self, scope: Scope, body: bytes, receive: Receive, answer: _Answer) -> None:
        path = scope["path"]
        under_way, most = self.in_flight.total(), self.config.max_in_flight
        if path in SLOW:  # they leave room: searches, which take milliseconds, do not wait behind them
            under_way, most = sum(self.in_flight[slow] for slow in SLOW), max(1, int(most * SLOW_SHARE))
        if under_way >= most or self.in_flight.total() >= self.config.max_in_flight:
            which = f"{most} such requests" if under_way >= most else f"{self.config.max_in_flight} requests"
            raise Refused(BUSY, f"{which} are under way already", "busy", headers=_later(1))
        seconds = self.config.embedding_seconds if path in SLOW else self.config.timeout_seconds
        self.in_flight[path] += 1
        self.figures.in_flight.inc()
        try:
            async with asyncio.timeout(seconds):
                work = self.app(scope, _replayed(body, receive), answer)
                await (_while_heard(work, receive) if path in SLOW else work)
        except TimeoutError:
            raise Refused(TIMEOUT, f"no answer within {seconds:g} seconds; ask for less, or later", "timeout") from None
        finally:
            self.in_flight[path] -= 1
            if not self.in_flight[path]:
                del self.in_flight[path]
            self.figures.in_flight.dec()

    async def _refuse(self, scope: Scope, answer: _Answer, refusal: Refused) -> None:
        self.figures.refused.labels(refusal.code).inc()
        if refusal.status >= FAULT:
            logging.getLogger(__name__).warning("%s: %s", getattr(scope.get("route"), "path", OTHER), refusal.message)
        if answer.status is None:
            await refusal.response()(scope, _nothing, answer)

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Whatever needs no body.

        Raises:
            Refused: the request is not let in.
        """
        path = scope["path"]
        self._check_site(headers, path)
        if path not in HEALTH:
            client = scope["client"][0] if scope.get("client") else ""
            if wait := self._buckets.take(client, time.monotonic()):
                said = f"more than {self.config.rate:g} requests a second; wait {wait:.1f} seconds"
                raise Refused(TOO_MANY, said, "rate_limit_exceeded", headers=_later(wait))
        if path not in OPEN:
            self._check_token(headers)
        try:
            unquote_to_bytes(scope["query_string"]).decode()
        except UnicodeDecodeError as error:
            raise Refused(BAD, "the query string is no UTF-8", "invalid_encoding") from error

    def _check_site(self, headers: Headers, path: str) -> None:
        """Refuse what a page of another site sends: it could give itself a name that leads here."""
        host = headers.get("host", "")
        if not self._any_host and _hostname(f"//{host}") not in self._hosts:
            raise Refused(FORBIDDEN, "the Host header names another site; see the option hosts", "wrong_host")
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            raise Refused(FORBIDDEN, "pages of other sites are not answered", "wrong_origin")
        if path not in OPEN and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise Refused(FORBIDDEN, "pages of other sites are not answered", "wrong_origin")

    def _check_token(self, headers: Headers) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        shown = given.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else b""
        if self._token and not hmac.compare_digest(shown, self._token):
            said = "give the token, as Authorization: Bearer TOKEN"
            raise Refused(UNAUTHORISED, said, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body.

        Raises:
            Refused: it is too large, takes too long, or too many others are held.
        """
        most = self.config.max_body_bytes
        said = Headers(scope=scope).get("content-length", "0")
        if not said.isdecimal() or int(said[:20]) > most:
            raise Refused(TOO_LARGE, f"a body has at most {most:,} bytes", "body_too_large", headers={"Connection": "close"})
        chunks: list[bytes] = []
        size, is_whole = 0, False
        try:
            async with asyncio.timeout(self.config.receive_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(BAD, "the body is cut off", "cut_off")
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    self._held_bytes += len(chunk)
                    if size > most:
                        close = {"Connection": "close"}
                        raise Refused(TOO_LARGE, f"a body has at most {most:,} bytes", "body_too_large", headers=close)
                    if self._held_bytes > BODIES * most:
                        raise Refused(BUSY, "too many large bodies at once", "busy", headers=_later(1, close=True))
                    chunks.append(chunk)
                    if not message.get("more_body"):
                        is_whole = True
                        return b"".join(chunks)
        except TimeoutError:
            close = {"Connection": "close"}
            raise Refused(SLOW_BODY, "the body did not arrive in time", "slow_body", headers=close) from None
        finally:
            self._held_bytes -= 0 if is_whole else size  # a whole one is held until it is answered


class Buckets:
    """Token buckets of the clients that came last.

    Args:
        rate: tokens a second; None: no bound.
        burst: tokens that a bucket holds.
    """

    def __init__(self, rate: float | None, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, now: float) -> float:
        """Seconds until the client may come again; 0: it may now, and has used a token."""
        if self.rate is None:
            return 0.0
        network = _network(client)
        tokens, since = self._held.pop(network, (float(self.burst), now))
        tokens = min(self.burst, tokens + (now - since) * self.rate)
        self._held[network] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._held) > MOST_CLIENTS:
            self._held.popitem(last=False)
        return 0.0 if tokens >= 1 else (1 - tokens) / self.rate


class _Answer:
    """What is sent, with the headers of every answer; remembers the status."""

    def __init__(self, send: Send) -> None:
        self._send, self.status = send, None

    status: int | None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name.lower() for name, _ in message.get("headers", ())}
            more = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", ()), *(one for one in more if one[0] not in given)]}
        await self._send(message)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body that was read, and then what the connection says."""
    pending: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


async def _while_heard(work: Awaitable[None], receive: Receive) -> None:
    """Do the work for as long as somebody waits for its answer: it takes long, and others wait behind it."""
    doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((doing, gone), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
    finally:
        gone.cancel()
        doing.cancel()


async def _gone(receive: Receive) -> None:
    """Return when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _later(seconds: float, close: bool = False) -> dict[str, str]:
    return {"Retry-After": str(max(1, math.ceil(seconds)))} | ({"Connection": "close"} if close else {})


def _network(client: str) -> str:
    """Whose rate an address counts for: of IPv6 a client has 2^64 of them."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv4Address) or address.ipv4_mapped:
        return client
    return str(ipaddress.ip_network((address, CLIENT_BITS), strict=False))


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _netloc(url: str) -> str:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""


def _hostname(url: str) -> str:
    """The name in a URL or a Host header, without its port; empty where it is malformed."""
    try:
        found = urlsplit(url)
        port = found.port  # raises where it is no number
        is_plain = found.netloc and not found.path and not found.query and not found.fragment and "@" not in found.netloc
        return _in_url(found.hostname or "") if is_plain and port != 0 else ""
    except ValueError:
        return ""
