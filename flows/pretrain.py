"""Pre-training: the causal language model that contrastive training starts from, where none is given."""

from __future__ import annotations

from prefect import flow

from flows.build_dataset import dataset_of
from flows.hooks import FLOW_OPTIONS, in_subflow
from flows.params import PretrainParams
from flows.roots import admit
from flows.workspace import Dataset, Workspace, open_workspace
from pipeline_lib.errors import UserError
from pipeline_lib.store.artifact import Artifact
from tasks.dataset import contamination_task
from tasks.training import document_splits_task, pretrain_task, text_shards_task


@flow(name="pretrain", **FLOW_OPTIONS)
def pretrain(params: PretrainParams) -> str:
    """Train a causal language model on the training split; the answer is the folder that `init` takes.

    Args:
        params: what to train, and on what.
    """
    admit(params)
    work = open_workspace(params)
    if work.config.pretrain.steps == 0:
        raise UserError(f"preset {params.preset!r} asks for no pre-training: give pretrain.steps, e.g. --pretrain-steps 500")
    start = pretrain_on(work, in_subflow("build-dataset", work.config.name, dataset_of, work))
    return str(start.part_folder("model"))


def pretrain_on(work: Workspace, dataset: Dataset) -> Artifact:
    """The pre-trained start of a run."""
    shards = text_of(work, dataset) if work.config.pretrain.text == "documents" else dataset.shards
    return pretrain_task(work.store, shards, dataset.tokenizer, work.config)


def text_of(work: Workspace, dataset: Dataset) -> Artifact:
    """The whole documents of a dataset, tokenized.

    Raises:
        UserError: they are gone.
    """
    store, config, extracted = work.store, work.config, dataset.extract
    if extracted is None:
        raise UserError("the documents of this dataset are gone: build it again, or set pretrain.text to pairs")
    contamination = contamination_task(store, config) if config.contamination.folder else None
    splits = document_splits_task(store, extracted, dataset.curate, contamination)
    return text_shards_task(store, extracted, splits, dataset.tokenizer)
