"""Publishing tasks: selection, export, model card, index, hardest negatives, promotion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.config.run import RunConfig
from pipeline_lib.curation.curate import count_training_pairs
from pipeline_lib.evaluation.metrics import read_evaluations
from pipeline_lib.evaluation.negatives import hardest_negatives
from pipeline_lib.evaluation.report_data import NOT_TESTED, HeldOut, notes, precision_note, split_facts
from pipeline_lib.evaluation.select import read_selection, select
from pipeline_lib.evaluation.suites.cached import CachedEncoder, ParallelEncoder, embedding_processes
from pipeline_lib.evaluation.suites.evaluate import evaluate_suite
from pipeline_lib.evaluation.suites.models import CheckpointEncoder, TextEncoder
from pipeline_lib.evaluation.suites.registry import GROUPS, open_suite
from pipeline_lib.evaluation.suites.variants import TruncatedModel, truncated
from pipeline_lib.export.card import FILE, CardFacts, Metric, model_folder, write_card
from pipeline_lib.export.export import export
from pipeline_lib.export.method import method_of_run
from pipeline_lib.index.index import build_index, update_index, why_whole
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.search.explain import delta_sentence
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.prune import BASE
from pipeline_lib.store.store import Store
from tasks.evaluation import Evaluations
from tasks.int8 import int8_loss
from tasks.ui import StageProgress, say, show_link, show_table, stage_task


@dataclass(frozen=True)
class Tested:
    """A corpus, and the figures of a model and of the baselines on a split of it: on test, unless the model is held back."""

    curated: Artifact
    model: Evaluations
    baselines: Evaluations
    split: str = "test"


@stage_task("select")
def select_task(store: Store, evaluations: Sequence[Artifact], config: RunConfig) -> Artifact:
    """The checkpoint with the highest declared score on validation, and why."""
    progress = StageProgress("select")
    artifact = select(store, evaluations, config.select)
    selection = read_selection(artifact)
    progress.finish(selection["chosen"])
    rows = [{"checkpoint": c["label"], "score": c["score"], **c["kinds"]} for c in selection["checkpoints"]]
    show_table(f"selection-{config.name}", rows, selection["sentence"])
    return artifact


@stage_task("export")
def export_task(store: Store, checkpoint: Checkpoint, config: RunConfig) -> Artifact:
    """The folder that sentence-transformers, transformers and onnxruntime load."""
    progress = StageProgress("export")
    artifact = export(store, checkpoint, config.export, progress)
    progress.finish(checkpoint.name)
    return artifact


@stage_task("card")
def card_task(
    store: Store,
    exported: Artifact,
    checkpoint: Checkpoint,
    config: RunConfig,
    said: Mapping[str, str],
    tested: Tested,
) -> Artifact:
    """The model card, which then lies beside the export's files in one folder.

    Args:
        said: in words: "name" of the run, "base" that training started from, "data", and the "command" that makes it again.
        tested: the figures that the card shows.
    """
    progress = StageProgress("model card")
    held_out = HeldOut.of(tested.curated.manifest.facts, config.source)
    first = notes(config, held_out, split_facts(tested.model)["tasks"], read_evaluations(tested.model))
    first += precision_note(checkpoint.trained, tested.model)
    is_closed = tested.split != "test"
    model = truncated(CheckpointEncoder(checkpoint, precision=config.evaluate.precision), config.export.truncate_dim)
    bias = () if is_closed else _bias_metrics(store, model)
    facts = CardFacts(
        title=f"{said['name']}: text and code embeddings",
        base=said["base"],
        method=method_of_run(config, checkpoint.trained, exported).sentence,
        data=said["data"],
        metrics=tuple(_card_metrics(tested.model, tested.baselines)),
        counts={f"training pairs, {kind}": n for kind, n in count_training_pairs(tested.curated, "kind").items()},
        licences=count_training_pairs(tested.curated, "licence"),
        decontamination=_decontamination(tested.curated),
        bias=tuple(bias),
        command=said["command"],
        notes=(*([NOT_TESTED] if is_closed else []), *([] if held_out.unit == "document" else [held_out.sentence()]), *first),
        int8=int8_loss(store, exported, tested.curated, checkpoint, config) if _has_int8(exported) else None,
        licence=f"Each text of the training data keeps the licence of the {held_out.group} or file it comes from (the pairs' "
        "column `licence`).",
    )  # fmt: skip
    artifact = write_card(store, exported, checkpoint, facts)
    folder = model_folder(exported, artifact)
    progress.finish(str(folder))
    show_link(f"model-card-{config.name}", folder / FILE, "Model card", f"The model card of {config.name}")
    return artifact


@stage_task("index")
def index_task(store: Store, exported: Artifact, curated: Artifact, checkpoint: Checkpoint, config: RunConfig) -> Artifact:
    """All functions and passages in one FAISS index, tied to the model by its hash."""
    return _indexed(store, None, {"exported": exported, "curated": curated}, checkpoint, config)


@stage_task("index")
def update_index_task(
    store: Store, base: Artifact | None, inputs: Mapping[str, Artifact], checkpoint: Checkpoint, config: RunConfig
) -> Artifact:
    """The same, made of the index before it: what is known is not embedded again, and what can go on is not built again.

    Args:
        base: None: there is none.
        inputs: "exported" and "curated".
    """
    return _indexed(store, base, inputs, checkpoint, config)


def _indexed(
    store: Store, base: Artifact | None, inputs: Mapping[str, Artifact], checkpoint: Checkpoint, config: RunConfig
) -> Artifact:
    progress = StageProgress("index")
    model = CheckpointEncoder(checkpoint, config.index.batch_tokens, config.index.precision)
    chosen = config.index.with_workers_of(config.extract)
    with closing(ParallelEncoder(model, embedding_processes())) as whole:  # one a GPU
        facts = inputs["exported"].manifest.facts
        dim = facts["dim"] if "whole_dim" in facts else None  # the model's own, whatever is configured now
        encoder: TruncatedModel | ParallelEncoder = TruncatedModel(CachedEncoder(whole, store), dim) if dim else whole
        if base is None:
            artifact = build_index(store, inputs["exported"], inputs["curated"], chosen, encoder, progress)
        else:
            artifact = update_index(store, base, inputs, chosen, encoder, progress)
            asked = chosen.model_copy(update={"precision": encoder.precision})
            if BASE not in artifact.manifest.inputs and (why := why_whole(store, base, inputs["exported"], asked)):
                say(f"  the index is built whole: {why}")
    facts = artifact.manifest.parts[0].facts
    progress.finish(f"{facts['code']:,} functions and {facts['text']:,} passages{delta_sentence(facts)}")
    return artifact


@stage_task("hardest-negatives")
def negatives_task(store: Store, curated: Artifact, checkpoint: Checkpoint) -> Artifact:
    """The in-batch negatives that the chosen checkpoint finds most alike: false ones show themselves."""
    progress = StageProgress("hardest negatives")
    artifact = hardest_negatives(store, curated, checkpoint, progress=progress)
    progress.finish("the 50 highest-scoring")
    return artifact


def _has_int8(exported: Artifact) -> bool:
    return "int8" in exported.manifest.facts


def _card_metrics(tested: Evaluations, baselines: Evaluations) -> list[Metric]:
    others: dict[tuple[str, str], dict[str, float]] = {}
    for row in read_evaluations(baselines):
        others.setdefault((row["task"], row["metric"]), {})[row["model"]] = round(row["value"], 4)
    return [
        Metric(
            task=row["task"], metric=row["metric"], value=round(row["value"], 4), low=round(row["low"], 4),
            high=round(row["high"], 4), n=row["n"], baselines=others.get((row["task"], row["metric"]), {}),
        )
        for row in read_evaluations(tested)
    ]  # fmt: skip


def _decontamination(curated: Artifact) -> str:
    found = curated.manifest.facts.get("contamination", {})
    suites = [
        f"{name} ({row['texts']:,} texts, {row['texts_found']:,} found, {row['pairs']:,} pairs dropped)"
        for name, row in sorted(found.items())
    ]
    return f"pairs that hold a text of these were dropped: {', '.join(suites)}." if suites else ""


def _bias_metrics(store: Store, model: TextEncoder) -> list[Metric]:
    rows = read_evaluations(
        evaluate_suite(store, model, open_suite(name, Path(), SuiteConfig()), "test") for name in GROUPS["bias"]
    )
    return [
        Metric(task=row["task"], metric=row["metric"], value=round(row["value"], 4), n=row["n"], **_bounds(row)) for row in rows
    ]


def _bounds(row: Mapping[str, float | str]) -> dict[str, float]:
    """None for a p-value: it is itself how sure another figure is."""
    return {} if row["metric"] == "p_value" else {end: round(float(row[end]), 4) for end in ("low", "high")}
