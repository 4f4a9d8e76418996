"""Stage "contamination": the texts of evaluation suites as hashed word n-grams, which curation looks for.

Whoever evaluates writes the texts out; curation reads hashes and knows no suite. A folder holds files of records:

    {"suite": "scifact", "id": "q-17", "text": "..."}             a .jsonl or .jsonl.gz line, or a row of a .parquet
    {"suite": "codesearchnet", "id": "7", "text": "...", "kind": "code"}

`id` and `kind` may be missing. One part a file: `texts.parquet` (suite, id, how many grams a pair needs to hold) and
`grams.parquet` (gram, the text's row number).
"""

from __future__ import annotations

import gzip
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.artifact import Artifact, Counts, Outcome, Part, Stage, Store, draft_part, sum_counts
from pipeline_lib.curate_config import ContaminationConfig
from pipeline_lib.curation.shingles import shingle_sets
from pipeline_lib.errors import UserError
from pipeline_lib.files import sha256_file
from pipeline_lib.progress import Progress, silent
from pipeline_lib.stage_config import StageConfig

STAGE = Stage(name="contamination", version=1)

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
    folder = Path(config.folder).expanduser()
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
            sets = shingle_sets([text.text for text in batch], config.ngram_words)
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
