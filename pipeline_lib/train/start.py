"""Start of training: weights of a folder or of a finished run's checkpoint, and the run that a longer one goes on from.

A warm start takes a checkpoint's weights, and its temperature unless another is set; AdamW's moments begin at zero, since they
belong to another schedule and other gradients. A lengthened run goes on behind the steps of the finished one. Imports no torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline_lib.config.finetuning import FinetuneConfig
from pipeline_lib.config.model import ModelConfig, check_dims, embedding_width
from pipeline_lib.config.optimizer import RATES
from pipeline_lib.config.training import PretrainConfig, TrainConfig
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.model.checkpoint import Checkpoint, labels_of_run, open_checkpoint, start_width
from pipeline_lib.model.lora import ADAPTERS_FILE, HASHES, content_digest, weights_folder
from pipeline_lib.runtime.progress import WARNING
from pipeline_lib.store.artifact import Artifact, verify_part
from pipeline_lib.store.records import Part, draft_part
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.sentence_transformer import is_sentence_transformer
from pipeline_lib.train.job import (
    EVALUATION_FILE,
    METRICS_FILE,
    PRETRAIN,
    Continued,
    Job,
    checkpoint_labels,
    kept_labels,
    part_key,
)

Log = Callable[[str], None]

# what a run goes on with from a checkpoint of another one; all else is as asked for
RECIPE = (
    *RATES,
    "optimizer",
    "embedding_epsilon",
    "weight_decay",
    "first_moment_decay",
    "second_moment_decay",
    "epsilon",
    "clip_norm",
    "weight_average",
    "token_dropout",
)
# what changes nothing before the decay of warmup-stable-decay
AFTER_STABLE = ("steps", "checkpoints", "decay_share", "final_learning_rate_share")


@dataclass(frozen=True)
class Start:
    """Weights to start from.

    Attributes:
        folder: of the weights; empty: none are given.
        digest: of what is read of it; of a start that was made here the artifact's.
        made: the artifact that was made here, which is an input of the run and verified as such.
        parent: the run that is gone on from, the point where it ended, and its temperature there.
    """

    folder: str = ""
    digest: str = ""
    made: Artifact | None = None
    parent: Artifact | None = None
    continued: Continued | None = None
    temperature: float | None = None


def checkpoint_of(store: Store, name: str) -> Checkpoint:
    """The checkpoint RUN/step-000240 of a finished run, or the last one of RUN; RUN is a key, which may be cut short.

    Raises:
        UserError: there is no such run or checkpoint, or what it was made from is gone.
    """
    run, _, label = name.partition("/")
    trained = store.open("train", run)
    label = label or labels_of_run(trained)[-1]
    return open_checkpoint(store, f"{trained.manifest.key}/{label}")


def recipe_of(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """Settings that a run takes from the checkpoint that it starts from: optimizer, temperature and model."""
    choices = checkpoint.trained.manifest.config
    config, model = TrainConfig.model_validate(choices["config"]), ModelConfig.model_validate(choices["model"])
    train = {name: getattr(config, name) for name in RECIPE}
    sizes: dict[str, Any] = {
        name: getattr(model, name) for name in ("layers", "width", "heads", "inner", "positions", "pooling", "dropout")
    }
    sizes["keep_layers"] = None  # the checkpoint has the blocks that were kept
    return {"train": {**train, "temperature": _state_of(checkpoint)["temperature"]}, "model": sizes}


def check_tuned(checkpoint: Checkpoint, config: FinetuneConfig) -> None:
    """Look whether a checkpoint can be tuned so, before a training set is read.

    Raises:
        UserError: a prefix is longer than its vectors, as far as its folder tells.
    """
    is_whole = not (checkpoint.folder / ADAPTERS_FILE).is_file()  # modules behind the pooling may be its start's alone
    init = str(checkpoint.folder)
    width = (embedding_width(ModelConfig(init=init)) or start_width(init)) if is_whole else None
    check_dims(config.matryoshka.dims, width, "training.matryoshka.dims")


def start_of(
    store: Store, given: Artifact | None, config: TrainConfig | PretrainConfig, model: ModelConfig, tokenizer: Artifact
) -> Start:
    """What training starts from.

    Args:
        given: a start that was made here, as by pre-training.
        tokenizer: of the token shards.

    Raises:
        UserError: there is no such folder or run, two starts are given, or a run has another tokenizer.
    """
    if isinstance(config, TrainConfig) and config.continue_from:
        return _lengthened(store, config, tokenizer)
    if given is not None and model.init and given.manifest.stage != PRETRAIN.name:
        raise UserError(f"model.init is {model.init}, and a {given.manifest.stage} start is given too; choose one of them")
    if given is not None:  # a pre-trained one went on from model.init, where there is one
        return Start(str(given.part_folder("model")), given.digest, given)
    if not model.init:
        return Start()
    folder = Path(model.init).absolute()
    if not (folder / "config.json").is_file() and not is_sentence_transformer(folder):
        raise UserError(
            f"model.init: no config.json in {folder}; expected that of a causal language model or of sentence-transformers"
        )
    return Start(str(folder), content_digest(folder, store.root / HASHES))


def _lengthened(store: Store, config: TrainConfig, tokenizer: Artifact) -> Start:
    """The checkpoint that `continue_from` names, and where its run ended."""
    checkpoint = checkpoint_of(store, str(config.continue_from))
    check_tokenizer(checkpoint, tokenizer)
    if config.steps <= checkpoint.step:
        raise UserError(
            f"train.continue_from is {checkpoint.name}, which has done {checkpoint.step:,} steps, and train.steps is "
            f"{config.steps:,}: set train.steps to those of both runs together"
        )
    trained = checkpoint.trained
    metrics = trained.part_folder("metrics") / METRICS_FILE
    continued = Continued(run=trained.manifest.key, step=checkpoint.step, metrics=str(metrics))
    digest, temperature = trained.part(checkpoint.label).digest, _state_of(checkpoint)["temperature"]
    return Start(str(weights_folder(checkpoint)), digest, None, trained, continued, temperature)


def check_tokenizer(checkpoint: Checkpoint, tokenizer: Artifact) -> None:
    """A checkpoint's weights know the ids of its own tokenizer alone.

    Raises:
        UserError: the token shards were made with another one.
    """
    if tokenizer.digest != checkpoint.tokenizer.digest:
        raise UserError(
            f"{checkpoint.name} was trained with tokenizer {checkpoint.tokenizer.manifest.key}, the token shards are made with "
            f"{tokenizer.manifest.key}: make them with the checkpoint's own, as `cpt train --init` does"
        )


def named(config: TrainConfig | PretrainConfig, model: ModelConfig, start: Start) -> dict[str, Any]:
    """Both configs as keys take them: a start by its content, not by its place or name."""
    if not isinstance(config, TrainConfig) or not config.continue_from or start.continued is None:
        return {"config": config, "model": model.model_copy(update={"init": start.digest})}
    update = {"continue_from": f"{start.digest}/{start.continued.step}", "temperature": start.temperature}
    return {"config": config.model_copy(update=update), "model": model.model_copy(update={"init": start.digest})}


def verify(start: Start) -> None:
    """Read every byte of a start before work begins, which its digest may know from an earlier launch.

    Raises:
        CorruptArtifact: its content is another one.
    """
    if start.digest and start.made is None:
        found = content_digest(Path(start.folder))
        if found != start.digest:
            raise CorruptArtifact(f"{start.folder}: its content is {found[:12]}, expected {start.digest[:12]}; fetch it again")


def longest_stable(store: Store, job: Job, choices: Mapping[str, Any], inputs: Mapping[str, str], log: Log) -> Job:
    """The job, going on from the latest training state of a shorter run that begins as it does; itself where there is none.

    Such a run has warmup-stable-decay's schedule and differs in what comes after its stable steps alone. What it goes on to
    make is to the bit what it would make if begun at once: checkpoints that are due before are the shorter run's.

    Args:
        choices: key fields of both configs.
        inputs: digests of the inputs by their names.
    """
    if not isinstance(job.config, TrainConfig) or job.config.continue_from:
        return job
    alike = [
        found
        for found in store.artifacts(job.stage.name)
        if found.manifest.stage_version == job.stage.version
        and found.manifest.inputs == dict(inputs)
        and but_for_length(found.manifest.config) == but_for_length(choices)
    ]
    same = [
        (part.facts["step"], found, part)
        for found in alike
        for part in found.manifest.parts
        if part.label.startswith("state-") and part.facts["step"] <= job.stable_steps
    ]
    shorter = [found.manifest for found in alike if found.manifest.facts["step"] < job.config.steps]
    if shorter and job.config.schedule == "cosine":
        log(
            f"run {shorter[0].key} is the same but for its {shorter[0].facts['step']:,} steps; this one begins anew, since its "
            f"schedule is another from the first step on: train.continue_from={shorter[0].key} goes on"
        )
    for step, found, part in sorted(same, key=lambda one: one[0], reverse=True):
        continued = Continued(run=found.manifest.key, step=step, state=str(found.folder_of(part)))
        if why := _obstacle(store, job, found, part):
            log(f"{WARNING}run {found.manifest.key} has the first {step:,} steps of this one, which begins anew: {why}")
        else:
            log(f"the first {step:,} steps are those of run {found.manifest.key}: going on from its training state")
            return job.model_copy(update={"continued": continued})
    return job


def but_for_length(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Key fields of both configs but for what may differ between a shorter run and a longer one."""
    config = choices["config"]
    left_out = AFTER_STABLE if "schedule" in config else (*AFTER_STABLE, "warmup_steps")
    return {**choices, "config": {name: value for name, value in config.items() if name not in left_out}}


def _obstacle(store: Store, job: Job, found: Artifact, part: Part) -> str:
    """Why a run cannot go on from a state of another one; empty where its checkpoints that are due by then are copied."""
    try:
        verify_part(store.root, part)
    except CorruptArtifact as error:
        return str(error)
    folder = found.folder_of(part)
    torch = json.loads((folder / "state.json").read_text())["identity"]["torch"]
    if _minor(torch) != _minor(version("torch")):
        return f"it is of torch {torch}, this is {version('torch')}"
    evaluation = folder / EVALUATION_FILE
    rows = evaluation.read_text().splitlines(keepends=True) if evaluation.is_file() else []
    due = checkpoint_labels(job)
    needed = kept_labels(job, "".join(row for row in rows if json.loads(row)["step"] in due), part.facts["step"])
    there = {one.label: one for one in found.manifest.parts}
    if missing := [label for label in needed if label not in there]:
        return f"it has no checkpoint {missing[0]}; a multiple of its steps with as many checkpoints would have all of them"
    for label in needed:
        if store.find_part(job.stage.name, part_key(job.key, label)) is None:
            _copy(store, job, found.folder_of(there[label]), label)
    return ""


def _copy(store: Store, job: Job, checkpoint: Path, label: str) -> None:
    """A checkpoint of another run with the same weights, as this run writes it."""
    scratch = store.scratch(job.stage.name)
    shutil.copytree(checkpoint, scratch, copy_function=shutil.copyfile, dirs_exist_ok=True)
    fields = json.loads((scratch / "state.json").read_text()) | {"config_digest": job.config_digest}
    (scratch / "state.json").write_text(json.dumps(fields, sort_keys=True, indent=1) + "\n")
    facts = {"step": fields["step"]}
    store.commit_part(draft_part(job.stage, part_key(job.key, label), label, facts=facts), scratch)


def _minor(torch: str) -> list[str]:
    return torch.partition("+")[0].split(".")[:2]


def _state_of(checkpoint: Checkpoint) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((checkpoint.folder / "state.json").read_text())
    return fields
