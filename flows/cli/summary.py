"""Last screen of a run: results with baselines, sample searches, costs, the report, what to do next, and the key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.report_data import PLUMBING
from pipeline_lib.runtime.machine import artifact_home
from pipeline_lib.search.hits import ID_DIGITS
from pipeline_lib.search.registry import default_name
from pipeline_lib.store.store import SHOWN_DIGITS

if TYPE_CHECKING:
    from flows.evaluate import EvaluatedRef

HITS_SHOWN = 3


def print_summary(report: dict[str, Any]) -> None:
    """Print what a finished run came to."""
    console = Console()
    console.print()
    console.print(_results(report))
    for note in report["notes"]:
        console.print(note, markup=False, highlight=False, style="bold" if note == PLUMBING else None)
    if sentence := report["selection"].get("sentence"):
        console.print(sentence, markup=False, highlight=False)
    if promotion := report.get("promotion"):
        console.print(f"{promotion['name']}: {promotion['sentence']}", markup=False, highlight=False, style="bold")
    for found in report["searches"]:
        _print_hits(console, found)
    console.print(f"\n{costs_sentence(report)}", highlight=False)
    page = artifact_home() / "reports" / report["name"] / "report.html"
    for line in ("", *closing_lines(report, page)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)  # a path that is broken cannot be clicked


def print_night(night: Mapping[str, Any]) -> None:
    """Print what came of a night, or what would."""
    console = Console()
    for line in (night["sentence"], *(f"  {line}" for line in night["lines"])):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def closing_lines(report: Mapping[str, Any], page: Path) -> list[str]:
    """The report, commands to go on with, and last the key of the run, by which every command finds it again."""
    key, chosen = report["lineage"]["train"]["key"], report["selection"].get("chosen", "")
    checkpoint = f"{key[:SHOWN_DIGITS]}/{chosen}"
    return [
        f"Report:      {page}",
        "Next:",
        f'  cpt search "parse an ISO 8601 date"{_by_name(report)}',
        f"  cpt evaluate --checkpoint {checkpoint} --split {_shown(report)[0]}",
        "  cpt run --preset demo --source DIR        your own folder of code and prose",
        "  cpt runs                                  all runs, with their figures",
        "  make up                                   Prefect's UI, deployments, a worker",
        f"Checkpoint:  {key}/{chosen}",
    ]


def _by_name(report: Mapping[str, Any]) -> str:
    """What a search needs to find this model; nothing where it is the one that searches use without a name."""
    name = report.get("promotion", {}).get("name", "")
    try:
        return f" --name {name}" if name and default_name(artifact_home()) != name else ""
    except UserError:
        return f" --name {name}"


def evaluations_table(rows: Iterable[Mapping[str, Any]], title: str) -> Table:
    """Every figure with its 95 % interval; a p-value has none."""
    table = Table(title=title)
    for column in ("model", "task", "metric", "value", "95 % interval", "n"):
        table.add_column(column, overflow="fold")  # a task's name cut off is that of another
    for row in rows:
        interval = "" if row["metric"] == "p_value" else f"[{row['low']:.3f}, {row['high']:.3f}]"
        table.add_row(row["model"], row["task"], row["metric"], f"{row['value']:.3f}", Text(interval), f"{row['n']:,}")
    return table


def print_evaluations(found: EvaluatedRef, artifacts: str = "") -> None:
    """Print the figures of these evaluations, baselines last."""
    from flows.runs import open_store
    from pipeline_lib.evaluation.metrics import read_evaluations

    store = open_store(artifacts)
    keys = [key for keys in found.checkpoints.values() for key in keys]
    evaluations = [store.open("evaluate_suite", key) for key in (*keys, *found.suites)]
    console = Console()
    console.print(evaluations_table(read_evaluations(evaluations), f"on {found.split}"))
    for suite, reason in found.skipped.items():
        console.print(f"passed over {suite}: {reason}", markup=False, highlight=False)


def _results(report: dict[str, Any]) -> Table:
    split, said = _shown(report)
    title = f"{report['name']}: held-out {report['held_out']['units']}, {said}"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("task", "metric", "model", "95% interval", "+BM25", "BM25", "TF-IDF", "n"):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right", no_wrap=True)
    for task, entry in report[split].items():
        if "model" not in entry:
            continue
        model = entry["model"]
        for row, (metric, bounds) in enumerate(model["intervals"].items()):
            interval = f"{bounds['low']:.3f}..{bounds['high']:.3f}"  # 80 columns hold all of it
            beside = [entry.get(name, {}).get(metric) for name in ("hybrid", "bm25", "tfidf")]
            others = ["-" if value is None else f"{value:.3f}" for value in beside]
            table.add_row("" if row else task, metric, f"{model[metric]:.3f}", interval, *others, f"{model['n']:,}")
    return table


def _shown(report: Mapping[str, Any]) -> tuple[str, str]:
    """The split whose figures are shown, and what is said of it; the test split of what was held back is not opened."""
    return ("validation", "of validation") if "test" in report and not report["test"] else ("test", "opened once")


def _print_hits(console: Console, found: dict[str, Any]) -> None:
    console.print(Text(f'\ncpt search "{found["query"]}"', style="italic"))
    for hit in found["hits"][:HITS_SHOWN]:
        head = Text.assemble(f" {hit['score']:.3f}  ", (hit["name"], "bold"), (f"  {hit['path']}:{hit['line']}", "dim"))
        for line in (head, Text.assemble("        ", (f"{hit.get('id', '')[:ID_DIGITS]}  ", "dim"), hit["doc"])):
            console.print(line, no_wrap=True, overflow="ellipsis")


def costs_sentence(report: Mapping[str, Any]) -> str:
    """What the run took; of one that found everything done, what it took to see that and what the earlier one had taken."""
    memory = report["peak_memory_bytes"] / 1024**3
    text = (
        f"{report['seconds']['total'] / 60:.1f} minutes, {report['cpu_seconds']:,.0f} CPU-seconds, "
        f"{memory:.1f} GB at most over the process tree"
    )
    if report.get("attempts", 1) > 1:
        text += f", over {report['attempts']} attempts"
    stages = report["lineage"].values()
    if reused := sum(stage.get("reused", False) for stage in stages):
        text += f"; {reused} of {len(stages)} stages were found done and are not in this"
    if now := report.get("now"):
        return f"All was found done, in {now['seconds']:.0f} seconds. The run that made it took {text}"
    return text
