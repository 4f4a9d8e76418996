"""How long a run would take on this machine, from a few of its own steps."""

from __future__ import annotations

import tempfile
import time

import torch

from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.training import TrainConfig
from pipeline_lib.store.store import Store
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.job import TRAIN, ArtifactRef, Events, Job
from pipeline_lib.train.launch import TrainInputs
from pipeline_lib.train.torchrun import trainer_threads
from pipeline_lib.train.trainer import Trainer
from pipeline_lib.train.worker import build_objective

TIMED_STEPS = 2


def estimate_seconds(store: Store, inputs: TrainInputs, config: TrainConfig, model: ModelConfig) -> float:
    """Seconds of all steps in one process on the CPU, as its threads are set: one step to warm up, then two are timed.

    Start-up (some 10 CPU-seconds of imports), checkpoints and more than one process are not in it. Nothing is written to the
    store; the trainer itself prints the same figure, from the real run, after its first three steps.

    Raises:
        UserError: the inputs do not fit together.
    """
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="cpt-estimate-") as folder:
        job = Job(
            root=str(store.root),
            remote=store.remote,
            stage=TRAIN,
            key="estimate",
            shards=ArtifactRef.of(inputs.shards),
            tokenizer=ArtifactRef.of(inputs.tokenizer),
            start=str(inputs.start.part_folder("model")) if inputs.start else model.init,
            config=config,
            model=model,
        )
        objective = build_objective(job, Ranks())
        trainer = Trainer(job.model_copy(update={"root": folder}), objective, Ranks(), Events(enabled=False))
        torch.set_num_threads(trainer_threads(config))
        try:
            trainer.job.folder.mkdir(parents=True)
            trainer.take_step(0)
            begin = time.monotonic()
            for step in range(1, 1 + TIMED_STEPS):
                trainer.take_step(step)
        finally:
            torch.set_num_threads(threads)
    return (time.monotonic() - begin) / TIMED_STEPS * config.steps
