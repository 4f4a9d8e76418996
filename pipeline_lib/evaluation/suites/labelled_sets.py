"""Labelled sets in SentEval's layouts: texts or pairs of texts with a class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.official_files import find_file, read_columns, read_lines
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
    """

    name: str
    files: dict[str, tuple[str, ...]]
    read: Reader
    places: tuple[str, ...] = PLACES
    source: str = SENTEVAL
    pairs: bool = False
    classes: tuple[str, ...] = ()

    def paths(self, data: Path, split: str) -> tuple[Path, ...]:
        """The files of one split.

        Raises:
            MissingData: what is missing, and where to get it.
        """
        return tuple(find_file(data, self.places, name, self.source) for name in self.files[split])

    def examples(self, data: Path, split: str) -> list[Example]:
        """The examples of one split, in the order of its files.

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


def given_set(folder: str) -> LabelledSet:
    """Any labelled set: `FOLDER/{train,dev,test}.tsv` with `text<TAB>label` lines."""
    files = split_files(f"{folder}/train.tsv", f"{folder}/test.tsv", f"{folder}/dev.tsv")
    source = "your own set: text<TAB>label lines"
    return LabelledSet(folder, files, read_sentence_and_label, ("labelled", ""), source)
