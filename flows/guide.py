"""Guide of a training run: which model it is, its vectors of the training texts, and the pairs that it agrees with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from flows.pools import guide_on_pool
from flows.runs import find_checkpoint
from flows.workspace import Dataset, Workspace
from pipeline_lib.config.finetuning import TuningConfig, check_tuning_guide
from pipeline_lib.config.training import FIRST_ROUND, GuideConfig, check_guide, reads_guide, wants_guide
from pipeline_lib.evaluation.suites.models import CheckpointEncoder, TextEncoder
from pipeline_lib.evaluation.suites.outside import open_outside
from pipeline_lib.model.checkpoint import Checkpoint, labels_of_run
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.guide import Cleaned
from tasks.dataset import check_shards_task, shards_task
from tasks.training import consistent_task, guide_task
from tasks.ui import say

Train = Callable[[Workspace, Dataset], tuple[Artifact, Artifact | None]]


def guided(work: Workspace, dataset: Dataset, train: Train) -> Dataset:
    """The dataset with its guide's vectors, and without the training pairs that the guide does not agree with.

    Args:
        train: the first round, where its last checkpoint guides.

    Raises:
        UserError: the loss or the filter goes by a guide and none is named, or there is no such model.
    """
    config = work.config
    if not wants_guide(config.train, config.guide):
        if config.guide.model is not None:
            say(f"  guide.model {config.guide.model}: nothing asks for its scores, and it is not used")
        return dataset
    check_guide(config.train, config.guide)
    first = _first_round(work, dataset, train) if config.guide.model == FIRST_ROUND else None
    made = guide_on_pool if config.pools.gpu else guide_here
    guide = made(work, dataset, first)
    dataset = replace(dataset, guide=guide)
    if config.guide.keep_top is None:
        return dataset
    consistent = consistent_task(work.store, dataset.curate, guide, config.guide)
    shards = shards_task(work.store, Cleaned(dataset.curate, consistent), dataset.tokenizer, config)
    checked = check_shards_task(work.store, shards, dataset.tokenizer, config)
    return replace(dataset, consistent=consistent, shards=shards, check_shards=checked)


def guide_here(work: Workspace, dataset: Dataset, first: Checkpoint | None) -> Artifact:
    """The guide's vectors of the training texts, made by this process.

    Args:
        first: the first round's checkpoint, where that guides.
    """
    model = _encoder(first, work.config.guide) if first else model_of(work.store, work.config.guide)
    return guide_task(work.store, dataset.curate, model)


def guide_of_sets(store: Store, config: TuningConfig, pairs: Artifact) -> Artifact | None:
    """A guide's vectors of the training sets, where fine-tuning goes by its scores.

    Raises:
        UserError: none is named, or one that fine-tuning has no use for.
    """
    rules, guide = config.training, config.guide
    check_tuning_guide(config)
    if not reads_guide(rules.false_negatives, rules.teacher):
        return None
    return guide_task(store, pairs, model_of(store, guide))


def model_of(store: Store, config: GuideConfig) -> TextEncoder:
    """The model that guides: a finished run's checkpoint, or one in a folder.

    Raises:
        UserError: there is none.
    """
    assert config.model is not None, "no guide is named"
    checkpoint = find_checkpoint(store, config.model)
    return open_outside(config.model) if checkpoint is None else _encoder(checkpoint, config)


def _encoder(checkpoint: Checkpoint, config: GuideConfig) -> CheckpointEncoder:
    return CheckpointEncoder(checkpoint, config.batch_tokens, config.precision)


def _first_round(work: Workspace, dataset: Dataset, train: Train) -> Checkpoint:
    """The last checkpoint of a training on the same data by its own lights, for a share of the steps."""
    steps = max(1, round(work.config.guide.first_round_share * work.config.train.steps))
    shorter = work.config.train.unguided().lasting(steps)
    config = work.config.model_copy(update={"train": shorter.model_copy(update={"checkpoints": 1})})
    trained, _ = train(replace(work, config=config), dataset)
    return Checkpoint(trained, labels_of_run(trained)[-1], dataset.tokenizer, config.shards)
