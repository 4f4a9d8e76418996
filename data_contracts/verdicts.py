"""Verdicts of stages: rows in quarantine, shares over their threshold, and the report that says why a stage stops."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.data_loss import DataLosses, commonest_of, loss_line
from data_contracts.facts import repair_unicode
from data_contracts.runner import Verdict
from data_contracts.schemas import QUARANTINE
from pipeline_lib.config.data import ContractConfig
from pipeline_lib.errors import ContractViolation
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import replace_file
from pipeline_lib.store.records import Part

REPORT_EXAMPLES = 20  # quarantined rows that a report quotes
LOSSES_SHOWN = 200  # files not read whole that a report lists
REPORT_PARTS = 200  # worst parts that a report lists
NO_LOSSES = DataLosses((), 0)


class RowsRejected(ContractViolation):
    """More rows broke their contract than the config allows; `report` is the file that says which and why."""

    def __init__(self, message: str, report: Path) -> None:
        super().__init__(message)
        self.report = report


def verdict_row(part: Part) -> dict[str, Any]:
    """One part as a row of the table that people read: part, rows, quarantined, share, unreadable, reasons."""
    rows, bad = part.facts["rows"], part.facts["quarantined"]
    reasons = Counter(part.facts["reasons"]).most_common()
    return {
        "part": part.label,
        "rows": rows,
        "quarantined": bad,
        "share": bad / rows if rows else 0.0,
        "unreadable": part.facts.get("unreadable", 0),
        "reasons": ", ".join(f"{reason} {count}" for reason, count in sorted(reasons, key=lambda item: (-item[1], item[0]))),
    }


def verdict_rows(artifact: Artifact) -> list[dict[str, Any]]:
    """The verdict of every part of a `validate` or `check_shards` artifact, in the manifest's order (see `verdict_row`)."""
    return [verdict_row(part) for part in artifact.manifest.parts]


def loss_verdicts(extracted: Artifact) -> list[dict[str, Any]]:
    """A verdict a file that was not read whole; rows that were cut off with it nobody can count."""
    return [
        {"contract": "files read whole", "part": row["path"], "rows": row["texts"], "quarantined": 0,
         "share": row["lost_bytes"] / row["file_bytes"] if row["file_bytes"] else 1.0, "unreadable": 1,
         "reasons": loss_line(row)}
        for row in DataLosses.of(extracted).rows[:LOSSES_SHOWN]
    ]  # fmt: skip


def judge(parts: Sequence[Part], config: ContractConfig) -> list[str]:
    """Say of every part that is over the threshold what, how much, and why; of the small ones, together.

    A part of at least `min_rows_for_share` rows stands for itself. The others are summed, and their sum counts as that
    many rows at least, so that a tiny data set with a bad row or two passes.
    """
    floor = config.min_rows_for_share
    faults = []
    small = [part for part in parts if part.facts["rows"] < floor]
    for names, group in [
        *((f"part {part.label!r}", [part]) for part in parts if part.facts["rows"] >= floor),
        (f"{len(small)} parts of under {floor} rows together", small),
    ]:
        rows = sum(part.facts["rows"] for part in group)
        bad = sum(part.facts["quarantined"] for part in group)
        if bad > config.max_quarantined_share * max(rows, floor):
            faults.append(
                f"{names}: {bad:,} of {rows:,} rows ({bad / rows:.1%}) break their contract, at most "
                f"{config.max_quarantined_share:.1%} may; commonest: {commonest(part.facts['reasons'] for part in group)}"
            )
    return faults + _judge_files(parts, config)


def _judge_files(parts: Sequence[Part], config: ContractConfig) -> list[str]:
    unreadable = sum(part.facts.get("unreadable", 0) for part in parts)
    files = unreadable + sum(part.facts.get("documents", 0) for part in parts)
    # as with rows, a handful of files is no verdict: one unreadable file of three must not end a run
    if unreadable <= config.max_unreadable_share * max(files, 20):
        return []
    reasons = commonest(part.facts.get("unreadable_reasons", {}) for part in parts)
    share = f"{unreadable / files:.1%}"
    return [
        f"the whole set: {unreadable:,} of {files:,} files ({share}) could not be read, at most "
        f"{config.max_unreadable_share:.1%} may; commonest: {reasons}"
    ]


def commonest(reasons: Iterable[Mapping[str, int]]) -> str:
    """The three commonest reasons with their counts, e.g. "x_blank 12, line_below_one 3"."""
    total: Counter[str] = Counter()
    for counts in reasons:
        total.update(counts)
    ranked = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in ranked[:3]) or "none"


def verdict_report(
    path: Path,
    parts: Sequence[Part],
    faults: Sequence[str],
    examples: Sequence[Mapping[str, Any]],
    losses: DataLosses = NO_LOSSES,
) -> Path:
    """Write the verdict of a stage, as markdown and beside it as JSON: the faults, a table of parts, and quoted rows.

    Args:
        path: of the markdown; replaced whole.
        parts: of the stage, with the facts of a verdict.
        faults: what `judge` said; none means that the stage passed.
        examples: rows of schemas.QUARANTINE, of which `REPORT_EXAMPLES` are quoted.
        losses: of the dump that the parts come of.

    Returns:
        The path.
    """
    rows = sorted((verdict_row(part) for part in parts), key=lambda row: (-row["share"], row["part"]))
    with_losses = ", but not all of the dump was read" if losses.rows else ""
    lines = [f"# Contracts: {'not kept' if faults else 'kept' + with_losses}", ""]
    lines += [f"- {fault}" for fault in faults] or ["Every part is within its threshold."]
    lines += _losses_table(losses)
    lines += ["", "| part | rows | quarantined | share | unreadable files | reasons |", "|---|---:|---:|---:|---:|---|"]
    for row in rows[:REPORT_PARTS]:
        figures = f"{row['rows']:,} | {row['quarantined']:,} | {row['share']:.2%} | {row['unreadable']:,}"
        lines.append(f"| {_cell(row['part'])} | {figures} | {_cell(row['reasons'])} |")
    if len(rows) > REPORT_PARTS:
        lines.append(f"\n{len(rows) - REPORT_PARTS:,} more parts with a smaller share are left out here.")
    if examples:
        lines += [
            "",
            "## Rows in quarantine, the first ones",
            "",
            "| source | path | row | reason | detail |",
            "|---|---|---:|---|---|",
        ]
        for example in examples[:REPORT_EXAMPLES]:
            names = [_cell(str(example[name])) for name in ("source", "path", "offset", "reason", "detail")]
            lines.append(f"| {' | '.join(names)} |")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"kept": not faults, "faults": list(faults), "parts": rows, "examples": list(examples[:REPORT_EXAMPLES])}
    content |= {"lost_bytes": losses.lost_bytes, "lost_share": losses.share, "losses": list(losses.rows[:REPORT_PARTS])}
    replace_file(path.with_suffix(".json"), (json.dumps(content, indent=1) + "\n").encode())
    replace_file(path, ("\n".join(lines) + "\n").encode(errors="replace"))
    return path


def _losses_table(losses: DataLosses) -> list[str]:
    if not losses.rows:
        return []
    lines = ["", "## Files that were not read whole", "", f"{losses.sentence}. What came before each break is kept.", ""]
    lines += ["| source | file | reason | times | offset | texts kept before | bytes lost | of | why |"]
    lines += ["|---|---|---|---:|---:|---:|---:|---:|---|"]
    for row in losses.rows[:REPORT_PARTS]:
        figures = " | ".join(f"{row[name]:,}" for name in ("count", "offset", "texts", "lost_bytes", "file_bytes"))
        lines.append(
            f"| {_cell(row['source'])} | {_cell(row['path'])} | {row['reason']} | {figures} | {_cell(row['detail'])} |"
        )
    if len(losses.rows) > REPORT_PARTS:
        lines.append(
            f"\n{len(losses.rows) - REPORT_PARTS:,} more are left out here: {commonest_of(losses.rows[REPORT_PARTS:])}."
        )
    return lines


def _cell(text: str) -> str:
    flat = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return "".join(character if character.isprintable() else "\ufffd" for character in flat)


def reject_if(stage: str, faults: Sequence[str], report: Path) -> None:
    """Raise on the first fault, saying how many there are.

    Raises:
        RowsRejected: there is a fault.
    """
    if not faults:
        return
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    raise RowsRejected(f"{stage}: {faults[0]}{more}; every row and reason: {report}", report)


def quarantine_rows(verdict: Verdict, stage: str, table: pa.Table, id_column: str, offset: int = 0) -> pa.Table:
    """Rows that broke a contract, as rows of schemas.QUARANTINE: the reasons of each joined by commas.

    Args:
        verdict: on `table`.
        stage: said in the first column, e.g. "validate:pairs".
        table: the rows themselves; `source` and `path` are taken where it has them.
        id_column: what names a row.
        offset: of the table's first row in its file or part.
    """
    rows = list(verdict.flagged)
    names = [name for name in ("source", "path", id_column) if name in table.column_names]
    picked, _ = repair_unicode(table.select(names).take(pa.array(rows, pa.int64())))
    blank = [""] * len(rows)
    columns = {
        "stage": [stage] * len(rows),
        "source": picked["source"].to_pylist() if "source" in names else blank,
        "path": picked["path"].to_pylist() if "path" in names else blank,
        "offset": [row + offset for row in rows],
        "record_id": picked[id_column].to_pylist(),
        "reason": [",".join(verdict.flagged[row]) for row in rows],
        "detail": [verdict.details[row] for row in rows],
    }
    return pa.table(columns, schema=QUARANTINE)


def write_quarantine(folder: Path, rows: list[pa.Table]) -> int:
    """Write `quarantine.parquet` into the folder; returns its rows."""
    table = pa.concat_tables([QUARANTINE.empty_table(), *rows]).combine_chunks()
    pq.write_table(table, folder / "quarantine.parquet", compression="zstd")
    return table.num_rows
