"""Training job: the description of one run that the launcher writes and every trainer process reads. Imports no torch."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.training import EarlyStoppingConfig, PretrainConfig, TrainConfig
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.progress import WARNING
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import digest_of
from pipeline_lib.store.records import Part, Stage
from pipeline_lib.store.store import Store
from pipeline_lib.train.failure import EVENT_MARK

TRAIN = Stage(name="train", version=5)
PRETRAIN = Stage(name="pretrain", version=3)

METRICS_FILE = "metrics.jsonl"
EVALUATION_FILE = "evaluation.jsonl"  # of the part "metrics", where there is an evaluation


class ArtifactRef(BaseModel):
    """Reference by which a trainer process finds an input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    key: str
    digest: str

    @classmethod
    def of(cls, artifact: Artifact) -> ArtifactRef:
        """The reference of a finished artifact."""
        return cls(stage=artifact.manifest.stage, key=artifact.manifest.key, digest=artifact.digest)

    def open(self, store: Store) -> Artifact:
        """The artifact.

        Raises:
            UserError: it is not there any more, or has other content.
        """
        found = store.find(self.stage, self.key)
        if found is None or found.digest != self.digest:
            got = "no artifact" if found is None else f"content {found.digest[:12]}"
            raise UserError(f"{store.root}/{self.stage}/{self.key}: {got}, expected {self.digest[:12]}; run its stage again")
        return found


class Continued(BaseModel):
    """Run that another one goes on from.

    Attributes:
        run: key of its artifact.
        step: steps that it had done.
        metrics: file with its rows of metrics.jsonl.
        state: folder of its training state at that step, with which the longer run is the same as one begun at once; empty:
            its weights alone, which are the job's start, and a schedule over the steps that are added.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    step: int
    metrics: str = ""
    state: str = ""


class Job(BaseModel):
    """Everything that a trainer process needs to know.

    Attributes:
        stage: TRAIN or PRETRAIN.
        root: of the store, or its cache: what this run writes is committed there, and uploaded when the run is done.
        remote: URL of the bucket that the inputs are fetched from; empty for a store on a disk.
        key: of the artifact in the making.
        start: folder of a causal language model or of a checkpoint to start from, "" for none; `start_digest` is its content.
        continued: the run whose steps come before those of this one, if any.
        guide: table of a guide's vectors, where the loss reads them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: str
    remote: str = ""
    stage: Stage
    key: str
    shards: ArtifactRef
    tokenizer: ArtifactRef
    start: str = ""
    start_digest: str = ""
    continued: Continued | None = None
    guide: ArtifactRef | None = None
    config: TrainConfig | PretrainConfig
    model: ModelConfig

    @property
    def folder(self) -> Path:
        """Folder of the manifest to come, and meanwhile of what belongs to no artifact: job, timing, states."""
        return Path(self.root) / self.stage.name / self.key

    @property
    def config_digest(self) -> str:
        """Digest of all choices, which stands in a checkpoint's state.json."""
        return digest_of([self.config.key_fields(), self.model.key_fields()])

    @property
    def steps_before(self) -> int:
        """Steps of the run that this one lengthens, which the schedule and the checkpoints leave out; 0 for none."""
        return self.continued.step if self.continued and not self.continued.state else 0

    @property
    def stable_steps(self) -> int:
        """Steps after which the training state is kept with the run, for a longer one to go on from; 0: none is."""
        if isinstance(self.config, PretrainConfig):
            return 0
        before = self.steps_before
        stable = self.config.stable_steps(self.config.steps - before)
        return before + stable if stable else 0

    def identity(self, torch_version: str) -> dict[str, Any]:
        """Values that a saved state must agree with, as flat names and JSON values; the number of processes is not in it."""
        fields = {f"config.{name}": value for name, value in self.config.key_fields().items()}
        fields |= {f"model.{name}": value for name, value in self.model.key_fields().items() if name != "init"}
        fields |= {"start": self.start_digest, "shards": self.shards.digest, "vocabulary": self.tokenizer.digest}
        fields |= {"guide": self.guide.digest} if self.guide else {}
        return {**fields, "stage_version": self.stage.version, "torch": torch_version}


def wanted_guide(config: TrainConfig | PretrainConfig, guide: Artifact | None) -> Artifact | None:
    """The guide's table where the loss reads it; none is part of a run's name elsewhere.

    Raises:
        UserError: it reads one, and none is there.
    """
    if not isinstance(config, TrainConfig) or not config.needs_guide:
        return None
    if guide is None:
        raise UserError("train.false_negatives.by: guide and train.teacher go by a guide's scores: set guide.model")
    return guide


def checkpoint_labels(job: Job) -> dict[int, str]:
    """Steps after which a model is written, and the labels of its parts; the last step is always among them."""
    if isinstance(job.config, PretrainConfig):
        return {job.config.steps: "model"}
    due = checkpoint_steps(job.config.steps, job.config.checkpoints, job.steps_before)
    return {step: checkpoint_label(step) for step in due}


class EarlyStop(NamedTuple):
    """End of a run by early stopping."""

    step: int
    best_step: int
    best: float

    def sentence(self, rule: EarlyStoppingConfig, steps: int) -> str:
        """What people are told."""
        return (
            f"stopped early after step {self.step:,} of {steps:,}: the held-out {rule.metric} was best at step"
            f" {self.best_step:,} ({self.best:.4f}) and no better at {rule.patience} checkpoint(s) since"
        )


def early_stop(rule: EarlyStoppingConfig, figures: Sequence[tuple[int, Mapping[str, float]]]) -> EarlyStop | None:
    """The first checkpoint at which the held-out figures have not become better for the rule's patience.

    Args:
        figures: steps and the figures of each, the earliest first.
    """
    best_step, best, waited = 0, math.inf, 0
    for step, found in figures if rule.patience else ():
        value = found["loss"] if rule.metric == "loss" else -found["mrr"]
        if value < best - rule.min_delta:
            best_step, best, waited = step, value, 0
        else:
            waited += 1
        if waited == rule.patience:
            return EarlyStop(step, best_step, best if rule.metric == "loss" else -best)
    return None


def _early_stop_of(job: Job, evaluation: str) -> EarlyStop | None:
    if isinstance(job.config, PretrainConfig) or not job.config.early_stopping.patience:
        return None
    rows = [json.loads(line) for line in evaluation.splitlines()]
    found = early_stop(job.config.early_stopping, [(row["step"], row) for row in rows])
    return found if found and found.step < job.config.steps else None


def early_stop_told(job: Job, evaluation: str) -> str:
    """What people are told of a run that early stopping has ended; empty where it has not."""
    found = _early_stop_of(job, evaluation)
    return found.sentence(job.config.early_stopping, job.config.steps) if found and isinstance(job.config, TrainConfig) else ""


def last_step(job: Job, evaluation: str) -> int:
    """The step after which the run is done: its last, or the checkpoint at which early stopping ended it."""
    found = _early_stop_of(job, evaluation)
    return found.step if found else job.config.steps


def state_labels(job: Job, done: int) -> list[str]:
    """Label of the training state that is kept with a run of so many steps; none where none is."""
    return [f"state-{job.stable_steps:06d}"] if 0 < job.stable_steps <= done else []


def kept_labels(job: Job, evaluation: str, done: int) -> list[str]:
    """Labels of the checkpoints due by step `done` that are kept: all, or the newest `keep_checkpoints` and the best.

    Args:
        job: with its config.
        evaluation: rows {"step", "loss", ...} of held-out pairs, a line each; the lowest loss is the best, or the highest MRR
            where early stopping goes by that.
        done: steps.
    """
    due = {step: label for step, label in checkpoint_labels(job).items() if step <= done}
    keep = 0 if isinstance(job.config, PretrainConfig) else job.config.keep_checkpoints
    if not keep:
        return list(due.values())
    rows = [json.loads(line) for line in evaluation.splitlines()]
    by_mrr = isinstance(job.config, TrainConfig) and job.config.early_stopping.metric == "mrr"
    losses = {row["step"]: -row["mrr"] if by_mrr else row["loss"] for row in rows if row["step"] in due}
    best = min(losses, key=lambda step: losses[step], default=None)
    newest = sorted(due)[-keep:]
    return [label for step, label in due.items() if step in newest or step == best]


def checkpoint_steps(steps: int, checkpoints: int, before: int = 0) -> list[int]:
    """Evenly spaced steps behind those `before`, the last one included; fewer where there are fewer steps."""
    added = steps - before
    return sorted({before + max(1, round(added * i / checkpoints)) for i in range(1, checkpoints + 1)})


def checkpoint_label(step: int) -> str:
    """Label of a checkpoint's part, and the model's name in evaluations."""
    return f"step-{step:06d}"


def part_key(run_key: str, label: str) -> str:
    """The key of one part of a run: the run's key names everything that its content depends on."""
    return digest_of([run_key, label])[:24]


def forget_part(store: Store, part: Part) -> None:
    """Take a part away: first its record, which makes it exist, then its files."""
    (store.root / part.stage / "parts" / f"{part.key}.json").unlink(missing_ok=True)
    shutil.rmtree(store.root / part.folder, ignore_errors=True)


class Events:
    """Lines of JSON from the first trainer process to the launcher.

    A launcher that was killed leaves a broken pipe: what cannot be written any more is dropped, and training goes on to save
    its state.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    def send(self, event: str, **fields: Any) -> None:
        """Write one line; see `parse_event`."""
        self._write(EVENT_MARK + json.dumps({"event": event, **fields}))

    def log(self, line: str) -> None:
        """Write a line that people read."""
        self._write(line)

    def warn(self, line: str) -> None:
        """Write a line that people should see wherever they look."""
        self._write(WARNING + line)

    def _write(self, line: str) -> None:
        if not self.enabled:
            return
        try:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        except OSError:
            self.enabled = False


def parse_event(line: str) -> dict[str, Any] | None:
    """The fields of an event line, or None for any other."""
    if not line.startswith(EVENT_MARK):
        return None
    try:
        fields = json.loads(line.removeprefix(EVENT_MARK))
    except json.JSONDecodeError:
        return None  # cut off by the trainer's death
    return fields if isinstance(fields, dict) and "event" in fields else None
