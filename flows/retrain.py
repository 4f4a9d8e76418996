"""The whole life: raw dump in, searchable index out."""

from __future__ import annotations

from typing import Any

from prefect import flow
from tasks.publishing import report_task

from flows.build_dataset import build_dataset
from flows.parameters import PublishParams, RunParams, TrainParams
from flows.publish import publish
from flows.train import train
from flows.workspace import open_workspace
from pipeline_lib.meter import Meter


@flow(name="retrain", flow_run_name="retrain-{params.preset}")
def retrain(params: RunParams) -> dict[str, Any]:
    """Build the dataset, train, evaluate, select, export, index, promote and report. What is done already is found done.

    Args:
        params: what to run, and on what.
    """
    work = open_workspace(params)
    with Meter(work.home / "runs" / f"{work.config.name}.json") as meter:
        dataset = build_dataset(params)
        trained = train(TrainParams(**params.model_dump(), dataset=dataset))
        published = publish(PublishParams(**params.model_dump(), dataset=dataset, trained=trained.trained))
        return report_task(work.home, work.config, trained, published, meter)
