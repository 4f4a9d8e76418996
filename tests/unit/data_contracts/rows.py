"""Rows that keep every contract, to plant bad ones among."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from builders import pair_row

from data_contracts.schemas import DOCUMENTS, EVALUATIONS, PAIRS, QUARANTINE, row_id, text_hash, tokens_schema
from pipeline_lib.config.data import ExtractConfig
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Counts, Outcome, Stage, draft_part
from pipeline_lib.store.store import Store

EXTRACT = Stage(name="extract", version=1)


def document(number: int, group: str = "package-a", **changes: Any) -> dict[str, Any]:
    path = f"lib/module_{number}.py"
    row = {
        "id": row_id(group, path),
        "source": f"{group} 1.0",
        "group": group,
        "path": path,
        "language": "python",
        "licence": "MIT",
        "kind": "code",
        "text": f"def function_{number}():\n    return {number}\n",
    }
    return {**row, **changes}


def pair(number: int, document_: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A good pair of `document_`; hashes follow x and y unless they are given."""
    of = document(0) if document_ is None else document_
    of_document = {name: of[name] for name in ("source", "group", "path")} | {"document_id": of["id"]}
    texts = {
        "x": f"Return the number {number} of {of['source']} {of['path']}.",
        "y": f"def function_{number}():\n    # {of['source']} {of['path']}\n    return {number}",
    }
    texts |= {side: changes.pop(side) for side in ("x", "y") if side in changes}
    own = {"id": row_id(of["id"], str(number)), "line": number + 1, "position": number, "name": f"function_{number}"}
    row = pair_row("", "", licence="MIT", **of_document, **own) | texts | changes
    hashes = {name: text_hash(row[name[0]]) for name in ("x_hash", "y_hash") if name not in changes}
    return row | hashes


def token_row(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "pair_id": row_id("pair", str(number)),
        "x_ids": [0, 10 + number % 50, 11, 1],
        "y_ids": [2, 12, 13, 10 + number % 50, 3],
        "x_hash": number,
        "y_hash": -number,
        "document_hash": number // 2,
    }
    return {**row, **changes}


def result(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "model": f"step-{number:06d}",
        "step": number,
        "split": "validation",
        "kind": "code_search",
        "task": "code_search_1k",
        "metric": "mrr",
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "n": 1000,
    }
    return {**row, **changes}


def table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """The rows under the schema's names and types, nulls and invalid UTF-8 (given as bytes) included."""
    columns = []
    for field in schema:
        values = [row[field.name] for row in rows]
        if any(isinstance(value, bytes) for value in values):
            raw = [value.encode() if isinstance(value, str) else value for value in values]
            large = pa.types.is_large_string(field.type)
            columns.append(pa.array(raw, pa.large_binary() if large else pa.binary()).view(field.type))
        else:
            columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def documents_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    return table(rows, DOCUMENTS)


def pairs_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    return table(rows, PAIRS)


def tokens_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    return table(rows, tokens_schema(64))


def results_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    return table(rows, EVALUATIONS)


def bundle(label: str, documents: int, pairs_each: int = 2, kind: str = "code") -> tuple[list[Any], list[Any]]:
    """Documents of one group and their pairs, all good."""
    rows = [document(number, group=label) for number in range(documents)]
    pairs = [pair(number, row, kind=kind) for row in rows for number in range(pairs_each)]
    return rows, pairs


def extracted(
    store: Store, bundles: Mapping[str, tuple[Sequence[Any], Sequence[Any]]], unreadable: Sequence[Any] = ()
) -> Artifact:
    """An artifact as the extract stage leaves it: a part a bundle, of documents and pairs; `unreadable` goes to each."""

    def make(_: str) -> Outcome:
        parts = []
        for label, (documents, pairs) in bundles.items():
            scratch = store.scratch(EXTRACT.name)
            pq.write_table(documents_table(documents), scratch / "documents.parquet")
            pq.write_table(pairs_table(pairs), scratch / "pairs.parquet")
            pq.write_table(table(unreadable, QUARANTINE), scratch / "quarantine.parquet")
            key = row_id(label, str(documents), str(pairs), str(unreadable))
            counts = Counts(n_in=len(pairs), n_out=len(pairs))
            parts.append(store.commit_part(draft_part(EXTRACT, key, label, counts), scratch))
        return Outcome(parts=tuple(parts))

    # a config of its own name for each content, since no input artifact tells them apart
    config = ExtractConfig(generation=int(row_id(str(bundles), str(unreadable))[:6], 16))
    return store.build(EXTRACT, config, {}, make)
