"""Who is told what of real flow runs at a real server: failure, recovery, contract, registry; broken and hanging webhooks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from corpus import write_corpus
from webhooks import Webhook, listening

from pipeline_lib.runtime.outcomes import read_outcomes

PROJECT = Path(__file__).parents[2]
SECRET = "s3cr3t-of-the-path"
PROGRAM = """
import json, os, sys, time
from pathlib import Path
from flows.cli.server import prefect_environment, prefect_server

home, hook = Path(sys.argv[1]), sys.argv[2]
os.environ.update(prefect_environment(home))
with prefect_server(home):
    from prefect import flow
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from data_contracts.verdicts import RowsRejected
    from flows.hooks import HOOKS
    from flows.params import RunParams
    from flows.workspace import in_subflow
    from pipeline_lib.search import registry
    from tasks.ui import stage_task

    faults = []

    @stage_task("weigh")
    def weigh():
        if isinstance(faults[0], Exception):
            raise faults[0]
        if faults[0]:
            faults[0]()

    @flow(name="retrain", flow_run_name="a-night", **HOOKS)
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
    night("held back", lambda: registry.reject(home, "docs", ["code is worse by 0.05"]))
    print(json.dumps(took))
    from prefect.logging.handlers import APILogWorker
    APILogWorker.drain_all()
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
