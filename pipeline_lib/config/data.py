"""Data options, from raw dump to token shards: sources, pairs, filters, contracts, curation and tokenizer."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pipeline_lib.config.base import StageConfig, added, operational, unset
from pipeline_lib.config.filters import FilterConfig
from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.languages import USUAL, language_names


def _known(language: str) -> str:
    if language not in language_names():
        raise ValueError(f"no language {language!r}; there are {', '.join(language_names())}")
    return language


Language = Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": [*language_names()]})]
View = Literal["docstring", "name", "class"]
TextView = Literal["neighbour", "title", "section"]
Delimiting = Literal["distinct", "shared"]
HoldOut = Literal["auto", "never", "validation", "test"]
SHORT = "short"  # view of rows for training alone, up to curation: functions that `min_function_lines` lets in
SIGNATURE_VERSION = 4  # raised when signatures change; names only what near-duplicates were dropped from


class SourceConfig(StageConfig):
    """The raw dump, and the bundles of files that it is cut into for parallel extraction."""

    folder: str | None = unset(
        was="",
        operational=True,
        description="Folder of code and prose. Without it or a dump spec: this machine's own Python (standard library and"
        " runtime dependencies). Keys hold its content, not its place.",
    )
    dump: str | None = unset(
        was="", operational=True, description="Dump spec, a YAML file that lists sources; in place of the folder."
    )
    max_file_bytes: int = Field(
        2_000_000, description="Largest file; a larger one is dropped as `file_too_large` (bytes).", gt=0
    )
    max_bundle_bytes: int = Field(
        12_000_000,
        description="Largest bundle of files, in order of source and path; most are a little over half as large (bytes).",
        gt=0,
    )
    limits: ReadLimits = ReadLimits()


class CodePairsConfig(StageConfig):
    """Rules for (docstring, function) pairs: CodeSearchNet's, each drop with its reason."""

    languages: tuple[Language, ...] = Field(
        USUAL,
        description="Programming languages whose functions are extracted; all but Python need the extra `dumps`. Files of these"
        " six are read in any case, those of c, cpp, csharp, kotlin, rust, scala, swift, tsx and typescript where they are"
        " named here, and counted as `other_language` where not.",
    )
    views: tuple[View, ...] = Field(
        ("docstring",),
        description="Kinds of pairs. `docstring`: x is its first paragraph, y the function without it; `name`: of functions"
        " without a docstring, x is the words of the name and the comments, both left out of y; `class`: x is a class's"
        " docstring, y the class without the bodies of its functions.",
        min_length=1,
    )
    blocks: tuple[Literal["notebook", "markdown"], ...] = added(
        (),
        description="Texts whose blocks of code give pairs with the prose before them. `notebook`: the cells of .ipynb files,"
        " which are not read without (view `cell`); `markdown`: fenced blocks of Markdown (view `block`). Blocks of"
        " `extract.code.languages` alone, under `min_body_lines`, `min_doc_words` and `max_function_bytes`.",
    )
    min_body_lines: int = Field(
        3, description="Shortest body of a function, which is dropped as trivial below it (lines of code).", ge=1
    )
    min_function_lines: int | None = added(
        None,
        description="Shortest whole function, with head and closing bracket but without documentation and empty lines, that"
        " is taken for training although its body is shorter than `min_body_lines`; 3 is CodeSearchNet's rule; null: none is."
        " Held-out rows are the same with it and without (lines).",
        ge=1,
    )
    min_doc_words: int = Field(
        3, description="Shortest first paragraph of a docstring that gives a pair (words, as `extract.text.unit: auto`).", ge=1
    )
    min_name_words: int = Field(2, description="Shortest name that gives a pair in the view `name` (words).", ge=1)
    max_function_bytes: int = Field(
        20_000, description="Longest function, which is dropped as generated beyond it (bytes).", gt=0
    )
    parse_seconds: float = added(
        10.0,
        description="Longest time to parse a file, which is refused as `parse_limit` beyond it; Python's are not watched. Below"
        " `source.limits.seconds_per_text` (seconds).",
        gt=0,
    )
    parse_steps_per_kb: float = added(
        30.0,
        description="Most steps of a parser for each kB of a file, beside 1,000, beyond which it is refused as `parse_limit`;"
        " real source takes 3 to 18 (steps).",
        gt=0,
    )


class TextPairsConfig(StageConfig):
    """Rules for pairs of neighbouring pieces of one document."""

    views: tuple[TextView, ...] = Field(
        ("neighbour",),
        description="Kinds of pairs. `neighbour`: a piece and the next; `title`: a heading and the first piece below it;"
        " `section`: the first piece of a section and that of the next.",
        min_length=1,
    )
    unit: Literal["auto", "words", "characters"] = Field(
        "auto",
        description="Unit of `min_words`, `max_words` and `target_words`. `auto`: words, and where a paragraph's script has no"
        " spaces, 2 characters of Chinese or Japanese, or about 5 of Thai, Lao, Khmer, Burmese or Tibetan, for a word;"
        " `words`: what stands between spaces, in any script; `characters`.",
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
        0.6,
        description="Smallest share of letters, with their marks, among a piece's characters without spaces; below it is no"
        " prose.",
        ge=0,
        le=1,
    )
    across_headings: bool = Field(True, description="Let a piece, and a pair of neighbours, lie on both sides of a heading.")
    min_title_words: int = Field(
        2, description="Shortest heading that gives a pair in the view `title`: `Usage` does not (words).", ge=1
    )
    max_word_overlap: float = Field(
        1.0,
        description="Highest Jaccard index of the words of x and y (without spaces: of the pairs of neighbouring letters);"
        " pairs above it are dropped as `similar`.",
        ge=0,
        le=1,
    )
    max_pairs_per_document: int = Field(64, description="Most pairs of one document, spread over it evenly.", ge=1)

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is above max_words {self.max_words}")
        return self


class WorkersConfig(StageConfig):
    """Worker processes for the parts of a stage: those of extraction serve validation and tokenization too."""

    workers: int | None = unset(was=0, operational=True, description="Dask worker processes; null: one per core.", ge=1)
    worker_memory_bytes: int = operational(2 * 1024**3, description="Memory limit of one Dask worker (bytes).", gt=0)
    scheduler: str | None = unset(
        was="",
        operational=True,
        description="Existing Dask scheduler whose workers share the artifact root: tcp://HOST:PORT, tls://HOST:PORT or a"
        " scheduler file; null: `workers` processes of this machine.",
    )
    worker_wait_seconds: float = operational(
        180.0, description="Longest time without any worker, after which the stage fails and is retried (seconds).", gt=0
    )


class ExtractConfig(WorkersConfig):
    """Extraction: from raw dump to documents and pairs."""

    code: CodePairsConfig = CodePairsConfig()
    text: TextPairsConfig = TextPairsConfig()
    filters: FilterConfig = FilterConfig()
    generation: int = Field(0, description="Number of the data set's update with which these pairs came, from 0.", ge=0)

    @property
    def more_forms(self) -> tuple[str, ...]:
        """Kinds of files that are read beside those that are read in every source: further languages, and notebooks."""
        notebooks = ("notebook",) if "notebook" in self.code.blocks else ()
        return (*sorted(set(self.code.languages) - set(USUAL)), *notebooks)


class ContractConfig(StageConfig):
    """Data contracts: bounds of a row, and the share of bad rows or files at which a run stops."""

    max_quarantined_share: float = Field(
        0.01,
        description="Largest share of a part's rows that may break their contract. Some rows of any dump are broken; one of a"
        " hundred means that a reader or an extractor is.",
        ge=0,
        le=1,
    )
    min_rows_for_share: int = Field(
        200,
        description="Fewest rows of which a share is judged: one bad row of ten means little (rows).",
        ge=1,
    )
    max_unreadable_share: float = Field(
        0.2,
        description="Largest share of a data set's files that may be unreadable; more means another dump than expected."
        " A few per cent are usual: source trees hold test files that are meant to be broken.",
        ge=0,
        le=1,
    )
    max_lost_share: float = added(
        0.05,
        description="Largest share of a dump's bytes that may be lost in files that end early (truncated, damaged, too large)."
        " 0.05 is one of twenty equal files; more means that the download failed. All bytes of a truncated file count, because"
        " nobody knows how much is missing.",
        ge=0,
        le=1,
    )
    max_x_words: int = Field(2_000, description="Longest x; beyond it the extractor failed to cut (words).", ge=1)
    max_y_words: int = Field(10_000, description="Longest y: 20,000 bytes of function hold no more (words).", ge=1)


class ContaminationConfig(StageConfig):
    """Decontamination: texts of evaluation suites, which no pair may hold."""

    folder: str | None = unset(
        was="",
        operational=True,
        description="Folder of .jsonl, .jsonl.gz or .parquet files with `suite`, `id`, `text` and, of code, `kind`; null:"
        " nothing is looked for. Keys hold its content, not its place.",
    )
    ngram_words: int = Field(
        13,
        description="Length of the n-grams: a pair that shares one with a text is contaminated (words; in scripts without"
        " spaces 1.5 characters of Chinese or Japanese, or 3 of the others, count as one).",
        ge=2,
    )
    code_share: float = Field(
        0.5,
        description="Smallest share of a code text's n-grams that a contaminated pair holds; one alone is often an idiom.",
        gt=0,
        le=1,
    )
    max_text_bytes: int = Field(
        2_000_000, description="Longest record, which is dropped as `text_too_large` beyond it (bytes).", gt=0
    )


class NearDuplicatesConfig(StageConfig):
    """Near-duplicates, by MinHash and the Jaccard index of sets of word n-grams; needs the extra `dumps`."""

    threshold: float | None = unset(
        was=0.0, description="Smallest Jaccard index of near-duplicates, e.g. 0.8; null: they are kept.", gt=0, le=1
    )
    sides: tuple[Literal["document", "x", "y"], ...] = Field(
        ("document", "x", "y"),
        description="Texts that are compared, in this order: whole documents with all their pairs, each x, each y.",
        min_length=1,
    )
    shingle_words: int = Field(
        5,
        description="Length of a shingle; a shorter text is one shingle (words; in scripts without spaces, characters).",
        ge=1,
    )
    permutations: int = Field(120, description="Hash functions of a MinHash signature.", ge=1, le=4096)
    bands: int = Field(
        20,
        description="Bands of a signature. Two texts of index s become candidates with probability"
        " 1 - (1 - s^(permutations/bands))^bands: 0.998 at 0.8.",
        ge=1,
        le=1024,
    )
    bucket_texts: int = Field(
        64,
        description="Most texts of a bucket that each of its texts is compared with, the lowest ids (texts).",
        ge=1,
    )

    @model_validator(mode="after")
    def _bands_of_equal_length(self) -> Self:
        if self.permutations % self.bands:
            raise ValueError(f"permutations {self.permutations} are no multiple of bands {self.bands}")
        return self

    def key_fields(self) -> dict[str, Any]:
        """The fields that name an artifact, and the version of the signatures where they have a say in it."""
        return super().key_fields() | ({"signatures": SIGNATURE_VERSION} if self.threshold else {})


class CurateConfig(StageConfig):
    """Curation: exact deduplication over the whole set, near-duplicates on request, and the split by group."""

    validation_percent: int = Field(8, description="Share of groups held out for validation and selection (%).", ge=1, le=49)
    test_percent: int = Field(12, description="Share of groups held out for the final test (%).", ge=1, le=49)
    split_salt: str = Field("cpt", description="Salt of the hash of a group's name: another salt is another split.")
    min_groups: int = Field(
        10, description="Fewest groups of a set that is split by group; one of fewer is split by document.", ge=3
    )
    hold_out: dict[str, HoldOut] = added(
        {},
        description="Split of all texts of a source, by its name: `never` (training), `validation` or `test`; for other sources"
        " the hash of the group decides. A dump spec's own `hold_out` is added.",
    )
    near: NearDuplicatesConfig = NearDuplicatesConfig()
    threads: int = operational(2, description="Threads of the SQL engine.", ge=1)
    memory_bytes: int = operational(
        1024**3, description="Memory of the SQL engine, which spills to disk beyond it (bytes).", gt=0
    )


Bos = Literal["auto", "on", "off"]
BOS = (
    "Sequence start (BOS) of a given model before both delimiters. auto: where its own tokenizer adds one, since the model"
    " never saw a text without; on: wherever it has one; off: never. Our own tokenizer has none."
)


class TokenizerConfig(StageConfig):
    """Tokenizer: a byte-level BPE, trained once on the training split."""

    vocab_size: int = Field(16_384, description="Number of ids, the five reserved ones among them.", ge=300)
    lower_case: bool = Field(True, description="Fold case, after identifiers are split.")
    split_identifiers: bool = Field(
        True, description="Split camelCase, HTTPServer and snake_case into words, which then share ids with prose."
    )
    punctuation: Literal["keep", "drop"] = Field(
        "drop",
        description="Punctuation in the tokenizer. drop: every run of characters that are no letter, mark or digit becomes one"
        " space, which halves the tokens of code; keep: runs of punctuation are words of their own.",
    )
    max_repeats: int | None = unset(
        was=0,
        description="Most occurrences of a word in a text, the last ones; null: all. Saturates the weight of repeated words, as"
        " BM25's k1 does, and halves the tokens of code. Needs `punctuation: drop`.",
        ge=1,
        le=8,
    )
    delimiters: Delimiting = added(
        "distinct",
        description="Delimiters. distinct: x in `[` `]`, y in `{` `}` (the paper's); shared: both in `[` `]`, for comparison.",
    )
    bos: Bos = added("auto", description=BOS)
    min_frequency: int = Field(2, description="Fewest occurrences of a pair of symbols that may be merged.", ge=1)
    max_training_texts: int = Field(200_000, description="Most texts that the merges are learned from, in hash order.", ge=1)

    def for_language_model(self) -> Self:
        """The same with all that a language model predicts: case, names as they are written, punctuation, every repeat."""
        kept = {"lower_case": False, "split_identifiers": False, "punctuation": "keep", "max_repeats": None}
        return self.model_copy(update=kept)


class AdoptedTokenizerConfig(StageConfig):
    """Tokenizer of a given causal language model, in place of one of our own."""

    folder: str = operational("", description="Folder of the model. Keys hold its content, not its place.")
    content_sha256: str = Field("", description="Digest of the tokenizer's files (sha256, hexadecimal).")
    delimiters: Delimiting = added("distinct", description="Delimiters, as in `tokenizer.delimiters`.")
    bos: Bos = added("auto", description="Sequence start, as in `tokenizer.bos`.")


class ShardConfig(StageConfig):
    """Shards: token ids in memory-mapped Arrow files."""

    max_x_tokens: int = Field(48, description="Longest x, delimiters included; longer ones are cut (tokens).", ge=4)
    max_y_tokens: int = Field(128, description="Longest y, delimiters included; longer ones are cut (tokens).", ge=4)
    rows_per_shard: int = Field(65_536, description="Rows of one Arrow file, which is one record batch (rows).", ge=1)
    order: Literal["hash", "path"] = Field(
        "hash",
        description="Order of rows. hash: mixed, any block is a fair sample; path: neighbours of one file and package stay"
        " together, which brings hard negatives into a batch.",
    )
    splits: tuple[Literal["train", "validation", "test"], ...] = Field(
        ("train", "validation"),
        description="Splits that are tokenized; training needs `train`, `train.evaluation_pairs` needs `validation`.",
    )


class ReadingConfig(StageConfig):
    """Reading ahead of token files: from a disk by memory map, from a bucket file by file before they are needed."""

    batches_ahead: int = operational(2, description="Batches read before their step, behind which a slow read hides.", ge=1)
    steps_ahead: int = operational(
        64, description="Steps whose files are fetched, or asked of a disk, before them (steps).", ge=1
    )
    fetched_bytes: int = operational(
        16 * 1024**3,
        description="Room for a bucket's files on this machine; what a step needs now is fetched even beyond it (bytes).",
        gt=0,
    )
