"""Training sets in the layouts of their publishers: what becomes a pair, what is dropped, and what goes to quarantine."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.schemas import PAIRS_WITH_NEGATIVES, QUARANTINE, text_hash
from pipeline_lib.artifact import Artifact, Store
from pipeline_lib.errors import UserError
from pipeline_lib.finetune_config import TrainingSetConfig
from pipeline_lib.training_sets.items import Bad
from pipeline_lib.training_sets.records import items_of
from pipeline_lib.training_sets.training_set import read_rows, read_training_set

Triple = tuple[str, str, tuple[str, ...]]


def write_lines(path: Path, lines: list[Any]) -> Path:
    """Objects as JSON, strings and bytes as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = [
        line if isinstance(line, bytes) else line.encode() if isinstance(line, str) else json.dumps(line).encode()
        for line in lines
    ]
    data = b"".join(line + b"\n" for line in raw)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def read(path: Path, **fields: Any) -> Artifact:
    return read_training_set(Store(path.parent / "store"), TrainingSetConfig(path=str(path), **fields))


def triples(artifact: Artifact) -> set[Triple]:
    return {(row["x"], row["y"], tuple(row["negatives"])) for row in read_rows(artifact)}


def quarantined(artifact: Artifact, part: str = "train") -> list[tuple[int, str]]:
    table = pq.read_table(artifact.part_folder(part) / "quarantine.parquet")
    assert table.schema == QUARANTINE
    return [(row["offset"], row["reason"]) for row in table.to_pylist()]


NLI: list[tuple[str, str, str]] = [
    ("a dog runs", "an animal moves", "entailment"),
    ("a dog runs", "a dog sleeps", "contradiction"),
    ("a dog runs", "a dog barks", "neutral"),
    ("a cat sits", "a cat is there", "entailment"),
    ("a dog runs", "it is still", "contradiction"),
    ("a man eats", "nobody eats", "contradiction"),
    ("a dog runs", "An  animal moves", "contradiction"),  # the positive's own words
]
NLI_PAIRS = {("a dog runs", "an animal moves", ("a dog sleeps", "it is still")), ("a cat sits", "a cat is there", ())}
SPELLINGS: dict[str, Any] = {
    "snli": lambda p, h, label: {
        "gold_label": label,
        "sentence1": p,
        "sentence2": h,
        "pairID": "1",
        "annotator_labels": [label],
    },
    "anli": lambda p, h, label: {"uid": "u", "context": p, "hypothesis": h, "label": label[0], "reason": ""},
    "simple": lambda p, h, label: {"premise": p, "hypothesis": h, "label": label},
    "numbers": lambda p, h, label: {
        "premise": p,
        "hypothesis": h,
        "label": ["entailment", "neutral", "contradiction"].index(label),
    },
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", ["train.jsonl", "train.jsonl.gz"])
def test_nli_gives_entailments_with_the_contradictions_of_their_premise(tmp_path: Path, spelling: str, name: str) -> None:
    made = read(write_lines(tmp_path / name, [SPELLINGS[spelling](*row) for row in NLI]))
    assert triples(made) == NLI_PAIRS
    counts = made.manifest.counts
    assert (counts.n_in, counts.n_out, counts.dropped) == (7, 2, {"negative": 4, "neutral": 1})
    rows = list(read_rows(made))
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert {(row["path"], row["line"]) for row in rows} == {(name, 1), (name, 4)}
    assert all(row["x_hash"] == text_hash(row["x"]) and row["y_hash"] == text_hash(row["y"]) for row in rows)
    assert pq.read_schema(made.part_folder("train") / "pairs.parquet").equals(PAIRS_WITH_NEGATIVES)


def test_only_pairs_with_negatives_where_they_are_required(tmp_path: Path) -> None:
    made = read(write_lines(tmp_path / "n.jsonl", [SPELLINGS["simple"](*row) for row in NLI]), require_negatives=True)
    assert triples(made) == {pair for pair in NLI_PAIRS if pair[2]}
    assert made.manifest.counts.dropped["no_negatives"] == 1


def test_triplets_tevatron_and_flag_embedding(tmp_path: Path) -> None:
    lines = [
        {"anchor": "a", "positive": "b", "negative": "c"},
        {"anchor": "a2", "positive": "b2"},
        {"query": "q", "positive": "p", "negative_10": "n10", "negative_2": "n2", "negative_1": None},
        {"query": "f", "pos": ["p1", "p2"], "neg": ["n", "P1 ", "f"], "pos_scores": [1.0, 2.0]},
        {
            "query_id": "7", "query": "t",
            "positive_passages": [{"docid": "1", "title": "Title", "text": "text"}],
            "negative_passages": [{"docid": "2", "title": "", "text": "other"}],
        },
    ]  # fmt: skip
    made = read(write_lines(tmp_path / "set.jsonl", lines))
    assert triples(made) == {
        ("a", "b", ("c",)), ("a2", "b2", ()), ("q", "p", ("n2", "n10")), ("t", "Title text", ("other",)),
        ("f", "p1", ("n",)), ("f", "p2", ("n",)),
    }  # fmt: skip


def test_what_is_no_record_goes_to_quarantine_and_the_rest_goes_on(tmp_path: Path) -> None:
    good = {"anchor": "a", "positive": "b", "negative": "c"}
    lines = [
        good, b"{not json", b"[1, 2]", {"premise": "p", "hypothesis": "h", "label": "maybe"}, {"anchor": "", "positive": "b"},
        {"anchor": "a", "positive": 7}, {"text": "alone"}, {"anchor": "a\ud800", "positive": "b"}, b"\xff\xfe",
        {"anchor": "x" * 300, "positive": "b"}, {"anchor": "a\0", "positive": "b"}, {"query": "q", "pos": 3},
        {"gold_label": "-", "sentence1": "p", "sentence2": "h"}, good, {"anchor": "same", "positive": " Same"}, b"",
        b'{"anchor": "' + b"y" * 70_000 + b'"}', {"query": "q", "positive_passages": [3]}, b"[" * 30_000,
    ]  # fmt: skip
    made = read(write_lines(tmp_path / "set.jsonl", lines), max_text_bytes=256)
    assert triples(made) == {("a", "b", ("c",))}
    assert dict(quarantined(made)) == {
        2: "not_json", 3: "not_a_record", 4: "unknown_label", 5: "no_text", 6: "no_text", 7: "unknown_layout",
        8: "not_unicode", 9: "not_json", 10: "text_too_large", 11: "nul_byte", 12: "malformed_record",
        17: "line_too_large", 18: "malformed_record", 19: "line_too_large",
    }  # fmt: skip
    assert made.manifest.counts.dropped == {"duplicate": 1, "no_gold_label": 1, "same_text": 1}
    assert made.manifest.counts.n_in == 18


FIELDS = (
    "premise hypothesis label anchor positive negative pos neg query gold_label sentence1 sentence2 "
    "positive_passages negative_passages text title"
).split()
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=4)
RECORDS = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5)
)


@settings(deadline=None, max_examples=150)
@given(RECORDS)
def test_any_record_is_read_or_refused(record: object) -> None:
    for item in items_of(record, 100):
        assert not isinstance(item, Bad) or item.reason


def beir(folder: Path, ending: str = "") -> Path:
    write_lines(
        folder / f"corpus.jsonl{ending}",
        [
            {"_id": "d1", "title": "Iron", "text": "a metal"}, {"_id": "d2", "title": "", "text": "a gas"}, {"text": "no id"},
            {"_id": "d3", "title": "Salt", "text": "a mineral"}, {"_id": "d1", "title": "Iron", "text": "again"},
        ],
    )  # fmt: skip
    write_lines(folder / "queries.jsonl", [{"_id": "q1", "text": "what is iron"}, {"_id": "q2", "text": "what is air"}])
    write_lines(
        folder / "qrels" / "train.tsv",
        [
            "query-id\tcorpus-id\tscore",
            "q1\td1\t2",
            "q2\td2\t1",
            "q2\td3\t0",
            "q9\td1\t1",
            "q1\td9\t1",
            "q1\td1\t1",
            "q1 d1",
            "q1\td1\tx",
        ],
    )
    return folder


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_beir_folder(tmp_path: Path, ending: str) -> None:
    made = read(beir(tmp_path / "set", ending))
    assert triples(made) == {("what is iron", "Iron a metal", ()), ("what is air", "a gas", ())}
    assert quarantined(made) == [(8, "too_few_fields"), (9, "no_grade")] and quarantined(made, "corpus") == [(3, "no_id")]
    train, corpus = (made.manifest.parts[i].counts for i in (0, 1))
    assert train.dropped == {"below_min_relevance": 1, "unknown_id_or_judged_again": 3} and train.n_in == 8
    assert corpus.dropped == {"query_or_id_again": 3} and corpus.n_out == 3
    texts = pq.read_table(made.part_folder("corpus") / "corpus.parquet").to_pydict()
    assert texts["id"] == ["d1", "d2", "d3"] and texts["text"][0] == "Iron a metal"
    assert read(tmp_path / "set", min_relevance=2).manifest.parts[0].counts.n_out == 1


def test_ms_marco_by_judgements_and_by_triples_of_ids(tmp_path: Path) -> None:
    folder = tmp_path / "marco"
    write_lines(folder / "collection.tsv", ["0\tpassage zero", "1\tpassage one", "2\tpassage two", "3"])
    write_lines(folder / "queries.train.tsv", ["100\tfirst query", "200\tsecond query"])
    write_lines(folder / "qrels.train.tsv", ["100\t0\t0\t1", "200\t0\t2\t1"])
    made = read(folder)
    assert triples(made) == {("first query", "passage zero", ()), ("second query", "passage two", ())}
    assert quarantined(made, "corpus") == [(4, "too_few_fields")]
    write_lines(folder / "qidpidtriples.train.full.tsv.gz", ["100\t0\t2", "100\t0\t1", "100\t0\t2", "200\t2\t0"])
    made = read(folder, max_negatives=2)
    assert triples(made) == {
        ("first query", "passage zero", ("passage two", "passage one")),
        ("second query", "passage two", ("passage zero",)),
    }
    assert made.manifest.parts[0].counts.dropped == {"negative": 4, "unknown_id_or_judged_again": 2}


def test_triples_of_texts(tmp_path: Path) -> None:
    made = read(write_lines(tmp_path / "triples.train.small.tsv", ["q\tp\tn", "only", "q2\tp2\tn2\tm2"]))
    assert triples(made) == {("q", "p", ("n",)), ("q2", "p2", ("n2", "m2"))}
    assert quarantined(made) == [(2, "too_few_fields")]


def test_a_negative_that_is_a_positive_elsewhere_is_left_out(tmp_path: Path) -> None:
    lines = [{"anchor": "a", "positive": "b", "negative": "c"}, {"anchor": "A ", "positive": "C", "negatives": ["b", "d", "D"]}]
    assert triples(read(write_lines(tmp_path / "s.jsonl", lines))) == {("a", "b", ()), ("A ", "C", ("d", "D"))}


def test_a_broken_file_is_refused_whole_and_its_neighbours_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_lines(folder / "a.jsonl", [{"anchor": "a", "positive": "b"}])
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b'{"anchor": "a2", "positive": "b2"}\n' * 500)[:-9])
    (folder / "c.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    made = read(folder)
    assert triples(made) == {("a", "b", ())}
    assert [offset for offset, _ in quarantined(made)] == [-1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [([{"text": "x"}], "1 items and no pair"), ([], "0 items and no pair")],
)
def test_a_set_without_pairs_is_refused(tmp_path: Path, lines: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(write_lines(tmp_path / "set.jsonl", lines))
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "absent.jsonl")


def test_the_same_set_gives_the_same_bytes_wherever_it_lies(tmp_path: Path) -> None:
    made = [read(write_lines(tmp_path / place / "s.jsonl", [SPELLINGS["simple"](*row) for row in NLI])) for place in ("a", "b")]
    assert made[0].digest == made[1].digest and made[0].manifest.key == made[1].manifest.key


@pytest.mark.slow
def test_the_shared_samples(tmp_path: Path, eval_data: Path) -> None:
    store = Store(tmp_path)
    nli = read_training_set(store, TrainingSetConfig(path=str(eval_data / "nli" / "snli"), view="nli"))
    assert nli.manifest.counts.n_out == 3323 and nli.manifest.counts.n_in == 9842
    scifact = read_training_set(store, TrainingSetConfig(path=str(eval_data / "beir" / "scifact"), view="scifact"))
    assert [part.counts.n_out for part in scifact.manifest.parts] == [916, 5183]
