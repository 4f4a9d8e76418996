"""Parameters of the flows: one model each, from which forms, terminal options and printed commands are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from flows.options import Params, PromoteWhen, place, promote_field
from flows.runs import PUBLISHED, find_checkpoint, is_checkpoint, open_store, split_checkpoint
from flows.settings import (
    DATASET_SHORTCUTS,
    PLACE,
    PLACE_OR_NAME,
    RUN_SHORTCUTS,
    Values,
    configure,
    flat,
    without_section,
    words_of,
)
from pipeline_lib.config.ablations import AblateConfig, Lever
from pipeline_lib.config.base import operational
from pipeline_lib.config.built_in import PRESETS
from pipeline_lib.config.finetuning import TrainingSetConfig, TuningConfig, check_tuning_guide
from pipeline_lib.config.overrides import apply, overrides_of, parse_set
from pipeline_lib.config.presets import RANDOM, preset, preset_names, start_of
from pipeline_lib.config.run import NAME_PATTERN, RunConfig
from pipeline_lib.config.training import check_divides
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.machine import check_processes
from pipeline_lib.train.start import recipe_of

SPEC_SUFFIXES = (".yaml", ".yml")


def _presets(schema: dict[str, Any]) -> None:
    schema["enum"] = list(preset_names())


class SourceParams(Params):
    """A preset, a source, and what is set beside them."""

    FIELDS: ClassVar = {"source": "source.folder"}
    GONE: ClassVar = {
        "data": "--suite-data, in a form select.suite_data=FOLDER in `set`",
        "temperature": "train.train_temperature=false in `set`",
        "pairs": "train.steps=PAIRS/BATCH in `set`",
    }

    preset: str | None = Field(
        None,
        title="Preset",
        description="Named configuration of the run; not needed where the run is named by its key.",
        json_schema_extra=_presets,
    )
    source: str | None = place(
        "Source",
        "Folder of code and prose, or dump spec (.yaml: reader, url, licence), on the machine that runs the flow; unset: that"
        " machine's own Python.",
    )

    @property
    def start(self) -> str:
        """What training starts from: a folder, a hub id or a finished run; empty: none, or what a lengthened run has."""
        given = str(self.settings().get("model.init") or "")
        init = given if self.lengthened else start_of(str(self.preset), self.layers())
        return "" if init == RANDOM else init

    @property
    def lengthened(self) -> str:
        """The finished run that is lengthened (`train.continue_from`); empty: none."""
        return preset(str(self.preset), layers=self.layers()).train.continue_from or ""

    def recipe(self) -> Mapping[str, Any] | None:
        """Settings that a finished run's checkpoint brings along, where training starts from one that is here."""
        try:
            start = find_checkpoint(open_store(self.machine.artifacts), self.lengthened or self.start)
        except UserError:
            return None  # whoever needs the checkpoint itself is told why it is not there
        return recipe_of(start) if start else None

    def own_settings(self) -> Values:
        """The settings that fields give; a source that is a file is a dump spec."""
        given = super().own_settings()
        if str(given.get("source.folder", "")).endswith(SPEC_SUFFIXES):
            given["source.dump"] = given.pop("source.folder")
        return given

    def folded(self) -> Self:
        """The same without a file of this machine: its settings, and those of a user's own preset, stand in `set`."""
        folded = super().folded()
        if self.preset is None or self.preset in PRESETS:
            return folded
        own = preset(self.preset)
        layers = {name: flat(RunConfig, overrides_of(own, preset(name))) for name in PRESETS}
        nearest = min(layers, key=lambda name: len(layers[name]))
        kept = {name: value for name, value in layers[nearest].items() if name not in {"preset", *self.own_settings()}}
        words = flat(self.ROOT, parse_set(folded.set, self.ROOT))
        return folded.model_copy(update={"preset": nearest, "set": words_of(self.ROOT, kept | words)})

    def resolve(self) -> RunConfig:
        """The whole configuration: the preset's, with what was asked for in place.

        Raises:
            UserError: an unknown preset or setting, values that exclude each other or that a stage refuses, more processes than
                this machine can run, or a batch that does not divide among them.
        """
        if self.preset is None:
            raise UserError(f"give a preset: {', '.join(preset_names())}")
        return configure(self.preset, self.layers(), self.recipe())


class NamedParams(SourceParams):
    """What to begin from, on what, and under which name."""

    SHORTCUTS: ClassVar = RUN_SHORTCUTS
    FIELDS: ClassVar = {"source": "source.folder", "init": "model.init", "name": "name"}
    FIRST: ClassVar[tuple[str, ...]] = ("preset", "source", "init", "name")

    preset: str = Field(
        title="Preset",
        description="Named configuration to start from; `cpt config presets` lists them.",
        json_schema_extra=_presets,
    )
    init: str | None = place(
        "Start from",
        "Folder of a causal language model, a GGUF file, a name that `cpt get-start` lists, or an id on the Hugging Face hub;"
        " its tokenizer is taken too, and a language"
        " model's learning rates. Or a finished run, as KEY, KEY/step-000240, the name of its report, or published; its"
        " tokenizer, temperature and rates are taken too. random: random weights. Unset: the preset's own start.",
        PLACE_OR_NAME,
    )
    name: str | None = Field(
        None,
        title="Name",
        description="Name that searches and evaluations know the model by, and of the report's folder; unset: that of the"
        " source, or of the preset.",
        pattern=NAME_PATTERN,
    )


class RunParams(NamedParams):
    """What to run, and on what."""

    COMMAND: ClassVar = "run"
    FIELDS: ClassVar = {**NamedParams.FIELDS, "promote": "promote.when"}
    FIRST: ClassVar[tuple[str, ...]] = (*NamedParams.FIRST, "promote")

    promote: PromoteWhen | None = promote_field()
    dry_run: bool = Field(False, title="Dry run", description="Only report what is new and what the run would do.")


class DatasetParams(NamedParams):
    """What to build a dataset from."""

    COMMAND: ClassVar = "build-dataset"
    SHORTCUTS: ClassVar = DATASET_SHORTCUTS


class PretrainParams(NamedParams):
    """What to train a causal language model on; `pretrain.steps` must be above 0 in `set` or in the preset."""

    COMMAND: ClassVar = "pretrain"
    SHORTCUTS: ClassVar = DATASET_SHORTCUTS | {
        "pretrain_steps": "pretrain.steps",
        "seed": "pretrain.seed",
        "processes": "pretrain.processes",
        "gpus": "pretrain.gpus",
    }


class TrainParams(NamedParams):
    """What to train, and on what."""

    COMMAND: ClassVar = "train"


class CheckpointParams(SourceParams):
    """A training run, by its key or by its parameters, and one of its checkpoints."""

    SHORTCUTS: ClassVar = {"init": "model.init", "name": "name"} | RUN_SHORTCUTS
    GONE: ClassVar = {
        **SourceParams.GONE,
        "trained": "its key as a checkpoint",
        "dataset": "the parameters that it was built with",
    }


class PublishParams(CheckpointParams):
    """Which checkpoint becomes the model that `cpt search` uses."""

    COMMAND: ClassVar = "publish"
    FIELDS: ClassVar = {**CheckpointParams.FIELDS, "promote": "promote.when"}
    FIRST: ClassVar = ("checkpoint", "preset", "source", "promote")

    checkpoint: str | None = Field(
        None,
        title="Checkpoint",
        description="TRAINKEY/step-000240; TRAINKEY: the one that selection chooses of that run; step-000240: of the run of"
        " preset, source and settings. Unset: the one that selection chooses of that run.",
    )
    promote: PromoteWhen | None = promote_field()

    @model_validator(mode="after")
    def _names_a_run(self) -> Self:
        if self.preset is None and not (self.checkpoint and split_checkpoint(self.checkpoint)[0]):
            raise ValueError("give a preset, or a checkpoint as TRAINKEY/step-000240")
        return self


class EvaluateParams(CheckpointParams):
    """What is evaluated, on what, and how thoroughly."""

    COMMAND: ClassVar = "evaluate"
    SHORTCUTS: ClassVar = {
        name: setting for name, setting in CheckpointParams.SHORTCUTS.items() if name not in ("select_suite", "suite_data")
    } | {"against": "evaluate.against"}
    FLAGS: ClassVar = {"models": "model", "suites": "suite"}
    ALSO: ClassVar = {"checkpoint": "models"}
    GONE: ClassVar = {**CheckpointParams.GONE, "data": "--suite-data (suite_data)", "select_suites": "--suite (suites)"}
    FIRST: ClassVar = ("models", "suites", "suite_data", "split", "quick", "skip_missing", "preset", "source")

    models: tuple[str, ...] = place(
        "Models",
        "published (the model that search uses), TRAINKEY/step-000240, TRAINKEY (all its checkpoints), step-000240 (of the run"
        " of preset, source and settings), the folder of an export, bm25, tfidf, or hub:ORGANISATION/MODEL. Unset: all"
        " checkpoints of the preset's run; without a preset `published`.",
        PLACE_OR_NAME,
        (),
    )
    suites: tuple[str, ...] = Field(
        (),
        title="Suites",
        description="Evaluation suites or groups: sts-b, similarity, held-out ... Unset: held-out, the run's own corpus.",
    )
    suite_data: str | None = place("Suites' data", "Folder of the suites' downloads on the machine that runs the flow.")
    split: Literal["validation", "test"] = Field(
        "validation", title="Split", description="Split to measure on. Choose checkpoints on `validation` only."
    )
    quick: bool = Field(
        False, title="Quick", description="Measure on samples of the suites, for a first look; named NAME-quick."
    )
    skip_missing: bool = Field(
        False, title="Skip missing", description="Skip suites whose files are missing, instead of stopping."
    )

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """The checkpoints and runs among the models, or what stands for them; none where only others are named."""
        return tuple(model for model in self.models if is_checkpoint(model)) or (() if self.models else (self.corpus,))

    @property
    def corpus(self) -> str:
        """The run on whose held-out pairs other models are measured: the published one's, or that of the parameters."""
        return PUBLISHED if self.preset is None else ""

    @property
    def others(self) -> tuple[str, ...]:
        """The models that are no checkpoints of ours."""
        return tuple(model for model in self.models if not is_checkpoint(model))


class AblationSettings(RunConfig):
    """A run's configuration, and which levers change it."""

    ablation: AblateConfig = AblateConfig()


class AblateParams(SourceParams):
    """Which preset's data and sizes, and which levers."""

    COMMAND: ClassVar = "ablate"
    ROOT: ClassVar = AblationSettings
    SHORTCUTS: ClassVar = {"init": "model.init"} | DATASET_SHORTCUTS
    FLAGS: ClassVar = {"levers": "lever", "seeds": "seed"}
    FIELDS: ClassVar = {
        "source": "source.folder",
        "levers": "ablation.levers",
        "pairs": "ablation.pairs",
        "seeds": "ablation.seeds",
    }
    GONE: ClassVar = {"ablation": "levers, pairs, seeds, or ablation.NAME=VALUE in `set`"}
    FIRST: ClassVar = ("preset", "source", "levers", "pairs", "seeds")

    preset: str = Field(
        title="Preset", description="Named configuration whose data and sizes are used.", json_schema_extra=_presets
    )
    levers: tuple[Lever, ...] | None = Field(None, title="Levers", description="Comparisons to make; unset: all.")
    pairs: int | None = Field(None, title="Pairs", description="Training pairs of each run; unset: 20,000.", ge=64)
    seeds: tuple[int, ...] | None = Field(
        None, title="Seeds", description="Seeds with which each arm is run; unset: 1, 2 and 3."
    )

    def own_settings(self) -> Values:
        """The settings that fields give; of a preset that names a start, its sizes alone."""
        return {"model.init": RANDOM, **super().own_settings()}

    def resolve(self) -> RunConfig:
        """The configuration that the levers change."""
        return configure(self.preset, [without_section(self.ROOT, layer, "ablation") for layer in self.layers()], self.recipe())

    def ablation(self) -> AblateConfig:
        """Which levers are pulled, and how far.

        Raises:
            UserError: a setting is out of its range.
        """
        asked = {name: value for name, value in self.settings().items() if name.startswith("ablation.")}
        return apply(AblationSettings(), asked).ablation


class FinetuneParams(Params):
    """Which checkpoint to tune, and on what."""

    COMMAND: ClassVar = "finetune"
    ROOT: ClassVar = TuningConfig
    SHORTCUTS: ClassVar = {
        "layout": "sets.layout",
        "columns": "sets.columns",
        "max_dropped_share": "sets.max_dropped_share",
        "max_negatives": "sets.max_negatives",
        "require_negatives": "sets.require_negatives",
        "mine": "mining.per_pair",
        "mine_from": "mining.first_rank",
        "mine_to": "mining.last_rank",
        "mine_spread": "mining.spread",
        "margin": "mining.margin",
        "epochs": "training.epochs",
        "batch_size": "training.batch_size",
        "rate_share": "training.rate_share",
        "temperature": "training.temperature",
        "token_dropout": "training.token_dropout",
        "warmup_share": "training.warmup_share",
        "checkpoints": "training.checkpoints",
        "seed": "training.seed",
        "processes": "training.processes",
    }
    FLAGS: ClassVar = {"suites": "suite"}
    GONE: ClassVar = {
        "data": "--training-data (training_data)",
        "split": "sets.split=NAME in `set`",
        "mine_factory": "mining.factory=FACTORY in `set`",
        "mine_ranks": "--mine-from and --mine-to, in a form mining.first_rank and mining.last_rank in `set`",
        "mining": "mining.NAME=VALUE in `set`",
        "training": "training.NAME=VALUE in `set`",
    }
    FIRST: ClassVar = ("checkpoint", "training_data", "suites", "suite_data", "suite_split", "quick")

    checkpoint: str = Field(
        title="Checkpoint", description="A checkpoint of a finished run, as TRAINKEY/step-000240, or `published`."
    )
    training_data: tuple[str, ...] = place(
        "Training sets",
        "Files or folders on the machine that runs the flow, as PATH or NAME=PATH, in the layout of SNLI, MultiNLI, ANLI,"
        " MS MARCO, BEIR, Tevatron, FlagEmbedding or plain triplets.",
        PLACE,
        ...,
    )
    suites: tuple[str, ...] = operational(
        (), title="Suites", description="Evaluation suites or groups, run on the checkpoint before and after."
    )
    suite_data: str | None = place(
        "Suites' data", "Folder of the suites' downloads on the machine that runs the flow.", operational=True
    )
    suite_split: Literal["validation", "test"] = operational("test", title="Suites' split", description="Split to measure on.")
    quick: bool = operational(False, title="Quick", description="Measure on samples of the suites, for a first look.")

    set: tuple[str, ...] = Field(
        (), title="Settings", description="Single settings, as `training.epochs=2`; they come last and win."
    )

    @field_validator("training_data")
    @classmethod
    def _some(cls, training_data: tuple[str, ...]) -> tuple[str, ...]:
        if not training_data:
            raise ValueError("give at least one training set")
        return training_data

    def resolve(self) -> TuningConfig:
        """The whole configuration.

        Raises:
            UserError: a setting is out of its range, a guide is asked for and not named, or this machine is too small.
        """
        config = apply(TuningConfig(), *self.layers())
        check_tuning_guide(config)
        processes = config.training.processes or 1
        check_processes("training.processes", processes)
        check_divides(config.training.batch_size, processes)
        return config

    def training_sets(self) -> list[TrainingSetConfig]:
        """One configuration a set; a set without a name is called `pairs`."""
        sets = self.resolve().sets
        parted = [entry.rpartition("=") for entry in self.training_data]
        return [sets.model_copy(update={"path": path, "view": name or "pairs"}) for name, _, path in parted]
