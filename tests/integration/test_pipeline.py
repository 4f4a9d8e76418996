"""The whole pipeline by the command that users type, on a generated folder, against a real Prefect server."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from corpus import PLANTED_DOC, PLANTED_NAME, write_corpus
from distributed import LocalCluster

CPT = [sys.executable, "-m", "flows.cli"]
PROJECT = Path(__file__).parents[2]


class Run(NamedTuple):
    home: Path
    corpus: Path
    output: str


def cpt(home: Path, *words: str, timeout: float = 400, cwd: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    env |= {"CPT_HOME": str(home), "PYTHONPATH": str(PROJECT)}
    return subprocess.run([*CPT, *words], env=env, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)


def run_words(corpus: Path) -> list[str]:
    return ["run", "--preset", "smoke", "--source", str(corpus), "--steps", "20", "--name", "tree"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Run:
    home = tmp_path_factory.mktemp("home")
    answer = cpt(home, *run_words(corpus))
    assert answer.returncode == 0, answer.stderr[-4000:]
    return Run(home, corpus, answer.stdout + answer.stderr)


def test_the_run_ends_with_results_searches_report_and_next_commands(finished: Run) -> None:
    for expected in ("code_search", "BM25", "TF-IDF", "report.html", "cpt search"):
        assert expected in finished.output


def test_the_report_accounts_for_the_run(finished: Run) -> None:
    report = json.loads((finished.home / "reports" / "tree" / "report.json").read_text())
    assert report["counts"]["documents"] >= 60  # a module and a README for each of 30 packages
    assert report["counts"]["code_pairs"] > 200
    assert report["counts"]["text_pairs"] > 50
    assert report["seconds"]["total"] > 0
    assert report["cpu_seconds"] > 0
    assert report["peak_memory_bytes"] > 100e6
    task = next(entry for name, entry in report["test"].items() if name.startswith("code_search"))
    for model in ("model", "hybrid", "bm25", "tfidf"):
        figures = task[model]
        assert 0 <= figures["low"] <= figures["mrr"] <= figures["high"] <= 1
    assert Path(report["export"]).is_dir()
    assert Path(report["index"]).is_dir()
    assert "fewer pairs than a batch" in report["batch"]["why"] and "curve" not in report["batch"]
    assert report["held_out"]["units"] == "top-level folders"
    assert report["attempts"] == 1 and not any(stage["reused"] for stage in report["lineage"].values())
    page = (finished.home / "reports" / "tree" / "report.html").read_text()
    assert "<svg" in page
    assert 'src="http' not in page and 'href="http' not in page.replace("http://www.w3.org", "")


def leaves(report: Any, words: list[str]) -> list[Any]:
    """What lies at a documented key; a word in capitals stands for any key."""
    if not words:
        return [report]
    if not isinstance(report, dict):
        return []
    names = [name for name in report if re.fullmatch("[A-Z]+", words[0]) or name == words[0]]
    return [leaf for name in names for leaf in leaves(report[name], words[1:])]


def test_the_report_has_every_key_that_its_page_documents(finished: Run) -> None:
    report = json.loads((finished.home / "reports" / "tree" / "report.json").read_text())
    page = (PROJECT / "docs" / "reference" / "report.md").read_text()
    keys = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert {"commit", "export", "config", "seconds.total", "test.TASK.model.METRIC", "test.TASK.bm25.METRIC"} <= set(keys)
    assert [key for key in keys if not leaves(report, key.split("."))] == []
    for model in ("model", "hybrid", "bm25", "tfidf"):
        found = leaves(report, ["test", "TASK", model, "mrr"])
        assert len(found) == 2 and all(0 < mrr <= 1 for mrr in found), "of code search and of text search"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One project: everything in one folder, so that it is split by document."""
    home = tmp_path_factory.mktemp("project")
    corpus = write_corpus(home / "mine" / "src", packages=20, functions=40).parent
    answer = cpt(home, "run", "--preset", "smoke", "--source", str(corpus), "--steps", "4")
    assert answer.returncode == 0, answer.stderr[-4000:]
    return Run(home, corpus, answer.stdout + answer.stderr)


@pytest.mark.slow
def test_one_project_is_told_as_one(project: Run) -> None:
    """Terminal, report and both cards: the split, the whole test set, the plumbing; no packages, nobody else's figures."""
    report = json.loads((project.home / "reports" / "mine" / "report.json").read_text())
    assert report["held_out"]["unit"] == "document" and "1 groups" in report["held_out"]["reason"]
    (search,) = (task for task in report["test"].values() if task["kind"] == "code_search")
    assert search["n"] == search["candidates"] > 50
    page, card = ((project.home / "reports" / "mine" / name).read_text() for name in ("report.html", "model_card.md"))
    export = (Path(report["export"]) / "README.md").read_text()
    for told in (" ".join(project.output.split()), page, card, export):
        assert "tests the plumbing" in told and "its figures mean nothing" in told
        assert "split by document" in told and "beside those of no other corpus" in told
        assert "package" not in told
    assert "held-out documents, opened once" in project.output
    assert "validation split is small" in report["selection"]["sentence"]
    assert "curve" not in report["batch"] and "fewer pairs than a batch" in page
    database = sqlite3.connect(f"file:{project.home}/prefect/prefect.db?mode=ro", uri=True)
    tables = {row[0] for row in database.execute("select key from artifact where type = 'table'")}
    assert {"results-mine", "selection-mine", "evaluate-test-mine"} <= tables and "results" not in tables


def test_search_finds_the_planted_function(finished: Run) -> None:
    answer = cpt(finished.home, "search", PLANTED_DOC, "--json", "-k", "5", "--kind", "code")
    found = json.loads(answer.stdout)
    assert found["query"] == PLANTED_DOC
    hits = [hit for hit in found["hits"] if hit["name"].endswith(PLANTED_NAME)]
    assert hits, found
    said = {"rank", "score", "kind", "name", "path", "line", "doc", "id"}
    said |= {"language", "package", "licence", "signature", "snippet", "marks"}
    assert hits[0].keys() == said and PLANTED_NAME in hits[0]["signature"] and hits[0]["language"] == "python"
    traced = cpt(finished.home, "trace", hits[0]["id"][:12])
    assert PLANTED_NAME in traced.stdout and hits[0]["path"] in traced.stdout, "its id leads back to the file"
    source = (finished.corpus / hits[0]["path"]).read_text().splitlines()
    assert PLANTED_NAME in source[hits[0]["line"] - 1]


def files_of(store: Path) -> dict[Path, int]:
    """Every file and when it was written; but the note that says where the dump's files lie."""
    return {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file() and path.name != "places.json"}


def test_what_the_card_prints_finds_every_stage_done_whatever_the_machine(finished: Run, tmp_path: Path) -> None:
    """The command of the card, where the corpus is another copy and the work would be done by others: nothing is made again."""
    shutil.copytree(finished.corpus, tmp_path / finished.corpus.name)
    model = Path(json.loads((finished.home / "reports" / "tree" / "report.json").read_text())["export"])
    command = (model / "README.md").read_text().split("## Again\n\n```\n")[1].split("\n```")[0]
    assert command == "cpt run --preset smoke --source tree --name tree --steps 20"
    words = command.split()[1:]
    store = finished.home / "store"
    before = files_of(store)
    report = finished.home / "reports" / "tree" / "report.json"
    written = report.read_bytes()
    started = time.monotonic()
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None) as nobody_works_there:
        elsewhere = ("--scheduler", nobody_works_there.scheduler_address, "--workers", "3", "--download")
        answer = cpt(finished.home, *words, *elsewhere, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr[-4000:]
    assert time.monotonic() - started < 60
    assert files_of(store) == before
    assert "All was found done, in" in answer.stdout
    assert json.loads((finished.home / "runs" / "tree.json").read_text())["finished"], "its seconds are no part of the next run"
    assert report.read_bytes() == written


_TO_NEWEST = '<a href="../report.html">Newest report</a>'


def test_a_report_that_is_gone_is_written_again_with_the_cost_of_its_run(finished: Run) -> None:
    folder = finished.home / "reports" / "tree"
    before = json.loads((folder / "report.json").read_text())
    page = (folder / "report.html").read_text()
    (own,) = (path.parent for path in folder.glob("*/report.json"))
    trained = before["lineage"]["train"]["key"]
    assert own.name.startswith(trained[:12]) and (own / "report.json").read_bytes() == (folder / "report.json").read_bytes()
    (folder / "report.html").unlink()
    (own / "model_card.md").unlink()
    answer = cpt(finished.home, *run_words(finished.corpus))
    assert answer.returncode == 0, answer.stderr[-4000:]
    assert (own / "model_card.md").read_bytes() == (folder / "model_card.md").read_bytes()
    assert (folder / "report.html").read_text() == page == (own / "report.html").read_text().replace(_TO_NEWEST, "")
    assert json.loads((folder / "report.json").read_text()) == before


def test_prefect_holds_the_history_the_tables_and_the_progress(finished: Run) -> None:
    database = sqlite3.connect(f"file:{finished.home}/prefect/prefect.db?mode=ro", uri=True)
    flows = {row[0] for row in database.execute("select name from flow")}
    assert {"retrain", "build-dataset", "train", "evaluate", "publish"} <= flows
    states = dict(database.execute("select state_type, count(*) from flow_run group by 1"))
    assert set(states) == {"COMPLETED"}
    tasks = {row[0].rsplit("-", 1)[0] for row in database.execute("select name from task_run where state_type = 'COMPLETED'")}
    assert {
        "extract",
        "validate",
        "curate",
        "tokenizer",
        "shards",
        "train",
        "select",
        "export",
        "card",
        "index",
    } <= tasks
    tables = {row[0] for row in database.execute("select key from artifact where type = 'table'")}
    assert {"extract", "validate", "curate", "shards"} <= tables


def test_a_named_checkpoint_is_evaluated_and_an_unknown_one_answered(finished: Run) -> None:
    words = ["evaluate", "--preset", "smoke", "--source", str(finished.corpus), "--name", "tree"]
    answer = cpt(finished.home, *words, "--checkpoint", "nonsense")
    assert answer.returncode == 2
    assert len(answer.stderr.strip().splitlines()) <= 2
    assert "step-000240" in answer.stderr


def test_no_process_is_left_behind(finished: Run) -> None:
    import psutil

    left = [
        p
        for p in psutil.process_iter(["cmdline", "environ"])
        if (p.info["environ"] or {}).get("CPT_HOME") == str(finished.home)
    ]
    assert not left
    assert not list((finished.home / "prefect" / "servers").glob("*.json"))
