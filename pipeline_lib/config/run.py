"""Every choice that a run is made of, one frozen model a stage.

A field marked `operational` cannot change a stage's output (workers, places, memory limits, logging) and is left out of every
key: changing it redoes nothing. Everything else is part of the artifact's name. Presets are functions in presets.py.
"""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from pipeline_lib.config.base import StageConfig, added, operational
from pipeline_lib.config.data import ContaminationConfig, CurateConfig, FilterConfig
from pipeline_lib.config.training import ModelConfig, PretrainConfig, TrainConfig

Language = Literal["python", "javascript", "java", "go", "php", "ruby"]
View = Literal["docstring", "name", "class"]
TextView = Literal["neighbour", "title", "section"]
Delimiting = Literal["distinct", "shared"]


class ReadLimits(StageConfig):
    """How much of an unknown hand's file is read before it is refused."""

    max_text_bytes: int = Field(2_000_000, description="Longest text of one record, page or member (bytes).", gt=0)
    max_expanded_bytes: int = Field(
        64 * 1024**3, description="A compressed file is read no further than this (bytes after decompression).", gt=0
    )
    max_expansion: float = Field(
        1_000.0, description="Nor further than this many times its own size, of which a thousandfold is a bomb.", gt=1
    )
    max_members: int = Field(1_000_000, description="Members, records or pages read of one file.", gt=0)
    max_depth: int = Field(200, description="Deepest nesting of markup that is followed.", gt=0)
    seconds_per_text: float = Field(
        20.0, description="A text whose reading or parsing takes longer is refused as `timeout` (seconds).", gt=0
    )


class SourceConfig(StageConfig):
    """Where the raw dump lies and how it is cut into bundles, the units of parallel extraction."""

    folder: str = operational(
        "",
        description="A folder of code and prose; empty: this machine's own Python (standard library and runtime"
        " dependencies). Its content, not its place, names the work.",
    )
    dump: str = operational("", description="A dump spec (YAML) that lists sources, in place of the folder.")
    max_file_bytes: int = Field(2_000_000, description="Larger files are dropped with reason `file_too_large` (bytes).", gt=0)
    max_bundle_bytes: int = Field(
        12_000_000,
        description="Files in order of source and path are cut into bundles of at most this, mostly of little more"
        " than half of it (bytes).",
        gt=0,
    )
    limits: ReadLimits = ReadLimits()


class CodePairsConfig(StageConfig):
    """Rules for (docstring, function) pairs: CodeSearchNet's, each drop with its reason."""

    languages: tuple[Language, ...] = Field(
        get_args(Language),
        description="Languages whose functions are extracted; all but Python need the extra `dumps`.",
    )
    views: tuple[View, ...] = Field(
        ("docstring",),
        description="What becomes x. `docstring`: its first paragraph; `name`, for functions without a docstring: the words"
        " of the name and of the comments, both left out of y; `class`: a class's docstring, y being the class without the"
        " bodies of its functions.",
        min_length=1,
    )
    min_body_lines: int = Field(3, description="Functions with fewer lines of body are dropped as trivial (lines).", ge=1)
    min_doc_words: int = Field(3, description="Docstrings whose first paragraph has fewer words give no pair (words).", ge=1)
    min_name_words: int = Field(2, description="Names of fewer words give no pair in the view `name` (words).", ge=1)
    max_function_bytes: int = Field(20_000, description="Longer functions are dropped as generated (bytes).", gt=0)


class TextPairsConfig(StageConfig):
    """Rules for pairs of neighbouring pieces of one document."""

    views: tuple[TextView, ...] = Field(
        ("neighbour",),
        description="What becomes (x, y). `neighbour`: a piece and the next; `title`: a heading and the first piece below it;"
        " `section`: the first piece of a section and that of the next.",
        min_length=1,
    )
    unit: Literal["words", "characters"] = Field(
        "words", description="What the next three lengths count; characters suit languages that write no spaces."
    )
    min_words: int = Field(20, description="Shortest piece (in `unit`).", ge=1)
    max_words: int = Field(200, description="Longest piece (in `unit`).", ge=2)
    target_words: int = Field(
        60,
        description="A piece ends at the first paragraph bound after this many words, or sentence bound after twice as"
        " many (in `unit`).",
        ge=1,
    )
    min_letter_share: float = Field(
        0.6, description="Pieces with a smaller share of letters among their characters but spaces are no prose.", ge=0, le=1
    )
    across_headings: bool = Field(
        True, description="Whether a piece, and a piece and the next, may lie on both sides of a heading."
    )
    min_title_words: int = Field(
        2, description="Headings of fewer words (`Usage`, `Notes`) give no pair in the view `title` (words).", ge=1
    )
    max_word_overlap: float = Field(
        1.0,
        description="Pairs whose x and y share more of their different words (Jaccard similarity) are dropped as `similar`.",
        ge=0,
        le=1,
    )
    max_pairs_per_document: int = Field(64, description="At most this many pairs of one document, spread over it evenly.", ge=1)

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is above max_words {self.max_words}")
        return self


class WorkersConfig(StageConfig):
    """The processes that work through the parts of a stage: extraction's, which validation and tokenization use too."""

    workers: int = operational(0, description="Dask worker processes; 0: one a core.", ge=0)
    worker_memory_bytes: int = operational(2 * 1024**3, description="Memory limit of one Dask worker (bytes).", gt=0)
    scheduler: str = operational(
        "",
        description="An existing Dask scheduler (tcp://HOST:PORT, tls://HOST:PORT or a scheduler file) whose workers share the"
        " artifact root; empty: worker processes on this machine, as the two fields above say.",
    )
    worker_wait_seconds: float = operational(
        180.0, description="With no worker for this long the run fails, to be retried (seconds).", gt=0
    )


class ExtractConfig(WorkersConfig):
    """Raw dump to documents and pairs."""

    code: CodePairsConfig = CodePairsConfig()
    text: TextPairsConfig = TextPairsConfig()
    filters: FilterConfig = FilterConfig()
    generation: int = Field(0, description="The growth of the data set that these pairs belong to.", ge=0)


class ContractConfig(StageConfig):
    """When a stage's rows are too bad to go on."""

    max_quarantined_share: float = Field(
        0.01,
        description="A part with a larger share of rows against its contract fails the flow. Some rows of any dump are broken;"
        " one of a hundred means that a reader or an extractor is.",
        ge=0,
        le=1,
    )
    min_rows_for_share: int = Field(
        200,
        description="Smaller parts are judged together, as if they had this many: one bad row of ten is no verdict.",
        ge=1,
    )
    max_unreadable_share: float = Field(
        0.2,
        description="A data set of which more files could not be read (share of files) fails the flow: the dump is another than"
        " was said. Source trees hold test files that are meant to be broken, so that a few per cent are usual.",
        ge=0,
        le=1,
    )
    max_x_words: int = Field(2_000, description="Longest x (words); beyond it the extractor failed to cut.", ge=1)
    max_y_words: int = Field(10_000, description="Longest y (words): what 20,000 bytes of function hold at most.", ge=1)


class TokenizerConfig(StageConfig):
    """A byte-level BPE, trained once on the training split."""

    vocab_size: int = Field(16_384, description="Ids in all, the five reserved ones included.", ge=300)
    lower_case: bool = Field(True, description="Fold case, after identifiers are split.")
    split_identifiers: bool = Field(
        True, description="Split camelCase, HTTPServer and snake_case into words, which then share ids with prose."
    )
    punctuation: Literal["keep", "drop"] = Field(
        "drop",
        description="drop: every run of characters that are no letter, mark or digit becomes one space, which halves the "
        "tokens of code; keep: runs of punctuation are words of their own.",
    )
    max_repeats: int = Field(
        0,
        description="A word is kept at most this often in a text, its last occurrences; 0: always. Saturates the weight of "
        "repeated words, as BM25's k1 does, and halves the tokens of code. Needs `punctuation: drop`.",
        ge=0,
        le=8,
    )
    delimiters: Delimiting = added(
        "distinct",
        description="distinct: x in `[` `]` and y in `{` `}` (the paper's); shared: both in `[` `]`, for comparison.",
    )
    min_frequency: int = Field(2, description="Pairs of symbols seen less often are never merged.", ge=1)
    max_training_texts: int = Field(200_000, description="Texts that the merges are learned from, in hash order.", ge=1)


class AdoptedTokenizerConfig(StageConfig):
    """The tokenizer of a given causal language model, instead of one of our own."""

    folder: str = operational("", description="The model's folder; its content, not its place, names the work.")
    content_sha256: str = Field("", description="sha256 over the tokenizer's files (hexadecimal).")
    delimiters: Delimiting = added("distinct", description="Whether x and y have delimiters of their own; see TokenizerConfig.")


class ShardConfig(StageConfig):
    """Token ids in memory-mapped Arrow files."""

    max_x_tokens: int = Field(48, description="x is cut to this length, delimiters included (tokens).", ge=4)
    max_y_tokens: int = Field(128, description="y is cut to this length, delimiters included (tokens).", ge=4)
    rows_per_shard: int = Field(65_536, description="Rows of one Arrow file, which is one record batch.", ge=1)
    order: Literal["hash", "path"] = Field(
        "hash",
        description="Order of rows. hash: mixed, any block is a fair sample; path: neighbours of one file and package stay "
        "together, so that blocks of them bring hard negatives into a batch.",
    )
    splits: tuple[Literal["train", "validation", "test"], ...] = Field(
        ("train", "validation"), description="Splits that are tokenized; the test split stays closed by default."
    )


class EvaluateConfig(StageConfig):
    """What every checkpoint is measured on; the tasks are drawn from the curated pairs of one split."""

    candidates: int = Field(
        1000, description="Candidates of one ranking, the right one among them; fewer where the split has fewer.", ge=2
    )
    max_per_group: int = Field(
        50,
        description="Functions or passages of one group at most, so that large groups do not rule; raised until there are"
        " `candidates` of a corpus that is split by document, or of a split's only group.",
        ge=1,
    )
    max_queries: int = Field(1000, description="Queries of one search task on validation; the test takes all.", ge=2)
    min_class_texts: int = Field(20, description="Pieces of prose that a group needs to be a class of the linear probe.", ge=4)
    max_class_texts: int = Field(50, description="Pieces of prose of one class at most.", ge=4)
    max_classes: int = Field(20, description="Classes of the linear probe at most, in the order of their hash.", ge=2)
    similarity_pairs: int = Field(200, description="Pairs of each of the four grades of similarity at most.", ge=10)
    bootstrap: int = Field(1000, description="Resamples behind each 95 % interval.", ge=10)
    seed: int = Field(1, description="Of bootstrap and sampling.", ge=0)
    batch_tokens: int = operational(16_384, description="Padded tokens of one forward pass.", ge=64)


class SelectConfig(StageConfig):
    """The declared weights: search and classification above similarity (paper, section 4.2).

    With longer training search and classification rise while similarity falls, so that a heavy similarity would choose models
    that are worse at what they are used for. 0.04 beside one other kind of 0.4 is still less than a tenth.
    """

    weights: dict[Literal["code_search", "text_search", "classification", "similarity"], float] = Field(
        {"code_search": 0.4, "text_search": 0.4, "classification": 0.4, "similarity": 0.04},
        description="Weight of each kind, shared by its tasks; normalised to sum to 1 over the kinds that could be measured.",
    )
    task_weights: dict[str, float] = Field(
        {},
        description="Weight of a task among those of its kind; 1 where none is given, 0 leaves the task out.",
    )
    suites: tuple[str, ...] = Field(
        (), description="Public suites or groups of them whose validation splits count beside the held-out part of the corpus."
    )
    suite_data: str = operational("", description="The folder of the suites' downloads, where `suites` names any.")
    quick_suites: bool = Field(True, description="Suites cut to samples, as for use beside training; false: whole.")
    bootstrap: int = Field(1000, description="Resamples behind each paired 95 % interval.", ge=10)
    seed: int = Field(1, description="Of the bootstrap.", ge=0)

    @model_validator(mode="after")
    def _suites_have_data(self) -> Self:
        if self.suites and not self.suite_data:
            raise ValueError(
                f"select.suites names {', '.join(self.suites)}: give the folder of their files as select.suite_data"
            )
        return self


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
