"""Which fields of a record hold its text, its address and its licence: the layouts of the known data sets, or a user's own.

JSON Lines (.jsonl, .gz, .zst): one record a line, in the layout of Dolma, C4, RedPajama, The Stack or of one's own.

Parquet files of records: row group by row group, only the columns that hold text, name and licence.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from pipeline_lib.config.data import ReadLimits
from pipeline_lib.sources.decompress import Unreadable, check_stream, open_expanded
from pipeline_lib.sources.readers import Found, found_text
from pipeline_lib.sources.safe_open import Refusal, bounded_lines
from pipeline_lib.sources.source_file import CODE_FORMS, LINE_MARK, SourceFile


class FieldNames(BaseModel):
    """Names of fields; a dot goes into a nested object (`metadata.url`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = Field("", description="Holds the text; empty: as the layout says.")
    name: str = Field("", description="Names the record: its URL, path or id.")
    group: str = Field("", description="What a split may not cut through, such as the repository; empty: the name.")
    licence: str = Field("", description="Its licence, or a list of them; empty or missing: the container's.")
    language: str = Field("", description="The programming language; empty: the text is prose.")


class Options(FieldNames):
    """What the readers of JSON Lines and Parquet take in a dump spec."""

    layout: Literal["auto", "the_stack", "the_stack_smol", "dolma", "redpajama", "c4", "plain"] = Field(
        "auto", description="The fields of a known data set; auto: the first of these whose fields a record has."
    )


LAYOUTS: dict[str, FieldNames] = {
    "the_stack": FieldNames(
        text="content",
        name="max_stars_repo_path",
        group="max_stars_repo_name",
        licence="max_stars_repo_licenses",
        language="lang",
    ),
    "the_stack_smol": FieldNames(text="content", name="path", group="repository_name", licence="licenses", language="lang"),
    "dolma": FieldNames(text="text", name="id", group="metadata.source_domain", licence="metadata.license"),
    "redpajama": FieldNames(text="text", name="meta.url", licence="meta.license"),
    "c4": FieldNames(text="text", name="url"),
    "plain": FieldNames(text="text"),
}
_MARKS = {"the_stack": "max_stars_repo_path", "the_stack_smol": "lang", "dolma": "id", "redpajama": "meta", "c4": "url"}


def fields_of(record: dict[str, Any], options: Options) -> FieldNames:
    """The names that hold for a record: the user's own before those of its layout."""
    layout: str = options.layout
    if layout == "auto":
        layout = next((name for name, mark in _MARKS.items() if mark in record and LAYOUTS[name].text in record), "plain")
    own = {name: value for name, value in options.model_dump(exclude={"layout"}).items() if value}
    return LAYOUTS[layout].model_copy(update=own)


def found_record(file: SourceFile, number: int, record: object, options: Options, limits: ReadLimits) -> Found:
    """A record of a data set as a text of its own.

    Args:
        number: of its line or row, from 1; part of its path, and the offset of a refusal.

    Refusals: not_a_record, unknown_language, file_too_large, nul_byte, not_utf8.
    """
    if isinstance(record, Refusal):
        return _refused(file, number, record)
    if not isinstance(record, dict):
        return _refused(file, number, Refusal("not_a_record", f"a {type(record).__name__}, expected an object"))
    fields = fields_of(record, options)
    text = _inside(record, fields.text)
    if not isinstance(text, str):
        return _refused(file, number, Refusal("not_a_record", f"no text in the field {fields.text}"))
    name, group = _word(record, fields.name), _word(record, fields.group)
    form = "plain"
    if fields.language:
        form = _word(record, fields.language).lower()
        if form not in CODE_FORMS:
            return _refused(file, number, Refusal("unknown_language", f"{ascii(form)[:60]}, known are {sorted(CODE_FORMS)}"))
        name = f"{group}/{name}"
    line, licence = f"{LINE_MARK}{number}", _word(record, fields.licence)
    of_split = group or name or f"{file.path}{line}"
    found = found_text(file, name, text, limits, line, form=form, group=of_split, licence=licence)
    if isinstance(found.content, Refusal):
        return Found(found.file, Refusal(found.content.reason, found.content.detail, number))
    return found


def _refused(file: SourceFile, number: int, refusal: Refusal) -> Found:
    place = file.model_copy(update={"path": f"{file.path}!{LINE_MARK}{number}", "bytes": 0, "sha256": ""})
    return Found(place, Refusal(refusal.reason, refusal.detail, number))


def _inside(record: Any, name: str) -> Any:
    """A field's value; None where there is none. A name with dots is looked up as it is before it is taken apart."""
    if not isinstance(record, dict) or not name:
        return None
    if name in record:
        return record[name]
    head, _, rest = name.partition(".")
    return _inside(record.get(head), rest)


def _word(record: dict[str, Any], name: str) -> str:
    """A field as a name: of a list, such as of licences, its parts joined by OR."""
    value = _inside(record, name)
    if isinstance(value, list):
        return " OR ".join(str(part) for part in value[:10] if isinstance(part, str))
    return str(value) if isinstance(value, str | int) else ""


LINE_PER_TEXT = 8  # a line holds metadata beside the text, and an escape takes six bytes (\u00e9) where UTF-8 takes two


def read_json_lines(file: SourceFile, limits: ReadLimits) -> Iterator[Found]:
    """Every record of a file, by line; a bad line is refused with its number as offset.

    Refusals: not_json, file_too_large, and those of `found_record`. Of the file: truncated, damaged, expansion_limit,
    too_many_members.
    """
    refusal = check_stream(file.place, limits, file.sha256)
    if refusal is not None:
        yield Found(file, refusal)
        return
    options = Options.model_validate(file.options)
    try:
        with open_expanded(file.place, limits) as stream:
            for number, line in enumerate(bounded_lines(io.BufferedReader(stream), limits.max_text_bytes * LINE_PER_TEXT), 1):
                if number > limits.max_members:
                    raise Unreadable(Refusal("too_many_members", f"more than {limits.max_members}; see source.limits", number))
                if isinstance(line, Refusal) or line.strip():
                    yield found_record(file, number, line if isinstance(line, Refusal) else _record(line), options, limits)
    except Unreadable as error:
        yield Found(file, error.refusal)


def _record(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return Refusal("not_json", ascii(str(error))[:200])


__all__ = ["Options", "read_parquet"]

BATCH_ROWS = 64
# what pyarrow raises on bytes that are not what they claim to be
_BROKEN = (pa.ArrowException, OSError, ValueError, KeyError, IndexError, OverflowError, MemoryError)


def read_parquet(file: SourceFile, limits: ReadLimits) -> Iterator[Found]:
    """Every row, in order; a row group that cannot be read is refused with its first row as offset, the others are read.

    Refusals: damaged, no_text_column, expansion_limit, too_many_members, and those of `found_record`.
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
            if sum(rows) > limits.max_members:
                raise Unreadable(Refusal("too_many_members", f"{sum(rows)} rows, at most {limits.max_members} are read"))
            if size > stream.most:
                raise Unreadable(Refusal("expansion_limit", f"{size} bytes come out of {stream.size}; see source.limits"))
            if not columns:
                raise Unreadable(Refusal("no_text_column", f"columns are {ascii(table.schema_arrow.names)[:300]}"))
            for index, count in enumerate(rows):
                first = sum(rows[:index]) + 1
                for number, record in enumerate(_records(table, index, columns), first):
                    if isinstance(record, Refusal):
                        yield Found(file, Refusal(record.reason, f"{record.detail} ({first + count - number} rows)", number))
                    else:
                        yield found_record(file, number, record, options, limits)
    except Unreadable as error:
        yield Found(file, error.refusal)


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
