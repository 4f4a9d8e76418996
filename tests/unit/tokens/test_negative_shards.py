"""Shards whose rows carry hard negatives, and their contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_contracts.check_shards import check_shards, read_limits
from data_contracts.runner import check
from data_contracts.schemas import PAIRS_WITH_NEGATIVES, text_hash, tokens_schema
from data_contracts.shard_suite import shard_facts, shard_suite
from pipeline_lib.config.base import StageConfig
from pipeline_lib.config.data import ContractConfig, ShardConfig, TokenizerConfig
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Outcome, Stage, draft_part
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.dataset import TokenDataset
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
from pipeline_lib.tokens.shards import write_shards
from pipeline_lib.tokens.tokenizer import train_tokenizer

CONFIG = ShardConfig(max_x_tokens=8, max_y_tokens=12, rows_per_shard=7)
Row = dict[str, object]


def training_set(store: Store, rows: list[Row], name: str = "set") -> Artifact:
    def make(key: str) -> Outcome:
        scratch = store.scratch(name)
        table = pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["id"])), schema=PAIRS_WITH_NEGATIVES)
        pq.write_table(table, scratch / "pairs.parquet")
        return Outcome(parts=(store.commit_part(draft_part(Stage(name=name, version=1), key, "train"), scratch),))

    return store.build(Stage(name=name, version=1), StageConfig(), {}, make)


@pytest.fixture
def rows(a_pair: Callable[..., Row]) -> list[Row]:
    made = []
    for i in range(20):
        texts = [f"wrong answer {i} {k} " * (k + 1) for k in range(i % 4)]
        made.append({**a_pair("text", i, f"question {i}", f"right answer {i}"), "negatives": texts})
    return made


def test_every_negative_is_there_in_its_row_and_order(tmp_path: Path, rows: list[Row]) -> None:
    store = Store(tmp_path)
    table = training_set(store, rows)
    tokenizer = train_tokenizer(store, table, TokenizerConfig(vocab_size=300))
    shards = write_shards(store, table, tokenizer, CONFIG)
    dataset, own = TokenDataset.open(shards, "train-neighbour"), PairTokenizer.load(tokenizer.part_folder())
    expected = sorted(rows, key=lambda row: str(row["id"]))
    order = np.random.default_rng(1).permutation(len(rows))
    got = dataset.rows(order)
    for row, ids, hashes in zip([expected[i] for i in order], got.negative_ids, got.negative_hashes, strict=True):
        texts = list(row["negatives"])  # type: ignore[call-overload]
        assert [text.tolist() for text in ids] == own.encode(texts, "y", 12)
        assert hashes.tolist() == [text_hash(text) for text in texts]
    assert shards.manifest.facts["negatives"] == sum(i % 4 for i in range(20))
    assert shards.manifest.facts["negative_truncated"] > 0
    verdict = check_shards(store, shards, tokenizer, ContractConfig())
    assert verdict.manifest.counts.n_out == 20


def test_other_negatives_of_the_same_pairs_are_other_shards(tmp_path: Path, rows: list[Row]) -> None:
    store = Store(tmp_path)
    table = training_set(store, rows)
    tokenizer = train_tokenizer(store, table, TokenizerConfig(vocab_size=300))
    mined = [{**row, "negatives": ["mined"]} for row in rows]
    first, second = (write_shards(store, made, tokenizer, CONFIG) for made in (table, training_set(store, mined, "mined")))
    assert first.manifest.parts[0].key != second.manifest.parts[0].key
    assert TokenDataset.open(second, "train-neighbour").rows(np.arange(20)).negative_hashes[0] == [text_hash("mined")]


def test_a_bad_negative_breaks_its_rows_contract(tmp_path: Path, rows: list[Row]) -> None:
    store = Store(tmp_path)
    table = training_set(store, rows)
    tokenizer = train_tokenizer(store, table, TokenizerConfig(vocab_size=300))
    limits = read_limits(write_shards(store, table, tokenizer, CONFIG), tokenizer)
    x_open, x_close, y_open, y_close, pad = PairTokenizer.load(tokenizer.part_folder()).delimiters.all_ids
    good = [y_open, 20, y_close]
    cases: list[tuple[list[list[int]], int, tuple[str, ...]]] = [
        ([], 0, ()),
        ([good, good], 2, ()),
        ([good, [x_open, 20, x_close]], 2, ("negative_malformed",)),
        ([[y_open, *[20] * 11, y_close]], 1, ("negative_malformed",)),
        ([[y_open, pad, y_close]], 1, ("negative_malformed",)),
        ([[y_open, 299, y_close], [y_open, 300, y_close]], 2, ("negative_malformed",)),
        ([[]], 1, ("negative_malformed",)),
        ([good], 2, ("negative_hashes_differ",)),
    ]
    ids = [x_open, 20, x_close]
    made = [("0" * 32, ids, good, 1, 2, 3, negatives, list(range(n))) for negatives, n, _ in cases]
    schema = tokens_schema(limits.vocab_size, negatives=True)
    columns = [pa.array([row[i] for row in made], field.type) for i, field in enumerate(schema)]
    facts = shard_facts(pa.Table.from_arrays(columns, schema=schema), limits)
    expected = {i: reasons for i, (_, _, reasons) in enumerate(cases) if reasons}
    assert check(facts, shard_suite(limits, negatives=True)).flagged == expected
