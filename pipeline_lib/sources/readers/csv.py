"""Tables with named columns (CSV, TSV): a record a row, its text by the option `text` or under one of the usual names.

Rows may hold quoted newlines. A row that is wrong (a quote that nothing closes, more or fewer columns than the header) is
refused, and reading goes on with the line behind its first one: an unclosed quote costs no other row.
"""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterator
from itertools import islice

from pydantic import Field

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.decompress import Unreadable, open_expanded
from pipeline_lib.sources.first_bytes import DELIMITERS, HEAD_BYTES, head_text, read_head
from pipeline_lib.sources.readers import Reader
from pipeline_lib.sources.record_fields import USUAL, Options, Records
from pipeline_lib.sources.records import SourceRecord
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import SourceFile

_ROWS_TRIED = 50
_ROW_PER_TEXT = 2
_SEPARATOR = re.compile(r"\ufeff?\"?sep=([,;|\t])\"?\s*", re.IGNORECASE)
_NO_DELIMITER = "\x1f"  # of a table of one column, whose commas are its text's
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_Row = list[str] | Refusal


class CsvOptions(Options):
    """Options of tables."""

    delimiter: str = Field(
        "", description="Stands between columns; empty: comma, tab, semicolon or bar, as the first rows say."
    )
    columns: tuple[str, ...] = Field(
        (), description="Names of the columns, where the file has no header row; empty: it has one."
    )
    encoding: str = Field(
        "", description="Encoding, such as latin-1; empty: UTF-8, or UTF-16 where its byte order mark says so."
    )


def read_csv(file: SourceFile, limits: ReadLimits) -> Iterator[SourceRecord]:
    """Every row, in order, by its number; the header is none.

    Refusals: wrong_columns, unclosed_quote, and those of `Records`. Of the file: no_text_column, bad_encoding, and those of
    reading.
    """
    try:
        yield from Records(file, limits).read(_numbered(file, limits))
    except Unreadable as error:
        yield SourceRecord(file, error.refusal)


def _numbered(file: SourceFile, limits: ReadLimits) -> Iterator[tuple[int, object]]:
    options = CsvOptions.model_validate(file.options)
    head = read_head(file.place, limits)
    encoding = options.encoding or ("utf-16" if head.startswith(_UTF16) else "utf-8-sig")
    lines = list(io.StringIO(head_text(head), newline=""))
    before, named = _before_header(lines)
    delimiter = options.delimiter or named or _delimiter(lines[before:], len(head) < HEAD_BYTES // 2, file.path)
    with open_expanded(file.place, limits) as stream:
        try:
            text = io.TextIOWrapper(io.BufferedReader(stream), encoding, _errors(encoding), newline="")
            for _ in range(before):
                text.readline()
            rows = _Rows(text, delimiter, limits.record_bytes(_ROW_PER_TEXT))
            header = list(options.columns) or rows.header()
            if isinstance(header, Refusal):
                raise Unreadable(header)
            rows.columns = len(header)
            for number, row in enumerate(rows, 1):
                yield number, _record(header, row)
        except (UnicodeError, LookupError) as error:  # of UTF-16, of an encoding that there is not
            raise Unreadable(Refusal("bad_encoding", ascii(str(error))[:200])) from error


def _errors(encoding: str) -> str:
    """The policy on bytes that are none of the encoding: of UTF-8 they stay, and their row is refused as `not_utf8`."""
    return "surrogateescape" if encoding == "utf-8-sig" else "strict"


def _record(header: list[str], row: _Row) -> object:
    if isinstance(row, Refusal):
        return row
    if len(row) != len(header):
        return Refusal("wrong_columns", f"{len(row)} columns, the header has {len(header)}")
    return dict(zip(header, row, strict=True))


def _before_header(lines: list[str]) -> tuple[int, str]:
    """Number of lines before the header, and the delimiter that they name: what Excel writes (`sep=;`), and comments."""
    if lines and (named := _SEPARATOR.fullmatch(lines[0])):
        return 1, named.group(1)
    count = next((at for at, line in enumerate(lines) if not line.startswith("#")), 0)
    more_columns = count and any(lines[count].count(sign) > lines[count - 1].count(sign) for sign in DELIMITERS)
    return (count, "") if more_columns else (0, "")  # else that line is the header: #id,text


def _delimiter(lines: list[str], whole: bool, path: str) -> str:
    """The delimiter under which the first rows have the same number of columns, the most of them.

    Args:
        lines: the first ones of the file, from its header on.
        whole: they are all.
    """
    if not whole:
        lines = lines[:-1]
    best, most = "\t" if ".tsv" in path.lower() or ".tab" in path.lower() else _NO_DELIMITER, 0.0
    for delimiter in DELIMITERS:
        rows = list(islice(_Rows(io.StringIO("".join(lines), newline=""), delimiter, HEAD_BYTES), _ROWS_TRIED))
        header = rows[0] if rows else []
        if not isinstance(header, list) or len(header) < 2:
            continue
        same = sum(isinstance(row, list) and len(row) == len(header) for row in rows) / len(rows)
        usual = any(name.strip().lower() in USUAL["text"] for name in header)
        if (score := same * len(header) ** 0.5 + usual) > most:
            best, most = delimiter, score
    return best


class _Rows(Iterator[_Row]):
    """The rows of a table. A row that goes on over lines and turns out wrong is taken apart again from its second line on."""

    def __init__(self, text: io.TextIOBase, delimiter: str, most: int) -> None:
        self.text, self.delimiter, self.most = text, delimiter, most
        self.again: deque[str] = deque()
        self.lines: list[str] = []  # of the current row
        self.columns = 0  # of the header
        csv.field_size_limit(max(most, csv.field_size_limit()))
        self.reader = csv.reader(self.feed(), delimiter=delimiter, skipinitialspace=True)

    def header(self) -> _Row:
        """The first row; empty where there is none."""
        for row in self:
            self.columns = 0 if isinstance(row, Refusal) else len(row)
            return row
        return []

    def __next__(self) -> _Row:
        while True:
            self.lines.clear()
            try:
                row = next(self.reader)
            except csv.Error as error:
                return self.first_line_alone(str(error))
            if len(self.lines) > 1 and self.columns and (len(row) != self.columns or self.are_rows()):
                return self.first_line_alone(f"{len(row)} columns, the header has {self.columns}")
            if row:
                return row

    def feed(self) -> Iterator[str]:
        """The lines, one by one; ends a row that has become longer than any may be."""
        size = 0
        while line := self.again.popleft() if self.again else self.text.readline(self.most):
            size = len(line) + (size if self.lines else 0)
            self.lines.append(line)
            if size > self.most:
                raise csv.Error(f"a row of more than {self.most} characters")
            yield line
        if len(self.lines) > 1:
            raise csv.Error("a quote that nothing closes")

    def are_rows(self) -> bool:
        """True where tabs cut each line of a row into all columns: its quotes are characters, not marks."""
        tabs = self.columns - 1
        return self.delimiter == "\t" and tabs > 0 and all(line.count("\t") == tabs for line in self.lines)

    def first_line_alone(self, why: str) -> _Row:
        """The first line of a wrong row, its quotes as characters; the lines behind it are read again."""
        first, *others = self.lines or [""]
        self.again.extendleft(reversed(others))
        self.reader = csv.reader(self.feed(), delimiter=self.delimiter, skipinitialspace=True)
        row = next(csv.reader([first.rstrip("\r\n")], delimiter=self.delimiter, quoting=csv.QUOTE_NONE), [])
        if len(row) == self.columns and self.delimiter == "\t":  # where a quote is a character like any other
            return row
        return Refusal("file_too_large" if "more than" in why else "unclosed_quote", ascii(why)[:200])


READER = Reader(read=read_csv, suffixes=(".csv", ".tsv", ".tab"), options=CsvOptions, numbered=True)
