"""What is said of a guide before anything is made: one that is wanted and not named, and one that cannot be."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flows.finetune import finetune
from flows.guide import guide_of_sets, guided
from flows.params import FinetuneParams, TrainParams
from flows.workspace import Dataset, Workspace, open_workspace
from pipeline_lib.config.finetuning import FinetuneConfig, TuningConfig
from pipeline_lib.config.overrides import apply
from pipeline_lib.config.run import RunConfig
from pipeline_lib.config.training import TeacherConfig
from pipeline_lib.errors import UserError
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.train.stages import check_negatives

DATASET = cast(Dataset, SimpleNamespace())


def never(*_: Any) -> Any:
    raise AssertionError("nothing is to be trained")


def guided_by(tmp_path: Path, **settings: Any) -> Dataset:
    config = apply(RunConfig(), {name.replace("__", "."): value for name, value in settings.items()})
    return guided(Workspace(tmp_path, Store(tmp_path), config), DATASET, never)


def test_nothing_that_asks_for_scores_makes_no_table(tmp_path: Path) -> None:
    assert guided_by(tmp_path) is DATASET
    assert guided_by(tmp_path, train__false_negatives__by="own") is DATASET
    assert guided_by(tmp_path, guide__model="first_round") is DATASET


REFUSED = pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train__false_negatives__by": "guide"}, "guide.model names none"),
        ({"train__teacher__kl_weight": 1.0}, "guide.model names none"),
        ({"guide__keep_top": 3}, "guide.model names none"),
        ({"train__teacher__margin_mse_weight": 1.0, "guide__model": "x"}, "the pairs of a dump have none"),
        ({"guide__keep_top": 3, "guide__model": "first_round", "train__continue_from": "abc"}, "name that run instead"),
        ({"guide__keep_top": 3, "guide__model": "no/such/folder"}, "no/such/folder"),
    ],
)


@REFUSED
def test_a_guide_that_cannot_be_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        guided_by(tmp_path, **settings)


@REFUSED
def test_it_is_refused_before_a_dataset_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    monkeypatch.setenv("CPT_HOME", str(tmp_path))
    words = tuple(f"{name.replace('__', '.')}={value}" for name, value in settings.items())
    params = TrainParams(preset="smoke", set=words)
    with pytest.raises(UserError, match=message):
        params.resolve()  # as a terminal does before anything starts
        open_workspace(params)


def test_a_model_that_nothing_asks_for_is_not_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPT_HOME", str(tmp_path))
    assert open_workspace(TrainParams(preset="smoke", set=("guide.model=no/such/folder",))).config.guide.model


TAUGHT = "training.teacher.margin_mse_weight=1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((TAUGHT,), r"set guide\.model"),
        ((TAUGHT, "guide.model=first_round"), "leave them out"),
        (("guide.keep_top=2",), "leave them out"),
        ((TAUGHT, "guide.model=no/such/folder"), "no/such/folder"),
        (("training.matryoshka.dims=[16, 64]",), "64 dimensions of a vector that has 32; the most is 32"),
    ],
)
def test_a_fine_tuning_is_refused_before_its_sets_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    checkpoint = SimpleNamespace(folder=tmp_path, name="abc/step-000001")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_embd": 32, "n_layer": 1}')
    monkeypatch.setattr("flows.finetune.open_checkpoint", lambda *_: checkpoint)
    monkeypatch.setattr("flows.finetune.training_set_task", never)
    params = FinetuneParams(
        checkpoint="abc/step-000001",
        training_data=(str(tmp_path),),
        set=words,
        machine={"artifacts": str(tmp_path)},  # type: ignore[arg-type]
    )
    with pytest.raises(UserError, match=message):
        finetune.fn(params)


def test_a_term_of_hard_negatives_wants_some() -> None:
    def shards(*facts: dict[str, int]) -> Artifact:
        return cast(Artifact, SimpleNamespace(manifest=SimpleNamespace(parts=[SimpleNamespace(facts=own) for own in facts])))

    taught = FinetuneConfig(teacher=TeacherConfig(margin_mse_weight=0.5))
    check_negatives(shards({"rows": 3}), FinetuneConfig())
    check_negatives(shards({"rows": 3}, {"rows": 2, "negatives": 1}), taught)
    for without in (shards({"rows": 3}), shards({"rows": 3, "negatives": 0})):
        with pytest.raises(UserError, match=r"margin_mse_weight is 0\.5, and no pair .* has a hard negative: mine some"):
            check_negatives(without, taught)


def test_fine_tuning_says_what_it_lacks(tmp_path: Path) -> None:
    pairs = cast(Artifact, SimpleNamespace())
    assert guide_of_sets(Store(tmp_path), TuningConfig(), pairs) is None
    for settings, message in (
        ({"training.teacher.margin_mse_weight": 1.0}, r"set guide\.model"),
        ({"guide.keep_top": 2}, "leave them out"),
        ({"guide.model": "first_round"}, "leave them out"),
    ):
        with pytest.raises(UserError, match=message):
            guide_of_sets(Store(tmp_path), apply(TuningConfig(), settings), pairs)
