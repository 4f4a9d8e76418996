"""Stage "check_shards": every row of token ids against its contract, before anything is trained on it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_contracts.facts import check_schema
from data_contracts.runner import check_many
from data_contracts.schemas import tokens_schema
from data_contracts.shard_suite import CONTRACT_VERSION, TokenLimits, has_negatives, shard_facts, shard_suite
from data_contracts.verdicts import judge, quarantine_rows, reject_if, verdict_report, write_quarantine
from pipeline_lib.config.data import ContractConfig
from pipeline_lib.errors import ContractViolation
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Counts, Outcome, Part, Stage, draft_part, sum_counts
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer

STAGE_VERSION = 1
STAGE = Stage(name="check_shards", version=STAGE_VERSION * 100 + CONTRACT_VERSION)

# token ids are our own output: one bad row is a fault of the program, and no share of them is tolerated
NO_BAD_ROW = ContractConfig(max_quarantined_share=0.0, min_rows_for_share=1)

GROUP_ROWS = 500_000  # facts of so many rows (14 short columns, 60 MB) go through one run of the contract


def check_shards(
    store: Store, shards: Artifact, tokenizer: Artifact, config: ContractConfig, progress: Progress = silent
) -> Artifact:
    """Hold every row of every shard against its contract.

    Each part gets `verdict.json` and `quarantine.parquet`; the shards themselves stay where they are.

    Args:
        tokenizer: whose reserved ids and vocabulary the rows must keep to.

    Raises:
        RowsRejected: a row breaks the contract; raised when all verdicts are written, with the report's path.
        CorruptArtifact: an input's bytes are not those of its manifest.
    """
    limits = read_limits(shards, tokenizer)

    def make(key: str) -> Outcome:
        parts = []
        total = len(shards.manifest.parts)
        for part in shards.manifest.parts:
            part_key = store.key(STAGE, config, {"part": part.digest, "label": part.label, "tokenizer": tokenizer.digest})
            found = store.find_part(STAGE.name, part_key)
            parts.append(found or _check_part(store, shards, part, part_key, limits))
            progress(len(parts), total, f"{sum(done.facts['rows'] for done in parts):,} rows")
        faults = judge(parts, NO_BAD_ROW)
        report = verdict_report(store.root / STAGE.name / key / "verdict.md", parts, faults, [])
        reject_if(STAGE.name, faults, report)
        return Outcome(parts=tuple(parts), counts=sum_counts(parts), facts={"rows": sum(p.facts["rows"] for p in parts)})

    return store.build(STAGE, config, {"shards": shards, "tokenizer": tokenizer}, make)


def read_limits(shards: Artifact, tokenizer: Artifact) -> TokenLimits:
    """What the tokenizer's files and the shards' config promise about every row."""
    pairs = PairTokenizer.load(tokenizer.part_folder())
    config = shards.manifest.config
    return TokenLimits(
        **{name: getattr(pairs.delimiters, name) for name in ("x_prefix", "x_suffix", "y_prefix", "y_suffix")},
        vocab_size=pairs.vocab_size,
        reserved=pairs.reserved,
        max_x_tokens=int(config["max_x_tokens"]),
        max_y_tokens=int(config["max_y_tokens"]),
    )


def _check_part(store: Store, shards: Artifact, part: Part, key: str, limits: TokenLimits) -> Part:
    scratch = store.scratch(STAGE.name)
    rows, reasons, bad = 0, Counter[str](), []
    for tables in _groups(shards, part, limits.vocab_size):
        suite = shard_suite(limits, negatives=has_negatives(tables[0].schema))
        verdicts = check_many([shard_facts(table, limits) for table in tables], suite)
        for table, verdict in zip(tables, verdicts, strict=True):
            bad.append(quarantine_rows(verdict, STAGE.name, table, "pair_id", offset=rows))
            reasons.update(verdict.reasons)
            rows += verdict.rows
    quarantined = write_quarantine(scratch, bad)
    facts: dict[str, Any] = {"rows": rows, "quarantined": quarantined, "reasons": dict(sorted(reasons.items()))}
    verdict_json = {"label": part.label, "contract": CONTRACT_VERSION, **facts}
    (scratch / "verdict.json").write_text(json.dumps(verdict_json, indent=1, sort_keys=True) + "\n")
    counts = Counts(n_in=rows, n_out=rows - quarantined, quarantined=quarantined)
    draft = draft_part(STAGE, key, part.label, counts, {"quarantine.parquet": quarantined}, facts)
    return store.commit_part(draft, scratch)


def _groups(shards: Artifact, part: Part, vocab_size: int) -> Iterator[list[pa.Table]]:
    group: list[pa.Table] = []
    for file in part.files:
        if not file.name.endswith(".arrow"):
            continue
        path = shards.path_of(part, file)
        table = _open(path, vocab_size)
        if group and sum(earlier.num_rows for earlier in group) + table.num_rows > GROUP_ROWS:
            yield group
            group = []
        group.append(table)
    if group:
        yield group


def _open(path: Path, vocab_size: int) -> pa.Table:
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid as error:
        raise ContractViolation(f"{path}: no Arrow IPC file ({error}); remove the shards and run again") from error
    check_schema(table, tokens_schema(vocab_size, has_negatives(table.schema)), str(path))
    return table
