"""Nights of a Prefect database: the rows that one real run left, written again under other ids and dates, and their room.

    python -m benchmarks.nights [--home HOME] [--nights 365]

Takes the longest completed `retrain` of a home's database, and simulates a year in a copy: once without a vacuum, and once with
Prefect's own, by the settings of `cpt up`, at the end of each day. Prints the table of docs/how-to/monitoring.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
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
    moving = {table: _moving(night.rows[table], own) for table in TABLES}
    database.execute("pragma foreign_keys = off")
    database.execute("pragma synchronous = off")  # a simulation may be lost
    for at in times:
        new = {one: str(uuid.uuid5(uuid.NAMESPACE_OID, f"{one} {at}")) for one in own}
        for table in TABLES:
            rows = [_moved(list(row.values()), moved, new, at - night.began) for row, moved in moving[table]]
            if rows:
                columns = night.rows[table][0]
                marks = ", ".join("?" * len(columns))
                database.executemany(f"insert into {table} ({', '.join(columns)}) values ({marks})", rows)  # noqa: S608 - our own names
    database.commit()


def _moving(rows: list[dict[str, Any]], own: set[str]) -> list[tuple[dict[str, Any], list[tuple[int, bool]]]]:
    """Each row with the columns that change from night to night: whether they are times, or texts with ids in them."""
    found = []
    for row in rows:
        texts = [(at, value) for at, value in enumerate(row.values()) if isinstance(value, str)]
        times = [(at, True) for at, value in texts if TIME.fullmatch(value)]
        found.append((row, [*times, *((at, False) for at, value in texts if own & set(UUID.findall(value)))]))
    return found


def _moved(values: list[Any], moving: list[tuple[int, bool]], new: dict[str, str], shift: timedelta) -> list[Any]:
    for at, is_time in moving:
        text = values[at]
        values[at] = (
            str(datetime.fromisoformat(text) + shift) if is_time else UUID.sub(lambda found: new.get(found[0], found[0]), text)
        )
    return values


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
        return {table: database.execute(f"select count(*) from {table}").fetchone()[0] for table in TABLES}  # noqa: S608 - our own names


def _rows(database: sqlite3.Connection, table: str, column: str, values: list[str]) -> list[sqlite3.Row]:
    found = []
    for first in range(0, len(values), 500):
        some = values[first : first + 500]
        marks = ", ".join("?" * len(some))
        found += database.execute(f"select * from {table} where {column} in ({marks})", some).fetchall()  # noqa: S608 - our own names
    return found


def vacuum(days_back: int) -> None:
    """Prefect's own vacuum, as our environment sets it, on a day that lies so far back; of the database that it is set to."""
    from prefect.server.database import provide_database_interface
    from prefect.server.services import db_vacuum
    from prefect.settings import (
        PREFECT_SERVER_EVENTS_RETENTION_PERIOD,
        PREFECT_SERVER_SERVICES_DB_VACUUM_EVENT_RETENTION_OVERRIDES,
        PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD,
        temporary_settings,
    )

    back = timedelta(days=days_back)
    kept = PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD.value() + back
    events = PREFECT_SERVER_EVENTS_RETENTION_PERIOD.value() + back
    changed = {
        PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD: kept,
        PREFECT_SERVER_EVENTS_RETENTION_PERIOD: events,
        PREFECT_SERVER_SERVICES_DB_VACUUM_EVENT_RETENTION_OVERRIDES: {"prefect.flow-run.heartbeat": events},
    }

    async def all_kinds() -> None:
        db = provide_database_interface()
        for kind in ("old_flow_runs", "events_with_retention_overrides", "old_events", "orphaned_logs", "orphaned_artifacts"):
            await getattr(db_vacuum, f"vacuum_{kind}")(db=db)

    with temporary_settings(changed):
        asyncio.run(all_kinds())


def simulate(path: Path, night: Night, nights: int, shown: Iterable[int], at_end_of_day: Callable[[int], object]) -> list[Any]:
    """Nights up to yesterday, one a day; bytes that hold something, and of the file, after so many."""
    now, found, shown = datetime.now(UTC).replace(tzinfo=None), [], set(shown)
    with sqlite3.connect(path) as database:
        for number in range(1, nights + 1):
            write_nights(database, night, [now - timedelta(days=nights - number + 1)])
            at_end_of_day(nights - number)
            if number in shown:
                found.append((number, *used_and_file_bytes(path)))
    return found


def emptied(home: Path, path: Path) -> Night:
    """Copy a home's database without its runs; the rows of its longest retraining."""
    with sqlite3.connect(f"file:{home}/prefect/prefect.db?mode=ro", uri=True) as given, sqlite3.connect(path) as database:
        given.backup(database)
        wanted = (
            "select run.id from flow_run run join flow on flow.id = run.flow_id where flow.name = 'retrain'"
            " and run.state_type = 'COMPLETED' order by julianday(run.end_time) - julianday(run.start_time) desc limit 1"
        )
        row = database.execute(wanted).fetchone()
        assert row is not None, f"{home}: no completed retrain, run `cpt run` there first"
        night = read_night(database, row[0])
        database.execute("pragma foreign_keys = off")
        for table in TABLES:
            database.execute(f"delete from {table}")  # noqa: S608 - our own names
        database.commit()
        database.execute("vacuum")
        database.execute("pragma wal_checkpoint(truncate)")
    return night


def main() -> None:
    """Simulate, and print the table."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--home", type=Path, default=Path(os.environ.get("CPT_HOME", "artifacts")))
    words.add_argument("--nights", type=int, default=365)
    given = words.parse_args()
    shown = [number for number in (30, 90, 180, 365) if number < given.nights] + [given.nights]
    with tempfile.TemporaryDirectory() as scratch:
        plain, kept = Path(scratch) / "plain.db", Path(scratch) / "kept.db"
        night = emptied(given.home, plain)
        shutil.copy(plain, kept)
        os.environ.update({"PREFECT_HOME": scratch, "DO_NOT_TRACK": "1"})  # the periods are Prefect's own, as for `cpt up`
        os.environ["PREFECT_API_DATABASE_CONNECTION_URL"] = f"sqlite+aiosqlite:///{kept}"
        began = time.monotonic()
        without = simulate(plain, night, given.nights, shown, lambda _: None)
        written = time.monotonic()
        with_vacuum = simulate(kept, night, given.nights, shown, vacuum)
        done = time.monotonic()
    print(json.dumps({"rows of a night": {table: len(rows) for table, rows in night.rows.items()}}))
    print("| nights | without any vacuum | as `cpt up` sets it: rows | its file |\n|---:|---:|---:|---:|")
    for (number, _, plain_bytes), (_, used, file_bytes) in zip(without, with_vacuum, strict=True):
        print(f"| {number} | {plain_bytes / 1e6:.0f} MB | {used / 1e6:.0f} MB | {file_bytes / 1e6:.0f} MB |")
    print(f"{written - began:.0f} s without, {done - written:.0f} s with a vacuum a day")


if __name__ == "__main__":
    main()
