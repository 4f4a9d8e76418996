"""A webhook on loopback that notes what it gets, and answers well, badly, late, or byte by byte without an end."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Webhook:
    """The server: its address, and the messages that it got."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.answers: list[str] = []  # of the next requests; after them 200
        self.by_path: dict[str, str] = {}
        self.at: list[float] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.at.append(time.monotonic())
                hook.paths.append(self.path)
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = hook.by_path.get(self.path) or (hook.answers.pop(0) if hook.answers else "200")
                if answer == "hang":
                    time.sleep(60)
                elif answer == "drip":
                    with contextlib.suppress(ConnectionError):  # the other side gave up
                        for _ in range(600):
                            self.wfile.write(b"H")
                            time.sleep(0.1)
                elif answer == "elsewhere":
                    self.send_response(302)
                    self.send_header("Location", "/elsewhere")
                    self.end_headers()
                else:
                    hook.got += [json.loads(body)] if answer == "200" else []
                    self.send_response(int(answer))
                    self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def listening() -> Iterator[Webhook]:
    """A webhook for as long as the block lasts."""
    hook = Webhook()
    threading.Thread(target=hook.server.serve_forever, daemon=True).start()
    try:
        yield hook
    finally:
        hook.server.shutdown()
        hook.server.server_close()
