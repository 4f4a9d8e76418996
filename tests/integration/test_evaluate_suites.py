"""`cpt evaluate --suite` as a whole: a real export beside TF-IDF on official files, to terminal, report and Prefect."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from exported_models import tiny_checkpoint

from pipeline_lib.config.run import ExportConfig
from pipeline_lib.export.export import export
from pipeline_lib.store.store import Store

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(tmp_path_factory.mktemp("model"))
    return export(store, tiny_checkpoint(store), ExportConfig(onnx=False)).part_folder()


def evaluate(home: Path, exported: Path, data: Path, *words: str) -> str:
    """What the command prints."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    common = ["evaluate", "--name", "sets", "--split", "test", "--suite-data", str(data), "--skip-missing"]
    answer = subprocess.run(
        [sys.executable, "-m", "flows.cli", *common, "--model", f"tiny={exported}", "--model", "tfidf", *words],
        env=env | {"CPT_HOME": str(home), "COLUMNS": "160"},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-4000:]
    return answer.stdout


def shown_everywhere(home: Path, printed: str, tasks: set[str]) -> bool:
    """Whether the same figures, with their intervals, are in terminal, JSON, page and Prefect's UI."""
    folder = home / "reports" / "sets"
    found = json.loads((folder / "suites-test.json").read_text())
    page = (folder / "suites-test.html").read_text()
    assert {(row["model"], row["task"]) for row in found["evaluations"]} >= {(m, t) for m in ("tiny", "tfidf") for t in tasks}
    assert {row["task"] for row in found["differences"]} >= tasks
    rows = [row for row in found["evaluations"] if row["task"] in tasks]
    for row in rows:
        value, interval = f"{row['value']:.3f}", f"[{row['low']:.3f}, {row['high']:.3f}]"
        assert any(row["task"] in line and value in line and interval in line for line in printed.splitlines()), row
        assert value in page and interval in page
    assert "mrpc" in found["skipped"] and "facebookresearch/SentEval" in found["skipped"]["mrpc"]
    assert "passed over mrpc" in printed
    database = sqlite3.connect(f"file:{home}/prefect/prefect.db?mode=ro", uri=True)
    (table,) = database.execute("select data from artifact where key = 'suites-test' and type = 'table'").fetchone()
    shown = {(row["model"], row["task"], row["metric"]): row["value"] for row in json.loads(json.loads(table))}
    return {key: shown[key] for row in rows for key in [(row["model"], row["task"], row["metric"])]} == {
        (row["model"], row["task"], row["metric"]): round(row["value"], 4) for row in rows
    }


def test_two_sets(tmp_path: Path, exported: Path, eval_data: Path) -> None:
    printed = evaluate(tmp_path, exported, eval_data, "--quick", "--suite", "sts-b", "--suite", "trec", "--suite", "mrpc")
    assert shown_everywhere(tmp_path, printed, {"sts-b-quick", "trec-quick"})


@pytest.mark.slow
def test_every_set_at_hand(tmp_path: Path, exported: Path, eval_data: Path) -> None:
    printed = evaluate(tmp_path, exported, eval_data, "--suite", "all")
    assert shown_everywhere(
        tmp_path, printed, {"sts-b", "sick-r", "sst2", "trec", "cisi", "beir/scifact", "codesearchnet/ruby:1k"}
    )
