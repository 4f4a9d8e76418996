"""Field names of records that hold text, address and licence: those of the known data sets, or a user's own."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline_lib.config.data import ReadLimits
from pipeline_lib.sources.records import SourceRecord, refused_record, text_record
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import CODE_FORMS, LINE_MARK, SourceFile


class FieldNames(BaseModel):
    """Names of fields; a dot goes into a nested object (`metadata.url`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = Field("", description="Holds the text; empty: as the layout says.")
    name: str = Field("", description="Names the record: its URL, path or id.")
    group: str = Field("", description="Group that no split cuts through, such as the repository; empty: the name.")
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


def data_set_record(file: SourceFile, number: int, record: object, options: Options, limits: ReadLimits) -> SourceRecord:
    """A record of a data set as a text of its own.

    Args:
        number: of its line or row, from 1; part of its path, and the offset of a refusal.

    Refusals: not_a_record, unknown_language, file_too_large, nul_byte, not_utf8.
    """
    at = f"{LINE_MARK}{number}"
    if isinstance(record, Refusal):
        return refused_record(file, at, record, number)
    if not isinstance(record, dict):
        return refused_record(file, at, Refusal("not_a_record", f"a {type(record).__name__}, expected an object"), number)
    fields = fields_of(record, options)
    text = _inside(record, fields.text)
    if not isinstance(text, str):
        return refused_record(file, at, Refusal("not_a_record", f"no text in the field {fields.text}"), number)
    name, group = _word(record, fields.name), _word(record, fields.group)
    form = "plain"
    if fields.language:
        form = _word(record, fields.language).lower()
        if form not in CODE_FORMS:
            return refused_record(
                file, at, Refusal("unknown_language", f"{ascii(form)[:60]}, known are {sorted(CODE_FORMS)}"), number
            )
        name = f"{group}/{name}"
    of_split = group or name or f"{file.path}{at}"
    found = text_record(file, name, text, limits, at, form=form, group=of_split, licence=_word(record, fields.licence))
    if isinstance(found.content, Refusal):
        return SourceRecord(found.file, Refusal(found.content.reason, found.content.detail, number))
    return found


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
