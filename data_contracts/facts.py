"""Facts: small columns derived from long ones with pyarrow and numpy, which the expectations look at instead of the texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_contracts.schemas import text_hash
from pipeline_lib.errors import ContractViolation

ID_ROWS = 8_192


def check_schema(table: pa.Table, schema: pa.Schema, where: str) -> None:
    """Assert that the columns are those of the contract, in order.

    Raises:
        ContractViolation: with the columns that are missing, unexpected or of another type.
    """
    got = {field.name: str(field.type) for field in table.schema}
    expected = {field.name: str(field.type) for field in schema}
    if got == expected:
        return
    missing = sorted(expected.keys() - got.keys())
    extra = sorted(got.keys() - expected.keys())
    other = sorted(name for name in got.keys() & expected.keys() if got[name] != expected[name])
    types = ", ".join(f"{name} is {got[name]}, expected {expected[name]}" for name in other)
    raise ContractViolation(
        f"{where}: columns missing: {missing or 'none'}; unexpected: {extra or 'none'}; of another type: {types or 'none'};"
        " the stage that wrote it and data_contracts/schemas.py disagree"
    )


def repair_unicode(table: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """Replace bytes that are no UTF-8 (lone surrogates among them) by U+FFFD, so that the rows can be looked at.

    Returns:
        The table, and a flag a row: True where every string was valid. Nulls become empty strings.
    """
    valid = np.ones(table.num_rows, dtype=bool)
    for index, field in enumerate(table.schema):
        if not (pa.types.is_string(field.type) or pa.types.is_large_string(field.type)):
            continue
        column = table.column(index)
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            column, valid_column = _decode(column)
            valid &= valid_column
        table = table.set_column(index, field.with_nullable(True), pc.fill_null(column, ""))
    return table, valid


def _decode(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, np.ndarray]:
    binary = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
    raw = [value or b"" for chunk in column.chunks for value in chunk.view(binary).to_pylist()]
    texts = [value.decode(errors="replace") for value in raw]
    valid = np.array([text.encode() == value for text, value in zip(texts, raw, strict=True)], dtype=bool)
    return pa.chunked_array([pa.array(texts, column.type)]), valid


def free_of_nul(table: pa.Table) -> pa.ChunkedArray:
    """True where no string of the row holds U+0000, which Parquet keeps and many readers cut a text at."""
    clean = pa.chunked_array([pa.array(np.ones(table.num_rows, dtype=bool))])
    for field, column in zip(table.schema, table.columns, strict=True):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            clean = pc.and_(clean, pc.invert(pc.match_substring(column, "\0")))
    return clean


def is_blank(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """True where the text is empty or Unicode white space only."""
    return pc.equal(pc.binary_length(pc.utf8_trim_whitespace(column)), 0)


def word_counts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Runs of non-blank characters a text; 0 for a blank one."""
    return pc.if_else(is_blank(column), 0, pc.count_substring_regex(column, r"\S+"))


def hash_agrees(texts: pa.ChunkedArray, hashes: pa.ChunkedArray) -> pa.Array:
    """True where the recorded hash is the first 64 bits of sha256 of the text."""
    pairs = zip(texts.to_pylist(), hashes.to_pylist(), strict=True)
    return pa.array([text_hash(text) == recorded for text, recorded in pairs], pa.bool_())


class EarlierIds:
    """How often the ids of a file's rows were seen in earlier rows, asked in the order of the file.

    A first pass over the column notes which hashes come more than once, 8 bytes a row; only ids of these are counted by name.

    Args:
        columns: the ids of all rows, piece by piece.
    """

    def __init__(self, columns: Iterable[pa.ChunkedArray]) -> None:
        hashes = [np.fromiter(map(hash, _readable(ids)), np.int64, len(ids)) for ids in columns]
        values, counts = np.unique(np.concatenate([np.empty(0, np.int64), *hashes]), return_counts=True)
        self._repeated = set(values[counts > 1].tolist())
        self._seen: Counter[str] = Counter()

    @classmethod
    def of_file(cls, path: Path) -> EarlierIds:
        """The ids of a Parquet file with a column `id`."""
        with pq.ParquetFile(path) as file:
            batches = file.iter_batches(ID_ROWS, columns=["id"], use_threads=False)
            return cls(pa.chunked_array([batch["id"]]) for batch in batches)

    def repeats(self, ids: pa.ChunkedArray) -> pa.Array:
        """For each of the next rows: 0 for the first row with its id, which is the one that stays."""
        if not self._repeated:
            return pa.array(np.zeros(len(ids), np.int32))
        counts = []
        for value in ids.to_pylist():
            known = hash(value) in self._repeated
            counts.append(self._seen[value] if known else 0)
            if known:
                self._seen[value] += 1
        return pa.array(counts, pa.int32())


def _readable(ids: pa.ChunkedArray) -> list[str]:
    return repair_unicode(pa.table({"id": ids}))[0]["id"].to_pylist()


def filled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A number for every row: -1, which no contract allows, where there is none. Expectations skip nulls."""
    return pc.fill_null(column, -1)
