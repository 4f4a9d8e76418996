"""Near twins against a comparison of every pair of sets."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prose_samples import letters
from unit.curation.rows import pair, validated

from pipeline_lib.config.data import CurateConfig
from pipeline_lib.curation import near_twins as module
from pipeline_lib.curation.curate import curate
from pipeline_lib.curation.near_twins import IDENTIFIER, Twin, identifiers, near_twin_share, near_twins_in, words
from pipeline_lib.store.store import Store

TEXT = st.lists(st.sampled_from([f"w{chr(97 + at)}" for at in range(12)]), max_size=14).map(" ".join)


def best_twins(train: list[str], test: list[str], threshold: float) -> list[Twin]:
    found = []
    for at, text in enumerate(test):
        scores = []
        for other, candidate in enumerate(train):
            shared, both = words(text) & words(candidate), words(text) | words(candidate)
            if shared and len(shared) / len(both) >= threshold - 1e-9:
                scores.append((-len(shared) / len(both), other))
        if scores:
            jaccard, other = min(scores)
            found.append(Twin(at, other, -jaccard))
    return sorted(found, key=lambda twin: (-twin.jaccard, twin.test))


@given(train=st.lists(TEXT, max_size=25), test=st.lists(TEXT, max_size=12), threshold=st.sampled_from([0.5, 0.7, 0.8, 1.0]))
@settings(deadline=None, max_examples=150)
def test_the_join_is_exact(train: list[str], test: list[str], threshold: float) -> None:
    expected = best_twins(train, test, threshold)
    twins = near_twin_share(train, test, threshold, examples=100)
    assert (twins.n, twins.count) == (len(test), len(expected))
    assert list(twins.examples) == pytest.approx(expected)


def test_the_join_is_exact_over_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 7)
    monkeypatch.setattr(module, "VERIFY_PAIRS", 5)
    random_ = random.Random(0)
    vocabulary = [f"{a}{b}x" for a in "abcdefgh" for b in "abcdefgh"]

    def edited(text: str) -> str:
        return " ".join(word for word in text.split() if random_.random() > 0.2)

    train = [" ".join(random_.sample(vocabulary, random_.randint(3, 40))) for _ in range(150)]
    test = [edited(random_.choice(train)) for _ in range(60)] + ["", "alone"]
    expected = best_twins(train, test, 0.7)
    twins = near_twin_share(train, test, 0.7, examples=100)
    assert 10 < twins.count == len(expected) < 62
    assert [(twin.test, twin.train) for twin in twins.examples] == [(twin.test, twin.train) for twin in expected]


def test_words_are_split_at_case_and_underscores() -> None:
    assert words("def parseHTTPHeader(raw_line2): größe") == {"def", "parse", "http", "header", "raw", "line", "2", "größe"}


@given(st.text(st.characters(max_codepoint=300), max_size=40))
def test_the_quick_way_finds_the_same_identifiers(text: str) -> None:
    assert identifiers(text) == set(IDENTIFIER.findall(text))


def test_nothing_to_compare() -> None:
    assert near_twin_share([], ["a b"]).share == 0.0
    assert near_twin_share(["a b"], []).share == 0.0


def test_the_share_of_a_curated_set(tmp_path: Path) -> None:
    store = Store(tmp_path)
    body = "def f(alpha, beta): return alpha + beta"
    rows = [pair(at, group=f"package-{at % 40}", y=f"{body} # note {chr(97 + at % 26) * (at // 26 + 1)}") for at in range(120)]
    curated = curate(store, validated(store, {"a": rows}), CurateConfig(threads=1))
    twins = near_twins_in(curated)
    assert twins.n == curated.part("test").counts.n_out
    assert twins.share == 1.0


@pytest.mark.parametrize("language", ["chinese", "japanese", "thai"])
def test_twins_are_found_without_spaces_and_texts_of_the_same_letters_are_none(language: str) -> None:
    train = ["".join(letters(language, 200, seed)) for seed in range(40)]
    test = [text[:100] + "".join(letters(language, 1, seed + 900)) + text[101:] for seed, text in enumerate(train[:20])]
    test += ["".join(letters(language, 200, 500 + seed)) for seed in range(20)]
    twins = near_twin_share(train, test, 0.9, examples=40)
    assert {(twin.test, twin.train) for twin in twins.examples} == {(at, at) for at in range(20)}


def test_words_of_other_scripts_keep_their_marks() -> None:
    assert words("हिन्दी_भाषा getUser") == {"हिन्दी", "भाषा", "get", "user"}
    assert words("取得user名前") == {"取得", "user", "名前"}
