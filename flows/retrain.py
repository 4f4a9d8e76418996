"""The whole life: raw dump in, searchable index out."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.build_dataset import build_dataset
from flows.evaluate import open_evaluations
from flows.parameters import EvaluatedRef, PublishedRef, PublishParams, RunParams, TrainedRef, TrainParams
from flows.publish import publish
from flows.train import train
from flows.workspace import Workspace, open_workspace
from pipeline_lib.runtime.cost import Meter
from pipeline_lib.store.files import digest_of
from pipeline_lib.store.store import Artifact
from tasks.reporting import RunArtifacts, report_task
from tasks.training import batch_advice_task


@flow(name="retrain", flow_run_name="retrain-{params.preset}")
def retrain(params: RunParams) -> dict[str, Any]:
    """Build the dataset, train, evaluate, select, export, index, promote and report. What is done already is found done.

    Args:
        params: what to run, and on what.
    """
    work = open_workspace(params)
    with Meter(work.home / "runs" / f"{work.config.name}.json", of=name_of_work(work)) as meter:
        dataset = build_dataset(params)
        trained = train(TrainParams(**params.model_dump(), dataset=dataset))
        published = publish(PublishParams(**params.model_dump(), dataset=dataset, trained=trained.trained))
        run = run_artifacts(work, trained, published)
        advice = batch_advice_task(work.store, run.stages["train"], published.checkpoint)
        return report_task(work.home, work.config, run.with_stage("batch_advice", advice), meter)


def name_of_work(work: Workspace) -> str:
    """A digest of what a run was asked to do: attempts at the same are one run, and their costs add up."""
    source = work.config.source
    return digest_of([work.config.key_fields(), source.folder, source.dump])


def run_artifacts(work: Workspace, trained: TrainedRef, published: PublishedRef) -> RunArtifacts:
    """The artifacts behind the keys, by the names that the report uses."""
    dataset, open_artifact = trained.dataset, work.store.open
    keys = {
        "extract": ("extract", dataset.extracted),
        "validate": ("validate", dataset.validated),
        "curate": ("curate", dataset.curated),
        "tokenizer": ("tokenizer", dataset.tokenizer),
        "shards": ("shards", dataset.shards),
        "check_shards": ("check_shards", dataset.checked),
        "start": tuple(trained.start.split("/")) if trained.start else ("", ""),
        "train": ("train", trained.trained),
        "select": ("select", published.selection),
        "export": ("export", published.export),
        "card": ("card", published.card),
        "index": ("index", published.index),
        "negatives": ("negatives", published.negatives),
        "check validation": ("check_evaluations", published.validation.checked if published.validation else ""),
        "check test": ("check_evaluations", published.test.checked),
    }
    return RunArtifacts(
        stages={name: open_artifact(stage, key) for name, (stage, key) in keys.items() if key},
        validation=_evaluations(work, published.validation),
        test=_evaluations(work, published.test),
        chosen=published.checkpoint,
    )


def _evaluations(work: Workspace, found: EvaluatedRef | None) -> dict[str, tuple[Artifact, ...]]:
    return {label: open_evaluations(work.store, keys) for label, keys in found.checkpoints.items()} if found else {}
