"""The whole configuration of a run, section by section: from raw dump to searchable index."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline_lib.config.base import StageConfig, added, operational
from pipeline_lib.config.data import (
    ContaminationConfig,
    ContractConfig,
    CurateConfig,
    ExtractConfig,
    ShardConfig,
    SourceConfig,
    TokenizerConfig,
)
from pipeline_lib.config.evaluation import EvaluateConfig, SelectConfig, SuiteConfig
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.notify import NotifyConfig
from pipeline_lib.config.training import PretrainConfig, TrainConfig
from pipeline_lib.runtime.machine import PrecisionChoice


class ExportConfig(StageConfig):
    """Export: the folder that the ecosystem loads."""

    onnx: bool = Field(True, description="Write model.onnx, which `cpt search` uses.")
    quantize: Literal["none", "int8"] = added(
        "none",
        description="Weights of a second graph beside model.onnx. int8: model.int8.onnx of 8-bit weights, for queries alone"
        " (`cpt search --int8`); the model card says what it loses.",
    )

    @model_validator(mode="after")
    def _quantized_of_a_graph(self) -> ExportConfig:
        if self.quantize != "none" and not self.onnx:
            raise ValueError(f"export.quantize {self.quantize} needs export.onnx: it is made from model.onnx")
        return self


class IndexConfig(StageConfig):
    """Index: the searchable vectors of all functions and passages."""

    factory: str = Field(
        "Flat", description="FAISS index factory string; vectors are normalised, the metric is the inner product."
    )
    text_characters: int = added(
        16_384,
        description="Beginning of each text that the index keeps, compressed, to show a passage of it; 0: none, and no"
        " signatures (characters).",
        ge=0,
        le=1_048_576,
    )
    probes: int = added(1, description="Inverted lists that a search visits in an index of the IVF kind.", ge=1)
    batch_tokens: int = operational(16_384, description="Padded tokens of one forward pass (tokens).", ge=64)
    precision: PrecisionChoice = added(
        "auto", before="float32", description="Precision of the embedder's matrix products, as `train.precision`."
    )
    rows_per_slice: int = operational(
        8_192, description="Texts embedded at a time, which is all that a killed build loses (rows).", ge=1
    )


class NightlyConfig(StageConfig):
    """Nights: what a run under a name that is published already does about files that changed since its last run."""

    policy: Literal["whole", "continue", "restart"] = operational(
        "whole",
        description="What a run does where one of its name has been before. whole: everything, as if there had been none (what"
        " is done is found done); continue: build what is new, keep every split, train from the champion's checkpoint for"
        " `train.grown_steps_share` of the steps; restart: the same, but train from the preset's own start with all steps.",
    )
    min_new_share: float = operational(
        0.02,
        description="Smallest share of training pairs that are new since the last training of this name; below it nothing is"
        " trained, and only the champion's index takes the documents in.",
        ge=0,
        le=1,
    )


class PoolsConfig(StageConfig):
    """Pools: where a flow's stages run that want another machine than the flow itself."""

    gpu: str | None = operational(
        None,
        description="Work pool of Prefect whose deployment `stages/NAME` trains, evaluates, exports and indexes; null: the"
        " process of the flow does.",
        pattern=r"^[\w.-]+$",
    )
    silence_seconds: float = operational(
        180.0,
        description="Time without a heartbeat after which a run on the pool is given up as lost (seconds).",
        ge=60,
    )
    restarts: int = operational(2, description="New runs on the pool in place of those that were lost or crashed.", ge=0)


class PromoteConfig(StageConfig):
    """Promotion: when a finished run becomes what searches use, and what it has to show for it."""

    when: Literal["always", "gate", "ask", "never"] | None = operational(
        None,
        description="Way into use. always: at once; gate: if it is better than the champion of its name; ask: the run pauses in"
        " Prefect's UI until a person has compared them; never: it is kept back. null: gate for a run that a schedule started,"
        " else always.",
    )
    confidence: float = operational(
        0.95,
        description="Share of the paired resamples of validation queries in which the candidate's weighted score has to be the"
        " higher one.",
        ge=0.5,
        lt=1,
    )
    margins: dict[Literal["code_search", "text_search", "classification", "similarity"], float] = operational(
        {"code_search": 0.02, "text_search": 0.02, "classification": 0.02, "similarity": 0.05},
        description="Most that the mean of a kind may be below the champion's, in points of its metric; 0 for a kind that is"
        " not named.",
    )
    least_recall: float = operational(
        0.9,
        description="Least recall@10 of an index that is not exact, against exact search over the same vectors.",
        ge=0,
        le=1,
    )
    sample_queries: int = operational(
        100, description="Validation queries that the indexes' recall and the overlap of their answers are taken on.", ge=1
    )
    ask_hours: float = operational(
        12, description="Time that a person has to answer, after which the candidate is held back (hours).", gt=0
    )


class RunConfig(StageConfig):
    """Run: all options from raw dump to searchable index."""

    name: str = operational(
        "run", description="Name of the report's folder and of the model in the registry.", pattern=r"^[a-z0-9][a-z0-9_.-]*$"
    )
    preset: str = operational("", description="Preset that the run began as.")
    tests_plumbing: bool = operational(
        False, description="Mark of sizes that only show that everything works; reports say that the figures mean nothing."
    )
    reference: str = operational("", description="Origin of the figures, if they are not this project's own.")
    sample_queries: tuple[str, ...] = operational(
        (
            "parse an ISO 8601 date",
            "read a compressed file line by line",
            "retry a request with exponential backoff",
        ),
        description="Queries that the run searches for when it is done, to show what search finds.",
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
    suites: SuiteConfig = added(SuiteConfig())
    select: SelectConfig = SelectConfig()
    export: ExportConfig = ExportConfig()
    index: IndexConfig = IndexConfig()
    nightly: NightlyConfig = operational(NightlyConfig())
    notify: NotifyConfig = operational(NotifyConfig())
    pools: PoolsConfig = operational(PoolsConfig())
    promote: PromoteConfig = operational(PromoteConfig())
