"""Field names of records that hold text, address and licence: those of the known data sets, the usual ones, or a user's own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.languages import USUAL as USUAL_LANGUAGES
from pipeline_lib.languages import language_called
from pipeline_lib.sources.decompress import Unreadable
from pipeline_lib.sources.records import SourceRecord, refused_record, text_record
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import CODE_FORMS, LINE_MARK, SourceFile, form_of


class FieldNames(BaseModel):
    """Names of fields; a dot goes into a nested object (`metadata.url`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = Field("", description="Holds the text; empty: as the layout says.")
    title: str = Field(
        "", description="Holds the title, which stands above prose as its first paragraph; empty: as the layout says."
    )
    name: str = Field("", description="Names the record: its URL, path or id.", validation_alias=AliasChoices("name", "id"))
    group: str = Field("", description="Group that no split cuts through, such as the repository; empty: the name.")
    licence: str = Field("", description="Its licence, or a list of them; empty or missing: the container's.")
    language: str = Field("", description="The programming language; empty: the text is prose.")


class Options(FieldNames):
    """What the readers of records take in a dump spec."""

    layout: Literal[
        "auto", "the_stack", "the_stack_smol", "github_code", "the_stack_v2", "pushshift", "dolma", "redpajama", "c4", "plain"
    ] = Field("auto", description="The fields of a known data set; auto: the first of these whose fields a record has.")


LAYOUTS: dict[str, FieldNames] = {
    "the_stack": FieldNames(
        text="content",
        name="max_stars_repo_path",
        group="max_stars_repo_name",
        licence="max_stars_repo_licenses",
        language="lang",
    ),
    "the_stack_smol": FieldNames(text="content", name="path", group="repository_name", licence="licenses", language="lang"),
    "github_code": FieldNames(text="code", name="path", group="repo_name", licence="license", language="language"),
    "the_stack_v2": FieldNames(
        text="content", name="path", group="repo_name", licence="detected_licenses", language="language"
    ),
    "pushshift": FieldNames(name="id", group="link_id", title="title"),  # a comment's group is that of its submission
    "dolma": FieldNames(text="text", name="id", group="metadata.source_domain", licence="metadata.license"),
    "redpajama": FieldNames(text="text", name="meta.url", licence="meta.license"),
    "c4": FieldNames(text="text", name="url"),
    "plain": FieldNames(),
}
_MARKS: dict[str, tuple[str, ...]] = {  # the fields that tell a layout
    "the_stack": ("max_stars_repo_path", "content"),
    "the_stack_smol": ("lang", "content"),
    "github_code": ("repo_name", "path", "code"),
    "the_stack_v2": ("repo_name", "path", "content"),
    "pushshift": ("subreddit",),
    "dolma": ("id", "text"),
    "redpajama": ("meta", "text"),
    "c4": ("url", "text"),
}
# names under which a field is found where no layout says one, by preference, in any case
USUAL: dict[str, tuple[str, ...]] = {
    "text": (
        "text", "content", "contents", "raw_content", "selftext", "body", "article", "document", "passage", "markdown",
        "maintext", "raw_text", "full_text", "plain_text", "abstract", "description", "paragraph", "sentence", "messages",
        "conversations", "conversation",
    ),
    "title": ("title",),
    "name": ("url", "id", "_id", "doc_id", "docid", "uri", "permalink"),
    "licence": ("licence", "license", "licenses"),
}  # fmt: skip
TEXT_PARTS = ("text", "content", "value")  # what holds the text of a message, or of a part of it
_DELETED = frozenset({"[deleted]", "[removed]", "[deleted by user]", "[removed by reddit]", "[ removed by reddit ]"})
_MOST_SHAPES = 1_000
_MOST_HELD = 10_000
_MOST_FIELDS = 40  # named where none holds a text


def fields_of(names: tuple[str, ...], options: Options) -> FieldNames:
    """The names that hold for records of such fields: the user's own before those of their layout, then the usual ones."""
    layout: str = options.layout
    if layout == "auto":
        layout = next((known for known, marks in _MARKS.items() if all(mark in names for mark in marks)), "plain")
    given = {name: value for name, value in options.model_dump(exclude={"layout"}).items() if value}
    fields = LAYOUTS[layout].model_copy(update=given)
    by_case: dict[str, str] = {}
    for name in names:
        by_case.setdefault(name.strip().lower(), name)
    known = fields.model_dump()
    missing = ("text", "title", "name", "licence") if layout == "plain" else ("text", "title")
    found = {
        field: next((by_case[usual] for usual in USUAL[field] if usual in by_case), "") for field in missing if not known[field]
    }
    return fields.model_copy(update=found)


class Records:
    """The records of one file on their way to texts.

    Refusals of a record: not_a_record, unknown_language, file_too_large, nul_byte, not_utf8, deleted. A text that is null or
    missing is an empty one.
    """

    def __init__(self, file: SourceFile, limits: ReadLimits) -> None:
        self.file, self.limits = file, limits
        self.options = Options.model_validate({name: file.options[name] for name in _OPTIONS if name in file.options})
        self.languages = frozenset(USUAL_LANGUAGES) | (CODE_FORMS & set(file.more_forms))
        self.known: FieldNames | None = None  # where all records have the same fields
        self.shapes: dict[tuple[str, ...], FieldNames] = {}
        self.seen = 0
        self.fields: list[str] = []  # of a record without a text
        self.any_text = False
        self.are_texts: bool | None = None  # the records are texts, with nothing around them, as the first one is

    def read(self, numbered: Iterable[tuple[int, object]]) -> Iterator[SourceRecord]:
        """Every record as a text. The first ones are held back until one has a text: where none has, the file is no data set.

        Raises:
            Unreadable: `no_text_column`, and what the records raise, behind all that came before.
        """
        held: list[SourceRecord] = []
        broken: Unreadable | None = None
        try:
            for number, record in numbered:
                held.append(self.text(number, record))
                if self.any_text or len(held) >= _MOST_HELD:
                    yield from held
                    held.clear()
        except Unreadable as error:
            broken = error
        if broken is None and self.fields and not self.any_text:
            raise Unreadable(no_text_column(self.fields, self.options.text, self.seen))
        yield from held
        if broken is not None:
            raise broken

    def text(self, number: int, record: object) -> SourceRecord:
        """A record as a text of its own.

        Args:
            number: of its line or row, from 1; part of its path, and the offset of a refusal.
        """
        at = f"{LINE_MARK}{number}"
        if isinstance(record, Refusal):
            return refused_record(self.file, at, record, number)
        self.are_texts = number == 1 and isinstance(record, str) if self.are_texts is None else self.are_texts
        if isinstance(record, str) and self.are_texts:
            self.any_text = True
            return text_record(self.file, "", record, self.limits, at, group=f"{self.file.path}{at}", form="plain")
        if not isinstance(record, dict):
            return refused_record(
                self.file, at, Refusal("not_a_record", f"a {type(record).__name__}, expected an object"), number
            )
        self.seen += 1
        fields = self.fields_of(record)
        text = self.text_of(record, fields)
        name, group = _word(record, fields.name), _word(record, fields.group).removeprefix("t3_")
        form = _language(record, fields, self.file.more_forms) if fields.language else "plain"
        if isinstance(text, str) and form not in self.languages and fields.language:
            text = Refusal("unknown_language", f"{ascii(form)[:60]}, known are {sorted(self.languages)}")
        if isinstance(text, Refusal):
            return refused_record(self.file, at, text, number)
        if fields.language:
            name = f"{group}/{name}"
        own = {"form": form, "group": group or name or f"{self.file.path}{at}", "licence": _word(record, fields.licence)}
        found = text_record(self.file, name, text, self.limits, at, **own)
        if isinstance(found.content, Refusal):
            return SourceRecord(found.file, Refusal(found.content.reason, found.content.detail, number))
        return found

    def fields_of(self, record: dict[Any, Any]) -> FieldNames:
        """The names that hold for a record; looked up once for all records with the same fields."""
        if self.known is not None:
            return self.known
        shape = tuple(record)
        fields = self.shapes.get(shape)
        if fields is None:
            fields = fields_of(tuple(map(str, shape)), self.options)
            if len(self.shapes) < _MOST_SHAPES:
                self.shapes[shape] = fields
        return fields

    def text_of(self, record: dict[str, Any], fields: FieldNames) -> str | Refusal:
        """The text of a record, its title above; empty where it is null or missing."""
        value = _inside(record, fields.text, _MISSING)
        if value is _MISSING:
            self.fields = self.fields or nested_names(record)
            return ""
        self.any_text = True
        text = value if isinstance(value, str) else joined(value)
        if text is None:
            return Refusal("not_a_record", f"the field {fields.text} holds {_shown(value)}, expected a text")
        if text[:1] == "[" and text.strip().lower() in _DELETED:
            return Refusal("deleted", "its author or a moderator took the text back")
        title = _inside(record, fields.title) if fields.title and text and not fields.language else None
        if isinstance(title, str) and title.strip() and not text.lstrip().startswith(title.strip()) and text.strip():
            return f"{title.strip()}\n\n{text}"
        return text


_MISSING: Any = object()
_OPTIONS = frozenset(Options.model_fields)


def no_text_column(names: list[str], wanted: str, count: int) -> Refusal:
    """The refusal of a file in which no column holds text."""
    shown = ascii(names[:_MOST_FIELDS])[:600]
    looked = f"no column {wanted}" if wanted else "none of the usual names of a text"
    return Refusal("no_text_column", f"{looked} in {count} records; columns are {shown}: name one as the option `text`")


def nested_names(record: dict[str, Any]) -> list[str]:
    """The names of a record's fields, those of objects inside it with a dot."""
    names: list[str] = []
    for name, value in record.items():
        inner = [f"{name}.{key}" for key in value] if isinstance(value, dict) else []
        names.extend(inner or [str(name)])
    return names


def joined(value: object) -> str | None:
    """A value as text: null and NaN are empty, messages and lists of texts are joined; None where there is no text in it.

    Texts are joined by an empty line, words (no space in any) by a space.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")  # bytes that are no UTF-8 are refused as those of a file are
    if isinstance(value, dict):
        inner = next((value[name] for name in TEXT_PARTS if name in value), _MISSING)
        return None if inner is _MISSING else joined(inner)
    if not isinstance(value, list):
        return None
    parts = [joined(part) for part in value]
    texts = [part for part in parts if part]
    if None in parts:
        return None
    words = all(isinstance(part, str) and not any(map(str.isspace, part)) for part in value)
    return (" " if words else "\n\n").join(texts)


def _language(record: dict[str, Any], fields: FieldNames, more: tuple[str, ...]) -> str:
    """The form of a record of code: as it says, else by the name of its file."""
    language = _word(record, fields.language).lower()
    if (meant := language_called(language)) in more:
        return meant
    return language or form_of(_word(record, fields.name), more) or ""


def _inside(record: Any, name: str, default: Any = None) -> Any:
    """A field's value; the default where there is none. A name with dots is looked up as it is before it is taken apart."""
    if not isinstance(record, dict) or not name:
        return default
    if name in record:
        return record[name]
    head, dot, rest = name.partition(".")
    return _inside(record.get(head), rest, default) if dot else default


def _word(record: dict[str, Any], name: str) -> str:
    """A field as a name: of a list, such as of licences, its parts joined by OR."""
    value = _inside(record, name)
    if isinstance(value, list):
        return " OR ".join(str(part) for part in value[:10] if isinstance(part, str))
    return str(value) if isinstance(value, str | int) else ""


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return f"an object with {ascii(list(value)[:10])[:200]} (name one with a dot)"
    return f"a {type(value).__name__}"
