"""Launcher of training: processes under torchrun, watched, restarted from the last state, and never left behind.

Imports no torch: the processes do, and the memory is theirs.
"""

from __future__ import annotations

import collections
import itertools
import json
import logging
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline_lib.config.base import StageConfig
from pipeline_lib.config.model import ModelConfig, depth_and_width
from pipeline_lib.config.training import PretrainConfig, TrainConfig, check_early_stopping
from pipeline_lib.errors import CorruptArtifact, TrainingFailed, UserError
from pipeline_lib.runtime.machine import Devices, find_devices, resolve_precision
from pipeline_lib.runtime.processes import start_child, stop_child
from pipeline_lib.runtime.progress import WARNING, Progress, silent
from pipeline_lib.store.artifact import Artifact, verify_part
from pipeline_lib.store.files import exclusive, replace_file
from pipeline_lib.store.records import Outcome, Part, Stage
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.rows import check_views
from pipeline_lib.train.failure import Death, Witness, kernel_kills, memory_advice
from pipeline_lib.train.job import (
    EVALUATION_FILE,
    TRAIN,
    ArtifactRef,
    Job,
    checkpoint_labels,
    early_stop_told,
    forget_part,
    kept_labels,
    last_step,
    parse_event,
    part_key,
    state_labels,
    wanted_guide,
)
from pipeline_lib.train.layout import settle, workload_of
from pipeline_lib.train.start import longest_stable, named, start_of, verify
from pipeline_lib.train.torchrun import command, environment

SAVE_GRACE_SECONDS = 20.0
MEETING = "meeting-"  # and the machine's number: where the processes of one attempt find each other, and their temporary files
HEARTBEAT_SECONDS = 0.5
TAIL_LINES = 30
FAILURES: dict[str, type[Exception]] = {kind.__name__: kind for kind in (UserError, CorruptArtifact, TrainingFailed)}

Log = Callable[[str], None]


def log_line(line: str) -> None:
    """To the logger of training, a warning as one."""
    level = logging.WARNING if line.startswith(WARNING) else logging.INFO
    logging.getLogger("pipeline_lib.train").log(level, line.removeprefix(WARNING))


@dataclass(frozen=True)
class TrainInputs:
    """Inputs of training: token shards, the tokenizer they were made with, and the model it starts from, if any.

    Attributes:
        start: of stage "pretrain" or "lexical_start".
        parent: of stage "train": the run whose checkpoint it starts from or goes on from.
        guide: of stage "guide": what its scores say of the same pairs, where the loss asks for them.
    """

    shards: Artifact
    tokenizer: Artifact
    start: Artifact | None = None
    parent: Artifact | None = None
    guide: Artifact | None = None

    def named(self) -> dict[str, Artifact]:
        """The inputs that there are, by the names that lineage records."""
        return {name: artifact for name, artifact in vars(self).items() if artifact is not None}


class Choices(StageConfig):
    """The configs that name a trained artifact together; `model.init` holds the content of the folder, not its place."""

    config: TrainConfig | PretrainConfig
    model: ModelConfig


def train(
    store: Store,
    inputs: TrainInputs,
    config: TrainConfig,
    model: ModelConfig,
    progress: Progress = silent,
    log: Log = log_line,
) -> Artifact:
    """Train E contrastively (paper, section 2) and return its checkpoints.

    Args:
        store: where the artifact is looked for and written.
        inputs: shards, tokenizer, and a pre-trained model to start from.
        config: `processes` trainer processes are started.
        model: sizes of a new model, where none is given to start from.
        progress: callback with the steps done, twice a second.
        log: callback with lines for people: sizes, estimate, restarts; those that begin with `WARNING` should be seen by all.

    Returns:
        A part a checkpoint, labelled "step-000240", and the part "metrics" (metrics.jsonl).

    Raises:
        UserError: the inputs do not fit together, or the saved state is another run's.
        TrainingFailed: the loss is not finite, or the trainer died too often; the message says where and carries its log.
    """
    _check_batch(inputs.shards, config)
    return build_trained(store, TRAIN, inputs, Choices(config=config, model=model), Report(progress, log))


def _check_batch(shards: Artifact, config: TrainConfig) -> None:
    """Refuse a batch that would hold a pair twice however it is drawn: the second is no negative, and teaches nothing."""
    parts = {part.label: part.counts.n_out for part in shards.manifest.parts}
    pairs = sum(parts.get(f"train-{view}", 0) for view, weight in config.mixture.items() if weight > 0)
    if config.batch_size > pairs > 0:
        raise UserError(
            f"batch_size {config.batch_size:,}: the training split has {pairs:,} pairs of {', '.join(sorted(config.mixture))}; "
            f"set the batch size to at most {pairs:,}, or give a larger source"
        )


@dataclass(frozen=True)
class Report:
    """Callbacks for the launcher's progress and log."""

    progress: Progress
    log: Log


def build_trained(
    store: Store, stage: Stage, inputs: TrainInputs, choices: Choices, report: Report, devices: Devices | None = None
) -> Artifact:
    """The artifact of one training run, contrastive or of a language model; made only if it is not there.

    Args:
        devices: that the run is laid out for; None: this machine's.
    """
    start = start_of(store, inputs.start, choices.config, choices.model, inputs.tokenizer)
    choices = choices.model_copy(update=named(choices.config, choices.model, start))
    choices = _with_precision(choices, start.folder)
    inputs = replace(inputs, parent=inputs.parent or start.parent, guide=wanted_guide(choices.config, inputs.guide))

    def make(key: str) -> Outcome:
        work = workload_of(inputs.shards, inputs.tokenizer, start.folder, choices.config, choices.model)
        config, why = settle(choices.config, work, devices or find_devices())
        report.log(why)
        job = Job(
            root=str(store.root),
            remote=store.remote,
            stage=stage,
            key=key,
            shards=ArtifactRef.of(inputs.shards),
            tokenizer=ArtifactRef.of(inputs.tokenizer),
            start=start.folder,
            start_digest=start.digest,
            continued=start.continued,
            guide=ArtifactRef.of(inputs.guide) if inputs.guide else None,
            config=config,
            model=choices.model,
        )
        verify(start)
        for line in _warnings(inputs.shards, job.config):
            report.log(WARNING + line)
        digests = {name: artifact.digest for name, artifact in inputs.named().items()}
        node = job.config.node_rank
        lock = job.folder / (f"launcher-{node}.lock" if node else "launcher.lock")
        with exclusive(lock, lambda: report.log("another process trains this; waiting for it")):
            going_on = longest_stable(store, job, choices.key_fields(), digests, report.log)
            Supervisor(going_on, report).run()
        return _outcome(store, job)

    return store.build(stage, choices, inputs.named(), make)


def _warnings(shards: Artifact, config: TrainConfig | PretrainConfig) -> list[str]:
    """Warnings about a run before it starts.

    Raises:
        UserError: what would end it as soon as its model is loaded.
    """
    if isinstance(config, TrainConfig):
        check_early_stopping(config)
    idle = config.false_negatives.idle_in(config.steps) if isinstance(config, TrainConfig) else ""
    missing = check_views(shards, config) if isinstance(config, TrainConfig) or config.text == "pairs" else []
    warning = f"the mixture asks for {', '.join(missing)}, of which this dataset has no rows: the other views take the share"
    return [line for line in (warning if missing else "", idle) if line]


def _with_precision(choices: Choices, start: str) -> Choices:
    """The same with the precision that is computed in here, which names the run."""
    layers, width = depth_and_width(Path(start)) if start else (choices.model.layers, choices.model.width)
    layers = min(layers, choices.model.keep_layers or layers)
    precision = resolve_precision(choices.config.precision, layers, width)
    return choices.model_copy(update={"config": choices.config.model_copy(update={"precision": precision})})


def _outcome(store: Store, job: Job) -> Outcome:
    found = _parts(store, job)
    for label in checkpoint_labels(job).values():
        if label not in found and (part := store.find_part(job.stage.name, part_key(job.key, label))):
            forget_part(store, part)
    parts = tuple(found.values())
    labels = checkpoint_labels(job).values()
    (*_, newest) = (part for part in parts if part.label in labels)
    state = json.loads((store.folder_of(newest) / "state.json").read_text())
    if job.config.node_rank == 0:
        shutil.rmtree(job.folder / "states", ignore_errors=True)
    told = early_stop_told(job, _evaluation(store, job))
    facts = {name: state[name] for name in ("step", "pairs_seen", "loss", "temperature")}
    if isinstance(job.config, PretrainConfig) and (measured := store.folder_of(newest) / EVALUATION_FILE).is_file():
        facts["held_out"] = json.loads(measured.read_text().splitlines()[-1])
    return Outcome(parts=parts, facts=facts | ({"stopped_early": told} if told else {}))


def _parts(store: Store, job: Job) -> dict[str, Part]:
    """The run's parts that are there, by label; the metrics after the checkpoints."""
    evaluation = _evaluation(store, job)
    done = last_step(job, evaluation)
    labels = [*kept_labels(job, evaluation, done), *state_labels(job, done), *(["metrics"] if job.stage == TRAIN else [])]
    found = {label: store.find_part(job.stage.name, part_key(job.key, label)) for label in labels}
    missing = [label for label, part in found.items() if part is None]
    if missing:
        raise FileNotFoundError(f"{job.folder}: no part {missing[0]}")
    return {label: part for label, part in found.items() if part is not None}


def _evaluation(store: Store, job: Job) -> str:
    """The rows of the evaluation during training; none where there was none."""
    part = store.find_part(job.stage.name, part_key(job.key, "metrics"))
    path = store.root / part.folder / EVALUATION_FILE if part else None
    return path.read_text() if path and path.is_file() else ""


@dataclass
class Attempt:
    """One attempt of the trainer, by its events."""

    events: dict[str, dict[str, Any]] = field(default_factory=dict)  # the last of each kind, but the first failure
    tail: collections.deque[str] = field(default_factory=lambda: collections.deque(maxlen=TAIL_LINES))
    witness: Witness = field(default_factory=Witness)
    code: int | None = None
    kernel_kills: int = 0

    def hear(self, line: str) -> None:
        """A line that is no event; what comes after the first failure is torchrun's, and other ranks'."""
        self.witness.hear(line)
        if "failed" not in self.events:
            self.tail.append(line)

    def learn(self, event: dict[str, Any]) -> None:
        """An event; the rank that fails first is the cause of all other failures."""
        if event["event"] != "failed":
            self.events[event["event"]] = event
        elif "failed" not in self.events:
            self.events["failed"] = self.witness.report = event

    @property
    def step(self) -> int:
        """The newest step that it did."""
        return int(self.events.get("progress", {}).get("done", 0))

    @property
    def death(self) -> Death | None:
        """Cause of the end, where it is known."""
        return self.witness.death(self.code, self.step, self.kernel_kills)

    @property
    def saved_step(self) -> int:
        """The newest state that it saved; 0 for none."""
        return int(self.events.get("saved", {}).get("step", 0))


class Supervisor:
    """Starts the trainer, listens to it, and starts it again when it dies."""

    def __init__(self, job: Job, report: Report) -> None:
        self.job, self.report = job, report
        self.store = Store(job.root)
        node = job.config.node_rank
        self.job_file = job.folder / (f"job-{node}.json" if node else "job.json")

    def run(self) -> None:
        """Return when every part of the run is there.

        Raises:
            TrainingFailed: see `train`.
        """
        replace_file(self.job_file, self.job.model_dump_json(indent=1).encode())
        if self._is_done():
            return
        deaths, best = 0, 0
        for attempts in itertools.count():
            attempt = self._attempt(attempts)
            # the first rank speaks on its own machine only
            if ("done" in attempt.events or self.job.config.node_rank) and attempt.code == 0:
                return
            if self.job.config.nodes > 1 and self._is_done():
                return  # torchrun ends with an error where another machine's was gone first
            self._raise_if_final(attempt)
            gained = attempt.saved_step > best
            deaths = 1 if gained else deaths + 1
            best = max(best, attempt.saved_step)
            if deaths > self._restarts(attempt.death, gained):
                raise TrainingFailed(self._last_words(attempt, deaths))
            what = f": {attempt.death.text}" if attempt.death else f" (exit {attempt.code})"
            self.report.log(f"{WARNING}the trainer died{what}; starting it again from its last complete state")

    def _restarts(self, death: Death | None, gained: bool) -> int:
        """Restarts that are worth it: what ran out of memory does so again unless steps were gained; others may not."""
        most = self.job.config.max_restarts
        if death and death.out_of_memory:
            return min(most, int(gained))
        return min(most, 1) if death and death.killed else most

    def _last_words(self, attempt: Attempt, deaths: int) -> str:
        """Message that ends a run; the cause stands last."""
        death, times = attempt.death, f"{deaths} times" if deaths > 1 else "once"
        died = f"the trainer died {times} without a step gained (exit {attempt.code})"
        if death and (death.out_of_memory or death.killed):
            return f"{died}: {death.text}; {memory_advice(self.job.config)}"
        return "\n".join([f"{died}; the end of its log:", *attempt.tail, *([death.text] if death else [])])

    def _is_done(self) -> bool:
        try:
            for part in _parts(self.store, self.job).values():
                verify_part(self.store.root, part)
        except (FileNotFoundError, CorruptArtifact):
            return False
        return True

    def _raise_if_final(self, attempt: Attempt) -> None:
        failed = attempt.events.get("failed", {})
        if failed.get("kind") in FAILURES:
            raise FAILURES[failed["kind"]](failed["message"])
        if "stopped" in attempt.events:
            step = attempt.events["stopped"]["step"]
            raise TrainingFailed(f"training was stopped after step {step}; its state is saved: run the same to go on")

    def _attempt(self, attempts: int) -> Attempt:
        config = self.job.config
        attempt, killed_before = Attempt(witness=Witness(config.n_processes * config.nodes)), kernel_kills()
        prefix = f"{MEETING}{config.node_rank}-"
        for left in self.job.folder.glob(f"{prefix}*"):  # by a launcher that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=self.job.folder) as meeting:
            child = start_child(
                command(config, Path(meeting), self.job_file, attempts), environment(config, meeting), subprocess.PIPE
            )
            try:
                self._listen(child, attempt)
            finally:
                if child.poll() is None:
                    stop_child(child, SAVE_GRACE_SECONDS)
        attempt.code, attempt.kernel_kills = child.returncode, kernel_kills() - killed_before
        return attempt

    def _listen(self, child: subprocess.Popen[bytes], attempt: Attempt) -> None:
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read_lines, args=(child, lines), daemon=True).start()
        heard: dict[str, Any] = {"done": 0, "total": self.job.config.steps, "note": "starting the trainer"}
        while True:
            self.report.progress(heard["done"], heard["total"], heard["note"])
            try:
                line = lines.get(timeout=HEARTBEAT_SECONDS)
            except queue.Empty:
                continue
            if line is None:
                child.wait()
                return
            event = parse_event(line)
            if event is None:
                attempt.hear(line)
                self.report.log(line)
                continue
            attempt.learn(event)
            if event["event"] == "progress":
                heard = event


def _read_lines(child: subprocess.Popen[bytes], lines: queue.Queue[str | None]) -> None:
    assert child.stdout is not None
    with child.stdout:
        for line in child.stdout:
            lines.put(line.decode(errors="replace").rstrip("\n"))
    lines.put(None)
