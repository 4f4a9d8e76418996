"""Nights of a Prefect database: the rows that one real run left there, written again under other ids and dates."""

from __future__ import annotations

import re
import sqlite3
import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?")
TABLES = ("flow_run", "task_run", "flow_run_state", "task_run_state", "log", "artifact", "events", "event_resources")


class Night(NamedTuple):
    """The rows of a run by their table, and when it began."""

    rows: dict[str, list[dict[str, Any]]]
    began: datetime


def read_night(database: sqlite3.Connection, root: str) -> Night:
    """The rows that belong to a flow run and to those that it called."""
    database.row_factory = sqlite3.Row
    flows, tasks = [root], list[str]()
    while True:
        tasks = [row["id"] for row in _rows(database, "task_run", "flow_run_id", flows)]
        called = [row["id"] for row in _rows(database, "flow_run", "parent_task_run_id", tasks)]
        if not set(called) - set(flows):
            break
        flows += [one for one in called if one not in flows]
    about = [f"prefect.flow-run.{one}" for one in flows] + [f"prefect.task-run.{one}" for one in tasks]
    events = list(dict.fromkeys(row["event_id"] for row in _rows(database, "event_resources", "resource_id", about)))
    by = {
        "flow_run": ("id", flows), "task_run": ("flow_run_id", flows), "flow_run_state": ("flow_run_id", flows),
        "task_run_state": ("task_run_id", tasks), "log": ("flow_run_id", flows), "artifact": ("flow_run_id", flows),
        "events": ("id", events), "event_resources": ("event_id", events),
    }  # fmt: skip
    rows = {table: [dict(row) for row in _rows(database, table, *by[table])] for table in TABLES}
    began = next(row["start_time"] for row in rows["flow_run"] if row["id"] == root)
    return Night(rows, datetime.fromisoformat(began))


def write_nights(database: sqlite3.Connection, night: Night, times: Iterable[datetime]) -> None:
    """Write the night again, as if it had begun at each of these times (in UTC, without a zone)."""
    own = {row["id"] for table in TABLES for row in night.rows[table]}
    database.execute("pragma foreign_keys = off")
    for time in times:
        new = {one: str(uuid.uuid5(uuid.NAMESPACE_OID, f"{one} {time}")) for one in own}
        shift = time - night.began

        def moved(text: str, new: dict[str, str] = new, shift: timedelta = shift) -> str:
            if TIME.fullmatch(text):
                return str(datetime.fromisoformat(text) + shift)
            return UUID.sub(lambda found: new.get(found[0], found[0]), text)

        for table in TABLES:
            for row in night.rows[table]:
                values = [moved(value) if isinstance(value, str) else value for value in row.values()]
                marks = ", ".join("?" * len(values))
                database.execute(f"insert into {table} ({', '.join(row)}) values ({marks})", values)
        database.commit()


def used_and_file_bytes(path: Path) -> tuple[int, int]:
    """Bytes of a database that hold something, and of its file, where what was deleted leaves room for what comes."""
    with sqlite3.connect(path) as database:
        database.execute("pragma wal_checkpoint(truncate)")
        names = ("page_size", "page_count", "freelist_count")
        size, pages, free = (database.execute(f"pragma {name}").fetchone()[0] for name in names)
    return (pages - free) * size, path.stat().st_size


def counts(path: Path) -> dict[str, int]:
    """Rows of each table."""
    with sqlite3.connect(path) as database:
        return {table: database.execute(f"select count(*) from {table}").fetchone()[0] for table in TABLES}


def _rows(database: sqlite3.Connection, table: str, column: str, values: list[str]) -> list[sqlite3.Row]:
    found = []
    for first in range(0, len(values), 500):
        some = values[first : first + 500]
        marks = ", ".join("?" * len(some))
        found += database.execute(f"select * from {table} where {column} in ({marks})", some).fetchall()
    return found
