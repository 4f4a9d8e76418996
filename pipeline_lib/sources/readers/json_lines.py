"""JSON: records as JSON Lines, as one array, or one after the other, with the field names of a known data set or a user's own.

What a file is, its first bytes say. A record a line is the fast way and the safe one: a bad line costs no other.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.decompress import Unreadable, open_expanded
from pipeline_lib.sources.first_bytes import read_head
from pipeline_lib.sources.json_values import Values, is_by_lines
from pipeline_lib.sources.readers import Reader
from pipeline_lib.sources.record_fields import Options, Records
from pipeline_lib.sources.records import SourceRecord, json_of_lines
from pipeline_lib.sources.source_file import SourceFile

LINE_PER_TEXT = 8  # a line holds metadata beside the text, and an escape takes six bytes (\u00e9) where UTF-8 takes two
_HEAD_BYTES = 1 << 20


class JsonOptions(Options):
    """Options of JSON files."""

    records: str = Field(
        "", description="Name of the list that holds the records, where the file is one object; empty: data, rows or the like."
    )


def read_json_lines(file: SourceFile, limits: ReadLimits) -> Iterator[SourceRecord]:
    """Every record of a file; a bad one is refused with its line, or its number where records are no lines.

    Refusals: not_json, file_too_large, and those of `Records`. Of the file: truncated, damaged, bad_encoding,
    no_text_column, and those of reading.
    """
    try:
        yield from Records(file, limits).read(_numbered(file, limits))
    except Unreadable as error:
        yield SourceRecord(file, error.refusal)


def _numbered(file: SourceFile, limits: ReadLimits) -> Iterator[tuple[int, object]]:
    if is_by_lines(read_head(file.place, limits, _HEAD_BYTES)):
        yield from json_of_lines(file, limits, LINE_PER_TEXT)
        return
    options = JsonOptions.model_validate(file.options)
    with open_expanded(file.place, limits) as stream:
        yield from enumerate(Values(stream, limits.record_bytes(LINE_PER_TEXT), options.records), 1)


READER = Reader(
    read=read_json_lines,
    suffixes=(".jsonl", ".json", ".ndjson", ".jsonlines"),
    options=JsonOptions,
    numbered=True,
)
