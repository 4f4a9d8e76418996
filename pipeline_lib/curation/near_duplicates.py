"""Near-duplicates: texts whose sets of shingles (word n-grams) have a Jaccard index of at least the threshold.

MinHash with banding (Broder 1997; Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4) names the
candidates: two texts of index s share one of b bands of r hashes with probability 1 - (1 - s^r)^b. Each candidate is then
verified on the two sets themselves, so that what is called near is near; only recall is a matter of chance, and of a fixed
one: the hashes are seeded. Each hash function has a seed of its own, for the formula takes them for independent.

The rule: in order of rank, lowest (generation, id) first, a text is dropped when one that is *kept* and of lower rank is
near it. Of a chain a ~ b ~ c where a and c are not near, c stays. The rule depends on the ranks alone, so that the order of
files and rows does not show, and on lower ranks alone, so that a later generation removes nothing of an earlier one.

Bounded memory: texts are streamed; shingles and band hashes go to files in the scratch folder; buckets are joined in SQL, a
band at a time, which spills; what is held is 17 bytes a text. In a bucket a text meets the `bucket_texts` lowest only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.curate_config import NearDuplicatesConfig
from pipeline_lib.curation.shingles import MULTIPLIER, jaccard, mix, shingle_sets
from pipeline_lib.errors import UserError

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


class Text(NamedTuple):
    """A text to compare: its rank from 0, lower ones being kept first; only texts of one scope are compared."""

    rank: int
    scope: int
    text: str


def find_near_duplicates(
    texts: Iterable[Text], n: int, config: NearDuplicatesConfig, connection: duckdb.DuckDBPyConnection, scratch: Path
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
        dropped = _decide(found, identical, shingles, config.threshold)
        connection.execute("DROP TABLE candidates; DROP TABLE identical")
    return np.flatnonzero(dropped)


def _decide(candidates: Iterable[pa.RecordBatch], identical: np.ndarray, shingles: ShingleFile, threshold: float) -> np.ndarray:
    """Whether each rank is dropped. Candidates come in order of the higher rank, so that the lower one is decided already.

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
        """Whether the Jaccard index reaches the threshold, which sets of too different sizes cannot."""
        small, large = sorted((int(self.sizes[one]), int(self.sizes[other])))
        if small < threshold * large - ROUNDING:
            return False
        return jaccard(self.read(one), self.read(other)) >= threshold - ROUNDING


def _write_signatures(texts: Iterable[Text], config: NearDuplicatesConfig, shingles: ShingleFile, path: Path) -> None:
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


def _batches(texts: Iterable[Text]) -> Iterator[list[Text]]:
    batch: list[Text] = []
    characters = 0
    for item in texts:
        batch.append(item)
        characters += len(item.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
