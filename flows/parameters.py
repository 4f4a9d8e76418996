"""The parameters of every flow: one model each, whose descriptions are the form in Prefect's UI and the terminal's help."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flows.options import Option, command_words, join_words, options_of
from pipeline_lib.config.base import operational
from pipeline_lib.config.presets import RANDOM
from pipeline_lib.config.presets import preset as preset_config
from pipeline_lib.config.run import RunConfig
from pipeline_lib.config.training import TrainConfig, check_divides
from pipeline_lib.errors import UserError, in_one_line
from pipeline_lib.model.checkpoint import start_weights
from pipeline_lib.runtime.machine import check_processes

PresetName = Literal["demo", "smoke", "cpt_text_s", "cpt_text_m", "cpt_text_l", "cpt_text_xl", "cpt_code_s", "cpt_code_m"]

PLACES = ("source", "dump", "contamination", "suite_data", "data", "init")  # fields that hold a path (init: or a hub id)
OPTION_NAMES = {"select_suites": "select_suite", "suite_data": "data", "suites": "suite", "models": "model"}


class RunParams(BaseModel):
    """What to run, and on what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: PresetName = Field(
        title="Preset",
        description="The named configuration. It has no default: parameters that lose it are refused, and not another run.",
    )
    source: str = Field(
        "",
        title="Source folder",
        description="A folder of code and prose on the machine that runs the flow. Empty: that machine's own Python.",
    )
    dump: str = Field(
        "",
        title="Dump spec",
        description="A YAML list of sources (reader, url, licence) on the machine that runs the flow, in place of a folder.",
    )
    name: str = Field(
        "",
        title="Name",
        description="Names the report's folder. Empty: the preset's name, or the source folder's or dump spec's.",
        pattern=r"^([a-z0-9][a-z0-9_.-]*)?$",
    )
    artifacts: str = operational(
        "",
        title="Artifacts",
        description="Where artifacts lie, for every machine that works on them: the URL of a bucket's folder (s3://bucket/prefix),"
        " or a folder. Empty: store/ below the artifact root of the machine that runs the flow.",
    )
    contamination: str = Field(
        "",
        title="Evaluation texts",
        description="A folder of evaluation texts (.jsonl, .parquet: suite, id, text) on the machine that runs the flow; pairs"
        " that hold one are dropped. Empty: nothing is looked for.",
    )
    near_duplicates: float = Field(
        -1.0,
        title="Near-duplicates",
        description="Documents, x and y of at least this Jaccard index go, e.g. 0.8; 0: they stay; -1: as the preset says.",
        ge=-1,
        le=1,
    )
    steps: int = Field(
        0, title="Training steps", description="Optimizer steps, warm-up in proportion; 0: as many as the preset says.", ge=0
    )
    batch_size: int = Field(
        0, title="Batch size", description="Pairs of one global batch; 0: as many as the preset says.", ge=0
    )
    pairs: int = Field(
        0,
        title="Pairs seen",
        description="Pairs of all steps together: steps follow from the batch size, warm-up in proportion. 0: not used.",
        ge=0,
    )
    delimiters: Literal["", "distinct", "shared"] = Field(
        "", title="Delimiters", description="Of x and y, for comparison; empty: as the preset says."
    )
    pooling: Literal["", "last", "mean"] = Field(
        "", title="Pooling", description="At the closing delimiter, or the mean, for comparison; empty: as the preset says."
    )
    temperature: Literal["", "trained", "fixed"] = Field(
        "", title="Temperature", description="Whether it is trained, for comparison; empty: as the preset says."
    )
    directions: Literal["", "both", "x_to_y", "y_to_x"] = Field(
        "", title="Directions", description="Of the loss, for comparison; empty: as the preset says."
    )
    pretrain_steps: int = Field(
        -1,
        title="Pre-training steps",
        description="Steps of causal language modelling before the contrastive stage; -1: as many as the preset says.",
        ge=-1,
    )
    init: str = Field(
        "",
        title="Start from",
        description="Folder of a causal language model to start from, or its id on the Hugging Face hub; its tokenizer is taken"
        " too, and a language model's learning rates. random: random weights, where the preset names such a start. Empty: the"
        " preset's own start.",
    )
    download: bool = operational(
        False, title="Download", description="Fetch the start from the hub if it is not in its cache; off: no network."
    )
    seed: int = Field(-1, title="Seed", description="Of weights and sample order; -1: the preset's.", ge=-1)
    select_suites: tuple[str, ...] = Field(
        (),
        title="Selection's suites",
        description="Suites or groups whose validation splits count in the choice of a checkpoint; needs their folder.",
    )
    suite_data: str = Field("", title="Suites' data", description="The folder of their downloads.")
    workers: int = operational(0, title="Dask workers", description="Processes for extraction; 0: one a core.", ge=0)
    scheduler: str = operational(
        "",
        title="Dask scheduler",
        description="tcp://HOST:PORT, tls://HOST:PORT or a scheduler file of a cluster. Empty: processes of this machine.",
    )
    processes: int = operational(
        1, title="Trainer processes", description="torchrun processes: one a GPU, or one a socket.", ge=1
    )

    def resolve(self) -> RunConfig:
        """The whole configuration: the preset's, with what was asked for in place.

        Raises:
            UserError: values that exclude each other or that a stage refuses, more processes than this machine can run, or a
                batch that does not divide among them.
        """
        if self.source and self.dump:
            raise UserError(f"source {self.source} and dump {self.dump}: give one; a dump spec can list a folder")
        check_processes("workers", 0 if self.scheduler else self.workers)
        check_processes("processes", self.processes)
        config = preset_config(self.preset, self.init, None if self.init == RANDOM else start_weights(self.init))
        near = {"threshold": self.near_duplicates} if self.near_duplicates >= 0 else {}
        pretrain = config.pretrain.model_copy(update={"steps": 0}) if self.pretrain_steps == 0 else config.pretrain
        update = {
            "name": self.name or self._default_name(config),
            "source": config.source.model_copy(update={"folder": self.source, "dump": self.dump}),
            "extract": config.extract.model_copy(update={"workers": self.workers, "scheduler": self.scheduler}),
            "contamination": config.contamination.model_copy(
                update={"folder": self.contamination} if self.contamination else {}
            ),
            "curate": config.curate.model_copy(update={"near": config.curate.near.model_copy(update=near)}),
            "tokenizer": config.tokenizer.model_copy(update={"delimiters": self.delimiters} if self.delimiters else {}),
            "train": self._train(config.train),
            "pretrain": pretrain.lasting(self.pretrain_steps) if self.pretrain_steps > 0 else pretrain,
            "select": config.select.model_copy(update={"suites": self.select_suites, "suite_data": self.suite_data}),
            "model": config.model.model_copy(update={"pooling": self.pooling} if self.pooling else {}),
        }
        try:
            return RunConfig.model_validate(config.model_copy(update=update).model_dump())
        except ValidationError as error:
            raise UserError(in_one_line(error)) from error

    def command(self, start: str = "cpt run") -> str:
        """What does this again at a terminal: every parameter that an output depends on (see `options.command_words`)."""
        return join_words(*start.split(), *command_words(run_options(), self, PLACES))

    def _train(self, train: TrainConfig) -> TrainConfig:
        if self.steps and self.pairs:
            raise UserError(f"steps {self.steps} and pairs {self.pairs}: give one, the other follows from the batch size")
        if self.batch_size == 1:
            raise UserError("batch_size 1: a pair's negatives are the other pairs of its batch; give 2 or more")
        steps = round(self.pairs / (self.batch_size or train.batch_size)) if self.pairs else self.steps
        train = train.lasting(steps) if self.pairs or self.steps else train
        update: dict[str, Any] = {"processes": self.processes}
        update |= {name: value for name in ("batch_size", "directions") if (value := getattr(self, name))}
        update |= {"seed": self.seed} if self.seed >= 0 else {}
        update |= {"train_temperature": self.temperature == "trained"} if self.temperature else {}
        train = train.model_copy(update=update)
        check_divides(train.batch_size, train.processes * train.nodes)
        return train

    def _default_name(self, config: RunConfig) -> str:
        if not (self.source or self.dump):
            return config.name
        last = (self.source or PurePath(self.dump).stem).rstrip("/").rsplit("/", 1)[-1].lower()
        return "".join(c if c.isalnum() or c in "_.-" else "-" for c in last).lstrip("_.-") or config.name


def run_options() -> list[Option]:
    """The parameters of a run as the options of a command."""
    return options_of(RunParams, OPTION_NAMES)


class DatasetRef(BaseModel):
    """A finished dataset by the keys of its artifacts. Left empty, it is built, or found built, first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    extracted: str = Field("", title="Extracted", description="Key of an `extract` artifact.")
    validated: str = Field("", title="Validated", description="Key of a `validate` artifact.")
    curated: str = Field("", title="Curated pairs", description="Key of a `curate` artifact.")
    tokenizer: str = Field("", title="Tokenizer", description="Key of a `tokenizer` artifact.")
    shards: str = Field("", title="Shards", description="Key of a `shards` artifact.")
    checked: str = Field("", title="Shards' verdict", description="Key of a `check_shards` artifact.")


class TrainParams(RunParams):
    """What to train, and on which dataset."""

    dataset: DatasetRef = DatasetRef()


class CheckpointParams(TrainParams):
    """Which checkpoints of which training run.

    A run that is named by its key brings its own data, tokenizer and parameters; those beside it are not looked at.
    """

    preset: PresetName | None = Field(  # type: ignore[assignment]
        None,
        title="Preset",
        description="The named configuration of the run. Not needed where the run is named by its key.",
    )
    trained: str = Field(
        "",
        title="Training run",
        description="Key of a `train` artifact. Empty: the run of these parameters, found or trained.",
    )
    checkpoint: str = Field(
        "",
        title="Checkpoint",
        description="One checkpoint, as `step-000400` of the run that these parameters name or as `TRAINKEY/step-000400`. "
        "Empty: every checkpoint where they are evaluated, the one that selection chooses where one is published.",
    )

    @model_validator(mode="after")
    def _names_a_run(self) -> Self:
        if self.preset is None and not self.key:
            raise ValueError("give a preset, or a checkpoint as TRAINKEY/step-000400")
        return self

    @property
    def key(self) -> str:
        """Key of the training run; empty where the parameters name it."""
        return self.trained or self.checkpoint.rpartition("/")[0]

    @property
    def subject(self) -> str:
        """What the flow's run is called after."""
        return self.checkpoint or self.trained or str(self.preset)


class EvaluateParams(CheckpointParams):
    """Which checkpoints to evaluate, and on which split."""

    split: Literal["validation", "test"] = Field(
        "validation",
        title="Split",
        description="Held-out part of the corpus to measure on. Choose checkpoints on `validation` only.",
    )
    suites: tuple[str, ...] = Field(
        (),
        title="Suites",
        description="Evaluation suites or groups of them, as `sts-b` or `similarity`, in place of the held-out split.",
    )
    data: str = Field(
        "", title="Evaluation data", description="The folder of the suites' downloads, on the machine that runs the flow."
    )
    models: tuple[str, ...] = Field(
        (),
        title="Models",
        description="What else to measure on suites: `bm25`, `tfidf`. Given without a checkpoint: these alone.",
    )
    quick: bool = Field(
        False, title="Quick", description="Suites cut to samples, for a first look; their figures are named `-quick`."
    )
    skip_missing: bool = Field(
        False, title="Skip missing", description="Pass over suites whose files are not there, instead of stopping."
    )


class PublishParams(CheckpointParams):
    """Which checkpoint becomes the model that `cpt search` uses."""


def split_checkpoint(name: str) -> tuple[str, str]:
    """'KEY/step-000400' to (KEY, label), 'step-000400' to ('', label).

    Raises:
        UserError: it is neither.
    """
    key, _, label = name.rpartition("/")
    if not label.startswith("step-"):
        raise UserError(f"checkpoint {name!r} is not of the form step-000400 or TRAINKEY/step-000400")
    return key, label


class TrainedRef(BaseModel):
    """A finished training run, and the dataset behind it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: DatasetRef
    start: str = Field("", description="STAGE/KEY of the artifact that training began from; empty: random weights.")
    trained: str = Field(description="Key of the `train` artifact.")


BASELINES = "baselines"  # among the checkpoints of an evaluation


class EvaluatedRef(BaseModel):
    """Finished evaluations of one training run on one split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: str
    checkpoints: dict[str, tuple[str, ...]] = Field(
        description="Checkpoint label, or `baselines`, to the keys of its `evaluate_suite` artifacts on held-out pairs."
    )
    suites: tuple[str, ...] = Field((), description="Keys of `evaluate_suite` artifacts, in the order of models and suites.")
    checked: str = Field("", title="Figures' verdict", description="Key of a `check_evaluations` artifact.")
    skipped: dict[str, str] = Field(default_factory=dict, description="Suite to the reason why it was passed over.")


class PublishedRef(BaseModel):
    """The model and index that `cpt search` uses, and what they come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: DatasetRef
    trained: str
    checkpoint: str
    selection: str = Field("", description="Key of the `select` artifact; empty where the checkpoint was named by hand.")
    validation: EvaluatedRef | None = Field(None, description="None where the checkpoint was named by hand.")
    test: EvaluatedRef
    export: str
    card: str
    folder: str = Field(description="Where the model lies, its card beside it.")
    index: str
    negatives: str
