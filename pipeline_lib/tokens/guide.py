"""Guide: stage "guide", the vectors of a model for each training text, and stage "consistent", the pairs that they agree with.

A guide judges training pairs: which in-batch candidates are positives that nobody marked, what each candidate is worth, and
whether a pair's own y is found by its x at all. Each distinct text of a side is embedded once; the table is two sorted lists of
hashes and two of vectors, all memory-mapped. Whoever embeds keeps vectors as it goes, so that a killed build goes on.

The consistency filter (as of E5, arXiv 2212.03533) reads the table alone: of each block of consecutive training pairs, whose
order is that of their ids and so a mixture of the corpus, a pair stays if its y is among the guide's first `top` for its x.
Texts equal to the pair's own y do not count as candidates. Held-out pairs all stay.

Legend: N distinct texts of a side, G the guide's width, R pairs of a block.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.schemas import text_hash
from pipeline_lib.config.base import StageConfig
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Counts, Outcome, Stage, draft_part
from pipeline_lib.store.store import Store
from pipeline_lib.store.vectors import Side

GUIDE = Stage(name="guide", version=1)
CONSISTENT = Stage(name="consistent", version=1)
INCONSISTENT = "inconsistent"
PAIRS_FILE, NEGATIVES, TRAIN = "pairs.parquet", "negatives", "train"
SIDES: tuple[Side, Side] = ("x", "y")
BLOCK_TEXTS = 8192  # rows whose texts are in memory at a time
WRITTEN_ROWS = 20_000  # of a row group, as curation writes them

EmbedSide = Callable[[Sequence[str], Side], np.ndarray]  # float32 (n, G) of length 1, in the order of the texts


class GuideWork(StageConfig):
    """Names the table beside the pairs: all that the guide's vectors depend on, hexadecimal."""

    fingerprint: str


class ConsistencyWork(StageConfig):
    """Names the pairs that stay, beside the table."""

    top: int
    block: int


@dataclass(frozen=True)
class Cleaned:
    """Curated pairs whose training split is another artifact's: that of the pairs that stayed."""

    curated: Artifact
    consistent: Artifact

    def pairs(self, split: str) -> Path:
        """The file of a split's pairs."""
        return (self.consistent if split == TRAIN else self.curated).part_folder(split) / PAIRS_FILE


def embed_training_texts(
    store: Store, pairs: Artifact, fingerprint: str, embed: EmbedSide, progress: Progress = silent
) -> Artifact:
    """The guide's table over the training split: one part, hashes-x.npy, vectors-x.npy (float16) and the same of y.

    Args:
        store: where the table goes.
        pairs: with a part "train" of pairs, hard negatives included.
        fingerprint: of the guide.
        embed: the guide.
        progress: counts texts.
    """
    path = pairs.part_folder(TRAIN) / PAIRS_FILE

    def make(key: str) -> Outcome:
        scratch = store.scratch(GUIDE.name)
        try:
            hashes = {side: _distinct(path, side) for side in SIDES}
            total, done, width, rows = sum(map(len, hashes.values())), 0, 0, dict[str, int]()
            for side, hashes_N in hashes.items():
                np.save(scratch / f"hashes-{side}.npy", hashes_N, allow_pickle=False)
                vectors_NG: np.memmap | None = None
                for texts, to in _new_texts(path, side, hashes_N):
                    found = embed(texts, side)
                    if vectors_NG is None:
                        width = found.shape[1]
                        to_file = str(scratch / f"vectors-{side}.npy")
                        vectors_NG = np.lib.format.open_memmap(to_file, "w+", np.float16, (len(hashes_N), width))
                    vectors_NG[to] = found
                    done += len(to)
                    progress(done, total, f"{done:,} texts embedded")
                assert vectors_NG is not None, "a training split without a pair"
                vectors_NG.flush()
                rows |= dict.fromkeys((f"hashes-{side}.npy", f"vectors-{side}.npy"), len(hashes_N))
            facts = {"texts": total, "width": width}
            draft = draft_part(GUIDE, key, TRAIN, Counts(n_in=total, n_out=total), rows, facts)
            return Outcome(parts=(store.commit_part(draft, scratch),), counts=draft.counts, facts=facts)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)  # moved away, unless something failed

    return store.build(GUIDE, GuideWork(fingerprint=fingerprint), {"pairs": pairs}, make)


def _batches(path: Path, side: Side) -> Iterator[tuple[list[int], list[str]]]:
    """Hashes and texts of a side, y with its hard negatives, some rows at a time; their repeats too."""
    file = pq.ParquetFile(path)
    has_negatives = side == "y" and NEGATIVES in file.schema_arrow.names
    columns = [side, f"{side}_hash", *([NEGATIVES] if has_negatives else [])]
    for batch in file.iter_batches(BLOCK_TEXTS, columns=columns, use_threads=False):
        hashes, texts = batch[f"{side}_hash"].to_pylist(), batch[side].to_pylist()
        if has_negatives:
            more = [text for row in batch[NEGATIVES].to_pylist() for text in row]
            hashes, texts = hashes + list(map(text_hash, more)), texts + more
        yield hashes, texts


def _distinct(path: Path, side: Side) -> np.ndarray:
    """The hashes of a side's texts, ascending, each once; 8 bytes a text."""
    found = [np.unique(np.array(hashes, np.int64)) for hashes, _ in _batches(path, side)]
    return np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)


def _new_texts(path: Path, side: Side, hashes_N: np.ndarray) -> Iterator[tuple[list[str], np.ndarray]]:
    """Texts that come for the first time, and their places in the table."""
    seen_N = np.zeros(len(hashes_N), bool)
    for hashes, texts in _batches(path, side):
        places, first = np.unique(np.searchsorted(hashes_N, np.array(hashes, np.int64)), return_index=True)
        new = ~seen_N[places]
        places, first = places[new], first[new]
        seen_N[places] = True
        if len(places):
            yield [texts[at] for at in first.tolist()], places


class GuideTable:
    """The vectors of a guide by the hash of a training text."""

    def __init__(self, guide: Artifact) -> None:
        folder = guide.part_folder(TRAIN)
        self._key = guide.manifest.key
        self._hashes: dict[Side, np.ndarray] = {side: _mapped(folder / f"hashes-{side}.npy") for side in SIDES}
        self._vectors: dict[Side, np.ndarray] = {side: _mapped(folder / f"vectors-{side}.npy") for side in SIDES}

    def vectors(self, hashes_N: np.ndarray, side: Side) -> np.ndarray:
        """Vectors (N, G) float32 of length 1 to float16's precision, in the order of the hashes.

        Raises:
            UserError: a text is not in the table, which was made of other pairs.
        """
        known = self._hashes[side]
        places = np.minimum(np.searchsorted(known, hashes_N), len(known) - 1)
        if missing := int((known[places] != hashes_N).sum()):
            raise UserError(
                f"guide {self._key}: {missing} of {len(hashes_N)} texts on the {side} side are not in its table, which was made"
                " of other pairs; run the same command again: the table of these pairs is made, or found"
            )
        return self._vectors[side][places].astype(np.float32)


def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def keep_consistent(
    store: Store, pairs: Artifact, guide: Artifact, work: ConsistencyWork, progress: Progress = silent
) -> Artifact:
    """The training pairs whose y is among the guide's first `top` of its block: one part "train", its order that of the pairs.

    Dropped are all others, as `inconsistent`.
    """
    path = pairs.part_folder(TRAIN) / PAIRS_FILE

    def make(key: str) -> Outcome:
        ranks = _ranks(path, GuideTable(guide), work.block, progress)
        scratch = store.scratch(CONSISTENT.name)
        try:
            n_out = _write_kept(path, scratch / PAIRS_FILE, ranks <= work.top)
            if not n_out:
                raise UserError(
                    f"guide.keep_top {work.top}: not one of {len(ranks):,} training pairs would stay; raise it, or take"
                    " another guide.model"
                )
            dropped = {INCONSISTENT: len(ranks) - n_out} if n_out < len(ranks) else {}
            counts = Counts(n_in=len(ranks), n_out=n_out, dropped=dropped)
            facts = {"median_rank": float(np.median(ranks)), "first_share": round(float((ranks == 1).mean()), 4)}
            draft = draft_part(CONSISTENT, key, TRAIN, counts, {PAIRS_FILE: n_out}, facts)
            return Outcome(parts=(store.commit_part(draft, scratch),), counts=counts, facts=facts)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    return store.build(CONSISTENT, work, {"pairs": pairs, "guide": guide}, make)


def _ranks(path: Path, table: GuideTable, block: int, progress: Progress) -> np.ndarray:
    """The rank of each pair's y for its x among its block's, from 1; the last block reaches back to a whole one."""
    columns = pq.read_table(path, columns=["x_hash", "y_hash"], use_threads=False)
    x_hashes, y_hashes = (columns[name].to_numpy() for name in ("x_hash", "y_hash"))
    ranks = np.empty(len(x_hashes), np.int64)
    for begin in range(0, len(ranks), block):
        first, end = max(0, min(begin, len(ranks) - block)), min(begin + block, len(ranks))
        x_RG, y_RG = table.vectors(x_hashes[first:end], "x"), table.vectors(y_hashes[first:end], "y")
        scores_RR = x_RG @ y_RG.T
        own_R = scores_RR.diagonal()
        above_RR = scores_RR > own_R[:, None]
        above_RR &= y_hashes[first:end, None] != y_hashes[None, first:end]
        ranks[begin:end] = 1 + above_RR.sum(axis=1)[begin - first :]
        progress(end, len(ranks), f"{end:,} pairs judged")
    return ranks


def _write_kept(path: Path, to: Path, keep: np.ndarray) -> int:
    file, done = pq.ParquetFile(path), 0
    with pq.ParquetWriter(to, file.schema_arrow, compression="zstd") as writer:
        for batch in file.iter_batches(WRITTEN_ROWS, use_threads=False):
            kept = batch.filter(pa.array(keep[done : done + len(batch)]))
            done += len(batch)
            if len(kept):
                writer.write_batch(kept)
    return int(keep.sum())
