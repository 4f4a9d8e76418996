"""Contrastive training: token shards to checkpoints."""

from __future__ import annotations

import time
from dataclasses import replace

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from flows.build_dataset import dataset_of
from flows.guide import guided
from flows.hooks import FLOW_OPTIONS, in_subflow
from flows.params import CheckpointParams, SourceParams, TrainParams
from flows.pools import trained_on_pool
from flows.pretrain import pretrain_on, text_of
from flows.roots import admit
from flows.runs import ON_GROWTH, with_settings, working_store
from flows.settings import flat, name_of, words_of
from flows.workspace import (
    Dataset,
    DatasetRef,
    TrainedRun,
    Workspace,
    check_planned,
    named_checkpoint,
    named_run,
    open_workspace,
    origin_of,
    recorded_params,
)
from pipeline_lib.config.evaluation import BesideConfig
from pipeline_lib.config.overrides import overrides_of
from pipeline_lib.config.presets import preset
from pipeline_lib.config.run import RunConfig
from pipeline_lib.model.checkpoint import Companion, Lineage, check_fit, record_origin
from pipeline_lib.model.lora import weights_folder
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.train.start import recipe_of
from tasks.training import lexical_start_task, register_checkpoints, train_task
from tasks.ui import say

OF_PAIRS = ("source", "extract", "queries", "contract", "contamination", "curate")  # sections that make the pairs


class TrainedRef(BaseModel):
    """A finished training run, and the dataset behind it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: DatasetRef
    start: str | None = Field(None, description="STAGE/KEY of the artifact that training began from; None: random weights.")
    trained: str = Field(description="Key of the `train` artifact.")


@flow(name="train", **FLOW_OPTIONS)
def train(params: TrainParams) -> TrainedRef:
    """Train the encoder contrastively, after causal language modelling where the preset asks for it.

    Args:
        params: what to train, and on what.
    """
    admit(params)
    work = open_workspace(params)
    run = train_on(work, params, in_subflow("build-dataset", work.config.name, dataset_of, work))
    start = run.start and f"{run.start.manifest.stage}/{run.start.manifest.key}"
    return TrainedRef(dataset=run.dataset.ref, start=start, trained=run.key)


def train_on(work: Workspace, params: SourceParams, dataset: Dataset) -> TrainedRun:
    """The training run of a dataset.

    Args:
        params: which it is recorded with.
    """
    if work.config.beside.trained:
        work = replace(work, companion=second_of(work, params, dataset))
    work = warm_started(work, dataset)
    dataset = guided(work, dataset, trained_of)
    parent, began = dataset.start.trained if dataset.start else None, time.time()
    trained, start = trained_of(work, dataset)
    origin = origin_of(params, work, dataset)
    record_origin(trained, origin)
    lineage = Lineage(trained, dataset.shards, dataset.tokenizer, dataset.curate, origin)
    check_fit(lineage)
    if trained.started_at >= began:
        register_checkpoints(trained, work.config.name, params.machine.model_dump(exclude_none=True))
    return TrainedRun(work, recorded_params(lineage), dataset, lineage, start or parent)


def second_of(work: Workspace, params: SourceParams, dataset: Dataset) -> Companion:
    """The model of `beside.preset`, trained on the pairs of a dataset or found trained.

    Args:
        params: of the run that it stands beside.

    Raises:
        UserError: its start is not here, or does not fit.
    """
    config = work.config
    say(f"  {config.beside.trained} on the same pairs, to stand beside {config.name}")
    asked = second_params(params, config, dataset.curate.part("train").counts.n_out)
    other = open_workspace(asked)
    others = in_subflow("build-dataset", other.config.name, dataset_of, other, dataset)
    run = in_subflow("train", other.config.name, train_on, other, asked, others)
    return Companion(run.checkpoint(run.lineage.labels[-1]), config.beside.share)


def second_params(params: SourceParams, config: RunConfig, n_pairs: int) -> TrainParams:
    """What trains the model of `beside.preset` alone, on the pairs that a configuration makes.

    Args:
        n_pairs: of the training split; its batches are at most a tenth of them, so that a small source is enough.
    """
    name = str(config.beside.trained)
    alone = preset(name)
    of_these_pairs = alone.model_copy(update={section: getattr(config, section) for section in OF_PAIRS})
    second = of_these_pairs.model_copy(update={"beside": BesideConfig(), "pools": config.pools})
    fitting = max(2, 1 << max(1, n_pairs // 10).bit_length() - 1)  # a power of two
    if fitting < second.train.batch_size:
        second = with_settings(second, "train", batch_size=fitting)
    values = flat(RunConfig, overrides_of(second, alone))
    return TrainParams(
        preset=name,
        source=values.pop("source.folder", None),
        name=name_of(f"{config.name}-{name}"),
        set=words_of(RunConfig, values),
        machine=params.machine,
    )


def trained_of(work: Workspace, dataset: Dataset) -> tuple[Artifact, Artifact | None]:
    """The `train` artifact of a dataset, and what its training began from where that was made for it; wherever it is made."""
    if not work.config.pools.gpu:
        return trained_here(work, dataset)
    if work.config.pretrain.steps and work.config.pretrain.text == "documents" and dataset.start is None:
        text_of(work, dataset)  # by this pool's cores; there it is found made
    return trained_on_pool(work, dataset)


def trained_here(work: Workspace, dataset: Dataset) -> tuple[Artifact, Artifact | None]:
    """The `train` artifact of a dataset, and what its training began from where that was made for it; by this machine."""
    start = start_of_training(work, dataset)
    parent = dataset.start.trained if dataset.start else None
    more = {"parent": parent, "guide": dataset.guide}
    return train_task(work.store, dataset.shards, dataset.tokenizer, work.config, start, more), start


def warm_started(work: Workspace, dataset: Dataset) -> Workspace:
    """The run on a dataset that has grown: from the checkpoint of an earlier run, for a share of the steps; else as it is.

    Either way its policy has been followed, and is no part of what is trained.
    """
    start, config = dataset.start, with_settings(work.config, "train", **ON_GROWTH)
    if start is None or (work.start and start.name == work.start.name):
        return replace(work, config=config)
    say(f"  the data have grown: training goes on from {start.name}")
    train, recipe = work.config.train, recipe_of(start)
    steps = train.model_copy(update={"schedule": "cosine"}).lasting(round(train.grown_steps_share * train.steps))
    update = {"steps": steps.steps, "warmup_steps": steps.warmup_steps, "temperature": recipe["train"]["temperature"]}
    config = with_settings(config, "train", **update)
    config = with_settings(config, "model", **recipe["model"], init=str(weights_folder(start)))
    return replace(work, config=config)


def start_of_training(work: Workspace, dataset: Dataset) -> Artifact | None:
    """What training begins from, where that is made here: a language model, or weights that count words."""
    config = work.config
    if dataset.start is not None:
        return None
    if config.pretrain.steps:
        return pretrain_on(work, dataset)
    if config.model.start == "lexical" and not config.model.init:
        return lexical_start_task(work.store, dataset.shards, dataset.tokenizer, config)
    return None


def find_run(params: CheckpointParams, checkpoint: str | None) -> tuple[TrainedRun, str]:
    """The training run that is named and the checkpoint's label, empty for a whole run.

    A run that is named by its key brings its own corpus, tokenizer, lengths and parameters, and nothing is made. One that is
    named by parameters is trained where it is not there.

    Args:
        checkpoint: see `CheckpointParams`; empty or None: the run of the parameters.

    Raises:
        UserError: there is no such run or checkpoint (the message lists those that there are), or what belongs to it is gone
            or does not fit.
    """
    store = working_store(params.machine.artifacts)
    key, label = named_checkpoint(store, checkpoint) if checkpoint else ("", "")
    if key:
        run = named_run(params, key)
        if run.note:
            say(f"  {run.note}")
        if run.work.config.beside.trained:
            run = replace(run, work=replace(run.work, companion=second_of(run.work, params, run.dataset)))
    else:
        check_planned(params, store, label)
        work = open_workspace(params)
        dataset = in_subflow("build-dataset", work.config.name, dataset_of, work)
        run = in_subflow("train", work.config.name, train_on, work, params, dataset)
    if label:
        run.checkpoint(label)
    return run, label
