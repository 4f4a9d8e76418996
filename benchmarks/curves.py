"""Quality against processor time: `python -m benchmarks.curves --runs NAME=TRAIN[@X,Y][+STAGE/KEY]`, then `--table`.

Each checkpoint of each training run on the held-out validation tasks of a report (`--home`, `--run`), by the project's own
suites; TRAIN is the key of a training run below the home, X,Y the longest query and document that its checkpoints read where
those are not its training's, STAGE/KEY what came before it and counts (a lexical start, a language model). Figures are added
to `--results`; `--table` writes table and picture from that file alone.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.evaluate import evaluated, headline_of
from benchmarks.peers.__main__ import held_out_of
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.charts import TradeOff, trade_off_chart
from pipeline_lib.evaluation.suites.held_out_pairs import held_out_suites
from pipeline_lib.evaluation.suites.models import CheckpointEncoder
from pipeline_lib.model.checkpoint import open_checkpoint
from pipeline_lib.store.files import replace_file
from pipeline_lib.store.store import Store

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURE, RESULTS = DOCS / "results" / "lm.md", DOCS / "pictures" / "curves.svg", DOCS / "results" / "curves.json"
BEGIN, END = "<!-- begin: python -m benchmarks.curves --table -->", "<!-- end -->"
KINDS = ("code_search", "text_search", "classification", "similarity")
PANELS = {"code_search": "code search, MRR", "text_search": "text search, MRR"}

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the runs that are named, or write the table."""
    options = _parser().parse_args(argv)
    found: dict[str, list[Row]] = json.loads(options.results.read_bytes()) if options.results.is_file() else {}
    if options.table:
        write(found, options.page, options.picture)
        return
    store = Store(options.home / "store")
    for given in options.runs:
        name, _, what = given.partition("=")
        run, *before = what.split("+")
        key, _, lengths = run.partition("@")
        reading = [int(n_tokens) for n_tokens in lengths.split(",")] if lengths else [None, None]
        found[name] = list(measure(store, options.home, options.run, key, reading, before))
        replace_file(options.results, (json.dumps(found, indent=1) + "\n").encode())
    print(json.dumps({f"{name}_{kind}": rows[-1][kind]["value"] for name, rows in found.items() for kind in PANELS}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.curves", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", nargs="+", default=[], metavar="NAME=TRAIN[@X,Y][+STAGE/KEY]", help="one curve each")
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("CPT_HOME", "artifacts")))
    parser.add_argument("--run", default="demo", help="report whose held-out pairs are measured on")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="write table and picture from the results; measure nothing")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    return parser


def measure(
    store: Store, home: Path, run: str, key: str, lengths: Sequence[int | None], before: Sequence[str]
) -> Iterator[Row]:
    """The figures of a run's checkpoints on validation, reading these lengths, and the processor seconds until each."""
    curated, config = held_out_of(home, store, run)
    trained = store.open("train", key)
    cpu_per_step = _cpu_per_step(trained.folder)
    spent = sum(_run_record(store.root / stage)["cpu_seconds"] for stage in before)
    pairs = trained.manifest.facts["pairs_seen"] / trained.manifest.facts["step"]
    for label in (part.label for part in trained.manifest.parts if part.label.startswith("step-")):
        checkpoint = open_checkpoint(store, f"{key}/{label}").reading(*lengths)
        row: Row = {"step": checkpoint.step, "pairs": round(pairs * checkpoint.step)}
        row["cpu_seconds"] = round(spent + cpu_per_step * checkpoint.step, 1)
        model = CheckpointEncoder(checkpoint)
        for suite in held_out_suites(curated, config):
            artifact = evaluated(store, model, suite, "validation")
            figure = headline_of(artifact) if artifact else None
            if figure:
                row[suite.kind] = {name: round(figure[name], 4) for name in ("value", "low", "high")}
        print(f"{key[:8]} {label}: {row['cpu_seconds']:,.0f} s, {row['code_search']['value']:.3f}", flush=True)
        yield row


def _cpu_per_step(folder: Path) -> float:
    """Processor seconds of a step: its median time, times the processors at work in the launch that ended the run."""
    record = _run_record(folder)
    steps = [json.loads(line)["seconds"] for line in (folder / "timing.jsonl").read_text(encoding="utf-8").splitlines()]
    return float(median(steps) * record["cpu_seconds"] / record["seconds"])


def _run_record(folder: Path) -> dict[str, float]:
    try:
        return dict(json.loads((folder / "run.json").read_bytes()))
    except OSError as error:
        raise UserError(f"{folder}: no run.json, so nothing is known of its time; name a finished artifact") from error


def write(found: Mapping[str, Sequence[Row]], page: Path, picture: Path) -> None:
    """Put the table between the page's marks and draw the picture.

    Raises:
        UserError: there are no results, or the page has no marks.
    """
    content = page.read_text(encoding="utf-8")
    if not found or BEGIN not in content or END not in content:
        raise UserError(f"{page}: no results, or no {BEGIN} and {END} to write between; measure with --runs first")
    head, tail = content[: content.index(BEGIN) + len(BEGIN)], content[content.index(END) :]
    replace_file(page, f"{head}\n\n{table(found)}\n\n{tail}".encode())
    panels = [
        TradeOff(
            title, "processor minutes of training", [_point(name, row, kind) for name, rows in found.items() for row in rows]
        )
        for kind, title in PANELS.items()
    ]
    replace_file(picture, trade_off_chart("Quality against processor time, by start", panels).encode())


def table(found: Mapping[str, Sequence[Row]]) -> str:
    """A row a checkpoint, as Markdown."""
    lines = ["| start | pairs seen | processor minutes | code search | text search | classification | similarity |"]
    lines.append("|---" * 7 + "|")
    for name, rows in found.items():
        for row in rows:
            cells = (f"{row[kind]['value']:.3f}" for kind in KINDS)
            minutes = row["cpu_seconds"] / 60
            lines.append(f"| {name} | {row['pairs']:,} | {minutes:,.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _point(name: str, row: Row, kind: str) -> tuple[str, float, float, float, float]:
    figure = row[kind]
    return name, row["cpu_seconds"] / 60, figure["value"], figure["low"], figure["high"]


if __name__ == "__main__":
    main()
