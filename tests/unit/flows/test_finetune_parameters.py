"""What the options of `cpt finetune` become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.finetune_parameters import FinetuneParams, from_terminal
from pipeline_lib.errors import UserError

OPTIONS: dict[str, Any] = {
    "checkpoint": "k/step-000001", "data": ["nli=sets/nli", "plain.jsonl"], "mine": 3, "mine_ranks": "2-50", "margin": 0.1,
    "epochs": 1.5, "batch_size": 64, "rate_share": 0.2, "require_negatives": True, "seed": 4, "processes": 2,
    "columns": "2,3", "max_dropped_share": 0.9, "suite": ["sts-b"], "suite_data": "data", "quick": True, "artifacts": "",
}  # fmt: skip


def test_every_option_arrives() -> None:
    params = from_terminal(OPTIONS)
    sets = params.training_sets()
    assert [(made.view, Path(made.path)) for made in sets] == [
        ("nli", Path("sets/nli").absolute()),
        ("pairs", Path("plain.jsonl").absolute()),
    ]
    assert all(made.require_negatives and (made.columns, made.max_dropped_share) == ("2,3", 0.9) for made in sets)
    mining, training = params.mining, params.training
    assert (mining.per_pair, mining.first_rank, mining.last_rank, mining.margin) == (3, 2, 50, 0.1)
    assert (training.epochs, training.batch_size, training.rate_share, training.seed, training.processes) == (
        1.5,
        64,
        0.2,
        4,
        2,
    )
    assert params.suites == ("sts-b",) and Path(params.suite_data).is_absolute() and params.quick


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mine_ranks": "9-3"}, "first_rank 9"),
        ({"mine_ranks": "3"}, "last-rank"),
        ({"epochs": 0}, "epochs"),
        ({"max_dropped_share": 1.5}, "max-dropped-share"),
        ({"data": []}, "data"),
    ],
)
def test_what_makes_no_sense_is_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        from_terminal({**OPTIONS, **change})
    assert "\n" not in str(caught.value)


def test_every_parameter_has_a_title_and_a_description() -> None:
    assert all(field.title and field.description for field in FinetuneParams.model_fields.values())
