"""The whole configuration of a run, section by section: from raw dump to searchable index."""

from __future__ import annotations

from pydantic import Field

from pipeline_lib.config.base import StageConfig, operational
from pipeline_lib.config.data import (
    ContaminationConfig,
    ContractConfig,
    CurateConfig,
    ExtractConfig,
    ShardConfig,
    SourceConfig,
    TokenizerConfig,
)
from pipeline_lib.config.evaluation import EvaluateConfig, SelectConfig
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.training import PretrainConfig, TrainConfig


class ExportConfig(StageConfig):
    """The folder that the ecosystem loads."""

    onnx: bool = Field(True, description="Write model.onnx, which `cpt search` uses.")


class IndexConfig(StageConfig):
    """The searchable index over all functions and passages."""

    factory: str = Field(
        "Flat", description="FAISS index factory string; vectors are normalised, the metric is the inner product."
    )
    batch_tokens: int = operational(16_384, description="Padded tokens of one forward pass.", ge=64)
    rows_per_slice: int = operational(
        8_192, description="Texts embedded at a time: what a killed build loses at most (rows).", ge=1
    )


class RunConfig(StageConfig):
    """A whole life: from raw dump to searchable index."""

    name: str = operational("run", description="Names the report's folder.", pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    preset: str = operational("", description="The preset that it began as, by which `cpt plan` knows it.")
    tests_plumbing: bool = operational(
        False, description="Sizes that only show that everything works: reports say that the figures mean nothing."
    )
    reference: str = operational("", description="Where the figures are from, if they are not this project's own.")
    sample_queries: tuple[str, ...] = operational(
        (
            "parse an ISO 8601 date",
            "read a compressed file line by line",
            "retry a request with exponential backoff",
        ),
        description="What the run searches for when it is done, to show what search finds.",
    )
    source: SourceConfig = SourceConfig()
    extract: ExtractConfig = ExtractConfig()
    contract: ContractConfig = ContractConfig()
    contamination: ContaminationConfig = ContaminationConfig()
    curate: CurateConfig = CurateConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    shards: ShardConfig = ShardConfig()
    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig = PretrainConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    select: SelectConfig = SelectConfig()
    export: ExportConfig = ExportConfig()
    index: IndexConfig = IndexConfig()
