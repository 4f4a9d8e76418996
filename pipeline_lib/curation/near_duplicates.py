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

Text in a script without spaces has two sets, of its letters and of all its characters, and is near where either says so: five
letters are a short shingle, so that it matters whether the marks between them count, and both is right.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.config.data import NearDuplicatesConfig
from pipeline_lib.curation.dedup import ONE_A_TEXT, Curation
from pipeline_lib.curation.shingles import MULTIPLIER, character_sets, jaccard, mix, shingle_sets
from pipeline_lib.errors import UserError

FIRST_SEED = 1  # of as many hash functions as there are permutations
ROUNDING = 1e-9  # 0.8 * 10 must not count as more than 8
BATCH_CHARACTERS = 2_000_000  # texts hashed at a time: some 50 MB with their shingles

_IDENTICAL = """
CREATE OR REPLACE TEMP TABLE identical AS
SELECT rank FROM read_parquet($signatures) WHERE content IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY scope, content ORDER BY rank) > 1
"""

_CANDIDATES = """
INSERT INTO candidates
WITH members AS (
    SELECT rank, scope, {band} AS bucket, row_number() OVER (PARTITION BY scope, {band} ORDER BY rank) AS place
    FROM read_parquet($signatures) ANTI JOIN identical USING (rank)
)
SELECT high.rank, low.rank FROM members AS low JOIN members AS high USING (scope, bucket)
WHERE low.rank < high.rank AND low.place <= $most
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


Sets = list[np.ndarray]  # of words, and of characters where the script has no spaces


class ShingleFile:
    """The shingle sets of every rank, on disk; in memory is where they lie."""

    def __init__(self, path: Path, n: int) -> None:
        self.stream = path.open("w+b")
        self.starts = np.zeros(n, np.int64)
        self.sizes = np.zeros((n, 2), np.int32)

    def __enter__(self) -> ShingleFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def append(self, rank: int, sets: Sets) -> None:
        """Keep the sets of a text."""
        self.starts[rank] = self.stream.tell()
        for kind, shingles in enumerate(sets):
            self.sizes[rank, kind] = shingles.size
            self.stream.write(shingles.tobytes())

    def read(self, rank: int, kind: int) -> np.ndarray:
        """The set of a kind, of a rank."""
        before = int(self.sizes[rank, 0]) if kind else 0
        self.stream.seek(int(self.starts[rank]) + before * 8)
        return np.frombuffer(self.stream.read(int(self.sizes[rank, kind]) * 8), np.uint64)

    def are_near(self, one: int, other: int, threshold: float) -> bool:
        """True where the Jaccard index of either kind reaches the threshold, which sets of too different sizes cannot."""
        for kind in (0, 1):
            small, large = sorted((int(self.sizes[one, kind]), int(self.sizes[other, kind])))
            if not small or small < threshold * large - ROUNDING:
                continue
            if jaccard(self.read(one, kind), self.read(other, kind)) >= threshold - ROUNDING:
                return True
        return False


def _write_signatures(texts: Iterable[RankedText], config: NearDuplicatesConfig, shingles: ShingleFile, path: Path) -> None:
    """A row a set of a text that has words: rank, scope, the hash of each band, and in its first row the hash of its sets."""
    bands = [(f"band_{band}", pa.int64()) for band in range(config.bands)]
    schema = pa.schema([("rank", pa.int64()), ("scope", pa.int32()), ("content", pa.int64()), *bands])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for batch in _batches(texts):
            rows: list[tuple[int, int, int | None]] = []
            hashed: Sets = []
            for item, sets in _sets_of(batch, config.shingle_words):
                shingles.append(item.rank, sets)
                rows += [(item.rank, item.scope, None if kind else _content_hash(sets)) for kind in range(len(sets))]
                hashed += sets
            if rows:
                columns = [
                    pa.array(column, type=field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=False)
                ]
                columns += [pa.array(band) for band in band_hashes(hashed, config).T]
                writer.write_batch(pa.record_batch(columns, schema=schema))


def _sets_of(batch: list[RankedText], n: int) -> Iterator[tuple[RankedText, Sets]]:
    """The sets of each text that has words."""
    texts = [item.text for item in batch]
    for item, *sets in zip(batch, shingle_sets(texts, n), character_sets(texts, n), strict=True):
        if sets[0].size:
            yield item, [found for found in sets if found.size]


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


def _content_hash(sets: Sets) -> int:
    content = b"".join([found.tobytes() for found in sets])
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


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
FROM keys WHERE dropped = '' AND {which}
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
    rows = _RANKED_ROWS.format(which=ONE_A_TEXT if side == "y" else "true")
    connection.execute(_RANKED_DOCUMENTS if of_documents else rows)
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
