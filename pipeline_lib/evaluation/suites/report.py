"""Reports of evaluation suites: suites-SPLIT.html to look at, suites-SPLIT.json to compute with; and one an evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline_lib.evaluation.metrics import HYBRID, differences, read_evaluations
from pipeline_lib.evaluation.report_page import chip_of, link_pages, render_page
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import digest_of, replace_file

Row = dict[str, Any]
CHAMPION = "champion"
WORD_MODELS = ("bm25", "tfidf")


@dataclass(frozen=True)
class Compared:
    """Models beside the champion of a name on the same queries of one split.

    Attributes:
        evaluations: of the models.
        champion: its evaluations; none where there is no champion, or nobody asked for it.
        champion_name: its checkpoint, as TRAINKEY/step-000240; empty: there is none.
        skipped: suite to the reason why it was passed over.
    """

    split: str
    evaluations: Sequence[Artifact]
    champion: Sequence[Artifact] = ()
    champion_name: str = ""
    skipped: Mapping[str, str] = field(default_factory=dict)

    def differences(self) -> list[Row]:
        """Each model minus the champion, a row a task that both were measured on; none for the champion itself."""
        theirs = {artifact.manifest.config["suite"]: artifact for artifact in self.champion}
        found = []
        for mine in self.evaluations:
            other = theirs.get(mine.manifest.config["suite"])
            if other is not None and other.manifest.key != mine.manifest.key:
                found += [row | {"baseline": CHAMPION} for row in differences([mine], [other])]
        return found

    def table(self) -> list[Row]:
        """A row for each model, task and metric; beside the primary metric the difference from the champion."""
        theirs = {(row["task"], row["metric"]): row["value"] for row in read_evaluations(self.champion)}
        deltas = {(row["model"], row["task"], row["metric"]): chip_of(row) for row in self.differences()}
        rows = []
        for row in read_evaluations(self.evaluations):
            delta: Row = deltas.get((row["model"], row["task"], row["metric"]), {})
            shown = {name: row[name] for name in ("model", "task", "metric", "value", "low", "high", "n")}
            against = {CHAMPION: theirs.get((row["task"], row["metric"])), "difference": delta.get("mean")}
            bounds = {f"difference {end}": delta.get(end) for end in ("low", "high")}
            rows.append({**shown, **against, **bounds, "verdict": delta.get("verdict", "")} if self.champion else shown)
        return rows

    def sentences(self) -> list[str]:
        """A line a model and task that says how far it is from the champion."""
        return [
            f"{row['model']} on {row['task'].replace('_', ' ')}: {row['metric']} {row['mean']:+.3f} against the champion"
            f" [{row['low']:+.3f}, {row['high']:+.3f}]"
            for row in self.differences()
            if row["model"] not in WORD_MODELS
        ]


def write_comparison(folder: Path, compared: Compared) -> Path:
    """Write the page of one evaluation, and what it shows as JSON; another evaluation has files of its own.

    Args:
        folder: reports/NAME of the run.
    """
    rows = read_evaluations(compared.evaluations)
    theirs = [row | {"model": CHAMPION} for row in read_evaluations(compared.champion)]
    content = _content(compared.split, [*rows, *theirs], compared.evaluations, compared.skipped) | {
        "differences": compared.differences(),
        "champion": compared.champion_name,
    }
    keys = [artifact.manifest.key for artifact in (*compared.evaluations, *compared.champion)]
    name = f"{compared.split}-{digest_of([keys, compared.champion_name, dict(compared.skipped)])[:12]}"
    page = folder / "evaluations" / f"{name}.html"
    replace_file(page.with_suffix(".json"), _json(content))
    said = {"kicker": f"Evaluation on {compared.split}", "minus": "Each model minus the champion"}
    replace_file(page, _page(folder.name, content | said, _table(content["evaluations"])).encode())
    link_pages(folder, page)
    return page


def write_suite_report(folder: Path, evaluations: Sequence[Artifact], split: str, skipped: dict[str, str]) -> Path:
    """Write both files, and link the page with the run's report; returns the page.

    Args:
        folder: reports/NAME of the run.
        evaluations: of stage "evaluate_suite" on this split; the first model's paired differences to the others are shown.
        skipped: suite to the reason why it was passed over.
    """
    rows = read_evaluations(evaluations)
    content = _content(split, rows, evaluations, skipped)
    fused = [name for name in content["models"][1:] if name.partition(" ")[0] == HYBRID]
    content |= {"differences": _differences(evaluations, content["models"][:1])}
    content["differences"] += [row for name in fused for row in _differences(evaluations, [name])]
    replace_file(folder / f"suites-{split}.json", _json(content))
    page = folder / f"suites-{split}.html"
    minus = " and ".join((content["models"][0], *fused)) + " minus the others"
    said = {"kicker": f"Public suites on {split}", "minus": minus, "champion": ""}
    replace_file(page, _page(folder.name, content | said, _table(rows)).encode())
    link_pages(folder)
    return page


def _content(split: str, rows: Sequence[Row], evaluations: Sequence[Artifact], skipped: Mapping[str, str]) -> Row:
    return {
        "split": split,
        "models": list(dict.fromkeys(row["model"] for row in rows)),
        "evaluations": rows,
        "facts": {f"{a.manifest.config['model']} {a.manifest.config['suite']}": a.manifest.facts for a in evaluations},
        "skipped": dict(skipped),
    }


def _json(content: Row) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


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
