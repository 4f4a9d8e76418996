"""Small columns derived from long ones with pyarrow and numpy: what the expectations look at instead of the texts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_contracts.schemas import text_hash
from pipeline_lib.errors import ContractViolation


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


def repeats(column: pa.ChunkedArray) -> pa.Array:
    """How often the value was seen in earlier rows: 0 for the first, which is the one that stays."""
    seen: dict[str, int] = {}
    counts = []
    for value in column.to_pylist():
        counts.append(seen.get(value, 0))
        seen[value] = counts[-1] + 1
    return pa.array(counts, pa.int32())


def filled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A number for every row: -1, which no contract allows, where there is none. Expectations skip nulls."""
    return pc.fill_null(column, -1)
