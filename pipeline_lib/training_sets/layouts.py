"""Layouts of training sets: which files one consists of, and the items that their lines hold.

BEIR: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv. MS MARCO: collection.tsv, queries.SPLIT.tsv, qrels.SPLIT.tsv and, where
they are there, triples of ids (qidpidtriples.SPLIT*.tsv). Each may be compressed.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pipeline_lib.config.finetuning import TrainingSetConfig
from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.errors import UserError
from pipeline_lib.sources.decompress import Unreadable, check_stream, open_expanded
from pipeline_lib.sources.safe_open import Refusal, bounded_lines
from pipeline_lib.training_sets.records import (
    NLI,
    Bad,
    CorpusText,
    Dropped,
    Example,
    Item,
    Judgement,
    cells_of,
    check_text,
    faults_of,
    items_of,
    joined,
    look_at,
    places_of,
    refusal,
)

LINE_PER_TEXT = 64  # a line may hold many passages, and their escapes
RECORDS, TABLES = (".jsonl", ".json"), (".tsv", ".txt", ".csv")
KNOWN = (
    "JSON Lines of SNLI, MultiNLI, ANLI, triplets, Tevatron and FlagEmbedding; SNLI and MultiNLI as .txt; lines of query,"
    " positive and, if any, hard negatives as texts parted by tabs, without a header; folders of BEIR and MS MARCO"
)
ENDINGS = ("", ".gz", ".bz2", ".xz", ".zst")

LineReader = Callable[[bytes, TrainingSetConfig], Iterator[Item]]


@dataclass(frozen=True)
class SetFile:
    """A file of a training set, and what its lines are."""

    path: Path
    read_line: LineReader
    part: Literal["train", "corpus"] = "train"
    has_header: bool = False  # whether its first line is none of them


def find_files(config: TrainingSetConfig) -> list[SetFile]:
    """The files of a training set, in the order in which they are read.

    Raises:
        UserError: there is no such file or folder, or it is not surely in one of the known layouts.
    """
    place = place_of(config)
    layout = _guess(place) if config.layout == "auto" else config.layout
    if layout == "beir":
        return _beir_files(place, config)
    if layout == "msmarco":
        return _msmarco_files(place, config)
    endings = RECORDS if layout == "records" else TABLES
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if _kind(path) in endings)
    if not files:
        raise UserError(f"{place}: no file of {', '.join(endings)}; expected a training set in the layout {layout!r}")
    return [SetFile(path, read_record) for path in files] if layout == "records" else _tables(files, config)


def place_of(config: TrainingSetConfig) -> Path:
    """The file or folder itself, where a link was given; links inside of it are not followed."""
    return Path(config.path).expanduser().resolve()


def read_items(file: SetFile, config: TrainingSetConfig) -> Iterator[tuple[int, Item]]:
    """(line, item) of every line of a file; what is wrong with the whole file is an item of line 0."""
    limits = ReadLimits(max_text_bytes=config.max_text_bytes)
    refusal = check_stream(str(file.path), limits)
    if refusal is not None:
        yield 0, Bad(refusal.reason, refusal.detail)
        return
    try:
        with open_expanded(str(file.path), limits) as stream:
            lines = bounded_lines(io.BufferedReader(stream), config.max_text_bytes * LINE_PER_TEXT)
            for number, line in enumerate(lines, 1):
                if number == 1 and file.has_header:
                    continue
                if isinstance(line, Refusal):
                    yield number, Bad("line_too_large", line.detail)
                elif line.strip():
                    yield from ((number, item) for item in file.read_line(line, config))
    except Unreadable as error:
        yield 0, Bad(error.refusal.reason, error.refusal.detail)


def _tables(files: Sequence[Path], config: TrainingSetConfig) -> list[SetFile]:
    """Tables, each with what its columns are: those that the user named, SNLI's by their names, else texts alone."""
    tables = [look_at(path, config.max_text_bytes * LINE_PER_TEXT) for path in files]
    found, unknown = list[SetFile](), []
    for table in tables:
        if config.columns:
            places, has_header = places_of(config.columns, table)
            found.append(SetFile(table.path, partial(read_cells, table.delimiter, places), has_header=has_header))
        elif table.rows and set(table.rows[0]) >= NLI:
            found.append(SetFile(table.path, partial(read_statement, table.rows[0]), has_header=True))
        elif faults := faults_of(table):
            unknown.append((table, faults))
        else:
            found.append(SetFile(table.path, read_triple))
    if unknown:
        raise refusal(unknown, KNOWN)
    return found


def _guess(place: Path) -> str:
    if _find(place, "corpus.jsonl"):
        return "beir"
    if _find(place, "collection.tsv"):
        return "msmarco"
    if not place.exists():
        raise UserError(f"{place}: no such file or folder; expected a training set")
    names = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    return "records" if any(_kind(path) in RECORDS for path in names) else "triples"


def _kind(path: Path) -> str:
    suffixes = [suffix for suffix in path.suffixes if suffix not in ENDINGS]
    return suffixes[-1] if suffixes and path.is_file() else ""


def _find(folder: Path, name: str) -> Path | None:
    return next((path for ending in ENDINGS if (path := folder / (name + ending)).is_file()), None)


def _needed(folder: Path, *names: str) -> Path:
    for name in names:
        if (path := _find(folder, name)) is not None:
            return path
    raise UserError(f"{folder}: no {' or '.join(names)} (or compressed); a retrieval set needs it")


def _beir_files(folder: Path, config: TrainingSetConfig) -> list[SetFile]:
    return [
        SetFile(_needed(folder, "corpus.jsonl"), partial(read_beir_text, "passage"), "corpus"),
        SetFile(_needed(folder, "queries.jsonl"), partial(read_beir_text, "query"), "corpus"),
        SetFile(_needed(folder, f"qrels/{config.split}.tsv"), read_judgement),
    ]


def _msmarco_files(folder: Path, config: TrainingSetConfig) -> list[SetFile]:
    split = config.split
    triples = sorted(path for path in folder.glob(f"qidpidtriples.{split}*") if _kind(path) == ".tsv")
    qrels = [_needed(folder, f"qrels.{split}.tsv", f"qrels.{split}.small.tsv")] if not triples else []
    return [
        SetFile(_needed(folder, "collection.tsv"), partial(read_tab_text, "passage"), "corpus"),
        SetFile(_needed(folder, f"queries.{split}.tsv"), partial(read_tab_text, "query"), "corpus"),
        *(SetFile(path, read_judgement) for path in qrels),
        *(SetFile(path, read_id_triple) for path in triples),
    ]


def read_record(line: bytes, config: TrainingSetConfig) -> Iterator[Item]:
    """A line of JSON in one of the layouts of records.py."""
    record = _json(line)
    return iter([record]) if isinstance(record, Bad) else items_of(record, config.max_text_bytes)


def read_triple(line: bytes, config: TrainingSetConfig) -> Iterator[Item]:
    """query, positive and negatives as texts, parted by tabs."""
    fields = _fields(line, 2)
    if isinstance(fields, Bad):
        yield fields
        return
    bad = next((bad for field in fields if (bad := check_text(field, config.max_text_bytes))), None)
    yield bad or Example(fields[0], fields[1], fields[2:])


def read_cells(delimiter: str, places: Sequence[int], line: bytes, config: TrainingSetConfig) -> Iterator[Item]:
    """The cells of a row in the order query, positive, negatives; a cell without a text is no negative."""
    try:
        cells = cells_of(line.decode("utf-8-sig"), delimiter)
    except (UnicodeDecodeError, csv.Error) as error:
        yield Bad("no_row", ascii(str(error))[:200])
        return
    if len(cells) <= max(places):
        yield Bad("too_few_fields", f"{len(cells)}, expected {max(places) + 1}: {ascii(cells)[:80]}")
        return
    x, y, *negatives = [cells[place] for place in places]
    texts = [x, y, *filter(str.strip, negatives)]
    bad = next((bad for text in texts if (bad := check_text(text, config.max_text_bytes))), None)
    yield bad or Example(x, y, texts[2:])


def read_statement(names: Sequence[str], line: bytes, config: TrainingSetConfig) -> Iterator[Item]:
    """A row of SNLI or MultiNLI as .txt, whose first row names the columns."""
    fields = _fields(line, len(NLI))
    if isinstance(fields, Bad):
        yield fields
    elif len(fields) < len(names) and not set(names[: len(fields)]) >= NLI:
        yield Bad("too_few_fields", f"{len(fields)}, expected {len(names)}: {ascii(fields)[:80]}")
    else:
        yield from items_of(dict(zip(names, fields, strict=False)), config.max_text_bytes)


def read_beir_text(side: str, line: bytes, config: TrainingSetConfig) -> Iterator[Item]:
    """{"_id", "title", "text"}."""
    record = _json(line)
    if isinstance(record, Bad):
        yield record
    elif not isinstance(record, dict) or not isinstance(record.get("_id"), str):
        yield Bad("no_id", f"expected an object with `_id`, got {ascii(record)[:80]}")
    else:
        text = joined(record.get("title"), record.get("text"))
        yield check_text(text, config.max_text_bytes) or CorpusText(side, record["_id"], text)


def read_tab_text(side: str, line: bytes, config: TrainingSetConfig) -> Iterator[Item]:
    """id, tab, text."""
    fields = _fields(line, 2)
    if isinstance(fields, Bad):
        yield fields
    else:
        text = " ".join(fields[1:])
        yield check_text(text, config.max_text_bytes) or CorpusText(side, fields[0], text)


def read_judgement(line: bytes, config: TrainingSetConfig) -> Iterator[Item]:
    """query-id, corpus-id, score (BEIR, with a header) or qid, 0, pid, relevance (TREC, MS MARCO)."""
    fields = _fields(line, 3)
    if isinstance(fields, Bad):
        yield fields
    elif fields[0] == "query-id":
        return
    elif not fields[-1].lstrip("-").isdecimal() or len(fields[-1]) > 9:
        yield Bad("no_grade", f"expected a number last, got {ascii(fields)[:120]}")
    elif int(fields[-1]) < config.min_relevance:
        yield Dropped("below_min_relevance")
    else:
        yield Judgement(fields[0], fields[-2], True)


def read_id_triple(line: bytes, _: TrainingSetConfig) -> Iterator[Item]:
    """qid, pid of a relevant passage, pid of one that is not."""
    fields = _fields(line, 3)
    if isinstance(fields, Bad):
        yield fields
    else:
        yield Judgement(fields[0], fields[1], True)
        yield Judgement(fields[0], fields[2], False)


def _fields(line: bytes, least: int) -> list[str] | Bad:
    try:
        fields = line.decode().removeprefix("\ufeff").rstrip("\r\n").split("\t")
    except UnicodeDecodeError as error:
        return Bad("not_utf8", f"{error.reason} at byte {error.start}")
    if len(fields) == 1 and least > 2:  # TREC's judgements are parted by spaces
        fields = fields[0].split()
    return fields if len(fields) >= least else Bad("too_few_fields", f"{len(fields)}, expected {least}: {ascii(fields)[:80]}")


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return Bad("not_json", ascii(str(error))[:200])
