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


@dataclass(frozen=True)
class TokenLimits:
    """What the tokenizer and the shard config promise: ids around a text, ids in all, and the longest x and y (tokens).

    `reserved` are the ids that no text may produce: all five of our own tokenizer. A given causal language model's own
    brackets are none, as text holds them too; those that were appended to its vocabulary are.
    """

    x_prefix: tuple[int, ...]
    x_suffix: tuple[int, ...]
    y_prefix: tuple[int, ...]
    y_suffix: tuple[int, ...]
    vocab_size: int
    max_x_tokens: int
    max_y_tokens: int
    reserved: tuple[int, ...]

    def around(self, side: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids before and behind a text of one side."""
        return (self.x_prefix, self.x_suffix) if side == "x" else (self.y_prefix, self.y_suffix)

    def fewest(self, side: str) -> int:
        """Tokens of a text whose characters all normalise away: the ids around it alone."""
        return max(1, sum(map(len, self.around(side))))


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
            *_side("x", limits, limits.max_x_tokens),
            *_side("y", limits, limits.max_y_tokens),
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


def _side(side: str, limits: TokenLimits, max_tokens: int) -> tuple[Expect, ...]:
    least, (prefix, suffix) = limits.fewest(side), limits.around(side)
    opening, closing = _named("opening", prefix), _named("closing", suffix)
    return (
        within(f"{side}_tokens", least, max_tokens, f"{side}_length", f"{least} to {max_tokens} ids, delimiters included"),
        within(f"{side}_first", len(prefix), len(prefix), f"{side}_open", f"{opening} first"),
        # the embedding is read at the closing delimiter: a row cut without it is pooled at an arbitrary token
        within(f"{side}_last", len(suffix), len(suffix), f"{side}_close", f"{closing} last"),
        within(f"{side}_reserved", 0, 0, f"{side}_reserved_inside", "no reserved id between the delimiters"),
        within(f"{side}_outside", 0, 0, f"{side}_id_outside", "ids within the vocabulary"),
    )


def _named(which: str, ids: tuple[int, ...]) -> str:
    return f"the {which} delimiter{'s' * (len(ids) != 1)} {', '.join(map(str, ids))}"


def shard_facts(tokens: pa.Table, limits: TokenLimits) -> pa.Table:
    """The small columns that `shard_suite` looks at, row for row, computed from the lists' offsets."""
    tokens = tokens.combine_chunks()
    columns: dict[str, pa.Array | pa.ChunkedArray] = {"pair_id": tokens["pair_id"].fill_null("")}
    for side in ("x", "y"):
        facts = _list_facts(tokens[f"{side}_ids"], side, limits)
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
    facts = _list_facts(pa.chunked_array([nested.flatten()]), "y", limits)
    bad_M = (facts["tokens"] < limits.fewest("y")) | (facts["tokens"] > limits.max_y_tokens)
    bad_M |= (facts["first"] != len(limits.y_prefix)) | (facts["last"] != len(limits.y_suffix))
    bad_M |= (facts["reserved"] > 0) | (facts["outside"] > 0)
    ends_N = np.cumsum(per_row_N)
    bad_N = _count(bad_M, ends_N - per_row_N, ends_N)
    return {"negatives_malformed": pa.array(bad_N), "negatives_hashed": pa.array(hashes_N == per_row_N)}


def _list_facts(column: pa.ChunkedArray, side: str, limits: TokenLimits) -> dict[str, np.ndarray]:
    """Facts of each row: its tokens, how many of its first and last ids are the delimiters, and the ids that should not be."""
    prefix, suffix = limits.around(side)
    lists = column.combine_chunks() if column.num_chunks else pa.array([], column.type)
    lengths_N = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    ends_N = np.cumsum(lengths_N)
    starts_N = ends_N - lengths_N
    ids_T = lists.flatten().cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    first_N = _matches(ids_T, starts_N, prefix, starts_N, ends_N)
    last_N = _matches(ids_T, ends_N - len(suffix), suffix, starts_N, ends_N)
    reserved_T = np.isin(ids_T, limits.reserved)
    outside_T = (ids_T < 0) | (ids_T >= limits.vocab_size)
    inner_starts_N = np.minimum(starts_N + len(prefix), ends_N)
    inner_ends_N = np.maximum(ends_N - len(suffix), inner_starts_N)
    return {
        "tokens": lengths_N,
        "first": first_N,
        "last": last_N,
        "reserved": _count(reserved_T, inner_starts_N, inner_ends_N),
        "outside": _count(outside_T, starts_N, ends_N),
    }


def _matches(
    ids_T: np.ndarray, places_N: np.ndarray, expected: tuple[int, ...], starts_N: np.ndarray, ends_N: np.ndarray
) -> np.ndarray:
    """How many of the expected ids stand in each row, from a place on."""
    padded_T, found_N = np.append(ids_T, -1), np.zeros_like(ends_N)
    for k, id_ in enumerate(expected):
        inside_N = (places_N + k >= starts_N) & (places_N + k < ends_N)
        found_N += padded_T[np.where(inside_N, places_N + k, -1)] == id_
    return found_N


def _count(flags_T: np.ndarray, starts_N: np.ndarray, ends_N: np.ndarray) -> np.ndarray:
    sums = np.concatenate([[0], np.cumsum(flags_T)])
    return sums[ends_N] - sums[starts_N]
