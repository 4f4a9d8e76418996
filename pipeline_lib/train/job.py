"""Training job: the description of one run that the launcher writes and every trainer process reads. Imports no torch."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.training import PretrainConfig, TrainConfig
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.progress import WARNING
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import digest_of
from pipeline_lib.store.records import Part, Stage
from pipeline_lib.store.store import Store
from pipeline_lib.train.failure import EVENT_MARK

TRAIN = Stage(name="train", version=5)
PRETRAIN = Stage(name="pretrain", version=3)

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


class Job(BaseModel):
    """Everything that a trainer process needs to know.

    Attributes:
        stage: TRAIN or PRETRAIN.
        root: of the store, or its cache: what this run writes is committed there, and uploaded when the run is done.
        remote: URL of the bucket that the inputs are fetched from; empty for a store on a disk.
        key: of the artifact in the making.
        start: folder of a causal language model to start from, "" for none; `start_digest` is its content.
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
    config: TrainConfig | PretrainConfig
    model: ModelConfig

    @property
    def folder(self) -> Path:
        """Folder of the manifest to come, and meanwhile of what belongs to no artifact: job, timing, states."""
        return Path(self.root) / self.stage.name / self.key

    def identity(self, torch_version: str) -> dict[str, Any]:
        """Values that a saved state must agree with, as flat names and JSON values; the number of processes is not in it."""
        fields = {f"config.{name}": value for name, value in self.config.key_fields().items()}
        fields |= {f"model.{name}": value for name, value in self.model.key_fields().items() if name != "init"}
        fields |= {"start": self.start_digest, "shards": self.shards.digest, "vocabulary": self.tokenizer.digest}
        return {**fields, "stage_version": self.stage.version, "torch": torch_version}


def checkpoint_labels(job: Job) -> dict[int, str]:
    """Steps after which a model is written, and the labels of its parts; the last step is always among them."""
    if isinstance(job.config, PretrainConfig):
        return {job.config.steps: "model"}
    return {step: checkpoint_label(step) for step in checkpoint_steps(job.config.steps, job.config.checkpoints)}


def kept_labels(job: Job, evaluation: str, done: int) -> list[str]:
    """Labels of the checkpoints due by step `done` that are kept: all, or the newest `keep_checkpoints` and the best.

    Args:
        job: with its config.
        evaluation: rows {"step", "loss", ...} of held-out pairs, a line each; the lowest loss is the best.
        done: steps.
    """
    due = {step: label for step, label in checkpoint_labels(job).items() if step <= done}
    keep = 0 if isinstance(job.config, PretrainConfig) else job.config.keep_checkpoints
    if not keep:
        return list(due.values())
    rows = [json.loads(line) for line in evaluation.splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if row["step"] in due}
    best = min(losses, key=lambda step: losses[step], default=None)
    newest = sorted(due)[-keep:]
    return [label for step, label in due.items() if step in newest or step == best]


def checkpoint_steps(steps: int, checkpoints: int) -> list[int]:
    """Evenly spaced steps, the last one included; fewer where there are fewer steps."""
    return sorted({max(1, round(steps * i / checkpoints)) for i in range(1, checkpoints + 1)})


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
