"""Stages on another work pool: a run of the deployment `stages/POOL` makes them, and the flow finds what it made by its keys.

Both share the artifact store, and nothing else: what is handed over are a configuration and keys, what comes back are keys.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import filters
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Crashed
from pydantic import BaseModel, ConfigDict, Field

from flows.runs import with_settings, working_store
from flows.workspace import Dataset, DatasetRef, TrainedRun, Workspace, companion_of
from pipeline_lib.config.run import PoolsConfig, RunConfig
from pipeline_lib.errors import ContractViolation, CorruptArtifact, TrainingFailed, TransientError, UserError
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.model.lora import weights_folder
from pipeline_lib.runtime import interruption
from pipeline_lib.runtime.machine import writable_home
from pipeline_lib.runtime.shared_cluster import Fitness, probed
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import digest_of
from pipeline_lib.store.store import Store
from pipeline_lib.train.start import checkpoint_of
from tasks.ui import say

Step = Literal["guide", "train", "publish", "figures", "measure"]
FiguredSplit = Literal["validation", "test"]
Made = dict[
    str, list[str]
]  # what a run on a pool made: a name to STAGE/KEY, one or several; the chosen checkpoint by its label

OF_THE_FLOW = {"pools", "notify"}  # sections that the flow alone heeds: it hands over, and it tells people
ANSWER = "made"  # key of the artifact in Prefect that tells it
POLL_SECONDS = 2.0
HEARTBEAT_SECONDS = "30"
SERVER_SECONDS = 600.0  # how long the server may be away
TOLD_AFTER_SECONDS = 60.0
UNFINISHED = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED]
KINDS = {kind.__name__: kind for kind in (UserError, ContractViolation, CorruptArtifact, TrainingFailed, TransientError)}
RAISED = re.compile(r"encountered an exception: (?:[\w.]+\.)?(\w+): (.*)", re.DOTALL)


class Handover(BaseModel):
    """Stages that another pool's worker is to make, and what they are made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: Step = Field(description="Which stages.")
    name: str = Field(description="Name of the run that they belong to.")
    store: str = Field(description="Folder or bucket of the artifacts, which both machines see.")
    config: dict[str, Any] = Field(description="Configuration of the run, as JSON.")
    dataset: DatasetRef = Field(description="Keys of the dataset.")
    start: str | None = Field(
        None, description="Checkpoint of a finished run that training starts from, as TRAINKEY/step-000240."
    )
    began: str | None = Field(None, description="STAGE/KEY of the artifact that training began from; for publication.")
    trained: str | None = Field(None, description="Key of the `train` artifact that is published or measured beside others.")
    label: str = Field("", description="Checkpoint to publish; empty: the one that selection chooses.")
    checkpoints: tuple[str, ...] = Field(
        (), description="Checkpoints to measure, of whatever run, or the first round's that guides; as TRAINKEY/step-000240."
    )
    lengths: tuple[tuple[int, int], ...] = Field((), description="Longest query and document that each of them reads (tokens).")
    beside: tuple[tuple[str, int, int, float] | None, ...] = Field(
        (), description="The model beside each of them: checkpoint, lengths and share; null: none."
    )
    published: Made = Field({}, description="What publication made, whose figures and card are asked for.")
    split: FiguredSplit = Field("test", description="Split that the figures are of.")
    fitness: dict[str, Any] = Field(description="Conditions that the worker must meet: the store, the code, folders.")

    @classmethod
    def of(cls, step: Step, work: Workspace, dataset: Dataset, **more: Any) -> Handover:
        """The same stages that this process would run."""
        start, config = dataset.start, work.config
        if start is not None and config.model.init == str(weights_folder(start)):  # which is elsewhere on another machine
            config = with_settings(config, "model", init=start.name)
        if work.companion:  # by its key, which every machine knows
            config = with_settings(config, "beside", model=work.companion.checkpoint.name)
        return cls(
            step=step,
            name=config.name,
            store=work.store.place,
            config=config.model_dump(mode="json", exclude=OF_THE_FLOW),
            dataset=dataset.ref,
            start=start and start.name,
            fitness={},
            **more,
        )

    @property
    def digest(self) -> str:
        """Of what is asked for, whoever asks."""
        return digest_of(self.model_dump(mode="json", exclude={"fitness"}))

    def check_worker(self) -> None:
        """Look whether this machine can do it.

        Raises:
            UserError: it does not see the store or a folder, or runs another version.
        """
        given = {**self.fitness, "places": tuple(self.fitness["places"])}
        if (fault := Fitness(**given).fault()) is not None:
            raise UserError(fault)

    def open(self) -> tuple[Workspace, Dataset]:
        """The workspace and dataset on the machine that is handed the stages."""
        store = working_store(self.store)
        config = RunConfig.model_validate({name: value for name, value in self.config.items() if name not in OF_THE_FLOW})
        start = checkpoint_of(store, self.start) if self.start else None
        if start is not None and config.model.init == start.name:
            config = with_settings(config, "model", init=str(weights_folder(start)))
        dataset = opened_dataset(store, self.dataset)
        work = Workspace(writable_home(), store, config, start, companion=companion_of(store, config))
        return work, replace(dataset, start=start)


def opened_dataset(store: Store, ref: DatasetRef) -> Dataset:
    """The dataset of these keys."""
    stages = {
        "extract": ref.extracted,
        "validate": ref.validated,
        "curate": ref.curated,
        "tokenizer": ref.tokenizer,
        "shards": ref.shards,
        "check_shards": ref.checked,
        "guide": ref.guide,
        "consistent": ref.consistent,
    }
    return Dataset(**{stage: store.open(stage, key) if key else None for stage, key in stages.items()})  # type: ignore[arg-type]


def trained_on_pool(work: Workspace, dataset: Dataset) -> tuple[Artifact, Artifact | None]:
    """The `train` artifact of a dataset, and what its training began from where that was made for it; made on the gpu pool."""
    handover = Handover.of("train", work, dataset)
    made = _handed_over(work.config.pools, handover, [str(handover.config["model"]["init"] or "")])
    start = [artifact_of(work.store, name) for name in made.get("start", ())]
    return artifact_of(work.store, made["train"][0]), next(iter(start), None)


def guide_on_pool(work: Workspace, dataset: Dataset, first: Checkpoint | None) -> Artifact:
    """A guide's vectors of the training texts, made on the gpu pool.

    Args:
        first: the first round's checkpoint, where that guides.
    """
    handover = Handover.of("guide", work, dataset, checkpoints=(first.name,) if first else ())
    made = _handed_over(work.config.pools, handover, [work.config.guide.model or ""])
    return artifact_of(work.store, made["guide"][0])


def published_on_pool(run: TrainedRun, label: str) -> Made:
    """Selection, export, index and negatives of a run, made on the gpu pool; promotion is not among them."""
    return _handed_over(run.work.config.pools, Handover.of("publish", run.work, run.dataset, **_published(run, label)), ())


def figured_on_pool(run: TrainedRun, label: str, published: Made, split: FiguredSplit) -> Made:
    """Figures of a published checkpoint on a split, and its card, made on the gpu pool."""
    words = {**_published(run, label), "published": published, "split": split}
    return _handed_over(run.work.config.pools, Handover.of("figures", run.work, run.dataset, **words), ())


def _published(run: TrainedRun, label: str) -> dict[str, Any]:
    return {"began": ref_of(run.start) if run.start else None, "trained": run.key, "label": label}


def measured_on_pool(run: TrainedRun, checkpoints: Sequence[Checkpoint]) -> Made:
    """Evaluations of checkpoints on the validation of a run's corpus by the place of each, and "checked", their contract."""
    names = tuple(checkpoint.name for checkpoint in checkpoints)
    lengths = tuple((checkpoint.max_tokens("x"), checkpoint.max_tokens("y")) for checkpoint in checkpoints)
    others = [(one.companion.checkpoint, one.companion.share) if one.companion else None for one in checkpoints]
    beside = tuple(one and (one[0].name, one[0].max_tokens("x"), one[0].max_tokens("y"), one[1]) for one in others)
    asked = {"checkpoints": names, "lengths": lengths, "beside": beside}
    handover = Handover.of("measure", run.work, run.dataset, trained=run.key, **asked)
    return _handed_over(run.work.config.pools, handover, ())


def ref_of(artifact: Artifact) -> str:
    """STAGE/KEY."""
    return f"{artifact.manifest.stage}/{artifact.manifest.key}"


def artifact_of(store: Store, name: str) -> Artifact:
    """The artifact that STAGE/KEY names."""
    stage, _, key = name.partition("/")
    return store.open(stage, key)


def tell_made(made: Made) -> None:
    """The answer of a run on a pool, as a table in Prefect's UI: whoever handed the stages over reads it there."""
    rows = [{"what": what, "artifact": name} for what, names in made.items() for name in names]
    create_table_artifact(table=rows, key=ANSWER, description="What this run made, by stage and key")


def cancel_run(run_id: UUID) -> None:
    """End a run with the flow that waits for it; where the server is gone, so be it."""
    with contextlib.suppress(httpx.HTTPError, ObjectNotFound), get_client(sync_client=True) as client:
        state = client.read_flow_run(run_id).state
        if state is not None and not state.is_final():
            why = "The flow that it belongs to has ended."
            is_waiting = state.type in (StateType.SCHEDULED, StateType.PAUSED)
            client.set_flow_run_state(run_id, Cancelled(message=why) if is_waiting else Cancelling(message=why))


def _handed_over(pools: PoolsConfig, handover: Handover, starts: Iterable[str]) -> Made:
    """What the pool's run made; both machines have to see those of the models that are folders."""
    places = tuple(start for start in starts if start.startswith("/"))
    with probed(handover.store, places) as fitness, get_client(sync_client=True) as client:
        return _PoolRun(client, pools, handover.model_copy(update={"fitness": asdict(fitness)})).result()


class _PoolRun:
    """Stages on a pool, from their start to their end: a run that is lost is started again, a failed one is not."""

    def __init__(self, client: SyncPrefectClient, pools: PoolsConfig, handover: Handover) -> None:
        self.client, self.pools, self.handover = client, pools, handover
        self.tag = f"handover-{handover.digest[:16]}"

    def result(self) -> Made:
        """The keys of what was made.

        Raises:
            UserError, TrainingFailed and others of errors.py: what ended the run there.
            TransientError: it was lost once too often, or Prefect's server is gone.
        """
        deployment = self._deployment()
        left = self.pools.restarts
        while True:
            run = self._running() or self._start(deployment)
            say(f"  {self.handover.step:<18} on the work pool {self.pools.gpu}: the run {run.name}")
            try:
                state = self._wait(run)
            except BaseException:
                cancel_run(run.id)
                raise
            if state.is_completed():
                return self._answer(run)
            told = f"{run.name} on the work pool {self.pools.gpu} ended as {state.name}: {state.message or 'no reason is told'}"
            if not state.is_crashed():
                raise _failure(state, told)
            if not left:
                raise TransientError(told)
            left -= 1
            get_run_logger().warning("%s; it is started again", told)

    def _deployment(self) -> DeploymentResponse:
        name = f"stages/{self.pools.gpu}"
        try:
            return self.client.read_deployment_by_name(name)
        except ObjectNotFound as error:
            raise UserError(
                f"pools.gpu is {self.pools.gpu}, and there is no deployment {name}: deploy it, or unset it"
            ) from error

    def _running(self) -> FlowRun | None:
        """The run at the same work that a flow has left which was killed."""
        wanted = filters.FlowRunFilter(
            tags=filters.FlowRunFilterTags(all_=[self.tag]),
            state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=UNFINISHED)),
        )
        return next(iter(self.client.read_flow_runs(flow_run_filter=wanted, limit=1)), None)

    def _start(self, deployment: DeploymentResponse) -> FlowRun:
        variables = dict(deployment.job_variables or {})
        beats = {**(variables.get("env") or {}), "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": HEARTBEAT_SECONDS}
        run = run_deployment(
            deployment.id,
            parameters={"handover": self.handover.model_dump(mode="json")},
            timeout=0,
            flow_run_name=f"{self.handover.step}-{self.handover.name}",
            tags=[*deployment.tags, self.tag],
            job_variables={"env": beats},
        )
        assert isinstance(run, FlowRun), run  # typed for both worlds
        return run

    def _wait(self, run: FlowRun) -> State:
        """The state that a run ends in; Crashed where nothing has been heard of it for long."""
        watch = _Watch(self.pools.silence_seconds)
        while True:
            interruption.check()
            try:
                state = self.client.read_flow_run(run.id).state
                assert state is not None
                watch.hear(state, self._heartbeat(run.id))
            except httpx.HTTPError as error:
                watch.hear_nothing(error)
            else:
                if state.is_final():
                    return state
                if watch.is_lost:
                    return self._give_up(run)
                if watch.waits_long:
                    say(f"  {self.handover.step:<18} waits for a worker: prefect worker start --pool {self.pools.gpu}")
            time.sleep(POLL_SECONDS)

    def _heartbeat(self, run_id: UUID) -> str:
        """When the last one was, by its sender's clock."""
        wanted = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run_id}"]}}
        answer = self.client.request("POST", "/events/filter", json={"filter": wanted | {"order": "DESC"}, "limit": 1})
        return next((str(event["occurred"]) for event in answer.json()["events"]), "")

    def _give_up(self, run: FlowRun) -> State:
        lost: State[Any] = Crashed(
            message=f"nothing was heard of it for {self.pools.silence_seconds:.0f} s: its worker or machine is gone"
        )
        self.client.set_flow_run_state(run.id, lost, force=True)
        return lost

    def _answer(self, run: FlowRun) -> Made:
        found = self.client.read_artifacts(
            artifact_filter=filters.ArtifactFilter(key=filters.ArtifactFilterKey(any_=[ANSWER])),
            flow_run_filter=filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[run.id])),
        )
        if not found:
            raise TransientError(f"{run.name} is done, and did not tell what it made: start the same again")
        made: Made = {}
        for row in _rows(found[0].data):
            made.setdefault(row["what"], []).append(row["artifact"])
        return made


class _Watch:
    """What was heard of a run, and when; by this process's clock alone."""

    def __init__(self, silence_seconds: float) -> None:
        self.silence_seconds = silence_seconds
        self.answered = self.changed = time.monotonic()
        self.waited_since: float | None = None
        self.heard: tuple[Any, ...] = ()

    def hear(self, state: State, heartbeat: str) -> None:
        """Take note of a state and of the last heartbeat."""
        self.answered = time.monotonic()
        waits = state.type in (StateType.SCHEDULED, StateType.PAUSED)
        if waits or (state.id, heartbeat) != self.heard:
            self.changed, self.heard = self.answered, (state.id, heartbeat)
        if not waits:
            self.waited_since = None
        elif self.waited_since is None:
            self.waited_since = self.answered

    def hear_nothing(self, error: Exception) -> None:
        """Bear with a server that does not answer, for some minutes."""
        if time.monotonic() - self.answered > SERVER_SECONDS:
            raise TransientError(f"Prefect's server has not answered for {SERVER_SECONDS:.0f} s: {error}") from error

    @property
    def is_lost(self) -> bool:
        """True where neither a new state nor a heartbeat came for long."""
        return self.answered - self.changed > self.silence_seconds

    @property
    def waits_long(self) -> bool:
        """True once a wait, when no worker has taken the run for a minute."""
        long = self.waited_since is not None and self.answered - self.waited_since > TOLD_AFTER_SECONDS
        if long:
            self.waited_since = math.inf
        return long


def _rows(data: Any) -> list[Mapping[str, str]]:
    return list(json.loads(data) if isinstance(data, str) else data)


def _failure(state: State, told: str) -> Exception:
    """What ended the run there, as the same kind of error here."""
    found = RAISED.search(state.message or "")
    kind = KINDS.get(found[1]) if found else None
    if state.is_cancelled():
        return UserError(told)
    return kind(told) if kind else RuntimeError(told)
