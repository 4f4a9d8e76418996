"""Pages of a run: report.html and what it shares with the page of suites.

The values that templates show are worked out here, so that a template only lays them out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline_lib.evaluation.charts import Chart, line_chart, theme
from pipeline_lib.evaluation.metrics import HYBRID, PRIMARY_METRIC
from pipeline_lib.evaluation.report_data import ReportData, Row
from pipeline_lib.store.files import replace_file

TEMPLATES = Path(__file__).parent / "templates"

_KIND_TITLES = {
    "code_search": "Code search",
    "text_search": "Text search",
    "classification": "Classification",
    "similarity": "Similarity",
}
_KIND_GLOSS = {
    "code_search": "a docstring finds its function",
    "text_search": "a passage finds its neighbour",
    "classification": "which {group} a passage is from",
    "similarity": "cosine against graded nearness",
}
_METRIC_TITLES = {
    "mrr": "MRR",
    "recall@1": "Recall@1",
    "recall@10": "Recall@10",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "spearman": "Spearman",
}
_PAGES = re.compile("<!--pages-->.*?<!--/pages-->")
_BASELINES = {"tfidf": "TF-IDF", "bm25": "BM25"}
_BESIDE = {HYBRID: "vectors + BM25", **_BASELINES}
_CURVES = (
    ("loss", "Loss", lambda value: f"{value:.3g}"),
    ("temperature", "Temperature", lambda value: f"{value:.2g}"),
    ("gradient_norm", "Gradient norm", lambda value: f"{value:.2g}"),
    ("pairs_per_second", "Pairs per second", lambda value: f"{value:,.0f}"),
    ("padding_share", "Share of padding", lambda value: f"{100 * value:.3g}%"),
    ("learning_rate", "Learning rate", lambda value: f"{value:.1e}" if value else "0"),
    ("masked", "Candidates left out by score", lambda value: f"{value:,.0f}"),
)


def render(data: ReportData) -> str:
    """The whole page as one string without external requests; every text of the corpus is escaped."""
    split = _split(data)
    cards = _cards(data, split)
    return render_page(
        "report.html",
        data=data,
        split=split,
        cards=cards,
        key=next((stage.key for stage in data.stages if stage.stage == "train"), ""),
        headline=_sentence(cards),
        stats=_stats(data),
        funnel=_funnel(data),
        selection_charts=_selection_charts(data),
        score_table=_score_table(data),
        dimension_charts=_dimension_charts(data),
        training_charts=_training_charts(data),
        batch_chart=_batch_chart(data),
        results={name: _results(data, name) for name in ("test", "validation")},
        left_out=_left_out(data),
        drops=_drops(data),
        slowest=max((stage.seconds for stage in data.stages), default=0.0),
        kind_titles=_KIND_TITLES,
        settings=_flat(data.config),
    )


def render_page(template: str, **values: Any) -> str:
    """A page of a run in the look that all share."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": _count, "bytes": _bytes, "duration": _duration, "figure": _figure}
    return environment.get_template(template).render(theme=Markup(theme()), **values)  # noqa: S704 - the palette


def link_pages(folder: Path, *others: Path) -> None:
    """Link the pages of a run's name: its newest report with its pages of suites, and each run's own report with both.

    Args:
        folder: reports/NAME, with a folder a run below it.
        others: pages in folders below it that are to have the same links.
    """
    newest = [("Report", "report.html")] if (folder / "report.html").is_file() else []
    suites = [(f"Suites, {page.stem.removeprefix('suites-')}", page.name) for page in sorted(folder.glob("suites-*.html"))]
    for page in (*folder.glob("*.html"), *folder.glob("*/report.html"), *others):
        way = "" if page.parent == folder else "../"
        shown = [(title if not way or name != "report.html" else "Newest report", name) for title, name in (*newest, *suites)]
        links = "".join(f'<a href="{way}{name}">{title}</a>' for title, name in shown if way or name != page.name)
        content = page.read_text(encoding="utf-8")
        linked = _PAGES.sub(f"<!--pages-->{links}<!--/pages-->", content, count=1)
        if linked != content:
            replace_file(page, linked.encode())


def _cards(data: ReportData, split: str) -> list[Row]:
    cards = []
    for kind, title in _KIND_TITLES.items():
        rows = [
            r for r in data.evaluations if r["split"] == split and r["kind"] == kind and r["metric"] == PRIMARY_METRIC[kind]
        ]
        task = next((row["task"] for row in rows if row["model"] == data.chosen), None)
        if task is None:
            continue
        by_model = {row["model"]: row for row in rows if row["task"] == task}
        shown = [("model", "this model", by_model[data.chosen])]
        shown += [(name, label, by_model[name]) for name, label in _BESIDE.items() if name in by_model]
        scale = max(row["high"] for _, _, row in shown) * 1.04 or 1.0
        cards.append(
            {
                "title": title,
                "gloss": _KIND_GLOSS[kind].format(group=data.held_out.group),
                "metric": _METRIC_TITLES[PRIMARY_METRIC[kind]],
                "row": by_model[data.chosen],
                "facts": data.tasks.get(split, {}).get("tasks", {}).get(task, {}),
                "bars": [_bar(name, label, row, scale) for name, label, row in shown],
                "chips": [chip_of(row) for row in data.differences if _is_of(row, split, task, data.chosen)],
                "fused": _fused_chips(data, split, task),
            }
        )
    return cards


def headline(data: ReportData) -> str:
    """The result of the first kind of task in a sentence; on test, if that was measured."""
    return _sentence(_cards(data, _split(data)))


def _split(data: ReportData) -> str:
    return "test" if any(row["split"] == "test" for row in data.evaluations) else "validation"


def _sentence(cards: list[Row]) -> str:
    if not cards:
        return ""
    card = cards[0]
    among = f" among {card['facts']['candidates']:,} candidates" if card["facts"].get("candidates") else ""
    text = f"{card['title']}: {card['gloss']}{among}, {card['metric']} {card['row']['value']:.3f}"
    said = [_said(chip) for chip in card["chips"]]
    return f"{text}; {' and '.join(said)}." if said else f"{text}."


def _said(chip: Row) -> str:
    if chip["verdict"] == "even":
        return f"level with {chip['label']} ({chip['mean']:+.3f}, within the noise)"
    return f"{abs(chip['mean']):.3f} {'above' if chip['mean'] > 0 else 'below'} {chip['label']}"


def _bar(name: str, label: str, row: Row, scale: float) -> Row:
    return {
        "name": name,
        "label": label,
        "value": row["value"],
        "width": max(0.0, 100 * row["value"] / scale),
        "low": max(0.0, 100 * row["low"] / scale),
        "high": max(0.0, 100 * row["high"] / scale),
    }


def _is_of(row: Row, split: str, task: str, model: str) -> bool:
    return (row["split"], row["task"], row["model"]) == (split, task, model)


def _fused_chips(data: ReportData, split: str, task: str) -> list[Row]:
    """What the vectors gain by BM25, and BM25 by them."""
    chips = [chip_of(row) for row in data.differences if _is_of(row, split, task, HYBRID) and row["baseline"] != "tfidf"]
    return [chip | {"label": "vectors" if chip["baseline"] == data.chosen else chip["label"]} for chip in chips]


def chip_of(row: Row) -> Row:
    """A row of differences with its verdict: better or worse where its interval is on one side of zero."""
    verdict = "better" if row["low"] > 0 else "worse" if row["high"] < 0 else "even"
    return {**row, "verdict": verdict, "label": _BASELINES.get(row["baseline"], row["baseline"])}


def _stats(data: ReportData) -> list[tuple[str, str]]:
    stats = [
        (name.replace("_", " "), _bytes(value) if name.endswith("bytes") else f"{value:,}")
        for name, value in data.counts.items()
        if value and (name != "texts" or value != data.counts.get("files"))  # a loss is shown where there is one
    ]
    measured = (
        ("wall time", data.seconds_total, _duration),
        ("CPU time", data.cpu_seconds, _duration),
        ("peak memory", data.peak_memory_bytes, _bytes),
    )
    return stats + [(name, say(value)) for name, value, say in measured if value]


def _funnel(data: ReportData) -> list[Row]:
    top = max((rows for _, rows in data.funnel), default=0) or 1
    return [{"name": name, "rows": rows, "width": 100 * rows / top} for name, rows in data.funnel]


def _selection_charts(data: ReportData) -> list[Row]:
    charts = []
    for kind, title in _KIND_TITLES.items():
        rows = [
            row
            for row in data.evaluations
            if row["split"] == "validation" and row["kind"] == kind and row["metric"] == PRIMARY_METRIC[kind]
        ]
        points = sorted((row["step"], row["value"]) for row in rows if row["step"] >= 0)
        levels = {row["model"]: row["value"] for row in rows if row["step"] < 0}
        chart = Chart(
            title=f"{title} over steps",
            points=points,
            references=[(label, levels[name], name) for name, label in _BASELINES.items() if name in levels],
            marked_x=data.selection.get("step"),
            format_y=lambda value: f"{value:.3f}",
        )
        weight = data.selection.get("weights", {}).get(kind)
        charts.append(
            {"title": title, "metric": _METRIC_TITLES[PRIMARY_METRIC[kind]], "weight": weight, "svg": line_chart(chart)}
        )
    return [chart for chart in charts if chart["svg"]]


def _dimension_charts(data: ReportData) -> list[Row]:
    charts = []
    for kind, title in _KIND_TITLES.items():
        points = [(row["dim"], row["kinds"][kind]["value"]) for row in data.dimensions if kind in row["kinds"]]
        chart = Chart(f"{title} by dimensions", points, format_y=lambda value: f"{value:.3f}", name_x="dimensions")
        charts.append({"title": title, "metric": _METRIC_TITLES[PRIMARY_METRIC[kind]], "svg": line_chart(chart)})
    return [chart for chart in charts if chart["svg"]]


def _score_table(data: ReportData) -> list[Row]:
    checkpoints = data.selection.get("checkpoints", ())
    best = {kind: max(c["kinds"].get(kind, 0.0) for c in checkpoints) for kind in data.selection.get("weights", {})}
    return [
        {
            "label": c["label"],
            "score": c["score"],
            "chosen": c["label"] == data.chosen,
            "kinds": [(c["kinds"].get(kind), c["kinds"].get(kind) == top) for kind, top in best.items()],
        }
        for c in checkpoints
    ]


def _training_charts(data: ReportData) -> list[Row]:
    charts = []
    for name, title, format_y in _CURVES:
        rows: Iterable[Row] = (*data.training, *data.pace)
        points = [(float(row["step"]), float(row[name])) for row in rows if row.get(name) is not None]
        svg = _training_chart(title, points, format_y, data)
        if svg:
            charts.append({"title": title, "last": format_y(points[-1][1]), "svg": svg})
    return charts


def _training_chart(
    title: str, points: list[tuple[float, float]], format_y: Callable[[float], str], data: ReportData
) -> Markup:
    noisy = title not in ("Temperature", "Learning rate")
    return line_chart(Chart(title, points, marked_x=data.selection.get("step"), format_y=format_y, noisy=noisy))


def _batch_chart(data: ReportData) -> Markup:
    points = [(math.log2(row["pairs"]), row["loss"]) for row in data.batch.get("curve", [])]
    chart = Chart("Loss against log2(batch)", points, format_y=lambda value: f"{value:.2f}", name_x="log2(batch)")
    return line_chart(chart)


def _results(data: ReportData, split: str) -> list[Row]:
    rows: dict[tuple[str, str], dict[str, Row]] = {}
    fuses = any(row["split"] == split and row["model"] == HYBRID for row in data.evaluations)
    beside = _BESIDE if fuses else _BASELINES
    for row in data.evaluations:
        if row["split"] == split and row["model"] in (data.chosen, *beside):
            rows.setdefault((row["task"], row["metric"]), {})[row["model"]] = row
    return [
        {
            "task": _KIND_TITLES[found[data.chosen]["kind"]],
            "detail": task.replace("_", " "),
            "metric": _METRIC_TITLES.get(metric, metric),
            "is_primary": metric == PRIMARY_METRIC[found[data.chosen]["kind"]],
            "model": found[data.chosen],
            "labels": list(beside.values()),
            "baselines": [found.get(name) for name in beside],
            "chips": [
                chip_of(row) for row in data.differences if _is_of(row, split, task, data.chosen) and row["metric"] == metric
            ],
        }
        for (task, metric), found in rows.items()
        if data.chosen in found
    ]


def _left_out(data: ReportData) -> list[Row]:
    """What could not be measured or was left out of it, said aloud."""
    rows = []
    for split, facts in data.tasks.items():
        for kind, reason in facts.get("skipped", {}).items():
            rows.append({"split": split, "what": _KIND_TITLES.get(kind, kind), "why": reason})
        for task, figures in facts.get("tasks", {}).items():
            if figures.get("left_out"):
                why = f"{figures['left_out']:,} rows of the incomplete last batch of {figures['candidates']:,} candidates"
                rows.append({"split": split, "what": task.replace("_", " "), "why": why})
    return rows


def _drops(data: ReportData) -> list[Row]:
    stages = []
    for stage in data.stages:
        if stage.dropped:
            reasons = sorted(stage.dropped.items(), key=lambda item: (-item[1], item[0]))
            top = max(reasons[0][1], 1)
            rows = [{"reason": reason.replace("_", " "), "n": n, "width": 100 * n / top} for reason, n in reasons]
            stages.append({"stage": stage.stage, "n_in": stage.n_in, "rows": rows})
    return stages


def _count(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _figure(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}"


def _bytes(value: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", str(value)))
    return rows
