"""Training loop: gradients of a global batch, one synchronisation, clip, AdamW, average, record; it survives a kill.

A step depends on the state and on its number alone. Random numbers are drawn from a generator seeded anew by
(seed, step, rank), so that a restart needs none of the past ones and repeats the interrupted run to the bit.
"""

from __future__ import annotations

import json
import math
import os
import signal
from typing import Any, NamedTuple

import torch
import torch.utils.deterministic
from torch import Tensor
from transformers.utils import logging as transformers_logging

from pipeline_lib.config.optimizer import OptimizerConfig
from pipeline_lib.config.training import TrainConfig
from pipeline_lib.errors import TrainingFailed
from pipeline_lib.store.files import digest_of, exclusive, fault_point, replace_file
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.guide import GuideTable
from pipeline_lib.train import optim
from pipeline_lib.train.checkpoints import ModelCheckpoints, Resume, Trained, state_json
from pipeline_lib.train.distributed import (
    Ranks,
    check_gpus,
    join_ranks,
    largest,
    leave_ranks,
    read_figures,
    sum_gradients,
)
from pipeline_lib.train.job import EVALUATION_FILE, METRICS_FILE, TRAIN, Events, Job, early_stop_told
from pipeline_lib.train.metrics import (
    FINITE_ADVICE,
    Clock,
    Divergence,
    StepLog,
    StepMetrics,
    Stopwatch,
    divergence_of,
    names_not_finite,
    spell_seconds,
)
from pipeline_lib.train.objective import Objective, StepFigures
from pipeline_lib.train.tracking import Tracking

ESTIMATE_AFTER_STEPS = 3
NAMED_PAIRS = 4
NAMED_WEIGHTS = 3


class StopRequest:
    """SIGTERM as a flag that the loop looks at after each step."""

    def __init__(self) -> None:
        self.raised = False

    def listen(self) -> None:
        """Handle SIGTERM from now on."""
        signal.signal(signal.SIGTERM, self._raise)

    def _raise(self, *_: object) -> None:
        self.raised = True


class Agreed(NamedTuple):
    """What all ranks do after a step, since one of them has to."""

    stop: bool = False
    save: bool = False


class Work(NamedTuple):
    """What a step went through, on all ranks."""

    pairs: int
    tokens: int


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
        self.optimizer = optim.build_optimizer(objective.module, self.config)
        self.average = optim.WeightAverage(objective.module, self.config.weight_average)
        self.checkpoints = ModelCheckpoints(job, ranks, events)
        self.resume = Resume(job, Trained(objective, self.optimizer, self.average), self.checkpoints, ranks, events)
        self.log = StepLog()
        self.evaluation = ""
        self.clock = Clock(job.folder / "timing.jsonl" if ranks.is_first else None, self.config.steps)
        self.watch = Stopwatch()
        self.tracking = Tracking(job, events.log, ranks.is_first)
        self.stop = StopRequest()
        self.pairs_seen = 0
        self._reached = 0  # the step that is taken, or was
        self._agreed = Agreed()

    def run(self) -> bool:
        """Go on from the newest usable state to the last step; False where a SIGTERM came first and the state is saved.

        Raises:
            TrainingFailed: something is not finite, or has collapsed (metrics.py).
            UserError: the saved state belongs to another configuration, vocabulary or torch.
        """
        finished = False
        try:
            finished = self._run()
        except Exception as error:
            error.add_note(f"step {self._reached}" if self._reached else "before the first step")
            if unsaved := self.resume.settle():  # told with what ended the run, not in its place
                self.events.warn(f"the state before was not saved: {unsaved}")
            raise
        finally:
            self.tracking.close(finished)
        self.resume.wait()
        return finished

    def _run(self) -> bool:
        first = self._reached = self._start()
        for line in self.objective.describe() if first == self.job.steps_before else [f"going on after step {first}"]:
            self.events.log(line)
        self.tracking.start(self.log.text(), self.evaluation)
        if first and first == self.job.stable_steps:  # a kill may have come between its saving and its keeping
            self.resume.keep(first, self._texts())
        self.clock = Clock(self.job.folder / "timing.jsonl" if self.ranks.is_first else None, self.config.steps)
        for step in range(first, self.config.steps):
            if self._is_over():
                break
            self._reached = step + 1
            self.take_step(step)
            done = step + 1
            if done in self.checkpoints.labels:
                with self.watch.timed("checkpoint"):
                    self._save_checkpoint(done)
            if done == self.job.stable_steps:
                with self.watch.timed("saving"):
                    self._require_finite_weights(done)
                    self.resume.keep(done, self._texts())
            if done < self.config.steps and self._agreed.stop and not self._is_over():
                self.resume.save(done, self._texts())
                self.resume.wait()
                self.events.send("stopped", step=done)
                return False
            if self._agreed.save:
                self.save_state(done)
        if told := early_stop_told(self.job, self.evaluation):
            self.events.log(told)
        self.checkpoints.save_metrics(self._texts())
        return True

    def _is_over(self) -> bool:
        """True once early stopping has ended the run: every rank, and a restart, decides by the same held-out figures."""
        return early_stop_told(self.job, self.evaluation) != ""

    def save_state(self, done: int) -> None:
        """Copy the full state after so many steps; it is written asynchronously, during the next ones.

        Raises:
            TrainingFailed: a weight is not finite.
        """
        self._require_finite_weights(done)
        with self.watch.timed("saving"):
            self.resume.save(done, self._texts())

    def take_step(self, step: int) -> StepMetrics:
        """Step `step` (from 0): all that changes the weights."""
        torch.manual_seed(int(digest_of([self.config.seed, step, self.ranks.rank])[:15], 16))
        before = self.job.steps_before
        share = optim.schedule(self.config, step - before, self.config.steps - before)
        rate = share * self.config.learning_rate
        optim.set_learning_rates(self.optimizer, share)
        self.optimizer.zero_grad(set_to_none=True)
        figures = self.objective.gradients(step)
        fault_point("trainer:after_backward")
        with self.watch.timed("synchronisation"):
            sum_gradients(self.objective.module, self.ranks)
        norm = optim.clip_gradients(self.objective.module, self.config.clip_norm)
        with self.watch.timed("synchronisation"):
            metrics, work, is_finite = self._read(figures, norm, step + 1, rate)
        not_finite = "" if is_finite else figures.name_not_finite()
        if divergence := divergence_of(metrics, figures.effective_rank, self.config, not_finite):
            raise TrainingFailed(self._describe(divergence, metrics.step))
        self.optimizer.step()
        self.objective.after_step()
        self.average.update(step)
        self.log.add(metrics)
        self._report(metrics, work, figures)
        fault_point("trainer:after_step")
        return metrics

    def _read(self, figures: StepFigures, norm: Tensor, step: int, rate: float) -> tuple[StepMetrics, Work, bool]:
        """What step `step` (from 1) has computed, and whether its embeddings are finite: the only wait for the device in it.

        The flags go with it, so that every rank stops, or saves, after the same step.
        """
        numbers = [figures.pairs, figures.tokens, figures.padded_tokens, self.stop.raised, self.resume.is_due]
        alike = {"norm": norm, "temperature": figures.temperature, "finite": figures.finite}
        same = {name: value for name, value in alike.items() if value is not None}
        counted = [] if figures.masked is None else [figures.masked]
        found = read_figures([figures.loss, *counted], numbers, list(same.values()), self.ranks)
        masked = int(found.pop(1)) if counted else None
        loss, pairs, tokens, padded, stop, save, *rest = found
        read = dict(zip(same, rest, strict=True))
        self._agreed = Agreed(stop > 0, save > 0)
        self.pairs_seen += int(pairs)
        padding = 1.0 - tokens / padded
        metrics = StepMetrics(step, loss, read.get("temperature"), read["norm"], rate, padding, self.pairs_seen, masked)
        return metrics, Work(int(pairs), int(tokens)), read.get("finite", 1.0) > 0

    def _report(self, metrics: StepMetrics, work: Work, figures: StepFigures) -> None:
        self.watch.add("wait", figures.wait_seconds)
        self.watch.add("loss", figures.loss_seconds)
        speed = self.clock.tick(metrics.step, work.pairs, work.tokens, self.watch.lap(), figures.effective_rank)
        self.tracking.step(self.log.last, self.clock.row)
        if self.clock.steps_here == ESTIMATE_AFTER_STEPS:
            left = self.clock.seconds_left(metrics.step)
            self.events.log(
                f"{speed:,.0f} {self.objective.items}/s on this machine: about {spell_seconds(left)} for the remaining "
                f"{self.config.steps - metrics.step} steps"
            )
        note = f"{speed:,.0f} {self.objective.items}/s, loss {metrics.loss:.3f}"
        self.events.send("progress", done=metrics.step, total=self.config.steps, note=note)

    def _describe(self, divergence: Divergence, step: int) -> str:
        ids = self.objective.pair_ids(step - 1)
        path = self.job.folder / f"{divergence.name}.json"
        if self.ranks.is_first:
            replace_file(path, json.dumps({"step": step, "pair_ids": ids}, indent=1).encode())
        return (
            f"step {step}: {divergence.what}{self._origin()}; the batch is {', '.join(ids[:NAMED_PAIRS])} and "
            f"{max(0, len(ids) - NAMED_PAIRS)} more in {path}; last good checkpoint: "
            f"{self.checkpoints.last_good(step) or 'none'}; try {divergence.advice}"
        )

    def _origin(self) -> str:
        """The weights, or else the gradients, that are not finite."""
        parameters = dict(self.objective.module.named_parameters())
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        for what, tensors in (("the weights", parameters), ("the gradients of", gradients)):
            if names := names_not_finite(tensors):
                return f"; not finite in {what} {_few(names)}"
        return ""

    def _require_finite_weights(self, done: int) -> None:
        """Raises TrainingFailed before a weight that is not finite, live or averaged, is written anywhere."""
        averaged = {f"average of {name}": mean for name, mean in self.average.tensors().items()}
        if names := names_not_finite({**dict(self.objective.module.named_parameters()), **averaged}):
            raise TrainingFailed(
                f"step {done}: weights that are not finite: {_few(names)}; nothing of them was saved; last good checkpoint: "
                f"{self.checkpoints.last_good(done) or 'none'}; try {FINITE_ADVICE}"
            )

    def _start(self) -> int:
        """Every rank takes the state that the first one found whole. Returns the steps done."""
        state = self.resume.start()
        if state is None:
            return 0
        self.log.restore(state.texts[METRICS_FILE])
        self.evaluation = state.texts.get(EVALUATION_FILE, "")
        self.pairs_seen = int(self.log.last["pairs_seen"])
        return state.step

    def _texts(self) -> dict[str, str]:
        evaluation = {EVALUATION_FILE: self.evaluation} if self.evaluation else {}
        return {METRICS_FILE: self.log.text(), **evaluation}

    def _save_checkpoint(self, done: int) -> None:
        """Measure the model where that is asked for, and commit it as a part.

        Raises:
            TrainingFailed: a weight or a figure is not finite.
        """
        self._require_finite_weights(done)
        with self.average.in_place():
            figures, temperature = self.objective.evaluate(), self.objective.temperature()
        if bad := [f"held-out {name} is {value}" for name, value in figures.items() if not math.isfinite(value)]:
            raise TrainingFailed(f"step {done}: {', '.join(bad)}, expected finite ones; try {FINITE_ADVICE}")
        if figures:
            self.evaluation += json.dumps({"step": done, **figures}) + "\n"
            self.tracking.held_out({"step": done, **figures})
            told = {name: f"{value:,}" if isinstance(value, int) else f"{value:.4f}" for name, value in figures.items()}
            self.events.log(f"step {done}: " + ", ".join(f"held-out {name} {value}" for name, value in told.items()))
        files = {"state.json": state_json(self._checkpoint_fields(done, temperature))}
        if self.job.stage != TRAIN:
            files |= self._texts()
        self.checkpoints.save(done, self.objective, self.average, files)

    def _checkpoint_fields(self, done: int, temperature: float | None) -> dict[str, Any]:
        last = self.log.last
        return {
            "step": done,
            "pairs_seen": self.pairs_seen,
            "temperature": temperature,  # of the weights beside it, which may be averaged
            "loss": last["loss"],
            "config_digest": self.job.config_digest,
            "torch": torch.__version__,
            "world_size": self.ranks.size,
        }


def _few(names: list[str]) -> str:
    """The first names of many."""
    return ", ".join(names[:NAMED_WEIGHTS]) + (f" and {len(names) - NAMED_WEIGHTS} more" if len(names) > NAMED_WEIGHTS else "")


def set_arithmetic(config: OptimizerConfig, device: str) -> None:
    """Set this process's arithmetic to what a run asks for, on a device of that type; before the first operation there."""
    # refuses an operation that has no deterministic form; costs nothing on a CPU, and cuBLAS wants its workspace fixed
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(config.deterministic)
    # a debugging aid, one more pass over every new tensor
    torch.utils.deterministic.fill_uninitialized_memory = False
    if device == "cuda":  # on a CPU the same word may mean another arithmetic
        torch.set_float32_matmul_precision("high" if config.tf32 else "highest")


def work(job: Job, events: Events) -> None:
    """Run a job in this process, one of the ranks that torchrun started.

    Raises:
        UserError, CorruptArtifact, TrainingFailed: the run cannot go on, and would not the next time either.
    """
    set_arithmetic(job.config, "cuda" if torch.cuda.is_available() else "cpu")
    transformers_logging.disable_progress_bar()
    ranks = join_ranks(job.config.threads)
    if not ranks.is_first:
        _run(job, ranks, events)
        return
    # a trainer whose launcher was killed may still be saving its state
    with exclusive(job.folder / "trainer.lock"):
        _run(job, ranks, events)


def _run(job: Job, ranks: Ranks, events: Events) -> None:
    trainer = Trainer(job, build_objective(job, ranks), ranks, events)
    trainer.stop.listen()
    if ranks.device.type == "cuda" and (
        note := check_gpus(torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    ):
        events.warn(note)
    events.send("ready", pid=os.getpid(), ranks=ranks.size, device=str(ranks.device))
    finished = trainer.run()
    largest(0, ranks)  # the others stay until the first one has written everything
    if finished:
        events.send("done")
    leave_ranks(ranks)


def build_objective(job: Job, ranks: Ranks) -> Objective:
    """The model and the data of a job, on this rank's device."""
    store = Store(job.root, job.remote)
    shards, tokenizer = job.shards.open(store), job.tokenizer.open(store)
    if isinstance(job.config, TrainConfig):
        from pipeline_lib.train.contrastive import ContrastiveObjective

        objective = ContrastiveObjective.build(job, shards, tokenizer, ranks)
        objective.guide = GuideTable(job.guide.open(store)) if job.guide else None
        return objective
    from pipeline_lib.train.causal import CausalObjective

    return CausalObjective.build(job, shards, tokenizer, ranks)
