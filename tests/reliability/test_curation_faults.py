"""C03 and C04 of the fault matrix: planted near-duplicates and planted evaluation texts, by the thousand, in any order."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from unit.curation.rows import pair, validated

from pipeline_lib.config.data import ContaminationConfig, CurateConfig, NearDuplicatesConfig
from pipeline_lib.curation.curate import curate
from pipeline_lib.curation.decontaminate import hash_evaluations
from pipeline_lib.curation.shingles import jaccard, shingle_sets
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

NEAR = NearDuplicatesConfig(threshold=0.8, sides=("y",), bands=12)  # bands of ten: recall is far enough from 1 to be tested
GROUPS = 12
WORDS = 229  # 225 shingles of five words; k changed words, far apart, change 5k of them


def text_of(number: int, words: int = WORDS) -> list[str]:
    generator = random.Random(number)
    return [f"w{generator.randrange(20_000)}" for _ in range(words)]


def with_changes(words: list[str], changes: int) -> str:
    """A copy with so many words changed, far apart: its Jaccard index is (225 - 5k) / (225 + 5k)."""
    places = [10 + at * (len(words) - 20) // changes for at in range(changes)]
    return " ".join(f"changed{at}" if at in places else word for at, word in enumerate(words))


def kept_ids(artifact: Artifact) -> set[str]:
    return {id_ for path in artifact.paths("pairs.parquet") for id_ in pq.read_table(path)["id"].to_pylist()}


@pytest.mark.parametrize(("changes", "index"), [(5, 0.8), (2, 0.9)])
def test_c03_near_duplicates_are_found_as_often_as_theory_says(tmp_path: Path, changes: int, index: float) -> None:
    n = 400
    originals = [pair(at, f"g{at % GROUPS}", y=" ".join(text_of(at))) for at in range(n)]
    copies = [pair(n + at, f"g{at % GROUPS}", y=with_changes(text_of(at), changes), generation=1) for at in range(n)]
    unrelated = [pair(2 * n + at, f"g{at % GROUPS}", y=" ".join(text_of(2 * n + at))) for at in range(n)]
    below = [pair(3 * n + at, f"g{at % GROUPS}", y=with_changes(text_of(at), 6), generation=1) for at in range(50)]
    exact = [pair(4 * n + at, f"g{at % GROUPS}", y=originals[-1 - at]["y"], generation=1) for at in range(50)]
    rows = [*originals, *copies, *unrelated, *below, *exact]
    measured = jaccard(*shingle_sets([originals[0]["y"], copies[0]["y"]], NEAR.shingle_words))
    assert measured == pytest.approx(index, abs=0.02) and measured >= NEAR.threshold

    found = []
    for order, threads in ((0, 1), (1, 2)):
        random.Random(order).shuffle(rows)
        store = Store(tmp_path / str(order))
        cuts = {f"part-{at}": rows[at :: order + 2] for at in range(order + 2)}
        artifact = curate(store, validated(store, cuts), CurateConfig(threads=threads, near=NEAR))
        found.append((artifact.digest, artifact.manifest.counts, kept_ids(artifact)))
    assert found[0] == found[1]  # whatever the order, the cut into files and the threads

    _, counts, kept = found[0]
    assert counts.dropped["duplicate_y"] == 50  # exact recall 1
    assert {row["id"] for row in [*originals, *unrelated]} <= kept  # false merges 0, and the lowest generation stays
    gone = sum(row["id"] not in kept for row in copies)
    theory = 1 - (1 - measured ** (NEAR.permutations // NEAR.bands)) ** NEAR.bands
    assert abs(gone / n - theory) <= 3 * math.sqrt(theory * (1 - theory) / n), f"{gone} of {n}, expected {theory:.3f}"
    assert counts.dropped["near_duplicate_y"] == gone + sum(row["id"] not in kept for row in below)


def test_c03_what_is_below_the_threshold_is_kept(tmp_path: Path) -> None:
    """Candidates are verified, so that chance costs recall only: at an index of 0.76 not one row goes."""
    n = 200
    rows = [pair(at, f"g{at % GROUPS}", y=" ".join(text_of(at))) for at in range(n)]
    rows += [pair(n + at, f"g{at % GROUPS}", y=with_changes(text_of(at), 6)) for at in range(n)]
    store = Store(tmp_path)
    config = CurateConfig(threads=1, near=NEAR.model_copy(update={"bands": 60}))
    assert curate(store, validated(store, {"a": rows}), config).manifest.counts.dropped == {}


def spaced(text: str) -> str:
    return "\n\t ".join(text.split())


WAYS: dict[str, Callable[[str], str]] = {
    "verbatim": str,
    "re-cased": str.upper,
    "re-spaced": spaced,
    "re-punctuated": lambda text: "«" + text.replace(" ", ", ") + "!»",
}


def planted() -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Records of three suites; clean pairs; and pairs that hold each record in each way, as x and inside y."""
    records = []
    for at in range(20):
        records.append({"suite": "corpus", "id": str(at), "text": " ".join(text_of(9_000 + at, 40))})
        records.append({"suite": "queries", "id": str(at), "text": f"what is known about w{at}?"})
        code = "\n".join(f"    {name}_{at} = compute({name}, {at})" for name in text_of(9_500 + at, 8))
        records.append({"suite": "code", "id": str(at), "text": f"def f_{at}(x):\n{code}\n", "kind": "code"})
    clean = [pair(at, f"g{at % GROUPS}", " ".join(text_of(at, 30)), " ".join(text_of(5_000 + at, 60))) for at in range(300)]
    bad: list[dict[str, Any]] = []
    for record in records:
        for change in WAYS.values():
            text = change(str(record["text"]))
            around = text if record["suite"] == "queries" else f"before it {text} and after"
            bad.append(pair(10_000 + len(bad), f"g{len(bad) % GROUPS}", x=text))
            bad.append(pair(10_000 + len(bad), f"g{len(bad) % GROUPS}", y=around))
    return records, clean, bad


def test_c04_no_planted_evaluation_text_gets_through(tmp_path: Path) -> None:
    records, clean, bad = planted()
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "all.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    rows = [*clean, *bad]
    random.Random(0).shuffle(rows)
    store = Store(tmp_path)
    contamination = hash_evaluations(store, ContaminationConfig(folder=str(tmp_path / "suites")))
    before = validated(store, {"a": rows[::2], "b": rows[1::2]})
    artifact = curate(store, before, CurateConfig(threads=1), contamination=contamination)
    assert kept_ids(artifact) == {row["id"] for row in clean}  # leaks 0, and nothing clean is lost
    assert artifact.manifest.counts.dropped == {"contaminated": len(bad)}
    facts = artifact.manifest.facts["contamination"]
    a_suite = len(bad) // 3
    assert facts.keys() == {"code", "corpus", "queries"}
    for found in facts.values():
        assert (found["texts"], found["texts_found"], found["pairs"]) == (20, 20, a_suite)
    assert all(len(found["samples"]) == 3 for found in facts.values())
    assert artifact.manifest.facts["leaks"] == {"units": 0, "texts": 0}


def test_c04_with_the_defence_off_they_all_get_through(tmp_path: Path) -> None:
    """The negative control: what the test above sees gone is gone by decontamination."""
    _, clean, bad = planted()
    store = Store(tmp_path)
    config = CurateConfig(threads=1, near=NearDuplicatesConfig(threshold=0.0))
    artifact = curate(store, validated(store, {"a": [*clean, *bad]}), config)
    leaked = {row["id"] for row in bad} & kept_ids(artifact)
    assert len(leaked) > 0.9 * len(bad)
    assert "contaminated" not in artifact.manifest.counts.dropped
