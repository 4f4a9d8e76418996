"""Fine-tuning: training sets, mining of hard negatives in them, and what a checkpoint is tuned with."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline_lib.config.base import StageConfig, added, operational, unset
from pipeline_lib.config.model import PromptsConfig
from pipeline_lib.config.training import (
    FIRST_ROUND,
    FalseNegativesConfig,
    GuideConfig,
    MatryoshkaConfig,
    TeacherConfig,
    reads_guide,
)
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.machine import PrecisionChoice

Layout = Literal["auto", "records", "triples", "beir", "msmarco"]


class TrainingSetConfig(StageConfig):
    """Training set: labelled pairs in the layout of their publisher."""

    path: str = operational("", description="File or folder. Keys hold its content, not its place.")
    layout: Layout = Field(
        "auto",
        description="Layout of the files. `records`: JSON Lines, each record known by its fields (SNLI, MNLI, ANLI,"
        " anchor/positive/negative, Tevatron, FlagEmbedding); `triples`: tables, as lines of query, positive and negative"
        " parted by tabs; `beir`: a folder with corpus.jsonl; `msmarco`: a folder with collection.tsv; `auto`: by the files'"
        " names.",
    )
    columns: str = Field(
        "",
        description="Columns of a table (.tsv, .txt, .csv) that hold query, positive and hard negatives, in this order, parted"
        " by commas: numbers from 1, or names in its first row. Without it, a table of no known layout is refused.",
    )
    view: str = Field(
        "pairs", description="Name of the set's rows in shards and in `mixture`.", pattern=r"^[a-z0-9][a-z0-9_]*$"
    )
    split: str = Field(
        "train", description="Split of a retrieval set whose judgements are read: qrels/SPLIT.tsv, qrels.SPLIT.tsv."
    )
    licence: str = Field("", description="Licence of the texts, which stands beside each row.")
    language: str = Field("en", description="Language of the texts.")
    min_relevance: int = Field(1, description="Lowest grade of a judgement that makes a positive.", ge=1)
    max_negatives: int = Field(8, description="Most hard negatives of one pair, the first ones of the set.", ge=0)
    require_negatives: bool = Field(False, description="Drop pairs without a hard negative in the set.")
    max_dropped_share: float = Field(
        0.5,
        description="Largest share of items that give no pair, beyond which the set is refused: items that cannot be read, name"
        " no known text, have no label, are a pair of equals or come again. Neutral pairs, negatives and grades below"
        " `min_relevance` do not count; a set of fewer than 40 items is judged as if it had 40.",
        ge=0,
        le=1,
    )
    max_text_bytes: int = Field(
        100_000, description="Longest text of a record, which goes to quarantine beyond it (bytes).", gt=0
    )


class MiningConfig(StageConfig):
    """Mining of hard negatives, in an index over the training set's own passages, embedded by the checkpoint that is tuned."""

    per_pair: int = Field(0, description="Most mined negatives of one pair; at 0 nothing is mined.", ge=0)
    first_rank: int = Field(
        5,
        description="Rank of the nearest passage that is taken, known positives not counted; nearer ones are often positives"
        " that nobody judged.",
        ge=1,
    )
    last_rank: int = Field(100, description="Rank of the farthest passage that is taken.", ge=1)
    margin: float = Field(
        0.05,
        description="Least distance below the positive's score; a passage within it is taken for a false negative (cosine).",
        ge=0,
        le=2,
    )
    spread: Literal["top", "even"] = Field(
        "even", description="Choice among the passages that are left. top: the nearest ones; even: evenly over their ranks."
    )
    factory: str = Field("Flat", description="FAISS index factory string; inner product of vectors of length 1.")
    precision: PrecisionChoice = operational(
        "auto", description="Precision of the embedder's products, as `train.precision`; what it came to names the artifact."
    )
    batch_tokens: int | None = operational(
        None,
        description="Padded tokens of one forward pass (tokens); null: 4,096 on a CPU, whose caches hold them, 16,384 on a"
        " GPU.",
        ge=64,
    )
    rows_per_slice: int = operational(8_192, description="Texts embedded, and queries searched, at a time (rows).", ge=1)

    @model_validator(mode="after")
    def _ranks_in_order(self) -> Self:
        if self.first_rank > self.last_rank:
            raise ValueError(f"first_rank {self.first_rank} is beyond last_rank {self.last_rank}")
        return self


class FinetuneConfig(StageConfig):
    """Fine-tuning of a checkpoint; all other options are those of the checkpoint's run."""

    epochs: float = Field(3.0, description="Number of times that each pair is seen, which determines the steps.", gt=0)
    batch_size: int = Field(
        256, description="Pairs of one global batch, fewer where the sets have fewer; all their hard negatives join.", ge=2
    )
    rate_share: float = Field(1.0, description="Peak learning rates, as a share of those of the run that it comes from.", gt=0)
    temperature: float | None = unset(was=0.0, description="Starting temperature; null: the checkpoint's own.", gt=0)
    token_dropout: float = Field(
        0.0, description="Mean share of a text's tokens left out at random, as `train.token_dropout`.", ge=0, le=0.5
    )
    matryoshka: MatryoshkaConfig = added(MatryoshkaConfig())  # without dims, as in the run that it comes from
    warmup_share: float = Field(0.1, description="Linear warm-up, as a share of the steps.", ge=0, le=1)
    false_negatives: FalseNegativesConfig = added(FalseNegativesConfig())
    teacher: TeacherConfig = added(TeacherConfig())
    checkpoints: int = Field(1, description="Checkpoints, evenly spaced, the last step included.", ge=1)
    seed: int = Field(1, description="Seed of sample order and dropout.", ge=0)
    processes: int | None = unset(
        was=0, operational=True, description="Trainer processes of this machine; null: as `train.processes` says.", ge=1
    )
    tracking: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = operational(
        (), description="Trackers that are shown the run while it trains, as `train.tracking`."
    )


class TuningConfig(StageConfig):
    """The settings of a fine-tuning run."""

    sets: TrainingSetConfig = Field(TrainingSetConfig(), description="How every training set is read.")
    mining: MiningConfig = Field(MiningConfig(), description="Hard negatives from the sets' own passages.")
    training: FinetuneConfig = Field(FinetuneConfig(), description="Epochs, batches and rates.")
    guide: GuideConfig = Field(GuideConfig(), description="Model whose scores the loss reads, where it asks for them.")
    prompts: PromptsConfig = added(PromptsConfig())


def check_tuning_guide(config: TuningConfig) -> None:
    """What a fine-tuning asks of a guide can be had; whether there is such a model is for whoever opens it to say.

    Raises:
        UserError: none is named, or one that fine-tuning has no use for.
    """
    rules, guide = config.training, config.guide
    if guide.keep_top is not None or guide.model == FIRST_ROUND:
        raise UserError("guide.keep_top and guide.model: first_round are for training on a dump; leave them out in fine-tuning")
    if reads_guide(rules.false_negatives, rules.teacher) and guide.model is None:
        raise UserError("training.false_negatives.by: guide and training.teacher go by a guide's scores: set guide.model")
