"""Causal language modelling on the training split, as a stage: what the paper's models start from (section 2)."""

from __future__ import annotations

from pipeline_lib.artifact import Artifact, Store
from pipeline_lib.config import ModelConfig, PretrainConfig
from pipeline_lib.errors import UserError
from pipeline_lib.progress import Progress, silent
from pipeline_lib.train.job import PRETRAIN
from pipeline_lib.train.launch import Choices, Log, Report, TrainInputs, build_trained, log_line


def pretrain(
    store: Store,
    inputs: TrainInputs,
    config: PretrainConfig,
    model: ModelConfig,
    progress: Progress = silent,
    log: Log = log_line,
) -> Artifact:
    """Train a causal language model on packed pairs and return it as one part, "model".

    The same loop, states and restarts as contrastive training.

    Args:
        store: where the artifact is looked for and written.
        inputs: token shards, of which only the training split is opened, and the tokenizer they were made with.
        config: at least one step.
        model: the encoder's sizes; `init` continues a given model.
        progress: told the steps done.
        log: told lines for people, as by `train`.

    Raises:
        UserError: no steps, or sizes that do not fit.
        TrainingFailed: the loss is not finite, or the trainer died too often.
    """
    if config.steps == 0:
        raise UserError("pretrain.steps is 0: there is nothing to train; give steps, or leave pre-training out")
    model = model.model_copy(update={"pooling": "last"})  # no matter to a language model, and so of none to its name
    return build_trained(store, PRETRAIN, inputs, Choices(config=config, model=model), Report(progress, log))
