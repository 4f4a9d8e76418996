"""Stage "validate": the rows of every extract part against their contracts; the bad ones go to quarantine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow.parquet as pq

from data_contracts.data_loss import DataLosses, no_pair_fault
from data_contracts.validate_parts import PARTS, STAGE, validate_parts
from data_contracts.verdicts import REPORT_EXAMPLES, judge, reject_if, verdict_report
from pipeline_lib.config.data import ContractConfig, WorkersConfig
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.runtime.workers import HERE, where_it_pays
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Outcome, Part, sum_counts
from pipeline_lib.store.store import Store

GROUP_BYTES = 32 * 1024**2  # Parquet of small parts that one task takes
GROUP_PARTS = 12  # a run of the contracts costs 0.3 s however few its rows; more parts at a time make progress coarse
MUCH_BYTES = 128 * 1024**2  # of Parquet: 20 s of one core; below, starting processes takes about as long as they save


def validate(
    store: Store,
    extracted: Artifact,
    config: ContractConfig,
    progress: Progress = silent,
    processes: WorkersConfig = HERE,
) -> Artifact:
    """Hold documents and pairs of every extract part against their contracts, part by part.

    Each part gets `pairs.parquet` (the good rows, order kept), `quarantine.parquet` (bad documents, bad pairs, and the pairs
    of bad documents) and `verdict.json`. Counts are of pairs; the facts of a part count documents and reasons too.

    Args:
        processes: that validate, where there is much; the bytes are the same with any number of them.

    Raises:
        RowsRejected: a share is over its threshold, or there is not one pair; raised when all verdicts are written, with the
            report's path.
        ContractViolation: a file has other columns than its schema.
        CorruptArtifact: an input's bytes are not those of its manifest.
    """

    def make(key: str) -> Outcome:
        parts = _validate_parts(store, extracted, config, progress, processes)
        losses = DataLosses.of(extracted)
        faults = losses.faults(config) + no_pair_fault(extracted) + judge(parts, config)
        report = store.root / STAGE.name / key / "verdict.md"
        verdict_report(report, parts, faults, _examples(store, parts), losses)
        reject_if(STAGE.name, faults, report)
        return Outcome(parts=tuple(parts), counts=sum_counts(parts), facts=_totals(parts) | _lost(losses))

    return store.build(STAGE, config, {"extracted": extracted}, make)


def _validate_parts(
    store: Store, extracted: Artifact, config: ContractConfig, progress: Progress, processes: WorkersConfig
) -> list[Part]:
    keys = {
        part.label: store.key(STAGE, config, {"part": part.digest, "label": part.label}) for part in extracted.manifest.parts
    }
    done = {label: part for label, key in keys.items() if (part := store.find_part(STAGE.name, key)) is not None}
    missing = [part for part in extracted.manifest.parts if part.label not in done]
    source = extracted.bucket.url if extracted.bucket else str(extracted.root)
    groups = list(_groups(missing))
    tasks = [(store.place, source, group, [keys[part.label] for part in group], config) for group in groups]
    rows = 0

    def take(_: int, result: str) -> None:
        nonlocal rows
        for part in PARTS.validate_json(result):
            done[part.label] = part
            rows += part.counts.n_in
        progress(len(done), len(keys), f"{rows:,} pairs")

    is_much = sum(file.bytes for part in missing for file in part.files) >= MUCH_BYTES
    with where_it_pays(processes, store, len(tasks), is_much) as workers:
        workers.run_all(STAGE.name, validate_parts, tasks, take)
    progress(len(keys), len(keys), f"{rows:,} pairs")
    return [done[part.label] for part in extracted.manifest.parts]


def _groups(parts: Sequence[Part]) -> Iterator[list[Part]]:
    group: list[Part] = []
    size = 0
    for part in parts:
        bytes_ = sum(file.bytes for file in part.files)
        if group and (len(group) == GROUP_PARTS or size + bytes_ > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(part)
        size += bytes_
    if group:
        yield group


def _totals(parts: Sequence[Part]) -> dict[str, Any]:
    names = ("rows", "quarantined", "documents", "documents_quarantined", "pairs", "pairs_quarantined", "unreadable")
    totals: dict[str, Any] = {name: sum(part.facts[name] for part in parts) for name in names}
    reasons: Counter[str] = Counter()
    for part in parts:
        reasons.update(part.facts["reasons"])
    return {**totals, "reasons": dict(sorted(reasons.items()))}


def _lost(losses: DataLosses) -> dict[str, Any]:
    return {"files_not_whole": losses.files, "lost_bytes": losses.lost_bytes, "lost_share": losses.share}


def _examples(store: Store, parts: Sequence[Part]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for part in sorted(parts, key=lambda part: (-part.facts["quarantined"], part.label)):
        if len(rows) >= REPORT_EXAMPLES or not part.facts["quarantined"]:
            break
        table = pq.read_table(store.folder_of(part) / "quarantine.parquet")
        rows += table.slice(0, REPORT_EXAMPLES - len(rows)).to_pylist()
    return rows
