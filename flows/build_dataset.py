"""Dataset building: raw dump to token shards."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

from prefect import flow

from flows.hooks import FLOW_OPTIONS
from flows.params import DatasetParams
from flows.roots import admit
from flows.runs import asked_digest, find_checkpoint
from flows.workspace import Dataset, DatasetRef, Workspace, open_workspace, recorded_params
from pipeline_lib.errors import UserError
from pipeline_lib.model.checkpoint import Checkpoint, Lineage, lineage_of
from pipeline_lib.store.artifact import Artifact
from tasks.dataset import (
    check_shards_task,
    contamination_task,
    curate_task,
    extract_task,
    prompts_task,
    queries_task,
    shards_task,
    tokenizer_task,
    validate_task,
)


@flow(name="build-dataset", **FLOW_OPTIONS)
def build_dataset(params: DatasetParams) -> DatasetRef:
    """Extract documents and pairs, check them, curate and split them, and write them as token shards.

    Args:
        params: what to run, and on what.
    """
    admit(params)
    return dataset_of(open_workspace(params)).ref


@dataclass(frozen=True)
class Pairs:
    """The curated pairs of a dump, and what they were made of; each field is named by its stage."""

    extract: Artifact
    validate: Artifact
    curate: Artifact


def pairs_of(work: Workspace, known: Artifact | None = None) -> Pairs:
    """The pairs of a run, each stage made or found made.

    Args:
        known: the splits of an earlier growth, which stay.
    """
    store, config = work.store, work.config
    extracted = extract_task(store, config)
    checked = queries_task(store, extracted, config) if config.queries.file else extracted
    validated = validate_task(store, checked, config)
    contamination = contamination_task(store, config) if config.contamination.folder else None
    return Pairs(extracted, validated, curate_task(store, validated, config, contamination, known))


def dataset_of(work: Workspace, pairs: Pairs | Dataset | None = None, grown: Checkpoint | None = None) -> Dataset:
    """The dataset of a run, each stage made or found made.

    Args:
        pairs: it is made of; None: those of the run's own source.
        grown: the checkpoint that training goes on from on this dataset; None: as `train.when_grown` says.
    """
    store, config = work.store, work.config
    pairs = pairs or pairs_of(work)
    curated = pairs.curate
    if grown is None and config.train.when_grown == "continue" and not config.train.continue_from:
        grown = grown_from(work, curated)
    start = grown or work.start
    tokenizer = start.tokenizer if start else tokenizer_task(store, curated, config)
    if config.prompts.are_set:
        tokenizer = prompts_task(store, tokenizer, config.prompts, config.shards)
    shards = shards_task(store, curated, tokenizer, config)
    checked = check_shards_task(store, shards, tokenizer, config)
    return Dataset(pairs.extract, pairs.validate, curated, tokenizer, shards, checked, start)


def grown_from(work: Workspace, curated: Artifact) -> Checkpoint | None:
    """The last checkpoint of the newest run of this name and configuration, where its data were others and have grown since.

    A run that is done on this very dataset started as it did: it is found again.
    """
    runs = sorted(work.store.artifacts("train"), key=attrgetter("started_at"), reverse=True)
    same = [lineage for trained in runs if (lineage := _asked_alike(work, trained)) is not None]
    done = next((lineage for lineage in same if lineage.curated.digest == curated.digest), None)
    if done is not None:
        return find_checkpoint(work.store, done.origin.parent) if done.origin.parent else None
    return same[0].checkpoint(same[0].labels[-1]) if same else None


def _asked_alike(work: Workspace, trained: Artifact) -> Lineage | None:
    """The run, if it was asked for as this one is; None for another's, and where what belongs to it is gone."""
    try:
        lineage = lineage_of(work.store, trained)
        recorded = None if lineage.base else recorded_params(lineage)
        if recorded is None or asked_digest(recorded.resolve()) != work.asked:
            return None
    except UserError:
        return None
    return lineage
