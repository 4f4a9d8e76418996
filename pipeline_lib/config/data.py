"""What becomes of validated pairs: decontamination, deduplication and the split.

Which documents are kept, as numbers. Everything is off by default: a run drops a document only where it is asked to.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline_lib.config.base import StageConfig, operational

SIGNATURE_VERSION = 2  # raised when signatures change; names only what near-duplicates were dropped from


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
