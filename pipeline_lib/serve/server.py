"""The server: sockets, slow headers, signals, and an end that cuts no request short."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline_lib.errors import UserError
from pipeline_lib.serve.app import make_app
from pipeline_lib.serve.config import ServeConfig, is_loopback, read_token
from pipeline_lib.serve.engine import Engine
from pipeline_lib.serve.figures import Figures
from pipeline_lib.serve.gate import Gate

if TYPE_CHECKING:
    from pipeline_lib.search.encoders import LoadWeights
    from pipeline_lib.search.registry_log import Home

BACKLOG = 2048
START_SECONDS = 30.0


class Service:
    """An opened pair behind a listening socket.

    Args:
        home: the artifact root, or the URL of a bucket's store.
        load_weights: see `Engine`.

    Raises:
        UserError: nothing is published, the address is taken, or it needs a token.
        CorruptArtifact: a byte of the pair has changed.
    """

    def __init__(self, config: ServeConfig, home: Home, load_weights: LoadWeights | None = None) -> None:
        token = read_token(config.host)
        self._socket = listen(config.host, config.port)
        try:
            self.figures = Figures()
            self.engine = Engine(config, home, load_weights, self.figures)
        except BaseException:
            self._socket.close()
            raise
        self.app, self.gate = make_app(config, self.engine, token)
        self.url = f"http://{_shown(config.host)}:{self._socket.getsockname()[1]}"
        self.is_on_loopback = is_loopback(config.host)
        self._server = _Server(_uvicorn_config(self.gate, config), self.gate)

    def serve(self) -> None:
        """Answer until a signal comes, or `stop` is called; then finish what has begun."""
        with _stopping_by_signal(self.stop):
            self._server.run([self._socket])

    def stop(self) -> None:
        """Take no more requests, and end when those under way are answered."""
        self.gate.is_stopping = True
        self._server.should_exit = True

    @contextlib.contextmanager
    def in_thread(self) -> Iterator[str]:
        """The address, served for as long as the block lasts."""
        thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True, name="serve")
        thread.start()
        self._server.ready.wait(START_SECONDS)
        try:
            yield self.url
        finally:
            self.stop()
            thread.join(START_SECONDS)


class _Server(uvicorn.Server):
    """uvicorn, without its handling of signals."""

    def __init__(self, config: uvicorn.Config, gate: Gate) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._gate = gate

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `Service.serve`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self.ready.set()


class Impatient(H11Protocol):
    """HTTP/1.1 that closes connections on which a request's header does not arrive in time, or of an answer nothing is read.

    Where as many are open as may be, a new one takes the place of the one that has waited longest for a request.

    Attributes:
        seconds: for a header, and for some of an answer to be read.
        idle: the server's connections without a request, the longest first.
    """

    seconds = 10.0
    idle: dict[Impatient, None]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first header."""
        super().connection_made(transport)
        if self.limit_concurrency and len(self.connections) >= self.limit_concurrency and self.idle:
            longest = next(iter(self.idle))
            self._forget(longest)
            longest.transport.close()
        self.idle[self] = None
        self._waits: asyncio.TimerHandle | None = None
        self._unread = 0
        self._reads: asyncio.TimerHandle | None = None
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait on where a header has begun and is not whole."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self.idle.pop(self, None)
        self._look()

    def on_response_complete(self) -> None:
        """The same, of what came while the last request was answered."""
        super().on_response_complete()
        if not self.transport.is_closing() and self.cycle.response_complete:  # not where a pipelined request goes on
            self.idle[self] = None
        self._look()
        if self._reads is None:
            self._look_whether_read(is_first=True)

    def _look_whether_read(self, is_first: bool = False) -> None:
        """Look again as long as something of an answer is unread; give the memory back where nobody reads it."""
        self._reads = None
        unread, before = self.transport.get_write_buffer_size(), self._unread
        self._unread = unread
        if unread and not is_first and unread >= before:
            self.transport.abort()  # `close` would wait for the reader
        elif unread:
            self._reads = self.loop.call_later(self.seconds, self._look_whether_read)

    def _look(self) -> None:
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._wait()
        else:
            self._rest()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._forget(self)
        self._rest()
        if self._reads is not None:
            self._reads.cancel()
        super().connection_lost(exc)

    def _forget(self, connection: Impatient) -> None:
        """Count it no more: what is being closed is lost in a later round of the loop."""
        self.idle.pop(connection, None)
        self.connections.discard(connection)

    def _wait(self) -> None:
        if self._waits is None:
            self._waits = self.loop.call_later(self.seconds, self._close)

    def _rest(self) -> None:
        if self._waits is not None:
            self._waits.cancel()
            self._waits = None

    def _close(self) -> None:
        self._waits = None
        if not self.transport.is_closing():
            self.transport.close()


def _uvicorn_config(gate: Gate, config: ServeConfig) -> uvicorn.Config:
    protocol = type("Protocol", (Impatient,), {"seconds": config.receive_seconds, "idle": {}})
    return uvicorn.Config(
        gate,
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # queries are nobody's business
        server_header=False,
        proxy_headers=False,  # a client must not choose the address that its rate is counted for
        backlog=BACKLOG,
        limit_concurrency=config.max_connections,
        timeout_keep_alive=config.keep_alive_seconds,
        timeout_graceful_shutdown=config.stop_seconds,
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        UserError: there is no such address here, or the port is taken.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    # of TCP by name: asyncio sends small packets at once on such sockets alone, and an answer is two of them, 40 ms apart else
    found = socket.socket(family, kind, protocol or socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(address)
        found.listen(BACKLOG)
    except OSError as error:
        found.close()
        taken = error.errno == errno.EADDRINUSE
        why = (
            "is in use: stop what listens there, or choose another with --port"
            if taken
            else f"cannot be used: {error.strerror}"
        )
        raise UserError(f"port {port} on {host} {why}") from error
    return found


@contextlib.contextmanager
def _stopping_by_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C, SIGTERM, and the end of the terminal unless `nohup` has that ignored, stop the service."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)

    def on_signal(*_: Any) -> None:
        logging.getLogger(__name__).info("stopping: no more requests are taken")
        stop()

    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
