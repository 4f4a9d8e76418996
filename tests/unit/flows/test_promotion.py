"""What becomes of a candidate where another run, or a person, was at the same name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from unit.search.candidates import candidate

from flows import promotion
from flows.candidate import Published
from flows.params import RunParams
from flows.runs import given_source
from flows.workspace import Workspace
from pipeline_lib.search import registry
from pipeline_lib.search.registry import Candidate
from pipeline_lib.store.store import Store


@dataclass(frozen=True)
class Finished(Published):
    """A run whose export and index are done, with what happens while its figures are measured."""

    meanwhile: list[Callable[[], object]] = field(default_factory=list)

    def figured(self, _: str) -> Finished:
        """The same: figures are measured, which takes minutes."""
        if self.meanwhile:
            self.meanwhile.pop()()
        return self


def finished(home: Path, made: Candidate, meanwhile: Callable[[], object] = lambda: None, **params: Any) -> Finished:
    given = RunParams(preset="demo", **params)
    work = Workspace(home, Store(home / "store"), given.resolve())
    lineage = SimpleNamespace(curated=SimpleNamespace(manifest=SimpleNamespace(key="c")))
    run: Any = SimpleNamespace(work=work, params=given, key=made.trained, stages={}, lineage=lineage)
    stages = {"export": made.exported, "index": made.indexed}
    return Finished(run, made.checkpoint, None, stages, meanwhile=[meanwhile])


@pytest.fixture(autouse=True)
def _by_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a flow; the registry is the real one."""
    monkeypatch.setattr(promotion, "started_by", lambda: "person")
    monkeypatch.setattr(promotion, "promote_task", registry.promote)


def test_of_two_sources_of_one_name_that_end_at_once_each_has_its_own(tmp_path: Path) -> None:
    for folder in ("a/docs", "b/docs"):
        (tmp_path / folder).mkdir(parents=True)
    store = Store(tmp_path / "store")
    first = finished(tmp_path, candidate(store, 1), source=str(tmp_path / "a/docs"))
    second = finished(tmp_path, candidate(store, 2), lambda: promotion.promoted(first), source=str(tmp_path / "b/docs"))
    row = promotion.promoted(second).promotion
    assert row["name"].startswith("docs-") and "another source's model" in row["sentence"]
    used = registry.in_use(tmp_path, "docs")
    assert (used.trained, used.source) == (first.run.key, given_source(first.run.work.config))
    assert registry.in_use(tmp_path, row["name"]).trained == second.run.key


def test_no_gate_brings_back_what_a_person_took_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    one, two = candidate(store, 1), candidate(store, 2)
    for made in (one, two):
        registry.promote(tmp_path, "mine", made)
    registry.rollback(tmp_path, "mine")
    row = promotion.promoted(finished(tmp_path, two, name="mine", promote="gate")).promotion
    assert row["event"] == "rejected" and "rolled back" in row["sentence"]
    assert registry.in_use(tmp_path, "mine").trained == one.trained
    row = promotion.promoted(finished(tmp_path, two, name="mine", promote="always")).promotion
    assert row["event"] == "promoted" and registry.in_use(tmp_path, "mine").trained == two.trained


def test_a_gate_promotes_the_first_of_a_name_that_had_a_trial(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    registry.try_out(tmp_path, "mine", candidate(store, 1), "of the sizes of a test")
    row = promotion.promoted(finished(tmp_path, candidate(store, 2), name="mine", promote="gate")).promotion
    assert row["event"] == "promoted" and not registry.in_use(tmp_path, "mine").is_trial
