"""`cpt trace`: where a pair came from, down to the line and the hash of the dump's file."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.inspect_dump import printable, short
from flows.workspace import open_store
from pipeline_lib.pairs.trace import trace_pair


def print_trace(pair_id: str, artifacts: str = "") -> None:
    """Print a pair and its origin.

    Raises:
        UserError: there is no such pair in the store.
    """
    found = trace_pair(open_store(artifacts), pair_id)
    pair = found.pair
    table = Table(box=None, show_header=False)
    rows = {
        "pair": f"{pair['id']} ({pair['view']}, {pair['language']})",
        "name": pair["name"],
        "source": pair["source"],
        "licence": pair["licence"] or "not stated",
        "group": pair["group"],
        "file": found.file,
        "record": found.record or "the file is one text",
        "line": str(pair["line"]),
        "place": found.place or "not recorded",
        "hash": _hash(found.sha256),
        "bytes": f"{found.bytes:,}",
        "extracted": f"extract/{found.extracted}, part {found.part}",
        "listed": f"source/{found.listing}" if found.listing else "its listing is gone",
        "x": short(pair["x"]),
        "y": short(pair["y"]),
    }
    for name, value in rows.items():
        table.add_row(name, Text(printable(value), overflow="fold"))
    Console().print(table)


def _hash(sha256: str) -> str:
    if not sha256:
        return "not recorded"
    return sha256 if ":" in sha256 else f"sha256:{sha256}"
