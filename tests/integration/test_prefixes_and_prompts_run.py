"""A whole run with the loss over prefixes, a published prefix and prompts: index, searches, report and card have them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SETTINGS = (
    "train.matryoshka.dims=[16, 64]",
    "export.truncate_dim=16",
    "evaluate.dims=[8, 16]",
    "prompts.query=find: ",
    "prompts.tasks={docstring: {query: 'find code: '}}",
)


def cpt(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    env |= {"CPT_HOME": str(home), "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "flows.cli", *words]
    return subprocess.run(command, env=env, cwd=PROJECT, capture_output=True, text=True, timeout=900, check=False)


@pytest.mark.slow
def test_a_run_publishes_a_prefix_with_prompts_and_tells_quality_by_dimensions(tmp_path: Path, corpus: Path) -> None:
    asked = [word for setting in SETTINGS for word in ("--set", setting)]
    answer = cpt(tmp_path, "run", "--preset", "smoke", "--source", str(corpus), "--steps", "20", "--name", "tree", *asked)
    assert answer.returncode == 0, answer.stderr[-4000:]
    report = json.loads((tmp_path / "reports" / "tree" / "report.json").read_text())
    rows = report["dimensions"]
    assert [row["dim"] for row in rows] == [8, 16, 64]
    assert rows[0]["index_bytes"] * 8 == rows[2]["index_bytes"]
    assert all(0 <= row["kinds"]["code_search"]["value"] <= 1 for row in rows)
    exported, index = Path(report["export"]), json.loads((Path(report["index"]) / "index.json").read_text())
    search = json.loads((exported / "search.json").read_text())
    assert (search["dim"], index["dim"]) == (16, 16)
    assert (search["query"]["prompt"], search["document"].get("prompt")) == ("find: ", None)
    prompts = json.loads((exported / "config_sentence_transformers.json").read_text())["prompts"]
    assert prompts == {"query": "find: ", "document": "", "docstring-query": "find code: "}
    card = (exported / "README.md").read_text()
    of_prefix = next(figures for name, figures in report["test"].items() if name.startswith("code_search"))
    published = next(value for name, value in of_prefix.items() if name.endswith("@16"))
    assert f"{published['mrr']:.3f}" in card and "16, the first of 64" in card
    found = cpt(tmp_path, "search", "parse a date", "--json")
    assert found.returncode == 0, found.stderr
    planned = json.loads(cpt(tmp_path, "index", "--plan", "1000", "--dims", "8,16", "--json").stdout)
    assert [row["quality"]["code_search"] for row in planned["dims"]] == [
        row["kinds"]["code_search"]["value"] for row in rows[:2]
    ]
    refused = cpt(tmp_path, "run", "--preset", "smoke", "--source", str(corpus), "--set", "train.matryoshka.dims=[16, 65]")
    assert refused.returncode != 0
    assert "train.matryoshka.dims: 65 dimensions of a vector that has 64" in refused.stderr
