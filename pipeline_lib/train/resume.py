"""What a restart goes on from: the trainer's parts taken together into a state, and put back from one."""

from __future__ import annotations

import time
from dataclasses import dataclass

from torch import Tensor, nn

from pipeline_lib.train import checkpoint, optim
from pipeline_lib.train.beside import Beside
from pipeline_lib.train.distributed import Ranks, largest
from pipeline_lib.train.job import EVALUATION_FILE, Events, Job
from pipeline_lib.train.model_checkpoints import ModelCheckpoints
from pipeline_lib.train.objective import Objective
from pipeline_lib.train.pieces import Piece


@dataclass
class Trained:
    """What changes with the steps, but for the records."""

    objective: Objective
    optimizer: optim.Optimizer
    average: optim.WeightAverage

    @property
    def module(self) -> nn.Module:
        """All weights that are trained."""
        return self.objective.module

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Groups of tensors by name; those that are empty left out."""
        groups = {
            "weights": checkpoint.module_tensors(self.module),
            "moments": optim.moments(self.module, self.optimizer),
            "average": self.average.tensors(),
        }
        return {name: group for name, group in groups.items() if group}

    def restore(self, state: checkpoint.SavedState) -> None:
        """Put back what `tensors` gave, from whatever number of ranks.

        Raises:
            CorruptArtifact: a name or a shape differs.
        """
        parameters = dict(self.module.named_parameters())
        checkpoint.restore_module(self.module, state.read("weights", checkpoint.module_tensors(self.module).get))
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
        events: told of each state that is on the disk.
    """

    def __init__(self, job: Job, trained: Trained, checkpoints: ModelCheckpoints, ranks: Ranks, events: Events) -> None:
        self.states = checkpoint.StateFolder(job, ranks)
        self.trained, self.checkpoints, self.ranks, self.events = trained, checkpoints, ranks, events
        self._every_seconds = job.config.resume_every_seconds
        self._beside = Beside(job.config.save_beside)
        self._last_save = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the first rank's clock says so."""
        return self.ranks.is_first and time.monotonic() - self._last_save > self._every_seconds

    def save(self, done: int, texts: dict[str, str]) -> None:
        """Copy the state and write it beside the next steps; every rank has to call.

        Raises:
            OSError: what the writing of the state before met.
        """
        pieces = {name: Piece(group, self.ranks) for name, group in self.trained.tensors().items()}
        state = checkpoint.TrainerState(done, pieces, texts)

        def write() -> None:
            if kept := self.states.save(state):
                self.checkpoints.keep(kept, texts.get(EVALUATION_FILE, ""))
            self.events.send("saved", step=done)

        self._beside.start(write)
        self._last_save = time.monotonic()

    def wait(self) -> None:
        """Until the last state is on the disk. Raises what its writing met."""
        self._beside.wait()

    def settle(self) -> BaseException | None:
        """Until the last state is on the disk; returns what its writing met."""
        return self._beside.settle()

    def start(self) -> checkpoint.SavedState | None:
        """Put back the newest state that the first rank found whole; None where a run begins.

        Raises:
            UserError: the state belongs to another run.
        """
        state = self.states.newest(self._is_usable, self.events.log) if self.ranks.is_first else None
        step = largest(state.step if state else 0, self.ranks)
        if step == 0:
            return None
        state = state or self.states.load(step)
        self.trained.restore(state)
        return state

    def _is_usable(self, state: checkpoint.SavedState) -> bool:
        return self.checkpoints.are_whole(state.step, state.texts)
