"""WikiQA: the sentences of one article, ranked for a question (Yang et al. 2015).

WikiQA-{train,dev,test}.tsv with a header: QuestionID, Question, DocumentID, DocumentTitle, SentenceID, Sentence, Label. Each
question ranks its own candidates, which nothing else competes with; MAP and MRR are over the questions that have a right one,
as is usual. Pairs without a sentence, question or label are left out and counted, and so are questions without a right answer.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import ClassVar

from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.official_files import find_file, open_lines
from pipeline_lib.evaluation.suites.searching import Document
from pipeline_lib.evaluation.suites.suite import Suites
from pipeline_lib.evaluation.suites.text_search import Graded, SearchSuite

SOURCE = "microsoft.com/download/details.aspx?id=52419 (WikiQACorpus)"
PARTS = {"train": "train", "validation": "dev", "test": "test"}
FIELDS = ("QuestionID", "Question", "SentenceID", "Sentence", "Label")


class WikiQa(SearchSuite):
    """Candidates of one article each."""

    name = "wikiqa"
    splits = ("train", "validation", "test")
    metrics: ClassVar[tuple[str, ...]] = ("map", "mrr")

    def __init__(self, data: Path, config: SuiteConfig) -> None:
        super().__init__(data, config)
        self._split = "test"
        self._candidates: dict[str, Set[str]] = {}

    def paths(self, split: str) -> tuple[Path, ...]:
        """Its one file."""
        places = ("wikiqa", "WikiQA", "WikiQACorpus", "")
        return (find_file(self.data, places, f"WikiQA-{PARTS[split]}.tsv", SOURCE),)

    def rows(self, split: str) -> Iterator[dict[str, str]]:
        """Pairs that have all of it; the others are counted."""
        path, bad = self.paths(split)[0], 0
        with open_lines(path, "utf-8-sig") as stream:
            reader = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
            missing = [name for name in FIELDS if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(
                    f"{path}: no column {', '.join(missing)} in its header {reader.fieldnames}; get it from {SOURCE}"
                )
            for row in reader:
                if all((row[name] or "").strip() for name in FIELDS) and row["Label"].strip() in ("0", "1"):
                    yield row
                else:
                    bad += 1
        self.left_out["incomplete_pairs"] = bad

    def queries(self, split: str) -> Mapping[str, str]:
        """Text by question id."""
        self._split = split
        return {row["QuestionID"]: row["Question"] for row in self.rows(split)}

    def qrels(self, split: str) -> Graded:
        """The labels of each question that has a right answer."""
        graded: Graded = {}
        for row in self.rows(split):
            graded.setdefault(row["QuestionID"], {})[row["SentenceID"]] = int(row["Label"])
        answered = {question: labels for question, labels in graded.items() if any(labels.values())}
        self.left_out["questions_without_answer"] = len(graded) - len(answered)
        self._candidates = {question: labels.keys() for question, labels in answered.items()}
        return answered

    def _judged_anywhere(self, qrels: Graded) -> Set[str]:
        return self.queries(self._split).keys()  # those without an answer are counted by that reason

    def corpus(self) -> Iterator[Document]:
        """Every sentence of the split that is asked."""
        for row in self.rows(self._split):
            yield Document(row["SentenceID"], row["Sentence"])

    def depth(self) -> int:
        """All sentences: a question's own ones are picked from the ranking."""
        return sum(1 for _ in self.corpus())

    def candidates(self, query: str) -> Set[str]:
        """The sentences of the question's article."""
        return self._candidates[query]


SUITES: Suites = {"wikiqa": WikiQa}
