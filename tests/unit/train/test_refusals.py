"""What cannot be trained is refused before a model is loaded, and what a run leaves unused is said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from training_runs import MODEL, tiny_config, write_inputs, write_job

from flows.params import FinetuneParams, RunParams
from pipeline_lib.config.finetuning import FinetuneConfig
from pipeline_lib.config.training import FalseNegativesConfig, PretrainConfig, TrainConfig
from pipeline_lib.errors import UserError
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.rows import check_views
from pipeline_lib.train.distributed import Ranks, check_gpus
from pipeline_lib.train.job import PRETRAIN
from pipeline_lib.train.launch import TrainInputs, _warnings, train
from pipeline_lib.train.stages import pretrain, tuned_config
from pipeline_lib.train.trainer import build_objective

Inputs = tuple[Store, TrainInputs]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("refused"))


@pytest.fixture(autouse=True)
def no_model_and_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "build", lambda *_: pytest.fail("a model was loaded"))
    monkeypatch.setattr("pipeline_lib.train.causal._build_model", lambda *_: pytest.fail("a model was loaded"))
    monkeypatch.setattr("pipeline_lib.train.launch.start_child", lambda *_: pytest.fail("a process was started"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixture": {"docstrng": 0.7, "neighbour": 0.3}}, "mixture: no view is called 'docstrng'; did you mean docstring?"),
        ({"mixture": {"docstring": 0.7, "neighbor": 0.0}}, "'neighbor'; did you mean neighbour?"),
        ({"mixture": {"zzz": 1.0}}, r"'zzz'; did you mean class or docstring .*rows of docstring, neighbour"),
        ({"mask_same_document": ("neighbours",)}, "mask_same_document: no view is called 'neighbours'; did you mean neighbour"),
        ({"batch_size": 15, "processes": 2}, "15 pairs does not divide among 2 processes: batch_size 14 or 16 would"),
        ({"batch_size": 4, "processes": 2, "nodes": 4, "rendezvous": "h:1"}, "among 8 processes: batch_size 8 would"),
    ],
)
def test_a_run_is_refused_before_anything_starts(inputs: Inputs, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(*inputs, tiny_config(**changes), MODEL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"mixture": {"docstrng": 1.0}}, "did you mean docstring"), ({"batch_size": 15}, "does not divide among 2")],
)
def test_a_process_without_a_launcher_refuses_them_too(inputs: Inputs, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_objective(write_job(*inputs, tiny_config(**changes), key="refused"), Ranks(0, 2))


def test_a_language_model_of_less_than_a_sequence_a_process_is_refused(inputs: Inputs) -> None:
    config = PretrainConfig(steps=2, batch_tokens=64, sequence_tokens=32, threads=1)
    with pytest.raises(UserError, match=r"less than one sequence of 32 tokens for each of 4 process.*, which is 128"):
        build_objective(write_job(*inputs, config, key="lm", stage=PRETRAIN), Ranks(3, 4))
    with pytest.raises(UserError, match=r"pretrain.text is documents, and the token shards \w+ hold pairs"):
        pretrain(*inputs, config, MODEL)
    misspelt = config.model_copy(update={"text": "pairs", "mixture": {"neighbor": 1.0}})
    with pytest.raises(UserError, match="did you mean neighbour"):
        pretrain(*inputs, misspelt, MODEL)


def test_a_known_view_without_rows_is_said(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(mixture={"docstring": 0.5, "name": 0.2, "title": 0.0, "neighbour": 0.3})
    assert check_views(inputs[1].shards, config) == ["name"], "of no weight, no rows are missed"
    lines: list[str] = []
    monkeypatch.setattr("pipeline_lib.train.launch.Supervisor.run", lambda _: (_ for _ in ()).throw(InterruptedError))
    with pytest.raises(InterruptedError):
        train(*inputs, config, MODEL, log=lines.append)
    _, said = lines  # the layout comes first
    assert said.startswith("warning: the mixture asks for name, of which this dataset has no rows")


def test_a_rule_that_never_begins_is_said(inputs: Inputs) -> None:
    def said(**rule: Any) -> list[str]:
        return _warnings(inputs[1].shards, tiny_config(false_negatives=FalseNegativesConfig(**rule)))

    assert said(by="own", unmasked_steps=11) == said(unmasked_steps=12) == []
    (line,) = said(by="own", unmasked_steps=12)
    assert "unmasked_steps is 12 and the run has 12 steps: scores leave nothing out" in line


def test_options_whose_batch_does_not_divide_are_refused_before_a_dataset_is_built() -> None:
    with pytest.raises(UserError, match="64 pairs does not divide among 3"):
        RunParams(preset="smoke", set=("train.processes=3",)).resolve()
    assert RunParams(preset="smoke", set=("train.processes=2",)).resolve().train.processes == 2
    with pytest.raises(UserError, match="256 pairs does not divide among 3"):
        from flows.finetune import finetune

        params = FinetuneParams(checkpoint="k/step-000001", training_data=("set.jsonl",), set=("training.processes=3",))
        finetune.fn(params)


def test_a_fine_tuning_takes_a_batch_that_divides_and_holds_nothing_out() -> None:
    base = TrainConfig(evaluation_pairs=500, keep_checkpoints=2)
    tuned = tuned_config(base, FinetuneConfig(processes=2, checkpoints=3), {"a": 101}, 0.05)
    assert (tuned.evaluation_pairs, tuned.keep_checkpoints, tuned.checkpoints) == (0, None, 3)
    assert tuned.batch_size == 100, "one row fewer than there are"
    with pytest.raises(UserError, match="1 pairs to tune on and 2 processes"):
        tuned_config(base, FinetuneConfig(processes=2), {"a": 1}, 0.05)
    with pytest.raises(UserError, match="does not divide among 3"):
        tuned_config(base, FinetuneConfig(processes=3), {"a": 1000}, 0.05)


def test_idle_gpus_are_said_and_missing_ones_refused() -> None:
    assert check_gpus(8, 8) == ""
    assert check_gpus(8, 1) == "1 of the 8 GPUs of this machine train, one a process; processes=8 would use all of them"
    with pytest.raises(UserError, match=r"4 trainer processes for 2 GPU\(s\)"):
        check_gpus(2, 4)
