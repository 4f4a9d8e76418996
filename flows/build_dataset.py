"""Raw dump to token shards."""

from __future__ import annotations

from prefect import flow

from flows.parameters import DatasetRef, RunParams
from flows.workspace import open_workspace
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
def build_dataset(params: RunParams) -> DatasetRef:
    """Extract documents and pairs, check them, curate and split them, and write them as token shards.

    Args:
        params: what to run, and on what.
    """
    work = open_workspace(params)
    store, config = work.store, work.config
    extracted = extract_task(store, config)
    validated = validate_task(store, extracted, config)
    contamination = contamination_task(store, config) if config.contamination.folder else None
    curated = curate_task(store, validated, config, contamination)
    tokenizer = tokenizer_task(store, curated, config)
    shards = shards_task(store, curated, tokenizer, config)
    checked = check_shards_task(store, shards, tokenizer, config)
    return DatasetRef(
        extracted=extracted.manifest.key,
        validated=validated.manifest.key,
        curated=curated.manifest.key,
        tokenizer=tokenizer.manifest.key,
        shards=shards.manifest.key,
        checked=checked.manifest.key,
    )


def require_dataset(params: RunParams, dataset: DatasetRef) -> DatasetRef:
    """The dataset that is named, or the one of these parameters, built first where it is not there."""
    return (
        dataset
        if dataset.shards
        else build_dataset(RunParams.model_validate(params.model_dump(include=set(RunParams.model_fields))))
    )
