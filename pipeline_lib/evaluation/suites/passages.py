"""Search over passage collections in their official files: MS MARCO, and open-domain questions over DPR's Wikipedia.

MS MARCO passage ranking has public judgements for its dev set only, which is its validation here: MRR@10 over dev.small.
Questions of NQ and TriviaQA (`nq`, `trivia-qa`: DPR's files; `nq-open`: its own, over any passages) count as answered when one
of the first 20 or 100 passages contains an answer as DPR compares them: both normalised to NFD, cut into words and single
symbols, lower-cased; the answer's tokens must stand in a row. MRR@10 is of the first passage that contains one (the paper's
table 9 has it of NQ's dev set).
"""

from __future__ import annotations

import ast
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from pipeline_lib.config.base import StageConfig
from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation import metrics
from pipeline_lib.evaluation.suites.models import Model
from pipeline_lib.evaluation.suites.official_files import (
    as_number,
    find_file,
    open_lines,
    read_columns,
    read_json_lines,
    read_rows,
)
from pipeline_lib.evaluation.suites.searching import Document, ids_at, ranked_ids, search
from pipeline_lib.evaluation.suites.suite import Figure, Kind, Suite, SuiteResult, Suites, SuiteText, sample_rows
from pipeline_lib.evaluation.suites.text_search import Graded, SearchSuite
from pipeline_lib.runtime.progress import Progress, silent

MS_MARCO = "microsoft.github.io/msmarco/Datasets (collection.tar.gz, queries.tar.gz, qrels.dev.small.tsv)"
DPR = "github.com/facebookresearch/DPR (dpr/data/download_data.py: data.wikipedia_split.psgs_w100, data.retriever.qas)"
DPR_PLACES = ("dpr/data/wikipedia_split", "downloads/data/wikipedia_split", "dpr", "")
CUTS, RECIPROCAL_CUT = (20, 100), 10


class MsMarco(SearchSuite):
    """MS MARCO passages: collection.tsv, queries.dev.small.tsv, qrels.dev.small.tsv."""

    name = "ms-marco"
    splits = ("validation",)
    metrics: ClassVar[tuple[str, ...]] = ("mrr@10", "recall@100")

    def paths(self, split: str) -> tuple[Path, ...]:
        """Collection, queries and judgements."""
        places = ("msmarco", "ms-marco", "")
        names = ("collection.tsv", "queries.dev.small.tsv", "qrels.dev.small.tsv")
        return tuple(find_file(self.data, places, name, MS_MARCO) for name in names)

    def queries(self, split: str) -> dict[str, str]:
        """`qid<TAB>text` lines."""
        return {row[0]: row[1] for row in read_columns(self.paths(split)[1], 2)}

    def qrels(self, split: str) -> Graded:
        """`qid 0 pid 1` lines."""
        path, found = self.paths(split)[2], Graded()
        for row in read_columns(path, 4):
            found.setdefault(row[0], {})[row[2]] = int(as_number(row[3], path, f"the grade of query {row[0]}"))
        return found

    def corpus(self) -> Iterator[Document]:
        """`pid<TAB>text` lines."""
        for row in read_columns(self.paths("validation")[0], 2):
            yield Document(row[0], row[1])


class AnswersConfig(StageConfig):
    """All choices that the figures of questions depend on; figures that lack one of the metrics have another key."""

    suites: SuiteConfig
    recall: tuple[int, ...] = Field(CUTS, description="Ranks up to which an answer counts in Recall.")
    reciprocal_rank: int = Field(RECIPROCAL_CUT, description="Rank up to which an answer counts in MRR.")


class OpenQuestions(Suite):
    """Questions with lists of answers over psgs_w100.tsv."""

    kind: Kind = "text_search"
    splits: tuple[str, ...] = ("validation", "test")

    def __init__(self, name: str, data: Path, config: SuiteConfig) -> None:
        super().__init__(data, config)
        self.name = name
        self.prefix = {"nq": "nq", "trivia-qa": "trivia"}[name]

    def settings(self, split: str) -> StageConfig:
        """The suites' configuration with the cuts."""
        return AnswersConfig(suites=self.config)

    def paths(self, split: str) -> tuple[Path, ...]:
        """Passages and questions."""
        part = {"validation": "dev", "test": "test"}[split]
        questions = ("dpr/data/retriever/qas", "downloads/data/retriever/qas", "dpr", "")
        # as it is published, and as DPR's script saves it
        named = [f"{self.prefix}-{part}{end}" for end in (".qa.csv", ".csv")]
        return (find_file(self.data, DPR_PLACES, "psgs_w100.tsv", DPR), find_file(self.data, questions, named, DPR))

    def texts(self, split: str) -> Iterator[SuiteText]:
        """The questions; the passages are all of Wikipedia."""
        for at, (question, _) in enumerate(self.questions(split)):
            yield SuiteText(f"question-{at}", question)

    def questions(self, split: str) -> list[tuple[str, list[str]]]:
        """Each question with its answers: `question<TAB>["one", "another"]`, a list as Python writes it.

        Raises:
            UserError: answers are no list of strings.
        """
        path = self.paths(split)[1]
        found = []
        with open_lines(path) as stream:
            for line, row in read_rows(stream):
                if len(row) != 2:
                    raise UserError(f"{path}, line {line}: {len(row)} columns, expected question and answers")
                found.append((row[0], _answers(row[1], path, line)))
        return found

    def passages(self) -> Iterator[Document]:
        """Title and text; quoted, with a header: id, text, title."""
        for id_, text, title in self._rows():
            yield Document(id_, f"{title} {text}".strip())

    def run(self, model: Model, split: str, progress: Progress = silent) -> SuiteResult:
        """Recall@20, Recall@100 and MRR@10 by answer containment in the text, without the title."""
        questions = self.questions(split)
        kept = sample_rows(len(questions), self.config.max_queries, self.config.seed)
        asked = [questions[row] for row in kept]
        config = self.config.model_copy(update={"depth": max(CUTS)})
        found = search(model, [question for question, _ in asked], self._searched, config, "y", progress)
        passage_ids = ids_at(self._searched, found.hits)
        texts = self._texts(set(passage_ids.values()))
        ranked = ranked_ids(found.hits, passage_ids)
        first = np.array([_first_answer(texts, hits, answers) for hits, (_, answers) in zip(ranked, asked, strict=True)])
        ids = [f"question-{row}" for row in kept]
        values = {f"recall@{cut}": (first < cut).astype(np.float64) for cut in CUTS}
        values[f"mrr@{RECIPROCAL_CUT}"] = np.where(first < RECIPROCAL_CUT, 1 / (first + 1), 0.0)
        figures = [
            Figure(self.task, metric, metrics.mean_interval(each, self.config.bootstrap, self.config.seed), ids, each)
            for metric, each in values.items()
        ]
        return SuiteResult(tuple(figures), {"documents": found.documents, "search": found.how})

    def _searched(self) -> Iterator[Document]:
        """All passages; of the quick variant the first ones, whose figures only compare with each other."""
        for row, document in enumerate(self.passages()):
            if self.config.max_documents and row >= self.config.max_documents:
                return
            yield document

    def _rows(self) -> Iterator[list[str]]:
        path = self.paths("test" if self._has("test") else "validation")[0]
        with open_lines(path) as stream:
            rows = read_rows(stream)
            if next(rows, (0, []))[1][:3] != ["id", "text", "title"]:
                raise UserError(f"{path}: its header is not `id text title`; get it from {DPR}")
            for line, row in rows:
                if len(row) != 3:
                    raise UserError(f"{path}, line {line}: {len(row)} columns, expected id, text and title; get the file again")
                yield row

    def _texts(self, ids: set[str]) -> dict[str, str]:
        return {id_: text for id_, text, _ in self._rows() if id_ in ids}

    def _has(self, split: str) -> bool:
        try:
            return bool(self.paths(split))
        except UserError:
            return False


def _first_answer(texts: dict[str, str], hits: Sequence[tuple[str, float]], answers: Sequence[str]) -> int:
    """Rank, from 0, of the first passage that contains an answer; beyond all cuts where none does."""
    wanted = [tokens for tokens in map(dpr_tokens, answers) if tokens]
    for rank, (id_, _) in enumerate(hits):
        if contains_answer(texts[id_], wanted):
            return rank
    return max(CUTS)


def contains_answer(text: str, answers: Sequence[tuple[str, ...]]) -> bool:
    """True if the tokens of one answer stand in a row in the text."""
    folded = unicodedata.normalize("NFD", text).casefold()  # lower() writes a sigma in two ways, by what follows the word
    # tokens cost 100 times as much
    likely = [answer for answer in answers if all(token.casefold() in folded for token in answer)]
    if not likely:
        return False
    tokens = dpr_tokens(text)
    return any(answer == tokens[at : at + len(answer)] for answer in likely for at in range(len(tokens) - len(answer) + 1))


def dpr_tokens(text: str) -> tuple[str, ...]:
    r"""DPR's SimpleTokenizer, lower-cased: runs of [\p{L}\p{N}\p{M}], and single characters outside of \p{Z} and \p{C}."""
    tokens: list[str] = []
    inside = False
    for character in unicodedata.normalize("NFD", text):
        is_word, is_symbol = _class_of(character)
        if is_word and inside:
            tokens[-1] += character
        elif is_word or is_symbol:
            tokens.append(character)
        inside = is_word
    return tuple(token.lower() for token in tokens)


@cache
def _class_of(character: str) -> tuple[bool, bool]:
    major = unicodedata.category(character)[0]
    return major in "LNM", major not in "ZC"


def _answers(text: str, path: Path, line: int) -> list[str]:
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise UserError(f"{path}, line {line}: answers {text[:60]!r} are no list; get it from {DPR}") from error
    if not (isinstance(found, list) and all(isinstance(answer, str) for answer in found)):
        raise UserError(f"{path}, line {line}: answers {text[:60]!r} are no list of strings; get it from {DPR}")
    return found


NQ_OPEN = "github.com/google-research-datasets/natural-questions/tree/master/nq_open"
NQ_PLACES = ("nq-open", "nq_open", "natural-questions/nq_open", "")
PASSAGES = ("psgs_w100.tsv", "passages.tsv", "passages.jsonl", "corpus.tsv", "corpus.jsonl")


class NqOpen(OpenQuestions):
    """NQ-open's questions over a given file of passages; dev is validation."""

    FILES: ClassVar = {
        "train": ["NQ-open.train.jsonl"],
        "validation": ["NQ-open.dev.jsonl", "NQ-open.efficientqa.dev.1.1.jsonl"],
        "test": ["NQ-open.test.jsonl", "NQ-open.efficientqa.test.1.1.jsonl"],
    }

    def __init__(self, data: Path, config: SuiteConfig) -> None:
        super().__init__("nq", data, config)
        self.name = "nq-open"
        self.splits = tuple(split for split in self.FILES if self._has(split)) or ("validation", "test")

    def paths(self, split: str) -> tuple[Path, ...]:
        """Passages and questions."""
        source = f"{DPR}, or give any as {NQ_PLACES[0]}/{PASSAGES[1]}"
        passages = find_file(self.data, (*NQ_PLACES[:-1], *DPR_PLACES), PASSAGES, source)
        return (passages, find_file(self.data, NQ_PLACES, self.FILES[split], NQ_OPEN))

    def questions(self, split: str) -> list[tuple[str, list[str]]]:
        """Each question with its answers; one without is left out and counted."""
        path, without = self.paths(split)[1], 0
        found = list[tuple[str, list[str]]]()
        for record in read_json_lines(path, ("question",)):
            given: Any = next((record[name] for name in ("answer", "answers", "short_answers") if record.get(name)), [])
            answers = [given] if isinstance(given, str) else [str(answer) for answer in given if answer is not None]
            if record["question"] and answers:
                found.append((str(record["question"]), answers))
            else:
                without += 1
        self.left_out["questions_without_answer"] = without
        if not found:
            raise UserError(f"{path}: no question has an answer; get it from {NQ_OPEN}")
        return found

    def _rows(self) -> Iterator[list[str]]:
        """Id, text and title of each passage: a table with a header or without one, or JSON Lines."""
        path, without = self.paths(self.splits[-1])[0], 0
        for row in _json_passages(path) if ".jsonl" in path.suffixes else _table_passages(path):
            without += not row[1]
            yield row
        self.left_out["passages_without_text"] = without


def _json_passages(path: Path) -> Iterator[list[str]]:
    for number, record in enumerate(read_json_lines(path, ()), 1):
        named = [
            next((str(record[name]) for name in names if record.get(name) is not None), "")
            for names in (("_id", "id", "docid", "pid"), ("text", "contents", "passage"), ("title",))
        ]
        yield [named[0] or str(number), *named[1:]]


def _table_passages(path: Path) -> Iterator[list[str]]:
    with open_lines(path, "utf-8-sig") as stream:
        rows = read_rows(stream)
        start = next(rows, (0, []))
        first = start[1]
        header = "text" in first
        places = [first.index(name) if name in first else -1 for name in ("id", "text", "title")] if header else [0, 1, 2]
        for line, row in rows if header else chain([start], rows):
            if len(row) <= places[1]:
                what = f"{len(row)} columns, expected id, text and title"
                raise UserError(f"{path}, line {line}: {what}; get the file again")
            yield [row[place] if 0 <= place < len(row) else "" for place in places]


SUITES: Suites = {
    "ms-marco": MsMarco,
    "nq-open": NqOpen,
    "nq": partial(OpenQuestions, "nq"),
    "trivia-qa": partial(OpenQuestions, "trivia-qa"),
}
