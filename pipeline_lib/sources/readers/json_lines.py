"""JSON Lines (.jsonl, .gz, .zst): a record a line, with the field names of Dolma, C4, RedPajama, The Stack or a user's own."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline_lib.config.data import ReadLimits
from pipeline_lib.sources.decompress import Unreadable
from pipeline_lib.sources.readers import Reader
from pipeline_lib.sources.record_fields import Options, data_set_record
from pipeline_lib.sources.records import SourceRecord, json_of, numbered_lines
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import SourceFile

LINE_PER_TEXT = 8  # a line holds metadata beside the text, and an escape takes six bytes (\u00e9) where UTF-8 takes two


def read_json_lines(file: SourceFile, limits: ReadLimits) -> Iterator[SourceRecord]:
    """Every record of a file, by line; a bad line is refused with its number as offset.

    Refusals: not_json, file_too_large, and those of `data_set_record`. Of the file: truncated, damaged, expansion_limit,
    too_many_members.
    """
    options = Options.model_validate(file.options)
    try:
        for number, line in numbered_lines(file, limits, LINE_PER_TEXT):
            record = line if isinstance(line, Refusal) else json_of(line)
            yield data_set_record(file, number, record, options, limits)
    except Unreadable as error:
        yield SourceRecord(file, error.refusal)


READER = Reader(
    read=read_json_lines,
    suffixes=(".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".ndjson"),
    options=Options,
    numbered=True,
)
