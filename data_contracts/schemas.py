"""Schemas of every table that one stage hands to the next: the ground floor, which imports pyarrow only.

Ids are 32 hexadecimal digits (128 bits of sha256), hashes are the first 64 bits of sha256 as a signed integer: equal texts
have equal hashes on every machine.
"""

import hashlib

import pyarrow as pa

KINDS = ("code", "text")
SPLITS = ("train", "validation", "test")


def _columns(*columns: tuple[str, pa.DataType], nullable: tuple[str, ...] = ()) -> pa.Schema:
    return pa.schema([pa.field(name, type_, nullable=name in nullable) for name, type_ in columns])


DOCUMENTS = _columns(
    ("id", pa.string()),
    ("source", pa.string()),  # the dump it comes from, e.g. "python-stdlib", "numpy 2.4.6"
    ("group", pa.string()),  # what a split may not cut through: the package, repository or document
    ("path", pa.string()),  # inside the source, with forward slashes
    ("language", pa.string()),  # "python", or "en" and the like for prose
    ("licence", pa.string()),
    ("kind", pa.string()),  # "code": a source file; "text": prose
    ("text", pa.large_string()),
    nullable=("licence",),
)

PAIRS = _columns(
    ("id", pa.string()),
    ("kind", pa.string()),  # "code": (docstring, function); "text": (piece, next piece)
    ("view", pa.string()),  # which rule made the pair, e.g. "docstring", "name", "neighbour"
    ("x", pa.large_string()),
    ("y", pa.large_string()),
    ("x_hash", pa.int64()),
    ("y_hash", pa.int64()),
    ("document_id", pa.string()),
    ("source", pa.string()),
    ("group", pa.string()),
    ("path", pa.string()),
    ("line", pa.int32()),  # of the first line of y in its file, from 1
    ("position", pa.int32()),  # of the pair in its document, from 0
    ("name", pa.string()),  # the qualified name of a function; the heading or file name of a passage
    ("language", pa.string()),
    ("licence", pa.string()),
    ("generation", pa.int32()),  # the growth of the data set that brought it: a later one never removes an earlier row
    nullable=("licence",),
)

# pairs of a training set with explicit hard negatives: y-side texts, any number a pair, the most telling first
PAIRS_WITH_NEGATIVES = pa.schema([*PAIRS, *_columns(("negatives", pa.list_(pa.large_string())))])

QUARANTINE = _columns(
    ("stage", pa.string()),
    ("source", pa.string()),
    ("path", pa.string()),
    ("offset", pa.int64()),  # byte or row where the trouble lies, -1 where it is the whole file
    ("record_id", pa.string()),
    ("reason", pa.string()),  # one short snake_case word a kind, to count by
    ("detail", pa.string()),  # got, expected, what to do
)

# parts of a dump's files that were not read, for a file ended early or has a gap: no rows, so none are among the quarantined
LOSSES = _columns(
    ("source", pa.string()),
    ("path", pa.string()),  # of the file, inside the source
    ("reason", pa.string()),
    ("count", pa.int64()),  # of such gaps in the file
    ("offset", pa.int64()),  # of the first: a byte or a record, -1 where nobody knows
    ("texts", pa.int64()),  # that were read of the file before it
    ("lost_bytes", pa.int64()),  # of the file on disk, in all of them
    ("file_bytes", pa.int64()),
    ("detail", pa.string()),  # of the first: got, expected, what to do
)

MAX_UINT16_IDS = 65_536


def tokens_schema(vocab_size: int, negatives: bool = False) -> pa.Schema:
    """The columns of token shards, ids in the smallest unsigned integer that holds the vocabulary.

    Args:
        vocab_size: ids in all.
        negatives: rows carry explicit hard negatives, any number each, in the delimiters of y.
    """
    ids = pa.list_(pa.uint16() if vocab_size <= MAX_UINT16_IDS else pa.uint32())
    schema = _columns(
        ("pair_id", pa.string()),
        ("x_ids", ids),  # with both delimiters
        ("y_ids", ids),
        ("x_hash", pa.int64()),
        ("y_hash", pa.int64()),
        ("document_hash", pa.int64()),
    )
    if not negatives:
        return schema
    more = _columns(("negative_ids", pa.list_(ids)), ("negative_hashes", pa.list_(pa.int64())))
    return pa.schema([*schema, *more])


# which split each whole document is in, for language modelling, and why others are left out
DOCUMENT_SPLITS = _columns(
    ("id", pa.string()),  # of the document
    ("split", pa.string()),  # "" where it is left out
    ("dropped", pa.string()),  # the reason, "" where there is none
)


def text_tokens_schema(vocab_size: int) -> pa.Schema:
    """The columns of whole tokenized documents, ids in the smallest unsigned integer that holds the vocabulary."""
    ids = pa.list_(pa.uint16() if vocab_size <= MAX_UINT16_IDS else pa.uint32())
    return _columns(
        ("document_id", pa.string()),
        ("ids", ids),  # without delimiters, the last one that of the text's end
        ("text_bytes", pa.int64()),  # of the text as it was read, in UTF-8
        ("text_words", pa.int64()),  # between white space
    )


EVALUATIONS = _columns(
    ("model", pa.string()),  # "step-000240", "bm25", "tfidf"
    ("step", pa.int32()),  # -1 for a baseline
    ("split", pa.string()),
    ("kind", pa.string()),  # "code_search", "text_search", "classification", "similarity"
    ("task", pa.string()),
    ("metric", pa.string()),
    ("value", pa.float64()),
    ("low", pa.float64()),  # 95 % bootstrap interval
    ("high", pa.float64()),
    ("n", pa.int32()),  # queries, texts or pairs behind the figure
)

PER_QUERY = _columns(
    ("task", pa.string()),
    ("kind", pa.string()),
    ("metric", pa.string()),
    ("query_id", pa.string()),
    ("group", pa.string()),  # of the query's pair: its package or repository; "" where the set has none
    ("value", pa.float64()),  # what the query, text or pair got: reciprocal rank, 1 or 0 for a class, a pair's cosine
    ("target", pa.float64()),  # the other side of a correlation; 1 elsewhere
)

FEW_VALUES = pa.dictionary(pa.int32(), pa.string())  # a column of few different values

INDEX_ROWS = _columns(
    ("id", pa.string()),  # of a pair that holds the text
    ("kind", FEW_VALUES),
    ("name", pa.string()),
    ("path", pa.string()),
    ("line", pa.int32()),
    ("doc", pa.string()),  # first docstring line of a function, first words of a passage
    ("source", FEW_VALUES),
    ("language", FEW_VALUES),
    ("package", FEW_VALUES),  # the pair's group
    ("licence", FEW_VALUES),
    nullable=("licence",),
)

# what is read of the few rows that are shown; row for row those of INDEX_ROWS
INDEX_TEXTS = _columns(
    ("signature", pa.string()),  # of a function; "" of a passage
    ("text", pa.string()),  # its first characters, as many as the index keeps
)


def text_hash(text: str) -> int:
    """First 64 bits of sha256 of the text's UTF-8, as a signed integer: the identity that masks and deduplication use."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def row_id(*parts: str) -> str:
    """A 32-digit hexadecimal id that is a pure function of its parts."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]
