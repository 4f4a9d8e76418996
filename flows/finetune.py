"""Fine-tuning of a checkpoint on training sets with hard negatives."""

from __future__ import annotations

import time
from dataclasses import replace

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from flows.guide import guide_of_sets
from flows.hooks import FLOW_OPTIONS
from flows.params import FinetuneParams
from flows.roots import admit
from flows.runs import PUBLISHED, check_guide_model, published_checkpoint, working_store
from flows.workspace import origin_of_tuning
from pipeline_lib.config.run import RunConfig
from pipeline_lib.evaluation.suites.models import CheckpointEncoder
from pipeline_lib.model.checkpoint import Checkpoint, labels_of_run, open_checkpoint, record_origin
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.train.stages import check_negatives
from pipeline_lib.train.start import check_tuned
from tasks.dataset import check_shards_task, prompts_task, shards_task
from tasks.finetuning import Figures, compare_task, finetune_task, join_task, mine_task, training_set_task
from tasks.suites import open_suites_task, suite_task
from tasks.training import register_checkpoints


class FinetunedRef(BaseModel):
    """A finished fine-tuning run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: str = Field(description="The checkpoint that was tuned.")
    checkpoint: str = Field(description="The last checkpoint of the run, as TRAINKEY/step-000240.")
    training_sets: tuple[str, ...] = Field(description="STAGE/KEY of the pairs that were trained on, set by set.")
    shards: str = Field(description="Key of the `shards` artifact.")
    figures: dict[str, tuple[float, float]] = Field(description="SUITE TASK METRIC to its value before and after.")


@flow(name="finetune", **FLOW_OPTIONS)
def finetune(params: FinetuneParams) -> FinetunedRef:
    """Read training sets, mine hard negatives, tune the checkpoint on them, and compare before with after.

    The result is a checkpoint like any other: it is evaluated and published by its name.

    Args:
        params: which checkpoint, which training sets, and how.
    """
    admit(params)
    config = params.resolve()
    store = working_store(params.machine.artifacts)
    name = published_checkpoint(store) if params.checkpoint == PUBLISHED else params.checkpoint
    before = open_checkpoint(store, name)
    checkpoint = before
    check_tuned(checkpoint, config.training)
    check_guide_model(store, config.training, config.guide)
    if config.prompts.are_set:
        checkpoint = replace(before, tokenizer=prompts_task(store, before.tokenizer, config.prompts, before.shards))
    sets = [training_set_task(store, training_set) for training_set in params.training_sets()]
    if config.mining.per_pair:
        sets = [mine_task(store, training_set, checkpoint, config.mining) for training_set in sets]
    joined = join_task(store, sets)
    shards = _shards(store, joined, checkpoint)
    check_negatives(shards, config.training)  # before a guide embeds all texts
    began = time.time()
    guide = guide_of_sets(store, config, joined)
    trained = finetune_task(store, checkpoint, shards, config.training, guide)
    record_origin(trained, origin_of_tuning(params.model_copy(update={"checkpoint": checkpoint.name}), shards.manifest.key))
    if trained.started_at >= began:
        register_checkpoints(trained, params.checkpoint, params.machine.model_dump(exclude_none=True))
    tuned = Checkpoint(trained, labels_of_run(trained)[-1], checkpoint.tokenizer, checkpoint.shards)
    return FinetunedRef(
        before=checkpoint.name,
        checkpoint=tuned.name,
        training_sets=tuple(f"{made.manifest.stage}/{made.manifest.key}" for made in sets),
        shards=shards.manifest.key,
        figures=before_and_after(store, params, before, tuned) if params.suites else {},
    )


def before_and_after(store: Store, params: FinetuneParams, checkpoint: Checkpoint, tuned: Checkpoint) -> Figures:
    """Both checkpoints on the same suites."""
    suites, _ = open_suites_task(params.suites, params.suite_data or "", params.suite_split, params.quick, skip_missing=False)
    before, after = (
        [suite_task(store, CheckpointEncoder(model), suite, params.suite_split) for suite in suites]
        for model in (checkpoint, tuned)
    )
    return compare_task(before, after)


def _shards(store: Store, pairs: Artifact, checkpoint: Checkpoint) -> Artifact:
    """Token shards of the checkpoint's own tokenizer and lengths, held against their contract."""
    lengths = checkpoint.shards.model_copy(update={"splits": ("train",), "order": "hash"})
    config = RunConfig(shards=lengths)
    shards = shards_task(store, pairs, checkpoint.tokenizer, config)
    check_shards_task(store, shards, checkpoint.tokenizer, config)
    return shards
