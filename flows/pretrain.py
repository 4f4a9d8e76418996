"""The causal language model that contrastive training starts from, where none is given."""

from __future__ import annotations

from prefect import flow

from flows.build_dataset import require_dataset
from flows.parameters import DatasetRef, TrainParams
from flows.workspace import Workspace, open_workspace
from pipeline_lib.errors import UserError
from pipeline_lib.store.artifact import Artifact
from tasks.training import pretrain_task


@flow(name="pretrain", flow_run_name="pretrain-{params.preset}")
def pretrain(params: TrainParams) -> str:
    """Train a causal language model on the training split; the answer is the folder that `init` takes.

    Args:
        params: what to train, and on which dataset; `pretrain_steps` must be above 0 here or in the preset.
    """
    work = open_workspace(params)
    start = pretrain_on(work, require_dataset(params, params.dataset))
    if start is None:
        raise UserError(f"preset {params.preset!r} asks for no pre-training: give pretrain_steps, e.g. 500")
    return str(start.part_folder("model"))


def pretrain_on(work: Workspace, dataset: DatasetRef) -> Artifact | None:
    """The pre-trained start of a run, or None where its configuration asks for none."""
    if work.config.pretrain.steps == 0:
        return None
    shards = work.store.open("shards", dataset.shards)
    tokenizer = work.store.open("tokenizer", dataset.tokenizer)
    return pretrain_task(work.store, shards, tokenizer, work.config)
