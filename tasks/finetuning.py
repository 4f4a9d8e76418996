"""Fine-tuning: training sets, mined negatives, the run, and its figures before and after."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from pipeline_lib.config.finetuning import FinetuneConfig, MiningConfig, TrainingSetConfig
from pipeline_lib.evaluation.metrics import read_evaluations
from pipeline_lib.evaluation.suites.cached import CachedEncoder, ParallelEncoder, embedding_processes
from pipeline_lib.evaluation.suites.models import CheckpointEncoder
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.search.mining import Embedder, mine
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.train.stages import finetune
from pipeline_lib.training_sets.training_set import join_sets, read_training_set
from tasks.dataset import drop_rows
from tasks.ui import StageProgress, show_table, stage_task

Figures = dict[str, tuple[float, float]]


@stage_task("read-training-set")
def training_set_task(store: Store, config: TrainingSetConfig) -> Artifact:
    """A training set in its publisher's layout, as pairs with hard negatives."""
    progress = StageProgress(f"read {config.view}")
    artifact = read_training_set(store, config, progress)
    counts = artifact.part("train").counts
    dropped = counts.n_in - counts.n_out - counts.quarantined
    most = ", most was left out" if 2 * counts.n_out < counts.n_in else ""
    progress.finish(
        f"{counts.n_out:,} pairs of {counts.n_in:,} items, {counts.quarantined:,} in quarantine, {dropped:,} dropped{most}"
        + "".join(f", {reason} {count:,}" for reason, count in sorted(counts.dropped.items()))
    )
    show_table(f"training-set-{config.view}", drop_rows(artifact), f"What came in of {config.view}, and what was dropped")
    return artifact


@stage_task("mine-negatives")
def mine_task(store: Store, training_set: Artifact, checkpoint: Checkpoint, config: MiningConfig) -> Artifact:
    """Hard negatives from an index over the set's own passages."""
    progress = StageProgress("mine negatives")
    model = CheckpointEncoder(checkpoint, config.batch_tokens, config.precision)
    parallel = ParallelEncoder(model, embedding_processes())  # one a GPU
    encoder = CachedEncoder(parallel, store)
    artifacts = {"model": checkpoint.trained.only(checkpoint.label), "tokenizer": checkpoint.tokenizer}
    lengths = (checkpoint.max_tokens("x"), checkpoint.max_tokens("y"))
    embedder = Embedder(encoder.encode, artifacts, *lengths, precision=model.precision)
    with closing(parallel):
        artifact = mine(store, training_set, embedder, config, progress)
    facts = artifact.manifest.facts
    progress.finish(f"{facts['mined']:,} negatives for {facts['pairs']:,} pairs, of {facts['passages']:,} passages")
    show_table("mined-negatives", [facts], "What was mined, and what was passed over")
    return artifact


@stage_task("join-training-sets")
def join_task(store: Store, sets: Sequence[Artifact]) -> Artifact:
    """All sets as one table of pairs."""
    return join_sets(store, sets)


@stage_task("finetune", retries=0)
def finetune_task(
    store: Store, checkpoint: Checkpoint, shards: Artifact, config: FinetuneConfig, guide: Artifact | None = None
) -> Artifact:
    """Contrastive training that goes on from a checkpoint, in a child process that restarts by itself."""
    progress = StageProgress("finetune")
    artifact = finetune(store, checkpoint, (shards, guide) if guide else shards, config, progress, progress.tell)
    facts = artifact.manifest.facts
    progress.finish(f"{facts['step']:,} steps, {facts['pairs_seen']:,} pairs seen, loss {facts['loss']:.3f}")
    return artifact


@stage_task("compare-before-after")
def compare_task(before: Sequence[Artifact], after: Sequence[Artifact]) -> Figures:
    """Every figure of every suite before and after, as a table in the UI."""
    values = [_values(artifacts) for artifacts in (before, after)]
    figures = {name: (value, values[1][name]) for name, value in values[0].items() if name in values[1]}
    rows = [{"figure": name, "before": old, "after": new, "change": new - old} for name, (old, new) in figures.items()]
    show_table("finetune", rows, "Before and after fine-tuning")
    return figures


def _values(artifacts: Sequence[Artifact]) -> dict[str, float]:
    return {f"{row['task']} {row['metric']}": row["value"] for row in read_evaluations(artifacts)}
