"""Stage "validate": the rows of every extract part against their contracts; the bad ones go to quarantine."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts import document_suite as documents_contract
from data_contracts import pair_suite as pairs_contract
from data_contracts.check_shards import check_shards
from data_contracts.evaluation_suite import evaluation_facts, evaluation_suite
from data_contracts.facts import check_schema
from data_contracts.quarantine import quarantine_rows, write_quarantine
from data_contracts.runner import Verdict, check, check_many
from data_contracts.schemas import DOCUMENTS, EVALUATIONS, PAIRS
from data_contracts.verdicts import REPORT_EXAMPLES, judge, reject_if, verdict_report, verdict_rows
from pipeline_lib.artifact import Artifact, Counts, Outcome, Part, Stage, Store, draft_part, sum_counts
from pipeline_lib.config import ContractConfig
from pipeline_lib.progress import Progress, silent

__all__ = ["STAGE", "check_evaluations", "check_shards", "validate", "verdict_rows"]

STAGE_VERSION = 1
# the contracts are part of what the stage does: a changed one redoes its parts
STAGE = Stage(
    name="validate",
    version=STAGE_VERSION * 10_000 + documents_contract.CONTRACT_VERSION * 100 + pairs_contract.CONTRACT_VERSION,
)

GROUP_BYTES = 32 * 1024**2  # Parquet that one run of the contracts takes: bounds memory to some 200 MB of texts
GROUP_PARTS = 12  # a run costs 0.3 s however few its rows; more parts at a time make progress coarse


@dataclass
class _Work:
    """One extract part on its way: its pairs, and what the contracts say."""

    part: Part
    key: str
    pairs: pa.Table
    document_columns: pa.Table  # id, source, path: all that quarantine rows need
    document_facts: pa.Table
    unreadable: dict[str, int]
    documents: Verdict | None = None


def validate(store: Store, extracted: Artifact, config: ContractConfig, progress: Progress = silent) -> Artifact:
    """Hold documents and pairs of every extract part against their contracts, part by part.

    Each part gets `pairs.parquet` (the good rows, order kept), `quarantine.parquet` (bad documents, bad pairs, and the pairs
    of bad documents) and `verdict.json`. Counts are of pairs; the facts of a part count documents and reasons too.

    Raises:
        RowsRejected: a share is over its threshold; raised when all verdicts are written, with the report's path.
        ContractViolation: a file has other columns than its schema.
        CorruptArtifact: an input's bytes are not those of its manifest.
    """

    def make(key: str) -> Outcome:
        parts = _validate_parts(store, extracted, config, progress)
        faults = judge(parts, config)
        report = store.root / STAGE.name / key / "verdict.md"
        verdict_report(report, parts, faults, _examples(store, parts))
        reject_if(STAGE.name, faults, report)
        return Outcome(parts=tuple(parts), counts=sum_counts(parts), facts=_totals(parts))

    return store.build(STAGE, config, {"extracted": extracted}, make)


def check_evaluations(table: pa.Table) -> Verdict:
    """Hold a table of results against its contract.

    Raises:
        ContractViolation: the columns are not those of schemas.EVALUATIONS.
    """
    check_schema(table, EVALUATIONS, "evaluations")
    return check(evaluation_facts(table), evaluation_suite())


def _validate_parts(store: Store, extracted: Artifact, config: ContractConfig, progress: Progress) -> list[Part]:
    keys = {
        part.label: store.key(STAGE, config, {"part": part.digest, "label": part.label}) for part in extracted.manifest.parts
    }
    done = {label: part for label, key in keys.items() if (part := store.find_part(STAGE.name, key)) is not None}
    missing = [part for part in extracted.manifest.parts if part.label not in done]
    total, rows = len(keys), 0
    for group in _groups(missing):
        for part in _validate_group(store, extracted, group, keys, config):
            done[part.label] = part
            rows += part.counts.n_in
            progress(len(done), total, f"{rows:,} pairs")
    progress(total, total, f"{rows:,} pairs")
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


def _validate_group(
    store: Store, extracted: Artifact, parts: Sequence[Part], keys: dict[str, str], config: ContractConfig
) -> Iterator[Part]:
    works = [_read(extracted, part, keys[part.label]) for part in parts]
    documents = check_many([work.document_facts for work in works], documents_contract.document_suite())
    facts = []
    for work, verdict in zip(works, documents, strict=True):
        work.documents = verdict
        ids = work.document_columns["id"]
        facts.append(pairs_contract.pair_facts(work.pairs, ids, ids.filter(pa.array(verdict.good))))
    for work, verdict in zip(works, check_many(facts, pairs_contract.pair_suite(config)), strict=True):
        yield _write(store, work, verdict)


def _read(extracted: Artifact, part: Part, key: str) -> _Work:
    folder = extracted.folder_of(part)
    documents = pq.read_table(folder / "documents.parquet")
    pairs = pq.read_table(folder / "pairs.parquet")
    check_schema(documents, DOCUMENTS, str(folder / "documents.parquet"))
    check_schema(pairs, PAIRS, str(folder / "pairs.parquet"))
    unreadable = Counter(pq.read_table(folder / "quarantine.parquet", columns=["reason"])["reason"].to_pylist())
    return _Work(
        part=part,
        key=key,
        pairs=pairs,
        document_columns=documents.select(["id", "source", "path"]),
        document_facts=documents_contract.document_facts(documents),
        unreadable=dict(sorted(unreadable.items())),
    )


def _write(store: Store, work: _Work, pairs: Verdict) -> Part:
    documents = work.documents
    assert documents is not None, f"{work.part.label}: pairs were judged before their documents"
    scratch = store.scratch(STAGE.name)
    good = work.pairs.filter(pa.array(pairs.good)).cast(PAIRS)
    pq.write_table(good, scratch / "pairs.parquet", compression="zstd")
    quarantined = write_quarantine(
        scratch,
        [
            quarantine_rows(documents, "validate:documents", work.document_columns, "id"),
            quarantine_rows(pairs, "validate:pairs", work.pairs, "id"),
        ],
    )
    facts = _facts(work, documents, pairs)
    verdict = {
        "label": work.part.label,
        "contracts": {"documents": documents_contract.CONTRACT_VERSION, "pairs": pairs_contract.CONTRACT_VERSION},
        **facts,
    }
    (scratch / "verdict.json").write_text(json.dumps(verdict, indent=1, sort_keys=True) + "\n")
    counts = Counts(n_in=pairs.rows, n_out=good.num_rows, quarantined=len(pairs.flagged))
    rows = {"pairs.parquet": good.num_rows, "quarantine.parquet": quarantined}
    return store.commit_part(draft_part(STAGE, work.key, work.part.label, counts, rows, facts), scratch)


def _facts(work: _Work, documents: Verdict, pairs: Verdict) -> dict[str, Any]:
    return {
        "rows": documents.rows + pairs.rows,
        "quarantined": len(documents.flagged) + len(pairs.flagged),
        "reasons": dict(sorted((Counter(documents.reasons) + Counter(pairs.reasons)).items())),
        "documents": documents.rows,
        "documents_quarantined": len(documents.flagged),
        "pairs": pairs.rows,
        "pairs_quarantined": len(pairs.flagged),
        "unreadable": sum(work.unreadable.values()),
        "unreadable_reasons": work.unreadable,
    }


def _totals(parts: Sequence[Part]) -> dict[str, Any]:
    names = ("rows", "quarantined", "documents", "documents_quarantined", "pairs", "pairs_quarantined", "unreadable")
    totals: dict[str, Any] = {name: sum(part.facts[name] for part in parts) for name in names}
    reasons: Counter[str] = Counter()
    for part in parts:
        reasons.update(part.facts["reasons"])
    return {**totals, "reasons": dict(sorted(reasons.items()))}


def _examples(store: Store, parts: Sequence[Part]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for part in sorted(parts, key=lambda part: (-part.facts["quarantined"], part.label)):
        if len(rows) >= REPORT_EXAMPLES or not part.facts["quarantined"]:
            break
        table = pq.read_table(store.folder_of(part) / "quarantine.parquet")
        rows += table.slice(0, REPORT_EXAMPLES - len(rows)).to_pylist()
    return rows
