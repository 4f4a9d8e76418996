"""Training tasks. Called directly, never submitted: only the main thread can stop the trainer in time."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from prefect.events import emit_event

from data_contracts.data_loss import by_count
from pipeline_lib.config.run import RunConfig
from pipeline_lib.config.training import GuideConfig
from pipeline_lib.curation.document_splits import split_whole_documents
from pipeline_lib.evaluation.suites.cached import CachedEncoder, ParallelEncoder, embedding_processes
from pipeline_lib.evaluation.suites.models import TextEncoder
from pipeline_lib.model.checkpoint import labels_of_run
from pipeline_lib.runtime.progress import WARNING
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.guide import INCONSISTENT, ConsistencyWork, embed_training_texts, keep_consistent
from pipeline_lib.tokens.text_shards import write_text_shards
from pipeline_lib.train.language_text import sentence_of, warning_of
from pipeline_lib.train.launch import TrainInputs, train
from pipeline_lib.train.stages import AdviceConfig, build_advice, pretrain
from tasks.ui import StageProgress, stage_task

NOTHING: Mapping[str, Artifact | None] = {}
REGISTERED = "cpt.checkpoint.registered"  # the event that prefect.yaml's automation waits for


@stage_task("documents")
def document_splits_task(store: Store, extracted: Artifact, curated: Artifact, contamination: Artifact | None) -> Artifact:
    """The split of each whole document, and why others are left out."""
    progress = StageProgress("documents")
    artifact = split_whole_documents(store, extracted, curated, contamination, progress)
    counts = artifact.manifest.counts
    kept = ", ".join(f"{split} {n:,}" for split, n in artifact.manifest.facts["documents"].items())
    progress.finish(f"{kept} whole documents")
    if counts.dropped:
        progress.note(f"{sum(counts.dropped.values()):,} of {counts.n_in:,} documents left out: {by_count(counts.dropped)}")
    return artifact


@stage_task("text-shards")
def text_shards_task(store: Store, extracted: Artifact, splits: Artifact, tokenizer: Artifact) -> Artifact:
    """Token ids of whole documents in memory-mapped Arrow files."""
    progress = StageProgress("text shards")
    artifact = write_text_shards(store, extracted, splits, tokenizer, progress)
    progress.finish(", ".join(f"{part.label} {part.facts['tokens']:,} tokens" for part in artifact.manifest.parts))
    return artifact


@stage_task("pretrain", retries=0)
def pretrain_task(store: Store, shards: Artifact, tokenizer: Artifact, config: RunConfig) -> Artifact:
    """Causal language modelling on the training split, and its perplexity on the validation split."""
    progress = StageProgress("pretrain")
    artifact = pretrain(store, TrainInputs(shards, tokenizer), config.pretrain, config.model, progress, progress.tell)
    figures = artifact.manifest.facts.get("held_out")
    told = sentence_of(figures) if figures else "nothing of the validation split is tokenized: not measured"
    progress.finish(f"{config.pretrain.steps:,} steps; {told}")
    if figures and (warning := warning_of(figures)):
        progress.tell(f"{WARNING}{warning}")
    return artifact


@stage_task("lexical-start")
def lexical_start_task(store: Store, shards: Artifact, tokenizer: Artifact, config: RunConfig) -> Artifact:
    """Weights that begin as a weighted bag of words, from the training split's own statistics."""
    from pipeline_lib.model.lexical_start import lexical_start  # torch and transformers: seconds of import

    progress = StageProgress("lexical start")
    artifact = lexical_start(store, shards, tokenizer, config.model, progress)
    progress.finish(f"{artifact.manifest.counts.n_in:,} pairs counted and decomposed")
    return artifact


@stage_task("guide")
def guide_task(store: Store, pairs: Artifact, model: TextEncoder) -> Artifact:
    """The guide's vectors of every training text; those that the store's cache has are not computed again."""
    progress = StageProgress("guide")
    with closing(ParallelEncoder(model, embedding_processes())) as parallel:  # one a GPU
        encoder = CachedEncoder(parallel, store)
        artifact = embed_training_texts(store, pairs, model.id.fingerprint, encoder.encode, progress)
    facts = artifact.manifest.facts
    progress.finish(f"{facts['texts']:,} texts by {model.id.name}, {facts['width']} dimensions")
    return artifact


@stage_task("consistent")
def consistent_task(store: Store, pairs: Artifact, guide: Artifact, config: GuideConfig) -> Artifact:
    """The training pairs whose y the guide finds for their x."""
    assert config.keep_top is not None, "no rank is asked for"
    progress = StageProgress("consistent")
    artifact = keep_consistent(store, pairs, guide, ConsistencyWork(top=config.keep_top, block=config.block_pairs), progress)
    counts = artifact.manifest.counts
    progress.finish(f"{counts.n_out:,} of {counts.n_in:,} training pairs, {counts.dropped.get(INCONSISTENT, 0):,} inconsistent")
    return artifact


@stage_task("train", retries=0)
def train_task(
    store: Store,
    shards: Artifact,
    tokenizer: Artifact,
    config: RunConfig,
    start: Artifact | None,
    more: Mapping[str, Artifact | None] = NOTHING,
) -> Artifact:
    """Contrastive training in a child process; it restarts from its last complete state by itself.

    Args:
        more: inputs "parent" and "guide", where there are some.
    """
    progress = StageProgress("train")
    inputs = TrainInputs(shards, tokenizer, start, **more)
    artifact = train(store, inputs, config.train, config.model, progress, progress.tell)
    facts = artifact.manifest.facts
    progress.finish(facts.get("stopped_early") or f"{config.train.steps:,} steps of {config.train.batch_size:,} pairs")
    return artifact


@stage_task("batch-advice")
def batch_advice_task(store: Store, trained: Artifact, label: str) -> Artifact:
    """Batch size beyond which a larger one would stop paying, measured on the chosen checkpoint; small models only."""
    progress = StageProgress("batch advice")
    artifact = build_advice(store, trained, AdviceConfig(label=label), progress)
    facts = artifact.manifest.facts
    progress.finish(facts["sentence"] if "sentence" in facts else f"not measured: {facts['why']}")
    return artifact


def register_checkpoints(trained: Artifact, name: str, machine: Mapping[str, Any]) -> None:
    """Tell Prefect of each checkpoint of a run: an automation may have it evaluated, with the parameters that the event brings.

    Args:
        name: of the run.
        machine: of its parameters: where the artifacts are.
    """
    for label in labels_of_run(trained):
        checkpoint = f"{trained.manifest.key}/{label}"
        resource = {"prefect.resource.id": f"cpt.checkpoint.{checkpoint}", "prefect.resource.name": checkpoint}
        labels = {"cpt.train": trained.manifest.key, "cpt.label": label, "cpt.run": name}
        params = {"models": [checkpoint], "split": "validation", "machine": dict(machine)}
        emit_event(REGISTERED, resource={**resource, **labels}, payload={"checkpoint": checkpoint, "params": params})
