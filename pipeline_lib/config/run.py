"""The whole configuration of a run, section by section: from raw dump to searchable index."""

from __future__ import annotations

from typing import Literal, Self

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
    WorkersConfig,
)
from pipeline_lib.config.evaluation import BesideConfig, EvaluateConfig, ReadConfig, SelectConfig, SuiteConfig
from pipeline_lib.config.model import ModelConfig, PromptsConfig, embedding_width
from pipeline_lib.config.notify import NotifyConfig
from pipeline_lib.config.queries import QueriesConfig
from pipeline_lib.config.training import GuideConfig, PretrainConfig, TrainConfig
from pipeline_lib.runtime.machine import PrecisionChoice

NAME_PATTERN = r"^[a-z0-9][a-z0-9_.-]{0,127}$"  # as the registry has it: a longer one would fail once all is done


class ExportConfig(StageConfig):
    """Export: the folder that the ecosystem loads."""

    onnx: bool = Field(True, description="Write model.onnx, which `cpt search` uses.")
    quantize: Literal["none", "int8"] = added(
        "none",
        description="Weights of a second graph beside model.onnx. int8: model.int8.onnx of 8-bit weights, for queries alone"
        " (`cpt search --int8`); the model card says what it loses.",
    )

    truncate_dim: int | None = added(
        None,
        description="First dimensions of the vector that are published, of length 1 again; null: all. Index, searches and both"
        " graphs have so many; a model that was trained with `train.matryoshka` loses least (dimensions).",
        ge=1,
    )

    @model_validator(mode="after")
    def _quantized_of_a_graph(self) -> ExportConfig:
        if self.quantize != "none" and not self.onnx:
            raise ValueError(f"export.quantize {self.quantize} needs export.onnx: it is made from model.onnx")
        return self


class IndexConfig(WorkersConfig):
    """Index: the searchable vectors of all functions and passages, built by extraction's workers unless its own are set."""

    kind: Literal["auto", "flat", "hnsw", "ivf_flat", "ivf_pq", "sq8", "binary"] = added(
        "auto",
        description="Kind of index. auto: flat up to 1 GiB of vectors, then hnsw up to ten million rows, then ivf_flat, or the"
        " most exact that fits `memory_budget_bytes` (`cpt index --plan N` shows it); and what `factory` says where that is not"
        " Flat. flat: exact; hnsw: a graph; ivf_flat: inverted lists; ivf_pq: the same of product-quantized vectors; sq8: a"
        " byte a coordinate; binary: a bit. The last three score their candidates again by exact vectors on disk.",
    )
    factory: str = Field(
        "Flat",
        description="FAISS index factory string, for an index that `kind` does not name; vectors are normalised, the metric is"
        " the inner product.",
    )
    memory_budget_bytes: int | None = added(
        None, description="Memory that `kind: auto` keeps the index within; null: no bound (bytes).", ge=1
    )
    least_recall: float | None = added(
        None,
        description="Least recall@10 against exact search over the same vectors; searches go farther until it is reached, and"
        " where none does, the index is not published. null: 0.98 for hnsw, 0.95 for ivf_flat and sq8, 0.90 for ivf_pq and"
        " binary; 0: no bound.",
        ge=0,
        le=1,
    )
    links: int | None = added(
        None, description="Links of a node of hnsw, M; null: 32, or 16 below 64 dimensions (links).", ge=4, le=128
    )
    ef_construction: int | None = added(
        None, description="Candidates that a node of hnsw is linked from; null: 4 times the links.", ge=8, le=4096
    )
    ef_search: int | None = added(
        None, description="Candidates that a walk through hnsw keeps, at least; null: 2 times the links.", ge=1, le=16_384
    )
    lists: int | None = added(
        None, description="Inverted lists; null: the power of two next to 4 times the root of the rows.", ge=1, le=1 << 20
    )
    pq_bytes: int | None = added(
        None, description="Bytes of a vector's code in ivf_pq; null: a quarter of the width, 8 to 64 (bytes).", ge=1, le=256
    )
    refine: int | None = added(
        None,
        description="Candidates a result that ivf_pq, sq8 and binary score again, at least; null: 8, 2 and 16.",
        ge=1,
        le=4096,
    )
    exact: Literal["float16", "float32"] = added(
        "float16", description="Exact vectors beside ivf_pq, sq8 and binary: 2 or 4 bytes a coordinate."
    )
    text_characters: int = added(
        16_384,
        description="Beginning of each text that the index keeps, compressed, to show a passage of it; 0: none, and no"
        " signatures (characters).",
        ge=0,
        le=1_048_576,
    )
    bm25: bool = added(
        True,
        description="Keep BM25 of all texts beside the vectors, so that a search can rank by both; 8 bytes a word of a row.",
    )
    fusion_depth: int = added(
        200,
        description="Rows of each of the two rankings that are fused; more where more hits are asked for (rows).",
        ge=10,
        le=10_000,
    )
    fusion_queries: int = added(
        500,
        description="Most validation queries of each kind that choose what ranks it: vectors, BM25 or both; 0: vectors"
        " unless a search asks for more.",
        ge=0,
        le=100_000,
    )
    probes: int = added(
        1, description="Inverted lists that a search visits, at least; 1: a 64th of them in ivf_flat and ivf_pq.", ge=1
    )
    rebuild_share: float = added(
        0.25,
        description="Share of its rows that may have come and gone since an hnsw, ivf_flat or ivf_pq index was built whole; an"
        " update beyond it builds graph or lists anew, from stored vectors.",
        ge=0,
        le=1,
    )
    batch_tokens: int | None = operational(
        None,
        description="Padded tokens of one forward pass (tokens); null: 4,096 on a CPU, whose caches hold them, 16,384 on a"
        " GPU.",
        ge=64,
    )
    precision: PrecisionChoice = added(
        "auto", before="float32", description="Precision of the embedder's matrix products, as `train.precision`."
    )
    rows_per_slice: int = operational(
        8_192, description="Texts embedded at a time, which is all that a killed build loses (rows).", ge=1
    )

    def with_workers_of(self, other: WorkersConfig) -> Self:
        """The same with another stage's worker processes, where it has none of its own."""
        if self.workers is not None or self.scheduler is not None:
            return self
        return self.model_copy(update={name: getattr(other, name) for name in WorkersConfig.model_fields})


class NightlyConfig(StageConfig):
    """Nights: what a run under a published name does about files that changed since the name's last run."""

    policy: Literal["whole", "continue", "restart", "index"] = operational(
        "whole",
        description="What a run does where one of its name has been before. whole: everything, as if there had been none (what"
        " is done is found done); continue: build what is new, keep every split, train from the champion's checkpoint for"
        " `train.grown_steps_share` of the steps; restart: the same, but train from the preset's own start with all steps;"
        " index: build what is new, and let the champion's index take it in, however much it is, without training.",
    )
    min_new_share: float = operational(
        0.02,
        description="Smallest share of training pairs that are new since the last training of this name; below it nothing is"
        " trained, and only the champion's index takes the documents in.",
        ge=0,
        le=1,
    )
    max_shrink_share: float = operational(
        0.5,
        description="Largest share of its bytes that the dump may have lost since the last night; with more a night fails"
        " before it changes anything, as of a disk that is not mounted. 1: all of them may.",
        ge=0,
        le=1,
    )


class PoolsConfig(StageConfig):
    """Pools: where those stages run that need another machine than the flow."""

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
    """Promotion: when searches begin to use a finished run's model, and what the model must achieve for it."""

    when: Literal["always", "gate", "ask", "never"] | None = operational(
        None,
        description="When to promote. always: at once; gate: if it is better than the champion of its name; ask: the run pauses"
        " in Prefect's UI until a person has compared them; never: it is kept back. null: gate for a run that a schedule"
        " started, else always.",
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
        "run", description="Name of the report's folder and of the model in the registry.", pattern=NAME_PATTERN
    )
    preset: str = operational("", description="Preset that the run is based on.")
    tests_plumbing: bool = operational(
        False, description="Mark of a preset that only tests that everything runs; reports say that its figures mean nothing."
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
    queries: QueriesConfig = added(QueriesConfig())
    contract: ContractConfig = ContractConfig()
    contamination: ContaminationConfig = ContaminationConfig()
    curate: CurateConfig = CurateConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    prompts: PromptsConfig = added(PromptsConfig())
    shards: ShardConfig = ShardConfig()
    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig = PretrainConfig()
    guide: GuideConfig = added(GuideConfig())
    train: TrainConfig = TrainConfig()
    read: ReadConfig = added(ReadConfig())
    beside: BesideConfig = added(BesideConfig())
    evaluate: EvaluateConfig = EvaluateConfig()
    suites: SuiteConfig = added(SuiteConfig())
    select: SelectConfig = SelectConfig()
    export: ExportConfig = ExportConfig()
    index: IndexConfig = IndexConfig()
    nightly: NightlyConfig = operational(NightlyConfig())
    notify: NotifyConfig = operational(NotifyConfig())
    pools: PoolsConfig = operational(PoolsConfig())
    promote: PromoteConfig = operational(PromoteConfig())

    @model_validator(mode="after")
    def _both_whole(self) -> RunConfig:
        if self.beside.is_wanted and (self.export.truncate_dim or self.export.quantize != "none"):
            raise ValueError(
                "beside puts two models side by side, of which no prefix and no 8-bit graph is made: leave"
                " export.truncate_dim and export.quantize out, or set beside.preset and beside.model to null"
            )
        return self

    @property
    def longest_text(self) -> int:
        """Tokens of the longest query or document, in training and after it, delimiters included."""
        trained, read = self.shards, self.read
        return max(trained.max_x_tokens, trained.max_y_tokens, read.max_x_tokens or 0, read.max_y_tokens or 0)

    @property
    def measured_dims(self) -> tuple[int, ...]:
        """Prefixes of the vector that a model is measured at beside the whole one, the shortest first; of two models none."""
        if self.beside.is_wanted:
            return ()
        asked = {*(self.evaluate.dims or self.train.matryoshka.dims), self.export.truncate_dim}
        return tuple(sorted(dim for dim in asked if dim and dim != embedding_width(self.model)))
