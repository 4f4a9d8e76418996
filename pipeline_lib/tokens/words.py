"""Texts to ids word by word, each different word tokenized once: for tokenizers that read words apart from each other.

The library normalises and splits every text anew, 290 us a function of 600 characters; most of its words came before. What is
between ASCII characters that are no letters or digits can be looked up: nothing that the tokenizer does reaches over one of
these, since each becomes a space. A property test holds both ways against each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import chain
from typing import Generic, TypeVar

from tokenizers import Tokenizer, models

from pipeline_lib.tokens.repeats import drop_repeated_words, steps_of, without_repeat_step

V = TypeVar("V")

KNOWN_WORDS = 100_000  # of the standard library and 15 packages, 99 % of all words are among so many; some 20 MB
KNOWN_CHARACTERS = 40  # longer words are data, and seldom come again

# What one word may hold: ASCII letters and digits, and all beyond ASCII, of which the tokenizer itself makes words.
_WORD = r"[^\x00-/:-@\[-^`{-\x7f_]+"
_WORD_WITH_UNDERSCORE = r"[^\x00-/:-@\[-^`{-\x7f]+"
_FOLDS = {r"[^\p{L}\p{M}\p{N}]+": _WORD, r"[^\p{L}\p{M}\p{N}_]+": _WORD_WITH_UNDERSCORE}
_CAMEL_HUMP = r"(?=\p{Lu})(?:(?<=[\p{Ll}\p{N}])|(?<=\p{Lu})(?=\p{Lu}\p{Ll}))"
_WORDS_APART = [("WhitespaceSplit", None, None), ("ByteLevel", True, False)]


class WordReader:
    """The ids of texts, as `tokenizer` gives them without delimiters.

    Args:
        tokenizer: for which `word_pattern` gives a pattern.
        pattern: that one.
    """

    def __init__(self, tokenizer: Tokenizer, pattern: str) -> None:
        self._find_words = re.compile(pattern).findall
        self._repeats = without_repeat_step(tokenizer)
        normalize = (self._repeats[0] if self._repeats else tokenizer.normalizer).normalize_str
        plain = _without_normalizer(tokenizer)
        self._parts_of: _Known[list[str]] = _Known(lambda word: normalize(word).split())
        self._ids_of: _Known[list[int]] = _Known(lambda part: plain.encode(part, add_special_tokens=False).ids)

    def ids(self, text: str) -> list[int]:
        """All ids of a text.

        Raises:
            TypeError: the text holds a lone surrogate.
        """
        parts = list(chain.from_iterable(map(self._parts_of.__getitem__, self._find_words(text))))
        if self._repeats is not None:
            parts = drop_repeated_words(parts, self._repeats[1])
        return list(chain.from_iterable(map(self._ids_of.__getitem__, parts)))


class _Known(dict[str, V], Generic[V]):
    """What `read` gives for a word, kept for the next time; forgotten all at once when there are too many."""

    def __init__(self, read: Callable[[str], V]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, word: str) -> V:
        value = self._read(word)
        if len(word) <= KNOWN_CHARACTERS:
            if len(self) >= KNOWN_WORDS:
                self.clear()
            self[word] = value
        return value


def word_pattern(tokenizer: Tokenizer) -> str | None:
    """The pattern of a text's words, or None where the tokenizer does anything that may reach from one to the next."""
    splits = steps_of(tokenizer.pre_tokenizer, "pretokenizers")
    apart = [(split["type"], split.get("add_prefix_space"), split.get("use_regex")) for split in splits]
    if apart != _WORDS_APART or not isinstance(tokenizer.model, models.BPE) or tokenizer.get_added_tokens_decoder():
        return None
    steps = steps_of(tokenizer.normalizer)
    if without_repeat_step(tokenizer):
        steps = steps[:-1]
    patterns = [step["pattern"].get("Regex") for step in steps if step["type"] == "Replace" and step["content"] == " "]
    folds = [_FOLDS[pattern] for pattern in patterns if pattern in _FOLDS]
    known = len(patterns) + sum(step["type"] in ("Lowercase", "Strip") for step in steps) == len(steps)
    only = len(folds) == 1 and set(patterns) <= {*_FOLDS, _CAMEL_HUMP}
    return folds[0] if known and only else None


def _without_normalizer(tokenizer: Tokenizer) -> Tokenizer:
    """Of the same model, in the same memory."""
    reader = Tokenizer(tokenizer.model)
    reader.pre_tokenizer = tokenizer.pre_tokenizer
    reader.encode_special_tokens = True
    return reader
