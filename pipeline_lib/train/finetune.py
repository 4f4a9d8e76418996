"""Fine-tuning: contrastive training that goes on from a checkpoint, on training sets with hard negatives (paper, section 4)."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pipeline_lib.artifact import Artifact, Store
from pipeline_lib.config import ModelConfig, TrainConfig
from pipeline_lib.finetune_config import FinetuneConfig
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.progress import Progress, silent
from pipeline_lib.train.launch import Log, TrainInputs, log_line, train

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
    rows = {part.label.removeprefix("train-"): part.facts["rows"] for part in shards.manifest.parts}
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
    """
    n_rows = sum(rows.values())
    batch_size = max(2, min(config.batch_size, n_rows))
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
        "seed": config.seed,
        "processes": config.processes,
        # the rows lie in the order of ids, which are hashes: any window of them is a fair sample
        "block_rows": TrainConfig.model_fields["block_rows"].default,
        "window_blocks": TrainConfig.model_fields["window_blocks"].default,
        **{name: config.rate_share * getattr(base, name) for name in RATES},
    }
    return TrainConfig.model_validate({**base.model_dump(), **update})
