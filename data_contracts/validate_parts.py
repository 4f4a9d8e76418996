"""Validation of some extract parts: the task of the stage "validate".

Tables are read row group by row group, and texts are let go as soon as they are judged: what is held of a part are the ids of
its documents, while ids are compared a number for each, and the rows that are set aside.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from data_contracts import document_suite as documents_contract
from data_contracts import pair_suite as pairs_contract
from data_contracts.facts import EarlierIds, check_schema
from data_contracts.runner import Verdict, check_many
from data_contracts.schemas import DOCUMENTS, PAIRS
from data_contracts.verdicts import quarantine_rows, write_quarantine
from pipeline_lib.config.data import ContractConfig
from pipeline_lib.runtime.machine import system_memory
from pipeline_lib.store.records import Counts, Part, Stage, draft_part
from pipeline_lib.store.store import Store

STAGE_VERSION = 1
# the contracts are part of what the stage does: a changed one redoes its parts
STAGE = Stage(
    name="validate",
    version=STAGE_VERSION * 10_000 + documents_contract.CONTRACT_VERSION * 100 + pairs_contract.CONTRACT_VERSION,
)
RUN_BYTES = 48 * 1024**2  # of rows in memory that one run of a contract takes; a run costs 0.3 s however few they are

PARTS = TypeAdapter(tuple[Part, ...])  # what `validate_parts` returns, as JSON


def validate_parts(place: str, extracted_place: str, parts: Sequence[Part], keys: Sequence[str], config: ContractConfig) -> str:
    """Validate extract parts and commit what comes of each.

    Args:
        place: of the store that the parts go to.
        extracted_place: of the store that they come from.
        keys: of the new parts.

    Returns:
        `PARTS`, as JSON.
    """
    store, source = Store.at(place), Store.at(extracted_place)
    works: list[_PartWork] = []
    with system_memory():
        try:
            for part, key in zip(parts, keys, strict=True):
                works.append(_PartWork(store, source.folder_of(part), part, key))
            _judge_documents(works)
            _judge_pairs(works, config)
            return PARTS.dump_json(tuple(work.commit() for work in works)).decode()
        finally:
            for work in works:
                work.close()


class _PartWork:
    """One extract part on its way: what the contracts said of it so far, and the file that its good pairs go to."""

    def __init__(self, store: Store, folder: Path, part: Part, key: str) -> None:
        self.store, self.folder, self.part, self.key = store, folder, part, key
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.bad: list[pa.Table] = []  # rows of QUARANTINE
        self.good_documents: list[pa.ChunkedArray] = []
        self.bad_documents: list[pa.ChunkedArray] = []
        for name, schema in (("documents.parquet", DOCUMENTS), ("pairs.parquet", PAIRS)):
            check_schema(pq.read_schema(folder / name).empty_table(), schema, str(folder / name))
        self.document_ids = EarlierIds.of_file(folder / "documents.parquet")
        self.pair_ids = EarlierIds.of_file(folder / "pairs.parquet")
        self.scratch = store.scratch(STAGE.name)
        self.writer = pq.ParquetWriter(self.scratch / "pairs.parquet", PAIRS, compression="zstd")

    def take_documents(self, rows: pa.Table, verdict: Verdict) -> None:
        """Note what the contract says of the next documents."""
        self.bad.append(quarantine_rows(verdict, "validate:documents", rows, "id", offset=self.counts["documents"]))
        good = pa.array(verdict.good)
        self.good_documents.append(rows["id"].filter(good))
        self.bad_documents.append(rows["id"].filter(pc.invert(good)))
        self._count("documents", verdict)

    def take_pairs(self, rows: pa.Table, verdict: Verdict) -> None:
        """Write the good ones of the next pairs, and note what the contract says of the others."""
        self.bad.append(quarantine_rows(verdict, "validate:pairs", rows, "id", offset=self.counts["pairs"]))
        self.writer.write_table(rows.filter(pa.array(verdict.good)).cast(PAIRS))
        self._count("pairs", verdict)

    def _count(self, kind: str, verdict: Verdict) -> None:
        self.counts.update({kind: verdict.rows, f"{kind}_quarantined": len(verdict.flagged)})
        self.reasons.update(verdict.reasons)

    def commit(self) -> Part:
        """Complete the files and make them a part."""
        self.writer.close()
        quarantined = write_quarantine(self.scratch, self.bad)
        facts = self._facts()
        versions = {"documents": documents_contract.CONTRACT_VERSION, "pairs": pairs_contract.CONTRACT_VERSION}
        verdict = {"label": self.part.label, "contracts": versions, **facts}
        (self.scratch / "verdict.json").write_text(json.dumps(verdict, indent=1, sort_keys=True) + "\n")
        bad = self.counts["pairs_quarantined"]
        good = self.counts["pairs"] - bad
        rows = {"pairs.parquet": good, "quarantine.parquet": quarantined}
        counts = Counts(n_in=self.counts["pairs"], n_out=good, quarantined=bad)
        return self.store.commit_part(draft_part(STAGE, self.key, self.part.label, counts, rows, facts), self.scratch)

    def close(self) -> None:
        """Remove what no part has taken."""
        self.writer.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _facts(self) -> dict[str, Any]:
        unreadable = Counter(pq.read_table(self.folder / "quarantine.parquet", columns=["reason"])["reason"].to_pylist())
        count = self.counts
        return {
            "rows": count["documents"] + count["pairs"],
            "quarantined": count["documents_quarantined"] + count["pairs_quarantined"],
            "reasons": dict(sorted(self.reasons.items())),
            "documents": count["documents"],
            "documents_quarantined": count["documents_quarantined"],
            "pairs": count["pairs"],
            "pairs_quarantined": count["pairs_quarantined"],
            "unreadable": unreadable.total(),
            "unreadable_reasons": dict(sorted(unreadable.items())),
        }


def _judge_documents(works: Sequence[_PartWork]) -> None:
    suite = documents_contract.document_suite()
    for run in _runs(works, "documents.parquet", DOCUMENTS):
        verdicts = check_many([documents_contract.document_facts(rows, work.document_ids) for work, rows in run], suite)
        for (work, rows), verdict in zip(run, verdicts, strict=True):
            work.take_documents(rows.select(["id", "source", "path"]), verdict)


def _judge_pairs(works: Sequence[_PartWork], config: ContractConfig) -> None:
    suite = pairs_contract.pair_suite(config)
    documents = {work.key: (_ids(work.good_documents), _ids(work.bad_documents)) for work in works}
    for run in _runs(works, "pairs.parquet", PAIRS):
        facts = [pairs_contract.pair_facts(rows, *documents[work.key], work.pair_ids) for work, rows in run]
        for (work, rows), verdict in zip(run, check_many(facts, suite), strict=True):
            work.take_pairs(rows, verdict)


def _ids(chunks: Sequence[pa.ChunkedArray]) -> pa.Array:
    return pa.concat_arrays([array for chunked in chunks for array in chunked.chunks] or [pa.array([], pa.string())])


Piece = tuple[_PartWork, pa.Table]


def _runs(works: Iterable[_PartWork], name: str, schema: pa.Schema) -> Iterator[list[Piece]]:
    """The rows of that table of each part, some row groups at a time."""
    run: list[Piece] = []
    size = 0
    for work in works:
        for rows in _row_groups(work.folder / name, schema):
            if run and size + rows.nbytes > RUN_BYTES:
                yield run
                run, size = [], 0
            run.append((work, rows))
            size += rows.nbytes
    if run:
        yield run


def _row_groups(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    """The tables of a file; one at least, though it be empty."""
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, use_threads=False)
        if not file.num_row_groups:
            yield schema.empty_table()
