"""Shards hold every pair once, in the order of ids, to the byte; and are read by mapping."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.schemas import SPLITS, text_hash, tokens_schema
from pipeline_lib.config.data import ShardConfig, TokenizerConfig, WorkersConfig
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.runtime.machine import system_memory
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import arm, disarm
from pipeline_lib.store.store import Store
from pipeline_lib.tokens import shards as shards_stage
from pipeline_lib.tokens.dataset import TokenDataset, labels_of
from pipeline_lib.tokens.pair_tokenizer import RESERVED, PairTokenizer
from pipeline_lib.tokens.shards import rows_files, write_shards
from pipeline_lib.tokens.tokenizer import train_tokenizer

Row = dict[str, object]
CONFIG = ShardConfig(max_x_tokens=8, max_y_tokens=16, rows_per_shard=60)
N_CODE, N_TEXT = 130, 70


@pytest.fixture
def rows(a_pair: Callable[..., Row]) -> dict[str, list[Row]]:
    code = [a_pair("code", i, f"adds {i} to x", f"def add{i}(x):\n    return x + {i}\n" * (i % 5)) for i in range(N_CODE)]
    text = [a_pair("text", 1000 + i, f"piece {i} of prose", f"the next piece {i}") for i in range(N_TEXT)]
    held_out = [a_pair("code", 2000 + i, f"held out {i}", "y") for i in range(3)]
    return {"train": code + text, "validation": held_out, "test": held_out}


def made(root: Path, curated_of: Callable[..., Artifact], rows: dict[str, list[Row]]) -> tuple[Store, Artifact, Artifact]:
    store = Store(root)
    curated = curated_of(store, rows)
    return store, curated, train_tokenizer(store, curated, TokenizerConfig(vocab_size=320))


@pytest.fixture
def inputs(tmp_path: Path, curated_of: Callable[..., Artifact], rows: dict[str, list[Row]]) -> tuple[Store, Artifact, Artifact]:
    return made(tmp_path / "store", curated_of, rows)


def test_every_pair_is_there_once_in_id_order(inputs: tuple[Store, Artifact, Artifact], rows: dict[str, list[Row]]) -> None:
    shards = write_shards(*inputs, CONFIG)
    tokenizer = PairTokenizer.load(inputs[2].part_folder())
    assert [part.label for part in shards.manifest.parts] == ["train-docstring", "train-neighbour", "validation-docstring"]
    expected = sorted((row for row in rows["train"] if row["kind"] == "code"), key=lambda row: str(row["id"]))
    dataset = TokenDataset.open(shards, "train-docstring")
    got = dataset.rows(np.arange(len(dataset)))
    assert len(dataset) == N_CODE
    for side, ids, length in (("x", got.x_ids, 8), ("y", got.y_ids, 16)):
        texts = [str(row[side]) for row in expected]
        assert [row.tolist() for row in ids] == tokenizer.encode(texts, side, length)
    assert got.x_hash.tolist() == [row["x_hash"] for row in expected]
    assert got.y_hash.tolist() == [row["y_hash"] for row in expected]
    assert got.document_hash.tolist() == [text_hash(str(row["document_id"])) for row in expected]


def test_files_are_plain_uncompressed_and_full(inputs: tuple[Store, Artifact, Artifact]) -> None:
    shards = write_shards(*inputs, CONFIG)
    part = shards.part("train-docstring")
    assert [(file.name, file.rows) for file in part.files] == [
        ("lengths.json", None),
        ("shard-00000.arrow", 60),
        ("shard-00001.arrow", 60),
        ("shard-00002.arrow", 10),
    ]
    before = pa.total_allocated_bytes()
    table = pa.ipc.open_file(pa.memory_map(str(shards.part_folder("train-docstring") / "shard-00000.arrow"))).read_all()
    assert table.schema == tokens_schema(320) and pa.total_allocated_bytes() == before


def test_facts_count_tokens_and_cuts(inputs: tuple[Store, Artifact, Artifact]) -> None:
    shards = write_shards(*inputs, CONFIG)
    tokenizer = PairTokenizer.load(inputs[2].part_folder())
    dataset = TokenDataset.open(shards, "train-docstring")
    got = dataset.rows(np.arange(N_CODE))
    facts = shards.part("train-docstring").facts
    assert (facts["rows"], facts["x_tokens"]) == (N_CODE, sum(map(len, got.x_ids)))
    assert facts["y_tokens"] == sum(map(len, got.y_ids))
    full = [len(ids) == 16 and ids[-1] == tokenizer.y_close for ids in got.y_ids]
    assert 0 < facts["y_truncated"] <= sum(full) < N_CODE
    assert shards.manifest.facts["rows"] == shards.manifest.counts.n_out == N_CODE + N_TEXT + 3


def test_rows_come_in_the_order_asked_for_across_shards(inputs: tuple[Store, Artifact, Artifact]) -> None:
    dataset = TokenDataset.open(write_shards(*inputs, CONFIG), "train-docstring")
    every = dataset.rows(np.arange(N_CODE))
    wanted = np.random.default_rng(0).permutation(N_CODE)
    some = dataset.rows(wanted)
    assert all((a == every.y_ids[i]).all() for a, i in zip(some.y_ids, wanted, strict=True))
    assert (some.x_hash == every.x_hash[wanted]).all()
    assert some.x_ids[0].dtype == np.int32
    assert dataset.pair_ids(wanted[:9]) == [
        str(every_id) for every_id in np.array(dataset.pair_ids(np.arange(N_CODE)))[wanted[:9]]
    ]
    assert dataset.rows(np.array([], dtype=np.int64)).x_ids == []
    with pytest.raises(IndexError, match="of a dataset of 130"):
        dataset.rows(np.array([N_CODE]))


def test_rows_may_lie_beside_their_neighbours_in_the_file(
    tmp_path: Path, curated_of: Callable[..., Artifact], rows: dict[str, list[Row]]
) -> None:
    for number, row in enumerate(rows["train"]):
        row |= {"source": f"s{number % 2}", "path": f"p{number % 5}", "line": 1000 - number}
    shards = write_shards(*made(tmp_path, curated_of, rows), CONFIG.model_copy(update={"order": "path"}))
    dataset = TokenDataset.open(shards, "train-docstring")
    expected = sorted(
        (row for row in rows["train"] if row["kind"] == "code"), key=lambda row: (row["source"], row["path"], row["line"])
    )
    assert dataset.rows(np.arange(N_CODE)).x_hash.tolist() == [row["x_hash"] for row in expected]


def test_two_stores_get_the_same_bytes(tmp_path: Path, curated_of: Callable[..., Artifact], rows: dict[str, list[Row]]) -> None:
    digests = {write_shards(*made(tmp_path / name, curated_of, rows), CONFIG).digest for name in "ab"}
    assert len(digests) == 1


def test_a_dead_run_goes_on_with_the_unfinished_part(inputs: tuple[Store, Artifact, Artifact]) -> None:
    passed: list[int] = []

    def die_at_the_second_part() -> None:
        passed.append(1)
        if len(passed) == 2:
            raise KeyboardInterrupt

    arm("part:before_move", die_at_the_second_part)
    try:
        with pytest.raises(KeyboardInterrupt):
            write_shards(*inputs, CONFIG)
        shards = write_shards(*inputs, CONFIG)
    finally:
        disarm()
    assert len(passed) == 2 + 2  # the first part once, the second twice, the third once
    assert len(shards.verify().manifest.parts) == 3


def test_the_test_split_stays_closed(inputs: tuple[Store, Artifact, Artifact]) -> None:
    labels = [part.label for part in write_shards(*inputs, CONFIG).manifest.parts]
    assert not [label for label in labels if label.startswith("test")]
    opened = write_shards(*inputs, CONFIG.model_copy(update={"splits": SPLITS}))
    assert opened.manifest.parts[-1].label == "test-docstring"


def test_progress_counts_pairs(inputs: tuple[Store, Artifact, Artifact]) -> None:
    calls: list[tuple[float, float, str]] = []
    write_shards(*inputs, CONFIG, lambda *call: calls.append(call))
    done = [call[0] for call in calls]
    assert done == sorted(done) and calls[-1] == (203, 203, "203 pairs tokenized")


def test_a_changed_byte_is_found(inputs: tuple[Store, Artifact, Artifact]) -> None:
    store, curated, tokenizer = inputs
    path = curated.part_folder("validation") / "pairs.parquet"
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptArtifact, match="sha256"):
        write_shards(store, curated, tokenizer, CONFIG)


def test_an_unknown_label_lists_those_that_there_are(inputs: tuple[Store, Artifact, Artifact]) -> None:
    with pytest.raises(UserError, match="train-docstring, train-neighbour, validation-docstring"):
        TokenDataset.open(write_shards(*inputs, CONFIG), "train-prose")


def test_the_lengths_of_all_rows_are_counted(inputs: tuple[Store, Artifact, Artifact]) -> None:
    shards = write_shards(*inputs, CONFIG)
    got = TokenDataset.open(shards, "train-docstring").rows(np.arange(N_CODE))
    counted = json.loads((shards.part_folder("train-docstring") / "lengths.json").read_text())
    for side, ids in (("x", got.x_ids), ("y", got.y_ids)):
        assert {int(length): n for length, n in counted[side].items()} == Counter(map(len, ids))


def test_ids_take_the_fewest_bytes_and_are_read_as_before(inputs: tuple[Store, Artifact, Artifact], tmp_path: Path) -> None:
    """The same ids in files of 16-bit, 32-bit and, as up to the second version, signed integers: the same rows to the bit."""
    assert tokens_schema(65_536).field("x_ids").type.value_type == pa.uint16()
    assert tokens_schema(65_537).field("x_ids").type.value_type == pa.uint32()
    shards = write_shards(*inputs, CONFIG)
    (narrow, *_) = sorted(shards.part_folder("train-docstring").glob("*.arrow"))
    table = pa.ipc.open_file(pa.memory_map(str(narrow))).read_all()
    wanted = np.random.default_rng(1).permutation(60)
    expected = TokenDataset([narrow], [60]).rows(wanted)
    for ids in (pa.uint32(), pa.int32()):
        wide = tmp_path / f"{ids}.arrow"
        columns = {"x_ids": table["x_ids"].cast(pa.list_(ids)), "y_ids": table["y_ids"].cast(pa.list_(ids))}
        other = pa.table({name: columns.get(name, table[name]) for name in table.column_names}).combine_chunks()
        with pa.ipc.new_file(str(wide), other.schema) as writer:
            writer.write_table(other)
        assert narrow.stat().st_size < wide.stat().st_size
        got = TokenDataset([wide], [60]).rows(wanted)
        for a, b in zip(expected.x_ids + expected.y_ids, got.x_ids + got.y_ids, strict=True):
            assert a.dtype == b.dtype == np.int32 and a.tobytes() == b.tobytes()


def test_a_later_generation_touches_no_old_byte(
    tmp_path: Path, curated_of: Callable[..., Artifact], rows: dict[str, list[Row]], a_pair: Callable[..., Row]
) -> None:
    store, curated, tokenizer = made(tmp_path / "store", curated_of, rows)
    before = write_shards(store, curated, tokenizer, CONFIG)
    files = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in store.root.glob("shards/**/*") if path.is_file()}
    later = [a_pair("code", 5000 + i, f"later {i}", f"y {i}") | {"generation": 1} for i in range(70)]
    grown = curated_of(Store(tmp_path / "grown"), rows | {"train": rows["train"] + later})
    after = write_shards(store, grown, tokenizer, CONFIG)

    labels = [part.label for part in after.manifest.parts]
    assert labels == ["train-docstring", "train-docstring@1", "train-neighbour", "validation-docstring"]
    assert [part for part in after.manifest.parts if part.label != "train-docstring@1"] == list(before.manifest.parts)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files} == files
    assert after.manifest.counts.n_out == before.manifest.counts.n_out + len(later)

    old, new = (TokenDataset.open(shards, "train-docstring") for shards in (before, after))
    assert (len(old), len(new)) == (N_CODE, N_CODE + 70)
    assert old.pair_ids(np.arange(N_CODE)) == new.pair_ids(np.arange(N_CODE))
    assert new.pair_ids(np.arange(N_CODE, N_CODE + 70)) == sorted(str(row["id"]) for row in later)
    assert labels_of(after, "train") == ["train-docstring", "train-neighbour"]


def test_c05_no_text_forges_a_delimiter_in_the_shards(
    tmp_path: Path, curated_of: Callable[..., Artifact], rows: dict[str, list[Row]], a_pair: Callable[..., Row]
) -> None:
    """Longer than the context, empty, only delimiters, and their names inside: the closing one is last and comes once."""
    names = [*RESERVED, "[", "]", "{", "}", "<|endoftext|>"]
    hostile = [
        "",
        " \n\t",
        *names,
        " ".join(names),
        "]" * 500,
        "}{][" * 40,
        f"a {RESERVED[1]} b {RESERVED[3]} c",
        "word " * 5000,
    ]
    planted = [a_pair("code", 3000 + i, text, text) for i, text in enumerate(hostile)]
    inputs = made(tmp_path, curated_of, rows | {"train": rows["train"] + planted})
    tokenizer = PairTokenizer.load(inputs[2].part_folder())
    dataset = TokenDataset.open(write_shards(*inputs, CONFIG), "train-docstring")
    got = dataset.rows(np.arange(len(dataset)))
    assert len(dataset) == N_CODE + len(hostile)
    for side, ids, most in (("x", got.x_ids, 8), ("y", got.y_ids, 16)):
        (opening,), (closing,) = tokenizer.delimiters.of(side)
        for row in ids:
            assert 2 <= len(row) <= most and (row[0], row[-1]) == (opening, closing)
            assert not set(row[1:-1].tolist()) & set(range(len(RESERVED)))


def test_arrow_has_the_memory_pool_that_it_had() -> None:
    before = pa.default_memory_pool().backend_name
    with system_memory():
        assert pa.default_memory_pool().backend_name == "system"
    assert pa.default_memory_pool().backend_name == before


def test_worker_processes_leave_the_bytes_that_one_process_leaves(
    tmp_path: Path, curated_of: Callable[..., Artifact], rows: dict[str, list[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG.model_copy(update={"rows_per_shard": 30, "order": "path"})
    alone = write_shards(*made(tmp_path / "one", curated_of, rows), config)
    monkeypatch.setattr(shards_stage, "MANY_ROWS", 1)
    given_two = made(tmp_path / "two", curated_of, rows)
    told: list[float] = []
    tell = lambda done, total, _="": told.append(done / total)  # noqa: E731
    spread = write_shards(*given_two, config, tell, WorkersConfig(workers=2))
    assert spread.manifest.parts == alone.manifest.parts
    assert max(len(part.files) for part in spread.manifest.parts) > 3  # several shards a part, and lengths.json
    assert told == sorted(told) and told[-1] == 1
    assert list((given_two[0].root / "shards" / "scratch").iterdir()) == []


@given(sizes=st.lists(st.integers(0, 50), max_size=12), rows_each=st.integers(1, 40))
@settings(deadline=None, max_examples=30)
def test_rows_are_cut_into_files_of_equal_length(sizes: list[int], rows_each: int) -> None:
    ends = np.cumsum([0, *sizes])
    batches = [pa.record_batch({"n": np.arange(a, b)}) for a, b in itertools.pairwise(ends)]
    with tempfile.TemporaryDirectory() as folder:
        files = [pa.ipc.open_file(path).read_all()["n"].to_pylist() for path in rows_files(Path(folder), batches, rows_each)]
    assert [n for file in files for n in file] == list(range(sum(sizes)))
    assert {len(file) for file in files[:-1]} <= {rows_each}
    assert all(0 < len(file) <= rows_each for file in files)
