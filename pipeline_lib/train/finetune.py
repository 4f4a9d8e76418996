"""Fine-tuning: contrastive training that goes on from a checkpoint, on training sets with hard negatives (paper, section 4)."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pipeline_lib.artifact import Artifact, Store
from pipeline_lib.config import ModelConfig, TrainConfig
from pipeline_lib.errors import UserError
from pipeline_lib.finetune_config import FinetuneConfig
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.progress import Progress, silent
from pipeline_lib.tokens.dataset import labels_of, parts_of
from pipeline_lib.train.launch import Log, TrainInputs, log_line, train
from pipeline_lib.train_config import check_divides

RATES = ("learning_rate", "embedding_learning_rate", "scale_learning_rate")


def finetune(
    store: Store,
    checkpoint: Checkpoint,
    shards: Artifact,
    config: FinetuneConfig,
    progress: Progress = silent,
    log: Log = log_line,
) -> Artifact:
    """Tune a checkpoint on token shards made with its tokenizer; the result is a `train` artifact like any other.

    Raises:
        UserError, TrainingFailed: see `train`.
    """
    choices = checkpoint.trained.manifest.config
    folder = checkpoint.trained.part_folder(checkpoint.label)
    temperature = json.loads((folder / "state.json").read_text())["temperature"]
    labels = labels_of(shards, "train")
    rows = {label.removeprefix("train-"): sum(part.facts["rows"] for part in parts_of(shards, label)) for label in labels}
    tuned = tuned_config(TrainConfig.model_validate(choices["config"]), config, rows, temperature)
    model = ModelConfig.model_validate({**choices["model"], "init": str(folder)})
    return train(store, TrainInputs(shards, checkpoint.tokenizer), tuned, model, progress, log)


def tuned_config(base: TrainConfig, config: FinetuneConfig, rows: Mapping[str, int], temperature: float) -> TrainConfig:
    """The training configuration of a fine-tuning run.

    Args:
        base: of the run that the checkpoint comes from: its optimizer stays, its rates are scaled.
        config: what is asked for.
        rows: pairs of each view; a batch holds each in that proportion.
        temperature: of the checkpoint.

    Raises:
        UserError: the batch does not divide among the processes, or there are fewer rows than processes.
    """
    check_divides(config.batch_size, config.processes)
    n_rows = sum(rows.values())
    if n_rows < config.processes:
        raise UserError(f"{n_rows} pairs to tune on and {config.processes} processes: give more pairs or fewer processes")
    # fewer rows than a batch: as many of them as divide among the processes
    batch_size = max(2, min(config.batch_size, n_rows - n_rows % config.processes))
    steps = max(1, round(config.epochs * n_rows / batch_size))
    update = {
        "steps": steps,
        "batch_size": batch_size,
        "warmup_steps": round(config.warmup_share * steps),
        "mixture": {view: float(n) for view, n in sorted(rows.items())},
        "temperature": config.temperature or temperature,
        "token_dropout": config.token_dropout,
        "mask_same_document": (),
        "weight_average": 0.0,
        "checkpoints": config.checkpoints,
        # a training set has no held-out split to measure on, and each checkpoint that was asked for stays
        "evaluation_pairs": 0,
        "keep_checkpoints": 0,
        "seed": config.seed,
        "processes": config.processes,
        # the rows lie in the order of ids, which are hashes: any window of them is a fair sample
        "block_rows": TrainConfig.model_fields["block_rows"].default,
        "window_blocks": TrainConfig.model_fields["window_blocks"].default,
        **{name: config.rate_share * getattr(base, name) for name in RATES},
    }
    return TrainConfig.model_validate({**base.model_dump(), **update})
