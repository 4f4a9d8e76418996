"""Parquet files of records: row group by row group, only the columns that hold text, name and licence."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.config.data import ReadLimits
from pipeline_lib.sources.decompress import Unreadable, open_expanded
from pipeline_lib.sources.readers import Reader
from pipeline_lib.sources.record_fields import Options, data_set_record, fields_of
from pipeline_lib.sources.records import SourceRecord
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import SourceFile

BATCH_ROWS = 64
# what pyarrow raises on bytes that are not what they claim to be
_BROKEN = (pa.ArrowException, OSError, ValueError, KeyError, IndexError, OverflowError, MemoryError)


def read_parquet(file: SourceFile, limits: ReadLimits) -> Iterator[SourceRecord]:
    """Every row, in order; a row group that cannot be read is refused with its first row as offset, the others are read.

    Refusals: damaged, no_text_column, expansion_limit, too_many_members, and those of `data_set_record`.
    """
    options = Options.model_validate(file.options)
    try:
        with open_expanded(file.place, limits) as stream:
            try:
                table = pq.ParquetFile(stream.raw, page_checksum_verification=True)
                rows = [table.metadata.row_group(index).num_rows for index in range(table.num_row_groups)]
                size = sum(table.metadata.row_group(index).total_byte_size for index in range(table.num_row_groups))
                columns = _columns(table.schema_arrow.names, options)
            except _BROKEN as error:
                raise Unreadable(Refusal("damaged", f"no Parquet: {_line(error)}")) from error
            if size > stream.most:
                raise Unreadable(Refusal("expansion_limit", f"{size} bytes come out of {stream.size}; see source.limits"))
            if not columns:
                raise Unreadable(Refusal("no_text_column", f"columns are {ascii(table.schema_arrow.names)[:300]}"))
            for index, count in enumerate(rows):
                first = sum(rows[:index]) + 1
                for number, record in enumerate(_records(table, index, columns), first):
                    if isinstance(record, Refusal):
                        detail = f"{record.detail} ({first + count - number} rows)"
                        group = table.metadata.row_group(index)
                        lost = sum(group.column(n).total_compressed_size for n in range(group.num_columns))
                        yield SourceRecord(file, Refusal(record.reason, detail, number, lost))
                    else:
                        yield data_set_record(file, number, record, options, limits)
    except Unreadable as error:
        yield SourceRecord(file, error.refusal)


def _columns(names: list[str], options: Options) -> list[str]:
    """The columns that the layout names, of those that there are; none where its text is not among them."""
    fields = fields_of(dict.fromkeys(names), options)
    wanted = [name if name in names else name.partition(".")[0] for name in fields.model_dump().values()]
    return [name for name in dict.fromkeys(wanted) if name in names] if wanted[0] in names else []


def _records(table: pq.ParquetFile, index: int, columns: list[str]) -> Iterator[object]:
    try:
        for batch in table.iter_batches(BATCH_ROWS, row_groups=[index], columns=columns, use_threads=False):
            yield from batch.to_pylist()
    except _BROKEN as error:
        yield Refusal("damaged", f"row group {index}: {_line(error)}")


def _line(error: BaseException) -> str:
    return ascii(str(error))[:200]


READER = Reader(read=read_parquet, suffixes=(".parquet",), options=Options, numbered=True)
