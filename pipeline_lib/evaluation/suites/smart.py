"""SMART collections of the University of Glasgow: Cranfield, CISI, MED, CACM, ADI, and NPL and TIME in layouts of their own.

Documents and queries are `.I` records with `.T`, `.A`, `.W` fields; title and text are searched, authors, cross-references and
keywords are not. A table has the judgements, all equally relevant. NPL's records end with a slash, TIME's begin with a star.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.official_files import find_file, read_lines
from pipeline_lib.evaluation.suites.searching import Document
from pipeline_lib.evaluation.suites.suite import Groups, Suites
from pipeline_lib.evaluation.suites.text_search import Graded, SearchSuite

SMART_SOURCE = "ir.dcs.gla.ac.uk/resources/test_collections"
READ_FIELDS = ("T", "W")
_RECORD = re.compile(r"\.I\s+(\d+)\s*$")
_FIELD = re.compile(r"\.([A-Z])\s*$")
_NO_INTEREST = {"-1", "5"}  # Cranfield lists references that it judged to be of no interest


@dataclass(frozen=True)
class Collection:
    """The official names of a collection's files, and where its table of judgements holds what."""

    documents: str
    queries: str
    judgements: str
    columns: int = 4  # of every row; copies in other shapes are about, whose documents would all be "0" or "1"
    document_column: int = 1
    grade_column: int = -1  # -1: every row is relevant
    ordinal_queries: bool = False  # the table numbers queries from 1, whatever their .I says (Cranfield)
    layout: Literal["smart", "npl", "time"] = "smart"


COLLECTIONS = {
    "cisi": Collection("CISI.ALL", "CISI.QRY", "CISI.REL"),
    "cranfield": Collection("cran.all.1400", "cran.qry", "cranqrel", columns=3, grade_column=2, ordinal_queries=True),
    "med": Collection("MED.ALL", "MED.QRY", "MED.REL", document_column=2),
    "cacm": Collection("cacm.all", "query.text", "qrels.text"),
    "adi": Collection("ADI.ALL", "ADI.QRY", "ADI.REL"),
    "npl": Collection("doc-text", "query-text", "rlv-ass", layout="npl"),
    "time": Collection("TIME.ALL", "TIME.QUE", "TIME.REL", layout="time"),
}


class Smart(SearchSuite):
    """One collection; what it has is its test."""

    splits = ("test",)

    def __init__(self, name: str, data: Path, config: SuiteConfig) -> None:
        super().__init__(data, config)
        self.name = name
        self.files = COLLECTIONS[name]

    def paths(self, split: str) -> tuple[Path, ...]:
        """Documents, queries and judgements."""
        return tuple(self._find(name) for name in (self.files.documents, self.files.queries, self.files.judgements))

    def corpus(self) -> Iterator[Document]:
        """Title and text of each record."""
        path = self._find(self.files.documents)
        if self.files.layout == "smart":
            yield from read_records(path)
        elif self.files.layout == "npl":
            yield from _slashed(path)
        else:
            yield from _starred(path, self._are_ordinals())

    def queries(self, split: str) -> dict[str, str]:
        """Text by query id."""
        path = self._find(self.files.queries)
        if self.files.layout != "smart":
            records = _slashed(path) if self.files.layout == "npl" else _starred(path, False)
            return {record.id: record.text for record in records}
        return {
            str(at) if self.files.ordinal_queries else record.id: record.text for at, record in enumerate(read_records(path), 1)
        }

    def qrels(self, split: str) -> Graded:
        """Relevant documents of each judged query."""
        path, files = self._find(self.files.judgements), self.files
        if files.layout != "smart":
            rows = _slashed(path) if files.layout == "npl" else _numbered(path)
            return {row.id: {_number(word): 1 for word in row.text.split()} for row in rows if row.text}
        found: Graded = {}
        for number, line in enumerate(read_lines(path, "latin-1"), 1):
            columns = line.split()
            if not columns:
                continue
            if len(columns) not in (files.columns, 2 if self.name == "adi" else files.columns):
                what = f"{len(columns)} columns, expected {files.columns}"
                raise UserError(f"{path}, line {number}: {line!r}: {what}; get {files.judgements} as {SMART_SOURCE} has it")
            if files.grade_column < 0 or columns[files.grade_column] not in _NO_INTEREST:
                found.setdefault(_number(columns[0]), {})[_number(columns[files.document_column])] = 1
        return found

    def _are_ordinals(self) -> bool:
        """Whether TIME's judgements number documents from 1, as the official ones do: their own numbers have gaps."""
        labels = {document.id for document in _starred(self._find(self.files.documents), False)}
        judged = {document for graded in self.qrels("test").values() for document in graded}
        return all(int(document) <= len(labels) for document in judged) or not judged & labels

    def _find(self, name: str) -> Path:
        return find_file(self.data, (f"ir/{self.name}", self.name, "ir"), name, SMART_SOURCE)


def read_records(path: Path) -> Iterator[Document]:
    """The records of a file, each with its title and text in one line.

    Raises:
        UserError: text stands before the first `.I`.
    """
    record, field, lines = "", "", list[str]()
    for number, line in enumerate(read_lines(path, "latin-1"), 1):
        if begins := _RECORD.match(line):
            if record:
                yield Document(record, " ".join(" ".join(lines).split()))
            record, field, lines = _number(begins[1]), "", []
        elif marks := _FIELD.match(line):
            field = marks[1]
        elif not record and line.strip():
            raise UserError(f"{path}, line {number}: {line[:60]!r} before the first `.I`; this is no SMART collection")
        elif field in READ_FIELDS:
            lines.append(line)
    if record:
        yield Document(record, " ".join(" ".join(lines).split()))


def _slashed(path: Path) -> Iterator[Document]:
    """NPL's records: a number on a line of its own, text, and a slash at the end."""
    record, lines = "", list[str]()
    for number, line in enumerate(read_lines(path, "latin-1"), 1):
        text = line.strip()
        if not record and text.isdigit():
            record = _number(text)
        elif record and (text == "/" or text.endswith(" /")):
            yield Document(record, " ".join(" ".join([*lines, text.removesuffix("/")]).split()))
            record, lines = "", []
        elif record:
            lines.append(text)
        elif text.strip("/"):
            raise UserError(f"{path}, line {number}: {line[:60]!r} where a record's number is expected; this is not NPL")
    if record:
        yield Document(record, " ".join(" ".join(lines).split()))


_STAR = re.compile(r"\*(TEXT|FIND|STOP)\b\s*(\d*)")


def _starred(path: Path, ordinals: bool) -> Iterator[Document]:
    """TIME's records: `*TEXT 017 01/04/63 PAGE 020` or `*FIND 1`, the text, and `*STOP` at the end of the file.

    Args:
        ordinals: records are numbered from 1 instead of by their own numbers.
    """
    record, count, lines = "", 0, list[str]()
    for number, line in enumerate(read_lines(path, "latin-1"), 1):
        mark = _STAR.match(line.strip())
        if mark is None:
            if not record and line.strip():
                raise UserError(f"{path}, line {number}: {line[:60]!r} before the first `*TEXT` or `*FIND`; this is not TIME")
            lines.append(line)
            continue
        if record:
            yield Document(record, " ".join(" ".join(lines).split()))
        if mark[1] == "STOP":
            return
        count, lines = count + 1, []
        record = str(count) if ordinals or not mark[2] else _number(mark[2])
    if record:
        yield Document(record, " ".join(" ".join(lines).split()))


def _numbered(path: Path) -> Iterator[Document]:
    """TIME's judgements: a query's number, then those of its documents; empty lines between them."""
    for number, line in enumerate(read_lines(path, "latin-1"), 1):
        words = line.split()
        if not all(word.isdigit() for word in words):
            raise UserError(f"{path}, line {number}: {line[:60]!r}, expected numbers; get the file as {SMART_SOURCE} has it")
        if words:
            yield Document(_number(words[0]), " ".join(words[1:]))


def _number(text: str) -> str:
    """ "001" and "1" name the same record."""
    return text.lstrip("0") or "0"


SUITES: Suites = {name: partial(Smart, name) for name in COLLECTIONS}
GROUPS: Groups = {"smart": tuple(SUITES)}
