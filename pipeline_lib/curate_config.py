"""What becomes of validated pairs: decontamination, deduplication and the split."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline_lib.stage_config import StageConfig, operational

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
