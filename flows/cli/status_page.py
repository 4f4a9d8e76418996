"""Status as people read it: one screen, the most urgent first."""

from __future__ import annotations

from datetime import datetime

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.orchestrator.api import Row, age, parse_time
from flows.orchestrator.status import HEADS
from pipeline_lib.store.store import SHOWN_DIGITS

ROOMS_SHOWN = 6
BAR_WIDTH = 16
SCALE = 1000
UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def print_status(found: Row) -> None:
    """Print it."""
    console = Console()
    now = parse_time(found["at"])
    server = found["server"]
    where = Text(f"{found['home']}", "bold")
    ui = server.removesuffix("/api") if server else "no server is running: start one with `cpt up`"
    console.print(where, Text(f"   {ui}", "dim" if server else "yellow"), soft_wrap=True)
    for head, part in (
        ("running", _running(found, now)),
        ("failed", _failure(found["last_failure"], now)),
        ("next", _next(found, now)),
        ("champions", _champions(found["champions"], now)),
        ("disk", _disk(found)),
    ):
        console.print()
        console.print(Text(head, "bold cyan"))
        console.print(part, soft_wrap=isinstance(part, Text))
    for problem in found["problems"]:
        console.print(Text(f"not read: {problem}", "yellow"), soft_wrap=True)


def _running(found: Row, now: datetime) -> Text | Table:
    if not found["running"]:
        return Text("  nothing" if found["server"] else "  nothing: there is no server", "dim")
    table = _table("", "stage", "", "since", "left")
    for run in found["running"]:
        percent = run["percent"]
        bar = "" if percent is None else f"{'━' * round(BAR_WIDTH * percent / 100):<{BAR_WIDTH}} {percent:3.0f} %"
        state = "" if run["state"] == "running" else f" ({run['state']})"
        since = duration(age(run["since"], now)) if run["since"] else ""
        left = "" if run["seconds_left"] is None else duration(run["seconds_left"])
        table.add_row(Text(run["run"] + state), Text(run["stage"] or ""), Text(bar, "green"), since, left)
    return table


def _failure(failure: Row | None, now: datetime) -> Text:
    if failure is None:
        return Text("  nothing that is known of", "dim")
    repaired = failure["failing"] is False
    stage = f" in {failure['stage']}" if failure["stage"] else ""
    told = Text(
        f"  {failure['flow']} {failure['name']}{stage}, {duration(age(failure['at'], now))} ago", "dim" if repaired else "red"
    )
    told.append(", and works again since then" if repaired else "")
    told.append(f"\n  {failure['reason']}", "" if not repaired else "dim")
    if not repaired:
        told.append("\n  next: ").append(str(failure["next"]), "bold")
    return told


def _next(found: Row, now: datetime) -> Text:
    if not found["server"]:
        return Text("  nothing: schedules need `cpt up`", "dim")
    if not found["next"]:
        return Text("  nothing is scheduled: `cpt up --schedules` switches schedules on", "dim")
    told = Text()
    for number, run in enumerate(found["next"]):
        wait = age(run["at"], now)
        when = f"late by {duration(wait)}" if wait > 0 else f"in {duration(-wait)}"
        told.append("\n" if number else "").append(f"  {run['deployment']}  ").append(
            f"{run['at'][:16].replace('T', ' ')}  {when}", "dim"
        )
    return told


def _champions(rows: list[Row], now: datetime) -> Text | Table:
    if not rows:
        return Text("  none: `cpt run --preset demo` makes one", "dim")
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["figures"]))
    deltas = ["index"] if any(row["index_delta"] for row in rows) else []
    table = _table("", "checkpoint", "for", *deltas, *(HEADS.get(kind, kind) for kind in kinds))
    for row in rows:
        key, _, label = (row["checkpoint"] or "").partition("/")
        checkpoint = f"{key[:SHOWN_DIGITS]}/{label}" if key else row["model_digest"][:SHOWN_DIGITS]
        figures = [f"{row['figures'][kind]:.3f}" if kind in row["figures"] else "-" for kind in kinds]
        since = duration(age(row["since"], now)) if row["since"] else ""
        index = [f"delta {row['index_delta']['number']}" if row["index_delta"] else "whole" for _ in deltas]
        name = Text(row["name"] + (" (trial)" if row["trial"] else ""), "bold")
        table.add_row(name, Text(checkpoint), since, *index, *figures)
    return table


def _disk(found: Row) -> Text:
    disk = found["disk"]
    rooms = list(disk["rooms"].items())
    told = Text("  ")
    total = sum(disk["rooms"].values())
    least = "" if disk["counted_all"] else "at least "
    told.append(f"{least}{size(total)} here, {size(disk['free'])} free of {size(disk['total'])}")
    if disk["free"] < 0.05 * disk["total"]:
        told.append("   nearly full", "bold red")
    shown = ", ".join(f"{name} {size(bytes_)}" for name, bytes_ in rooms[:ROOMS_SHOWN])
    told.append(f"\n  {shown}" if shown else "", "dim")
    if disk["bucket"]:
        told.append(f"\n  {disk['bucket']}: its own tools tell its size", "dim")
    prune = found["prune"]
    if prune and prune["files"]:
        told.append(f"\n  {size(prune['bytes'])} in {prune['files']:,} leftovers: ").append(prune["command"], "bold")
    return told


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=True, padding=(0, 1, 0, 0), show_header=any(columns))
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < 3 else "right", overflow="fold")
    return table


def duration(seconds: float) -> str:
    """Seconds as people say them: 40 s, 12 min, 5 h 20 min, 3 d 4 h."""
    seconds = max(0, round(seconds))
    for unit, name, below, word in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= unit:
            rest = seconds % unit // below
            return f"{seconds // unit} {name}" + (f" {rest} {word}" if rest else "")
    return f"{seconds // 60} min" if seconds >= 60 else f"{seconds} s"


def size(n_bytes: float) -> str:
    """Bytes as people say them."""
    power = 0
    while n_bytes >= SCALE and power < len(UNITS) - 1:
        n_bytes, power = n_bytes / SCALE, power + 1
    return f"{n_bytes:.0f} {UNITS[power]}" if power == 0 or n_bytes >= 100 else f"{n_bytes:.1f} {UNITS[power]}"
