"""Sentence similarity: STS12 to STS16, STS-B and SICK-R, by the correlation of cosines with people's grades.

Both sentences are embedded on the x side. The headline is Spearman's correlation over all pairs of a year; each source has a
figure of its own. Layouts are those of SentEval's download.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.metrics import CORRELATIONS, statistic_interval
from pipeline_lib.evaluation.suites.models import Model, pair_similarity
from pipeline_lib.evaluation.suites.official_files import as_number, find_file, read_columns, read_lines, split_columns
from pipeline_lib.evaluation.suites.suite import Figure, Groups, Kind, Suite, SuiteResult, Suites, SuiteText, sample_rows
from pipeline_lib.runtime.progress import Progress, silent

PLACES = ("senteval", "downstream", "data/downstream", "")
SENTEVAL = "SentEval's data/downstream (github.com/facebookresearch/SentEval, get_transfer_data.bash)"

SOURCES = {
    "sts12": ("MSRpar", "MSRvid", "SMTeuroparl", "surprise.OnWN", "surprise.SMTnews"),
    "sts13": ("FNWN", "headlines", "OnWN"),
    "sts14": ("deft-forum", "deft-news", "headlines", "images", "OnWN", "tweet-news"),
    "sts15": ("answers-forums", "answers-students", "belief", "headlines", "images"),
    "sts16": ("answer-answer", "headlines", "plagiarism", "postediting", "question-question"),
}
STS_B_FILES = {"train": "sts-train.csv", "validation": "sts-dev.csv", "test": "sts-test.csv"}
SICK_FILES = {"train": "SICK_train.txt", "validation": "SICK_trial.txt", "test": "SICK_test_annotated.txt"}
SICK_HEADER = ["pair_ID", "sentence_A", "sentence_B", "relatedness_score"]


class GradedPair(NamedTuple):
    """Two sentences, where they come from, and how similar people found them."""

    id: str
    source: str
    left: str
    right: str
    grade: float


class SimilaritySuite(Suite):
    """Spearman and Pearson over graded pairs; a subclass reads one layout."""

    kind: Kind = "similarity"

    def pairs(self, split: str) -> Iterator[GradedPair]:
        """The graded pairs of a split, in the order of its files."""
        raise NotImplementedError

    def texts(self, split: str) -> Iterator[SuiteText]:
        """Both sentences of every pair."""
        for pair in self.pairs(split):
            yield SuiteText(f"{pair.id}-1", pair.left)
            yield SuiteText(f"{pair.id}-2", pair.right)

    def run(self, model: Model, split: str, progress: Progress = silent) -> SuiteResult:
        """Correlations over all pairs, and for each source where there are several."""
        pairs = list(self.pairs(split))
        pairs = [pairs[row] for row in sample_rows(len(pairs), self.config.max_test_texts, self.config.seed)]
        cosines_N = pair_similarity(model, [pair.left for pair in pairs], [pair.right for pair in pairs], progress)
        figures = list(self._figures(self.task, pairs, cosines_N))
        sources = sorted({pair.source for pair in pairs})
        for source in sources if len(sources) > 1 else ():
            rows = [row for row, pair in enumerate(pairs) if pair.source == source]
            figures += self._figures(f"{self.task}:{source}", [pairs[row] for row in rows], cosines_N[rows])
        return SuiteResult(tuple(figures), {"pairs": len(pairs), "sources": sources})

    def _figures(self, task: str, pairs: Sequence[GradedPair], cosines_N: np.ndarray) -> Iterator[Figure]:
        grades_N = np.array([pair.grade for pair in pairs])
        ids = [pair.id for pair in pairs]
        for metric in CORRELATIONS:
            interval = statistic_interval(metric, cosines_N, grades_N, self.config.bootstrap, self.config.seed)
            yield Figure(task, metric, interval, ids, cosines_N, grades_N)


class SemEval(SimilaritySuite):
    """One year of SemEval's STS task: STS.input.SOURCE.txt beside STS.gs.SOURCE.txt; pairs without a grade do not count."""

    splits: tuple[str, ...] = ("test",)

    def __init__(self, name: str, data: Path, config: SuiteConfig) -> None:
        super().__init__(data, config)
        self.name = name

    def paths(self, split: str) -> tuple[Path, ...]:
        """Input and grades of each source."""
        folder = f"STS/{self.name.upper()}-en-test"
        names = [f"{folder}/STS.{what}.{source}.txt" for source in SOURCES[self.name] for what in ("input", "gs")]
        return tuple(find_file(self.data, PLACES, name, SENTEVAL) for name in names)

    def pairs(self, split: str) -> Iterator[GradedPair]:
        """The pairs of each source that have a grade."""
        paths = self.paths(split)
        for source, sentences, grades in zip(SOURCES[self.name], paths[::2], paths[1::2], strict=True):
            yield from _some(self._of_source(source, sentences, grades), grades)

    def _of_source(self, source: str, sentences: Path, grades: Path) -> Iterator[GradedPair]:
        """Raises UserError where the files have not the same number of lines, or a graded line is no pair."""
        lines, marks = list(read_lines(sentences)), list(read_lines(grades))
        # a blank line is a line of its own, or grades would move to other pairs; at the end alone it may be one too many
        for longer, other in ((lines, marks), (marks, lines)):
            while len(longer) > len(other) and not longer[-1].strip():
                longer.pop()
        if len(lines) != len(marks):
            raise UserError(f"{sentences}: {len(lines)} pairs, but {len(marks)} grades in {grades.name}; get both again")
        for number, (line, mark) in enumerate(zip(lines, marks, strict=True), 1):
            if mark.strip():
                columns = split_columns(line, sentences, number, 2)
                grade = as_number(mark, grades, f"line {number}")
                yield GradedPair(f"{source}-{number}", source, columns[0], columns[1], grade)


class StsBenchmark(SimilaritySuite):
    """STS-B: genre, file, year, id, grade, two sentences; no header, no quoting, some rows with more columns."""

    name = "sts-b"
    splits: tuple[str, ...] = ("train", "validation", "test")

    def paths(self, split: str) -> tuple[Path, ...]:
        """One file a split."""
        return (find_file(self.data, PLACES, f"STS/STSBenchmark/{STS_B_FILES[split]}", SENTEVAL),)

    def pairs(self, split: str) -> Iterator[GradedPair]:
        """The sources are the three genres."""
        (path,) = self.paths(split)
        return _some(self._of_file(split, path), path)

    def _of_file(self, split: str, path: Path) -> Iterator[GradedPair]:
        for number, row in enumerate(read_columns(path, 7), 1):
            yield GradedPair(f"{split}-{number}", row[0], row[5], row[6], as_number(row[4], path, f"line {number}'s grade"))


class Sick(SimilaritySuite):
    """SICK-R: pair_ID, two sentences, relatedness from 1 to 5, with a header."""

    name = "sick-r"
    splits: tuple[str, ...] = ("train", "validation", "test")

    def paths(self, split: str) -> tuple[Path, ...]:
        """One file a split."""
        return (find_file(self.data, PLACES, f"SICK/{SICK_FILES[split]}", SENTEVAL),)

    def pairs(self, split: str) -> Iterator[GradedPair]:
        """All pairs of these files."""
        for path in self.paths(split):
            yield from _some(self._of_file(path), path)

    def _of_file(self, path: Path) -> Iterator[GradedPair]:
        rows = read_columns(path, 4)
        header = next(rows, [])
        if header[:4] != SICK_HEADER:
            raise UserError(f"{path}: its header is {header[:4]}, expected {SICK_HEADER}; get the file again")
        for row in rows:
            yield GradedPair(row[0], "sick", row[1], row[2], as_number(row[3], path, f"the grade of pair {row[0]}"))


class SickAll(Sick):
    """SICK-R over the pairs of all three files: what MTEB calls SICK-R, comparable with no other figure."""

    name = "sick-r-all"
    splits: tuple[str, ...] = ("test",)

    def paths(self, split: str) -> tuple[Path, ...]:
        """All three files."""
        names = (SICK_FILES[name] for name in ("train", "validation", "test"))
        return tuple(find_file(self.data, PLACES, f"SICK/{name}", SENTEVAL) for name in names)


def _some(pairs: Iterable[GradedPair], path: Path) -> Iterator[GradedPair]:
    """The pairs of one file; a file without any would drop out of the figure over all, unseen.

    Raises:
        UserError: there is none.
    """
    rest = iter(pairs)
    first = next(rest, None)
    if first is None:
        raise UserError(f"{path}: no graded pair in it; get the file again from {SENTEVAL}")
    yield first
    yield from rest


STS = ("sts12", "sts13", "sts14", "sts15", "sts16")
SUITES: Suites = {
    **{name: partial(SemEval, name) for name in STS},
    "sts-b": StsBenchmark,
    "sick-r": Sick,
    "sick-r-all": SickAll,
}
GROUPS: Groups = {"similarity": (*STS, "sts-b", "sick-r")}
