"""Decontamination: pairs that hold a text of an evaluation suite, and the stage "contamination" that prepares those texts.

A pair is contaminated by an evaluation text of 13 words or more (`ngram_words`) when both share 13 words in a row; by one of
kind `code` when it holds at least half (`code_share`) of its 13-grams, an exact copy being all of them; by a shorter text
when its x, its y or the two together are that text. Words are compared without case, spacing and punctuation; in scripts
without spaces 20 characters of Chinese or Japanese, and 39 of the others, stand for 13 words. y is read on from x, so that a
text that was cut between the two is found.

What is held in memory is the evaluation side: some 20 bytes a gram. Every pair is judged alone, and before deduplication:
no clean pair goes with a contaminated one that it resembles, and the count by suite is that of the dump.

Stage "contamination" hashes the word n-grams of those texts. Whoever evaluates writes the texts out; curation reads hashes and
knows no suite. A folder holds files of records:

    {"suite": "scifact", "id": "q-17", "text": "..."}             a .jsonl or .jsonl.gz line, or a row of a .parquet
    {"suite": "codesearchnet", "id": "7", "text": "...", "kind": "code"}

`id` and `kind` may be missing. One part a file: `texts.parquet` (suite, id, how many grams a pair needs to hold) and
`grams.parquet` (gram, the text's row number).

Legend: R rows of a batch, G grams of them, M distinct grams of all evaluation texts, H places where a row holds one.
"""

from __future__ import annotations

import gzip
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.config.base import StageConfig
from pipeline_lib.config.data import ContaminationConfig
from pipeline_lib.curation.dedup import Curation
from pipeline_lib.curation.shingles import grams, hash_words, shingle_sets
from pipeline_lib.errors import UserError
from pipeline_lib.languages.scripts import is_spaced, tokens
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import sha256_file
from pipeline_lib.store.records import Counts, Outcome, Part, Stage, draft_part, sum_counts
from pipeline_lib.store.store import Store

REASON = "contaminated"
BATCH_ROWS = 1_000
SAMPLES_A_SUITE = 3

Facts = dict[str, dict[str, Any]]


def decontaminate(curation: Curation, contamination: Artifact) -> Facts:
    """Drop the rows that hold an evaluation text, as `contaminated`.

    Args:
        curation: the table of keys.
        contamination: of the stage "contamination".

    Returns:
        By suite: its texts; how many of them were found; how many pairs went; samples, of the lowest pair ids.
    """
    texts = EvaluationTexts(contamination)
    findings = {suite: Findings() for suite in sorted(set(texts.suites))}
    gone: list[pa.Array] = []
    query = "SELECT id, path, x, y FROM read_parquet($paths)"
    for batch in curation.connection.sql(query, params={"paths": curation.paths}).to_arrow_reader(BATCH_ROWS):
        rows_H, texts_H = texts.found_in(batch["x"].to_pylist(), batch["y"].to_pylist())
        gone.append(batch["id"].take(pa.array(np.unique(rows_H))))
        for row, text in zip(rows_H.tolist(), texts_H.tolist(), strict=True):
            findings[texts.suites[text]].add(batch, row, text)
    curation.drop_ids(pa.chunked_array(gone, pa.string()), REASON)
    return {suite: found.facts(suite, texts) for suite, found in findings.items()}


class EvaluationTexts:
    """The texts of a contamination artifact, to be found by their grams."""

    def __init__(self, contamination: Artifact) -> None:
        self.ngram_words = int(contamination.manifest.config["rules"]["ngram_words"])
        tables: list[pa.Table] = []
        grams_, owners = [], []
        for part in contamination.manifest.parts:
            folder = contamination.folder_of(part)
            found = pq.read_table(folder / "grams.parquet")
            grams_.append(found["gram"].to_numpy())
            owners.append(found["text"].to_numpy() + sum(table.num_rows for table in tables))
            tables.append(pq.read_table(folder / "texts.parquet"))
        table = pa.concat_tables(tables)
        self.suites: list[str] = table["suite"].to_pylist()
        self.ids: list[str] = table["id"].to_pylist()
        self.needed = table["needed"].to_numpy()
        every, owner = np.concatenate(grams_), np.concatenate(owners)
        order = np.argsort(every, kind="stable")
        self.owners = owner[order]
        self.grams_M, first_M = np.unique(every[order], return_index=True)
        self.bounds = np.append(first_M, len(order))

    def found_in(self, xs: list[str], ys: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Every (row, evaluation text) where the row holds the text, in rising order."""
        rows_G, hashes_G = self._grams_of(xs, ys)
        at_G = np.searchsorted(self.grams_M, hashes_G)
        hit = np.flatnonzero(self.grams_M[np.minimum(at_G, len(self.grams_M) - 1)] == hashes_G)
        held = np.unique(np.stack([rows_G[hit], at_G[hit]], axis=1), axis=0)
        counts = self.bounds[held[:, 1] + 1] - self.bounds[held[:, 1]]
        rows_H = np.repeat(held[:, 0], counts)
        places = np.arange(len(rows_H)) + np.repeat(self.bounds[held[:, 1]] - np.cumsum(counts) + counts, counts)
        found, shared = np.unique(np.stack([rows_H, self.owners[places]], axis=1), axis=0, return_counts=True)
        found = found[shared >= self.needed[found[:, 1]]]
        return found[:, 0], found[:, 1]

    def _grams_of(self, xs: list[str], ys: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """The row of each gram, and its hash: of x and y as one text, and of either alone where it is shorter than a gram."""
        n = self.ngram_words
        words = hash_words([text for pair in zip(xs, ys, strict=True) for text in pair], weighed=True)
        joined, joined_ends = grams(words._replace(offsets=words.offsets[::2]), n)
        alone, alone_ends = grams(words, n)
        counts = np.diff(alone_ends)
        short = np.repeat(counts == 1, counts)  # one that is just a gram is found twice, and counted once
        rows = [np.repeat(np.arange(len(xs)), np.diff(joined_ends)), np.repeat(np.arange(len(counts)) // 2, counts)[short]]
        return np.concatenate(rows), np.concatenate([joined, alone[short]])

    def shared_words(self, x: str, y: str, text: int) -> str:
        """The first words of a pair that the evaluation text has too."""
        of_text = self.grams_M[np.searchsorted(self.bounds, np.flatnonzero(self.owners == text), side="right") - 1]
        n = self.ngram_words
        for part in (f"{x}\n{y}", x, y):
            hashes, _ = grams(hash_words([part], weighed=True), n)
            at = np.flatnonzero(np.isin(hashes, of_text))
            if at.size:
                shared = tokens(part)[at[0] : at[0] + n]
                return (" " if is_spaced(shared[0]) else "").join(shared)
        raise AssertionError("a contaminated pair shares no gram with its text")


@dataclass
class Findings:
    """What was found of one suite."""

    pairs: set[str] = field(default_factory=set)
    texts: set[int] = field(default_factory=set)
    samples: dict[str, tuple[int, str, str, str]] = field(default_factory=dict)

    def add(self, batch: pa.RecordBatch, row: int, text: int) -> None:
        """Count a pair that holds a text; of the lowest ids keep what a sample needs, with the lowest text."""
        id_ = batch["id"][row].as_py()
        self.pairs.add(id_)
        self.texts.add(text)
        if id_ not in self.samples:
            self.samples[id_] = (text, *(batch[name][row].as_py() for name in ("path", "x", "y")))
        if len(self.samples) > SAMPLES_A_SUITE:
            del self.samples[max(self.samples)]

    def facts(self, suite: str, texts: EvaluationTexts) -> dict[str, Any]:
        """The figures of the suite."""
        samples = [
            {"pair": id_, "path": path, "text": texts.ids[text], "shared": texts.shared_words(x, y, text)}
            for id_, (text, path, x, y) in sorted(self.samples.items())
        ]
        return {
            "texts": texts.suites.count(suite),
            "texts_found": len(self.texts),
            "pairs": len(self.pairs),
            "samples": samples,
        }


STAGE = Stage(name="contamination", version=2)

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
BATCH_TEXTS = 500  # texts hashed at a time

TEXTS = pa.schema([("suite", pa.string()), ("id", pa.string()), ("needed", pa.int32())])
GRAMS = pa.schema([("gram", pa.uint64()), ("text", pa.int32())])


class ContaminationWork(StageConfig):
    """What names the artifact: the rules, and the files by place inside the folder and content."""

    rules: ContaminationConfig
    files: tuple[tuple[str, str], ...]


class DropReason(str):
    """Why a record is no text."""


class EvaluationText(NamedTuple):
    """A text that no pair may hold."""

    suite: str
    id: str
    text: str
    is_code: bool


def hash_evaluations(store: Store, config: ContaminationConfig, progress: Progress = silent) -> Artifact:
    """Hash every text below `config.folder`. Facts: texts by suite.

    Raises:
        UserError: the folder holds no text, or a file cannot be read to its end: what is not read is not looked for.
    """
    folder = Path(config.folder or "").expanduser()
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name.endswith(SUFFIXES))
    if not files:
        raise UserError(f"contamination: {folder} holds no file of {', '.join(SUFFIXES)}; expected one or more of records")
    names = [path.relative_to(folder).as_posix() for path in files]
    work = ContaminationWork(rules=config, files=tuple(zip(names, map(sha256_file, files), strict=True)))

    def make(_: str) -> Outcome:
        parts = []
        for path, (name, sha256) in zip(files, work.files, strict=True):
            parts.append(_hash_file(store, path, name, sha256, config))
            progress(len(parts), len(files), f"{sum_counts(parts).n_out:,} texts")
        suites: Counter[str] = Counter()
        for part in parts:
            suites.update(part.facts["suites"])
        if not suites:
            raise UserError(
                f"contamination: {folder} holds no text; expected records with `suite` and `text`: {sum_counts(parts)}"
            )
        return Outcome(parts=tuple(parts), counts=sum_counts(parts), facts={"suites": dict(sorted(suites.items()))})

    return store.build(STAGE, work, {}, make)


def _hash_file(store: Store, path: Path, name: str, sha256: str, config: ContaminationConfig) -> Part:
    key = store.key(STAGE, config, {"content": sha256, "label": name})
    found = store.find_part(STAGE.name, key)
    if found is not None:
        return found
    dropped: Counter[str] = Counter()
    scratch = store.scratch(STAGE.name)
    try:
        suites = _write_hashes(scratch, path, config, dropped)
    except UserError:
        shutil.rmtree(scratch)
        raise
    rows, drops = sum(suites.values()), {reason: count for reason, count in sorted(dropped.items()) if count}
    counts = Counts(n_in=rows + sum(drops.values()), n_out=rows, dropped=drops)
    draft = draft_part(STAGE, key, name, counts, {"texts.parquet": rows}, {"suites": dict(sorted(suites.items()))})
    return store.commit_part(draft, scratch)


def _write_hashes(folder: Path, path: Path, config: ContaminationConfig, dropped: Counter[str]) -> Counter[str]:
    """Write both tables of one file; returns its texts by suite."""
    suites: Counter[str] = Counter()
    with (
        pq.ParquetWriter(folder / "texts.parquet", TEXTS, compression="zstd") as texts,
        pq.ParquetWriter(folder / "grams.parquet", GRAMS, compression="none") as grams,
    ):
        for batch in _batches(_read_texts(path, config, dropped)):
            sets = shingle_sets([text.text for text in batch], config.ngram_words, weighed=True)
            kept = [(text, held) for text, held in zip(batch, sets, strict=True) if held.size]
            dropped["no_words"] += len(batch) - len(kept)
            if not kept:
                continue
            sizes = [held.size for _, held in kept]
            numbers = np.arange(len(kept), dtype=np.int32) + sum(suites.values())
            grams.write_table(pa.table([np.concatenate([held for _, held in kept]), np.repeat(numbers, sizes)], schema=GRAMS))
            needed = [math.ceil(config.code_share * held.size) if text.is_code else 1 for text, held in kept]
            columns = [[text.suite for text, _ in kept], [text.id for text, _ in kept], needed]
            texts.write_table(pa.table(columns, schema=TEXTS))
            suites.update(text.suite for text, _ in kept)
    return suites


def _read_texts(path: Path, config: ContaminationConfig, dropped: Counter[str]) -> Iterator[EvaluationText]:
    """The records of a file that can be texts; the others are counted by reason."""
    records = _parquet_records(path) if path.name.endswith(".parquet") else _json_records(path, config.max_text_bytes)
    try:
        for number, record in enumerate(records):
            text = _as_text(record, number, config.max_text_bytes)
            if isinstance(text, DropReason):
                dropped[text] += 1
            else:
                yield text
    except (OSError, EOFError, pa.ArrowInvalid) as error:
        raise UserError(f"contamination: {path} cannot be read to its end ({error}); mend the file or take it away") from error


def _as_text(record: object, number: int, max_bytes: int) -> EvaluationText | DropReason:
    if isinstance(record, DropReason):
        return record
    if not isinstance(record, dict):
        return DropReason("not_a_record")
    suite, text = record.get("suite"), record.get("text")
    if not (isinstance(suite, str) and suite and isinstance(text, str)):
        return DropReason("no_suite_or_text")
    id_ = str(record.get("id", number))
    try:
        size = len(f"{suite}{id_}{text}".encode())
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        return DropReason("not_unicode")
    return EvaluationText(suite, id_, text, record.get("kind") == "code") if size <= max_bytes else DropReason("text_too_large")


def _json_records(path: Path, max_bytes: int) -> Iterator[Any]:
    """The value of each line, or the reason why there is none."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        while line := stream.readline(8 * max_bytes):  # \u escapes take up to six bytes for one
            if not line.endswith(b"\n") and len(line) == 8 * max_bytes:
                while (rest := stream.readline(8 * max_bytes)) and not rest.endswith(b"\n"):
                    pass
                yield DropReason("text_too_large")
            elif line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError):
                    yield DropReason("not_json")


def _parquet_records(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_TEXTS):
            yield from batch.to_pylist()


def _batches(texts: Iterator[EvaluationText]) -> Iterator[list[EvaluationText]]:
    batch: list[EvaluationText] = []
    for text in texts:
        batch.append(text)
        if len(batch) == BATCH_TEXTS:
            yield batch
            batch = []
    yield batch
