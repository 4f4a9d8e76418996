"""Report of evaluation suites: suites-SPLIT.html to look at, suites-SPLIT.json to compute with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline_lib.evaluation.metrics import differences, read_evaluations
from pipeline_lib.evaluation.report_page import chip_of, link_pages, render_page
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import replace_file

Row = dict[str, Any]


def write_suite_report(folder: Path, evaluations: Sequence[Artifact], split: str, skipped: dict[str, str]) -> Path:
    """Write both files, and link the page with the run's report; returns the page.

    Args:
        folder: reports/NAME of the run.
        evaluations: of stage "evaluate_suite" on this split; the first model's paired differences to the others are shown.
        skipped: suite to the reason why it was passed over.
    """
    rows = read_evaluations(evaluations)
    models = list(dict.fromkeys(row["model"] for row in rows))
    content = {
        "split": split,
        "models": models,
        "evaluations": rows,
        "differences": _differences(evaluations, models[:1]),
        "facts": {f"{a.manifest.config['model']} {a.manifest.config['suite']}": a.manifest.facts for a in evaluations},
        "skipped": skipped,
    }
    replace_file(folder / f"suites-{split}.json", json.dumps(content, indent=1, sort_keys=True).encode() + b"\n")
    page = folder / f"suites-{split}.html"
    replace_file(page, _page(folder.name, content, _table(rows)).encode())
    link_pages(folder)
    return page


def _differences(evaluations: Sequence[Artifact], first: Sequence[str]) -> list[Row]:
    """The first model minus each other, by the paired bootstrap on the same queries of the same suite."""
    found = []
    for mine in (a for a in evaluations if a.manifest.config["model"] in first):
        for other in evaluations:
            of_same = other.manifest.config["suite"] == mine.manifest.config["suite"]
            if of_same and other.manifest.config["model"] not in first:
                found += differences([mine], [other])
    return found


def _table(rows: Sequence[Row]) -> dict[str, dict[tuple[str, str, int], dict[str, Row]]]:
    """Kind to (task, metric, n) to model to its row, in the order they came in."""
    kinds: dict[str, dict[tuple[str, str, int], dict[str, Row]]] = {}
    for row in rows:
        of_kind = kinds.setdefault(row["kind"].replace("_", " "), {})
        of_kind.setdefault((row["task"], row["metric"], row["n"]), {})[row["model"]] = row
    return kinds


def _page(name: str, content: Row, kinds: dict[str, Any]) -> str:
    searched = {model: facts for model, facts in content["facts"].items() if "search" in facts}
    left_out = {model: facts["left_out"] for model, facts in content["facts"].items() if facts.get("left_out")}
    shown = content | {"differences": [chip_of(row) for row in content["differences"]]}
    return render_page("suites.html", name=name, kinds=kinds, searched=searched, left_out=left_out, **shown)
