"""Status at a glance: what runs, the champions, the next schedule, the last failure and why, and the disk.

Everything but what runs and what is scheduled lies in files, and is told without a server. Imports no Prefect.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline_lib.errors import CorruptArtifact, TransientError, UserError
from pipeline_lib.runtime.outcomes import Outcome, read_outcomes

if TYPE_CHECKING:
    from flows.orchestrator.api import Api, Row

T = TypeVar("T")
SCHEMA = 1  # of the JSON: raised when a field goes or changes its meaning
DISK_SECONDS = 0.6  # for counting bytes; a store that has too many files is told as far as that goes
BUCKET_SECONDS, LEAST_SECONDS = 10.0, 1.0  # for the registries of all names that stand in buckets, and for each at least
SCHEDULES_SHOWN = 5
HEADLINES = {"code_search": "mrr", "text_search": "mrr", "classification": "accuracy", "similarity": "spearman"}
HEADS = {"code_search": "code", "text_search": "text", "classification": "class", "similarity": "simil"}  # of their columns


def read_status(home: Path, artifacts: str = "") -> Row:
    """Everything that `--json` prints; a part that cannot be read says why under `problems`."""
    problems: list[str] = []
    now = datetime.now(UTC)
    from flows.orchestrator.api import find_api  # HTTP: a tenth of a second, which a list of runs need not take

    api = find_api(home)
    outcomes = read_outcomes(home)
    found = {
        "schema": SCHEMA,
        "at": now.isoformat(timespec="seconds"),
        "home": str(home),
        "server": api.url if api else None,
        "running": _asked(api, problems, lambda one: running(one, now), []),
        "champions": champions(home, problems),
        "next": _asked(api, problems, schedules, []),
        "last_failure": _last_failure(api, outcomes, problems),
        "names": [_name_row(outcome) for outcome in outcomes],
        "disk": disk(home, artifacts),
        "prune": leftovers(home, artifacts, problems),
    }
    return {**found, "problems": problems}


def running(api: Api, now: datetime) -> list[Row]:
    """The runs at work."""
    from flows.orchestrator.api import seconds_left

    rows = api.running()
    flows, deployments = _names(api, rows)
    return [
        {
            "run": run["name"],
            "id": run["id"],
            "flow": flows.get(run["flow_id"], ""),
            "deployment": deployments.get(str(run.get("deployment_id")), ""),
            "state": (run.get("state_name") or run["state_type"]).lower(),
            "since": run.get("start_time") or run.get("expected_start_time"),
            "stage": run.get("stage"),
            "percent": round(run["percent"], 1) if "percent" in run else None,
            "note": run.get("note") or None,
            "seconds_left": None if (left := seconds_left(run, now)) is None else round(left),
        }
        for run in rows
    ]


def _names(api: Api, rows: list[Row]) -> tuple[dict[str, str], dict[str, str]]:
    """Names of the flows and of the deployments of runs, by their ids."""
    deployed = [str(run["deployment_id"]) for run in rows if run.get("deployment_id")]
    return api.flows(run["flow_id"] for run in rows), api.deployments(deployed)


def schedules(api: Api) -> list[Row]:
    """The next run of each deployment that has one."""
    rows = api.scheduled()
    first: dict[str, Row] = {}
    for run in rows:
        first.setdefault(run.get("deployment_id") or run["id"], run)
    shown = list(first.values())[:SCHEDULES_SHOWN]
    flows, deployments = _names(api, shown)
    return [
        {
            "deployment": "/".join(
                filter(None, [flows.get(run["flow_id"], ""), deployments.get(str(run.get("deployment_id")), "")])
            ),
            "at": run["expected_start_time"],
            "run": run["name"],
            "late": run.get("state_name") == "Late",
        }
        for run in shown
    ]


def champions(home: Path, problems: list[str]) -> list[Row]:
    """The model and index of each name, with the figures of its run's report."""
    from pipeline_lib.search import registry

    rows: list[Row] = []
    try:
        names = registry.names(home)
    except (CorruptArtifact, OSError) as error:
        problems.append(f"{home}: {error}")
        return rows
    until = time.monotonic() + BUCKET_SECONDS
    for name in names:
        try:
            pair = _soon(partial(registry.pair_of, home, name), until)
        except (UserError, CorruptArtifact, TransientError, OSError) as error:
            problems.append(f"{name}: {error}")
            continue
        if pair is None:
            continue
        report, figures = _figures(home, name, pair.trained)
        rows.append(
            {
                "name": name,
                "checkpoint": f"{pair.trained}/{pair.checkpoint}" if pair.trained else None,
                "since": pair.since or report.get("at"),
                "trial": pair.is_trial,
                "figures": figures,
                "report": report.get("path"),
                "model_digest": pair.model_digest,
                "index_digest": pair.index_digest,
                "index_delta": _delta(pair.index),
            }
        )
    return rows


def _soon(ask: Callable[[], T], until: float) -> T:
    """The answer to a question about what may stand in a bucket; a client waits minutes for one that does not answer.

    Raises:
        TransientError: none came in time.
    """
    asked: Future[T] = Future()

    def work() -> None:
        try:
            asked.set_result(ask())
        except (UserError, CorruptArtifact, TransientError, OSError) as error:
            asked.set_exception(error)

    threading.Thread(target=work, daemon=True, name="status").start()
    try:
        return asked.result(max(LEAST_SECONDS, until - time.monotonic()))
    except TimeoutError as error:
        raise TransientError("its registry, which stands in a bucket, does not answer") from error


def _delta(index: Path) -> Row | None:
    """What index.json says of an index that was made of the one before it; None of one that was built whole."""
    try:
        found: Row | None = json.loads((index / "index.json").read_bytes()).get("delta")
    except (OSError, ValueError):
        return None
    return found


def _figures(home: Path, name: str, trained: str) -> tuple[Row, dict[str, float]]:
    """The newest report of a training run, and the headline figure of each kind of task on the test split."""
    folder = home / "reports" / name
    paths = [*folder.glob("report.json"), *sorted(folder.glob("*/report.json"), key=os.path.getmtime, reverse=True)]
    for path in paths:
        try:
            report = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if not trained or report.get("lineage", {}).get("train", {}).get("key") == trained:
            at = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
            page = str(path.with_name("report.html"))
            return {"path": page, "at": at}, headline_figures(report.get("test", {}).values())
    return {}, {}


def headline_figures(tasks: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The headline of the first task of each kind."""
    found: dict[str, float] = {}
    for task in tasks:
        kind, figures = task.get("kind", ""), task.get("model", {})
        if HEADLINES.get(kind) in figures:
            found.setdefault(kind, figures[HEADLINES[kind]])
    return found


def _last_failure(api: Api | None, outcomes: list[Outcome], problems: list[str]) -> Row | None:
    """The last failure that is recorded here or that the server knows of, whichever is later; with what to type next."""
    from flows.orchestrator.api import newest

    rows = [{**outcome.failure, "flow": outcome.flow, "name": outcome.name, "failing": outcome.failing}
            for outcome in outcomes if outcome.failure]  # fmt: skip
    rows += [_death(outcome) for outcome in outcomes if outcome.is_dead]
    known = {row.get("run_id") for row in rows}
    other = _asked(api, problems, lambda one: one.last_failure(), None)
    if api is not None and other and other["id"] not in known:
        flow = api.flows([other["flow_id"]]).get(other["flow_id"], "")
        message = (other.get("state") or {}).get("message") or other.get("state_name", "")
        rows.append({"run": other["name"], "run_id": other["id"], "at": other["end_time"], "stage": "", "flow": flow,
                     "name": other["name"], "reason": message, "next": _log_command(other["id"]), "failing": None})  # fmt: skip
    last = newest([row["at"] for row in rows])
    found = next((row for row in rows if row["at"] == last), None)
    order = ("flow", "name", "run", "run_id", "at", "stage", "reason", "next", "failing")
    return {name: found.get(name) for name in order} if found else None


def _death(outcome: Outcome) -> Row:
    """A run whose process is gone, and whose end nobody has recorded yet."""
    reason = f"its process, {outcome.process.get('pid')} of this machine, is gone"
    own = {"run": outcome.run, "run_id": outcome.run_id, "flow": outcome.flow, "name": outcome.name}
    return {**own, "at": _iso(outcome.since), "stage": "", "reason": reason, "next": "cpt up", "failing": True}


def _log_command(run_id: str) -> str:
    return f"prefect flow-run logs {run_id}"


def _name_row(outcome: Outcome) -> Row:
    return {
        "flow": outcome.flow,
        "name": outcome.name,
        "state": "died" if outcome.is_dead else outcome.state,
        "since": _iso(outcome.since),
        "last_success": _iso(outcome.success_at) if outcome.success_at else None,
        "failing": outcome.failing,
    }


def disk(home: Path, artifacts: str = "", seconds: float = DISK_SECONDS) -> Row:
    """Bytes of each room of the store and of the other folders of the artifact root, and what is free."""
    until = time.monotonic() + seconds
    store = _store_folder(home, artifacts)
    usage = shutil.disk_usage(next(place for place in (home, *home.absolute().parents) if place.exists()))
    rooms, whole = {}, True
    for place, label in _places(home, store):
        size, complete = _bytes_below(place, until)
        rooms[label] = size
        whole = whole and complete
    return {
        "rooms": dict(sorted(rooms.items(), key=lambda item: -item[1])),
        "counted_all": whole,
        "bucket": artifacts if store is None else None,
        "free": usage.free,
        "total": usage.total,
    }


def _store_folder(home: Path, artifacts: str) -> Path | None:
    """The store's folder; None of a bucket, whose bytes its own tools tell."""
    if not artifacts:
        return home / "store"
    scheme, mark, path = artifacts.partition("://")
    return None if mark and scheme != "file" else Path(path if mark else artifacts)


def _places(home: Path, store: Path | None) -> Iterator[tuple[Path, str]]:
    if store is not None and store.is_dir():
        yield from ((place, f"store/{place.name}") for place in sorted(store.iterdir()) if place.is_dir())
    for place in sorted(home.iterdir()) if home.is_dir() else ():
        if place != store and place.is_dir() and not place.is_symlink():
            yield place, place.name


def _bytes_below(place: Path, until: float) -> tuple[int, bool]:
    """Bytes of the files below a folder, one of several names once; and whether all were counted in time."""
    total, folders, linked = 0, [str(place)], set[int]()
    while folders:
        if time.monotonic() > until:
            return total, False
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        found = entry.stat(follow_symlinks=False)
                        total += found.st_size if found.st_ino not in linked else 0
                        if found.st_nlink > 1:
                            linked.add(found.st_ino)
        except OSError:  # it was removed meanwhile, or is another's
            continue
    return total, True


def leftovers(home: Path, artifacts: str, problems: list[str]) -> Row | None:
    """What `cpt prune` would remove; None of a store in a bucket, or that is not there."""
    store = _store_folder(home, artifacts)
    if store is None or not store.is_dir():
        return None
    from pipeline_lib.store.prune import find_leftovers
    from pipeline_lib.store.store import Store

    try:
        found = find_leftovers(Store(store))
    except OSError as error:
        problems.append(f"{store}: {error.strerror}")
        return None
    return {"bytes": sum(one.bytes for one in found), "files": len(found), "command": "cpt prune --yes"}


def _asked(api: Api | None, problems: list[str], question: Any, otherwise: Any) -> Any:
    """The server's answer; where it gives none in time, what stands for one."""
    if api is None:
        return otherwise
    try:
        return question(api)
    except (OSError, ValueError, KeyError) as error:
        problems.append(f"{api.url}: {error}")
        return otherwise


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
