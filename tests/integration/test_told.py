"""Who is told what of real flow runs at a real server: failure, recovery, contract, registry; broken and hanging webhooks."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from corpus import write_corpus
from webhooks import Webhook, listening

from benchmarks.nights import counts, read_night, used_and_file_bytes, write_nights
from flows.orchestrator import server
from pipeline_lib.runtime.outcomes import read_outcomes

PROJECT = Path(__file__).parents[2]
SECRET = "s3cr3t-of-the-path"
ROOT = "select id from flow_run where name = 'a-night' and state_type = 'COMPLETED' order by start_time desc limit 1"
PROGRAM = """
import json, os, sys, time
from pathlib import Path
from flows.orchestrator.server import prefect_environment, prefect_server

home, hook = Path(sys.argv[1]), sys.argv[2]
os.environ.update(prefect_environment(home))
with prefect_server(home):
    from prefect import flow
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from data_contracts.verdicts import RowsRejected
    from flows.hooks import FLOW_OPTIONS, in_subflow
    from flows.params import RunParams
    from pipeline_lib.search import registry
    from tasks.ui import stage_task

    faults = []

    @stage_task("weigh")
    def weigh():
        if isinstance(faults[0], Exception):
            raise faults[0]
        if faults[0]:
            faults[0]()

    @flow(name="retrain", **(FLOW_OPTIONS | {"flow_run_name": "a-night"}))
    def retrain(params: RunParams):
        in_subflow("train", "docs", weigh)

    took = {}

    def night(what, fault=None, *words, name="docs"):
        faults[:] = [fault]
        began = time.monotonic()
        state = retrain(RunParams(preset="smoke", name=name, set=words), return_state=True)
        took[what] = [state.type.value, time.monotonic() - began]

    night("first")
    night("failed", ValueError("no scale at s3://me:s3cr3t-of-the-path@host/x"))
    night("recovered")
    night("contract", RowsRejected("9 of 10 rows break their contract", home / "verdict.md"))
    night("other", name="other")
    short = ("notify.wait_seconds=0.5", "notify.backoff_seconds=0.1", "notify.attempts=2")
    night("hanging", ValueError("late"), f"notify.webhook={hook}/hang", *short, name="hanging")
    night("nobody", ValueError("gone"), "notify.webhook=http://127.0.0.1:1/s3cr3t-of-the-path", *short, name="nobody")
    night("unwanted", ValueError("quiet"), f"notify.webhook={hook}/x", "notify.on=[recovery]", name="quiet")
    CustomWebhookNotificationBlock(
        name="ops", url=hook + "/block", json_data={"event": "block", "text": "{{subject}} {{body}}"}
    ).save("ops")
    night("block", ValueError("by block"), "notify.block=custom-webhook/ops", name="block")
    night("block by name", ValueError("by name"), "notify.block=ops", f"notify.webhook={hook}/unused", name="named")
    night("no block", ValueError("no block"), "notify.block=slack-webhook/none", f"notify.webhook={hook}/else", name="none")
    night("held back", lambda: registry.record(home, "docs", {"event": "rejected", "why": "code is worse by 0.05"}))
    print(json.dumps(took))
    from prefect.logging.handlers import APILogWorker
    APILogWorker.drain_all()
"""

VACUUM = """
import asyncio
from prefect.server.database import provide_database_interface
from prefect.server.services import db_vacuum

async def main():
    db = provide_database_interface()
    for name in ("old_flow_runs", "events_with_retention_overrides", "old_events", "orphaned_logs", "orphaned_artifacts"):
        await getattr(db_vacuum, f"vacuum_{name}")(db=db)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def hook() -> Iterator[Webhook]:
    with listening() as found:
        yield found


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {**kept, "CPT_HOME": str(home), "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL", **more}


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory, hook: Webhook) -> tuple[Path, dict[str, Any], str]:
    """The home after all those nights, what became of each, and what was said."""
    home = tmp_path_factory.mktemp("home")
    (home / "notify.yaml").write_text("notify: {webhook: $HOOK}\n")
    hook.by_path = {"/hang": "hang"}
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(home), hook.url],
        env=environment(home, HOOK=f"{hook.url}/{SECRET}?token={SECRET}"),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    return home, json.loads(answer.stdout.splitlines()[-1]), answer.stderr


def told(hook: Webhook, name: str) -> list[dict[str, Any]]:
    return [got for got in hook.got if got.get("name") == name]


def test_failure_recovery_and_contract_are_told_once_each(nights: Any, hook: Webhook) -> None:
    failed, recovered, contract, last = (got for got in told(hook, "docs") if got["event"] != "held_back")
    assert (failed["event"], failed["stage"], failed["run"], failed["flow"]) == ("failure", "weigh", "a-night", "retrain")
    assert failed["reason"].startswith("ValueError: no scale at s3://***@host")
    assert failed["next"] == "cpt run --preset smoke --name docs"
    assert recovered["event"] == "recovery" and "no scale" in recovered["reason"]
    assert (contract["event"], contract["stage"]) == ("quarantine", "weigh")
    assert "9 of 10 rows" in contract["reason"] and last["event"] == "recovery"
    assert told(hook, "other") == []


def test_a_model_that_was_held_back_is_told_with_its_reasons(nights: Any, hook: Webhook) -> None:
    (held,) = [got for got in hook.got if got["event"] == "held_back"]
    assert (held["name"], held["reason"]) == ("docs", "code is worse by 0.05")
    assert "cpt rollback --name docs" in held["next"]


def test_a_notification_that_fails_fails_no_run_and_is_told_in_the_log(nights: Any, hook: Webhook) -> None:
    home, took, said = nights
    assert {what: state for what, (state, _) in took.items() if what in ("hanging", "nobody")} == {
        "hanging": "FAILED", "nobody": "FAILED",
    }  # fmt: skip
    assert took["hanging"][1] < 15
    assert said.count("warning: nobody was told that") == 3, said
    events = [json.loads(line) for path in (home / "logs").iterdir() for line in path.read_text().splitlines()]
    lost = [event for event in events if event["event"] == "notification" and event["state"] == "failed"]
    assert {event["name"] for event in lost} == {"hanging", "nobody", "none"}
    with sqlite3.connect(home / "prefect" / "prefect.db") as database:
        logged = "select count(distinct flow_run_id) from log where message like 'notification was not sent%'"
        assert database.execute(logged).fetchone() == (3,), "in the run's log in Prefect's UI"


def test_only_what_is_wanted_is_told_and_a_block_comes_first(nights: Any, hook: Webhook) -> None:
    assert told(hook, "quiet") == []
    blocks = [got["text"] for got in hook.got if got["event"] == "block"]
    assert len(blocks) == 2 and "by block" in blocks[0] and "by name" in blocks[1]
    assert "/unused" not in hook.paths
    (other,) = told(hook, "none")
    assert "no block" in other["reason"]


def test_the_structured_log_has_each_stage_of_each_run(nights: Any) -> None:
    home, took, _ = nights
    files = sorted((home / "logs").iterdir())
    assert len(files) == len(took)
    events = [json.loads(line) for line in files[1].read_text().splitlines()]
    assert len({event["run"] for event in events}) == 1
    stages = [(event["stage"], event.get("state")) for event in events if event["event"] == "stage"]
    assert stages == [("weigh", None), ("weigh", "failed")]


def test_no_secret_of_an_address_is_written_down(nights: Any) -> None:
    home, _, said = nights
    assert SECRET not in said
    database = (home / "prefect" / "prefect.db").read_bytes()
    texts = [path.read_text() for folder in ("logs", "outcomes", "prefect/servers") for path in (home / folder).glob("*")]
    assert texts and SECRET not in "".join(texts)
    assert b"s3cr3t-of-the-path?" not in database


def test_records_say_what_failed_last(nights: Any) -> None:
    home, _, _ = nights
    found = {outcome.name: outcome for outcome in read_outcomes(home)}
    assert (found["docs"].failing, found["docs"].state, found["hanging"].failing) == (False, "completed", True)
    assert found["docs"].failure["reason"].startswith("RowsRejected")


def test_prefect_s_database_forgets_old_nights_at_its_next_start(nights: Any) -> None:
    home, _, _ = nights
    path = home / "prefect" / "prefect.db"
    now = datetime.now(UTC).replace(tzinfo=None)
    with sqlite3.connect(path) as database:
        (root,) = database.execute(
            "select min(id) from flow_run where name = 'a-night' and state_type = 'COMPLETED'"
        ).fetchone()
        night = read_night(database, root)
        before = counts(path)
        assert all(night.rows[table] for table in ("task_run", "log", "events", "event_resources"))
        write_nights(database, night, [now - timedelta(days=365 - day) for day in range(0, 275, 5)])
        write_nights(database, night, [now - timedelta(days=day) for day in (80, 60, 40)])
    owned = server._start(home, server.free_port(), "run")
    try:
        kept = before["flow_run"] + 3 * len(night.rows["flow_run"])
        deadline = time.monotonic() + 60
        while counts(path)["flow_run"] > kept and time.monotonic() < deadline:
            time.sleep(0.5)
        time.sleep(2)  # logs and artifacts go after their runs, events beside them
        after = counts(path)
    finally:
        owned.stop()
    assert after["flow_run"] == kept
    assert after["log"] == before["log"] + 3 * len(night.rows["log"])
    assert after["task_run"] == before["task_run"] + 3 * len(night.rows["task_run"])
    assert after["events"] <= before["events"] + 50, "of the last seven days; the server writes some of its own"


@pytest.mark.slow
def test_a_year_of_nights_takes_no_more_room_than_half_a_year(nights: Any, tmp_path: Path) -> None:
    home, _, _ = nights
    path, now = tmp_path / "prefect.db", datetime.now(UTC).replace(tzinfo=None)
    shutil.copy(home / "prefect" / "prefect.db", path)
    used = []
    for month in range(12):
        days = [365 - day for day in range(30 * month, 30 * month + 30)]
        with sqlite3.connect(path) as database:
            (root,) = database.execute(
                "select max(id) from flow_run where name = 'a-night' and state_type = 'COMPLETED'"
            ).fetchone()
            write_nights(database, read_night(database, root), [now - timedelta(days=day) for day in days])
        vacuum(path, tmp_path, days[-1] - 1)
        used.append(used_and_file_bytes(path))
    (half, halfs_file), (year, years_file) = used[5], used[-1]
    assert year < 1.05 * half and years_file <= halfs_file, used


def vacuum(path: Path, home: Path, days_back: int) -> None:
    """Prefect's own vacuum, as our environment sets it, on a day that lies so far back."""
    back = 86_400 * days_back
    heartbeats = json.dumps({"prefect.flow-run.heartbeat": 7 * 86_400 + back})
    settings = {
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{path}",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(90 * 86_400 + back),
        "PREFECT_SERVER_SERVICES_DB_VACUUM_EVENT_RETENTION_OVERRIDES": heartbeats,
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"P{7 + days_back}D",
    }
    subprocess.run([sys.executable, "-c", VACUUM], env=environment(home, **settings), capture_output=True, check=True)


@pytest.mark.slow
def test_a_real_dataset_that_cannot_be_built_and_then_can(tmp_path: Path, hook: Webhook) -> None:
    source, home = tmp_path / "notes", tmp_path / "home"
    source.mkdir()
    (source / "a.txt").write_text("a word")
    words = ["build-dataset", "--preset", "smoke", "--source", str(source), "--set", f"notify.webhook={hook.url}/{SECRET}"]

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli", *words]
        return subprocess.run(command, env=environment(home), cwd=PROJECT, capture_output=True, text=True, check=False)

    assert run().returncode == 2
    write_corpus(source)
    assert run().returncode == 0
    first, second = told(hook, "notes")
    assert (first["event"], first["stage"], second["event"]) == ("quarantine", "validate", "recovery")
    assert first["next"] == f"cpt build-dataset --preset smoke --source {source}"
    kept = [path for path in home.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert kept == [], "typed at a terminal, it is neither in parameters nor in records"
