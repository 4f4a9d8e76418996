"""The stage that holds finished figures against their contract: verdicts kept, impossible or doubled figures refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from unit.data_contracts.rows import result, results_table

from data_contracts import check_evaluations as module
from data_contracts.check_evaluations import check_evaluations, check_table
from data_contracts.schemas import QUARANTINE
from data_contracts.verdicts import RowsRejected, verdict_rows
from pipeline_lib.config.base import StageConfig
from pipeline_lib.errors import ContractViolation
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Outcome, Stage, draft_part
from pipeline_lib.store.store import Store


class Named(StageConfig):
    name: str


def evaluated(store: Store, name: str, rows: list[dict[str, Any]]) -> Artifact:
    stage = Stage(name="evaluate", version=1)

    def make(key: str) -> Outcome:
        scratch = store.scratch("evaluate")
        pq.write_table(results_table(rows), scratch / "evaluations.parquet")
        return Outcome(parts=(store.commit_part(draft_part(stage, key, name), scratch),))

    return store.build(stage, Named(name=name), {}, make)


def test_good_figures_get_one_verdict_and_are_not_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    found = [
        evaluated(store, "step-1-validation", [result(1), result(1, metric="ndcg@10")]),
        evaluated(store, "bm25-validation", [result(0, model="bm25", step=-1)]),
    ]
    checked = check_evaluations(store, found)
    assert checked.manifest.facts == {"rows": 3, "models": 2, "tasks": 1, "splits": 1}
    assert sorted((row["part"], row["rows"], row["quarantined"]) for row in verdict_rows(checked)) == [
        ("bm25-validation", 1, 0),
        ("step-1-validation", 2, 0),
    ]
    verdict = json.loads((checked.folder / "verdict.json").read_text())
    assert (verdict["kept"], verdict["faults"]) == (True, [])
    assert verdict["parts"] == sorted(verdict_rows(checked), key=lambda row: row["part"])
    assert "Contracts: kept" in (checked.folder / "verdict.md").read_text()
    monkeypatch.setattr(module, "check_many", None)  # a second run would call it
    assert check_evaluations(store, found[::-1]).digest == checked.digest


def test_a_changed_contract_checks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    found = [evaluated(store, "step-1-validation", [result(1)])]
    before = check_evaluations(store, found)
    monkeypatch.setattr(module, "STAGE", Stage(name=module.STAGE.name, version=module.STAGE.version + 1))
    assert check_evaluations(store, found).manifest.key != before.manifest.key


def test_an_impossible_figure_is_refused_and_kept_with_its_reason(tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = [evaluated(store, "step-1-validation", [result(1), result(1, metric="ndcg@10", value=1.5, high=1.6)])]
    with pytest.raises(RowsRejected, match="value_out_of_range 1") as raised:
        check_evaluations(store, found)
    assert store.find(module.STAGE.name, "") is None and not list((tmp_path / module.STAGE.name).glob("*/manifest.json"))
    (path,) = tmp_path.glob("check_evaluations/parts/*/quarantine.parquet")
    bad = pq.read_table(path)
    assert bad.schema.equals(QUARANTINE)
    assert [(row["offset"], row["reason"]) for row in bad.to_pylist()] == [(1, "value_out_of_range")]
    verdict = json.loads(raised.value.report.with_suffix(".json").read_text())
    assert not verdict["kept"] and verdict["examples"][0]["reason"] == "value_out_of_range"


def test_a_figure_that_a_part_gives_twice_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = [evaluated(store, "step-1-validation", [result(1), result(1, value=0.55)])]
    with pytest.raises(RowsRejected, match=r"mrr of step-000001 on code_search_1k \(validation\) is given 2 times"):
        check_evaluations(store, found)


def test_models_of_one_name_in_two_parts_are_no_repetition(tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = [evaluated(store, name, [result(1)]) for name in ("one", "other")]
    assert check_evaluations(store, found).manifest.facts["rows"] == 2


def test_results_of_other_columns_are_refused() -> None:
    assert check_table(results_table([result(0)])).success
    with pytest.raises(ContractViolation, match="columns missing"):
        check_table(results_table([result(0)]).drop_columns(["low"]))
