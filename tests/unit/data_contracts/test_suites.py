"""Each expectation is violated by one planted row, and flags exactly that row with exactly that reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pyarrow as pa
import pytest
from unit.data_contracts.rows import (
    document,
    documents_table,
    pair,
    pairs_table,
    result,
    results_table,
    token_row,
    tokens_table,
)

from data_contracts.document_suite import document_facts, document_suite
from data_contracts.evaluation_suite import evaluation_facts, evaluation_suite
from data_contracts.facts import EarlierIds
from data_contracts.pair_suite import pair_facts, pair_suite
from data_contracts.runner import Verdict, check, check_many, to_gx
from data_contracts.shard_suite import TokenLimits, shard_facts, shard_suite
from data_contracts.suite import ContractSuite
from pipeline_lib.config.data import ContractConfig

ROWS = 12
PLANTED = 7  # not the first and not the last
CONFIG = ContractConfig(max_x_words=50, max_y_words=60)
LIMITS = TokenLimits(
    x_prefix=(0,),
    x_suffix=(1,),
    y_prefix=(2,),
    y_suffix=(3,),
    vocab_size=64,
    max_x_tokens=6,
    max_y_tokens=8,
    reserved=(0, 1, 2, 3, 4),
)

DOCUMENTS = {
    "id_malformed": {"id": "DEADBEEF" * 4},
    "id_repeated": {"id": document(0)["id"]},
    "kind_unknown": {"kind": "image"},
    "source_blank": {"source": " "},
    "group_blank": {"group": ""},
    "path_blank": {"path": ""},
    "path_absolute": {"path": "/etc/passwd"},
    "path_outside": {"path": "lib/../../secret.py"},
    "language_blank": {"language": ""},
    "text_blank": {"text": " \n\t\u00a0\u2003"},
    "invalid_unicode": {"text": b"lone surrogate \xed\xa0\x80"},
    "nul_character": {"text": "be\0fore"},
}
PAIRS = {
    "id_malformed": {"id": "0" * 31},
    "id_repeated": {"id": pair(0)["id"]},
    "kind_unknown": {"kind": "image"},
    "view_malformed": {"view": "Two words"},
    "language_unknown": {"language": "Klingon"},
    "source_blank": {"source": ""},
    "group_blank": {"group": "\t"},
    "path_blank": {"path": ""},
    "path_absolute": {"path": "C:\\windows"},
    "path_outside": {"path": "../up.py"},
    "x_blank": {"x": "\u3000 \n"},
    "y_blank": {"y": ""},
    "x_too_long": {"x": "word " * 51},
    "y_too_long": {"y": "word " * 61},
    "x_equals_y": {"x": "the same", "y": "the same"},
    "x_hash_wrong": {"x_hash": 1},
    "y_hash_wrong": {"y_hash": None},
    "line_below_one": {"line": 0},
    "position_negative": {"position": None},
    "generation_negative": {"generation": -1},
    "document_missing": {"document_id": "f" * 32},
    "document_quarantined": {"document_id": document(1)["id"]},
    "invalid_unicode": {"name": b"\xff\xfe"},
    "nul_character": {"x": "a \0 b"},
}
TOKENS: dict[str, dict[str, Any]] = {
    "pair_id_malformed": {"pair_id": "nothing"},
    "x_length": {"x_ids": [0, 10, 10, 10, 10, 10, 1]},
    "x_open": {"x_ids": [9, 10, 1]},
    "x_close": {"x_ids": [0, 10, 11]},
    "x_reserved_inside": {"x_ids": [0, 3, 1]},
    "x_id_outside": {"x_ids": [0, 64, 1]},
    "y_length": {"y_ids": [2, *[10] * 7, 3]},
    "y_open": {"y_ids": [0, 10, 3]},
    "y_close": {"y_ids": [2, 10, 1]},
    "y_reserved_inside": {"y_ids": [2, 4, 3]},
    "y_id_outside": {"y_ids": [2, 64_000, 3]},
    "x_hash_null": {"x_hash": None},
    "y_hash_null": {"y_hash": None},
    "document_hash_null": {"document_hash": None},
}
RESULTS = {
    "model_blank": {"model": ""},
    "task_blank": {"task": None},
    "metric_blank": {"metric": " "},
    "step_below_baseline": {"step": -2},
    "split_unknown": {"split": "dev"},
    "kind_unknown": {"kind": "generation"},
    "value_out_of_range": {"value": 1.01, "high": 1.2},
    "interval_disordered": {"low": 0.51},
    "n_below_one": {"n": 0},
}


def facts_of_documents(rows: list[dict[str, Any]]) -> pa.Table:
    table = documents_table(rows)
    return document_facts(table, EarlierIds([table["id"]]))


def facts_of_pairs(rows: list[dict[str, Any]]) -> pa.Table:
    table = pairs_table(rows)
    good, bad = (pa.array([document(number)["id"]]) for number in (0, 1))
    return pair_facts(table, good, bad, EarlierIds([table["id"]]))


def facts_of_tokens(rows: list[dict[str, Any]]) -> pa.Table:
    return shard_facts(tokens_table(rows), LIMITS)


def facts_of_results(rows: list[dict[str, Any]]) -> pa.Table:
    return evaluation_facts(results_table(rows))


@dataclass(frozen=True)
class Contract:
    suite: ContractSuite
    facts: Callable[[list[dict[str, Any]]], pa.Table]
    build: Callable[..., dict[str, Any]]
    planted: dict[str, dict[str, Any]]

    def good_rows(self) -> list[dict[str, Any]]:
        return [self.build(number) for number in range(ROWS)]

    def check(self, rows: list[dict[str, Any]]) -> Verdict:
        return check(self.facts(rows), self.suite)


CONTRACTS = {
    "documents": Contract(document_suite(), facts_of_documents, document, DOCUMENTS),
    "pairs": Contract(pair_suite(CONFIG), facts_of_pairs, pair, PAIRS),
    "shards": Contract(shard_suite(LIMITS), facts_of_tokens, token_row, TOKENS),
    "evaluations": Contract(evaluation_suite(), facts_of_results, result, RESULTS),
}
CASES = [(name, reason) for name, contract in CONTRACTS.items() for reason in contract.planted]


@cache
def verdicts(name: str) -> dict[str, Verdict]:
    """The verdict on one table for each planted row, and on a clean one; in one run, which costs 0.3 s however many."""
    contract = CONTRACTS[name]
    tables = {"clean": contract.good_rows()}
    for reason, changes in contract.planted.items():
        tables[reason] = contract.good_rows()
        tables[reason][PLANTED] = contract.build(PLANTED, **changes)
    answers = check_many([contract.facts(rows) for rows in tables.values()], contract.suite)
    return dict(zip(tables, answers, strict=True))


@pytest.mark.parametrize("name", CONTRACTS)
def test_every_expectation_has_a_planted_row(name: str) -> None:
    contract = CONTRACTS[name]
    assert sorted(contract.planted) == sorted(contract.suite.reasons)
    assert len(set(contract.suite.reasons)) == len(contract.suite.reasons)


@pytest.mark.parametrize("name", CONTRACTS)
def test_clean_rows_have_no_flag(name: str) -> None:
    verdict = verdicts(name)["clean"]
    assert (verdict.success, verdict.flagged, verdict.rows) == (True, {}, ROWS)


@pytest.mark.parametrize(("name", "reason"), CASES)
def test_the_planted_row_alone_is_flagged(name: str, reason: str) -> None:
    verdict = verdicts(name)[reason]
    assert verdict.flagged == {PLANTED: (reason,)}
    assert verdict.reasons == {reason: 1}
    assert "got " in verdict.details[PLANTED] and "expected " in verdict.details[PLANTED]


@pytest.mark.parametrize("name", CONTRACTS)
def test_all_planted_rows_of_one_table(name: str) -> None:
    contract = CONTRACTS[name]
    bad = [contract.build(100 + number, **changes) for number, changes in enumerate(contract.planted.values())]
    verdict = contract.check([*contract.good_rows(), *bad])
    assert verdict.flagged == {ROWS + at: (reason,) for at, reason in enumerate(contract.planted)}
    assert verdict.good.sum() == ROWS


@pytest.mark.parametrize("name", CONTRACTS)
def test_no_rows_are_good_rows(name: str) -> None:
    assert CONTRACTS[name].check([]).success


def test_several_tables_at_once_say_the_same_as_one_by_one() -> None:
    tables = [
        [document(number) for number in range(3)],
        [],
        [document(0), document(1, path="/root"), document(2)],
        [document(0, text="")],
    ]
    facts = [facts_of_documents(rows) for rows in tables]
    together = check_many(facts, document_suite())
    assert together == [check(part, document_suite()) for part in facts]
    assert [verdict.flagged for verdict in together] == [{}, {}, {1: ("path_absolute",)}, {0: ("text_blank",)}]


def test_a_row_with_two_faults_has_both_reasons() -> None:
    verdict = CONTRACTS["evaluations"].check([result(0, n=0, split="dev")])
    assert verdict.flagged == {0: ("split_unknown", "n_below_one")}
    assert verdict.reasons == {"n_below_one": 1, "split_unknown": 1}


def test_a_suite_is_great_expectations_own() -> None:
    description = to_gx(document_suite()).to_json_dict()
    assert [e["meta"]["reason"] for e in description["expectations"]] == list(document_suite().reasons)


def test_short_and_doubled_delimiters_wherever_they_lie() -> None:
    cases: list[tuple[list[int] | None, tuple[str, ...]]] = [
        ([], ("x_length", "x_open", "x_close")),
        (None, ("x_length", "x_open", "x_close")),
        ([0], ("x_length", "x_close")),
        ([0, 1], ()),
        ([0, 0, 1, 1], ("x_reserved_inside",)),
    ]
    facts, expected = [], []
    for ids, reasons in cases:
        rows = [token_row(0), token_row(1, x_ids=ids), token_row(2)]
        for at, order in ((1, rows), (0, rows[1:]), (1, rows[:2])):
            facts.append(facts_of_tokens(order))
            expected.append({at: reasons} if reasons else {})
    assert [verdict.flagged for verdict in check_many(facts, shard_suite(LIMITS))] == expected


def test_several_ids_before_a_text_and_none_behind() -> None:
    limits = replace(LIMITS, x_prefix=(9, 0), x_suffix=(), reserved=(0,))
    cases: list[tuple[list[int], tuple[str, ...]]] = [
        ([9, 0], ()),
        ([9, 0, 9, 10], ()),
        ([0, 9, 10], ("x_open",)),
        ([9], ("x_length", "x_open")),
        ([9, 0, 0], ("x_reserved_inside",)),
    ]
    rows = [token_row(number, x_ids=ids) for number, (ids, _) in enumerate(cases)]
    expected = {at: reasons for at, (_, reasons) in enumerate(cases) if reasons}
    assert check(shard_facts(tokens_table(rows), limits), shard_suite(limits)).flagged == expected


def test_a_slice_of_a_shard_is_looked_at_by_itself() -> None:
    whole = tokens_table([token_row(0, x_ids=[0, 99, 1]), token_row(1), token_row(2, y_ids=[2, 99, 3])])
    assert check(shard_facts(whole.slice(1, 2), LIMITS), shard_suite(LIMITS)).flagged == {1: ("y_id_outside",)}


def test_ranges_of_results() -> None:
    cases: list[tuple[dict[str, Any], bool]] = [
        ({"metric": "spearman", "value": -0.3, "low": -0.5, "high": 0.1}, True),
        ({"metric": "mrr", "value": -0.3, "low": -0.5, "high": 0.1}, False),
        ({"value": float("nan")}, False),
        ({"low": float("-inf")}, False),
        ({"low": 0.5 + 1e-12}, True),
        ({"model": "bm25", "step": -1}, True),
    ]
    verdict = CONTRACTS["evaluations"].check([result(number, **changes) for number, (changes, _) in enumerate(cases)])
    assert list(verdict.good) == [good for _, good in cases]
