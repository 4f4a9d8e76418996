"""Near twins of held-out functions in training: the share of a test that measures memory.

Similarity is the Jaccard index of two functions' sets of words, identifiers split at case and underscores. The search is
exact. It uses the prefix filter of set similarity joins (Chaudhuri, Ganti and Kaushik, ICDE 2006; Bayardo, Ma and Srikant,
WWW 2007): with the words of all sets in one order, rarest first, two sets of Jaccard >= t share a word among the first
n - ceil(t n) + 1 of each (n words), and their sizes differ by a factor of t at most.

Legend: N train functions, Q test functions, V words, C candidate pairs.
"""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy import sparse

from pipeline_lib.languages import scripts
from pipeline_lib.store.artifact import Artifact

IDENTIFIER = re.compile(r"\w+")
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+")

SEPARATORS = {code: " " for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")}

ROUNDING = 1e-9  # 0.7 * 10 must not count as more than 7

BLOCK = 256  # test sets at a time: bounds their candidates
VERIFY_PAIRS = 100_000  # candidate pairs whose sets are intersected at a time: 100 MB at 70 words a function


@dataclass(frozen=True)
class Twin:
    """A test text (its place among the test texts), its most similar train text, and their Jaccard index."""

    test: int
    train: int
    jaccard: float


@dataclass(frozen=True)
class NearTwins:
    """Near twins: of `n` test texts, `count` have a train text at least that similar; `examples` are the closest."""

    n: int
    count: int
    threshold: float
    examples: tuple[Twin, ...]

    @property
    def share(self) -> float:
        return self.count / self.n if self.n else 0.0


def near_twin_share(train: Sequence[str], test: Sequence[str], threshold: float = 0.7, examples: int = 5) -> NearTwins:
    """Count the test texts that have a near twin among the train texts; exact and deterministic.

    Args:
        train: texts, e.g. the y of all training pairs.
        test: texts that are looked for.
        threshold: least Jaccard index of a twin, above 0.
        examples: closest pairs that are returned, ordered by falling Jaccard index.

    Returns:
        The count; of equally similar train texts the first one stands in the examples.
    """
    assert 0 < threshold <= 1, f"near twins: threshold is {threshold}, expected above 0 and at most 1"
    sets = _word_sets([*train, *test])
    train_NV, test_QV = sets[: len(train)], sets[len(train) :]
    test_C, train_C, jaccard_C = _twins(test_QV, train_NV, threshold)
    # a row a test text: its most similar train text, of equals the first
    order = np.lexsort((train_C, -jaccard_C, test_C))
    _, first = np.unique(test_C[order], return_index=True)
    best = order[first]
    closest = best[np.lexsort((test_C[best], -jaccard_C[best]))][:examples]
    shown = tuple(Twin(int(test_C[at]), int(train_C[at]), float(jaccard_C[at])) for at in closest)
    return NearTwins(n=len(test), count=len(best), threshold=threshold, examples=shown)


def near_twins_in(curated: Artifact) -> NearTwins:
    """`near_twin_share` of the test split's functions against the training split's; opens the test split.

    Args:
        curated: of the stage "curate"; rows of equal y, several views of one function, count once.
    """
    train, test = (_functions(curated.part_folder(split) / "pairs.parquet") for split in ("train", "test"))
    return near_twin_share(train, test)


def _functions(path: Path) -> list[str]:
    table = pq.read_table(path, columns=["y"], filters=[("kind", "=", "code")])
    return list(dict.fromkeys(table["y"].to_pylist()))


def words(text: str) -> set[str]:
    """The set of a text's words: identifiers split at case, underscores and, without spaces, into neighbouring characters."""
    return {word for identifier in identifiers(text) for word in split_identifier(identifier)}


def identifiers(text: str) -> set[str]:
    """The runs of letters, digits and underscores in a text."""
    if text.isascii():  # a third of the expression's time
        return set(text.translate(SEPARATORS).split())
    return set(scripts.identifiers(text) if scripts.is_complex(text) else IDENTIFIER.findall(text))


def split_identifier(identifier: str) -> list[str]:
    """The words of an identifier, lower-cased; where the script has no spaces, its pairs of neighbouring characters."""
    if scripts.is_complex(identifier):
        return scripts.identifier_words(identifier)
    return [word.lower() for word in WORD.findall(identifier)]


def _word_sets(texts: Sequence[str]) -> sparse.csr_array:
    """A 0/1 row a text, its columns ordered from the rarest word of all texts to the commonest.

    Identifiers recur: each is numbered once and split once, and a product of two matrices brings texts to words.
    """
    numbers: defaultdict[str, int] = defaultdict(count().__next__)
    flat, pointers = array("i"), array("q", [0])
    for text in texts:
        flat.extend(map(numbers.__getitem__, identifiers(text)))
        pointers.append(len(flat))
    holds = _zero_one(np.array(flat, dtype=np.int32), np.array(pointers), len(numbers))
    split = [split_identifier(identifier) for identifier in numbers]
    # numbered by spelling: that breaks ties of frequency, and the hash seed of Python's sets does not show
    rank = {word: at for at, word in enumerate(sorted(set(chain.from_iterable(split))))}
    columns = np.fromiter((rank[word] for found in split for word in found), np.int32)
    ends = np.cumsum([0, *map(len, split)])
    sets = holds @ _zero_one(columns, ends, len(rank))
    frequency_V = np.bincount(sets.indices, minlength=len(rank))
    rarity_V = np.empty(len(rank), dtype=np.int32)
    rarity_V[np.argsort(frequency_V, kind="stable")] = np.arange(len(rank), dtype=np.int32)
    matrix = _zero_one(rarity_V[sets.indices], sets.indptr, len(rank))
    matrix.sort_indices()
    return matrix


def _zero_one(columns: np.ndarray, pointers: np.ndarray, width: int) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(columns), np.int32), columns, pointers), shape=(len(pointers) - 1, width))


@dataclass(frozen=True)
class _Prefixes:
    """The rarest words of each set: as a 0/1 matrix, how many, and the rank of the last of them; sizes are of whole sets."""

    matrix: sparse.csr_array
    lengths: np.ndarray
    last: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, sets: sparse.csr_array, threshold: float) -> _Prefixes:
        sizes = np.diff(sets.indptr).astype(np.int64)
        lengths = sizes - np.ceil(threshold * sizes - ROUNDING).astype(np.int64) + (sizes > 0)
        inside = np.arange(sets.nnz) - np.repeat(sets.indptr[:-1], sizes) < np.repeat(lengths, sizes)
        pointers = np.concatenate([[0], np.cumsum(lengths)])
        matrix = sparse.csr_array((sets.data[inside], sets.indices[inside], pointers), shape=sets.shape)
        last = np.where(lengths > 0, np.append(matrix.indices, -1)[pointers[1:] - 1], -1)
        return cls(matrix, lengths, last, sizes)

    def take(self, rows: slice) -> _Prefixes:
        return _Prefixes(self.matrix[rows], self.lengths[rows], self.last[rows], self.sizes[rows])


def _twins(
    test_QV: sparse.csr_array, train_NV: sparse.csr_array, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair at or above the threshold: test row, train row, Jaccard index.

    Both sides are sorted by size, so that each block of test sets meets only the slice of train sets of a fitting size.
    """
    test_order, train_order = (np.argsort(np.diff(sets.indptr), kind="stable") for sets in (test_QV, train_NV))
    test_QV, train_NV = test_QV[test_order], train_NV[train_order]
    test, train = _Prefixes.of(test_QV, threshold), _Prefixes.of(train_NV, threshold)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for start in range(0, len(test.sizes), BLOCK):
        block = test.take(slice(start, start + BLOCK))
        low = int(np.searchsorted(train.sizes, max(1, threshold * block.sizes[0] - ROUNDING)))
        high = int(np.searchsorted(train.sizes, block.sizes[-1] / threshold + ROUNDING, side="right"))
        if low >= high or not block.sizes[-1]:
            continue
        rows, columns = _candidates(block, train.take(slice(low, high)), threshold)
        rows, columns = rows + start, columns + low
        for part in range(0, len(rows), VERIFY_PAIRS):
            row, column = rows[part : part + VERIFY_PAIRS], columns[part : part + VERIFY_PAIRS]
            shared = np.asarray(test_QV[row].multiply(train_NV[column]).sum(axis=1))
            jaccard = shared / (test.sizes[row] + train.sizes[column] - shared)
            near = jaccard >= threshold - ROUNDING
            found.append((test_order[row[near]], train_order[column[near]], jaccard[near]))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    tests, trains, jaccards = (np.concatenate(column) for column in zip(*found, strict=True))
    return tests, trains, jaccards


def _candidates(test: _Prefixes, train: _Prefixes, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that may reach the threshold by the words that their prefixes share.

    Words up to the earlier of the two last ones are all counted in the product, so that the rest of that set bounds what can
    still be shared: of 5 million pairs with a common prefix word, some 10 thousand remain.
    """
    product = (train.matrix @ test.matrix.T.tocsr()).tocoo()
    column, row, counted = product.coords[0], product.coords[1], product.data
    test_ends_first = test.last[row] <= train.last[column]
    rest = np.where(test_ends_first, (test.sizes - test.lengths)[row], (train.sizes - train.lengths)[column])
    needed = threshold / (1 + threshold) * (test.sizes[row] + train.sizes[column])
    may = counted + rest >= needed - ROUNDING
    return row[may].astype(np.int64), column[may].astype(np.int64)
