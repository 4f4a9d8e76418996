"""Text search: queries on the x side against a corpus on the y side, judged; BEIR folders and SMART collections.

BEIR: corpus.jsonl, queries.jsonl and qrels/{train,dev,test}.tsv with grades. SMART: documents and queries as `.I` records with
`.T`, `.A`, `.W` fields and a table of judgements, all equally relevant; title and text are searched, authors, cross-references
and keywords are not.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation import metrics
from pipeline_lib.evaluation.suites.models import Hits, Model
from pipeline_lib.evaluation.suites.official_files import MissingData, find_file, read_csv, read_json_lines, read_lines
from pipeline_lib.evaluation.suites.searching import Document, ids_at, ranked_ids, ranking_values, search
from pipeline_lib.evaluation.suites.suite import (
    Families,
    Figure,
    Groups,
    Kind,
    Suite,
    SuiteResult,
    Suites,
    SuiteText,
    sample_rows,
)
from pipeline_lib.runtime.progress import Progress, silent

QUERY_BLOCK = 256  # queries whose hits are named and judged at a time

Graded = dict[str, dict[str, int]]  # query id -> document id -> grade


class SearchSuite(Suite):
    """Queries against a corpus; a subclass reads one layout.

    Attributes:
        metrics: of searching.MEASURES, the headline first.
        queries_are_documents: whether a document of the query's own id and text is the query, and no hit.
    """

    kind: Kind = "text_search"
    metrics: ClassVar[tuple[str, ...]] = ("ndcg@10", "recall@100", "map", "mrr@10")
    queries_are_documents: ClassVar[bool] = False

    @abstractmethod
    def queries(self, split: str) -> Mapping[str, str]:
        """Text by query id."""

    @abstractmethod
    def qrels(self, split: str) -> Graded:
        """Judgements by query; queries that are not asked may be among them."""

    @abstractmethod
    def corpus(self) -> Iterator[Document]:
        """The documents, read anew at each call."""

    def texts(self, split: str) -> Iterator[SuiteText]:
        """The judged queries, and the documents that are relevant to one: the rest of a corpus may be all of Wikipedia."""
        qrels, queries = self._judged(split)
        for query, text in queries.items():
            yield SuiteText(f"query-{query}", text)
        relevant = _relevant(qrels)
        for document in self.corpus():
            if document.id in relevant:
                yield SuiteText(document.id, document.text, self.kind == "code_search")

    def run(self, model: Model, split: str, progress: Progress = silent) -> SuiteResult:
        """Every metric over the judged queries."""
        qrels, texts = self._asked(split)
        absent = self._absent(qrels, split)
        depth = self.config.depth + self.queries_are_documents  # one more, as BEIR does: the query itself may be among them
        config = self.config.model_copy(update={"depth": depth})
        found = search(model, list(texts.values()), lambda: self._searched(qrels), config, "y", progress)
        own = self._queries_in_corpus(texts) if self.queries_are_documents else frozenset[str]()
        values = self._values(found.hits, ids_at(lambda: self._searched(qrels), found.hits), qrels, own)
        bootstrap = (self.config.bootstrap, self.config.seed)
        figures = tuple(
            Figure(self.task, metric, metrics.mean_interval(of_each, *bootstrap), list(qrels), of_each)
            for metric, of_each in values.items()
        )
        unanswerable = sum(not any(grade > 0 for grade in graded.values()) for graded in qrels.values())
        facts = {"documents": found.documents, "search": found.how}
        facts |= {"queries_without_relevant": unanswerable, "relevant_not_in_corpus": absent}
        return SuiteResult(figures, facts)

    def _values(self, hits: Hits, ids: dict[int, str], qrels: Graded, own: Set[str]) -> dict[str, np.ndarray]:
        """Each metric's value for every query; a block of queries at a time, as a hit takes a few hundred bytes in Python.

        Args:
            own: ids that a query and the same text in the corpus share.
        """
        names, found = list(qrels), list[dict[str, np.ndarray]]()
        for at in range(0, len(names), QUERY_BLOCK):
            block = slice(at, at + QUERY_BLOCK)
            lists = ranked_ids(Hits(hits.rows_QK[block], hits.scores_QK[block]), ids)
            rankings = {
                query: [pair for pair in ranked if pair[0] != query or query not in own][: self.config.depth]
                for query, ranked in zip(names[block], lists, strict=True)
            }
            found.append(ranking_values(rankings, {query: qrels[query] for query in rankings}, self.metrics))
        return {metric: np.concatenate([values[metric] for values in found]) for metric in self.metrics}

    def _queries_in_corpus(self, queries: Mapping[str, str]) -> frozenset[str]:
        """Ids of queries that are documents too, as in ArguAna: elsewhere both may be numbered from 0, and differ."""
        words = {query: _words(text) for query, text in queries.items()}
        return frozenset(
            document.id
            for document in self.corpus()
            if document.id in words and words[document.id] in (_words(document.text), _words(document.untitled))
        )

    def _asked(self, split: str) -> tuple[Graded, dict[str, str]]:
        """Judgements and texts of the queries that are asked, in one order."""
        qrels, texts = self._judged(split)
        names = list(qrels)
        kept = [names[row] for row in sample_rows(len(names), self.config.max_queries, self.config.seed)]
        return {query: qrels[query] for query in kept}, {query: texts[query] for query in kept}

    def _judged(self, split: str) -> tuple[Graded, dict[str, str]]:
        """Judgements and texts of the judged queries, in one order.

        Raises:
            UserError: a judged query has no text, or no query is judged.
        """
        qrels, texts = self.qrels(split), self.queries(split)
        absent = [query for query in qrels if query not in texts]
        if absent or not qrels:
            what = f"{len(absent)} judged queries have no text, {absent[0]!r} first" if absent else "no query is judged"
            raise UserError(f"{self.name}, {split}: {what}; the files do not belong together, get them again")
        return qrels, {query: texts[query] for query in qrels}

    def _absent(self, qrels: Graded, split: str) -> int:
        """How many relevant documents the corpus lacks: some in a few official sets, many where a download was cut off.

        Raises:
            UserError: it lacks them all, and every query would score 0.
        """
        relevant = _relevant(qrels)
        absent = relevant.copy()
        for document in self.corpus():
            absent.discard(document.id)
        if relevant and absent == relevant:
            what = f"none of the {len(relevant)} relevant documents is in the corpus, {min(absent)!r} for one"
            raise UserError(f"{self.name}, {split}: {what}; the files do not belong together, get them again")
        return len(absent)

    def _searched(self, qrels: Graded) -> Iterator[Document]:
        """The corpus; of the quick variant a sample that holds every judged document."""
        if not self.config.max_documents:
            yield from self.corpus()
            return
        judged = {document for graded in qrels.values() for document in graded}
        rows = set(sample_rows(sum(1 for _ in self.corpus()), self.config.max_documents, self.config.seed).tolist())
        for row, document in enumerate(self.corpus()):
            if row in rows or document.id in judged:
                yield document


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold()) or text.split()


def _relevant(qrels: Graded) -> set[str]:
    return {document for graded in qrels.values() for document, grade in graded.items() if grade > 0}


BEIR_SOURCE = "public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/{}.zip"
QRELS = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}

# the sets of the paper's table of zero-shot search
BEIR_11 = (
    "trec-covid", "nfcorpus", "fiqa", "arguana", "webis-touche2020", "quora", "scifact", "climate-fever", "dbpedia-entity",
    "hotpotqa", "fever",
)  # fmt: skip


class Beir(SearchSuite):
    """One folder; its splits are those that it has judgements of."""

    queries_are_documents = True  # in ArguAna and Quora

    def __init__(self, folder: str, data: Path, config: SuiteConfig) -> None:
        super().__init__(data, config)
        self.name = f"beir/{folder}"
        self.places = (f"beir/{folder}", folder)
        self.source = BEIR_SOURCE.format(folder.partition("/")[0])  # CQADupStack is one zip of twelve folders
        there = tuple(split for split in QRELS if self._qrels_file(split))
        self.splits = there or tuple(QRELS)

    def paths(self, split: str) -> tuple[Path, ...]:
        """Corpus, queries and judgements."""
        names = ("corpus.jsonl", "queries.jsonl", f"qrels/{QRELS[split]}")
        return tuple(find_file(self.data, self.places, name, self.source) for name in names)

    def queries(self, split: str) -> dict[str, str]:
        """Files of all splits, as the folder has them."""
        path = self.paths(split)[1]
        return {str(record["_id"]): str(record["text"]) for record in read_json_lines(path, ("_id", "text"))}

    def qrels(self, split: str) -> Graded:
        """Grades below zero, as TREC-COVID has a few, are not relevant."""
        path = self.paths(split)[2]
        found: Graded = {}
        for number, row in enumerate(read_csv(path, ("query-id", "corpus-id", "score"), "\t"), 2):
            try:
                found.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
            except (TypeError, ValueError) as error:
                raise UserError(f"{path}, line {number}: grade {row['score']!r} is no integer; get the file again") from error
        return found

    def corpus(self) -> Iterator[Document]:
        """Title, where there is one, and text, joined by a space as BEIR does."""
        path = find_file(self.data, self.places, "corpus.jsonl", self.source)
        for record in read_json_lines(path, ("_id", "text")):
            text = str(record["text"])
            yield Document(str(record["_id"]), f"{record.get('title') or ''} {text}".strip(), text)

    def _qrels_file(self, split: str) -> Path | None:
        try:
            return find_file(self.data, self.places, f"qrels/{QRELS[split]}", self.source)
        except MissingData:
            return None


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
                raise UserError(f"{path}, line {number}: {line!r}: {what}; get {files.judgements} as {SMART_SOURCE} has it")
            if files.grade_column < 0 or columns[files.grade_column] not in _NO_INTEREST:
                found.setdefault(_number(columns[0]), {})[_number(columns[files.document_column])] = 1
        return found

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


def _number(text: str) -> str:
    """ "001" and "1" name the same record."""
    return text.lstrip("0") or "0"


SUITES: Suites = {name: partial(Smart, name) for name in COLLECTIONS}
FAMILIES: Families = {"beir": Beir}
GROUPS: Groups = {"beir-11": tuple(f"beir/{folder}" for folder in BEIR_11), "smart": tuple(SUITES)}
