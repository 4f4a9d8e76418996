"""Near-duplicates: texts whose sets of shingles (word n-grams) have a Jaccard index of at least the threshold.

MinHash with banding (Broder 1997; Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4) names the
candidates: two texts of index s share one of b bands of r hashes with probability 1 - (1 - s^r)^b. Each candidate is then
verified on the two sets themselves, so that what is called near is near; only recall is a matter of chance, and of a fixed
one: the hashes are seeded. Each hash function has a seed of its own, for the formula takes them for independent.

The rule: in order of rank, lowest (generation, id) first, a text is dropped when one that is *kept* and of lower rank is
near it. Of a chain a ~ b ~ c where a and c are not near, c stays. The rule depends on the ranks alone, so that the order of
files and rows does not show, and on lower ranks alone, so that a later generation removes nothing of an earlier one.

Curation makes one pass each over documents, x and y, over the survivors of the one before. Of x and of y only those of one kind
and view are compared, as in exact deduplication. A document is what its pairs hold, of one generation, dropped as duplicates or
not; it is compared while any of its rows survives, and where it goes all of its rows go.

Bounded memory: texts are streamed; shingles and band hashes go to files in the scratch folder; buckets are joined in SQL, a
band at a time, which spills; what is held is 17 bytes a text. In a bucket a text meets the `bucket_texts` lowest only.

Shingles are hashed, and what contamination is judged by too. A word is a run of letters and digits, or one character where the
script has no spaces (scripts.py); case, spacing, punctuation and compatibility forms (full-width letters,
ligatures) do not count. A text of fewer than n words is one gram: all that it has.

Legend: T texts, W words of all texts, G grams of all texts.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.config.data import NearDuplicatesConfig
from pipeline_lib.curation.dedup import Curation
from pipeline_lib.errors import UserError
from pipeline_lib.languages.scripts import WORD_WEIGHT, is_spaced, tokens, weights

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, of 2**64 divided by the golden ratio
MAX_CACHED_WORDS = 1_000_000  # some 150 MB


class WordHashes(dict[str, int]):
    """64 bits of each word, the same on every machine; remembers the words that it saw, up to a bound."""

    def __missing__(self, word: str) -> int:
        if len(self) >= MAX_CACHED_WORDS:
            self.clear()
        value = self[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        return value


_HASHES = WordHashes()


class HashedWords(NamedTuple):
    """The hashed words of all texts, one after the other (W, uint64), where each text begins and ends (T + 1), their weights.

    Weights are of scripts.py (W); None where all words count the same.
    """

    hashes_W: np.ndarray
    offsets: np.ndarray
    weights_W: np.ndarray | None


def hash_words(texts: Sequence[str], weighed: bool = False) -> HashedWords:
    """Split and hash texts.

    Args:
        weighed: grams are to be as many words as weigh n, rather than n words.
    """
    found = [tokens(text) for text in texts]
    offsets = np.cumsum([0, *map(len, found)])
    hashes_W = np.fromiter(map(_HASHES.__getitem__, chain.from_iterable(found)), np.uint64, int(offsets[-1]))
    if not weighed or all(map(is_spaced, texts)):
        return HashedWords(hashes_W, offsets, None)
    return HashedWords(hashes_W, offsets, np.fromiter(chain.from_iterable(map(weights, found)), np.int64, int(offsets[-1])))


def grams(words: HashedWords, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The n-grams of each text as 64-bit hashes in order (G, uint64), and where those of each text begin and end (T + 1).

    Args:
        n: words of a gram, or what they weigh together; a text of fewer words that has any is one gram.
    """
    offsets, sizes_T = words.offsets, np.diff(words.offsets)
    if words.weights_W is not None:
        starts_G, lengths_G, counts_T = _weighed(words.weights_W, offsets, n)
    else:
        counts_T = np.where(sizes_T >= n, sizes_T - n + 1, np.minimum(sizes_T, 1))
        starts_G = np.arange(counts_T.sum()) + np.repeat(offsets[:-1] - np.cumsum(counts_T) + counts_T, counts_T)
        lengths_G = np.repeat(np.minimum(sizes_T, n), counts_T)
    hashes_G = np.empty(len(starts_G), np.uint64)
    for length in np.unique(lengths_G):
        which = np.flatnonzero(lengths_G == length)
        hashes_G[which] = _fold(words.hashes_W, starts_G[which], int(length))
    return hashes_G, np.concatenate([[0], np.cumsum(counts_T)])


def _weighed(weights_W: np.ndarray, offsets: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each gram begins, its words, and the grams of each text."""
    before = np.concatenate([[0], np.cumsum(weights_W)])
    ends_W = np.searchsorted(before, before[:-1] + n * WORD_WEIGHT)
    texts_W = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    fits = ends_W <= offsets[1:][texts_W]
    counts_T = np.bincount(texts_W[fits], minlength=len(offsets) - 1)
    alone = (counts_T == 0)[texts_W] & (np.arange(len(texts_W)) == offsets[:-1][texts_W])
    starts_G = np.flatnonzero(fits | alone)
    ends_G = np.where(fits, ends_W, offsets[1:][texts_W])[starts_G]
    return starts_G, ends_G - starts_G, np.where(counts_T, counts_T, np.minimum(np.diff(offsets), 1))


def shingle_sets(texts: Sequence[str], n: int, weighed: bool = False) -> list[np.ndarray]:
    """The set of n-grams of each text: sorted, each once."""
    hashes_G, ends = grams(hash_words(texts, weighed), n)
    return [_sorted_once(hashes_G[begin:end]) for begin, end in pairwise(ends)]


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """The Jaccard index of two sets as `shingle_sets` gives them; 0 where both are empty."""
    shared = np.intersect1d(one, other, assume_unique=True).size
    return shared / max(1, one.size + other.size - shared)


def mix(values: np.ndarray) -> np.ndarray:
    """Spread 64-bit values evenly: the finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _sorted_once(values: np.ndarray) -> np.ndarray:
    values = np.sort(values)  # np.unique hashes first, which takes five times as long for some hundred values
    return values[np.flatnonzero(np.diff(values, prepend=~values[:1]))]


def _fold(words_W: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """The hash of `length` words from each start."""
    hashes = np.zeros(len(starts), np.uint64)
    for at in range(length):
        hashes = hashes * MULTIPLIER + words_W[starts + at]
    return mix(hashes)


FIRST_SEED = 1  # of as many hash functions as there are permutations
ROUNDING = 1e-9  # 0.8 * 10 must not count as more than 8
BATCH_CHARACTERS = 2_000_000  # texts hashed at a time: some 50 MB with their shingles

_IDENTICAL = """
CREATE OR REPLACE TEMP TABLE identical AS
SELECT rank FROM read_parquet($signatures) QUALIFY row_number() OVER (PARTITION BY scope, content ORDER BY rank) > 1
"""

_CANDIDATES = """
INSERT INTO candidates
WITH members AS (
    SELECT rank, scope, {band} AS bucket, row_number() OVER (PARTITION BY scope, {band} ORDER BY rank) AS place
    FROM read_parquet($signatures) ANTI JOIN identical USING (rank)
)
SELECT high.rank, low.rank FROM members AS low JOIN members AS high USING (scope, bucket)
WHERE low.place < high.place AND low.place <= $most
"""


class RankedText(NamedTuple):
    """A text to compare: its rank from 0, lower ones being kept first; only texts of one scope are compared."""

    rank: int
    scope: int
    text: str


def find_near_duplicates(
    texts: Iterable[RankedText], n: int, config: NearDuplicatesConfig, connection: duckdb.DuckDBPyConnection, scratch: Path
) -> np.ndarray:
    """The ranks of the texts to drop, in rising order.

    Args:
        texts: in any order; each rank below `n` at most once. Texts without a word are never dropped.
        n: how many ranks there are.
        connection: the engine that joins buckets; its memory limit and threads hold.
        scratch: an empty folder for shingles and signatures.

    Raises:
        UserError: `rensa` is not installed.
    """
    with ShingleFile(scratch / "shingles", n) as shingles:
        signatures = scratch / "signatures.parquet"
        _write_signatures(texts, config, shingles, signatures)
        parameters = {"signatures": str(signatures)}
        connection.execute(_IDENTICAL, parameters)
        connection.execute("CREATE OR REPLACE TEMP TABLE candidates (high BIGINT, low BIGINT)")
        for band in range(config.bands):
            connection.execute(_CANDIDATES.format(band=f"band_{band}"), {**parameters, "most": config.bucket_texts})
        identical = connection.execute("SELECT rank FROM identical").fetchnumpy()["rank"]
        found = connection.sql("SELECT DISTINCT high, low FROM candidates ORDER BY high, low").to_arrow_reader(100_000)
        dropped = _decide(found, identical, shingles, config.threshold or 0.0)
        connection.execute("DROP TABLE candidates; DROP TABLE identical")
    return np.flatnonzero(dropped)


def _decide(candidates: Iterable[pa.RecordBatch], identical: np.ndarray, shingles: ShingleFile, threshold: float) -> np.ndarray:
    """Mark each rank that is dropped. Candidates come in order of the higher rank, so that the lower one is decided already.

    Texts of identical sets were no candidates but the lowest of them: where that one is kept it is near the others, and
    where it is dropped, what dropped it is near them as well.
    """
    dropped = np.zeros(len(shingles.sizes), bool)
    dropped[identical] = True
    for batch in candidates:
        for high, low in zip(batch["high"].to_pylist(), batch["low"].to_pylist(), strict=True):
            if not dropped[high] and not dropped[low]:
                dropped[high] = shingles.are_near(high, low, threshold)
    return dropped


class ShingleFile:
    """The shingle set of every rank, on disk; in memory is where each lies."""

    def __init__(self, path: Path, n: int) -> None:
        self.stream = path.open("w+b")
        self.starts = np.zeros(n, np.int64)
        self.sizes = np.zeros(n, np.int64)

    def __enter__(self) -> ShingleFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def append(self, rank: int, shingles: np.ndarray) -> None:
        """Keep a set."""
        self.starts[rank], self.sizes[rank] = self.stream.tell(), shingles.size
        self.stream.write(shingles.tobytes())

    def read(self, rank: int) -> np.ndarray:
        """The set of a rank."""
        self.stream.seek(int(self.starts[rank]))
        return np.frombuffer(self.stream.read(int(self.sizes[rank]) * 8), np.uint64)

    def are_near(self, one: int, other: int, threshold: float) -> bool:
        """True where the Jaccard index reaches the threshold, which sets of too different sizes cannot."""
        small, large = sorted((int(self.sizes[one]), int(self.sizes[other])))
        if small < threshold * large - ROUNDING:
            return False
        return jaccard(self.read(one), self.read(other)) >= threshold - ROUNDING


def _write_signatures(texts: Iterable[RankedText], config: NearDuplicatesConfig, shingles: ShingleFile, path: Path) -> None:
    """A row a text that has words: rank, scope, the hash of its set, and the hash of each band."""
    bands = [(f"band_{band}", pa.int64()) for band in range(config.bands)]
    schema = pa.schema([("rank", pa.int64()), ("scope", pa.int32()), ("content", pa.int64()), *bands])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for batch in _batches(texts):
            sets = shingle_sets([item.text for item in batch], config.shingle_words)
            rows = [(item, found) for item, found in zip(batch, sets, strict=True) if found.size]
            if not rows:
                continue
            for item, found in rows:
                shingles.append(item.rank, found)
            columns = [
                pa.array([item.rank for item, _ in rows], pa.int64()),
                pa.array([item.scope for item, _ in rows], pa.int32()),
                pa.array([_content_hash(found) for _, found in rows], pa.int64()),
                *(pa.array(band) for band in band_hashes([found for _, found in rows], config).T),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def band_hashes(sets: list[np.ndarray], config: NearDuplicatesConfig) -> np.ndarray:
    """The hash of each band of the MinHash signature of each set, none being empty: (sets, bands), int64.

    Raises:
        UserError: `rensa` is not installed.
    """
    try:
        from rensa import RMinHash
    except ImportError as error:
        raise UserError(
            "curate: near-duplicates need the package rensa, which is not installed; install cpt-factory[dumps], or set"
            " curate.near.threshold to 0"
        ) from error
    offsets = np.cumsum([0, *(found.size for found in sets)]).astype(np.uint64)
    flat = np.concatenate(sets)
    rows_a_band = config.permutations // config.bands
    hashes = np.zeros((len(sets), config.bands), np.uint64)
    for at in range(config.permutations):
        # a call of rensa gives functions that draw from a set without replacement: one a call, so that they are independent
        matrix: Any = RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, 1, FIRST_SEED + at)
        band = hashes[:, at // rows_a_band]
        band[:] = band * MULTIPLIER + np.array(matrix.to_rows(), np.uint64)[:, 0]
    return mix(hashes).view(np.int64)


def _content_hash(shingles: np.ndarray) -> int:
    return int.from_bytes(hashlib.blake2b(shingles.tobytes(), digest_size=8).digest(), "little", signed=True)


def _batches(texts: Iterable[RankedText]) -> Iterator[list[RankedText]]:
    batch: list[RankedText] = []
    characters = 0
    for item in texts:
        batch.append(item)
        characters += len(item.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


BATCH_ROWS = 1_000  # texts that the engine hands over at a time

_RANKED_ROWS = """
CREATE OR REPLACE TEMP TABLE ranked AS
SELECT id, row_number() OVER (ORDER BY generation, id) - 1 AS rank, dense_rank() OVER (ORDER BY kind, view) AS scope
FROM keys WHERE dropped = ''
"""

_ROW_TEXTS = "SELECT rank, scope, {side} FROM read_parquet($paths) AS pairs JOIN ranked USING (id)"

_RANKED_DOCUMENTS = """
CREATE OR REPLACE TEMP TABLE ranked AS
SELECT document_id, generation, row_number() OVER (ORDER BY generation, document_id) - 1 AS rank
FROM keys WHERE dropped = '' GROUP BY document_id, generation
"""

# in the order of rank, so that the rows of one document follow each other
_DOCUMENT_TEXTS = """
SELECT rank, 0 AS scope, x || chr(10) || y AS text
FROM read_parquet($paths) AS pairs
JOIN (SELECT id, document_id, generation FROM keys WHERE dropped <> 'contaminated') AS clean USING (id)
JOIN ranked ON ranked.document_id = clean.document_id AND ranked.generation = clean.generation
ORDER BY rank, pairs.position, pairs.id
"""

_DROP_ROWS = """
UPDATE keys SET dropped = $reason FROM ranked JOIN gone USING (rank) WHERE keys.id = ranked.id
"""

_DROP_DOCUMENTS = """
UPDATE keys SET dropped = $reason FROM ranked JOIN gone USING (rank)
WHERE keys.document_id = ranked.document_id AND keys.generation = ranked.generation AND keys.dropped = ''
"""


def drop_near_duplicates(curation: Curation, config: NearDuplicatesConfig) -> None:
    """Mark the rows to drop as `near_duplicate_document`, `near_duplicate_x` and `near_duplicate_y`.

    Args:
        curation: the table of keys, exact duplicates dropped.

    Raises:
        UserError: `rensa` is not installed.
    """
    for side in config.sides:
        with tempfile.TemporaryDirectory(dir=curation.scratch) as folder:
            _drop_side(curation, side, config, Path(folder))


def _drop_side(curation: Curation, side: str, config: NearDuplicatesConfig, scratch: Path) -> None:
    connection = curation.connection
    of_documents = side == "document"
    connection.execute(_RANKED_DOCUMENTS if of_documents else _RANKED_ROWS)
    (n,) = connection.execute("SELECT count(*) FROM ranked").fetchall()[0]
    query = _DOCUMENT_TEXTS if of_documents else _ROW_TEXTS.format(side=side)
    gone = find_near_duplicates(_texts(curation, query), n, config, connection, scratch)
    connection.register("gone", pa.table({"rank": gone}))
    connection.execute(_DROP_DOCUMENTS if of_documents else _DROP_ROWS, {"reason": f"near_duplicate_{side}"})
    connection.unregister("gone")
    connection.execute("DROP TABLE ranked")


def _texts(curation: Curation, query: str) -> Iterator[RankedText]:
    """One text a rank: rows that follow each other and have the same rank are one."""
    reader = curation.connection.sql(query, params={"paths": curation.paths}).to_arrow_reader(BATCH_ROWS)
    rows = (row for batch in reader for row in zip(*(column.to_pylist() for column in batch.columns), strict=True))
    for (rank, scope), found in groupby(rows, key=lambda row: row[:2]):
        yield RankedText(rank, scope, "\n".join(row[2] for row in found))
