"""Stages handed over to another pool: what travels, who may do it, and when a run there is given up."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import State, StateType
from prefect.logging import disable_run_logger
from sentence_transformer_folders import write_sentence_transformer
from training_runs import write_inputs

from flows import guide, pools
from flows.guide import guide_here, guided
from flows.pools import Handover
from flows.stages import guide_step
from flows.workspace import Dataset, Workspace
from pipeline_lib.config.overrides import apply
from pipeline_lib.config.run import RunConfig
from pipeline_lib.errors import TrainingFailed, TransientError, UserError
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.runtime.shared_cluster import probed


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Workspace, Dataset]:
    """A dataset in a store, and a configuration that names a pool."""
    monkeypatch.setenv("CPT_HOME", str(tmp_path / "home"))
    store, inputs = write_inputs(tmp_path / "store")
    curated = next(iter(store.artifacts("curate")))
    config = apply(RunConfig(name="mine"), {"pools.gpu": "gpu", "train.steps": 7, "source.folder": str(tmp_path)})
    return Workspace(tmp_path, store, config), Dataset(None, None, curated, inputs.tokenizer, inputs.shards)


def test_the_other_machine_gets_the_same_configuration_and_dataset_but_no_pool(work: tuple[Workspace, Dataset]) -> None:
    given, dataset = work
    sent = Handover.of("train", given, dataset).model_dump_json()
    there, opened = Handover.model_validate_json(sent).open()
    assert there.config.key_fields() == given.config.key_fields()
    assert there.config.train == given.config.train
    assert there.config.pools.gpu is None, "or it would hand them over again"
    assert (opened.shards.digest, opened.tokenizer.digest) == (dataset.shards.digest, dataset.tokenizer.digest)
    assert there.store.place == given.store.place


def test_a_start_of_adapters_goes_by_its_name_and_is_merged_there(
    work: tuple[Workspace, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, dataset = work
    start = cast(Checkpoint, SimpleNamespace(name="abcd/step-000002", folder=tmp_path / "adapters"))
    places = {"here": tmp_path / "merged" / "here", "there": tmp_path / "merged" / "there"}
    monkeypatch.setattr(pools, "weights_folder", lambda _: places["here"])
    lora = Workspace(given.home, given.store, apply(given.config, {"model.init": str(places["here"])}), start)
    sent = Handover.of("train", lora, replace(dataset, start=start))
    assert sent.config["model"]["init"] == start.name, "a folder of this machine is nowhere else"
    monkeypatch.setattr(pools, "weights_folder", lambda _: places["there"])
    monkeypatch.setattr(pools, "checkpoint_of", lambda *_: start)
    assert Handover.model_validate_json(sent.model_dump_json()).open()[0].config.model.init == str(places["there"])


def test_a_guide_s_vectors_are_the_same_wherever_they_are_made(
    work: tuple[Workspace, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(write_sentence_transformer(tmp_path / "guide", "bert-mean"))
    asked = {"guide.model": folder, "train.false_negatives.by": "guide"}
    given, dataset = Workspace(tmp_path, work[0].store, apply(work[0].config, asked)), work[1]
    seen: list[Any] = []

    def handed_over(_: Any, handover: Handover, places: Any) -> pools.Made:
        seen.append((handover.step, *places))
        there = Handover.model_validate_json(handover.model_dump_json())
        assert there.open()[0].config.pools.gpu is None, "or it would hand them over again"
        return guide_step(there, *there.open())

    monkeypatch.setattr(pools, "_handed_over", handed_over)
    monkeypatch.setattr(guide, "guide_task", guide.guide_task.fn)  # type: ignore[attr-defined]
    with disable_run_logger():
        made = guided(given, dataset, lambda *_: pytest.fail("nothing is to be trained")).guide
        alone = Workspace(tmp_path, given.store, apply(given.config, {"pools.gpu": None}))
        here = guide_here(alone, dataset, None)
    assert seen == [("guide", folder)] and made is not None and made.manifest.facts["texts"] > 0
    assert made.digest == here.digest


def test_the_pool_is_no_part_of_what_is_made(work: tuple[Workspace, Dataset]) -> None:
    given, _ = work
    alone = apply(given.config, {"pools.gpu": None})
    assert alone.key_fields() == given.config.key_fields()


def test_a_worker_without_the_store_or_with_other_code_refuses(work: tuple[Workspace, Dataset], tmp_path: Path) -> None:
    given, dataset = work
    with probed(given.store.place, ()) as fitness:
        handed = Handover.of("train", given, dataset).model_copy(update={"fitness": asdict(fitness)})
        sent = Handover.model_validate_json(handed.model_dump_json())
        sent.check_worker()
        elsewhere = sent.model_copy(update={"fitness": {**sent.fitness, "root": str(tmp_path / "other")}})
        with pytest.raises(UserError, match="does not see the artifact root"):
            elsewhere.check_worker()
        older = sent.model_copy(update={"fitness": {**sent.fitness, "versions": {**fitness.versions, "pipeline_lib": "0"}}})
        with pytest.raises(UserError, match=r"has pipeline_lib .* this process has 0: install the same on both"):
            older.check_worker()
    assert not list(Path(given.store.place).glob("probes/*")), "the probe is gone with the run"


def state(kind: StateType, message: str = "") -> State[Any]:
    return State(type=kind, message=message, id=uuid4())


def test_a_run_is_lost_only_when_neither_state_nor_heartbeat_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(pools.time, "monotonic", lambda: now[0])
    watch, waiting, running = pools._Watch(100), state(StateType.SCHEDULED), state(StateType.RUNNING)
    for now[0] in (0.0, 50.0, 500.0):
        watch.hear(waiting, "")
        assert not watch.is_lost, "it waits for a worker"
    assert watch.waits_long
    assert not watch.waits_long, "told once"
    for beat in range(10):
        now[0] += 90
        watch.hear(running, f"beat {beat}")
        assert not watch.is_lost
    now[0] += 101
    watch.hear(running, "beat 9")
    assert watch.is_lost
    now[0] += pools.SERVER_SECONDS
    watch.hear_nothing(OSError("refused"))
    now[0] += 1
    with pytest.raises(TransientError, match="has not answered"):
        watch.hear_nothing(OSError("refused"))


def test_what_ended_a_run_there_is_raised_here_as_the_same_kind() -> None:
    failed = state(StateType.FAILED, "Flow run encountered an exception: TrainingFailed: the loss is not finite")
    assert isinstance(pools._failure(failed, "told"), TrainingFailed)
    unknown = state(StateType.FAILED, "Flow run encountered an exception: KeyError: 'x'")
    assert type(pools._failure(unknown, "told")) is RuntimeError
    assert isinstance(pools._failure(state(StateType.CANCELLED), "told"), UserError)
