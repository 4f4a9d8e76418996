"""A checkpoint that is named by its key is measured and published as its own run, whatever stands beside the name.

Two runs of other corpora, tokenizers and delimiters, and one that is tuned from the second, through the real flows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from corpus import NOUNS, write_corpus

from pipeline_lib.evaluation.metrics import read_evaluations
from pipeline_lib.store.store import Store

pytestmark = pytest.mark.slow  # two minutes
PROJECT = Path(__file__).parents[2]

FLOWS = """
import json, sys
from pathlib import Path

from flows.params import EvaluateParams, FinetuneParams, PublishParams, RunParams, TrainParams
from flows.cli.terminal import with_server
from flows.runs import open_store
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.machine import artifact_home
from pipeline_lib.search.registry import Candidate, promote


def manifests():
    return sorted(path.parent.parent.name for path in (artifact_home() / "store").glob("*/*/manifest.json"))


def refusal(flow, params):
    try:
        flow(params)
    except UserError as error:
        return str(error)


def times_opened(work, flow, params):
    # a start is looked for where a workspace is opened, and nowhere else in a flow
    opened, find_start = [], work.find_start
    work.find_start = lambda *words: opened.append(words) or find_start(*words)
    flow(params)
    work.find_start = find_start
    return len(opened)


def all_flows():
    from flows import workspace
    from flows.evaluate import evaluate
    from flows.finetune import finetune
    from flows.publish import publish
    from flows.retrain import retrain
    from flows.train import train

    first, second, sets = sys.argv[1:4]
    a = {"preset": "smoke", "source": first, "set": ["train.steps=6"]}
    b = {"preset": "smoke", "source": second, "set": ["train.steps=10", "tokenizer.delimiters=shared", "extract.workers=1"]}
    runs = {"a": train(TrainParams(**a)), "b": train(TrainParams(**b))}
    name = f"{runs['b'].trained}/step-000010"
    answers = {"runs": {key: run.model_dump() for key, run in runs.items()}}
    answers["by its parameters"] = evaluate(EvaluateParams(**b, models=["step-000010"], split="test")).model_dump()
    before = manifests()
    answers["beside others"] = evaluate(EvaluateParams(**a, models=[name], split="test")).model_dump()
    answers["alone"] = evaluate(EvaluateParams(models=[name], split="test")).model_dump()
    answers["made by measuring"] = len(manifests()) - len(before)
    selected = publish(PublishParams(**b))
    answers["as a run"] = selected.model_dump()
    chosen = f"{selected.trained}/{selected.checkpoint}"
    answers["published"] = publish(PublishParams(**a, checkpoint=chosen)).model_dump()
    tuned = finetune(FinetuneParams(checkpoint=name, training_data=[sets], set=["training.epochs=2", "training.batch_size=20"]))
    answers["tuned"] = tuned.model_dump()
    answers["tuned, published"] = publish(PublishParams(**a, checkpoint=tuned.checkpoint)).model_dump()
    answers["stages"] = {stage: manifests().count(stage) for stage in ("curate", "tokenizer", "shards", "train")}
    answers["the published one"] = evaluate(EvaluateParams(split="test")).model_dump()
    answers["another model"] = evaluate(EvaluateParams(models=["tfidf", f"mine={selected.folder}"], split="test")).model_dump()
    one = EvaluateParams(models=[f"{runs['a'].trained}/step-000006", "tfidf"], suites=["code_search_held_out"], split="test")
    answers["one suite"] = evaluate(one).model_dump()
    answers["its whole run"] = evaluate(EvaluateParams(models=[runs["a"].trained])).model_dump()
    store = open_store()
    pair = Candidate(store.open("export", selected.export), store.open("index", selected.index), *chosen.split("/"))
    promote(artifact_home(), "best", pair)
    beside = EvaluateParams(models=[runs["b"].trained], split="test", set=("evaluate.against=best",))
    answers["beside the champion"] = evaluate(beside).model_dump() | {"chosen": chosen}
    answers["without one"] = evaluate(EvaluateParams(models=[name], split="test", set=("evaluate.against=none",))).model_dump()
    answers["opened"] = times_opened(workspace, retrain, RunParams(**a))
    of_both = [name, f"{runs['a'].trained}/step-000006"]
    answers["refused"] = {
        "runs": refusal(evaluate, EvaluateParams(models=of_both)),
        "name": refusal(evaluate, EvaluateParams(models=[name], set=("evaluate.against=nobody",))),
        "label": refusal(evaluate, EvaluateParams(models=[f"{runs['b'].trained}/step-000011"])),
        "planned": refusal(evaluate, EvaluateParams(**a, models=["step-000010"])),
        "key": refusal(publish, PublishParams(checkpoint="0123/step-000010")),
    }
    return answers


if __name__ == "__main__":
    Path(sys.argv[4]).write_text(json.dumps(with_server(all_flows)))
"""


class Ran(NamedTuple):
    home: Path
    place: Path
    answers: dict[str, Any]

    @property
    def store(self) -> Store:
        return Store(self.home / "store")

    def figures(self, found: dict[str, Any]) -> list[dict[str, Any]]:
        keys = [key for keys in found["checkpoints"].values() for key in keys]
        return read_evaluations([self.store.open("evaluate_suite", key) for key in keys])

    def card(self, published: dict[str, Any]) -> str:
        return (Path(published["folder"]) / "README.md").read_text()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    place = tmp_path_factory.mktemp("named")
    first = write_corpus(place / "first tree", packages=14, functions=8)
    second = write_corpus(place / "second", packages=16, functions=8, seed=8)
    lines = [
        {"anchor": f"{noun} {n}", "positive": f"the {noun}", "negative": f"{NOUNS[n - 9]} {n}"} for n, noun in enumerate(NOUNS)
    ]
    (place / "a set.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (place / "flows_of_the_test.py").write_text(FLOWS)
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    words = [str(first), str(second), f"nouns={place / 'a set.jsonl'}", str(place / "answers.json")]
    answer = subprocess.run(
        [sys.executable, str(place / "flows_of_the_test.py"), *words],
        env=env | {"CPT_HOME": str(place / "home"), "PYTHONPATH": str(PROJECT)},
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr[-4000:]
    assert "comes with its own data and parameters" in answer.stderr
    return Ran(place / "home", place, json.loads((place / "answers.json").read_text()))


def test_its_figures_are_those_of_its_own_run(ran: Ran) -> None:
    own = ran.figures(ran.answers["by its parameters"])
    assert len(own) > 5
    for way in ("beside others", "alone"):
        assert ran.answers[way]["checkpoints"] == ran.answers["by its parameters"]["checkpoints"]
        assert ran.figures(ran.answers[way]) == own


def test_the_published_model_and_a_whole_run_are_measured_by_name(ran: Ran) -> None:
    published, tuned = ran.answers["the published one"], ran.answers["tuned, published"]
    own = {name: keys for name, keys in tuned["test"]["checkpoints"].items() if name != "hybrid"}  # of an index not in use
    assert published["checkpoints"] == own
    of_run = ran.store.open("train", ran.answers["runs"]["a"]["trained"]).manifest.parts
    other, baselines = ran.answers["another model"]["checkpoints"].values()
    measured = {row["task"]: row for row in read_evaluations(ran.store.open("evaluate_suite", key) for key in other)}
    assert measured and {row["model"] for row in measured.values()} == {"mine"} and baselines
    labels = set(ran.answers["its whole run"]["checkpoints"]) - {"baselines"}
    assert labels == {part.label for part in of_run if part.label.startswith("step")}


def test_models_stand_beside_the_champion_on_the_same_queries(ran: Ran) -> None:
    found, without = ran.answers["beside the champion"], ran.answers["without one"]
    assert found["champion"] == found["chosen"] and without["champion"] is None
    page = Path(found["page"])
    assert page.parent == ran.home / "reports" / "second" / "evaluations" and page != Path(without["page"])
    told = json.loads(page.with_suffix(".json").read_text())
    values = {(row["model"], row["task"], row["metric"]): row["value"] for row in told["evaluations"]}
    labels = set(found["checkpoints"]) - {"baselines", found["chosen"].split("/")[1]}
    assert {row["model"] for row in told["differences"]} >= labels, "each but the champion itself"
    for row in told["differences"]:
        mine, theirs = (values[model, row["task"], row["metric"]] for model in (row["model"], "champion"))
        assert row["mean"] == pytest.approx(mine - theirs)
        assert row["low"] <= row["mean"] <= row["high"]
    assert json.loads(Path(without["page"]).with_suffix(".json").read_text())["differences"] == []
    assert "nobody" in ran.answers["refused"]["name"] and "best" in ran.answers["refused"]["name"]


def test_one_held_out_suite_is_measured_by_name(ran: Ran) -> None:
    found = ran.answers["one suite"]["checkpoints"]
    evaluations = [ran.store.open("evaluate_suite", key) for keys in found.values() for key in keys]
    assert set(found) > {"baselines"} and {a.manifest.config["suite"] for a in evaluations} == {"code_search_held_out"}


def test_a_run_opens_its_workspace_once(ran: Ran) -> None:
    assert ran.answers["opened"] == 1


def test_measuring_it_trains_and_builds_nothing(ran: Ran) -> None:
    assert ran.answers["made by measuring"] == 0
    runs = ran.answers["runs"]
    assert {ran.answers["published"]["trained"], ran.answers["as a run"]["trained"]} == {runs["b"]["trained"]}
    assert ran.answers["stages"] == {"curate": 2, "tokenizer": 2, "shards": 3, "train": 3}


def test_it_is_published_with_its_own_tokenizer_and_corpus(ran: Ran) -> None:
    published, own = ran.answers["published"], ran.answers["runs"]["b"]["dataset"]
    assert published["dataset"] | {"checked": None} == own | {"checked": None}
    exported = ran.store.open("export", published["export"])
    trained = ran.store.open("train", published["trained"])
    assert exported.manifest.inputs["tokenizer"] == trained.manifest.inputs["tokenizer"]
    assert exported.manifest.facts["distinct"] is False
    index = ran.store.open("index", published["index"])
    assert index.manifest.inputs["curated"] == ran.store.open("curate", own["curated"]).digest


def test_one_export_has_the_card_of_each_run_in_its_own_folder(ran: Ran) -> None:
    """A checkpoint is published as the one that selection chose, and by its name: one model, two commands."""
    named, selected = ran.answers["published"], ran.answers["as a run"]
    command = "cpt run --preset smoke --source second --delimiters shared --steps 10"
    assert f"\n{command}\n" in ran.card(selected)
    assert f"\n{command.replace('run', 'publish', 1)} --checkpoint {named['checkpoint']}\n" in ran.card(named)
    assert "The folder second." in ran.card(named) and str(ran.place) not in ran.card(named) + ran.card(selected)
    assert named["folder"] != selected["folder"]
    assert (named["export"], named["index"]) == (selected["export"], selected["index"])
    weights = Path("encoder/model.safetensors")
    exported = ran.store.open("export", named["export"]).part_folder()
    assert (exported / weights).samefile(Path(named["folder"]) / weights), "linked, not copied"


def test_a_tuned_checkpoint_prints_what_makes_it(ran: Ran) -> None:
    tuned, published = ran.answers["tuned"], ran.answers["tuned, published"]
    again = ran.card(published).split("## Again\n\n```\n")[1].split("\n```")[0].splitlines()
    assert again == [
        "cpt train --preset smoke --source second --delimiters shared --steps 10",
        f"cpt finetune --checkpoint {tuned['before']} --training-data 'nouns=a set.jsonl' --epochs 2 --batch-size 20",
        f"cpt publish --checkpoint {tuned['checkpoint']}",
    ]
    assert published["trained"] == tuned["checkpoint"].split("/")[0]
    assert published["dataset"]["curated"] == ran.answers["runs"]["b"]["dataset"]["curated"]


@pytest.mark.parametrize(
    ("way", "says"),
    [
        ("runs", ["checkpoints of several runs"]),
        ("label", ["step-000011", "step-000008", "step-000010"]),
        ("planned", ["step-000010", "step-000006", "Finished runs that do: "]),
        ("key", ["no finished train artifact '0123'", "there are"]),
    ],
)
def test_what_does_not_fit_is_refused(ran: Ran, way: str, says: list[str]) -> None:
    message = ran.answers["refused"][way]
    assert message and all(words in message for words in says), message
