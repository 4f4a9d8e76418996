"""The split: a pure function of a group's name; small sets by document, so that no split is empty."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.config.data import CurateConfig
from pipeline_lib.curation.split import pinned_units, split_documents, split_groups, split_of
from pipeline_lib.errors import UserError

CONFIG = CurateConfig()
NAMES = st.text(min_size=1, max_size=20)


def test_known_groups_stay_where_they_are() -> None:
    """Pinned, since a change of the hash would move groups of finished data sets between train and test."""
    pinned = {
        "numpy": "train",
        "pandas": "validation",
        "scipy": "train",
        "torch": "validation",
        "json": "train",
        "rich": "train",
        "package-2": "test",
        "package-8": "test",
    }
    assert {name: split_of(name, CONFIG) for name in pinned} == pinned


@given(groups=st.sets(NAMES, max_size=30), more=st.sets(NAMES, max_size=30))
@settings(deadline=None, max_examples=50)
def test_more_groups_move_none(groups: set[str], more: set[str]) -> None:
    before, after = split_groups(groups, CONFIG), split_groups(groups | more, CONFIG)
    assert all(after[group] == before[group] for group in groups)


def test_shares_are_those_of_the_config() -> None:
    counts = Counter(split_of(f"package-{number}", CONFIG) for number in range(10_000))
    assert abs(counts["test"] - 1200) < 150  # 4.6 standard deviations
    assert abs(counts["validation"] - 800) < 130


def test_another_salt_is_another_split() -> None:
    names = [f"package-{number}" for number in range(200)]
    assert split_groups(names, CONFIG) != split_groups(names, CurateConfig(split_salt="other"))


def test_a_larger_test_share_keeps_what_was_test() -> None:
    names = [f"package-{number}" for number in range(300)]
    small, large = (split_groups(names, CurateConfig(test_percent=percent)) for percent in (10, 20))
    assert all(large[name] == "test" for name in names if small[name] == "test")


KINDS = st.sampled_from([frozenset({"code"}), frozenset({"text"}), frozenset({"code", "text"})])


@given(documents=st.dictionaries(NAMES, KINDS, min_size=3, max_size=40), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=100)
def test_three_documents_fill_three_splits(documents: dict[str, frozenset[str]], seed: int) -> None:
    splits = split_documents(documents, CONFIG)
    assert set(splits) == set(documents)
    counts = Counter(documents.values())
    if max(counts.values()) >= 3 or max(counts.values()) < 3 <= len(documents):
        assert set(splits.values()) == {"train", "validation", "test"}
    for kinds, number in counts.items():
        if number >= 3:
            assert {splits[name] for name in documents if documents[name] == kinds} == {"train", "validation", "test"}
    shuffled = list(documents.items())
    random.Random(seed).shuffle(shuffled)
    assert split_documents(dict(shuffled), CONFIG) == splits


@pytest.mark.parametrize("number", [1, 2])
def test_fewer_than_three_documents_are_all_train(number: int) -> None:
    documents = {f"document-{at}": frozenset({"code"}) for at in range(number)}
    assert set(split_documents(documents, CONFIG).values()) == {"train"}


def test_sources_pin_the_groups_that_they_have_a_share_in() -> None:
    sources = {
        "a": frozenset({"ours"}),
        "b": frozenset({"theirs", "other"}),
        "c": frozenset({"other"}),
        "d": frozenset({"kept"}),
    }
    hold_out = {"ours": "test", "theirs": "validation", "kept": "never", "absent": "test", "other": "auto"}
    assert pinned_units(sources, hold_out) == {"a": "test", "b": "validation", "d": "train"}  # type: ignore[arg-type]


def test_sources_that_share_a_group_and_go_apart_are_refused() -> None:
    with pytest.raises(UserError, match=r"ours never and theirs test share the group 'a'.*each a `group`"):
        pinned_units({"a": frozenset({"ours", "theirs"})}, {"ours": "never", "theirs": "test"})
