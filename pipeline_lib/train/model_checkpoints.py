"""The models that a run leaves behind: committed as parts, whole or not there, all of them or the newest and the best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor

from pipeline_lib.artifact import Part, Store, draft_part, verify_part
from pipeline_lib.errors import CorruptArtifact
from pipeline_lib.train.checkpoint import module_tensors
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.job import EVALUATION_FILE, TRAIN, Events, Job, checkpoint_labels, forget_part, kept_labels, part_key
from pipeline_lib.train.objective import Objective
from pipeline_lib.train.optim import WeightAverage
from pipeline_lib.train.sharding import whole_on_cpu


class ModelCheckpoints:
    """Writes a run's models and its metrics.

    Args:
        job: what is due when, and where it goes.
        ranks: the first one writes; all have to call where weights are cut over them.
        events: told of damaged ones.
    """

    def __init__(self, job: Job, ranks: Ranks, events: Events) -> None:
        self.job, self.ranks, self.events = job, ranks, events
        self.store = Store(job.root)
        self.labels = checkpoint_labels(job)

    def save(self, done: int, objective: Objective, average: WeightAverage, files: dict[str, str]) -> None:
        """Commit the model after step `done`, with the averaged weights, and these texts beside it."""
        label = self.labels[done]
        cut = _is_cut(objective.module)
        if not cut and (not self.ranks.is_first or self.whole_part(label) is not None):
            return
        with average.in_place():
            weights = whole_on_cpu(module_tensors(objective.module)) if cut else None
            if not self.ranks.is_first or (cut and self.whole_part(label) is not None):
                return
            scratch = self.store.scratch(self.job.stage.name)
            objective.save(scratch, weights)
        self._commit(label, scratch, files, {"step": done})

    def keep(self, states: list[int], evaluation: str) -> None:
        """Take away the models that neither the newest of these saved states (steps) nor an older one needs."""
        needed = {label for step in states for label in kept_labels(self.job, evaluation, step)}
        for step, label in self.labels.items():
            if step <= max(states) and label not in needed:
                forget_label(self.store, self.job, label)

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
        """Whether every model that is kept of those due by a step is there, byte by byte."""
        kept = kept_labels(self.job, texts.get(EVALUATION_FILE, ""), step)
        return all(self.whole_part(label) is not None for label in kept)

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


def state_json(fields: dict[str, Any]) -> str:
    """A checkpoint's state.json."""
    return json.dumps(fields, sort_keys=True, indent=1) + "\n"


def _is_cut(module: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())
