"""Stages "training_set", a published training set as pairs with hard negatives, and "training_mix", several as one table.

A training set has two parts. "train": pairs.parquet (schemas.PAIRS_WITH_NEGATIVES, in the order of ids, which are hashes) and
quarantine.parquet. "corpus", of retrieval sets: corpus.parquet (id, text, hash) for mining, and what of it could not be read.
In a mix each set keeps its view.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from data_contracts.schemas import PAIRS_WITH_NEGATIVES, row_id, text_hash
from pipeline_lib.config.base import StageConfig
from pipeline_lib.config.finetuning import TrainingSetConfig
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import sha256_file
from pipeline_lib.store.records import Counts, Outcome, Part, Stage, draft_part, sum_counts
from pipeline_lib.store.store import Store
from pipeline_lib.training_sets.layouts import SetFile, find_files, place_of, read_items
from pipeline_lib.training_sets.records import Bad
from pipeline_lib.training_sets.spool import MEMORY, Quarantine, Spool, TableWriter

STAGE = Stage(name="training_set", version=2)
USED = frozenset({"negative", "neutral", "below_min_relevance", "no_negatives"})  # drops that a set is meant to have
CORPUS = pa.schema([("id", pa.string()), ("text", pa.large_string()), ("hash", pa.int64())])
SHOW_EVERY = 10_000  # lines between two reports of progress


class TrainingSetWork(StageConfig):
    """What names the artifact: the rules, and the files by name and content."""

    rules: TrainingSetConfig
    files: tuple[tuple[str, str], ...]


def read_training_set(store: Store, config: TrainingSetConfig, progress: Progress = silent) -> Artifact:
    """Read a training set in the layout of its publisher.

    A hard negative that is a positive of the same x anywhere in the set, or x itself, is left out. Pairs that come again are
    dropped, and so are pairs of a text with itself.

    Raises:
        UserError: there is no such file, its layout is not known for sure, it holds no pair, or more of it was dropped than
            `config.max_dropped_share`.
    """
    files = find_files(config)
    names = [_name_of(file.path, place_of(config)) for file in files]
    work = TrainingSetWork(rules=config, files=tuple(zip(names, (sha256_file(file.path) for file in files), strict=True)))

    def make(key: str) -> Outcome:
        folder = store.scratch(STAGE.name)
        try:
            parts = _Reading(store, config, key, Spool(folder, config.max_negatives)).run(files, names, progress)
        finally:
            shutil.rmtree(folder)
        return Outcome(parts=parts, counts=sum_counts(parts))

    return store.build(STAGE, work, {}, make)


class PositivePairs:
    """Which (x, y) of a set are positives, as 8 bytes a pair."""

    def __init__(self, keys_N: np.ndarray) -> None:
        self.keys = np.unique(keys_N)

    def holds(self, x: str, y: str) -> bool:
        """True where y is a positive of x."""
        key = pair_key(x, y)
        place = int(np.searchsorted(self.keys, key))
        return place < len(self.keys) and int(self.keys[place]) == key


def pair_key(x: str, y: str) -> int:
    """The identity of a pair of texts, whatever their case and white space: 64 bits."""
    return text_hash("\x1f".join(" ".join(text.split()).casefold() for text in (x, y)))


class _Reading:
    def __init__(self, store: Store, config: TrainingSetConfig, key: str, spool: Spool) -> None:
        self.store, self.config, self.key, self.spool = store, config, key, spool

    def run(self, files: Sequence[SetFile], names: Sequence[str], progress: Progress) -> tuple[Part, ...]:
        """Read every file into tables, then join them to pairs."""
        folders = {label: self.store.scratch(STAGE.name) for label in ("train", "corpus")}
        try:
            return self._read(files, names, folders, progress)
        finally:
            for folder in folders.values():
                shutil.rmtree(folder, ignore_errors=True)  # moved away, unless something failed

    def _read(
        self, files: Sequence[SetFile], names: Sequence[str], folders: Mapping[str, Path], progress: Progress
    ) -> tuple[Part, ...]:
        quarantines = {label: Quarantine(folder, STAGE.name) for label, folder in folders.items()}
        seen: Counter[str] = Counter()
        for number, (file, name) in enumerate(zip(files, names, strict=True)):
            for line, item in read_items(file, self.config):
                seen[file.part] += 1
                if isinstance(item, Bad):
                    quarantines[file.part].add(name, line, item)
                else:
                    self.spool.add(number, line, item)
                if seen.total() % SHOW_EVERY == 0:
                    progress(number, len(files), f"{seen.total():,} items")
        self.spool.close()
        for quarantine in quarantines.values():
            quarantine.table.close()
        parts = [self._train(folders["train"], names, seen["train"], quarantines["train"])]
        if seen["corpus"]:
            self._check_dropped(seen["corpus"], Counter(), quarantines["corpus"])
            parts.append(self._corpus(folders["corpus"], seen["corpus"], quarantines["corpus"].table.rows))
        return tuple(parts)

    def _train(self, folder: Path, names: Sequence[str], n_in: int, quarantine: Quarantine) -> Part:
        n_bad = quarantine.table.rows
        keys_N = np.fromiter((pair_key(pair["x"], pair["y"]) for pair in self.spool.pairs()), np.int64)
        positives = PositivePairs(keys_N)
        is_first_N = np.zeros(len(keys_N), bool)
        is_first_N[np.unique(keys_N, return_index=True)[1]] = True
        dropped, more_negatives = Counter(self.spool.dropped), 0
        writer = TableWriter(self.spool.folder / "unordered.parquet", PAIRS_WITH_NEGATIVES)
        for pair, is_first in zip(self.spool.pairs(), is_first_N.tolist(), strict=True):
            reason = "" if is_first else "duplicate"
            more_negatives += not is_first and bool(pair["negatives"])  # triples repeat a pair for each of its negatives
            negatives = self._negatives(pair, positives)
            if is_first and pair_key(pair["x"], "") == pair_key(pair["y"], ""):
                reason = "same_text"
            elif is_first and self.config.require_negatives and not negatives:
                reason = "no_negatives"
            if reason:
                dropped[reason] += 1
            else:
                writer.add(self._row(pair, negatives, names))
        writer.close()
        if writer.rows == 0:
            raise UserError(
                f"{self.config.path}: {n_in} items and no pair; dropped: {dict(dropped)}, could not be read:"
                f" {dict(quarantine.reasons)}{_told(quarantine.first)}; give another layout or file"
            )
        lost = n_in - n_bad - writer.rows - dropped.total()  # judgements that name no known text, or the same pair again
        dropped.update({"unknown_id_or_judged_again": lost} if lost else {})
        self._check_dropped(n_in, dropped - Counter(duplicate=more_negatives), quarantine)
        sort_by_id([self.spool.folder / "unordered.parquet"], folder / "pairs.parquet")
        counts = Counts(n_in=n_in, n_out=writer.rows, dropped=dict(sorted(dropped.items())), quarantined=n_bad)
        rows = {"pairs.parquet": writer.rows, "quarantine.parquet": n_bad}
        return self.store.commit_part(draft_part(STAGE, f"{self.key}-train", "train", counts, rows), folder)

    def _check_dropped(self, n_in: int, dropped: Counter[str], quarantine: Quarantine) -> None:
        lost = Counter({reason: count for reason, count in dropped.items() if reason not in USED}) + quarantine.reasons
        if lost.total() > self.config.max_dropped_share * n_in:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in lost.most_common())
            raise UserError(
                f"{self.config.path}: {lost.total():,} of {n_in:,} items ({lost.total() / n_in:.0%}) were dropped, at most"
                f" {self.config.max_dropped_share:.0%} may: {reasons}{_told(quarantine.first)}; is it in another layout?"
                " Mend or convert it, or raise max_dropped_share (--max-dropped-share)"
            )

    def _negatives(self, pair: dict[str, Any], positives: PositivePairs) -> list[str]:
        kept = dict.fromkeys(text for text in pair["negatives"] if is_negative(pair["x"], text, positives))
        return list(kept)[: self.config.max_negatives]

    def _row(self, pair: dict[str, Any], negatives: list[str], names: Sequence[str]) -> tuple[Any, ...]:
        x, y, view = pair["x"], pair["y"], self.config.view
        values = {
            "id": row_id("training_set", view, x, y),
            **{"kind": "text", "view": view, "x": x, "y": y, "x_hash": text_hash(x), "y_hash": text_hash(y)},
            "document_id": row_id("training_set", view, x),
            **{"source": view, "group": view, "path": names[pair["file"]], "line": pair["line"], "position": 0, "name": ""},
            **{"language": self.config.language, "licence": self.config.licence or None, "generation": 0},
            "negatives": negatives,
        }
        return tuple(values[name] for name in PAIRS_WITH_NEGATIVES.names)

    def _corpus(self, folder: Path, n_in: int, n_bad: int) -> Part:
        writer = TableWriter(folder / "corpus.parquet", CORPUS)
        for passage in self.spool.passages():
            writer.add((passage["id"], passage["text"], text_hash(passage["text"])))
        writer.close()
        dropped = {"query_or_id_again": n_in - n_bad - writer.rows}
        counts = Counts(n_in=n_in, n_out=writer.rows, dropped=dropped, quarantined=n_bad)
        rows = {"corpus.parquet": writer.rows, "quarantine.parquet": n_bad}
        return self.store.commit_part(draft_part(STAGE, f"{self.key}-corpus", "corpus", counts, rows), folder)


def _told(first: str) -> str:
    return f"; the first: {first}" if first else ""


def is_negative(x: str, text: str, positives: PositivePairs) -> bool:
    """True where a text may be held against x: it is none of its positives, and not x itself."""
    return not positives.holds(x, text) and pair_key(x, "") != pair_key(text, "")


def sort_by_id(sources: Sequence[Path], target: Path) -> int:
    """Write the rows of tables of pairs in the order of their ids, on disk what memory does not hold; returns different ids."""
    with tempfile.TemporaryDirectory(dir=target.parent) as spill:
        connection = duckdb.connect(config={"threads": 1, "memory_limit": MEMORY, "temp_directory": spill})
        paths = {"paths": list(map(str, sources))}
        reader = connection.sql("SELECT * FROM read_parquet($paths) ORDER BY id", params=paths)
        writer, distinct, last = TableWriter(target, PAIRS_WITH_NEGATIVES), 0, ""
        for batch in reader.to_arrow_reader(1024):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                writer.add(row)
                distinct, last = distinct + (row[0] != last), row[0]
        writer.close()
        connection.close()
    return distinct


def read_rows(artifact: Artifact) -> Iterator[dict[str, Any]]:
    """The pairs of a training set, in the order of their ids."""
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(artifact.part_folder("train") / "pairs.parquet").iter_batches(1024, use_threads=False):
        yield from batch.to_pylist()


def _name_of(path: Path, place: Path) -> str:
    return path.name if place.is_file() else path.relative_to(place).as_posix()


MIX_STAGE = Stage(name="training_mix", version=1)


def join_sets(store: Store, sets: Sequence[Artifact]) -> Artifact:
    """The pairs of all sets in the order of their ids; one set alone is returned as it is.

    Raises:
        UserError: two sets have the same pair under the same view.
    """
    if len(sets) == 1:
        return sets[0]

    def make(key: str) -> Outcome:
        scratch = store.scratch(MIX_STAGE.name)
        rows = sum(made.part("train").counts.n_out for made in sets)
        paths = [made.part_folder("train") / "pairs.parquet" for made in sets]
        distinct = sort_by_id(paths, scratch / "pairs.parquet")
        if distinct < rows:
            raise UserError(
                f"{rows - distinct} pairs come in two training sets under one view; give each set its own NAME=PATH"
            )
        counts = Counts(n_in=rows, n_out=rows)
        part = store.commit_part(draft_part(MIX_STAGE, key, "train", counts, {"pairs.parquet": rows}), scratch)
        return Outcome(parts=(part,), counts=counts)

    return store.build(MIX_STAGE, StageConfig(), {f"set-{n}": made for n, made in enumerate(sets)}, make)
