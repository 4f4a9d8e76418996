"""Notices: names, commands and settings of runs; the registry's events are told once, in order, and by whoever is at it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from builders import write_artifact
from webhooks import Webhook, listening

from flows.cli.terminal import WEBHOOK, _without_webhook
from flows.hooks import Ended, ended, is_told, record_end
from flows.notices import mark_registry, subject_of, tell_registry
from flows.orchestrator.upkeep import RESULT_DAYS, UntoldEnds, remove_old_results, remove_old_server_logs
from pipeline_lib.config.base import StageConfig
from pipeline_lib.config.notify import NotifyConfig
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.outcomes import outcome_of
from pipeline_lib.search import registry
from pipeline_lib.search.registry import Candidate
from pipeline_lib.store.store import Store


class Numbered(StageConfig):
    """A config whose key is its number."""

    number: int


def candidate(store: Store, number: int) -> Candidate:
    model = write_artifact(
        store, "export", ["model"], lambda folder, _: (folder / "w").write_text(f"{number}"), Numbered(number=number)
    )
    content = json.dumps({"model_digest": model.digest, "number": number})
    index = write_artifact(
        store, "index", ["index"], lambda folder, _: (folder / "index.json").write_text(content), Numbered(number=number)
    )
    return Candidate(model, index, f"{number:024d}", "step-000010")


@pytest.fixture
def hook(tmp_path: Path) -> Iterator[Webhook]:
    with listening() as found:
        (tmp_path / "notify.yaml").write_text(f"notify: {{webhook: '{found.url}/root'}}")
        yield found


def test_what_becomes_of_models_is_told_once_and_in_order(tmp_path: Path, hook: Webhook) -> None:
    store = Store(tmp_path / "store")
    registry.promote(tmp_path, "docs", candidate(store, 1), "the first")
    mark_registry(tmp_path)
    assert tell_registry(tmp_path) == []
    registry.promote(tmp_path, "docs", candidate(store, 2), "better by 0.03")
    registry.record(tmp_path, "docs", {"event": "rejected", "why": "code is worse by 0.05; recall is low"})
    registry.rollback(tmp_path, "docs", why="users complained")
    registry.promote(tmp_path, "new", candidate(store, 3), "the first of its name")
    assert tell_registry(tmp_path, besides=["docs"]) == ["new was promoted in promote"]
    run = {"flow": "retrain", "run": "a-night", "run_id": "1"}
    told = NotifyConfig(webhook=f"{hook.url}/run")
    assert len(tell_registry(tmp_path, told, run)) == 3
    assert tell_registry(tmp_path) == []
    events = [(got["event"], got["name"], got["reason"]) for got in hook.got]
    assert events == [
        ("promotion", "new", "the first of its name"),
        ("promotion", "docs", "better by 0.03"),
        ("held_back", "docs", "code is worse by 0.05; recall is low"),
        ("rollback", "docs", "users complained"),
    ]
    assert hook.got[1]["run"] == "a-night" and hook.got[1]["next"].startswith("cpt search --name docs")
    assert hook.paths == ["/root", "/run", "/run", "/run"], "a run's own section comes first"


def test_the_platform_tells_of_a_rollback_and_leaves_a_run_at_work_to_tell_of_its_own(tmp_path: Path, hook: Webhook) -> None:
    store = Store(tmp_path / "store")
    registry.promote(tmp_path, "docs", candidate(store, 1))
    registry.promote(tmp_path, "docs", candidate(store, 2))
    untold = UntoldEnds(tmp_path)
    assert untold._tell_registry() == [], "what was there before it began"
    with outcome_of(tmp_path, "retrain", "docs") as held:
        held[0] = held[0].begun("a-night", "1")
    registry.rollback(tmp_path, "docs")
    assert untold._tell_registry() == []
    with outcome_of(tmp_path, "retrain", "docs") as held:
        held[0] = held[0].ended("a-night", "1", "completed")
    assert untold._tell_registry() == ["docs was rolled back in promote"]
    assert untold._tell_registry() == []


def test_a_subject_has_the_name_of_the_report_and_what_starts_it_again(tmp_path: Path) -> None:
    def subject(flow: str = "retrain", **params: object) -> tuple[str, str]:
        found = subject_of(flow, {"params": params})
        return found.name, found.command

    assert subject(preset="smoke", source="/data/My Docs") == ("my-docs", "cpt run --preset smoke --source '/data/My Docs'")
    assert subject(preset="smoke", name="mine", set=["train.steps=4"]) == (
        "mine",
        "cpt run --preset smoke --name mine --steps 4",
    )
    assert subject("finetune", checkpoint="abcd1234/step-000240", training_data=["x.jsonl"])[0] == "abcd1234/step-000240"
    artifacts = {"artifacts": "s3://bucket/x"}
    assert subject(preset="demo", machine=artifacts)[1] == "cpt run --preset demo --artifacts s3://bucket/x"
    assert subject(preset="none-such") == ("none-such", "cpt run --preset none-such")
    assert subject(preset="demo", nonsense=1) == ("demo", "cpt status"), "parameters that the flow refuses"
    assert subject("of-others") == ("of-others", "cpt status")


def test_a_run_s_own_section_is_that_of_its_file_and_settings(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("notify: {webhook: $FROM_FILE, on: [failure]}")
    found = subject_of("retrain", {"params": {"preset": "demo", "config": str(file), "set": ["notify.attempts=1"]}})
    assert (found.notify.webhook, found.notify.on, found.notify.attempts) == ("$FROM_FILE", ("failure",), 1)
    assert "--config" in found.command and "notify" not in found.command


def test_who_is_told_does_not_depend_on_what_the_run_fails_of(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {steps: none, gone: 3}\nnotify: {on: [failure]}")
    told = "notify.webhook=$HOOK"
    for wrong in (
        {"preset": "renamed"},
        {"config": str(tmp_path / "gone.yaml")},
        {"config": str(file)},
        {"set": [told, "train.gone=3"]},
        {"set": [told, "no word of a setting"]},
        {"source": 5},
    ):
        found = subject_of("retrain", {"params": {"preset": "smoke", "set": [told], **wrong}})
        assert found.notify.webhook == "$HOOK", wrong
        assert (found.notify.on == ("failure",)) == (wrong.get("config") == str(file))
    for nothing in (None, "smoke", 3, {"set": "notify.webhook=$HOOK"}):
        assert subject_of("retrain", {"params": nothing}).notify == NotifyConfig()


def test_only_a_look_at_what_a_run_would_do_is_not_told() -> None:
    from prefect.client.schemas.objects import FlowRun

    def told(**params: object) -> bool:
        return is_told(FlowRun(flow_id=uuid4(), parameters={"params": params}))

    assert told() and told(dry_run=False) and told(dry_run="false") and told(dry_run=None) and told(dry_run="")
    assert not told(dry_run=True) and not told(dry_run="true")


def test_a_failure_is_told_though_its_record_cannot_be_written(tmp_path: Path, hook: Webhook) -> None:
    (tmp_path / "outcomes").write_text("in the way, as a full disk is")
    subject = subject_of("retrain", {"params": {"preset": "smoke", "name": "docs"}})
    end = Ended("a-night", "1", "failed", "the disk is full", "extract")
    assert record_end(tmp_path, subject, end) is not None
    assert [got["subject"] for got in hook.got] == ["retrain docs failed in extract"]


def test_a_failure_is_told_though_the_registry_is_damaged(
    tmp_path: Path, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow
    from prefect.client.schemas.objects import FlowRun
    from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
    from prefect.states import Failed

    monkeypatch.setenv("CPT_HOME", str(tmp_path))
    (tmp_path / "current.json").write_text("[]")
    run = FlowRun(flow_id=uuid4(), name="a-night", parameters={"params": {"preset": "smoke", "name": "docs"}})
    error = UserError("no room")
    error.stage_name = "extract"  # type: ignore[attr-defined]  # as a stage notes it; else the server would be asked
    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}):
        ended(flow(lambda params: None, name="retrain"), run, Failed(data=error))
    assert [(got["subject"], got["reason"]) for got in hook.got] == [("retrain docs failed in extract", "UserError: no room")]


def test_a_url_that_is_typed_goes_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEBHOOK, raising=False)
    words = _without_webhook(["train.steps=4", "notify.webhook=https://h.example/s3cr3t", "notify.on=[failure]"])
    assert words == ["train.steps=4", f"notify.webhook=${WEBHOOK}", "notify.on=[failure]"]
    assert os.environ[WEBHOOK] == "https://h.example/s3cr3t"


def test_results_of_failed_runs_and_logs_of_servers_do_not_grow_for_ever(tmp_path: Path) -> None:
    storage, servers = tmp_path / "prefect" / "storage", tmp_path / "prefect" / "servers"
    for folder in (storage, servers):
        folder.mkdir(parents=True)
    for age in range(60):
        (storage / f"{age}").write_text("{}")
        then = time.time() - age * 86_400 - 60
        os.utime(storage / f"{age}", (then, then))
        (servers / f"run-{age}.log").write_text("")
        os.utime(servers / f"run-{age}.log", (then, then))
    assert remove_old_results(tmp_path) == 60 - RESULT_DAYS
    assert sorted(int(path.name) for path in storage.iterdir()) == list(range(int(RESULT_DAYS)))
    assert remove_old_server_logs(tmp_path, [servers / "run-59.log"]) == 39
    assert {path.name for path in servers.iterdir()} == {f"run-{age}.log" for age in [*range(20), 59]}
