"""Promotion through the real flows and a real Prefect server: by gate, by a person's click, kept back, and the way back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline_lib.evaluation.report_data import NOT_TESTED
from pipeline_lib.search.registry import champion, default_name, history, in_use, names

PROJECT = Path(__file__).parents[2]

FLOWS = """
import json, os, sys, threading, time, urllib.request
from pathlib import Path

from flows.orchestrator.api import answer_to
from flows.cli.terminal import with_server
from flows.params import PublishParams, RunParams

asked, answers = [], {}


def call(path, body):
    request = urllib.request.Request(os.environ["PREFECT_API_URL"] + path, json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    return json.loads(answer_to(request, 200) or "null")


def click(run_input):
    # what the UI's button does, once a run has paused
    while True:
        paused = call("/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}})
        if paused:
            break
        time.sleep(0.3)
    run, rows = paused[0], []
    while not any(row["key"].endswith("-description") for row in rows):  # a moment after the state and the form
        time.sleep(0.3)
        rows = call(f"/flow_runs/{run['id']}/input/filter", {"prefix": "paused", "limit": 9})
    asked.append({"name": run["name"], "parent": run["parent_task_run_id"], "inputs": rows})
    time.sleep(1)
    call(f"/flow_runs/{run['id']}/resume", {"run_input": run_input})


def clicked(run_input, params):
    from flows.publish import publish

    clicker = threading.Thread(target=click, args=(run_input,), daemon=True)
    clicker.start()
    ref = publish(params)
    clicker.join(20)
    return ref.promotion


def opened():
    # evaluations on a test split
    found = Path(os.environ["CPT_HOME"]).glob("store/evaluate_suite/*/manifest.json")
    return sum(json.loads(path.read_text())["config"]["split"] == "test" for path in found)


def all_flows():
    from flows.promotion import RollbackParams, rollback
    from flows.publish import publish
    from flows.retrain import retrain

    source = sys.argv[1]
    words = ["tests_plumbing=false", "train.steps=20", "promote.confidence=0.5", "promote.sample_queries=8",
             "promote.margins={code_search: 1, text_search: 1, classification: 1, similarity: 2}"]
    report = retrain(RunParams(preset="smoke", source=source, name="mine", set=words, promote="never"))
    key = report["lineage"]["train"]["key"]
    early, late = f"{key}/step-000004", f"{key}/step-000020"

    def published(checkpoint, promote, *more, **fields):
        return PublishParams(checkpoint=checkpoint, promote=promote, set=[*words[2:], *more], **fields)

    answers["kept back"] = report["promotion"]
    answers["first"] = publish(published(early, "gate")).promotion
    answers["better"] = publish(published(late, "gate")).promotion
    answers["again"] = publish(published(late, "gate")).promotion
    answers["worse"] = publish(published(early, "gate")).promotion
    answers["no"] = clicked({"promote": False, "reason": "too early"}, published(early, "ask"))
    answers["yes"] = clicked({"promote": True, "reason": "a look at it"}, published(early, "ask"))
    soon = [*words, "promote.ask_hours=0.0003"]
    answers["nobody"] = retrain(
        RunParams(preset="smoke", source=source, name="mine", set=soon, promote="ask"))["promotion"]
    answers["reported"] = retrain(
        RunParams(preset="smoke", source=source, name="mine", set=words, promote="gate"))["promotion"]
    began = time.monotonic()
    answers["back"] = rollback(RollbackParams(name="mine", reason="drill")).model_dump()
    answers["rollback seconds"] = time.monotonic() - began
    before, worse = opened(), [*words, "train.learning_rate=1.0e-9", "train.checkpoints=1"]
    answers["held back"] = retrain(
        RunParams(preset="smoke", source=source, name="mine", set=worse, promote="gate"))
    answers["opened"] = [before, opened()]
    chosen = answers["held back"]["lineage"]["train"]["key"] + "/step-000020"
    card = publish(published(chosen, "gate", "promote.margins={code_search: 1}"))
    answers["held back by name"] = {"test": card.test, "page": (Path(card.folder) / "README.md").read_text()}
    answers["opened"].append(opened())
    answers["published"] = publish(PublishParams(checkpoint=chosen, promote="always")).model_dump(mode="json")
    answers["opened"].append(opened())
    rollback(RollbackParams(name="mine"))
    answers["smoke"] = retrain(
        RunParams(preset="smoke", source=source, set=["train.steps=20"], name="mine"))["promotion"]
    answers["smoke alone"] = publish(PublishParams(preset="smoke", source=source, set=["train.steps=20"])).promotion
    tables = call("/artifacts/filter", {"artifacts": {"key": {"any_": ["promotion-mine"]}}, "limit": 200})
    answers["tables"] = [json.loads(row["data"]) if isinstance(row["data"], str) else row["data"] for row in tables]
    answers["said"] = [row["description"] for row in tables]
    return {**answers, "asked": asked, "key": key}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(with_server(all_flows)))
"""


class Ran(NamedTuple):
    home: Path
    answers: dict[str, Any]
    key: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return history(self.home, "mine")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Ran:
    home = tmp_path_factory.mktemp("home")
    program, answers = home / "flows_of_test.py", home / "answers.json"
    program.write_text(FLOWS)
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    env |= {"CPT_HOME": str(home), "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, str(program), str(corpus), str(answers)]
    done = subprocess.run(command, env=env, cwd=PROJECT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    found = json.loads(answers.read_text())
    return Ran(home, found, found["key"])


def test_each_event_stands_in_the_history_with_its_reason(ran: Ran) -> None:
    told = [
        (event["event"], event.get("candidate", "").rpartition("-")[2], event["why"].partition(":")[0]) for event in ran.events
    ]
    assert told[:3] == [
        ("kept back", "000020", "--no-promote (promote"),
        ("promoted", "000004", "the first of its name"),
        ("promoted", "000020", "better than the champion"),
    ]
    assert told[3][:2] == ("rejected", "000004") and "weighted score" in ran.events[3]["why"]
    assert ran.events[4]["why"].startswith("a person said no: too early; weighted score")
    assert (told[5][0], ran.events[5]["why"]) == ("promoted", "a person said yes: a look at it")
    assert (told[6][0], ran.events[6]["why"]) == ("rejected", "nobody answered within 0.0003 h")
    later = ["promoted", "rolled back", "rejected", "rejected", "promoted", "rolled back", "tried"]
    assert [event["event"] for event in ran.events[7:]] == later


def test_what_is_found_in_use_is_no_event_and_no_comparison(ran: Ran) -> None:
    assert ran.answers["again"] == {"name": "mine", "event": "in use", "sentence": "in use already"}


def test_the_comparison_says_how_often_validation_was_read(ran: Ran) -> None:
    compared = [event["comparison"] for event in ran.events if "comparison" in event]
    assert [row["validation_used"] for row in compared] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert {row["validation"] for row in compared} == {in_use(ran.home, "mine").keys["curate"]}
    (score,) = [check for check in compared[0]["checks"] if check["what"] == "weighted score"]
    assert score["passed"] and score["low"] > 0 and score["candidate"] > score["champion"]
    (recall,) = [check for check in compared[0]["checks"] if check["what"].startswith("index recall")]
    (shared,) = [check for check in compared[0]["checks"] if "in common" in check["what"]]
    assert recall["candidate"] == 1.0 and 0 <= shared["candidate"] <= 1 and shared["passed"] is None


def test_the_table_in_the_ui_says_what_held_it_back(ran: Ran) -> None:
    assert len(ran.answers["tables"]) == 8
    assert any("Held back: weighted score" in said for said in ran.answers["said"])
    assert {row["what"] for row in ran.answers["tables"][0]} >= {"weighted score", "code search", "contracts"}


def test_the_run_itself_pauses_with_the_table_and_a_form(ran: Ran) -> None:
    assert len(ran.answers["asked"]) == 2
    for asked in ran.answers["asked"]:
        assert asked["name"].startswith("publish-") and asked["parent"] is None
        assert "weighted score" in json.dumps(asked["inputs"])


def test_the_report_tells_what_became_of_the_model(ran: Ran) -> None:
    report = json.loads((ran.home / "reports" / "mine" / "report.json").read_text())
    reported = ran.answers["reported"]
    assert reported["event"] == "promoted" and reported["comparison"]["checks"]
    page = (ran.home / "reports" / "mine" / "report.html").read_text()
    assert 'id="promotion"' in page and report["promotion"]["name"] == "mine"


def test_a_candidate_that_is_held_back_does_not_open_the_test_split(ran: Ran) -> None:
    report, (before, gated, by_name, published) = ran.answers["held back"], ran.answers["opened"]
    assert report["promotion"]["event"] == "rejected" and before == gated == by_name < published
    assert report["test"] == {} and report["validation"] and NOT_TESTED in report["notes"]
    page = (Path(report["export"]) / "README.md").read_text()
    assert NOT_TESTED in page and "| code_search" in page and "Not measured." in page.partition("## Bias")[2]
    assert ran.answers["held back by name"]["test"] is None and NOT_TESTED in ran.answers["held back by name"]["page"]
    after = ran.answers["published"]
    assert after["test"]["split"] == "test" and NOT_TESTED not in (Path(after["folder"]) / "README.md").read_text()


def test_the_history_says_for_which_candidates_the_test_split_was_opened(ran: Ran) -> None:
    measured = [bool(event.get("tested_on")) for event in ran.events if event["event"] != "rolled back"]
    assert measured == [event["event"] != "rejected" for event in ran.events if event["event"] != "rolled back"]
    assert {event["tested_on"] for event in ran.events if "tested_on" in event} == {in_use(ran.home, "mine").keys["curate"]}


def test_back_in_seconds(ran: Ran) -> None:
    assert ran.answers["back"]["checkpoint"].endswith("step-000004") and ran.answers["rollback seconds"] < 2
    assert champion(ran.home, "mine").checkpoint == "step-000004"  # type: ignore[union-attr]
    assert ran.events[8]["why"] == "drill"


def test_smoke_promotes_nothing(ran: Ran) -> None:
    assert ran.answers["smoke"]["event"] == "tried" and "not promoted" in ran.answers["smoke"]["sentence"]
    assert names(ran.home) == ["mine", "tree"] and champion(ran.home, "tree") is None
    assert in_use(ran.home, "tree").is_trial and default_name(ran.home) == "mine"
