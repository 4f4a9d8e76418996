"""Inspection of a dump, `cpt inspect`, and the way back from a pair to its origin, `cpt trace`; neither writes anything."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_contracts.data_loss import by_count
from flows.runs import open_store
from pipeline_lib.errors import redacted
from pipeline_lib.pairs.filters import FilterReport, SampledDrops
from pipeline_lib.pairs.inspect import Reason, Row, Sample, sample_source
from pipeline_lib.pairs.trace import trace_pair
from pipeline_lib.sources.dump_spec import sources_of
from pipeline_lib.sources.records import DataLoss
from pipeline_lib.sources.safe_open import Refusal, printable

CHARACTERS, LINES = 400, 8  # shown of a text
DROPS_SHOWN = 3  # of what each filter drops
LOSSES_SHOWN = 10


def inspect_dump(target: str, reader: str, max_texts: int, shown: int, filters: bool = False) -> None:
    """Print what is in a dump spec, a path, a glob or a URL, source by source.

    Args:
        filters: show in place of documents and pairs what each filter drops, with samples.

    Raises:
        UserError: the target or its spec is wrong, or a source holds nothing for its reader.
    """
    console = Console()
    for source in sources_of(target, reader):
        sample = sample_source(source, max_texts, shown, DROPS_SHOWN if filters else 0)
        console.print(_facts(sample))
        for line in _losses(sample):
            console.print(line, markup=False, highlight=False, style="bold")
        for title, reasons in (
            ("refused texts", sample.refused),
            ("left out: texts, and candidates for pairs", sample.left_out),
        ):
            if reasons:
                console.print(_reasons(title, reasons))
        if filters:
            console.print(_filters(sample.filters))
            console.print(_drops(sample.dropped))
            continue
        if sample.documents_shown:
            console.print(_documents(sample.documents_shown))
        if sample.pairs_shown:
            console.print(_pairs(sample.pairs_shown))


def _facts(sample: Sample) -> Table:
    source = sample.source
    table = Table(title=Text(source.name, style="bold"), box=None, show_header=False, title_justify="left")
    read = f"{sample.texts:,}" if sample.whole else f"{sample.texts:,} read, there are more (--records)"
    rows = {
        "reader": source.reader,
        "url": redacted(source.url),
        "licence": source.licence,
        "files": f"{sample.files:,}, {sample.bytes:,} bytes",
        "texts": read,
        "pairs": f"{sample.pairs:,} of them",
        **({"not read": sample.skips.sentence()} if sample.skips else {}),
        **({"left out of texts": by_count(sample.omitted)} if sample.omitted else {}),
    }
    for name, value in rows.items():
        table.add_row(name, Text(printable(value), overflow="fold"))
    return table


def print_json(target: str, reader: str, max_texts: int, shown: int) -> str:
    """Print what is in a dump as JSON, alone on the standard output: an object, of a spec of several sources a list of them.

    Returns:
        Why nothing could be read; empty where a text could.

    Raises:
        UserError: as `inspect_dump` does.
    """
    samples = [sample_source(source, max_texts, shown) for source in sources_of(target, reader)]
    found = [_as_json(sample) for sample in samples]
    sys.stdout.write(json.dumps(found[0] if len(found) == 1 else found, indent=1) + "\n")
    if any(sample.readable for sample in samples):
        return ""
    refused = Counter[str]()
    for one in found:
        refused.update(one["refused"])
    return f"nothing in it could be read: {by_count(refused)}"


def _as_json(sample: Sample) -> dict[str, Any]:
    """The sample of one source; `refused` counts the texts and the losses of files together."""
    lost = Counter(_refusal(loss).reason for loss in sample.losses)
    return {
        "source": sample.source.name,
        "reader": sample.source.reader,
        "url": redacted(sample.source.url),
        "files": sample.files,
        "bytes": sample.bytes,
        "texts": sample.texts,
        "whole": sample.whole,
        "pairs": sample.pairs,
        "refused": dict(Counter({name: reason.count for name, reason in sample.refused.items()}) + lost),
        "dropped": {name: reason.count for name, reason in sample.left_out.items()},
        "samples": [{"x": row["x"], "y": row["y"], "place": f"{row['path']}:{row['line']}"} for row in sample.pairs_shown],
        "reasons": {name: {"place": r.place, "sample": r.sample} for name, r in (sample.left_out | sample.refused).items()},
        "skipped": sample.skips.facts(),
        "omitted": dict(sorted(sample.omitted.items())),
        "losses": [{"file": loss.file.path, "file_bytes": loss.file.bytes, **asdict(_refusal(loss))} for loss in sample.losses],
    }


def _refusal(loss: DataLoss) -> Refusal:
    assert isinstance(loss.content, Refusal), f"{loss.file.path}: a loss without a reason"
    return loss.content


def _losses(sample: Sample) -> list[str]:
    """A line a part of a file that was not read, the first ones."""
    lines = []
    for loss in sample.losses[:LOSSES_SHOWN]:
        why = _refusal(loss)
        place = f" at offset {why.offset:,}" if why.offset >= 0 else ""
        cost = f"{why.lost_bytes:,} of its {loss.file.bytes:,} bytes count as lost"
        lines.append(printable(f"not read whole: {loss.file.path}: {why.reason}{place}, {cost}: {why.detail}"))
    more = len(sample.losses) - LOSSES_SHOWN
    return [*lines, f"and {more:,} more such losses"] if more > 0 else lines


def _reasons(title: str, reasons: Mapping[str, Reason]) -> Table:
    table = Table("reason", "count", "the first: place and sample", title=title, box=SIMPLE_HEAD, title_justify="left")
    for name, reason in sorted(reasons.items(), key=lambda item: (-item[1].count, item[0])):
        sample = Text.assemble((printable(reason.place), "bold"), "\n", printable(short(reason.sample)), overflow="fold")
        table.add_row(Text(name), f"{reason.count:,}", sample)
    return table


def _filters(report: FilterReport) -> Table:
    title = f"filters of documents at published bounds: {report.dropped.total():,} of {report.seen:,} texts would go"
    table = Table(
        "filter", "first", "alone", "why, and what", title=title, box=SIMPLE_HEAD, title_justify="left", show_lines=True
    )
    for name, reason in report.reasons.items():
        samples = [f"- {printable(short(text))}" for text in report.samples.get(name, [])]
        what = Text("\n".join([reason, *samples]), overflow="fold")
        table.add_row(name, f"{report.dropped[name]:,}", f"{report.alone[name]:,}", what)
    return table


def _drops(dropped: SampledDrops) -> Table:
    title = f"filters of pairs, as extraction applies them: {dropped.total():,} candidates left out"
    table = Table("filter", "dropped", "what", title=title, box=SIMPLE_HEAD, title_justify="left", show_lines=True)
    for reason, count in dropped.most_common():
        samples = [f"x  {printable(short(x))}\ny  {printable(short(y))}" for x, y in dropped.samples[reason]]
        table.add_row(reason, f"{count:,}", Text("\n\n".join(samples), overflow="fold"))
    return table


def _documents(rows: Sequence[Row]) -> Table:
    table = _list(f"{len(rows)} documents")
    for row in rows:
        about = f"{row['kind']}, {row['language']}, {len(row['text']):,} characters"
        table.add_row(_entry(row["path"], about, short(row["text"])))
    return table


def _pairs(rows: Sequence[Row]) -> Table:
    table = _list(f"{len(rows)} pairs")
    for row in rows:
        about = f"{row['view']}, {row['language']}, {row['name']}"
        table.add_row(_entry(f"{row['path']}:{row['line']}", about, f"x  {short(row['x'])}", f"y  {short(row['y'])}"))
    return table


def _list(title: str) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", show_header=False, show_lines=True)
    table.add_column(overflow="fold")
    return table


def _entry(path: str, about: str, *texts: str) -> Text:
    entry = Text.assemble((printable(path), "bold"), "\n", (printable(about), "dim"))
    for text in texts:
        entry.append("\n" + printable(text))
    return entry


def short(text: str) -> str:
    """The beginning of a text, without empty lines."""
    lines = [line.rstrip() for line in text[: CHARACTERS * 2].splitlines() if line.strip()]
    begins = "\n".join(lines[:LINES])[:CHARACTERS]
    return begins if len(text.strip()) <= len(begins) else begins + " ..."


def print_trace(pair_id: str, artifacts: str = "") -> None:
    """Print a pair and its origin.

    Raises:
        UserError: there is no such pair in the store.
    """
    found = trace_pair(open_store(artifacts), pair_id)
    table = Table(box=None, show_header=False)
    rows = {**found.facts(), "x": short(found.pair["x"]), "y": short(found.pair["y"])}
    for name, value in rows.items():
        table.add_row(name, Text(printable(value), overflow="fold"))
    Console().print(table)
