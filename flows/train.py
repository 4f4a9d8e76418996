"""Token shards to checkpoints."""

from __future__ import annotations

from prefect import flow

from flows.build_dataset import require_dataset
from flows.origins import origin_of
from flows.parameters import TrainedRef, TrainParams
from flows.pretrain import pretrain_on
from flows.workspace import open_workspace
from pipeline_lib.model.checkpoint import record_origin, require_input
from tasks.training import lexical_start_task, train_task


@flow(name="train", flow_run_name="train-{params.preset}")
def train(params: TrainParams) -> TrainedRef:
    """Train the encoder contrastively, after causal language modelling where the preset asks for it.

    Args:
        params: what to train, and on which dataset.
    """
    work = open_workspace(params)
    dataset = require_dataset(params, params.dataset)
    shards = work.store.open("shards", dataset.shards)
    tokenizer = work.store.open("tokenizer", dataset.tokenizer)
    require_input(shards, "tokenizer", tokenizer)
    start = pretrain_on(work, dataset)
    if start is None and work.config.model.start == "lexical" and not work.config.model.init:
        start = lexical_start_task(work.store, shards, tokenizer, work.config)
    trained = train_task(work.store, shards, tokenizer, work.config, start)
    record_origin(trained, origin_of(params, work.config, dataset))
    return TrainedRef(
        dataset=dataset, start=f"{start.manifest.stage}/{start.manifest.key}" if start else "", trained=trained.manifest.key
    )
