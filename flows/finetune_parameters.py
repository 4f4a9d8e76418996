"""The parameters of fine-tuning and of ablations, whose descriptions are the form in Prefect's UI."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline_lib.errors import UserError
from pipeline_lib.finetune_config import FinetuneConfig, Layout, MiningConfig, TrainingSetConfig
from pipeline_lib.hardware import check_processes


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
    artifacts: str = Field(
        "", title="Artifacts", description="Where artifacts lie: a bucket's URL or a folder. Empty: below the artifact root."
    )
    layout: Layout = Field("auto", title="Layout", description="Of all sets; `auto`: by the names of their files.")
    split: str = Field("train", title="Split", description="Which judgements of retrieval sets are read.")
    max_negatives: int = Field(8, title="Given negatives", description="That a set brings for one pair, at most.", ge=0)
    require_negatives: bool = Field(
        False, title="Require negatives", description="Drop pairs for which a set brings no hard negative."
    )
    mining: MiningConfig = Field(MiningConfig(), title="Mining", description="Hard negatives from the sets' own passages.")
    training: FinetuneConfig = Field(FinetuneConfig(), title="Training", description="Epochs, batches and rates.")
    suites: tuple[str, ...] = Field(
        (), title="Suites", description="Evaluation suites or groups, run on the checkpoint before and after."
    )
    suite_data: str = Field("", title="Evaluation data", description="The folder of the suites' downloads.")
    suite_split: Literal["validation", "test"] = Field("test", title="Evaluation split", description="Of the suites.")
    quick: bool = Field(False, title="Quick", description="Suites cut to samples.")

    def training_sets(self) -> list[TrainingSetConfig]:
        """One configuration a set; a set without a name is called `pairs`."""
        return [
            TrainingSetConfig(
                path=path,
                view=name or "pairs",
                layout=self.layout,
                split=self.split,
                max_negatives=self.max_negatives,
                require_negatives=self.require_negatives,
            )
            for name, _, path in (entry.rpartition("=") for entry in self.data)
        ]


def from_terminal(options: Mapping[str, Any]) -> FinetuneParams:
    """The parameters that the options of `cpt finetune` stand for; paths become absolute.

    Raises:
        UserError: an option is out of its range.
    """
    sets = [entry.rpartition("=") for entry in options["data"]]
    first, _, last = options["mine_ranks"].partition("-")
    fields = {
        "checkpoint": options["checkpoint"],
        "data": [f"{name}{equals}{Path(path).expanduser().absolute()}" for name, equals, path in sets],
        "require_negatives": options["require_negatives"],
        "artifacts": options["artifacts"],
        "mining": {"per_pair": options["mine"], "first_rank": first, "last_rank": last, "margin": options["margin"]},
        "training": {name: options[name] for name in ("epochs", "batch_size", "rate_share", "seed", "processes")},
        "suites": options["suite"] or (),
        "suite_data": str(Path(options["suite_data"]).expanduser().absolute()) if options["suite_data"] else "",
        "quick": options["quick"],
    }
    check_processes("processes", options["processes"])
    try:
        return FinetuneParams.model_validate(fields)
    except ValidationError as error:
        found = error.errors()[0]
        place = " ".join(map(str, found["loc"])).replace("_", "-")
        raise UserError(f"cpt finetune: {place}: {found['msg']}, got {found['input']!r}") from error


class FinetunedRef(BaseModel):
    """A finished fine-tuning run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: str = Field(description="The checkpoint that was tuned.")
    checkpoint: str = Field(description="The last checkpoint of the run, as TRAINKEY/step-000400.")
    training_sets: tuple[str, ...] = Field(description="STAGE/KEY of the pairs that were trained on, set by set.")
    shards: str = Field(description="Key of the `shards` artifact.")
    figures: dict[str, tuple[float, float]] = Field(description="SUITE TASK METRIC to its value before and after.")
