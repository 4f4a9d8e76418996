"""What the policy of nights makes of what is new."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flows.night_look import Look, State
from pipeline_lib.errors import UserError
from pipeline_lib.sources.changes import Changes

LOOK = Look(
    home="home", name="corpus", policy="continue", min_new_share=0.02, champion=None, last=State(source="a"), listing="a",
    contamination="", changes=Changes(), since_training=Changes(), is_asked_alike=True, is_indexed=True,
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
