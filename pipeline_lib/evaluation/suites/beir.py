"""Any BEIR folder: corpus.jsonl, queries.jsonl and qrels/{train,dev,test}.tsv with grades."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.config import SuiteConfig
from pipeline_lib.evaluation.suites.official_files import MissingData, find_file, read_csv, read_json_lines
from pipeline_lib.evaluation.suites.searching import Document
from pipeline_lib.evaluation.suites.text_search import Graded, SearchSuite

SOURCE = "public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/{}.zip"
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
        self.source = SOURCE.format(folder.partition("/")[0])  # CQADupStack is one zip of twelve folders
        there = tuple(split for split in QRELS if self._qrels_file(split))
        self.splits = there or tuple(QRELS)

    def paths(self, split: str) -> tuple[Path, ...]:
        """Corpus, queries and judgements."""
        names = ("corpus.jsonl", "queries.jsonl", f"qrels/{QRELS[split]}")
        return tuple(find_file(self.data, self.places, name, self.source) for name in names)

    def queries(self, split: str) -> dict[str, str]:
        """Of all splits, as the folder has them."""
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
