"""Options of the filters of documents: presets for the web and for books, and the bounds of each family of rules."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pipeline_lib.config.base import StageConfig, unset

Preset = Literal["web", "books", "none"]
_PRESETS: dict[Preset, tuple[str, ...]] = {"web": ("web",), "books": ("quality", "repetition"), "none": ()}


class QualityConfig(StageConfig):
    """The quality rules for prose of Rae et al. 2021 (Gopher; arXiv 2112.11446, appendix A.1), with its bounds."""

    enabled: bool | None = Field(
        None, description="Drop prose that breaks one of the rules below; null: as `filters.preset` says."
    )
    min_words: int = Field(50, description="Fewest words of a document (words).", ge=0)
    max_words: int | None = Field(100_000, description="Most words of a document; null: any (words).", ge=1)
    min_word_characters: float = Field(3.0, description="Lowest mean length of a word (characters).", ge=0)
    max_word_characters: float = Field(10.0, description="Highest mean length of a word (characters).", gt=0)
    max_marks_per_word: float = Field(0.1, description="Highest number of hash signs, or of ellipses, a word.", ge=0)
    max_bullet_lines: float = Field(0.9, description="Largest share of lines that begin with a bullet.", ge=0, le=1)
    max_ellipsis_lines: float = Field(0.3, description="Largest share of lines that end with an ellipsis.", ge=0, le=1)
    min_letter_words: float = Field(0.8, description="Smallest share of words with a letter.", ge=0, le=1)
    min_stop_words: int = Field(
        2, description="Fewest of the eight English stop words; 0 for prose in other languages.", ge=0, le=8
    )


class RepetitionConfig(StageConfig):
    """The repetition rules for prose of Rae et al. 2021 (Gopher; table A1), with its bounds."""

    enabled: bool | None = Field(
        None, description="Drop prose that breaks one of the rules below; null: as `filters.preset` says."
    )
    max_repeated_lines: float = Field(0.3, description="Largest share of lines that repeat an earlier one.", ge=0, le=1)
    max_repeated_paragraphs: float = Field(
        0.3, description="Largest share of paragraphs that repeat an earlier one.", ge=0, le=1
    )
    max_repeated_line_characters: float = Field(
        0.2, description="Largest share of characters in lines that repeat an earlier one.", ge=0, le=1
    )
    max_repeated_paragraph_characters: float = Field(
        0.2, description="Largest share of characters in paragraphs that repeat an earlier one.", ge=0, le=1
    )
    max_top_ngrams: dict[int, float] = Field(
        {2: 0.2, 3: 0.18, 4: 0.16},
        description="Largest share of characters in the most frequent n-gram of words, for each n.",
    )
    max_repeated_ngrams: dict[int, float] = Field(
        {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1},
        description="Largest share of characters in n-grams of words that repeat an earlier one, for each n.",
    )


class CodeFilterConfig(StageConfig):
    """Rules for source files that no person wrote, with the bounds of The Stack (Kocetkov et al. 2022, section 3)."""

    enabled: bool | None = Field(
        None, description="Drop source files that break one of the rules below; null: as `filters.preset` says."
    )
    generated_marks: bool = Field(True, description="Drop files whose first comments say that they are generated.")
    max_mean_line_characters: float = Field(100.0, description="Highest mean length of a line (characters).", gt=0)
    max_line_characters: int = Field(1_000, description="Longest line (characters).", gt=0)
    min_alphabetic_share: float = Field(0.25, description="Smallest share of letters among all characters.", ge=0, le=1)


class WebProseConfig(StageConfig):
    """Rules for lines of web pages: sentences are kept, menus, lists of names and links, tables and notices are not."""

    enabled: bool | None = Field(
        None, description="Leave out lines that are no prose, counted as `web_list` and `web_notice`; null: as the preset says."
    )
    min_words: int = Field(
        7,
        description="Shortest line that is prose by itself; a shorter sentence is kept beside one (words; two characters are"
        " one in scripts without spaces).",
        ge=1,
    )
    max_capital_words: float = Field(
        0.6, description="Largest share of words that begin with a capital: lists of names and titles have more.", ge=0, le=1
    )
    min_letter_share: float = Field(
        0.65, description="Smallest share of letters among a line's characters but spaces.", ge=0, le=1
    )


class FilterConfig(StageConfig):
    """Filters of documents; one that is dropped gives no pair."""

    preset: Preset | None = Field(
        None,
        description="Families of rules that are on where their own `enabled` is null. web: `web`; books: `quality` and"
        " `repetition`, with any length and language where `max_words` and `min_stop_words` are at their defaults; none: no"
        " family; null: web for texts of web archives (WARC, ARC), none for all others.",
    )
    min_characters: int = Field(0, description="Shortest document (characters).", ge=0)
    max_characters: int | None = unset(was=0, description="Longest document; null: any (characters).", ge=1)
    max_symbol_share: float = Field(
        1.0, description="Largest share of symbols and punctuation among a prose document's characters but spaces.", ge=0, le=1
    )
    max_digit_share: float = Field(
        1.0, description="Largest share of digits among a prose document's characters but spaces.", ge=0, le=1
    )
    languages: tuple[str, ...] = Field(
        (),
        description="Languages of prose that are kept, as ISO 639-1 codes, identified offline (py3langid, of the extra"
        " `dumps`); an empty list: all.",
    )
    licences: tuple[str, ...] = Field(
        (), description="Licences that are kept, as the dump spells them, in any case; an empty list: all, unknown ones too."
    )
    web: WebProseConfig = WebProseConfig()
    quality: QualityConfig = QualityConfig()
    repetition: RepetitionConfig = RepetitionConfig()
    code: CodeFilterConfig = CodeFilterConfig()

    def resolved(self, default: Preset = "none") -> FilterConfig:
        """These filters with the preset's choices in place of what is null.

        Args:
            default: the preset of the text's source, where none is set.
        """
        preset = self.preset or default
        if preset == "none":
            return self  # null is off
        changes: dict[str, Any] = {"preset": preset}
        for name in ("web", "quality", "repetition", "code"):
            family = getattr(self, name)
            if family.enabled is None:
                changes[name] = family.model_copy(update={"enabled": name in _PRESETS[preset]})
        if preset == "books":
            usual = QualityConfig.model_fields
            any_book = {"max_words": None, "min_stop_words": 0}
            free = {name: any_ for name, any_ in any_book.items() if getattr(self.quality, name) == usual[name].default}
            changes["quality"] = changes.get("quality", self.quality).model_copy(update=free)
        return self.model_copy(update=changes)
