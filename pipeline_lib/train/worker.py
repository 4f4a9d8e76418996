"""Trainer process: build the objective of its job and let the trainer run it."""

from __future__ import annotations

import os

import torch
import torch.utils.deterministic
from transformers.utils import logging as transformers_logging

from pipeline_lib.config.training import TrainConfig
from pipeline_lib.store.locks import exclusive
from pipeline_lib.store.store import Store
from pipeline_lib.train.distributed import Ranks, check_gpus, join_ranks, largest, leave_ranks
from pipeline_lib.train.job import Events, Job
from pipeline_lib.train.objective import Objective
from pipeline_lib.train.trainer import Trainer


def work(job: Job, events: Events) -> None:
    """Run a job in this process, one of the ranks that torchrun started.

    Raises:
        UserError, CorruptArtifact, TrainingFailed: the run cannot go on, and would not the next time either.
    """
    # refuses an operation that has no deterministic form; costs nothing on a CPU, and cuBLAS wants its workspace fixed
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # a debugging aid, one more pass over every new tensor
    torch.utils.deterministic.fill_uninitialized_memory = False
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

        return ContrastiveObjective.build(job, shards, tokenizer, ranks)
    from pipeline_lib.train.causal import CausalObjective

    return CausalObjective.build(job, shards, tokenizer, ranks)
