"""Items of training sets (examples, statements, texts, judgements), read from JSON records or from the columns of a table.

A record is known by its fields:

{"sentence1", "sentence2", "gold_label", ...}                 SNLI, MultiNLI (official)
{"premise" or "context", "hypothesis", "label"}               ANLI (official: e, n, c), and the simple layout
{"anchor" or "query", "positive", "negative" ...}             triplets; any number of fields negative, negative_1, ...
{"query", "pos": [...], "neg": [...]}                         FlagEmbedding
{"query", "positive_passages": [{title, text}], "negative_passages": [...]}    Tevatron

A table is known by what its first rows hold in each column: only columns of texts can be trained on.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.errors import UserError
from pipeline_lib.sources.decompress import Unreadable, open_expanded
from pipeline_lib.sources.safe_open import bounded_lines

Label = Literal["entailment", "neutral", "contradiction"]


class Example(NamedTuple):
    """A pair that names its own hard negatives."""

    x: str
    y: str
    negatives: list[str]


class Statement(NamedTuple):
    """One labelled hypothesis of a premise (natural language inference)."""

    premise: str
    hypothesis: str
    label: Label


class CorpusText(NamedTuple):
    """A query or a passage by its id; `side` is "query" or "passage"."""

    side: str
    id: str
    text: str


class Judgement(NamedTuple):
    """Judgement of a passage for a query, by their ids."""

    query: str
    passage: str
    relevant: bool


class Dropped(NamedTuple):
    """A well-formed item that training has no use for, by the word that it is counted under."""

    reason: str


class Bad(NamedTuple):
    """An item that could not be read: a word to count by, and what was got."""

    reason: str
    detail: str


Item = Example | Statement | CorpusText | Judgement | Dropped | Bad

_PLACE = [("file", pa.int32()), ("line", pa.int64())]  # which file of the set, and which line of it, from 1
SCHEMAS: dict[type, pa.Schema] = {
    Example: pa.schema(
        [("x", pa.large_string()), ("y", pa.large_string()), ("negatives", pa.list_(pa.large_string())), *_PLACE]
    ),
    Statement: pa.schema([("premise", pa.large_string()), ("hypothesis", pa.large_string()), ("label", pa.string()), *_PLACE]),
    CorpusText: pa.schema([("side", pa.string()), ("id", pa.string()), ("text", pa.large_string()), *_PLACE]),
    Judgement: pa.schema([("query", pa.string()), ("passage", pa.string()), ("relevant", pa.bool_()), *_PLACE]),
}


def check_text(value: object, max_bytes: int) -> Bad | None:
    """The fault of a value that is no text to train on; None where it is one."""
    if not isinstance(value, str) or not value.strip():
        return Bad("no_text", f"expected a text with letters, got {ascii(value)[:80]}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        return Bad("not_unicode", ascii(value)[:80])
    if size > max_bytes:
        return Bad("text_too_large", f"{size} bytes, at most {max_bytes}")
    return Bad("nul_byte", ascii(value)[:80]) if "\0" in value else None


LABELS: dict[Any, Label] = {
    **dict.fromkeys(("entailment", "e", 0), "entailment"),
    **dict.fromkeys(("neutral", "n", 1), "neutral"),
    **dict.fromkeys(("contradiction", "c", 2), "contradiction"),
}
NO_LABEL = ("-", "", -1)  # the annotators did not agree
NEGATIVE = re.compile(r"negatives?(_\d+)?$")


def items_of(record: object, max_bytes: int) -> Iterator[Item]:
    """The statement or the examples of one record; one `Bad` where it is none."""
    try:
        for item in _read(record):
            yield _checked(item, max_bytes)
    except (TypeError, KeyError, AttributeError) as error:  # a field of another type than its layout's
        yield Bad("malformed_record", ascii(f"{type(error).__name__}: {error}")[:200])


def _read(record: object) -> Iterator[Item]:
    if not isinstance(record, dict):
        yield Bad("not_a_record", f"expected an object, got {type(record).__name__}")
    elif "gold_label" in record:
        yield _statement(record["sentence1"], record["sentence2"], record["gold_label"])
    elif "hypothesis" in record:
        premise = record["premise"] if "premise" in record else record["context"]
        yield _statement(premise, record["hypothesis"], record["label"])
    elif "positive_passages" in record:
        negatives = [_passage(passage) for passage in record.get("negative_passages") or []]
        for passage in record["positive_passages"]:
            yield Example(record["query"], _passage(passage), negatives)
    elif "pos" in record:
        for positive in record["pos"]:
            yield Example(record["query"], positive, list(record.get("neg") or []))
    elif "positive" in record:
        yield _triplet(record)
    else:
        yield Bad("unknown_layout", f"fields {ascii(sorted(map(str, record)))[:200]}")


def _statement(premise: Any, hypothesis: Any, label: Any) -> Item:
    if label in NO_LABEL:
        return Dropped("no_gold_label")
    if isinstance(label, bool | float) or label not in LABELS:  # 0.0 is a score
        return Bad("unknown_label", f"got {ascii(label)[:80]}, expected entailment, neutral or contradiction")
    return Statement(premise, hypothesis, LABELS[label])


def _triplet(record: dict[str, Any]) -> Example:
    negatives: list[str] = []
    for name in sorted(filter(NEGATIVE.match, record), key=lambda name: (len(name), name)):
        value = record[name]
        negatives += value if isinstance(value, list) else [] if value is None else [value]
    anchor = record["anchor"] if "anchor" in record else record["query"]
    return Example(anchor, record["positive"], negatives)


def _passage(passage: Any) -> str:
    return passage if isinstance(passage, str) else joined(passage.get("title"), passage["text"])


def joined(title: object, text: Any) -> Any:
    """A passage as the retrieval benchmarks embed it: its title, where there is one, before its text."""
    return f"{title} {text}" if isinstance(title, str) and title.strip() and isinstance(text, str) else text


def _checked(item: Item, max_bytes: int) -> Item:
    texts: list[object] = []
    if isinstance(item, Example):
        texts = [item.x, item.y, *item.negatives]
    elif isinstance(item, Statement):
        texts = [item.premise, item.hypothesis]
    return next((bad for text in texts if (bad := check_text(text, max_bytes)) is not None), item)


SAMPLE_ROWS = 1_000
MOST = 0.5  # of a column's cells: numbers, labels and gaps in fewer are single texts of that kind
NEARLY_ALL = 0.9
LABEL_ROWS, ROWS_PER_LABEL = 20, 5  # a column of single words is one of labels where each comes so often
SHOWN = 60  # characters of a cell in a message
NLI = frozenset({"gold_label", "sentence1", "sentence2"})  # SNLI and MultiNLI as .txt

_NUMBER = re.compile(r"[-+]?(\d[\d.,_]*|\.\d+)([eE][-+]?\d+)?%?")
_ID = re.compile(r"(?=.*[0-9_/])[!-~]+")
_LABELS = frozenset("entailment neutral contradiction not_entailment yes no true false positive negative".split())  # noqa: SIM905
_NAME = re.compile(r"[A-Za-z][\w.-]{0,40}")
# fmt: off
_HEADER_WORDS = frozenset((
    "id", "qid", "pid", "docid", "index", "idx", "query", "queries", "question", "answer", "anchor", "positive", "pos",
    "negative", "neg", "hard", "relevant", "irrelevant", "sentence", "text", "passage", "document", "doc", "title", "premise",
    "hypothesis", "label", "gold", "score", "similarity", "relatedness", "judgment", "split", "source", "target", "lang",
    "language", "genre", "filename", "year", "pair", "context", "response", "input", "output",
))
# fmt: on


class Table(NamedTuple):
    """The first rows of a table, and how its rows are cut into cells."""

    path: Path
    delimiter: str
    rows: list[list[str]]
    is_broken: bool = False  # it ended where it cannot be decompressed

    @property
    def header(self) -> list[str]:
        """The names of the columns; empty where the first row is one like the others."""
        return self.rows[0] if self.rows and is_header(self.rows[0], self.rows[1:]) else []


def look_at(path: Path, max_line_bytes: int) -> Table:
    """The first rows of a file; none where it cannot be decompressed or is no text.

    Cells are parted by tabs, or in a .csv file without any by commas.
    """
    lines: list[str] = []
    is_broken = False
    try:
        with open_expanded(str(path), ReadLimits()) as stream:
            for line in islice(bounded_lines(io.BufferedReader(stream), max_line_bytes), SAMPLE_ROWS):
                if isinstance(line, bytes) and line.strip():
                    lines.append(line.decode("utf-8-sig" if not lines else "utf-8"))
    except Unreadable:
        is_broken = True  # reading it says what is wrong
    except UnicodeDecodeError:
        pass  # the rows before it tell what it is
    delimiter = "," if ".csv" in path.suffixes and lines and "\t" not in lines[0] else "\t"
    return Table(path, delimiter, [cells_of(line, delimiter) for line in lines], is_broken)


def cells_of(line: str, delimiter: str) -> list[str]:
    """The cells of one row; commas may stand in quotes, tabs may not."""
    line = line.rstrip("\r\n")
    if delimiter == "\t":
        return line.split("\t")
    return next(csv.reader([line]), [])


def is_header(row: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
    """True if a row names columns: by the words of its cells, or by single words above a column of sentences or numbers."""
    cells = [cell.strip() for cell in row]
    if all(cells) and all(_header_words(cell) <= _HEADER_WORDS for cell in cells):
        return True
    if not all(_NAME.fullmatch(cell) for cell in cells):
        return False
    below = [[other[at].strip() for other in rest if len(other) > at] for at in range(len(cells))]
    return any(_share([" " in cell or bool(_NUMBER.fullmatch(cell)) for cell in column]) > NEARLY_ALL for column in below)


def faults_of(table: Table) -> list[str]:
    """Reasons why the columns of a table are not surely query, positive and hard negatives; empty where they are."""
    if not table.rows:
        return [] if table.is_broken else ["it holds no row of text"]
    if table.delimiter == ",":
        return ["its columns are parted by commas"]
    faults = [f"its first row is a header ({_shown(', '.join(table.header))})"] if table.header else []
    body = table.rows[1:] if table.header else table.rows
    columns = [[row[at].strip() for row in body if len(row) > at] for at in range(max(map(len, table.rows)))]
    columns = [column for column in columns if len(column) > MOST * len(body)]
    if body and len(columns) < 2:
        faults.append("it has no two columns parted by tabs")
    for number, column in enumerate(columns, 1):
        kind = kind_of(column)
        if kind:
            faults.append(
                f"column {number} holds {kind}" + (f" ({_shown(next(filter(None, reversed(column))))})" if any(column) else "")
            )
        equal = (at for at in range(number - 1) if _share([a == b for a, b in zip(columns[at], column, strict=False)]) > MOST)
        if not kind and (at := next(equal, None)) is not None:
            faults.append(f"column {number} repeats column {at + 1}")
    return faults


def kind_of(cells: Sequence[str]) -> str:
    """Kind of a column that holds no text: nothing, numbers, ids or labels; empty for texts."""
    filled = [cell for cell in cells if cell]
    if len(filled) < len(cells) * MOST or not filled:
        return "nothing in most rows"
    if _share([bool(_NUMBER.fullmatch(cell)) for cell in filled]) > MOST:
        return "numbers"
    if _share([cell.lower() in _LABELS for cell in filled]) > MOST:
        return "labels"
    if _share([bool(_ID.fullmatch(cell)) for cell in filled]) > NEARLY_ALL:
        return "ids"
    words = Counter(filled)
    are_few = len(filled) >= LABEL_ROWS and len(words) * ROWS_PER_LABEL <= len(filled)
    return "labels" if are_few and not any(" " in word for word in words) and max(map(len, words)) <= SHOWN else ""


def places_of(names: str, table: Table) -> tuple[list[int], bool]:
    """The places, from 0, of the columns that a user named, and whether the table has a row of names to be left out.

    Raises:
        UserError: a column is not there, or fewer than two are named.
    """
    wanted = [name.strip() for name in names.split(",")]
    first = table.rows[0] if table.rows else []
    if all(name.isdecimal() for name in wanted):
        places, by_name = [int(name) - 1 for name in wanted], bool(table.header)
    else:
        header = [cell.strip() for cell in first]
        places, by_name = [header.index(name) if name in header else -1 for name in wanted], True
    absent = [name for name, place in zip(wanted, places, strict=True) if not 0 <= place < len(first)]
    if absent or len(places) < 2:
        what = f"no column {absent[0]!r}" if absent else f"one column, {names!r}"
        raise UserError(
            f"{table.path}: {what}; expected the columns of query and positive, and of hard negatives if there are any, as"
            f" names or numbers; its first row has {len(first)}: {_shown(', '.join(first))}"
        )
    return places, by_name


def refusal(tables: Sequence[tuple[Table, list[str]]], known: str) -> UserError:
    """The error that says of some files why nobody knows what they hold, and what to do."""
    told = [f"{table.path}: {_width(table)}; {'; '.join(faults)}" for table, faults in tables[:3]]
    more = f" (and {len(tables) - 3} more files)" if len(tables) > 3 else ""
    first = tables[0][0]
    row = f"; first row: {_shown(' | '.join(first.rows[0]), 2 * SHOWN)}" if first.rows else ""
    return UserError(
        f"{' // '.join(told)}{more}{row}; this is no layout of a training set that is known for sure. Known are {known}"
        " (docs/how-to/fine-tuning.md). Convert it, or say which columns hold query, positive and hard negatives:"
        " --columns 2,3 or --columns NAME,NAME"
    )


def _width(table: Table) -> str:
    width = max(map(len, table.rows), default=0)
    return "1 column" if width == 1 else f"{width} columns"


def _header_words(cell: str) -> set[str]:
    """The words of a column's name: sentence_A, relevantPassage, negative 2."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z0-9])", " ", cell)
    return {word.lower() for word in re.split(r"[\s_.-]+", spaced) if word and not word.isdecimal()} or {"?"}


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0


def _shown(text: str, characters: int = SHOWN) -> str:
    return ascii(text if len(text) <= characters else text[:characters] + " ...")
