"""Near-duplicates against an oracle that compares all with all, and the rule on chains and generations."""

# ruff: noqa: RUF001
from __future__ import annotations

import math
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prose_samples import letters
from unit.curation.rows import pair, validated

from pipeline_lib.config.data import CurateConfig, NearDuplicatesConfig
from pipeline_lib.curation.curate import curate
from pipeline_lib.curation.near_duplicates import RankedText, band_hashes, find_near_duplicates
from pipeline_lib.curation.shingles import character_sets, grams, hash_words, jaccard, shingle_sets
from pipeline_lib.errors import UserError
from pipeline_lib.languages.scripts import tokens
from pipeline_lib.store.store import Store

NEAR = NearDuplicatesConfig(threshold=0.5, shingle_words=2, permutations=24, bands=24)  # bands of one: every pair meets


def find(texts: list[RankedText], config: NearDuplicatesConfig, n: int = 0) -> list[int]:
    with tempfile.TemporaryDirectory() as folder, duckdb.connect(":memory:", config={"threads": 1}) as connection:
        size = n or 1 + max((text.rank for text in texts), default=-1)
        return find_near_duplicates(texts, size, config, connection, Path(folder)).tolist()


def oracle(texts: list[RankedText], config: NearDuplicatesConfig) -> list[int]:
    """The rule word for word, over true sets of words."""
    kept: list[tuple[int, set[tuple[str, ...]]]] = []
    dropped = []
    for text in sorted(texts):
        words, n = tokens(text.text), config.shingle_words
        shingles = {tuple(words[at : at + n]) for at in range(max(1, len(words) - n + 1))} if words else set()
        near = any(
            scope == text.scope and shingles and len(shingles & other) >= config.threshold * len(shingles | other) - 1e-9
            for scope, other in kept
        )
        dropped += [text.rank] if near else []
        kept += [] if near else [(text.scope, shingles)]
    return dropped


TEXTS = st.lists(st.tuples(st.integers(0, 1), st.lists(st.sampled_from("abcd"), max_size=8).map(" ".join)), max_size=30)


@given(drawn=TEXTS, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_what_goes_is_what_the_rule_says_in_any_order(drawn: list[tuple[int, str]], seed: int) -> None:
    texts = [RankedText(rank, scope, text) for rank, (scope, text) in enumerate(drawn)]
    expected = oracle(texts, NEAR)
    random.Random(seed).shuffle(texts)
    assert find(texts, NEAR) == expected


def test_of_a_chain_the_text_that_no_kept_one_is_near_stays() -> None:
    words = [f"w{at}" for at in range(100)]
    chain = [" ".join(words[at : at + 60]) for at in (0, 10, 20)]  # neighbours: 49 of 69 pairs of words
    config = NEAR.model_copy(update={"threshold": 0.7})
    assert find([RankedText(rank, 0, text) for rank, text in enumerate(chain)], config) == [1]


def test_case_spacing_and_punctuation_do_not_count() -> None:
    texts = [
        "Returns the NAME, of a\tuser.",
        "returns the name of a user",
        "\uff32eturns — the name of a user!",
        "the name",
        "!?",
        "...",
    ]
    assert find([RankedText(rank, 0, text) for rank, text in enumerate(texts)], NEAR) == [1, 2]


@pytest.mark.parametrize("language", ["chinese", "japanese", "thai", "korean"])
def test_near_texts_are_found_without_spaces_as_with_them(language: str) -> None:
    """Sixty copies with so many letters changed that the index is just above 0.8, among a thousand texts of their own."""
    n, separator = 229, " " if language == "korean" else ""
    originals = [letters(language, n, seed) for seed in range(1_000)]
    copies = [list(text) for text in originals[:60]]
    for seed, copy in enumerate(copies):
        for at in range(5):  # 25 of 225 shingles
            copy[20 + 40 * at] = letters(language, 1, 9_000 + 5 * seed + at)[0]
    texts = [RankedText(rank, 0, separator.join(text)) for rank, text in enumerate([*originals, *copies])]
    config = NearDuplicatesConfig(threshold=0.8)
    assert jaccard(*shingle_sets([texts[0].text, texts[1_000].text], 5)) == pytest.approx(0.8, abs=0.02)
    assert find(texts, config) == [*range(1_000, 1_060)]


MARKS = {
    "chinese": ("，", "。", "“", "”", "！"), "japanese": ("、", "。", "「", "」"), "thai": (" ",), "lao": (" ",),
    "khmer": ("\u200b", "។ "), "burmese": ("၊ ", "။ "), "tibetan": ("་", "། "),
}  # fmt: skip


def marked(language: str, seed: int) -> str:
    """Four hundred letters with a mark after each five or so, as text in clauses has."""
    generator = random.Random(f"{language}{seed}")
    return "".join(
        letter + (generator.choice(MARKS[language]) if generator.random() < 0.2 else "")
        for letter in letters(language, 400, seed)
    )


def shared(one: str, other: str) -> float:
    """The Jaccard index of all runs of five characters."""
    sets = [{text[at : at + 5] for at in range(len(text) - 4)} for text in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def copied(language: str, text: str, seed: int, with_marks: bool) -> str:
    """The text with letters changed until the index is just above 0.8, with its marks or without."""
    generator = random.Random(seed)
    seen = [at for at, character in enumerate(text) if with_marks or character.isalpha()]
    original, copy = "".join([text[at] for at in seen]), text
    for at in generator.sample([at for at in seen if text[at].isalpha()], 60):
        changed = copy[:at] + letters(language, 1, generator.randrange(10**9))[0] + copy[at + 1 :]
        if shared(original, "".join([changed[at] for at in seen])) >= 0.801:
            copy = changed
    return copy


@pytest.mark.parametrize("language", MARKS)
@pytest.mark.parametrize("with_marks", [True, False])
def test_near_texts_are_found_whether_marks_count_or_not(language: str, with_marks: bool) -> None:
    originals = [marked(language, seed) for seed in range(300)]
    copies = [copied(language, text, seed, with_marks) for seed, text in enumerate(originals[:20])]
    texts = [RankedText(rank, 0, text) for rank, text in enumerate([*originals, *copies])]
    assert find(texts, NearDuplicatesConfig(threshold=0.8)) == [*range(300, 320)]


def test_texts_that_differ_in_marks_alone_are_near_and_words_are_no_characters() -> None:
    text = "".join(letters("chinese", 60, 1))
    spaced = "".join(f"{text[at : at + 3]}，" for at in range(0, 60, 3))
    config = NearDuplicatesConfig(threshold=0.99)
    assert find([RankedText(rank, 0, each) for rank, each in enumerate((text, spaced, spaced))], config) == [1, 2]
    english = "one ship of four lies in harbour 船 tonight"
    changed = english.replace("four", "five")
    assert [found.size for found in character_sets([english, "", text], 5)] == [0, 0, 56]
    assert find([RankedText(0, 0, english), RankedText(1, 0, changed)], NearDuplicatesConfig(threshold=0.5)) == []


def test_a_full_bucket_compares_with_the_lowest_only_and_still_finds_copies() -> None:
    words = [f"w{at}" for at in range(40)]
    texts = [RankedText(rank, 0, " ".join([*words, f"tail{rank}"])) for rank in range(300)]
    config = NEAR.model_copy(update={"bucket_texts": 1})
    assert find(texts, config) == list(range(1, 300))


def test_shingles_of_a_batch_are_those_of_each_text_alone() -> None:
    texts = ["", "one", "a b c", "a b c d e f g", "a b c d", "?"]
    together = shingle_sets(texts, 4)
    assert [found.size for found in together] == [0, 1, 1, 4, 1, 0]
    for text, found in zip(texts, together, strict=True):
        assert np.array_equal(found, shingle_sets([text], 4)[0])
    hashes, ends = grams(hash_words(["a b c d e"]), 4)
    assert hashes[0] == together[4][0] and ends.tolist() == [0, 2]
    assert jaccard(together[3], together[4]) == 1 / 4
    assert jaccard(together[0], together[5]) == 0.0


def pairs_of_sets(n: int, shared: int, own: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of random sets of which `shared` elements are in both and `own` in one each."""
    drawn = np.random.default_rng(5).integers(0, 2**64, (n, shared + 2 * own), dtype=np.uint64)
    return [(np.sort(row[: shared + own]), np.sort(np.concatenate([row[:shared], row[shared + own :]]))) for row in drawn]


@pytest.mark.parametrize("size", [18, 180])  # a docstring's shingles, a document's
def test_hash_functions_are_independent(size: int) -> None:
    """Two sets of index s share a binomial number of hashes: its mean, its variance and the share of pairs that meet in a band.

    Without replacement, as hash functions of one signature of rensa draw, the variance is 0.6 of that.
    """
    n, permutations, index = 1_500, 96, 0.8
    pairs = pairs_of_sets(n, size * 8 // 9, size // 9)
    single, banded = (NearDuplicatesConfig(permutations=permutations, bands=bands) for bands in (permutations, 12))
    one, other = (band_hashes([pair[side] for pair in pairs], single) for side in (0, 1))
    equal = one == other
    away = equal.sum(axis=1) - permutations * index
    variance = permutations * index * (1 - index)
    assert abs(away.mean()) < 3 * math.sqrt(variance / n)
    assert (away**2).mean() / variance == pytest.approx(1, abs=3 * math.sqrt(2 / n))
    theory = 1 - (1 - index**8) ** 12
    meet = equal.reshape(n, 12, 8).all(axis=2)
    assert meet.any(axis=1).mean() == pytest.approx(theory, abs=3 * math.sqrt(theory * (1 - theory) / n))
    one, other = (band_hashes([pair[side] for pair in pairs[:100]], banded) for side in (0, 1))
    assert np.array_equal(one == other, meet[:100])


def test_only_where_near_duplicates_go_do_signatures_name_the_work() -> None:
    assert "signatures" not in NearDuplicatesConfig().key_fields()
    assert CurateConfig(near=NearDuplicatesConfig(threshold=0.8)).key_fields()["near"]["signatures"] == 4


def test_hashes_are_the_same_on_every_machine() -> None:
    pinned = [1674664033051186268, 11804967903482001623]  # from another run: a change would redo every decision
    assert shingle_sets(["return the name of a user"], 5)[0].tolist() == pinned


def test_hashes_of_words_are_the_same_beside_other_scripts() -> None:
    english = "return the näme of a user “now” 😀"
    assert np.array_equal(shingle_sets([english, "用户的名字"], 3)[0], shingle_sets([english], 3)[0])
    for weighed in (False, True):
        alone, _ = grams(hash_words([english, ""], weighed), 3)
        beside, ends = grams(hash_words([english, "用户的名字"], weighed), 3)
        assert np.array_equal(alone, beside[: ends[1]]) and ends.tolist() == [0, 5, 8 if not weighed else 6]


@pytest.mark.parametrize(
    ("text", "sizes"), [("用" * 19, 1), ("用" * 20, 1), ("用" * 25, 6), ("ก" * 40, 2), ("a 用用 b " * 9, 21)]
)
def test_a_gram_of_words_is_as_long_without_spaces(text: str, sizes: int) -> None:
    assert np.diff(grams(hash_words(["x", text, ""], weighed=True), 13)[1]).tolist() == [1, sizes, 0]


def texts_of(number: int) -> tuple[str, str]:
    generator = random.Random(number)
    x, y = ([f"{side}{generator.randrange(10_000)}" for _ in range(50)] for side in "xy")
    return " ".join(x), " ".join(y)


def edited(text: str) -> str:
    """One word of 50 changed: Jaccard 41 / 51."""
    words = text.split()
    return " ".join([*words[:20], "changed", *words[21:]])


def corpus() -> list[dict[str, Any]]:
    rows = [pair(at, f"g{at % 12}", *texts_of(at)) for at in range(120)]
    for at in range(20):
        x, y = texts_of(at)
        rows.append(pair(1000 + at, f"g{at % 12}", x=edited(x), generation=1))
        rows.append(pair(2000 + at, f"g{at % 12}", y=edited(y), generation=1))
    rows.append(pair(3000, "g0", x=edited(texts_of(50)[0]), view="name", generation=1))
    copies = [pair(4000 + at, f"g{at}", *map(edited, texts_of(60 + at)), document_id="copy", generation=1) for at in range(2)]
    originals = [{**row, "document_id": "original"} for row in rows[60:62]]
    return [*rows[:60], *originals, *rows[62:], *copies]


CONFIG = CurateConfig(threads=1, near=NearDuplicatesConfig(threshold=0.79, bands=40))


def curated_ids(folder: Path, rows: list[dict[str, Any]], config: CurateConfig = CONFIG) -> tuple[set[str], dict[str, int]]:
    import pyarrow.parquet as pq

    store = Store(folder)
    artifact = curate(store, validated(store, {"a": rows[::2], "b": rows[1::2]}), config)
    tables = [pq.read_table(path, columns=["id"]) for path in artifact.paths("pairs.parquet")]
    return {id_ for table in tables for id_ in table["id"].to_pylist()}, artifact.manifest.counts.dropped


def test_near_rows_are_dropped_by_side_and_counted(tmp_path: Path) -> None:
    rows = corpus()
    ids, dropped = curated_ids(tmp_path / "a", rows)
    assert dropped == {"near_duplicate_document": 2, "near_duplicate_x": 20, "near_duplicate_y": 20}
    assert len(ids) == len(rows) - 42
    assert pair(3000)["id"] in ids  # another view
    random.Random(1).shuffle(rows)
    again = curated_ids(tmp_path / "b", rows, CONFIG.model_copy(update={"threads": 2, "memory_bytes": 100_000_000}))
    assert again == (ids, dropped)


def test_off_by_default_and_by_side(tmp_path: Path) -> None:
    _, dropped = curated_ids(tmp_path / "off", corpus(), CurateConfig(threads=1))
    assert dropped == {}
    only_y = CurateConfig(threads=1, near=CONFIG.near.model_copy(update={"sides": ("y",)}))
    _, dropped = curated_ids(tmp_path / "y", corpus(), only_y)
    assert dropped == {"near_duplicate_y": 22}


def test_growth_removes_no_earlier_row(tmp_path: Path) -> None:
    rows = corpus()
    first, _ = curated_ids(tmp_path / "first", [row for row in rows if row["generation"] == 0])
    grown, _ = curated_ids(tmp_path / "grown", rows)
    assert first <= grown


def test_a_missing_package_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(UserError, match=r"need the package rensa.*install cpt-factory\[dumps\]"):
        find([RankedText(0, 0, "a b c")], NEAR)


def test_bands_cut_a_signature_evenly() -> None:
    with pytest.raises(ValueError, match="permutations 100 are no multiple of bands 16"):
        NearDuplicatesConfig(permutations=100, bands=16)
