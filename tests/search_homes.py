"""A home with a published pair, a tiny model of random weights and an index of what is planted here; and its service."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from builders import pair_row, write_pairs
from exported_models import Exported, tiny_checkpoint

from data_contracts.schemas import row_id
from pipeline_lib.config.run import ExportConfig, IndexConfig
from pipeline_lib.export.export import export
from pipeline_lib.index.index import build_index
from pipeline_lib.search.registry import Candidate, promote
from pipeline_lib.serve.config import ServeConfig
from pipeline_lib.serve.server import Service
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

HOSTILE = "<img src=x onerror=alert(1)></script><script>document.title='owned'</script>"
FUNCTIONS = [
    ("dates", "parse an ISO 8601 date", "def parse_date(text):\n    return date(*map(int, text.split('-')))"),
    ("net", "close the socket quietly", "def close(sock):\n    sock.close()\n    return None"),
    ("files", "Read all lines of a file.\nMore.", "def read_lines(path):\n    return open(path).readlines()"),
    ("html", HOSTILE, f'def render():\n    return "{HOSTILE}"'),
    ("maths", "greatest common divisor", "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a"),
]
PASSAGES = [
    "A date in ISO 8601 is written year, month, day, with hyphens between them.",
    "A socket that is closed twice raises no error in most languages.",
    f"An entity like {HOSTILE} & <b>bold</b> must be escaped in a page.",
    "größer als 2 µm — 日本語テキスト, مرحبا بالعالم, e\u0301",
]


class SearchHome:
    """The store, its model, and as many indexes as are asked for.

    Args:
        root: where the artifacts go.
    """

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.root = self.store.root
        self.exported = export(self.store, tiny_checkpoint(self.store), ExportConfig())

    def index(self, extra: int = 0, config: IndexConfig | None = None) -> Artifact:
        """An index of what is planted and of so many functions more."""
        rows = [self._row("code", i, x, y, f"planted.{name}") for i, (name, x, y) in enumerate(FUNCTIONS)]
        pairs = pairwise(PASSAGES)
        rows += [self._row("text", i, x, y, "planted.notes") for i, (x, y) in enumerate(pairs)]
        rows += [
            self._row("code", 100 + i, f"number {i} of many", f"def f{i}(x):\n    return x + {i}", f"planted.f{i}")
            for i in range(extra)
        ]
        curated = write_pairs(self.store, "curate", {"train": rows})
        return build_index(self.store, self.exported, curated, config or IndexConfig(), Exported(self.exported))

    def publish(self, name: str = "planted", extra: int = 0) -> Artifact:
        """Let searches for a name use this model and such an index; returns the index."""
        indexed = self.index(extra)
        promote(self.root, name, Candidate(self.exported, indexed))
        return indexed

    def _row(self, kind: str, number: int, x: str, y: str, name: str) -> dict[str, Any]:
        return pair_row(
            x,
            y,
            kind,
            id=row_id("pair", str(number), x, y),
            source="planted 1.0",
            group="planted",
            path=f"planted/{kind}_{number}.{'py' if kind == 'code' else 'md'}",
            line=10 + number,
            name=name,
        )


@contextmanager
def serving(home: SearchHome, **options: Any) -> Iterator[Service]:
    service = Service(ServeConfig(port=0, **options), home.root)
    with service.in_thread():
        yield service


def ask(
    service: Service | str, path: str, body: Any = None, headers: dict[str, str] | None = None, method: str = ""
) -> tuple[int, dict[str, str], bytes]:
    """The answer to one request; a body that is no bytes goes out as JSON."""
    address = urlsplit(service if isinstance(service, str) else service.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    given = ({"Content-Type": "application/json"} if data is not None else {}) | (headers or {})
    connection.request(method or ("POST" if data is not None else "GET"), path, data, given)
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return found


def raw(service: Service, data: bytes, seconds: float = 10.0) -> bytes:
    """What comes back for bytes as they stand, until the server closes or is silent; it may close while it is still sent."""
    address, found = urlsplit(service.url), b""
    with (
        socket.create_connection((address.hostname, address.port), timeout=seconds) as connection,
        contextlib.suppress(TimeoutError, ConnectionError),
    ):
        connection.sendall(data)
        while chunk := connection.recv(65536):
            found += chunk
    return found
