"""The loop: gradients of a global batch, one synchronisation, clip, AdamW, average, write down; and what survives a kill.

A step depends on the state and on its number alone. Random numbers are drawn from a generator seeded anew by
(seed, step, rank), so that a restart needs none of the past ones and repeats the interrupted run to the bit.
"""

from __future__ import annotations

import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from pipeline_lib.artifact import Part, Store, draft_part, verify_part
from pipeline_lib.errors import CorruptArtifact, TrainingFailed
from pipeline_lib.faults import fault_point
from pipeline_lib.files import digest_of, replace_file
from pipeline_lib.train import checkpoint, optim
from pipeline_lib.train.distributed import Ranks, any_rank, largest, sum_gradients, sum_over_ranks
from pipeline_lib.train.job import TRAIN, Events, Job, checkpoint_labels, part_key
from pipeline_lib.train.metrics import Clock, StepLog, StepMetrics, spell_seconds

ESTIMATE_AFTER_STEPS = 3
NAMED_PAIRS = 4


@dataclass(frozen=True)
class StepFigures:
    """What one rank's share of a step came to; sums over ranks are the step's, but for the wait for its data (seconds)."""

    loss: float
    pairs: int
    tokens: int
    padded_tokens: int
    wait_seconds: float = 0.0


class Objective(Protocol):
    """What is trained, and on what: contrastive.py and causal.py."""

    @property
    def module(self) -> nn.Module:
        """All weights that are trained."""
        ...

    def describe(self) -> list[str]:
        """Lines for people, before the first step."""
        ...

    def gradients(self, step: int) -> StepFigures:
        """Add this rank's part of the gradient of step `step` (from 0): the sum over ranks is the whole."""
        ...

    def after_step(self) -> None:
        """Bring what the optimizer changed back into its bounds."""
        ...

    def temperature(self) -> float | None:
        """exp(-tau), if there is one."""
        ...

    def pair_ids(self, step: int) -> list[str]:
        """The global batch of a step, by the ids of its pairs."""
        ...

    def save(self, folder: Path) -> None:
        """Write the model as `transformers` loads it."""
        ...

    def texts(self) -> dict[str, str]:
        """Files of text that a state carries besides the metrics."""
        ...

    def restore_texts(self, texts: dict[str, str]) -> None:
        """Go on from them."""
        ...


class StopRequest:
    """SIGTERM as a flag that the loop looks at after each step."""

    def __init__(self) -> None:
        self.raised = False

    def listen(self) -> None:
        """From now on, take SIGTERM so."""
        signal.signal(signal.SIGTERM, self._raise)

    def _raise(self, *_: object) -> None:
        self.raised = True


class Trainer:
    """One process's side of a run.

    Args:
        job: what to do, and where it is written.
        objective: on this rank's device.
        ranks: this process among the others.
        events: to the launcher.
    """

    def __init__(self, job: Job, objective: Objective, ranks: Ranks, events: Events) -> None:
        self.job, self.objective, self.ranks, self.events = job, objective, ranks, events
        self.config = job.config
        self.labels = checkpoint_labels(job)
        self.store = Store(job.root)
        self.states = checkpoint.StateFolder(job)
        self.optimizer = optim.build_optimizer(objective.module, self.config)
        self.average = optim.WeightAverage(objective.module, self.config.weight_average)
        self.log = StepLog()
        self.clock = Clock(job.folder / "timing.jsonl" if ranks.is_first else None, self.config.steps)
        self.stop = StopRequest()
        self.pairs_seen = 0
        self._last_save = time.monotonic()

    def run(self) -> bool:
        """Go on from the newest usable state to the last step; False where a SIGTERM came first and the state is saved.

        Raises:
            TrainingFailed: the loss or the gradient is not finite.
            UserError: the saved state belongs to another configuration, vocabulary or torch.
        """
        first = self._resume()
        for line in self.objective.describe() if first == 0 else [f"going on after step {first}"]:
            self.events.log(line)
        self.clock = Clock(self.job.folder / "timing.jsonl" if self.ranks.is_first else None, self.config.steps)
        for step in range(first, self.config.steps):
            self.take_step(step)
            done = step + 1
            if done in self.labels:
                self._save_checkpoint(done)
            if done < self.config.steps and any_rank(self.stop.raised, self.ranks):
                self._save_state(done)
                self.events.send("stopped", step=done)
                return False
            if time.monotonic() - self._last_save > self.config.resume_every_seconds:
                self._save_state(done)
        self._save_metrics()
        return True

    def take_step(self, step: int) -> StepMetrics:
        """Step `step` (from 0): all that changes the weights."""
        torch.manual_seed(int(digest_of([self.config.seed, step, self.ranks.rank])[:15], 16))
        share = optim.schedule(self.config, step, self.config.steps)
        rate = share * self.config.learning_rate
        optim.set_learning_rates(self.optimizer, share)
        temperature = self.objective.temperature()
        self.optimizer.zero_grad(set_to_none=True)
        figures = self.objective.gradients(step)
        fault_point("trainer:after_backward")
        sum_gradients(self.objective.module, self.ranks)
        loss, pairs, tokens, padded = sum_over_ranks(
            [figures.loss, figures.pairs, figures.tokens, figures.padded_tokens], self.ranks
        )
        norm = optim.clip_gradients(self.objective.module, self.config.clip_norm)
        self.pairs_seen += int(pairs)
        metrics = StepMetrics(step + 1, loss, temperature, norm, rate, 1.0 - tokens / padded, self.pairs_seen)
        if not metrics.is_finite:
            raise TrainingFailed(self._describe_not_finite(metrics))
        self.optimizer.step()
        self.objective.after_step()
        self.average.update(step)
        self.log.add(metrics)
        self._report(metrics, int(pairs), int(tokens), figures.wait_seconds)
        fault_point("trainer:after_step")
        return metrics

    def _report(self, metrics: StepMetrics, pairs: int, tokens: int, wait_seconds: float) -> None:
        speed = self.clock.tick(metrics.step, pairs, tokens, wait_seconds)
        left = self.clock.seconds_left(metrics.step)
        if self.clock.steps_here == ESTIMATE_AFTER_STEPS:
            self.events.log(
                f"{speed:,.0f} pairs/s on this machine: about {spell_seconds(left)} for the remaining "
                f"{self.config.steps - metrics.step} steps"
            )
        note = f"{speed:,.0f} pairs/s, loss {metrics.loss:.3f}, {spell_seconds(left)} left"
        self.events.send("progress", done=metrics.step, total=self.config.steps, note=note)

    def _describe_not_finite(self, metrics: StepMetrics) -> str:
        ids = self.objective.pair_ids(metrics.step - 1)
        path = self.job.folder / "not_finite.json"
        if self.ranks.is_first:
            replace_file(path, json.dumps({"step": metrics.step, "pair_ids": ids}, indent=1).encode())
        good = [label for step, label in self.labels.items() if step < metrics.step]
        return (
            f"step {metrics.step}: loss is {metrics.loss}, gradient norm is {metrics.gradient_norm}, expected finite ones; "
            f"the batch is {', '.join(ids[:NAMED_PAIRS])} and {max(0, len(ids) - NAMED_PAIRS)} more in {path}; last good "
            f"checkpoint: {good[-1] if good else 'none'}; try a lower learning_rate or clip_norm, or float32"
        )

    def _resume(self) -> int:
        """Every rank takes the state that the first one found whole. Returns the steps done."""
        state = self.states.newest(self._checkpoints_are_whole, self.events.log) if self.ranks.is_first else None
        step = largest(state.step if state else 0, self.ranks)
        if step == 0:
            return 0
        state = state or self.states.load(step)
        checkpoint.restore_module(self.objective.module, state.tensors["weights"])
        optim.restore_moments(self.objective.module, self.optimizer, state.tensors["moments"])
        self.average.restore(state.tensors.get("average", {}))
        self.log.restore(state.texts["metrics.jsonl"])
        self.objective.restore_texts(state.texts)
        self.pairs_seen = int(self.log.last["pairs_seen"])
        return step

    def _save_state(self, done: int) -> None:
        if self.ranks.is_first:
            tensors = {
                "weights": checkpoint.module_tensors(self.objective.module),
                "moments": optim.moments(self.objective.module, self.optimizer),
                "average": self.average.tensors(),
            }
            texts = {"metrics.jsonl": self.log.text(), **self.objective.texts()}
            groups = {name: group for name, group in tensors.items() if group}
            self.states.save(checkpoint.TrainerState(done, groups, texts))
            self.events.send("saved", step=done)
        self._last_save = time.monotonic()

    def _save_checkpoint(self, done: int) -> None:
        """Commit the model as a part; one that an earlier process committed stays."""
        label = self.labels[done]
        if not self.ranks.is_first or self._whole_part(label) is not None:
            return
        scratch = self.store.scratch(self.job.stage.name)
        with self.average.in_place():
            self.objective.save(scratch)
            fields = self._checkpoint_fields(done)
        (scratch / "state.json").write_text(json.dumps(fields, sort_keys=True, indent=1) + "\n")
        if self.job.stage != TRAIN:
            (scratch / "metrics.jsonl").write_text(self.log.text())
        self._commit(label, scratch, {"step": done})

    def _checkpoint_fields(self, done: int) -> dict[str, Any]:
        last = self.log.last
        return {
            "step": done,
            "pairs_seen": self.pairs_seen,
            "temperature": self.objective.temperature(),
            "loss": last["loss"],
            "config_digest": digest_of([self.config.key_fields(), self.job.model.key_fields()]),
            "torch": torch.__version__,
            "world_size": self.ranks.size,
        }

    def _save_metrics(self) -> None:
        if not self.ranks.is_first or self.job.stage != TRAIN or self._whole_part("metrics") is not None:
            return
        scratch = self.store.scratch(self.job.stage.name)
        for name, text in {"metrics.jsonl": self.log.text(), **self.objective.texts()}.items():
            (scratch / name).write_text(text)
        self._commit("metrics", scratch, {})

    def _commit(self, label: str, scratch: Path, facts: dict[str, Any]) -> None:
        draft = draft_part(self.job.stage, part_key(self.job.key, label), label, facts=facts)
        self.store.commit_part(draft, scratch)

    def _checkpoints_are_whole(self, step: int) -> bool:
        return all(self._whole_part(label) is not None for due, label in self.labels.items() if due <= step)

    def _whole_part(self, label: str) -> Part | None:
        """The part if every byte is right; a damaged one is taken away, so that it is written again."""
        key = part_key(self.job.key, label)
        part = self.store.find_part(self.job.stage.name, key)
        if part is None:
            return None
        try:
            verify_part(self.store.root, part)
        except CorruptArtifact as error:
            self.events.log(f"{label} is damaged and will be written again: {error}")
            checkpoint.forget_part(self.store, part)
            return None
        return part
