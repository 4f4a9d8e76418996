"""Stages beside contrastive training: pre-training, fine-tuning and the advice on batch size.

Pre-training is causal language modelling on the training split: the paper's models start from such a model (section 2).
Fine-tuning is contrastive training that goes on from a checkpoint, on training sets with hard negatives (section 4). The advice
says where a larger batch stops paying; it is measured once a checkpoint and shown by every report of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline_lib.config.base import StageConfig
from pipeline_lib.config.finetuning import FinetuneConfig
from pipeline_lib.config.lora import LoraConfig
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.optimizer import RATES
from pipeline_lib.config.training import EarlyStoppingConfig, PretrainConfig, TrainConfig, check_divides
from pipeline_lib.errors import UserError
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.model.lora import weights_folder
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Outcome, Stage
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.dataset import labels_of, parts_of
from pipeline_lib.train.job import PRETRAIN
from pipeline_lib.train.language_text import check_text
from pipeline_lib.train.launch import Choices, Log, Report, TrainInputs, build_trained, log_line, train
from pipeline_lib.train.start import check_tuned

if TYPE_CHECKING:
    from pipeline_lib.train.batch_size import BatchAdvice


def pretrain(
    store: Store,
    inputs: TrainInputs,
    config: PretrainConfig,
    model: ModelConfig,
    progress: Progress = silent,
    log: Log = log_line,
) -> Artifact:
    """Train a causal language model on whole documents, or on pairs, and return it as one part, "model".

    The same loop, states and restarts as contrastive training. Fact `held_out`: its loss, perplexity and the unigram entropy on
    the validation split (`language_text.figures_of`), where there is one.

    Args:
        store: where the artifact is looked for and written.
        inputs: token shards, of whole documents or of pairs as `text` says, and the tokenizer they were made with.
        config: at least one step.
        model: the encoder's sizes; `init` continues a given model.
        progress: callback with the steps done.
        log: callback with lines for people, as by `train`.

    Raises:
        UserError: no steps, sizes that do not fit, or shards of another kind of text.
        TrainingFailed: the loss is not finite, or the trainer died too often.
    """
    if config.steps == 0:
        raise UserError("pretrain.steps is 0: there is nothing to train; give steps, or leave pre-training out")
    check_text(inputs.shards, config)
    # no matter to a language model, and so of none to its name
    model = model.model_copy(update={"pooling": "last", "lora": LoraConfig()})
    return build_trained(store, PRETRAIN, inputs, Choices(config=config, model=model), Report(progress, log))


def finetune(
    store: Store,
    checkpoint: Checkpoint,
    data: Artifact | tuple[Artifact, Artifact],
    config: FinetuneConfig,
    progress: Progress = silent,
    log: Log = log_line,
) -> Artifact:
    """Tune a checkpoint on token shards made with its tokenizer; the result is a `train` artifact like any other.

    Args:
        store: where the artifact goes.
        checkpoint: to tune.
        data: token shards, or these and a guide's table of the same pairs.
        config: how.
        progress: counts steps.
        log: for lines that people read.

    Raises:
        UserError, TrainingFailed: see `train`.
    """
    shards, guide = data if isinstance(data, tuple) else (data, None)
    check_tuned(checkpoint, config)
    check_negatives(shards, config)
    choices = checkpoint.trained.manifest.config
    folder = weights_folder(checkpoint)
    temperature = json.loads((folder / "state.json").read_text())["temperature"]
    labels = labels_of(shards, "train")
    rows = {label.removeprefix("train-"): sum(part.facts["rows"] for part in parts_of(shards, label)) for label in labels}
    tuned = tuned_config(TrainConfig.model_validate(choices["config"]), config, rows, temperature)
    model = ModelConfig.model_validate({**choices["model"], "init": str(folder)})
    return train(store, TrainInputs(shards, checkpoint.tokenizer, guide=guide), tuned, model, progress, log)


def check_negatives(shards: Artifact, config: FinetuneConfig) -> None:
    """Look whether there are hard negatives, where a term of the loss is of nothing else.

    Raises:
        UserError: there are none.
    """
    if config.teacher.margin_mse_weight and not sum(part.facts.get("negatives", 0) for part in shards.manifest.parts):
        raise UserError(
            f"training.teacher.margin_mse_weight is {config.teacher.margin_mse_weight:g}, and no pair of the training sets has"
            " a hard negative: mine some (mining.per_pair), or set it to 0"
        )


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
    processes = config.processes or 1  # left open, they are as many as the batch divides among
    check_divides(config.batch_size, processes)
    n_rows = sum(rows.values())
    if n_rows < processes:
        raise UserError(f"{n_rows} pairs to tune on and {processes} processes: give more pairs or fewer processes")
    # fewer rows than a batch: as many of them as divide among the processes
    batch_size = max(2, min(config.batch_size, n_rows - n_rows % processes))
    steps = max(1, round(config.epochs * n_rows / batch_size))
    update = {
        "steps": steps,
        "batch_size": batch_size,
        "warmup_steps": round(config.warmup_share * steps),
        "mixture": {view: float(n) for view, n in sorted(rows.items())},
        "temperature": config.temperature or temperature,
        "token_dropout": config.token_dropout,
        "false_negatives": config.false_negatives,
        "teacher": config.teacher,
        "mask_same_document": (),
        "matryoshka": config.matryoshka if config.matryoshka.dims else base.matryoshka,
        "weight_average": 0.0,
        "checkpoints": config.checkpoints,
        # a training set has no held-out split to measure on, and each checkpoint that was asked for stays
        "evaluation_pairs": 0,
        "early_stopping": EarlyStoppingConfig(),
        "keep_checkpoints": None,
        "continue_from": None,
        "seed": config.seed,
        "processes": config.processes,
        "tracking": config.tracking,
        # the rows lie in the order of ids, which are hashes: any window of them is a fair sample
        "block_rows": TrainConfig.model_fields["block_rows"].default,
        "window_blocks": TrainConfig.model_fields["window_blocks"].default,
        **{name: config.rate_share * rate for name in RATES if (rate := getattr(base, name))},
    }
    return TrainConfig.model_validate({**base.model_dump(), **update})


STAGE = Stage(name="batch_advice", version=2)
LARGE_MODEL_BYTES = 200 << 20  # it would be measured where the flow runs, perhaps without a GPU


class AdviceConfig(StageConfig):
    """Choice of the checkpoint, and of how far it is measured."""

    label: str = Field(description="Checkpoint of the run, such as step-000240.")
    pairs: int = Field(default=2048, ge=16, description="Largest batch of the curve, in pairs; half the time of 4,096.")


def build_advice(store: Store, trained: Artifact, config: AdviceConfig, progress: Progress = silent) -> Artifact:
    """`batch_size.advise` as an artifact of facts alone: some seconds with the demo's model, nothing where it is there.

    Facts: "run", which `cpt plan --run` takes; and "noise_scale" (pairs; None: lost in noise), "sentence" and "curve": rows of
    pairs, loss, bits, and the bits that the doubling brought. Or, where it was not measured, "why", and "elsewhere" where
    `cpt plan --run` can measure it: no run fails for want of this advice.
    """
    run = f"{trained.manifest.key}/{config.label}"

    def make(key: str) -> Outcome:
        size = sum(file.bytes for part in trained.manifest.parts if part.label == config.label for file in part.files)
        has_job = (Path(store.root) / "train" / trained.manifest.key / "job.json").is_file()
        if not has_job or size > LARGE_MODEL_BYTES:
            why = "the model is large" if has_job else "the run's job.json does not lie on this machine"
            return Outcome(parts=(), facts={"run": run, "why": why, "elsewhere": True})
        from pipeline_lib.train.batch_size import advise  # torch, which a run with nothing to do need not import

        try:
            found = _facts(advise(store, run, config.pairs, progress))
        except UserError as error:  # fewer pairs than the batch, or a view of which a smaller batch has none
            found = {"why": str(error)}
        return Outcome(parts=(), facts={"run": run, **found})

    return store.build(STAGE, config, {"train": trained}, make)


def _facts(advice: BatchAdvice) -> dict[str, Any]:
    scale = advice.noise_scale if math.isfinite(advice.noise_scale) else None
    curve = [
        {"pairs": size, "loss": loss, "bits": advice.bits[size], "gain": advice.gains.get(size)}
        for size, loss in advice.losses.items()
    ]
    return {"noise_scale": scale, "sentence": advice.sentence(), "curve": curve}
