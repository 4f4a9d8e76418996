"""Splits of a dataset that grows: what was in a split stays in it, over several increments, renames and near-duplicates."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from builders import pair_row, write_pairs

from data_contracts.schemas import SPLITS, row_id
from pipeline_lib.config.data import CurateConfig, NearDuplicatesConfig
from pipeline_lib.curation.curate import curate
from pipeline_lib.curation.known_splits import new_share, note_splits
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

WORDS = [f"{a}{b}" for a in "red blue green old new tall small wide".split() for b in "box car dog hat sun map pen cup".split()]
NEAR = CurateConfig(near=NearDuplicatesConfig(threshold=0.8))
Content = Mapping[str, Sequence[tuple[str, str]]]  # a document's path to its pairs of texts


def sentence(chance: random.Random, n: int = 40) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(n))


def edited(text: str, chance: random.Random) -> str:
    """A near-duplicate: one word of it is another."""
    words = text.split()
    words[chance.randrange(len(words))] = "edited"
    return " ".join(words)


def document(chance: random.Random, n: int = 3) -> list[tuple[str, str]]:
    return [(sentence(chance), sentence(chance)) for _ in range(n)]


def night(store: Store, content: Content, config: CurateConfig, known: Artifact | None) -> tuple[Artifact, Artifact]:
    """The dataset of a night, and the ledger after it."""
    rows = [
        pair_row(
            x, y, id=row_id(path, str(at), x, y), document_id=row_id(path), group=path.split("/")[0], path=path, position=at
        )
        for path, pairs in content.items()
        for at, (x, y) in enumerate(pairs)
    ]
    made = curate(store, write_pairs(store, "validate", {"part": rows}), config, known=known)
    return made, note_splits(store, made, known)


def splits_of(curated: Artifact, column: str) -> dict[Any, str]:
    """The split of each document, or id."""
    return {
        value: split
        for split in SPLITS
        for value in pq.read_table(curated.part_folder(split) / "pairs.parquet", columns=[column])[column].to_pylist()
    }


def texts_of(curated: Artifact) -> dict[int, str]:
    return splits_of(curated, "x_hash") | splits_of(curated, "y_hash")


def grown(content: dict[str, list[tuple[str, str]]], chance: random.Random, groups: int) -> dict[str, list[tuple[str, str]]]:
    """Another night's content: files are new, removed, renamed, changed, and copied with a word changed or none."""
    content = dict(content)
    for number in range(12):
        path = f"g{chance.randrange(groups)}/n{chance.randrange(10**9)}"
        other = chance.choice(sorted(content))
        pairs = content[other]
        what = ("new", "new", "copy", "near", "near", "rename", "remove", "change", "append")[number % 9]
        if what == "new":
            content[path] = document(chance)
        elif what == "copy":
            content[path] = list(pairs)
        elif what == "near":
            content[path] = [(edited(x, chance), edited(y, chance)) for x, y in pairs]
        elif what == "rename":
            content[path] = content.pop(other)
        elif what == "remove":
            del content[other]
        elif what == "change":
            content[other] = [(x, edited(y, chance)) for x, y in pairs[1:]] or document(chance)
        else:
            content[other] = [*pairs, *document(chance, 1)]
    return content


@pytest.mark.parametrize("groups", [4, 14])  # split by document, and by group, of which more come
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("config", [CurateConfig(), NEAR], ids=["exact", "near"])
def test_what_was_in_a_split_stays_in_it_night_after_night(
    tmp_path: Path, groups: int, seed: int, config: CurateConfig
) -> None:
    chance, store = random.Random(seed), Store(tmp_path)
    content = {f"g{number % groups}/d{number}": document(chance) for number in range(60)}
    before, ledger = night(store, content, config, None)
    documents, texts, unit = splits_of(before, "document_id"), texts_of(before), before.manifest.facts["split_unit"]
    assert unit == ("group" if groups > 9 else "document")
    for _ in range(4):
        content = grown(content, chance, groups + 3)
        after, ledger = night(store, content, config, ledger)
        assert after.manifest.facts["split_unit"] == unit and after.manifest.facts["leaks"] == {"units": 0, "texts": 0}
        for column, known in (("document_id", documents), ("texts", texts)):
            now = texts_of(after) if column == "texts" else splits_of(after, column)
            assert {name: split for name, split in now.items() if known.get(name, split) != split} == {}, column
            known |= now
        there = {row_id(path, str(at), x, y) for path, pairs in content.items() for at, (x, y) in enumerate(pairs)}
        lost = {id_ for id_ in splits_of(before, "id") if id_ in there} - splits_of(after, "id").keys()
        assert lost == set(), "a new row removes no earlier one"
        before = after
    assert ledger.manifest.facts["texts"] == len(texts)


def test_without_the_ledger_a_small_set_moves_its_documents(tmp_path: Path) -> None:
    chance, store = random.Random(0), Store(tmp_path)
    content = {f"g/d{number}": document(chance) for number in range(30)}
    before, ledger = night(store, content, CurateConfig(), None)
    content |= {f"g/e{number}": document(chance) for number in range(30)}
    old = splits_of(before, "document_id")

    def moved(curated: Artifact) -> int:
        return sum(old.get(name, split) != split for name, split in splits_of(curated, "document_id").items())

    assert moved(night(store, content, CurateConfig(), None)[0]) > 0
    assert moved(night(store, content, CurateConfig(), ledger)[0]) == 0


def test_a_document_that_was_written_anew_keeps_its_split(tmp_path: Path) -> None:
    chance, store = random.Random(3), Store(tmp_path)
    content = {f"g/d{number}": document(chance) for number in range(30)}
    before, ledger = night(store, content, CurateConfig(), None)
    content = {path: document(chance) for path in (*content, *(f"g/e{number}" for number in range(30)))}
    after, _ = night(store, content, CurateConfig(), ledger)
    old, now = splits_of(before, "document_id"), splits_of(after, "document_id")
    assert {name: now[name] for name in old} == old


def test_a_renamed_document_keeps_its_split_and_a_copy_of_a_test_text_is_not_trained_on(tmp_path: Path) -> None:
    chance, store = random.Random(1), Store(tmp_path)
    content = {f"g/d{number}": document(chance) for number in range(40)}
    first, ledger = night(store, content, CurateConfig(), None)
    old = splits_of(first, "document_id")
    tested = next(path for path in content if old[row_id(path)] == "test")
    trained = next(path for path in content if old[row_id(path)] == "train")
    text = content[tested][0]
    renamed = content.pop(tested)
    content |= {f"g/renamed{number}": renamed if number == 0 else document(chance) for number in range(3)}
    content[trained] = [*content[trained], text]
    second, ledger = night(store, content, CurateConfig(), ledger)
    assert splits_of(second, "document_id")[row_id("g/renamed0")] == "test"
    assert second.manifest.counts.dropped == {"held_out_twin": 1}
    del content["g/renamed0"]
    third, _ = night(store, content, CurateConfig(), ledger)
    assert third.manifest.counts.dropped == {"held_out_twin": 1}, "though the test split holds it no more"


def test_the_share_of_new_pairs_is_of_texts_and_not_of_places(tmp_path: Path) -> None:
    chance, store = random.Random(2), Store(tmp_path)
    content = {f"g/d{number}": document(chance) for number in range(40)}
    before, ledger = night(store, content, CurateConfig(), None)
    assert new_share(before, None) == 1.0 and new_share(before, before) == 0.0
    shifted = {path: [*reversed(pairs)] for path, pairs in content.items()}
    after, ledger = night(store, shifted, CurateConfig(), ledger)
    assert new_share(after, before) == 0.0 and splits_of(after, "id").keys() != splits_of(before, "id").keys()
    after, _ = night(store, shifted | {f"g/e{number}": document(chance) for number in range(10)}, CurateConfig(), ledger)
    rows = sum(split == "train" for split in splits_of(after, "id").values())
    new = rows - sum(split == "train" for split in splits_of(before, "id").values())
    assert new > 0 and new_share(after, before) == pytest.approx(new / rows)
