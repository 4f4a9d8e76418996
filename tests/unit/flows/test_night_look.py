"""What the policy of nights makes of what is new."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger
from unit.search.candidates import candidate, indexed

from flows import nightly
from flows.night_look import Look, State, look
from flows.params import RunParams
from flows.runs import ChampionRun
from flows.workspace import Workspace
from pipeline_lib.errors import UserError
from pipeline_lib.search import registry
from pipeline_lib.sources.changes import Changes
from pipeline_lib.store.store import Store

LOOK = Look(
    home="home", name="corpus", policy="continue", min_new_share=0.02, max_shrink_share=0.5, champion=None,
    last=State(source="a"), listing="a", contamination="", changes=Changes(), since_training=Changes(), is_asked_alike=True,
    is_indexed=True,
)  # fmt: skip


class Champion:
    """What a verdict asks of one."""

    checkpoint = "0123abcd/step-000008"


@pytest.mark.parametrize(
    ("changes", "share", "trains", "says"),
    [
        ({"champion": None}, 0.0, True, "nothing is published under this name yet"),
        ({"is_asked_alike": False}, 0.0, True, "the configuration is another one"),
        ({}, 0.021, True, "training goes on from the champion, 0123abcd/step-000008"),
        ({}, 0.02, False, "not above 2.0%: nothing is trained"),
        ({}, 0.0, False, "0.0% of the training pairs are new"),
        ({"policy": "restart"}, 0.5, True, "training begins anew"),
        ({"policy": "restart"}, 0.01, False, "the champion's index takes them in"),
        ({"min_new_share": 1.0}, 1.0, False, "not above 100.0%"),
        ({"min_new_share": 0.0}, 0.001, True, "0.1% of the training pairs"),
        ({"min_new_share": 0.0}, 0.0, False, "nothing is trained"),
        ({"policy": "index"}, 1.0, False, "takes in what is new"),
        ({"policy": "index", "is_asked_alike": False}, 1.0, False, "nothing is trained"),
    ],
)
def test_the_verdict_and_its_reason(changes: dict[str, Any], share: float, trains: bool, says: str) -> None:
    verdict, why = replace(LOOK, **{"champion": Champion(), **changes}).verdict(share)
    assert verdict is trains and says in why


def test_an_index_of_nothing_cannot_be_updated() -> None:
    with pytest.raises(UserError, match="nothing is published whose index"):
        replace(LOOK, policy="index").verdict(0.5)


@pytest.mark.parametrize(
    ("shrunk", "most", "fails"), [(0.51, 0.5, True), (0.5, 0.5, False), (1.0, 1.0, False), (0.01, 0.0, True)]
)
def test_a_dump_that_has_lost_too_much_changes_nothing(shrunk: float, most: float, fails: bool) -> None:
    found = replace(LOOK, max_shrink_share=most, changes=Changes(removed=("tree: a.py", "tree: b.py"), shrunk=shrunk))
    told = r"tree: a\.py is the first of 2.* with nightly\.max_shrink_share=1"
    with pytest.raises(UserError, match=told) if fails else contextlib.nullcontext():
        found.check_shrunk()


def test_a_night_and_its_dry_run_heed_what_the_dump_has_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = replace(LOOK, listing="b", changes=Changes(removed=("tree: a.py",), shrunk=0.9))
    monkeypatch.setattr(nightly, "look", lambda *_: lost)
    monkeypatch.setattr(nightly, "in_subflow", lambda *_: pytest.fail("it has begun"))
    params = RunParams(preset="smoke")
    work = Workspace(tmp_path, Store(tmp_path / "store"), params.resolve())
    assert "it would fail: the dump has 90% fewer bytes" in nightly.dry_run(work, params).sentence
    with disable_run_logger(), pytest.raises(UserError, match="90% fewer bytes than last night"):
        nightly.night(work, params, lambda _: {})


@pytest.mark.parametrize(
    ("changes", "is_empty"),
    [
        ({}, True),
        ({"listing": "b"}, False),
        ({"contamination": "other texts"}, False),
        ({"is_asked_alike": False}, False),
        ({"is_indexed": False}, False),  # there is no champion, or a rollback brought an index of earlier documents back
    ],
)
def test_a_night_is_empty_only_if_all_is_as_it_was(changes: dict[str, Any], is_empty: bool) -> None:
    assert replace(LOOK, **changes).is_empty is is_empty


def test_a_trial_s_sizes_do_not_go_on_with_a_champion(tmp_path: Path) -> None:
    store, params = Store(tmp_path / "store"), RunParams(preset="smoke", name="mine", set=["nightly.policy=index"])
    work = Workspace(tmp_path, store, params.resolve())
    registry.promote(tmp_path, "mine", candidate(store, 1))
    with pytest.raises(UserError, match="mine has a champion"):
        look(work, params)


def test_the_index_is_made_for_the_champion_that_there_is_once_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, place = Store(tmp_path / "store"), (tmp_path, "mine")
    one, two = candidate(store, 1), candidate(store, 2)
    registry.promote(*place, one)
    built = []

    def build(_name: str, _subject: str, *_: Any) -> Any:
        """An index of the night's documents for the champion of now; the first time another is promoted while it is made."""
        now = registry.in_use(*place)
        built.append(now.trained)
        if len(built) == 1:
            registry.promote(*place, two)
        return indexed(store, one.exported if now.trained == one.trained else two.exported, 7)

    def found(_store: Store, home: Any, name: str) -> Any:
        now = registry.in_use(home, name)
        return ChampionRun(now.model_digest, now.index_digest, one.exported, now.checkpoint, None, None)  # type: ignore[arg-type]

    monkeypatch.setattr(nightly, "in_subflow", build)
    monkeypatch.setattr(nightly, "champion_run", found)
    for name in ("open_checkpoint", "as_exported"):
        monkeypatch.setattr(nightly, name, lambda *_: None)
    monkeypatch.setattr(nightly, "reindex_task", nightly.reindex_task.fn)
    nightly._index(Workspace(tmp_path, store, RunParams(preset="smoke").resolve()), "mine", one.exported)
    assert built == [one.trained, two.trained]
    assert registry.in_use(*place).index == indexed(store, two.exported, 7).part_folder()
