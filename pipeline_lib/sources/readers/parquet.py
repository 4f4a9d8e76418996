"""Parquet files of records: row group by row group, only the columns that hold text, name and licence."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.decompress import Unreadable, open_expanded
from pipeline_lib.sources.readers import Reader
from pipeline_lib.sources.record_fields import TEXT_PARTS, FieldNames, Options, Records, fields_of, no_text_column
from pipeline_lib.sources.records import SourceRecord
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import SourceFile

BATCH_ROWS = 64
_BUFFER_BYTES = 1 << 20  # of a column that is read at a time: a row group may be the whole file
# what pyarrow raises on bytes that are not what they claim to be
BROKEN = (pa.ArrowException, OSError, ValueError, KeyError, IndexError, OverflowError, MemoryError)


def read_parquet(file: SourceFile, limits: ReadLimits) -> Iterator[SourceRecord]:
    """Every row, in order; a row group that cannot be read is refused with its first row as offset, the others are read.

    Refusals: those of `Records`. Of the file: damaged, no_text_column, expansion_limit,
    nested_compression (Parquet is compressed inside, and read from its end).
    """
    records = Records(file, limits)
    try:
        with open_expanded(file.place, limits) as stream:
            if stream.codec != "plain":
                raise Unreadable(Refusal("nested_compression", f"Parquet inside {stream.codec}: decompress it once"))
            try:
                table = pq.ParquetFile(stream.raw, page_checksum_verification=True, buffer_size=_BUFFER_BYTES)
                rows = [table.metadata.row_group(index).num_rows for index in range(table.num_row_groups)]
                size = sum(table.metadata.row_group(index).total_byte_size for index in range(table.num_row_groups))
                records.known = fields_of(tuple(table.schema_arrow.names), records.options)
                columns = columns_of(table.schema_arrow, records.known)
            except BROKEN as error:
                raise Unreadable(Refusal("damaged", f"no Parquet: {one_line(error)}")) from error
            if size > stream.most:
                raise Unreadable(Refusal("expansion_limit", f"{size} bytes come out of {stream.size}; see source.limits"))
            if not columns:
                names = column_names(table.schema_arrow)
                raise Unreadable(no_text_column(names, records.options.text, sum(rows)))
            first = 1
            for index, count in enumerate(rows):
                for number, record in enumerate(_records(table, index, columns), first):
                    if isinstance(record, Refusal):
                        detail = f"{record.detail} ({first + count - number} rows)"
                        group = table.metadata.row_group(index)
                        lost = sum(group.column(n).total_compressed_size for n in range(group.num_columns))
                        yield SourceRecord(file, Refusal(record.reason, detail, number, lost))
                    else:
                        yield records.text(number, record)
                first += count
    except Unreadable as error:
        yield SourceRecord(file, error.refusal)


def columns_of(schema: pa.Schema, fields: FieldNames) -> list[str]:
    """The columns that the fields are in, of those that there are; none where no column holds the text."""
    names = schema.names
    first = fields.text if fields.text in names else fields.text.partition(".")[0]
    kind = schema.field(first).type if first in names else None
    if kind is None or pa.types.is_primitive(kind) or pa.types.is_boolean(kind):
        return []
    if pa.types.is_struct(kind):
        inner = _inside(first, kind)
        wanted = [fields.text] if first != fields.text else [f"{first}.{part}" for part in TEXT_PARTS]
        if not any(name == want or name.startswith(f"{want}.") for want in wanted for name in inner):
            return []
    used = [name if name in names else name.partition(".")[0] for name in fields.model_dump().values()]
    return [name for name in dict.fromkeys(used) if name in names]


def column_names(schema: pa.Schema) -> list[str]:
    """The names of all columns, those inside a struct with dots."""
    names: list[str] = []
    for field in schema:
        names.extend(_inside(field.name, field.type))
    return names


def _inside(name: str, kind: pa.DataType) -> list[str]:
    if not pa.types.is_struct(kind):
        return [name]
    return [inner for field in kind for inner in _inside(f"{name}.{field.name}", field.type)]


def _records(table: pq.ParquetFile, index: int, columns: list[str]) -> Iterator[object]:
    try:
        for batch in table.iter_batches(BATCH_ROWS, row_groups=[index], columns=columns, use_threads=False):
            yield from batch.to_pylist()
    except BROKEN as error:
        yield Refusal("damaged", f"row group {index}: {one_line(error)}")


def one_line(error: BaseException) -> str:
    """What pyarrow says, on one line that any table can hold."""
    return ascii(str(error))[:200]


READER = Reader(read=read_parquet, suffixes=(".parquet",), options=Options, numbered=True)
