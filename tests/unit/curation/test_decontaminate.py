"""Evaluation texts are found however they are written, by suite, and nothing else goes."""

# ruff: noqa: RUF001
from __future__ import annotations

import gzip
import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prose_samples import letters
from unit.curation.rows import pair, validated

from pipeline_lib.config.data import ContaminationConfig, CurateConfig
from pipeline_lib.curation.curate import curate
from pipeline_lib.curation.decontaminate import EvaluationTexts, hash_evaluations
from pipeline_lib.errors import UserError
from pipeline_lib.languages.scripts import tokens
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

CURATE = CurateConfig(threads=1)


def sentence(number: int, words: int = 20) -> str:
    generator = random.Random(number)
    return " ".join(f"word{generator.randrange(10_000)}" for _ in range(words))


def write_records(folder: Path, records: Sequence[Mapping[str, Any]], name: str = "suites.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def hashed(store: Store, folder: Path, **options: Any) -> Artifact:
    return hash_evaluations(store, ContaminationConfig(folder=str(folder), **options))


def curated(root: Path, rows: list[dict[str, Any]], records: Sequence[Mapping[str, Any]], **options: Any) -> Artifact:
    store = Store(root)
    contamination = hashed(store, write_records(root / "suites", records), **options)
    return curate(store, validated(store, {"a": rows[::2], "b": rows[1::2]}), CURATE, contamination=contamination)


def ids_of(artifact: Artifact) -> set[str]:
    return {id_ for path in artifact.paths("pairs.parquet") for id_ in pq.read_table(path)["id"].to_pylist()}


def clean(n: int = 60) -> list[dict[str, Any]]:
    return [pair(at, f"g{at % 12}", sentence(2 * at, 30), sentence(2 * at + 1, 60)) for at in range(n)]


def test_long_texts_by_13_words_short_ones_as_a_whole(tmp_path: Path) -> None:
    long, short = sentence(900), "What is a tokenizer?"
    words = long.split()
    records = [{"suite": "search", "id": "q1", "text": long}, {"suite": "questions", "text": short}]
    bad = [
        pair(100, "g1", y=f"before {long} after"),
        pair(101, "g2", x=" ".join(words[4:17])),
        pair(102, "g3", x="what is  a TOKENIZER"),
        pair(103, "g4", x=f"begin {' '.join(words[:10])}", y=f"{' '.join(words[10:])} end"),  # cut between x and y
    ]
    good = [
        pair(200, "g5", y=" ".join(words[:12])),
        pair(201, "g6", x=f"{short} It is a thing."),
        pair(202, "g7", x=" ".join(sorted(words))),
    ]
    rows = [*clean(), *bad, *good]
    artifact = curated(tmp_path, rows, records)
    counts, facts = artifact.manifest.counts, artifact.manifest.facts["contamination"]
    assert counts.dropped == {"contaminated": 4}
    assert ids_of(artifact) == {row["id"] for row in [*clean(), *good]}
    assert {suite: (found["texts"], found["texts_found"], found["pairs"]) for suite, found in facts.items()} == {
        "questions": (1, 1, 1),
        "search": (1, 1, 3),
    }
    assert facts["questions"]["samples"] == [
        {"pair": bad[2]["id"], "path": bad[2]["path"], "text": "1", "shared": "what is a tokenizer"}
    ]
    by_pair = {sample["pair"]: sample for sample in facts["search"]["samples"]}
    assert by_pair[bad[1]["id"]] == {
        "pair": bad[1]["id"], "path": bad[1]["path"], "text": "q1", "shared": " ".join(words[4:17]),
    }  # fmt: skip


def test_code_goes_when_it_is_nearly_the_evaluation_text(tmp_path: Path) -> None:
    code = "\n".join(f"    total_{at} = compute(value_{at}, other_{at})" for at in range(12))
    records = [{"suite": "code", "id": "7", "text": f"def f():\n{code}", "kind": "code"}]
    renamed = code.replace("total_11", "result")
    idiom = "\n".join(code.split("\n")[:4])  # 13 words in a row are shared, but of 72 grams few
    rows = [*clean(), pair(100, "g1", y=code), pair(101, "g2", y=renamed), pair(102, "g3", y=f"{idiom}\n{sentence(5, 40)}")]
    artifact = curated(tmp_path / "code", rows, records)
    assert artifact.manifest.counts.dropped == {"contaminated": 2}
    assert rows[-1]["id"] in ids_of(artifact)
    as_text = curated(tmp_path / "text", rows, [{**records[0], "kind": "text"}])
    assert as_text.manifest.counts.dropped == {"contaminated": 3}


def test_a_clean_duplicate_of_a_contaminated_pair_stays(tmp_path: Path) -> None:
    text = sentence(900)
    twins = [pair(at, "g1", x="the same docstring as another", y=y) for at, y in ((500, text), (501, sentence(901)))]
    artifact = curated(tmp_path, [*clean(), *twins], [{"suite": "s", "text": text}])
    assert artifact.manifest.counts.dropped == {"contaminated": 1}
    assert twins[1]["id"] in ids_of(artifact)


@pytest.mark.parametrize("language", ["chinese", "japanese", "thai"])
def test_texts_are_found_without_spaces_and_set_phrases_are_not(tmp_path: Path, language: str) -> None:
    def text(seed: int, n: int) -> str:
        return "".join(letters(language, n, seed))

    long, short, name = text(1, 60), text(2, 9), text(3, 12)
    records = [{"suite": "long", "text": f"{long[:30]}，{long[30:]}。"}, {"suite": "short", "text": short}]
    records.append({"suite": "name", "text": text(4, 40) + name + text(5, 40)})
    clean = [pair(at, f"g{at % 12}", text(100 + at, 80), text(300 + at, 120)) for at in range(60)]
    clean.append(pair(70, "g0", text(6, 50), text(7, 20) + name + text(8, 20)))
    clean.append(pair(71, "g1", text(9, 50), text(10, 20) + short + text(11, 20)))
    bad = [
        pair(80, "g2", text(12, 50), text(13, 30) + long + text(14, 30)),
        pair(81, "g3", text(15, 30) + long[:30], long[30:] + text(16, 30)),
        pair(82, "g4", short + "！", text(17, 60)),
    ]
    artifact = curated(tmp_path, [*clean, *bad], records)
    assert artifact.manifest.counts.dropped == {"contaminated": 3}
    assert ids_of(artifact) == {row["id"] for row in clean}
    facts = artifact.manifest.facts["contamination"]
    assert [facts[suite]["pairs"] for suite in ("long", "short", "name")] == [2, 1, 0]
    assert all(sample["shared"] in long for sample in facts["long"]["samples"])


def test_without_evaluation_texts_nothing_changes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    before = validated(store, {"a": clean()})
    plain = curate(store, before, CURATE)
    assert "contamination" not in plain.manifest.facts
    contamination = hashed(store, write_records(tmp_path / "suites", [{"suite": "s", "text": "nowhere to be found"}]))
    searched = curate(store, before, CURATE, contamination=contamination)
    assert plain.digest == searched.digest and plain.manifest.key != searched.manifest.key
    assert searched.manifest.facts["contamination"]["s"] == {"texts": 1, "texts_found": 0, "pairs": 0, "samples": []}


LETTERS = st.lists(st.sampled_from("abc"), max_size=7).map(" ".join)


@given(texts=st.lists(LETTERS.filter(bool), min_size=1, max_size=8), pairs=st.lists(st.tuples(LETTERS, LETTERS), max_size=8))
@settings(deadline=None, max_examples=60)
def test_found_is_what_the_rule_says(texts: list[str], pairs: list[tuple[str, str]]) -> None:
    n = 3
    records = [{"suite": "s", "text": text, "kind": "code" if at % 2 else "text"} for at, text in enumerate(texts)]

    def shingles(text: str) -> set[tuple[str, ...]]:
        words = tokens(text)
        return {tuple(words[at : at + n]) for at in range(max(1, len(words) - n + 1))} if words else set()

    def is_in(at: int, x: str, y: str) -> bool:
        wanted, held = shingles(texts[at]), shingles(f"{x} {y}")
        held |= {gram for side in (x, y) for gram in shingles(side) if len(gram) < n}
        return len(wanted & held) >= (0.5 * len(wanted) if at % 2 else 1)

    expected = [(row, at) for row, (x, y) in enumerate(pairs) for at in range(len(texts)) if is_in(at, x, y)]
    with tempfile.TemporaryDirectory() as folder:
        artifact = hashed(Store(Path(folder)), write_records(Path(folder) / "suites", records), ngram_words=n)
        rows, found = EvaluationTexts(artifact).found_in([x for x, _ in pairs], [y for _, y in pairs])
    assert list(zip(rows.tolist(), found.tolist(), strict=True)) == expected


def test_every_record_is_a_text_or_counted(tmp_path: Path) -> None:
    folder = tmp_path / "suites"
    write_records(folder / "deep", [{"suite": "a", "id": 5, "text": "one two three"}])
    good = json.dumps({"suite": "b", "text": "four five"})
    lines = [
        good,
        "{",
        "[1]",
        '"not_json"',
        '{"suite": "b"}',
        '{"suite": "b", "text": "?!"}',
        "",
        "[" * 10_000,
        '{"suite": "b", "text": "lone \\ud800"}',
    ]
    too_large = json.dumps({"suite": "b", "text": "x" * 3_000}), "y" * 20_000
    (folder / "more.jsonl.gz").write_bytes(gzip.compress("\n".join([*lines, *too_large, good]).encode()))
    pq.write_table(pa.table({"suite": ["c", None], "text": ["six", "seven"]}), folder / "rows.parquet")
    (folder / "README.md").write_text("no suite")
    store = Store(tmp_path)
    artifact = hashed(store, folder, max_text_bytes=2_000)
    counts = artifact.manifest.counts
    assert artifact.manifest.facts == {"suites": {"a": 1, "b": 2, "c": 1}}
    assert counts.dropped == {
        "no_suite_or_text": 2, "no_words": 1, "not_a_record": 2, "not_json": 2, "not_unicode": 1, "text_too_large": 2,
    }  # fmt: skip
    assert (counts.n_in, counts.n_out) == (14, 4)
    other = write_records(tmp_path / "elsewhere" / "deep", [{"suite": "a", "id": 5, "text": "one two three"}])
    moved = hashed(store, other.parent, max_text_bytes=2_000)
    assert moved.manifest.parts[0].key == artifact.manifest.parts[0].key  # content and not place


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"text", "holds no file of .jsonl"),
        ("a.jsonl", b"{}\n", "holds no text; expected records with `suite` and `text`"),
        ("a.jsonl.gz", gzip.compress(b'{"suite": "s", "text": "one"}\n' * 100, mtime=0)[:-20], "cannot be read to its end"),
        ("a.parquet", b"PAR1 and no more", "cannot be read to its end"),
    ],
)
def test_a_folder_that_would_leave_texts_out_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        hashed(Store(tmp_path), tmp_path / "suites")
