"""What a run of suites leaves for people and for programs: suites-SPLIT.html to look at, suites-SPLIT.json to compute with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from pipeline_lib.evaluation.compare import differences, read_evaluations
from pipeline_lib.store.files import replace_file
from pipeline_lib.store.store import Artifact

Row = dict[str, Any]


def write_suite_report(folder: Path, evaluations: Sequence[Artifact], split: str, skipped: dict[str, str]) -> Path:
    """Write both files; returns the page.

    Args:
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
    replace_file(page, _page(content, _table(rows)).encode())
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


def _page(content: Row, kinds: dict[str, Any]) -> str:
    loader = jinja2.PackageLoader("pipeline_lib.evaluation", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    searched = {name: facts for name, facts in content["facts"].items() if "search" in facts}
    return environment.get_template("suites.html").render(content, kinds=kinds, searched=searched)
