"""The parameters of fine-tuning, whose descriptions are the form in Prefect's UI and the terminal's help."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.options import Option, command_words, fields_of, join_words, options_of, public_place
from pipeline_lib.config.base import operational
from pipeline_lib.config.training import FinetuneConfig, Layout, MiningConfig, TrainingSetConfig
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.machine import check_processes

OPTION_NAMES = {
    "mining.per_pair": "mine",
    "mining.margin": "margin",
    "mining.spread": "mine_spread",
    "mining.factory": "mine_factory",
    "mining.batch_tokens": "mine_batch_tokens",
    "mining.rows_per_slice": "mine_rows_per_slice",
    "suites": "suite",
}
RANKS = ("mining.first_rank", "mining.last_rank")  # of one option, --mine-ranks FIRST-LAST


class FinetuneParams(BaseModel):
    """Which checkpoint to tune, and on what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str = Field(title="Checkpoint", description="A checkpoint of a finished run, as TRAINKEY/step-000400.")
    data: tuple[str, ...] = Field(
        title="Training sets",
        description="Files or folders on the machine that runs the flow, as PATH or NAME=PATH, in the layout of SNLI, MultiNLI,"
        " ANLI, MS MARCO, BEIR, Tevatron, FlagEmbedding or plain triplets.",
        min_length=1,
    )
    artifacts: str = operational(
        "", title="Artifacts", description="Where artifacts lie: a bucket's URL or a folder. Empty: below the artifact root."
    )
    layout: Layout = Field("auto", title="Layout", description="Of all sets; `auto`: by the names of their files.")
    columns: str = Field(
        "",
        title="Columns",
        description="A table whose layout is not known: its columns of query, positive and hard negatives, as numbers from"
        " 1 or names in the first row, parted by commas.",
    )
    max_dropped_share: float = Field(
        0.5, title="Dropped at most", description="A set that loses more of its items (share) is refused.", ge=0, le=1
    )
    split: str = Field("train", title="Split", description="Which judgements of retrieval sets are read.")
    max_negatives: int = Field(8, title="Given negatives", description="That a set brings for one pair, at most.", ge=0)
    require_negatives: bool = Field(
        False, title="Require negatives", description="Drop pairs for which a set brings no hard negative."
    )
    mining: MiningConfig = Field(MiningConfig(), title="Mining", description="Hard negatives from the sets' own passages.")
    training: FinetuneConfig = Field(FinetuneConfig(), title="Training", description="Epochs, batches and rates.")
    suites: tuple[str, ...] = operational(
        (), title="Suites", description="Evaluation suites or groups, run on the checkpoint before and after."
    )
    suite_data: str = operational("", title="Evaluation data", description="The folder of the suites' downloads.")
    suite_split: Literal["validation", "test"] = operational("test", title="Evaluation split", description="Of the suites.")
    quick: bool = operational(False, title="Quick", description="Suites cut to samples.")

    def training_sets(self) -> list[TrainingSetConfig]:
        """One configuration a set; a set without a name is called `pairs`."""
        return [
            TrainingSetConfig(
                path=path,
                view=name or "pairs",
                layout=self.layout,
                columns=self.columns,
                max_dropped_share=self.max_dropped_share,
                split=self.split,
                max_negatives=self.max_negatives,
                require_negatives=self.require_negatives,
            )
            for name, _, path in (entry.rpartition("=") for entry in self.data)
        ]

    def command(self) -> str:
        """What does this again at a terminal; of a training set's absolute path the last part."""
        sets = [entry.rpartition("=") for entry in self.data]
        public = self.model_copy(update={"data": tuple(f"{name}{eq}{public_place(path)}" for name, eq, path in sets)})
        ranks = f"{self.mining.first_rank}-{self.mining.last_rank}"
        words = [] if ranks == default_ranks() else ["--mine-ranks", ranks]
        return join_words("cpt", "finetune", *command_words(finetune_options(), public), *words)


def finetune_options() -> list[Option]:
    """The parameters of fine-tuning as options of a command; --mine-ranks is its own."""
    return options_of(FinetuneParams, OPTION_NAMES, RANKS)


def default_ranks() -> str:
    """What --mine-ranks is where it is not given."""
    config = MiningConfig()
    return f"{config.first_rank}-{config.last_rank}"


def from_terminal(options: Mapping[str, Any]) -> FinetuneParams:
    """The parameters that the options of `cpt finetune` stand for; paths become absolute.

    Raises:
        UserError: an option is out of its range.
    """
    fields = fields_of(finetune_options(), options)
    first, _, last = options.get("mine_ranks", default_ranks()).partition("-")
    fields["mining"] = {**fields.get("mining", {}), "first_rank": first, "last_rank": last}
    sets = [entry.rpartition("=") for entry in fields["data"]]
    fields["data"] = [f"{name}{equals}{Path(path).expanduser().absolute()}" for name, equals, path in sets]
    if fields.get("suite_data"):
        fields["suite_data"] = str(Path(fields["suite_data"]).expanduser().absolute())
    try:
        params = FinetuneParams.model_validate(fields)
    except ValidationError as error:
        found = error.errors()[0]
        place = " ".join(map(str, found["loc"])).replace("_", "-")
        raise UserError(f"cpt finetune: {place}: {found['msg']}, got {found['input']!r}") from error
    check_processes("processes", params.training.processes)
    return params


class FinetunedRef(BaseModel):
    """A finished fine-tuning run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: str = Field(description="The checkpoint that was tuned.")
    checkpoint: str = Field(description="The last checkpoint of the run, as TRAINKEY/step-000400.")
    training_sets: tuple[str, ...] = Field(description="STAGE/KEY of the pairs that were trained on, set by set.")
    shards: str = Field(description="Key of the `shards` artifact.")
    figures: dict[str, tuple[float, float]] = Field(description="SUITE TASK METRIC to its value before and after.")
