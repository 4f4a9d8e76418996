"""SMART collections: documents and queries as `.I` records with `.T`, `.A`, `.W` fields, and a table of judgements.

Title and text are searched; authors, cross-references and keywords are not. All judgements count as equally relevant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.config import SuiteConfig
from pipeline_lib.evaluation.suites.official_files import find_file, read_lines
from pipeline_lib.evaluation.suites.searching import Document
from pipeline_lib.evaluation.suites.text_search import Graded, SearchSuite

SOURCE = "ir.dcs.gla.ac.uk/resources/test_collections"
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


COLLECTIONS = {
    "cisi": Collection("CISI.ALL", "CISI.QRY", "CISI.REL"),
    "cranfield": Collection("cran.all.1400", "cran.qry", "cranqrel", columns=3, grade_column=2, ordinal_queries=True),
    "med": Collection("MED.ALL", "MED.QRY", "MED.REL", document_column=2),
    "cacm": Collection("cacm.all", "query.text", "qrels.text"),
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
        yield from read_records(self._find(self.files.documents))

    def queries(self, split: str) -> dict[str, str]:
        """Text by query id."""
        records = read_records(self._find(self.files.queries))
        return {str(at) if self.files.ordinal_queries else record.id: record.text for at, record in enumerate(records, 1)}

    def qrels(self, split: str) -> Graded:
        """Relevant documents of each judged query."""
        path, files = self._find(self.files.judgements), self.files
        found: Graded = {}
        for number, line in enumerate(read_lines(path, "latin-1"), 1):
            columns = line.split()
            if not columns:
                continue
            if len(columns) != files.columns:
                what = f"{len(columns)} columns, expected {files.columns}"
                raise UserError(f"{path}, line {number}: {line!r}: {what}; get {files.judgements} as {SOURCE} has it")
            if files.grade_column < 0 or columns[files.grade_column] not in _NO_INTEREST:
                found.setdefault(_number(columns[0]), {})[_number(columns[files.document_column])] = 1
        return found

    def _find(self, name: str) -> Path:
        return find_file(self.data, (f"ir/{self.name}", self.name, "ir"), name, SOURCE)


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


def _number(text: str) -> str:
    """ "001" and "1" name the same record."""
    return text.lstrip("0") or "0"
