"""Model checkpoints of a run, committed as parts and pruned by the newest and the best; and resumption from training states.

A checkpoint is a model that an evaluation can load. A training state (state.py) also holds the optimizer and the averaged
weights; it is what a restart goes on from.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.utils import SAFE_WEIGHTS_NAME

from pipeline_lib.errors import CorruptArtifact
from pipeline_lib.model.adapter import is_adapted
from pipeline_lib.model.lora import ADAPTERS_FILE
from pipeline_lib.store.artifact import verify_part
from pipeline_lib.store.records import Part, draft_part
from pipeline_lib.store.store import Store
from pipeline_lib.train import optim
from pipeline_lib.train.distributed import Ranks, largest
from pipeline_lib.train.job import (
    EVALUATION_FILE,
    METRICS_FILE,
    TRAIN,
    Events,
    Job,
    checkpoint_labels,
    forget_part,
    kept_labels,
    part_key,
    state_labels,
)
from pipeline_lib.train.objective import Objective
from pipeline_lib.train.optim import WeightAverage
from pipeline_lib.train.sharding import LocalShard, write_whole
from pipeline_lib.train.state import (
    AsyncWriter,
    SavedState,
    SavePace,
    StateFolder,
    TrainerState,
    module_tensors,
    read_state,
    restore_module,
)


class ModelCheckpoints:
    """Writes a run's models and its metrics.

    Args:
        job: what is due when, and where it goes.
        ranks: the first one writes; all have to call where weights are cut over them.
        events: receives a line for each damaged one.
    """

    def __init__(self, job: Job, ranks: Ranks, events: Events) -> None:
        self.job, self.ranks, self.events = job, ranks, events
        self.store = Store(job.root)
        self.labels = checkpoint_labels(job)

    def save(self, done: int, objective: Objective, average: WeightAverage, files: dict[str, str]) -> None:
        """Commit the model after step `done`, with the averaged weights, and these texts beside it."""
        label = self.labels[done]
        cut, adapted = _is_cut(objective.module), is_adapted(objective.module)
        writes = self.ranks.is_first and self.whole_part(label) is None
        if not cut and not writes:
            return
        scratch = self.store.scratch(self.job.stage.name) if writes else None
        with average.in_place():
            if scratch:
                objective.save(scratch, {} if cut else None)
            if cut or adapted:  # the others give their rows, one tensor at a time
                path = scratch / (ADAPTERS_FILE if adapted else SAFE_WEIGHTS_NAME) if scratch else None
                write_whole(module_tensors(objective.saved), path)
        if scratch:
            self._commit(label, scratch, files, {"step": done})

    def keep(self, states: list[int], evaluation: str) -> None:
        """Take away the models that neither the newest of these saved states (steps) nor an older one needs."""
        needed = {label for step in states for label in kept_labels(self.job, evaluation, step)}
        for step, label in self.labels.items():
            if step <= max(states) and label not in needed:
                forget_label(self.store, self.job, label)

    def keep_state(self, step: int, folder: Path) -> None:
        """Commit a copy of a saved training state with the run, for a longer one to go on from."""
        (label,) = state_labels(self.job, step)
        if self.whole_part(label) is None:
            scratch = self.store.scratch(self.job.stage.name)
            for file in sorted(folder.iterdir()):
                shutil.copyfile(file, scratch / file.name)
            self._commit(label, scratch, {}, {"step": step})

    def save_metrics(self, files: dict[str, str]) -> None:
        """Commit the records of a finished run."""
        if self.ranks.is_first and self.job.stage == TRAIN and self.whole_part("metrics") is None:
            self._commit("metrics", self.store.scratch(self.job.stage.name), files, {})

    def _commit(self, label: str, scratch: Path, files: dict[str, str], facts: dict[str, Any]) -> None:
        for name, text in files.items():
            (scratch / name).write_text(text)
        draft = draft_part(self.job.stage, part_key(self.job.key, label), label, facts=facts)
        self.store.commit_part(draft, scratch)

    def are_whole(self, step: int, texts: dict[str, str]) -> bool:
        """True if every model that is kept of those due by a step is there, byte by byte."""
        kept = kept_labels(self.job, texts.get(EVALUATION_FILE, ""), step)
        # the state that is kept with the run is a copy of the one that is saved at its step
        return all(self.whole_part(label) is not None for label in (*kept, *state_labels(self.job, step - 1)))

    def last_good(self, step: int) -> str | None:
        """The newest one written before a step."""
        good = [label for due, label in self.labels.items() if due < step]
        return good[-1] if good else None

    def whole_part(self, label: str) -> Part | None:
        """The part if every byte is right; a damaged one is taken away, so that it is written again."""
        key = part_key(self.job.key, label)
        part = self.store.find_part(self.job.stage.name, key)
        if part is None:
            return None
        try:
            verify_part(self.store.root, part)
        except CorruptArtifact as error:
            self.events.log(f"{label} is damaged and will be written again: {error}")
            forget_part(self.store, part)
            return None
        return part


def forget_label(store: Store, job: Job, label: str) -> None:
    """Take a run's model away, if it is there."""
    if part := store.find_part(job.stage.name, part_key(job.key, label)):
        forget_part(store, part)


def rows_until(step: int, metrics: str) -> str:
    """The rows of metrics.jsonl up to a step."""
    return "".join(row for row in metrics.splitlines(keepends=True) if json.loads(row)["step"] <= step)


def state_json(fields: dict[str, Any]) -> str:
    """A checkpoint's state.json."""
    return json.dumps(fields, sort_keys=True, indent=1) + "\n"


def _is_cut(module: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


@dataclass
class Trained:
    """Everything that changes with the steps, but for the records."""

    objective: Objective
    optimizer: optim.Optimizer
    average: optim.WeightAverage

    @property
    def module(self) -> nn.Module:
        """Module with all weights that are trained."""
        return self.objective.module

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Groups of tensors by name; those that are empty left out."""
        groups = {
            "weights": module_tensors(self.module),
            "moments": optim.moments(self.module, self.optimizer),
            "average": self.average.tensors(),
        }
        return {name: group for name, group in groups.items() if group}

    def restore(self, state: SavedState) -> None:
        """Put back what `tensors` gave, from whatever number of ranks.

        Raises:
            CorruptArtifact: a name or a shape differs.
        """
        parameters = dict(self.module.named_parameters())
        restore_module(self.module, state.read("weights", module_tensors(self.module).get))
        moments = state.read("moments", lambda name: parameters[name.rpartition("/")[0]])
        optim.restore_moments(self.module, self.optimizer, moments)
        if averaged := self.average.tensors():
            self.average.restore(state.read("average", averaged.get))


class Resume:
    """Saves states while the steps go on, and finds the one to start from.

    Args:
        job: whose folder holds them.
        trained: what a state is made of.
        checkpoints: those due before a state have to be whole for it to count.
        ranks: each writes its own files.
        events: receives each state that is on the disk.
    """

    def __init__(self, job: Job, trained: Trained, checkpoints: ModelCheckpoints, ranks: Ranks, events: Events) -> None:
        self.states = StateFolder(job, ranks)
        self.trained, self.checkpoints, self.ranks, self.events = trained, checkpoints, ranks, events
        self._writer = AsyncWriter(job.config.async_checkpointing)
        self.pace = SavePace(job.config.resume_every_seconds, job.config.resume_time_share)

    @property
    def is_due(self) -> bool:
        """True once the interval between states has passed on the first rank's clock."""
        return self.ranks.is_first and self.pace.is_due(self._writer.is_busy)

    def save(self, done: int, texts: dict[str, str]) -> None:
        """Copy the state and write it asynchronously; every rank has to call.

        Raises:
            OSError: what the writing of the state before met.
        """
        with self.pace.save():
            pieces = {name: LocalShard(group, self.ranks) for name, group in self.trained.tensors().items()}
            state = TrainerState(done, pieces, texts)

            def write() -> None:
                with self.pace.write():
                    if kept := self.states.save(state):
                        self.checkpoints.keep(kept, texts.get(EVALUATION_FILE, ""))
                self.events.send("saved", step=done)

            self._writer.start(write)

    def wait(self) -> None:
        """Wait until the last state is on the disk. Raises what its writing met."""
        self._writer.wait()

    def keep(self, done: int, texts: dict[str, str]) -> None:
        """Save the state, and keep it with the run; every rank has to call. Raises what its writing met."""
        self.save(done, texts)
        self.wait()
        if self.ranks.is_first:
            self.checkpoints.keep_state(done, self.states.load(done).folder)

    def settle(self) -> BaseException | None:
        """Wait until the last state is on the disk; returns what its writing met."""
        return self._writer.settle()

    def start(self) -> SavedState | None:
        """Put back the newest state that the first rank found whole; None where a run begins.

        Raises:
            UserError: the state belongs to another run.
        """
        state = self.states.newest(self._is_usable, self.events.log) if self.ranks.is_first else None
        step = largest(state.step if state else 0, self.ranks)
        if step == 0:
            return self._continued()
        state = state or self.states.load(step)
        self.trained.restore(state)
        return state

    def _continued(self) -> SavedState | None:
        """The state of the run that this one goes on from, put back; its weights alone are the start already."""
        continued = self.states.continued
        if continued is None:
            return None
        if not continued.state:
            return SavedState(
                continued.step, Path(), {METRICS_FILE: rows_until(continued.step, Path(continued.metrics).read_text())}
            )
        state = read_state(Path(continued.state))
        self.trained.restore(state)
        rows = state.texts.get(EVALUATION_FILE, "").splitlines(keepends=True)
        due = [row for row in rows if json.loads(row)["step"] in self.checkpoints.labels]
        return replace(state, texts={**state.texts, EVALUATION_FILE: "".join(due)})

    def _is_usable(self, state: SavedState) -> bool:
        return self.checkpoints.are_whole(state.step, state.texts)
