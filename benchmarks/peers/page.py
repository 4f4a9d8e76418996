"""The table of peers, its short form and its picture, from the file of results."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.models import BASELINES
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.charts import TradeOff, trade_off_chart
from pipeline_lib.store.files import replace_file

DOCS = Path(__file__).parents[2] / "docs"
PAGE, PICTURE, RESULTS = DOCS / "results" / "peers.md", DOCS / "pictures" / "peers.svg", DOCS / "results" / "peers.json"
BEGIN, END = "<!-- begin: python -m benchmarks.peers --table -->", "<!-- end -->"
CODE = "code_search"
PROSE = ("text_search", "classification", "similarity")
METRICS = {"mrr": "MRR", "ndcg@10": "nDCG@10", "ndcg": "nDCG", "accuracy": "accuracy", "spearman": "Spearman"}
SECTIONS = {  # whether in-domain and of code, to what a reader is told
    (True, True): "in-domain, code: functions of held-out packages, by their docstrings",
    (True, False): "in-domain, prose of held-out packages",
    (False, True): "out-of-domain, code: public sets",
    (False, False): "out-of-domain, prose: public sets",
}
TITLES = {
    "code_search_held_out": "code search among {n}",
    "text_search_held_out": "text search among {n}",
    "classification_held_out": "which package is it from",
    "similarity_held_out": "graded similarity",
    "beir/scifact": "SciFact",
    "cisi": "CISI",
    "sts-b": "STS-B",
    "sick-r": "SICK-R",
}
SHORT = ("code_search_held_out", "text_search_held_out", "codesearchnet/ruby", "codesearchnet/python", "beir/scifact", "sts-b")
PANELS = ("code_search_held_out", "text_search_held_out", "codesearchnet/ruby", "beir/scifact")

Record = Mapping[str, Any]


def write(found: Record, path: Path, picture: Path) -> str:
    """Put the tables between the page's marks and draw the picture; returns the tables.

    Raises:
        UserError: there are no results, or the page has no marks.
    """
    text = tables(found)
    content = path.read_text(encoding="utf-8")
    if BEGIN not in content or END not in content:
        raise UserError(f"{path}: no {BEGIN} and {END} to write between")
    head, tail = content[: content.index(BEGIN) + len(BEGIN)], content[content.index(END) :]
    replace_file(path, f"{head}\n{text}\n{tail}".encode())
    replace_file(picture, draw(found).encode())
    return text


def tables(found: Record) -> str:
    """The one table, the paired differences, and where each peer comes from, as Markdown."""
    models = models_of(found)
    lines = [*_state(found), *_figures(found, models), ""]
    for baseline in BASELINES:
        lines += _differences(found, models, baseline)
    return "\n".join([*lines, *_origins(found, models)])


def models_of(found: Record) -> dict[str, Record]:
    """The measured models: packaged ones first, in the order of their figures.

    Raises:
        UserError: there is none.
    """
    models = {name: record for name, record in found.get("models", {}).items() if record["tasks"]}
    if not models:
        raise UserError("no results yet: run `python -m benchmarks.peers --models NAME=FOLDER` before `--table`")
    return models


def _state(found: Record) -> list[str]:
    size = "samples of the" if found["quick"] else "the whole"
    opened = (
        "; nothing here was chosen on it" if found["split"] == "test" else ": a trial, for which the test split was not read"
    )
    return ["", f"Figures on {size} {found['split']} split{opened}. The best of a row is bold.", ""]


def _figures(found: Record, models: Mapping[str, Record]) -> Iterator[str]:
    yield _row(["", *models])
    yield _row(["---"] * (1 + len(models)))
    costs: dict[str, Callable[[Record], str]] = {
        "parameters": lambda record: _millions(record["parameters"]),
        "MB on disk": lambda record: _number(record["disk_bytes"], 1e-6),
        "dimensions": lambda record: str(record.get("dimensions") or "-"),
        "milliseconds a query": lambda record: _number(record.get("query_ms"), digits=2),
        "bytes a text": lambda record: _number(record.get("text_bytes"), digits=0),
        "processor seconds of training": lambda record: _number(record["training_cpu_seconds"], digits=0),
    }
    for name, cell in costs.items():
        yield _row([name, *(cell(record) for record in models.values())])
    for (at_home, is_code), title in SECTIONS.items():
        names = _sets(models, at_home, is_code)
        if names:
            yield _row([f"**{title}**", *[""] * len(models)])
        for name in names:
            rows = [record["tasks"].get(name) for record in models.values()]
            best = max(round(row["value"], 3) for row in rows if row)
            yield _row([_title(name, rows), *(_cell(row, bool(row) and round(row["value"], 3) == best) for row in rows)])


def _differences(found: Record, models: Mapping[str, Record], baseline: str) -> list[str]:
    compared = {
        name: record["differences"][baseline]["tasks"] for name, record in models.items() if baseline in record["differences"]
    }
    sets = [name for at in SECTIONS for name in _sets(models, *at) if any(name in tasks for tasks in compared.values())]
    if not sets:
        return []
    lines = [f"Difference to {baseline}, on the same queries; bold where the paired interval leaves out 0:", ""]
    lines += [_row(["", *compared]), _row(["---"] * (1 + len(compared)))]
    for name in sets:
        rows = [record["tasks"].get(name) for record in models.values()]
        lines.append(_row([_title(name, rows), *(_signed(tasks.get(name)) for tasks in compared.values())]))
    return [*lines, ""]


def _origins(found: Record, models: Mapping[str, Record]) -> Iterator[str]:
    yield _row(["peer", "where it comes from", "licence"])
    yield _row(["---"] * 3)
    for name, record in models.items():
        yield _row([name, record["source"], record["licence"]])
    left_out = {name: reason for name, reason in found.get("left_out", {}).items() if name not in models}
    skipped = found.get("skipped", {})
    for title, reasons in (("Peers left out", left_out), ("Sets left out", skipped)):
        if reasons:
            told = {reason: [name for name in reasons if reasons[name] == reason] for reason in reasons.values()}
            yield f"\n{title}: " + "; ".join(f"{', '.join(names)} ({reason})" for reason, names in told.items()) + "."
    machines = dict.fromkeys(record["processor"] for record in models.values() if record.get("processor"))
    if machines:
        yield f"\nTimes are of one thread of {' and '.join(machines)}."


def short_table(found: Record) -> str:
    """The six rows that a first page needs, without intervals."""
    models = models_of(found)
    lines = [_row(["", *models]), _row(["---"] * (1 + len(models)))]
    for name in SHORT:
        rows = [record["tasks"].get(name) for record in models.values()]
        if any(rows):
            best = max(round(row["value"], 3) for row in rows if row)
            cells = [_bold(f"{row['value']:.3f}", round(row["value"], 3) == best) if row else "-" for row in rows]
            lines.append(_row([_title(name, rows), *cells]))
    lines.append(_row(["ms a query", *(_number(record.get("query_ms"), digits=2) for record in models.values())]))
    return "\n".join(lines)


def draw(found: Record) -> str:
    """Quality against what a query costs, and against what training cost where that is known, as SVG."""
    models = models_of(found)
    panels = []
    for name in PANELS:
        rows = {model: (record.get("query_ms"), record["tasks"].get(name)) for model, record in models.items()}
        points = [(model, ms, row["value"], row["low"], row["high"]) for model, (ms, row) in rows.items() if ms and row]
        if points:
            panels.append(TradeOff(_title(name, [row for _, row in rows.values()]), "milliseconds a query", points))
    name = PANELS[0]
    spent = {model: record["training_cpu_seconds"] for model, record in models.items()}
    rows = {model: record["tasks"][name] for model, record in models.items() if name in record["tasks"]}
    points = [(model, spent[model], row["value"], row["low"], row["high"]) for model, row in rows.items() if spent[model]]
    if points:
        levels = [(model, row["value"]) for model, row in rows.items() if model in BASELINES]
        panels.append(TradeOff(_title(name, list(rows.values())), "processor seconds of training", points, levels))
    return trade_off_chart("Quality against cost", panels)


def _sets(models: Mapping[str, Record], at_home: bool, is_code: bool) -> list[str]:
    """The sets of a section, in the order in which they were measured first."""
    rows = {name: row for record in models.values() for name, row in record["tasks"].items()}
    return [name for name, row in rows.items() if row["at_home"] == at_home and (row["kind"] == CODE) == is_code]


def _title(name: str, rows: Sequence[Record | None]) -> str:
    row = next(row for row in rows if row)
    title = TITLES.get(name, name).format(n=_candidates(row["task"]))
    title = re.sub(r"^codesearchnet/(\w+)", lambda match: f"CodeSearchNet {match[1].title()} among 1,000", title)
    title = re.sub(r"^codesearchnet-99/(\w+)", lambda match: f"CodeSearchNet's 99 queries, {match[1].title()}", title)
    return f"{title}, {METRICS.get(row['metric'], row['metric'])}"


def _candidates(task: str) -> str:
    size = task.rpartition("_")[2]
    return f"{size[:-1]},000" if size.endswith("k") else size


def _cell(row: Record | None, is_best: bool) -> str:
    return _bold(f"{row['value']:.3f}", is_best) + f" [{row['low']:.3f}, {row['high']:.3f}]" if row else "-"


def _signed(row: Record | None) -> str:
    if not row:
        return "-"
    return _bold(f"{row['value']:+.3f}", row["low"] > 0 or row["high"] < 0) + f" [{row['low']:+.3f}, {row['high']:+.3f}]"


def _bold(text: str, is_bold: bool) -> str:
    return f"**{text}**" if is_bold else text


def _number(value: float | None, scale: float = 1.0, digits: int = 1) -> str:
    return "-" if value is None else f"{value * scale:,.{digits}f}"


def _millions(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:.1f} million"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
