"""Token shards to checkpoints."""

from __future__ import annotations

from prefect import flow

from flows.build_dataset import require_dataset
from flows.parameters import TrainedRef, TrainParams
from flows.pretrain import pretrain_on
from flows.workspace import open_workspace
from tasks.training import train_task


@flow(name="train", flow_run_name="train-{params.preset}")
def train(params: TrainParams) -> TrainedRef:
    """Train the encoder contrastively, after causal language modelling where the preset asks for it.

    Args:
        params: what to train, and on which dataset.
    """
    work = open_workspace(params)
    dataset = require_dataset(params, params.dataset)
    start = pretrain_on(work, dataset)
    shards = work.store.open("shards", dataset.shards)
    tokenizer = work.store.open("tokenizer", dataset.tokenizer)
    trained = train_task(work.store, shards, tokenizer, work.config, start)
    return TrainedRef(dataset=dataset, pretrained=start.manifest.key if start else "", trained=trained.manifest.key)
