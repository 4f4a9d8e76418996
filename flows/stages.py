"""Stages that a flow on another work pool hands over: training, or evaluation, export and index. No person starts this flow."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from prefect import flow, runtime
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_API_URL

from flows.candidate import Published, published_here
from flows.evaluate import measured_on_validation
from flows.guide import guide_here
from flows.pools import OF_THE_FLOW, Handover, Made, artifact_of, cancel_run, ref_of, tell_made
from flows.roots import admit_place
from flows.runs import with_settings
from flows.settings import PLACE_SETTINGS
from flows.train import trained_here
from flows.workspace import Dataset, TrainedRun, Workspace, recorded_params
from pipeline_lib.model.checkpoint import Companion, lineage_of
from pipeline_lib.runtime.machine import check_processes
from pipeline_lib.train.start import checkpoint_of
from tasks.training import batch_advice_task

HOST = "127.0.0.1"
READ_AFTER_TRAINING = ("select.suite_data",)  # of the settings that name a place


@flow(name="stages", flow_run_name="{handover.step}-{handover.name}")
def stages(handover: Handover) -> None:
    """Make stages of another flow's run on this machine, and tell their keys.

    Args:
        handover: what is made, and from what.
    """
    admit_place("store", handover.store)
    for name in PLACE_SETTINGS if handover.step in ("guide", "train") else READ_AFTER_TRAINING:
        section, _, field = name.partition(".")
        admit_place(name, handover.config.get(section, {}).get(field), PLACE_SETTINGS[name])
    handover.check_worker()
    work, dataset = handover.open()
    if handover.step == "train":
        with all_nodes(handover, work) as node:
            tell_made(train_step(node, dataset))
        return
    if handover.step == "guide":
        tell_made(guide_step(handover, work, dataset))
        return
    step = {"publish": publish_step, "figures": figures_step, "measure": measure_step}[handover.step]
    tell_made(step(handover, trained_run(handover, work, dataset)))


def trained_run(handover: Handover, work: Workspace, dataset: Dataset) -> TrainedRun:
    """The run that was trained on this pool before."""
    assert handover.trained, f"{handover.step} without a run"
    lineage = lineage_of(work.store, work.store.open("train", handover.trained))
    start = artifact_of(work.store, handover.began) if handover.began else None
    return TrainedRun(work, recorded_params(lineage), dataset, lineage, start)


@contextmanager
def all_nodes(handover: Handover, work: Workspace) -> Iterator[Workspace]:
    """The workspace of node 0, with a run of this deployment for each other node that trains with it (`train.nodes`).

    Node 0 is the machine that took the first run; the others are told where it is. Where a rendezvous is given, whoever gave
    it starts the nodes.
    """
    train = work.config.train
    if train.nodes == 1 or train.rendezvous:
        yield work
        return
    meeting = {"rendezvous": f"{_own_address()}:{_free_port()}", "rendezvous_id": uuid.uuid4().hex}
    others = [start_node(handover, work, node_rank=rank, **meeting) for rank in range(1, train.nodes)]
    try:
        yield replace(work, config=with_settings(work.config, "train", **meeting))
    except BaseException:
        for run_id in others:
            cancel_run(run_id)
        raise


def start_node(handover: Handover, work: Workspace, **settings: Any) -> UUID:
    """A run of this deployment for another node."""
    config = with_settings(work.config, "train", **settings).model_dump(mode="json", exclude=OF_THE_FLOW)
    config["model"]["init"] = handover.config["model"]["init"]  # by a name that each machine looks up for itself
    given = handover.model_copy(update={"config": config})
    run = run_deployment(runtime.deployment.id, parameters={"handover": given.model_dump(mode="json")}, timeout=0)
    assert isinstance(run, FlowRun), run  # typed for both worlds
    return run.id


def _own_address() -> str:
    """The address by which Prefect's server, and so the other workers' network, sees this machine; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((urlsplit(PREFECT_API_URL.value() or "").hostname or HOST, 9))
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def train_step(work: Workspace, dataset: Dataset) -> Made:
    """Training, and what it begins from."""
    check_processes("train.processes", work.config.train.n_processes)
    trained, start = trained_here(work, dataset)
    return {"train": [ref_of(trained)], "start": [ref_of(start)] if start else []}


def guide_step(handover: Handover, work: Workspace, dataset: Dataset) -> Made:
    """A guide's vectors of the training texts."""
    first = [checkpoint_of(work.store, name) for name in handover.checkpoints]
    return {"guide": [ref_of(guide_here(work, dataset, first[0] if first else None))]}


def publish_step(handover: Handover, run: TrainedRun) -> Made:
    """All of publication that computes and does not open the test split; the flow that asked promotes."""
    published = published_here(run, handover.label)
    batch_advice_task(run.work.store, run.trained, published.checkpoint)  # found made by the flow that reports
    return published.made


def figures_step(handover: Handover, run: TrainedRun) -> Made:
    """Figures of what was published on the split that the flow asked for, and the card that shows them."""
    return Published.of(run, handover.published).figured_here(handover.split).made


def measure_step(handover: Handover, run: TrainedRun) -> Made:
    """What selection reads of several checkpoints, on the validation of one corpus."""
    store, checkpoints = run.work.store, []
    for name, lengths, beside in zip(handover.checkpoints, handover.lengths, handover.beside, strict=True):
        other = beside and Companion(checkpoint_of(store, beside[0]).reading(*beside[1:3]), beside[3])
        checkpoints.append(replace(checkpoint_of(store, name).reading(*lengths), companion=other))
    found, checked = measured_on_validation(run, checkpoints)
    made = {str(place): [*map(ref_of, evaluations)] for place, evaluations in enumerate(found)}
    return made | {"checked": [ref_of(checked)]}
