"""Two rounds in one run, and queries from a file: the whole pipeline by the command that users type."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from corpus import PLANTED_NAME, write_corpus

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).parents[2]


def cpt(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    env |= {"CPT_HOME": str(home), "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "flows.cli", *words]
    return subprocess.run(command, env=env, cwd=PROJECT, capture_output=True, text=True, timeout=900, check=False)


def test_a_first_round_guides_the_second_and_queries_are_trained_on(tmp_path: Path) -> None:
    corpus, home, file = write_corpus(tmp_path / "corpus"), tmp_path / "home", tmp_path / "queries.jsonl"
    (module,) = (path for path in corpus.rglob("*.py") if PLANTED_NAME in path.read_text())
    name = f"{module.relative_to(corpus)}::{PLANTED_NAME}"
    rows = [{"query": f"who flew in an airship, way {n}", "document": name} for n in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"query": "lost", "document": "no/such.py"}]))
    settings = ("guide.model=first_round", "guide.keep_top=40", "guide.block_pairs=64", f"queries.file={file}")
    settings += ("train.false_negatives.by=guide", "train.false_negatives.margin=-0.05", "train.teacher.kl_weight=0.2")
    words = ["run", "--preset", "smoke", "--source", str(corpus), "--steps", "12", "--name", "rounds"]
    answer = cpt(home, *words, *(word for setting in settings for word in ("--set", setting)))
    assert answer.returncode == 0, answer.stderr[-4000:]
    assert "rows of queries set aside: unknown_document 1" in answer.stderr + answer.stdout
    report = json.loads((home / "reports" / "rounds" / "report.json").read_text())
    assert {"guide", "consistent"} <= set(report["lineage"])
    store = home / "store"
    views = [view for path in store.glob("curate/parts/*/pairs.parquet") for view in pq.read_table(path)["view"].to_pylist()]
    assert views.count("queries") == 3
    (consistent,) = store.glob("consistent/*/manifest.json")
    counts = json.loads(consistent.read_text())["counts"]
    assert counts["n_in"] == counts["n_out"] + counts["dropped"].get("inconsistent", 0)
    assert len(list(store.glob("train/*/manifest.json"))) == 2
    masked = [json.loads(line)["masked"] for path in store.rglob("metrics.jsonl") for line in path.open() if "masked" in line]
    assert len(masked) == 12 and sum(masked) > 0
