"""Stages that a flow on another work pool hands over: training, or evaluation, export and index. No person starts this flow."""

from __future__ import annotations

from prefect import flow

from flows.pools import Handover, Made, artifact_of, ref_of, tell_made
from flows.publish import prepare
from flows.roots import admit_place
from flows.settings import PLACE_SETTINGS
from flows.train import trained_here
from flows.workspace import Dataset, TrainedRun, Workspace, recorded_params
from pipeline_lib.model.checkpoint import lineage_of
from pipeline_lib.runtime.machine import check_processes
from tasks.training import batch_advice_task


@flow(name="stages", flow_run_name="{handover.step}-{handover.name}")
def stages(handover: Handover) -> None:
    """Make stages of another flow's run on this machine, and tell their keys.

    Args:
        handover: what is made, and from what.
    """
    admit_place("store", handover.store)
    for name, kind in PLACE_SETTINGS.items():
        section, _, field = name.partition(".")
        admit_place(name, handover.config.get(section, {}).get(field), kind)
    handover.check_worker()
    work, dataset = handover.open()
    tell_made(train_step(work, dataset) if handover.step == "train" else publish_step(handover, work, dataset))


def train_step(work: Workspace, dataset: Dataset) -> Made:
    """Training, and what it begins from."""
    check_processes("train.processes", work.config.train.n_processes)
    trained, start = trained_here(work, dataset)
    return {"train": [ref_of(trained)], "start": [ref_of(start)] if start else []}


def publish_step(handover: Handover, work: Workspace, dataset: Dataset) -> Made:
    """All of publication that computes; the flow that asked promotes."""
    assert handover.trained, "publication without a run"
    lineage = lineage_of(work.store, work.store.open("train", handover.trained))
    start = artifact_of(work.store, handover.began) if handover.began else None
    published = prepare(TrainedRun(work, recorded_params(lineage), dataset, lineage, start), handover.label)
    batch_advice_task(work.store, lineage.trained, published.checkpoint)  # found made by the flow that reports
    return published.made
