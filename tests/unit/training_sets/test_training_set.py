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
from pipeline_lib.config.finetuning import TrainingSetConfig
from pipeline_lib.errors import UserError
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.training_sets.records import Bad, items_of
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
    made = read(write_lines(tmp_path / "set.jsonl", lines), max_text_bytes=256, max_dropped_share=1.0)
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
    made = read(beir(tmp_path / "set", ending), max_dropped_share=0.7)
    assert triples(made) == {("what is iron", "Iron a metal", ()), ("what is air", "a gas", ())}
    assert quarantined(made) == [(8, "too_few_fields"), (9, "no_grade")] and quarantined(made, "corpus") == [(3, "no_id")]
    train, corpus = (made.manifest.parts[i].counts for i in (0, 1))
    assert train.dropped == {"below_min_relevance": 1, "unknown_id_or_judged_again": 3} and train.n_in == 8
    assert corpus.dropped == {"query_or_id_again": 3} and corpus.n_out == 3
    texts = pq.read_table(made.part_folder("corpus") / "corpus.parquet").to_pydict()
    assert texts["id"] == ["d1", "d2", "d3"] and texts["text"][0] == "Iron a metal"
    assert read(tmp_path / "set", min_relevance=2, max_dropped_share=0.7).manifest.parts[0].counts.n_out == 1


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


def table(path: Path, *rows: str, n: int = 60) -> Path:
    """Rows in which {0} is the number of the row."""
    return write_lines(path, [row.format(i) for i in range(n) for row in rows])


TEXTS = "what is thing {0}\tthing {0} is this\tnot thing {0}"
HEADS = {
    "sick": "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment",
    "own": "Query text\tPositive\tHard negative",
}
NOT_KNOWN: dict[str, tuple[str, list[str], str]] = {
    "sick": (
        "s.txt",
        [HEADS["sick"], *(f"{i}\ta dog {i} runs\tit {i} moves\t{i % 5}.5\tNEUTRAL" for i in range(30))],
        "header",
    ),
    "sts-b": ("s.csv", [f"main\tMSR\t2012test\t{i:04}\t3.800\ta man {i} eats\tone {i} eats" for i in range(30)], "numbers"),
    "scores last": ("s.tsv", [f"a man {i} eats\tone {i} eats\t{i / 30:.3f}" for i in range(30)], "column 3 holds numbers"),
    "whole scores": ("s.tsv", [f"a man {i} eats\tone {i} eats\t{i % 2}" for i in range(30)], "column 3 holds numbers"),
    "labels": ("s.tsv", [f"a man {i} eats\tone {i} eats\tcontradiction" for i in range(3)], "column 3 holds labels"),
    "own labels": ("s.tsv", [f"a man {i} eats\tone {i} eats\t{'good bad'.split()[i % 2]}" for i in range(30)], "labels"),
    "ids first": ("s.tsv", [f"q_{i}\ta man {i} eats\tone {i} eats" for i in range(30)], "column 1 holds ids"),
    "header": ("s.tsv", ["anchor\tpositive\tnegative", *(TEXTS.format(i) for i in range(30))], "first row is a header"),
    "header of words": ("s.tsv", [HEADS["own"], *(TEXTS.format(i) for i in range(30))], "first row is a header"),
    "header of others": ("s.tsv", ["foo\tbar\tbaz", *(TEXTS.format(i) for i in range(30))], "first row is a header"),
    "a header alone": ("s.tsv", ["query\tpositive\tnegative"], "first row is a header"),
    "mostly empty": (
        "s.tsv",
        [f"a man {i} eats\tone {i} eats\t{'' if i % 3 else 'none'}" for i in range(30)],
        "nothing in most",
    ),
    "all equal": ("s.tsv", ["\t".join([f"a man {i} eats"] * 3) for i in range(30)], "column 2 repeats column 1"),
    "positive again": ("s.tsv", [f"what {i} is\tit {i} is\tit {i} is" for i in range(30)], "column 3 repeats column 2"),
    "one column": ("s.txt", [f"a man {i} eats" for i in range(30)], "no two columns"),
    "commas": ("s.csv", ["anchor,positive,negative", *(f'"what, {i}","this {i}",that {i}' for i in range(30))], "commas"),
    "judgements": ("train.tsv", ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(30))], "header"),
    "no text": ("s.bin", [b"\xff\xfe\x00"], "no row of text"),
}


@pytest.mark.parametrize("name", NOT_KNOWN)
@pytest.mark.parametrize("layout", ["auto", "triples"])
def test_a_table_whose_columns_are_not_surely_texts_is_refused(tmp_path: Path, name: str, layout: str) -> None:
    file, lines, message = NOT_KNOWN[name]
    path = write_lines(tmp_path / "set" / file, lines)
    with pytest.raises(UserError, match=message) as caught:
        read(path, layout=layout)
    for words in (str(path), "--columns", "SNLI"):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_refused_with_the_file_that_nobody_knows(tmp_path: Path) -> None:
    table(tmp_path / "set" / "a.tsv", TEXTS)
    write_lines(tmp_path / "set" / "b.tsv", NOT_KNOWN["sts-b"][1])
    with pytest.raises(UserError, match=r"b\.tsv: 7 columns"):
        read(tmp_path / "set")


def test_a_few_numbers_labels_and_gaps_among_texts_are_texts(tmp_path: Path) -> None:
    odd = ["how many {0}\t42\tsome {0}", "is it {0}\tyes\tit may {0}", "{0}\tthe number {0}\tanother than {0}"]
    made = read(table(tmp_path / "s.tsv", TEXTS, TEXTS.replace("thing", "one"), TEXTS.replace("thing", "other"), odd[0]))
    assert made.manifest.counts.n_out == 240
    assert (
        read(table(tmp_path / "t.tsv", *[TEXTS.replace("thing", word) for word in "abcd"], *odd)).manifest.counts.n_out == 420
    )
    short = read(write_lines(tmp_path / "u.tsv", ["dog\thund\tkatze", "cat\tkatze\thund"]))
    assert triples(short) == {("dog", "hund", ("katze",)), ("cat", "katze", ("hund",))}


def test_snli_as_text_is_known_by_the_names_of_its_columns(tmp_path: Path) -> None:
    names = ["gold_label", "sentence1_binary_parse", "sentence1", "sentence2", "pairID", "label1", "label2"]
    rows = [f"{label}\t( a )\t{p}\t{h}\t7\t{label}" for p, h, label in NLI]  # trailing labels are left out
    made = read(write_lines(tmp_path / "snli_train.txt", ["\t".join(names), *rows, "-\t( a )\tp\th\t7\t", "neutral\tcut"]))
    assert triples(made) == NLI_PAIRS
    assert made.manifest.counts.dropped["no_gold_label"] == 1 and quarantined(made) == [(10, "too_few_fields")]


def test_named_columns_are_taken_as_they_are_said_to_be(tmp_path: Path) -> None:
    sick = write_lines(tmp_path / "sick.txt", NOT_KNOWN["sick"][1][:3])
    for columns in ("sentence_A,sentence_B", "2, 3"):
        assert triples(read(sick, columns=columns)) == {("a dog 0 runs", "it 0 moves", ()), ("a dog 1 runs", "it 1 moves", ())}
    quoted = write_lines(tmp_path / "q.csv", ["a,p,n", '"what, ""x""",this,that', "y,z,", "short"])
    made = read(quoted, columns="a,p,n")
    assert triples(made) == {('what, "x"', "this", ("that",)), ("y", "z", ())}
    assert quarantined(made) == [(4, "too_few_fields")]
    for wrong, message in (("a,c", "no column 'c'"), ("1,4", "no column '4'"), ("1", "one column"), ("0,1", "no column '0'")):
        with pytest.raises(UserError, match=message):
            read(quoted, columns=wrong)


def test_a_score_is_no_label(tmp_path: Path) -> None:
    lines = [{"premise": "p", "hypothesis": "h", "label": score} for score in (0.0, 1.0, 2.0)]
    with pytest.raises(UserError, match="'unknown_label': 3"):
        read(write_lines(tmp_path / "s.jsonl", lines))


@pytest.mark.parametrize("kind", ["bad", "duplicate", "unknown"])
def test_a_set_of_which_most_is_dropped_is_refused_unless_that_is_allowed(tmp_path: Path, kind: str) -> None:
    lines: list[Any] = [{"anchor": f"a{i}", "positive": f"p{i}"} for i in range(30)]
    path, reason = tmp_path / "s.jsonl", {"bad": "no_text 31", "duplicate": "duplicate 31", "unknown": "unknown_id"}[kind]
    more = {"anchor": "a", "positive": ""} if kind == "bad" else lines[0]
    write_lines(path, [*lines, *[more] * 30])
    if kind == "unknown":
        path = tmp_path / "set"
        write_lines(path / "corpus.jsonl", [{"_id": f"d{i}", "text": f"text {i}"} for i in range(30)])
        write_lines(path / "queries.jsonl", [{"_id": f"q{i}", "text": f"query {i}"} for i in range(30)])
        write_lines(path / "qrels" / "train.tsv", [f"q{i}\td{i}\t1" for i in range(61)])
    else:
        assert read(path).manifest.counts.n_out == 30  # half of them are there
        write_lines(path, [*lines, *[more] * 31])
    with pytest.raises(UserError, match=rf"31 of 61 items \(51%\) were dropped, at most 50% may: {reason}"):
        read(path)
    assert read(path, max_dropped_share=0.6).part("train").counts.n_out == 30


def test_a_small_set_of_which_most_is_dropped_is_refused_too(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "s.jsonl", [{"anchor": "a", "positive": "p"}, *[{"anchor": "a", "positive": ""}] * 2])
    with pytest.raises(UserError, match=r"2 of 3 items \(67%\) were dropped, at most 50% may: no_text 2"):
        read(path)


def test_what_a_set_is_meant_to_drop_is_within_the_bound(tmp_path: Path) -> None:
    """Triples name a pair once for each of its negatives; neutral pairs and low grades are left out by rule."""
    again = [f"what is {i % 3}\tit is {i % 3}\tthe wrong one {i}" for i in range(90)]
    assert read(write_lines(tmp_path / "s.tsv", again)).manifest.counts.dropped == {"duplicate": 87}
    neutral = [SPELLINGS["simple"](f"p{i}", "h", "neutral") for i in range(90)]
    made = read(write_lines(tmp_path / "s.jsonl", [*neutral, SPELLINGS["simple"]("p", "h", "entailment")]))
    assert made.manifest.counts.n_out == 1


@pytest.mark.slow
def test_the_shared_samples(tmp_path: Path, eval_data: Path) -> None:
    store = Store(tmp_path)
    nli = read_training_set(store, TrainingSetConfig(path=str(eval_data / "nli" / "snli"), view="nli"))
    assert nli.manifest.counts.n_out == 3323 and nli.manifest.counts.n_in == 9842
    scifact = read_training_set(store, TrainingSetConfig(path=str(eval_data / "beir" / "scifact"), view="scifact"))
    assert [part.counts.n_out for part in scifact.manifest.parts] == [916, 5183]
