"""Two rankings fused by the formulas that are stated, and the share that validation queries choose."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline_lib.index.fusion import SHARES, Fusion, Listed, Method, Tried, choose, fused, fused_scores, listed, tried, union

N = 30


def lists(seed: int, depth: int = 10) -> tuple[np.ndarray, np.ndarray, Listed, Listed]:
    random = np.random.default_rng(seed)
    cosines, bm25 = random.standard_normal(N), np.maximum(0, random.standard_normal(N) * 3).astype(np.float32)
    return cosines, bm25, listed(cosines, depth), listed(bm25, depth, words=True)


def test_a_list_has_the_best_rows_and_what_all_scores_are_like() -> None:
    scores = np.array([0.1, 0.9, 0.5, 0.9, 0.0, 0.5])
    found = listed(scores, 3)
    assert found.rows.tolist() == [1, 3, 2], "equal scores in the order of their rows"
    assert (found.mean, found.deviation, found.rest) == (pytest.approx(scores.mean()), pytest.approx(scores.std()), 0.5)
    assert listed(scores, 2, of=np.array([2, 4, 5])).rows.tolist() == [2, 5]
    words = listed(scores, 6, words=True)
    assert (words.rows.tolist(), words.rest) == ([1, 3, 2, 5, 0], 0.0), "a row without a shared word is not listed"
    assert listed(np.zeros(4), 2, words=True).rows.tolist() == [] and listed(np.zeros(0), 2).rows.tolist() == []


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_scores_are_added_in_standard_deviations(share: float) -> None:
    cosines, bm25, vectors, words = lists(0)
    rows, scores = fused(vectors, words, share)
    assert sorted(rows) == sorted({*vectors.rows.tolist(), *words.rows.tolist()})
    for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
        cosine = cosines[row] if row in vectors.rows else vectors.scores[-1]
        word = bm25[row] if row in words.rows else words.rest
        expected = share * (cosine - cosines.mean()) / cosines.std() + (1 - share) * (word - bm25.mean()) / bm25.std()
        assert score == pytest.approx(expected, rel=1e-5)
    assert scores.tolist() == sorted(scores, reverse=True)


def test_ranks_are_fused_reciprocally() -> None:
    _, _, vectors, words = lists(1)
    rows, scores = fused(vectors, words, 0.4, "ranks")
    for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
        of_each = [
            weight / (60 + 1 + found.rows.tolist().index(row)) if row in found.rows else 0.0
            for weight, found in ((0.4, vectors), (0.6, words))
        ]
        assert score == pytest.approx(61 * sum(of_each))


def test_the_whole_share_on_one_side_is_that_side_alone() -> None:
    _, _, vectors, words = lists(2)
    for method in ("scores", "ranks"):
        for share, alone in ((1.0, vectors), (0.0, words)):  # the last of a list ties with what it lacks
            before_last = len(alone.rows) - 1
            assert fused(vectors, words, share, method)[0][:before_last].tolist() == alone.rows[:before_last].tolist()


def test_scores_of_all_rows_rank_as_the_lists_do() -> None:
    cosines, bm25, _, _ = lists(3)
    fusion = Fusion("scores", {"code": 0.6}, depth=10)
    scores_N = fused_scores(cosines, bm25, "code", fusion)
    rows, _ = fused(listed(cosines, 10), listed(bm25, 10, words=True), 0.6)
    assert np.argsort(-scores_N, kind="stable")[: len(rows)].tolist() == rows.tolist()
    assert len(set(scores_N[np.setdiff1d(np.arange(N), rows)])) == 1


def test_every_way_is_tried_as_it_ranks() -> None:
    pairs = [lists(seed)[2:] for seed in range(20)]
    right = [int(union(*pair)[seed % 7]) for seed, pair in enumerate(pairs)]
    found = tried([*pairs, pairs[0]], [*right, -1])
    for (method, share), values in found.fused.items():
        for pair, row, value in zip(pairs, right, values[:-1], strict=True):
            assert value == pytest.approx(1 / (fused(*pair, share, method)[0].tolist().index(row) + 1))
        assert values[-1] == 0, "a right row that no list has is not found"
    assert found.vectors[0] == 1 / (pairs[0][0].rows.tolist().index(right[0]) + 1)


def test_the_fusion_is_chosen_where_it_is_above_both() -> None:
    def made(vectors: float, bm25: float, top: float, n: int = 100) -> Tried:
        noise = np.random.default_rng(0).standard_normal(n) * 1e-3
        figures: dict[tuple[Method, float], np.ndarray] = {
            ("scores", share): top - abs(share - 0.5) + noise for share in SHARES
        }
        figures |= {("ranks", share): noise for share in SHARES}
        return Tried(np.full(n, vectors), np.full(n, bm25), figures)

    record = choose({"code": made(0.5, 0.4, 0.6), "text": made(0.4, 0.7, 0.6)}, 200)
    assert (record["method"], record["depth"]) == ("scores", 200)
    code, text = record["kinds"]["code"], record["kinds"]["text"]
    assert (code["auto"], code["share"], code["queries"]) == ("hybrid", 0.5, 100)
    assert (code["vectors"], code["bm25"], code["hybrid"]) == (0.5, 0.4, pytest.approx(0.6, abs=1e-3))
    assert text["auto"] == "bm25" and set(text["tried"]["scores"]) == {f"{share:g}" for share in SHARES}
    few = choose({"code": made(0.1, 0.2, 0.9, n=9)}, 200)["kinds"]["code"]
    assert few == {"auto": "vectors", "queries": 9, "share": Fusion().shares["code"]}
    assert Fusion.of(record) == Fusion("scores", {"code": 0.5, "text": text["share"]}, 200)
    assert Fusion.of(None) == Fusion()


def test_a_share_that_is_lucky_alone_is_not_taken() -> None:
    heights = dict(zip(SHARES, (0.1, 0.9, 0.1, 0.2, 0.6, 0.7, 0.6, 0.3, 0.1), strict=True))
    figures: dict[tuple[Method, float], np.ndarray] = {("scores", share): np.full(20, heights[share]) for share in SHARES}
    figures |= {("ranks", share): np.zeros(20) for share in SHARES}
    [row] = choose({"code": Tried(np.zeros(20), np.zeros(20), figures)}, 10)["kinds"].values()
    assert (row["share"], row["hybrid"], row["auto"]) == (0.6, 0.7, "hybrid")
