"""Report of a run: report.html to look at, report.json to compute with.

    reports/NAME/KEY-CONTENT/    each run's own: key of its training run, digest of all that it was made from
    reports/NAME/                the newest run's, under the same file names

The newest is a copy, not a link: buckets, archives and shared disks without symbolic links keep it.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline_lib.evaluation.charts import write_selection_curves
from pipeline_lib.evaluation.metrics import HYBRID, PRIMARY_METRIC
from pipeline_lib.evaluation.report_data import ReportData, Row
from pipeline_lib.evaluation.report_page import link_pages, render
from pipeline_lib.store.files import digest_of, replace_file

REPORT_VERSION = 1


def write_report(folder: Path, data: ReportData) -> Path:
    """Write selection.{png,svg}, report.html and report.json of a run, each whole or not at all, and make it the newest.

    report.json comes last: where it is, the others were written.

    Args:
        folder: reports/NAME.

    Returns:
        The path of the newest report.html.
    """
    lineage = {stage.stage: stage.digest for stage in data.stages}
    own = folder / report_name(next((stage.key for stage in data.stages if stage.stage == "train"), ""), lineage)
    content = json.dumps(_plain(report_json(data)), indent=1, ensure_ascii=False, allow_nan=False)
    curves = {path.name: path.read_bytes() for path in write_selection_curves(own, data.selection)}
    keep_newest(folder, own.name, {**curves, "report.html": render(data).encode()})
    link_pages(folder)
    keep_newest(folder, own.name, {"report.json": content.encode() + b"\n"})
    return folder / "report.html"


def report_name(trained: str, lineage: Mapping[str, str]) -> str:
    """The folder of a run's report: the key of its training run, and a digest of the content of all its artifacts."""
    return f"{trained[:12] or 'run'}-{digest_of(dict(lineage))[:6]}"


def keep_newest(folder: Path, own: str, files: Mapping[str, bytes]) -> None:
    """Write files of a report into the run's own folder and, as those of the newest run, beside it."""
    for name, content in files.items():
        replace_file(folder / own / name, content)
        replace_file(folder / name, content)


def report_json(data: ReportData) -> Row:
    """The machine-readable report: figures as SPLIT.TASK.MODEL.METRIC, the chosen checkpoint under the name "model".

    Seconds are those of this run: none of a stage that it found done, whose making `lineage` tells.
    """
    seconds: dict[str, float] = defaultdict(float)
    for stage in data.stages:
        seconds[stage.stage] += 0.0 if stage.reused else stage.seconds
    return {
        "report_version": REPORT_VERSION,
        "name": data.name,
        "preset": data.preset,
        "held_out": asdict(data.held_out) | {"units": data.held_out.units},
        "method": asdict(data.method) | {"sentence": data.method.sentence} if data.method else {},
        "commit": data.commit,
        "machine": data.machine,
        "counts": data.counts,
        **{split: _figures(data, split) for split in ("test", "validation")},
        "skipped": {split: facts.get("skipped", {}) for split, facts in data.tasks.items()},
        "selection": data.selection,
        "near_twins": data.near_twins,
        "contamination": data.contamination,
        "seconds": {**seconds, "total": data.seconds_total},
        "attempts": data.attempts,
        "cpu_seconds": data.cpu_seconds,
        "peak_memory_bytes": data.peak_memory_bytes,
        "tracked": data.tracked,
        "promotion": data.promotion,
        "dimensions": list(data.dimensions),
        "export": data.export,
        "index": data.index,
        "lineage": {stage.stage: stage.model_dump(mode="json", exclude={"stage"}) for stage in data.stages},
        "drops": {stage.stage: stage.dropped for stage in data.stages if stage.dropped},
        "quarantine": [reason.model_dump(mode="json") for reason in data.quarantine],
        "verdicts": list(data.verdicts),
        "training": {"steps": len(data.training), "last": data.training[-1] if data.training else {}},
        "searches": list(data.searches),
        "negatives": len(data.negatives),
        "batch": data.batch,
        "language_model": data.language_model,
        "notes": list(data.notes),
        "config": data.config,
    }


def _figures(data: ReportData, split: str) -> Row:
    tasks: dict[str, Row] = {}
    facts = data.tasks.get(split, {}).get("tasks", {})
    for row in data.evaluations:
        if row["split"] != split:
            continue
        entry = tasks.setdefault(row["task"], {"kind": row["kind"], **facts.get(row["task"], {})})
        for name in {row["model"], "model"} if row["model"] == data.chosen else {row["model"]}:
            _add_figure(entry.setdefault(name, {"intervals": {}}), row)
    for row in data.differences:
        if row["split"] == split and row["task"] in tasks and row["model"] in (data.chosen, HYBRID):
            figures = {name: row[name] for name in ("metric", "mean", "low", "high", "n")}
            one, other = ("model" if row[side] == data.chosen else row[side] for side in ("model", "baseline"))
            tasks[row["task"]][f"{one}_minus_{other}"] = figures
    return tasks


def _add_figure(entry: Row, row: Mapping[str, Any]) -> None:
    entry[row["metric"]] = row["value"]
    entry["intervals"][row["metric"]] = {"low": row["low"], "high": row["high"]}
    if row["metric"] == PRIMARY_METRIC[row["kind"]]:
        entry |= {"low": row["low"], "high": row["high"], "n": row["n"]}


def results_table(
    evaluations: Iterable[Row], differences: Iterable[Row], model: str, split: str = "test"
) -> list[dict[str, str]]:
    """Rows of strings for a table artifact, of the primary metrics: the model beside the baselines.

    Returns:
        Rows with task, metric, n, model ("0.612 [0.588, 0.637]"), "vectors + BM25" where both were fused, BM25, TF-IDF, and
        difference (paired, against the stronger baseline that was measured, with its interval).
    """
    by_metric: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for row in evaluations:
        if row["split"] == split and row["metric"] == PRIMARY_METRIC[row["kind"]]:
            by_metric[row["task"], row["metric"]][row["model"]] = row
    fuses = any(HYBRID in found for found in by_metric.values())
    paired: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in differences:
        if row["split"] == split and row["model"] == model:
            paired[row["task"], row["metric"]].append(row)
    return [
        {
            "task": task,
            "metric": metric,
            "n": f"{found[model]['n']:,}",
            "model": _with_interval(found[model]),
            **({"vectors + BM25": _value(found.get(HYBRID))} if fuses else {}),
            "BM25": _value(found.get("bm25")),
            "TF-IDF": _value(found.get("tfidf")),
            "difference": _difference(paired.get((task, metric), [])),
        }
        for (task, metric), found in by_metric.items()
        if model in found
    ]


def _with_interval(row: Row) -> str:
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _value(row: Row | None) -> str:
    return f"{row['value']:.3f}" if row else "-"


def _difference(rows: list[Row]) -> str:
    if not rows:
        return "-"
    hardest = min(rows, key=lambda row: row["mean"])
    return f"{hardest['mean']:+.3f} [{hardest['low']:+.3f}, {hardest['high']:+.3f}] vs {hardest['baseline']}"


def _plain(value: Any) -> Any:
    """JSON has no NaN: what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
