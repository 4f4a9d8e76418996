"""Hard-negative mining: stage "mine" finds them for a training set in a FAISS index over its own passages.

The passages are the set's corpus, where it has one, else every distinct y. For each x they are ranked by the model that is
about to be tuned; known positives and x itself do not count. Of the ranks that the config names, a passage is taken unless
it scores so near to the positive that it is likely one itself.

Legend: N passages, Q queries of a slice, D width, K ranks.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.schemas import PAIRS_WITH_NEGATIVES, text_hash
from pipeline_lib.config.base import StageConfig, added
from pipeline_lib.config.finetuning import MiningConfig
from pipeline_lib.index.filled import filled_index
from pipeline_lib.runtime.machine import Precision
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Counts, Outcome, Stage, draft_part
from pipeline_lib.store.store import Store
from pipeline_lib.store.vectors import Side
from pipeline_lib.training_sets.spool import TableWriter
from pipeline_lib.training_sets.training_set import PositivePairs, is_negative, pair_key, read_rows

STAGE = Stage(name="mine", version=1)
DECIMALS = 6  # float32 products of equal vectors differ by 1e-7, and must tie
PASSAGES = pa.schema([("text", pa.large_string()), ("hash", pa.int64())])

EmbedSide = Callable[[Sequence[str], Side], np.ndarray]


@dataclass(frozen=True)
class Embedder:
    """A function from texts and side to float32 vectors (N, D) of length 1, and what it depends on."""

    embed: EmbedSide
    artifacts: Mapping[str, Artifact]
    max_x_tokens: int
    max_y_tokens: int
    precision: Precision = "float32"


class MiningWork(StageConfig):
    """Names the artifact beside its inputs."""

    rules: MiningConfig
    max_x_tokens: int
    max_y_tokens: int
    precision: Precision = added("float32")


def mine(
    store: Store, training_set: Artifact, embedder: Embedder, config: MiningConfig, progress: Progress = silent
) -> Artifact:
    """The training set with mined negatives behind its own.

    Returns:
        An artifact whose part "train" is one of a training set; facts: passages, what was mined, what was passed over and why.
    """
    lengths = {"max_x_tokens": embedder.max_x_tokens, "max_y_tokens": embedder.max_y_tokens}
    work = MiningWork(rules=config, precision=embedder.precision, **lengths)

    def make(key: str) -> Outcome:
        folder, out = store.scratch(STAGE.name), store.scratch(STAGE.name)
        try:
            facts = _Mining(training_set, embedder.embed, config, folder, progress).write(out / "pairs.parquet")
        finally:
            shutil.rmtree(folder)
        counts = Counts(n_in=facts["pairs"], n_out=facts["pairs"])
        part = store.commit_part(draft_part(STAGE, key, "train", counts, {"pairs.parquet": facts["pairs"]}, facts), out)
        return Outcome(parts=(part,), counts=counts, facts=facts)

    return store.build(STAGE, work, {"training_set": training_set, **embedder.artifacts}, make)


class _Mining:
    """One training set, its passages as a table on disk, and the index over them."""

    def __init__(
        self, training_set: Artifact, embed: EmbedSide, config: MiningConfig, folder: Path, progress: Progress
    ) -> None:
        self.training_set, self.embed, self.config, self.progress = training_set, embed, config, progress
        self.n_pairs = training_set.part("train").counts.n_out
        keys = (pair_key(row["x"], row["y"]) for row in read_rows(training_set))
        self.positives = PositivePairs(np.fromiter(keys, np.int64))
        x_hashes = np.fromiter((row["x_hash"] for row in read_rows(training_set)), np.int64)
        self.most_positives = int(np.unique(x_hashes, return_counts=True)[1].max())
        self.passages = _write_passages(training_set, folder / "passages.arrow")
        self.vectors_ND = self._embedded(folder / "vectors.npy")
        starts = range(0, len(self.vectors_ND), config.rows_per_slice)
        self.index = filled_index(lambda at: self.vectors_ND[at : at + starts.step], starts, config.factory)
        hashes_N = self.passages["hash"].to_numpy()
        self._by_hash = np.argsort(hashes_N, kind="stable")
        self._hashes = hashes_N[self._by_hash]
        self.facts: Counter[str] = Counter({"passages": self.passages.num_rows})

    def write(self, path: Path) -> dict[str, int]:
        """Every pair with its mined negatives behind its own; returns the figures."""
        writer = TableWriter(path, PAIRS_WITH_NEGATIVES)
        rows = read_rows(self.training_set)
        while slice_ := list(islice(rows, self.config.rows_per_slice)):
            scores_QK, found_QK, positive_Q = self._ranked(slice_)
            for row, scores_K, found_K, positive in zip(slice_, scores_QK, found_QK, positive_Q, strict=True):
                ranked = sorted(zip(-np.round(scores_K, DECIMALS), found_K, strict=True))
                row["negatives"] += self._chosen(row, [(-score, int(n)) for score, n in ranked if n >= 0], float(positive))
                self.facts["pairs_with_negatives"] += bool(row["negatives"])
                writer.add(tuple(row[name] for name in PAIRS_WITH_NEGATIVES.names))
            self.progress(self.n_pairs + writer.rows, 2 * self.n_pairs, f"{writer.rows:,} pairs mined")
        writer.close()
        return {"pairs": writer.rows, **dict(sorted(self.facts.items()))}

    def _ranked(self, rows: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores and numbers of the nearest passages of each x, and the score of its y."""
        texts = list(dict.fromkeys(row["x"] for row in rows))
        place = {text: n for n, text in enumerate(texts)}
        x_QD = np.ascontiguousarray(self.embed(texts, "x"), np.float32)
        # known positives and x itself do not count as ranks: as many more are asked for
        most = min(self.passages.num_rows, self.config.last_rank + 1 + self.most_positives)
        scores_QK, found_QK = self.index.search(x_QD, most)
        of_row = np.array([place[row["x"]] for row in rows])
        y_QD = self.vectors_ND[self._passage_of(np.array([row["y_hash"] for row in rows], np.int64))]
        return scores_QK[of_row], found_QK[of_row], np.round((x_QD[of_row] * y_QD).sum(1), DECIMALS)

    def _passage_of(self, hashes_Q: np.ndarray) -> np.ndarray:
        found_Q = self._by_hash[np.minimum(np.searchsorted(self._hashes, hashes_Q), len(self._hashes) - 1)]
        assert (self.passages["hash"].to_numpy()[found_Q] == hashes_Q).all(), "a y of the set is none of its passages"
        return found_Q

    def _chosen(self, row: dict[str, Any], ranked: list[tuple[float, int]], positive: float) -> list[str]:
        """Texts of the passages that are taken for one pair, the nearest first."""
        left, rank, taken = [], 0, {pair_key(row["x"], text) for text in row["negatives"]}
        for score, number in ranked:
            if rank == self.config.last_rank:
                break
            text = self.passages["text"][number].as_py()
            if not is_negative(row["x"], text, self.positives):
                self.facts["passed_over_positive"] += 1
                continue
            rank += 1
            if rank < self.config.first_rank:
                continue
            if score > positive - self.config.margin:
                self.facts["passed_over_within_margin"] += 1
            elif pair_key(row["x"], text) not in taken:
                taken.add(pair_key(row["x"], text))
                left.append(text)
        chosen = _spread(left, self.config)
        self.facts["mined"] += len(chosen)
        return chosen

    def _embedded(self, path: Path) -> np.ndarray:
        """Vectors of all passages, memory-mapped."""
        n_passages, vectors_ND = self.passages.num_rows, None
        for begin in range(0, n_passages, self.config.rows_per_slice):
            texts = self.passages["text"].slice(begin, self.config.rows_per_slice).to_pylist()
            slice_ = self.embed(texts, "y")
            if vectors_ND is None:
                vectors_ND = np.lib.format.open_memmap(path, "w+", np.float32, (n_passages, slice_.shape[1]))
            vectors_ND[begin : begin + len(texts)] = slice_
            done = (begin + len(texts)) / n_passages
            self.progress(done * self.n_pairs, 2 * self.n_pairs, f"{begin + len(texts):,} passages embedded")
        assert vectors_ND is not None, "a training set without a pair"
        return vectors_ND


def _spread(texts: list[str], config: MiningConfig) -> list[str]:
    if config.spread == "top" or len(texts) <= config.per_pair:
        return texts[: config.per_pair]
    places = np.linspace(0, len(texts) - 1, config.per_pair).round().astype(int)
    return [texts[place] for place in places.tolist()]


def _write_passages(training_set: Artifact, path: Path) -> pa.Table:
    """The set's corpus, or its distinct y, each text once; memory-mapped."""
    seen: set[int] = set()  # 60 bytes a passage
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, PASSAGES) as writer:
        for texts in _texts_of(training_set):
            new = {hash_: text for text in texts if (hash_ := text_hash(text)) not in seen}
            seen.update(new)
            columns = [pa.array(list(values), field.type) for values, field in zip((new.values(), new), PASSAGES, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=PASSAGES))
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _texts_of(training_set: Artifact) -> Iterator[list[str]]:
    part, name, column = ("corpus", "corpus.parquet", "text")
    if all(made.label != part for made in training_set.manifest.parts):
        part, name, column = ("train", "pairs.parquet", "y")
    file = pq.ParquetFile(training_set.part_folder(part) / name)
    for batch in file.iter_batches(1024, columns=[column], use_threads=False):
        yield batch[column].to_pylist()
