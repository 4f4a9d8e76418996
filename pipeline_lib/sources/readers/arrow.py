"""Arrow files and streams of records (Feather, and what `datasets` saves): batch by batch, only the columns that are used.

A file is a stream between two marks, with an index at its end that is not needed: both are read from their beginning on, so
that one that is cut or compressed gives what stands before the break.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import cast

import pyarrow as pa

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.decompress import Expanded, Unreadable, open_expanded
from pipeline_lib.sources.readers import Reader
from pipeline_lib.sources.readers.parquet import BATCH_ROWS, BROKEN, column_names, columns_of, one_line
from pipeline_lib.sources.record_fields import Options, Records, fields_of, no_text_column
from pipeline_lib.sources.records import SourceRecord
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import SourceFile

_MARK, _MARK_BYTES = b"ARROW1", 8  # of a file, padded
_NEXT = b"\xff\xff\xff\xff"  # begins a stream


def read_arrow(file: SourceFile, limits: ReadLimits) -> Iterator[SourceRecord]:
    """Every row, in order; a batch that is damaged is lost, and the next ones are read.

    Refusals: those of `Records`. Of the file: damaged, truncated, no_text_column.
    """
    records = Records(file, limits)
    try:
        with open_expanded(file.place, limits) as stream:
            batches = _Batches(stream)
            records.known = fields_of(tuple(batches.schema.names), records.options)
            batches.columns = columns_of(batches.schema, records.known)
            if not batches.columns:
                raise Unreadable(no_text_column(batches.names, records.options.text, batches.count_rows()))
            number = 0
            for found in batches:
                if isinstance(found, Refusal):
                    yield SourceRecord(file, found)
                    continue
                for record in found:
                    number += 1
                    yield records.text(number, record)
    except Unreadable as error:
        yield SourceRecord(file, error.refusal)


class _Batches:
    """The batches of a stream or a file, each as its rows or with the reason why it cannot be read.

    Raises:
        Unreadable: `damaged` or `truncated`, where no next batch can be found.
    """

    def __init__(self, stream: Expanded) -> None:
        self.stream = _Counted(stream)
        self.columns: list[str] = []
        self.begin()

    def begin(self) -> None:
        """Read the head of a stream or a file."""
        self.is_file = self.stream.peek(len(_MARK)).startswith(_MARK)
        if self.is_file:
            self.stream.read(_MARK_BYTES)
        try:
            self.reader = pa.ipc.open_stream(cast(io.IOBase, self.stream))
            self.schema: pa.Schema = self.reader.schema
            self.names = column_names(self.schema)  # they may be no UTF-8
        except BROKEN as error:
            raise Unreadable(self.refusal(error)) from error

    def __iter__(self) -> Iterator[Iterator[object] | Refusal]:
        while True:
            at = self.stream.passed
            try:
                batch = self.reader.read_next_batch()
                batch.validate(full=True)  # offsets that point outside would be read as they are
            except StopIteration:
                if not self.another_begins():
                    return
            except BROKEN as error:
                refusal = self.refusal(error)
                if refusal.reason == "truncated" or self.stream.passed == at:
                    raise Unreadable(refusal) from error
                yield refusal
            else:
                yield self.rows(batch)

    def rows(self, batch: pa.RecordBatch) -> Iterator[object]:
        chosen = batch.select([name for name in self.columns if name in batch.schema.names])
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield from chosen.slice(start, BATCH_ROWS).to_pylist()

    def count_rows(self) -> int:
        self.columns = self.schema.names[:1]
        return sum(1 for rows in self if not isinstance(rows, Refusal) for _ in rows)

    def refusal(self, error: BaseException) -> Refusal:
        reason = "damaged" if self.stream.peek(1) else "truncated"  # behind the last batch stands a mark of the end
        return Refusal(reason, f"no sound Arrow: {one_line(error)}", self.stream.passed)

    def another_begins(self) -> bool:
        """Pass over what stands behind the last batch, of a file the index and a mark; True where another stream follows it.

        Raises:
            Unreadable: the file was cut there, or something else follows.
        """
        if self.is_file:
            end = b""
            while data := self.stream.read(1 << 16):
                end = (end + data)[-len(_MARK) :]
            if end != _MARK:
                raise Unreadable(Refusal("truncated", "the file ends without its index: get it again", self.stream.passed))
        elif rest := self.stream.peek(len(_NEXT)):
            if not rest.startswith(_NEXT):
                raise Unreadable(Refusal("damaged", "no Arrow behind the end of a stream", self.stream.passed))
            self.begin()
            return True
        return False


class _Counted(io.BufferedReader):
    """A stream that knows how many bytes were taken from it."""

    passed = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.passed += len(data)
        return data


READER = Reader(read=read_arrow, suffixes=(".arrow", ".feather", ".ipc"), options=Options, numbered=True)
