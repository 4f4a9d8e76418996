"""What a contrastive checkpoint is tuned on: training sets with explicit hard negatives, given or mined."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline_lib.stage_config import StageConfig, operational

Layout = Literal["auto", "records", "triples", "beir", "msmarco"]


class TrainingSetConfig(StageConfig):
    """One training set in the layout of its publisher."""

    path: str = operational("", description="A file or a folder. Its content, not its place, names the work.")
    layout: Layout = Field(
        "auto",
        description="`records`: JSON Lines, each record known by its fields (SNLI, MNLI, ANLI, anchor/positive/negative,"
        " Tevatron, FlagEmbedding); `triples`: tables, as lines of query, positive and negative parted by tabs; `beir`: a"
        " folder with corpus.jsonl; `msmarco`: a folder with collection.tsv; `auto`: by the names of the files.",
    )
    columns: str = Field(
        "",
        description="Columns of a table (.tsv, .txt, .csv) that hold query, positive and hard negatives, in this order, parted"
        " by commas: numbers from 1, or names in its first row. Empty: the layout is known, or the file is refused.",
    )
    view: str = Field("pairs", description="Names the set's rows in shards and in `mixture`.", pattern=r"^[a-z0-9][a-z0-9_]*$")
    split: str = Field("train", description="Which judgements of a retrieval set are read: qrels/SPLIT.tsv, qrels.SPLIT.tsv.")
    licence: str = Field("", description="Licence of the texts; it stands beside each row.")
    language: str = Field("en", description="Language of the texts.")
    min_relevance: int = Field(1, description="Least grade of a judgement that makes a positive.", ge=1)
    max_negatives: int = Field(8, description="Hard negatives of one pair at most, the first ones of the set.", ge=0)
    require_negatives: bool = Field(False, description="Drop pairs for which the set holds no hard negative.")
    max_dropped_share: float = Field(
        0.5,
        description="A set of which more items give no pair (share of items) is refused: what cannot be read, names no known"
        " text, has no label, is a pair of equals or comes again. Neutral pairs, negatives and grades below `min_relevance`"
        " do not count; of a set of fewer than 40 items, 40 are reckoned with.",
        ge=0,
        le=1,
    )
    max_text_bytes: int = Field(100_000, description="Records with a longer text go to quarantine (bytes).", gt=0)


class MiningConfig(StageConfig):
    """Hard negatives from an index over the training set's own passages, embedded by the checkpoint that is tuned."""

    per_pair: int = Field(0, description="Mined negatives of one pair at most; 0: nothing is mined.", ge=0)
    first_rank: int = Field(
        5,
        description="Rank of the nearest passage that is taken, known positives not counted: what ranks above is often a"
        " positive that nobody judged.",
        ge=1,
    )
    last_rank: int = Field(100, description="Rank of the farthest passage that is taken.", ge=1)
    margin: float = Field(
        0.05,
        description="A passage that scores above the positive less this much (cosine) is taken for a false negative.",
        ge=0,
        le=2,
    )
    spread: Literal["top", "even"] = Field(
        "even", description="Which of the passages that are left: the nearest ones, or evenly over their ranks."
    )
    factory: str = Field("Flat", description="FAISS index factory string; inner product of vectors of length 1.")
    batch_tokens: int = operational(16_384, description="Padded tokens of one forward pass.", ge=64)
    rows_per_slice: int = operational(8_192, description="Texts embedded and queries searched at a time (rows).", ge=1)

    @model_validator(mode="after")
    def _ranks_in_order(self) -> Self:
        if self.first_rank > self.last_rank:
            raise ValueError(f"first_rank {self.first_rank} is beyond last_rank {self.last_rank}")
        return self


class FinetuneConfig(StageConfig):
    """How a checkpoint is tuned. What is not named here is as in the run that it comes from."""

    epochs: float = Field(3.0, description="How often each pair is seen; `steps` follow from it.", gt=0)
    batch_size: int = Field(
        256, description="Pairs of one global batch; fewer where the sets have fewer. All their hard negatives join.", ge=2
    )
    rate_share: float = Field(1.0, description="Peak learning rates, as a share of those of the run it comes from.", gt=0)
    temperature: float = Field(0.0, description="Starting temperature; 0: the checkpoint's own.", ge=0)
    token_dropout: float = Field(0.0, description="See the field of the same name in training.", ge=0, le=0.5)
    warmup_share: float = Field(0.1, description="Linear warm-up, as a share of the steps.", ge=0, le=1)
    checkpoints: int = Field(1, description="Checkpoints, evenly spaced, the last step included.", ge=1)
    seed: int = Field(1, description="Of sample order and dropout.", ge=0)
    processes: int = operational(1, description="Trainer processes (torchrun), one a GPU or CPU socket.", ge=1)
