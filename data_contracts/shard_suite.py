"""Contract of token ids (rows of schemas.tokens_schema).

Legend: N rows, T tokens of all rows of a column, one after another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_contracts.suite import HEX_ID, ContractSuite, Expect, is_true, matches, within

CONTRACT_VERSION = 2

MIN_TOKENS = 2  # both delimiters; a text whose characters all normalise away keeps these


@dataclass(frozen=True)
class TokenLimits:
    """What the tokenizer and the shard config promise: delimiters, ids in all, and the longest x and y (tokens).

    `reserved` are the ids that no text may produce: all five of our own tokenizer. A given causal language model's own
    brackets are none, as text holds them too; those that were appended to its vocabulary are.
    """

    x_open: int
    x_close: int
    y_open: int
    y_close: int
    pad: int
    vocab_size: int
    max_x_tokens: int
    max_y_tokens: int
    reserved: tuple[int, ...]


def has_negatives(schema: pa.Schema) -> bool:
    """True where rows of this schema carry hard negatives."""
    return "negative_ids" in schema.names


def shard_suite(limits: TokenLimits, negatives: bool = False) -> ContractSuite:
    """The contract of a row of token ids: it is our own output, so that a single bad row is a fault of the program.

    Args:
        limits: of the tokenizer and the shard config.
        negatives: rows carry hard negatives, each of which keeps the contract of a y.
    """
    return ContractSuite(
        name="shards",
        version=CONTRACT_VERSION,
        expectations=(
            matches("pair_id", HEX_ID, "pair_id_malformed", "32 hexadecimal digits"),
            *_side("x", limits.x_open, limits.x_close, limits.max_x_tokens),
            *_side("y", limits.y_open, limits.y_close, limits.max_y_tokens),
            *(
                is_true(f"{name}_there", f"{name}_null", "a 64-bit hash: the masks of the loss compare it")
                for name in ("x_hash", "y_hash", "document_hash")
            ),
            *(_NEGATIVES if negatives else ()),
        ),
        advice="remove the shards stage's folder and run again; if it comes back, the tokenizer and the shards disagree",
    )


_NEGATIVES = (
    within("negatives_malformed", 0, 0, "negative_malformed", "hard negatives that each keep the contract of a y"),
    is_true("negatives_hashed", "negative_hashes_differ", "one hash for each hard negative"),
)


def _side(side: str, open_id: int, close_id: int, max_tokens: int) -> tuple[Expect, ...]:
    return (
        within(
            f"{side}_tokens",
            MIN_TOKENS,
            max_tokens,
            f"{side}_length",
            f"{MIN_TOKENS} to {max_tokens} ids, delimiters included",
        ),
        within(f"{side}_first", open_id, open_id, f"{side}_open", f"the opening delimiter {open_id} first"),
        # the embedding is read at the closing delimiter: a row cut without it is pooled at an arbitrary token
        within(f"{side}_last", close_id, close_id, f"{side}_close", f"the closing delimiter {close_id} last"),
        within(f"{side}_reserved", 0, 0, f"{side}_reserved_inside", "no reserved id between the delimiters"),
        within(f"{side}_outside", 0, 0, f"{side}_id_outside", "ids within the vocabulary"),
    )


def shard_facts(tokens: pa.Table, limits: TokenLimits) -> pa.Table:
    """The small columns that `shard_suite` looks at, row for row, computed from the lists' offsets."""
    tokens = tokens.combine_chunks()
    columns: dict[str, pa.Array | pa.ChunkedArray] = {"pair_id": tokens["pair_id"].fill_null("")}
    for side in ("x", "y"):
        facts = _list_facts(tokens[f"{side}_ids"], limits)
        columns.update({f"{side}_{name}": pa.array(values) for name, values in facts.items()})
    for name in ("x_hash", "y_hash", "document_hash"):
        columns[f"{name}_there"] = tokens[name].is_valid()
    if has_negatives(tokens.schema):
        columns |= _negative_facts(tokens, limits)
    return pa.table(columns)


def _negative_facts(tokens: pa.Table, limits: TokenLimits) -> dict[str, pa.Array]:
    """How many of a row's hard negatives are no good y, and whether each has its hash."""
    nested = pc.fill_null(tokens["negative_ids"], []).combine_chunks()
    per_row_N = nested.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    hashes_N = pc.fill_null(pc.list_value_length(tokens["negative_hashes"]), -1).to_numpy()
    facts = _list_facts(pa.chunked_array([nested.flatten()]), limits)
    bad_M = (facts["tokens"] < MIN_TOKENS) | (facts["tokens"] > limits.max_y_tokens)
    bad_M |= (facts["first"] != limits.y_open) | (facts["last"] != limits.y_close)
    bad_M |= (facts["reserved"] > 0) | (facts["outside"] > 0)
    ends_N = np.cumsum(per_row_N)
    bad_N = _count(bad_M, ends_N - per_row_N, ends_N)
    return {"negatives_malformed": pa.array(bad_N), "negatives_hashed": pa.array(hashes_N == per_row_N)}


def _list_facts(column: pa.ChunkedArray, limits: TokenLimits) -> dict[str, np.ndarray]:
    lists = column.combine_chunks() if column.num_chunks else pa.array([], column.type)
    lengths_N = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    ends_N = np.cumsum(lengths_N)
    starts_N = ends_N - lengths_N
    ids_T = lists.flatten().cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    padded_T = np.append(ids_T, -1)  # an empty row at the end has its place here
    filled_N = lengths_N > 0
    first_N = np.where(filled_N, padded_T[starts_N], -1)
    last_N = np.where(filled_N, padded_T[ends_N - 1], -1)
    reserved_T = np.isin(ids_T, limits.reserved)
    outside_T = (ids_T < 0) | (ids_T >= limits.vocab_size)
    first_is_reserved_N = (np.isin(first_N, limits.reserved) & filled_N).astype(np.int64)
    last_is_reserved_N = (np.isin(last_N, limits.reserved) & (lengths_N > 1)).astype(np.int64)
    return {
        "tokens": lengths_N,
        "first": first_N,
        "last": last_N,
        "reserved": _count(reserved_T, starts_N, ends_N) - first_is_reserved_N - last_is_reserved_N,
        "outside": _count(outside_T, starts_N, ends_N),
    }


def _count(flags_T: np.ndarray, starts_N: np.ndarray, ends_N: np.ndarray) -> np.ndarray:
    sums = np.concatenate([[0], np.cumsum(flags_T)])
    return sums[ends_N] - sums[starts_N]
