"""Dataset building: raw dump to token shards."""

from __future__ import annotations

from prefect import flow

from flows.params import DatasetParams
from flows.workspace import Dataset, DatasetRef, Workspace, open_workspace
from tasks.dataset import (
    check_shards_task,
    contamination_task,
    curate_task,
    extract_task,
    shards_task,
    tokenizer_task,
    validate_task,
)


@flow(name="build-dataset", flow_run_name="build-dataset-{params.preset}")
def build_dataset(params: DatasetParams) -> DatasetRef:
    """Extract documents and pairs, check them, curate and split them, and write them as token shards.

    Args:
        params: what to run, and on what.
    """
    return dataset_of(open_workspace(params)).ref


def dataset_of(work: Workspace) -> Dataset:
    """The dataset of a run, each stage made or found made."""
    store, config = work.store, work.config
    extracted = extract_task(store, config)
    validated = validate_task(store, extracted, config)
    contamination = contamination_task(store, config) if config.contamination.folder else None
    curated = curate_task(store, validated, config, contamination)
    tokenizer = tokenizer_task(store, curated, config)
    shards = shards_task(store, curated, tokenizer, config)
    checked = check_shards_task(store, shards, tokenizer, config)
    return Dataset(extracted, validated, curated, tokenizer, shards, checked)
