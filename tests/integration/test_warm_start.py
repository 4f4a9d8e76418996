"""A corpus that grows twice, and starts from finished runs by all of their names, through the real flows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from corpus import write_corpus

from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

PROJECT = Path(__file__).parents[2]

FLOWS = """
import json, sys
from pathlib import Path

from corpus import write_corpus
from flows.cli.terminal import with_server
from flows.params import RunParams, TrainParams
from pipeline_lib.errors import UserError


def refusal(flow, params):
    try:
        flow(params)
    except UserError as error:
        return str(error)


def all_flows():
    from flows.retrain import retrain
    from flows.train import train

    source = Path(sys.argv[1])
    grows = {"preset": "smoke", "source": str(source), "set": ["train.steps=8", "train.when_grown=continue"]}
    restarts = {"preset": "smoke", "source": str(source), "set": ["train.steps=8"]}
    answers = {"first": train(TrainParams(**grows)).model_dump()}
    write_corpus(source / "more", packages=6, functions=8, seed=21)
    answers["second"] = train(TrainParams(**grows)).model_dump()
    answers["second again"] = train(TrainParams(**grows)).model_dump()
    write_corpus(source / "most", packages=6, functions=8, seed=22)
    answers["third"] = retrain(RunParams(**grows))
    answers["by name"] = train(TrainParams(**restarts, init="tree")).model_dump()
    key = answers["second"]["trained"]
    answers["by key"] = train(TrainParams(**restarts, init=f"{key[:6]}/step-000002")).model_dump()
    longer = {"set": ["train.steps=6", f"train.continue_from={key[:6]}"]}
    answers["longer"] = train(TrainParams(**restarts | longer)).model_dump()
    answers["refused"] = {
        "pre-training": refusal(train, TrainParams(**restarts | {"set": ["pretrain.steps=2"]}, init="published")),
        "no run": refusal(train, TrainParams(**restarts, init="0123/step-000002")),
        "too long": refusal(train, TrainParams(**restarts | {"set": ["shards.max_y_tokens=99"]}, init="published")),
        "both": refusal(train, TrainParams(**restarts | {"set": ["train.continue_from=tree"]}, init="tree")),
        "not longer": refusal(train, TrainParams(**restarts | {"set": ["train.steps=2", "train.continue_from=tree"]})),
    }
    return answers


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(with_server(all_flows)))
"""


class Ran(NamedTuple):
    store: Store
    answers: dict[str, Any]

    def run(self, name: str) -> Artifact:
        return self.store.open("train", self.answers[name]["trained"])

    def origin(self, name: str) -> dict[str, Any]:
        return json.loads(self.run(name).note("origin.json") or b"")


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    place = tmp_path_factory.mktemp("grown")
    source = write_corpus(place / "tree", packages=14, functions=8)
    (place / "flows_of_the_test.py").write_text(FLOWS)
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    path = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
    answer = subprocess.run(
        [sys.executable, str(place / "flows_of_the_test.py"), str(source), str(place / "answers.json")],
        env=env | {"CPT_HOME": str(place / "home"), "PYTHONPATH": path},
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr[-4000:]
    return Ran(Store(place / "home" / "store"), json.loads((place / "answers.json").read_text()))


def test_training_goes_on_where_the_data_have_grown_and_only_there(ran: Ran) -> None:
    first, second = ran.run("first"), ran.run("second")
    assert "parent" not in first.manifest.inputs and first.manifest.facts["step"] == 8
    assert second.manifest.inputs["parent"] == first.digest
    assert second.manifest.inputs["tokenizer"] == first.manifest.inputs["tokenizer"]
    assert second.manifest.inputs["shards"] != first.manifest.inputs["shards"]
    assert second.manifest.facts["step"] == 2, "a quarter of the steps"
    assert second.manifest.config["model"]["init"] == first.part("step-000008").digest
    assert ran.origin("second")["parent"] == f"{first.manifest.key}/step-000008"
    assert ran.answers["second again"] == ran.answers["second"]


def test_a_whole_run_on_a_corpus_that_grew_twice_tells_where_it_comes_from(ran: Ran) -> None:
    report = ran.answers["third"]
    third, second = ran.store.open("train", report["lineage"]["train"]["key"]), ran.run("second")
    assert third.manifest.inputs["parent"] == second.digest and third.manifest.facts["step"] == 2
    assert report["lineage"]["start"]["key"] == second.manifest.key and report["lineage"]["start"]["reused"]
    card = (Path(report["export"]) / "README.md").read_text()
    names = [
        f"the checkpoint {run.manifest.key}/{label}"
        for run, label in ((second, "step-000002"), (ran.run("first"), "step-000008"))
    ]
    assert f"{names[0]} (which started from {names[1]} (which started from a new causal transformer" in card
    assert f"| training's parent | `{second.digest}` |" in card
    assert "cpt run --preset smoke --source tree --steps 8 --set train.when_grown=continue" in card


def test_any_finished_run_is_a_start_by_each_of_its_names(ran: Ran) -> None:
    third = ran.store.open("train", ran.answers["third"]["lineage"]["train"]["key"])
    second, last = ran.run("second"), third.part("step-000002")
    named = ran.run("by name")
    assert named.manifest.config["model"]["init"] == last.digest, "the newest run of that report, and its last checkpoint"
    assert named.manifest.facts["step"] == 8 and named.manifest.config["config"]["temperature"] != 0.07
    temperature = json.loads((third.part_folder("step-000002") / "state.json").read_text())["temperature"]
    assert named.manifest.config["config"]["temperature"] == temperature
    assert ran.origin("by name")["params"]["init"] == f"{third.manifest.key}/step-000002", "told by its key"
    by_key = ran.run("by key")
    assert by_key.manifest.config["model"]["init"] == second.part("step-000002").digest
    assert by_key.manifest.inputs["parent"] == second.digest
    assert by_key.manifest.inputs["tokenizer"] == second.manifest.inputs["tokenizer"]


def test_a_run_is_lengthened_behind_its_last_step(ran: Ran) -> None:
    longer, second = ran.run("longer"), ran.run("second")
    assert [part.label for part in longer.manifest.parts] == [
        "step-000003",
        "step-000004",
        "step-000005",
        "step-000006",
        "metrics",
    ]
    assert (longer.manifest.inputs["parent"], longer.manifest.facts["pairs_seen"]) == (second.digest, 6 * 64)
    rows, before = (
        [json.loads(line) for line in (run.part_folder("metrics") / "metrics.jsonl").read_text().splitlines()]
        for run in (longer, second)
    )
    assert rows[:2] == before and [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_what_cannot_be_a_start_is_refused(ran: Ran) -> None:
    refused = ran.answers["refused"]
    assert "is no language model that could be pre-trained" in refused["pre-training"]
    assert "0123/step-000002: no finished run of that key or name" in refused["no run"]
    assert "has 64 positions, and texts are up to 99 tokens long" in refused["too long"]
    assert "train.continue_from is tree, and a start is given too (tree)" in refused["both"]
    assert "set train.steps to those of both runs together" in refused["not longer"]
