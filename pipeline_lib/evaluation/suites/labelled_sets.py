"""Labelled sets in SentEval's layouts: texts or pairs of texts with a class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.official_files import MissingData, find_file, read_columns, read_json_lines, read_lines
from pipeline_lib.evaluation.suites.similarity import PLACES, SENTEVAL


class Example(NamedTuple):
    """A text, or two, and the class."""

    id: str
    label: str
    text: str
    second: str = ""


Reader = Callable[[Path], Iterator[Example]]
POOL = "pool"  # the whole of a set without splits


@dataclass(frozen=True)
class LabelledSet:
    """Places of a set's files, and how one reads them.

    Attributes:
        files: split to its files; `POOL` alone where the set has no split, which is then cross-validated.
        pairs: whether an example is two texts.
        classes: the set's own; empty: any.
        max_train: most training examples, the same ones every time: the features of all would not fit into memory.
    """

    name: str
    files: dict[str, tuple[str, ...]]
    read: Reader
    places: tuple[str, ...] = PLACES
    source: str = SENTEVAL
    pairs: bool = False
    classes: tuple[str, ...] = ()
    max_train: int | None = None

    def paths(self, data: Path, split: str) -> tuple[Path, ...]:
        """The files of one split.

        Raises:
            MissingData: what is missing, and where to get it.
        """
        return tuple(find_file(data, self.places, name, self.source) for name in self.files[split])

    def examples(self, data: Path, split: str, left_out: dict[str, int] | None = None) -> list[Example]:
        """The examples of one split, in the order of its files.

        Args:
            left_out: told how many rows of the split are no examples, by reason.

        Raises:
            UserError: a file holds none, or one of no class of the set.
        """
        return [example for path in self.paths(data, split) for example in self._of_file(path)]

    def _of_file(self, path: Path) -> list[Example]:
        found = list(self.read(path))
        if not found:
            raise UserError(f"{self.name}: {path} holds no example; get it from {self.source}")
        for example in found:
            if not example.label or (self.classes and example.label not in self.classes):
                expected = f"one of {', '.join(self.classes)}" if self.classes else "a label"
                raise UserError(
                    f"{path}: {example.id} is labelled {example.label!r}, expected {expected}; get it from {self.source}"
                )
        return found


def read_one_class(path: Path) -> Iterator[Example]:
    """A file of one class's sentences; the class is the file's ending, as in rt-polarity.pos."""
    name = path.name.removesuffix(".gz")
    for number, line in enumerate(read_lines(path, "latin-1"), 1):
        if line.strip():
            yield Example(f"{name}-{number}", name.rsplit(".", 1)[-1], _spaced(line))


def read_sentence_and_label(path: Path) -> Iterator[Example]:
    """`sentence<TAB>label` lines (SST-2); an editor may have put a byte order mark before a set of one's own."""
    name = path.name.removesuffix(".gz")
    for number, columns in enumerate(read_columns(path, 2, "utf-8-sig"), 1):
        yield Example(f"{name}-{number}", columns[1].strip(), _spaced(columns[0]))


def read_trec(path: Path) -> Iterator[Example]:
    """`COARSE:fine question` lines; the class is the coarse one."""
    name = path.name.removesuffix(".gz")
    for number, line in enumerate(read_lines(path, "latin-1"), 1):
        coarse, colon, rest = line.strip().partition(":")
        if not line.strip():
            continue
        _, space, question = rest.partition(" ")
        if not (colon and space):
            raise UserError(f"{path}, line {number}: {line[:60]!r} is not `COARSE:fine question`; get the file again")
        yield Example(f"{name}-{number}", coarse, _spaced(question))


def read_paraphrases(path: Path) -> Iterator[Example]:
    """MRPC: a header, then quality, two ids and two sentences, without quoting."""
    rows = read_columns(path, 5, "utf-8-sig")
    header = next(rows, [])
    if header[:1] != ["Quality"]:
        raise UserError(f"{path}: its header is {header}, expected that of MRPC; get the file again")
    name = path.name.removesuffix(".gz")
    for number, row in enumerate(rows, 1):
        yield Example(f"{name}-{number}", row[0], row[3], row[4])


def _spaced(text: str) -> str:
    return " ".join(text.split())


def split_files(train: str, test: str, validation: str = "") -> dict[str, tuple[str, ...]]:
    """Split to its file, where there is one."""
    files = {"train": (train,), "validation": (validation,), "test": (test,)}
    return {split: names for split, names in files.items() if names[0]}


def _pool(*names: str) -> dict[str, tuple[str, ...]]:
    return {POOL: names}


SST2 = LabelledSet(
    "sst2",
    split_files(
        "SST/binary/sentiment-train",
        "SST/binary/sentiment-test",
        "SST/binary/sentiment-dev",
    ),
    read_sentence_and_label,
    classes=("0", "1"),
)

NLI_LABELS = ("entailment", "neutral", "contradiction")
NLI_PLACES = (*(f"{place}/SNLI".lstrip("/") for place in PLACES), "nli/snli", "snli_1.0", "snli", "SNLI", "")
NLI_SOURCE = "nlp.stanford.edu/projects/snli/snli_1.0.zip, or SentEval's get_transfer_data.bash"
NO_LABEL = "pairs_without_label"


class Snli(LabelledSet):
    """SNLI in SentEval's three parallel files (s1, s2, labels), or as JSON Lines: `sentence1`, `sentence2`, `gold_label`.

    Pairs on which its people did not agree (label `-`) are left out and counted, as is usual.
    """

    def paths(self, data: Path, split: str) -> tuple[Path, ...]:
        """SentEval's three files where they are there, else the one file.

        Raises:
            MissingData: what is missing, and where to get it.
        """
        part = {"validation": "dev"}.get(split, split)
        try:
            return tuple(find_file(data, NLI_PLACES, f"{name}.{part}", NLI_SOURCE) for name in ("s1", "s2", "labels"))
        except MissingData:
            names = [f"snli_1.0_{part}.jsonl", f"{part}.jsonl"]
            return (find_file(data, NLI_PLACES, names, NLI_SOURCE),)

    def examples(self, data: Path, split: str, left_out: dict[str, int] | None = None) -> list[Example]:
        """The pairs with a label, in the order of the files.

        Raises:
            UserError: the files are not of one length, or hold no pair.
        """
        paths = self.paths(data, split)
        found: list[Example] = []
        rows = 0
        for rows, (first, second, label) in enumerate(_parallel(paths) if len(paths) > 1 else _nli_records(paths[0]), 1):
            if label in NLI_LABELS and first and second:
                found.append(Example(f"snli-{split}-{rows}", label, first, second))
        if not found:
            raise UserError(f"{self.name}: {paths[0]} holds no pair with a label; get it from {self.source}")
        if left_out is not None:
            left_out[f"{split}_{NO_LABEL}"] = rows - len(found)
        return found


def _parallel(paths: tuple[Path, ...]) -> Iterator[tuple[str, str, str]]:
    for number, lines in enumerate(zip_longest(*(read_lines(path) for path in paths)), 1):
        if None in lines:
            short = next(path for path, line in zip(paths, lines, strict=True) if line is None)
            raise UserError(f"{short}: ends before line {number}, which the files beside it have; get them again")
        first, second, label = lines
        yield _spaced(first), _spaced(second), label.strip()


_CODES = {"0": "entailment", "1": "neutral", "2": "contradiction", "e": "entailment", "n": "neutral", "c": "contradiction"}


def _nli_records(path: Path) -> Iterator[tuple[str, str, str]]:
    for record in read_json_lines(path, ()):
        first, second, label = (
            str(next((record[name] for name in names if record.get(name) is not None), ""))
            for names in (("sentence1", "premise"), ("sentence2", "hypothesis"), ("gold_label", "label"))
        )
        yield _spaced(first), _spaced(second), _CODES.get(label, label)


SNLI = Snli(
    "snli", {"train": (), "validation": (), "test": ()}, read_paraphrases, source=NLI_SOURCE, pairs=True, max_train=30_000
)

SENTEVAL_SETS = (
    LabelledSet("mr", _pool("MR/rt-polarity.pos", "MR/rt-polarity.neg"), read_one_class),
    LabelledSet("cr", _pool("CR/custrev.pos", "CR/custrev.neg"), read_one_class),
    LabelledSet("subj", _pool("SUBJ/subj.objective", "SUBJ/subj.subjective"), read_one_class),
    LabelledSet("mpqa", _pool("MPQA/mpqa.pos", "MPQA/mpqa.neg"), read_one_class),
    SST2,
    LabelledSet(
        "trec",
        split_files("TREC/train_5500.label", "TREC/TREC_10.label"),
        read_trec,
        classes=("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"),
    ),
    LabelledSet(
        "mrpc",
        split_files("MRPC/msr_paraphrase_train.txt", "MRPC/msr_paraphrase_test.txt"),
        read_paraphrases,
        pairs=True,
        classes=("0", "1"),
    ),
)
PROBED = (*SENTEVAL_SETS, SNLI)  # SNLI is none of the paper's seven


def given_set(folder: str) -> LabelledSet:
    """Any labelled set: `FOLDER/{train,dev,test}.tsv` with `text<TAB>label` lines."""
    files = split_files(f"{folder}/train.tsv", f"{folder}/test.tsv", f"{folder}/dev.tsv")
    source = "your own set: text<TAB>label lines"
    return LabelledSet(folder, files, read_sentence_and_label, ("labelled", ""), source)
