"""`cpt runs`: what a store and its reports say of each training run, the newest first."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from builders import write_artifact
from typer.testing import CliRunner

from flows.cli.commands import app
from flows.cli.runs import find_runs
from flows.params import RunParams
from flows.runs import check_start, given_source, name_in_registry
from pipeline_lib.config.base import StageConfig
from pipeline_lib.config.overrides import apply
from pipeline_lib.config.run import RunConfig
from pipeline_lib.errors import UserError
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.search.registry import Candidate, promote
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Outcome, Stage, draft_part
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.delimiters import Delimiters


class Named(StageConfig):
    """A config whose key is its label."""

    label: str


def make(store: Store, stage: str, label: str, labels: tuple[str, ...], inputs: dict[str, Artifact] | None = None) -> Artifact:
    def build(key: str) -> Outcome:
        parts = []
        for name in labels:
            scratch = store.scratch(stage)
            (scratch / "content").write_text(f"{label} {name}")
            parts.append(store.commit_part(draft_part(Stage(name=stage, version=1), f"{key}-{name}", name), scratch))
        return Outcome(parts=tuple(parts))

    return store.build(Stage(name=stage, version=1), Named(label=label), inputs or {}, build)


def write_report(folder: Path, trained: Artifact, mrr: float) -> None:
    task = {"kind": "code_search", "model": {"mrr": mrr}, "bm25": {"mrr": 0.1}}
    report = {
        "name": "mine",
        "lineage": {"train": {"key": trained.manifest.key}},
        "selection": {"chosen": "step-000010"},
        "test": {"code_search_1k": task},
    }
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two runs, the first with a report and published as it was at step 5, the second tuned from it."""
    store = Store(tmp_path / "store")
    first = make(store, "train", "first", ("step-000005", "step-000010", "metrics"))
    first.add_note("run.json", b'{"started_at": 1000.0}')
    params = {"params": {"preset": "demo", "source": "/src/mine", "name": ""}, "keys": {"curate": "c0ffee"}}
    first.add_note("origin.json", json.dumps(params).encode())
    tuned = make(store, "train", "second", ("step-000002",))
    tuned.add_note("run.json", b'{"started_at": 2000.0}')
    origin = {"tuning": {"checkpoint": f"{first.manifest.key}/step-000010", "data": ["nli=a.jsonl"]}}
    tuned.add_note("origin.json", json.dumps(origin).encode())
    exported = make(store, "export", "step-000005", ("model",), {"trained": first})
    pair = {"model": "m", "model_digest": exported.digest, "index": "i", "index_digest": "d", "run": "mine"}
    (tmp_path / "current.json").write_text(json.dumps(pair))
    write_report(tmp_path / "reports" / "mine" / "aaaa-1", first, 0.4)
    write_report(tmp_path / "reports" / "mine" / "aaaa-2", first, 0.5)
    os.utime(tmp_path / "reports" / "mine" / "aaaa-1" / "report.json", (1, 1))
    return tmp_path


def test_each_run_with_what_it_came_from_and_the_champion(home: Path) -> None:
    tuned, first = find_runs(home, Store(home / "store"))
    assert (tuned.name, tuned.checkpoints, tuned.figures, tuned.champion) == ("tuned", ("step-000002",), {}, "")
    assert tuned.source == f"{first.key}/step-000010 nli=a.jsonl" and tuned.made == "1970-01-01T00:33:20+00:00"
    assert (first.name, first.source, first.checkpoints) == ("mine", "/src/mine", ("step-000005", "step-000010"))
    assert (first.chosen, first.champion) == ("step-000010", "step-000005"), "another one was published by hand"
    assert first.figures == {"code_search": 0.5} and first.report.endswith("aaaa-2"), "of its newest report"
    assert first.keys == {"curate": "c0ffee"}


def test_the_table_and_the_json_name_what_commands_take(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPT_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "140")
    printed = CliRunner().invoke(app, ["runs"]).stdout
    tuned, first = json.loads(CliRunner().invoke(app, ["runs", "--json"]).stdout)
    (line,) = (line for line in printed.splitlines() if line.startswith("* ") and " is what " not in line)
    assert f"{first['key'][:8]}/step-000005" in line and "0.500" in line and "/src/mine" in line
    assert f"{tuned['key'][:8]}/step-000002" in printed
    assert Store(home / "store").find_key("train", first["key"][:8]) == first["key"]


def test_an_empty_root_says_how_to_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPT_HOME", str(tmp_path))
    assert "cpt run --preset demo" in CliRunner().invoke(app, ["runs"]).stdout
    assert CliRunner().invoke(app, ["runs", "--json"]).stdout.strip() == "[]"


def published(home: Path, name: str, source: str) -> None:
    store = Store(home / "store")
    model = make(store, "export", name, ("model",))
    record = json.dumps({"model_digest": model.digest})
    index = write_artifact(store, "index", ["index"], lambda folder, _: (folder / "index.json").write_text(record))
    promote(home, name, Candidate(model, index, source=source))


def named(home: Path, **given: Any) -> tuple[str, str]:
    params = RunParams(preset="smoke", **given)
    return name_in_registry(params.resolve(), params.settings(), home)


def test_a_folders_run_takes_no_name_of_another_source_or_of_a_preset(tmp_path: Path) -> None:
    assert named(tmp_path) == ("smoke", "") and named(tmp_path, source="/a/src") == ("src", "")
    published(tmp_path, "src", given_source(RunParams(preset="smoke", source="/a/src").resolve()))
    assert named(tmp_path, source="/a/src") == ("src", "")
    other, why = named(tmp_path, source="/b/src")
    assert re.fullmatch("src-[0-9a-f]{4}", other) and "another source" in why and "--name src takes it" in why
    assert named(tmp_path, source="/b/src", name="src") == ("src", ""), "who names it means it"
    assert named(tmp_path, source="/b/src", name="mine") == ("mine", "")
    for folder in ("demo", "nightly", "Smoke"):
        name, why = named(tmp_path, source=f"/a/{folder}")
        assert name.startswith(f"{folder.lower()}-") and "kept for a preset" in why
    assert named(tmp_path, source="/a/demo.yaml")[0].startswith("demo-"), "a dump spec too"


def test_each_name_has_its_star(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPT_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "140")
    store = Store(home / "store")
    tuned = store.open("train", find_runs(home, store)[0].key)
    exported = make(store, "export", "step-000002", ("model",), {"trained": tuned})
    record = json.dumps({"model_digest": exported.digest})
    index = write_artifact(store, "index", ["index"], lambda folder, _: (folder / "index.json").write_text(record))
    promote(home, "other", Candidate(exported, index, tuned.manifest.key, "step-000002"))
    of_tuned, of_first = find_runs(home, store)
    assert (of_tuned.published, of_first.published) == ({"other": "step-000002"}, {"mine": "step-000005"})
    printed = CliRunner().invoke(app, ["runs"]).stdout
    assert f"* {of_first.key[:8]}/step-000005 is what `cpt search` uses." in printed
    assert f"* {of_tuned.key[:8]}/step-000002 is what `cpt search --name other` uses." in printed


def test_a_run_that_is_gone_on_with_keeps_its_prompts(tmp_path: Path) -> None:
    own = Delimiters.single(0, 1, 2, 3, 4)
    (tmp_path / "delimiters.json").write_text(json.dumps(replace(own, x_prompt="query: ").fields))
    (tmp_path / "config.json").write_text("{}")
    tokenizer = SimpleNamespace(part_folder=lambda: tmp_path)
    start = cast(Checkpoint, SimpleNamespace(name="abc/step-000004", folder=tmp_path, tokenizer=tokenizer))

    def ask(**settings: Any) -> None:
        check_start(start, apply(RunConfig(), {name.replace("__", "."): value for name, value in settings.items()}))

    ask(train__continue_from="abc")
    ask(train__continue_from="abc", prompts__query="query: ")
    ask(prompts__query="ask: ")
    with pytest.raises(UserError, match="abc/step-000004 as it was trained, and `prompts` asks for others than it has"):
        ask(train__continue_from="abc", prompts__query="ask: ")
