"""From raw dump to token shards: sources, pairs, filters, contracts, decontamination, deduplication, split and tokenizer."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pipeline_lib.config.base import StageConfig, added, operational
from pipeline_lib.languages import language_names


def _known(language: str) -> str:
    if language not in language_names():
        raise ValueError(f"no language {language!r}; there are {', '.join(language_names())}")
    return language


Language = Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": [*language_names()]})]
View = Literal["docstring", "name", "class"]
TextView = Literal["neighbour", "title", "section"]
Delimiting = Literal["distinct", "shared"]
SIGNATURE_VERSION = 2  # raised when signatures change; names only what near-duplicates were dropped from


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
        language_names(),
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


class QualityConfig(StageConfig):
    """The quality rules for prose of Rae et al. 2021 (Gopher; arXiv 2112.11446, appendix A.1), with its bounds."""

    enabled: bool = Field(False, description="Drop prose that breaks one of the rules below.")
    min_words: int = Field(50, description="Fewest words of a document (words).", ge=0)
    max_words: int = Field(100_000, description="Most words of a document (words).", ge=1)
    min_word_characters: float = Field(3.0, description="Lowest mean length of a word (characters).", ge=0)
    max_word_characters: float = Field(10.0, description="Highest mean length of a word (characters).", gt=0)
    max_marks_per_word: float = Field(0.1, description="Highest number of hash signs, or of ellipses, a word.", ge=0)
    max_bullet_lines: float = Field(0.9, description="Largest share of lines that begin with a bullet.", ge=0, le=1)
    max_ellipsis_lines: float = Field(0.3, description="Largest share of lines that end with an ellipsis.", ge=0, le=1)
    min_letter_words: float = Field(0.8, description="Smallest share of words with a letter.", ge=0, le=1)
    min_stop_words: int = Field(
        2, description="Fewest different ones of the eight English stop words; 0 for other languages.", ge=0, le=8
    )


class RepetitionConfig(StageConfig):
    """The repetition rules for prose of Rae et al. 2021 (Gopher; table A1), with its bounds."""

    enabled: bool = Field(False, description="Drop prose that breaks one of the rules below.")
    max_repeated_lines: float = Field(0.3, description="Largest share of lines that came before.", ge=0, le=1)
    max_repeated_paragraphs: float = Field(0.3, description="Largest share of paragraphs that came before.", ge=0, le=1)
    max_repeated_line_characters: float = Field(
        0.2, description="Largest share of characters in lines that came before.", ge=0, le=1
    )
    max_repeated_paragraph_characters: float = Field(
        0.2, description="Largest share of characters in paragraphs that came before.", ge=0, le=1
    )
    max_top_ngrams: dict[int, float] = Field(
        {2: 0.2, 3: 0.18, 4: 0.16},
        description="n to the largest share of characters in the one most frequent n-gram of words.",
    )
    max_repeated_ngrams: dict[int, float] = Field(
        {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1},
        description="n to the largest share of characters in n-grams of words that came before.",
    )


class CodeFilterConfig(StageConfig):
    """Rules for source files that no person wrote; the bounds are those of The Stack (Kocetkov et al. 2022, section 3)."""

    enabled: bool = Field(False, description="Drop source files that break one of the rules below.")
    generated_marks: bool = Field(True, description="Drop files whose first comments say that they are generated.")
    max_mean_line_characters: float = Field(100.0, description="Highest mean length of a line (characters).", gt=0)
    max_line_characters: int = Field(1_000, description="Longest line (characters).", gt=0)
    min_alphabetic_share: float = Field(0.25, description="Smallest share of letters among all characters.", ge=0, le=1)


class FilterConfig(StageConfig):
    """Which documents give pairs at all."""

    min_characters: int = Field(0, description="Shortest document (characters); 0: any.", ge=0)
    max_characters: int = Field(0, description="Longest document (characters); 0: any.", ge=0)
    max_symbol_share: float = Field(
        1.0, description="Largest share of symbols and punctuation among a prose document's characters but spaces.", ge=0, le=1
    )
    max_digit_share: float = Field(
        1.0, description="Largest share of digits among a prose document's characters but spaces.", ge=0, le=1
    )
    languages: tuple[str, ...] = Field(
        (),
        description="ISO 639-1 codes of the languages of prose that are kept, identified offline (py3langid, of the extra"
        " `dumps`); empty: all.",
    )
    licences: tuple[str, ...] = Field(
        (), description="Licences that are kept, as the dump spells them, in any case; empty: all, unknown ones too."
    )
    quality: QualityConfig = QualityConfig()
    repetition: RepetitionConfig = RepetitionConfig()
    code: CodeFilterConfig = CodeFilterConfig()


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


class ContaminationConfig(StageConfig):
    """Texts of evaluation suites, which no pair may hold."""

    folder: str = operational(
        "",
        description="A folder of .jsonl, .jsonl.gz or .parquet with `suite`, `id`, `text` and, if need be, `kind`; empty:"
        " nothing is looked for. Its content, not its place, names the work.",
    )
    ngram_words: int = Field(
        13, description="A pair that shares so many words in a row with a text is contaminated (words).", ge=2
    )
    code_share: float = Field(
        0.5,
        description="Of a text of kind `code`, the least share of its n-grams that a contaminated pair holds: code repeats"
        " itself, and 13 words in a row are often an idiom.",
        gt=0,
        le=1,
    )
    max_text_bytes: int = Field(2_000_000, description="Longer records are dropped with reason `text_too_large` (bytes).", gt=0)


class NearDuplicatesConfig(StageConfig):
    """Texts that are nearly equal, by the Jaccard index of their sets of word n-grams; needs the extra `dumps`."""

    threshold: float = Field(
        0.0, description="Least Jaccard index of near-duplicates, e.g. 0.8; 0: near-duplicates are kept.", ge=0, le=1
    )
    sides: tuple[Literal["document", "x", "y"], ...] = Field(
        ("document", "x", "y"),
        description="What is compared: whole documents (all their pairs), each x, each y; in this order.",
        min_length=1,
    )
    shingle_words: int = Field(5, description="Length of a shingle (words); a shorter text is one shingle.", ge=1)
    permutations: int = Field(120, description="Minima of a MinHash signature.", ge=1, le=4096)
    bands: int = Field(
        20,
        description="Bands that a signature is cut into. Two texts of index s meet with probability"
        " 1 - (1 - s^(permutations/bands))^bands: 0.998 at 0.8.",
        ge=1,
        le=1024,
    )
    bucket_texts: int = Field(
        64,
        description="In a bucket of more texts than this, each is compared with the lowest so many only (texts).",
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
    """Exact deduplication over the whole set, near-duplicates where asked for, and the split by group."""

    validation_percent: int = Field(8, description="Share of groups held out for validation and selection (%).", ge=1, le=49)
    test_percent: int = Field(12, description="Share of groups held out for the final test (%).", ge=1, le=49)
    split_salt: str = Field("cpt", description="Mixed into the hash of a group's name: another salt is another split.")
    min_groups: int = Field(
        10, description="A set of fewer groups is split by document instead: by group a split would be empty.", ge=3
    )
    near: NearDuplicatesConfig = NearDuplicatesConfig()
    threads: int = operational(2, description="Threads of the SQL engine.", ge=1)
    memory_bytes: int = operational(
        1024**3, description="Memory limit of the SQL engine, which spills to disk beyond it (bytes).", gt=0
    )


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
