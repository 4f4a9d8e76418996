"""Tokenization word by word, each different word once, and the limit on a word's repeats in a text.

The library normalises and splits every text anew, 290 us a function of 600 characters; most of its words came before. What is
between ASCII characters that are no letters or digits can be looked up: nothing that the tokenizer does reaches over one of
these, since each becomes a space.

The limit on repeats is a pattern that tokenizer.json can hold, and the same rule in a tenth of its time. The pattern is for
whoever loads the export; the search for a word's next occurrence at every word makes it dear. Both read words between single
spaces, as the normaliser leaves them, and both look REACH words ahead, so that a long text costs a constant a word.

Property tests hold the two ways of each against each other.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Generic, TypeVar

from tokenizers import Tokenizer, models, normalizers

REACH = 100  # words between two occurrences, beyond which the first one stays; a function has as many
MOST = 8


def repeated_word(n: int) -> str:
    """A pattern for a word and its space where the word comes `n` times more, each within REACH words of the one before."""
    further = rf"(?>(?:[^ ]+ ){{0,{REACH}}}?\1 )" * (n - 1)
    return rf"(?<![^ ])([^ ]+) (?={further}(?:[^ ]+ ){{0,{REACH}}}?\1(?: |$))"


def drop_repeated_words(words: Sequence[str], n: int) -> list[str]:
    """The words that `repeated_word(n)` leaves."""
    often = {word for word, count in Counter(words).items() if count > n}
    next_of: dict[str, tuple[int, int]] = {}  # word -> where it comes next, and how many follow that one closely
    kept = []
    for place in range(len(words) - 1, -1, -1):
        word = words[place]
        if word not in often:
            kept.append(word)
            continue
        following = next_of.get(word)
        chain = following[1] + 1 if following is not None and following[0] - place <= REACH + 1 else 0
        next_of[word] = (place, chain)
        if chain < n:
            kept.append(word)
    kept.reverse()
    return kept


def without_repeat_step(tokenizer: Tokenizer) -> tuple[normalizers.Normalizer, int] | None:
    """The normaliser up to its last step, and that step's n, where the last step is `repeated_word(n)`; else None."""
    steps = steps_of(tokenizer.normalizer)
    pattern = steps[-1].get("pattern", {}).get("Regex") if steps else None
    for n in range(1, MOST + 1):
        if pattern == repeated_word(n):
            return normalizers.Sequence([tokenizer.normalizer[i] for i in range(len(steps) - 1)]), n
    return None


def steps_of(part: Any, name: str = "normalizers") -> list[dict[str, Any]]:
    """The steps of a sequence of normalisers or of pre-tokenizers, as tokenizer.json spells them; none where it is no such."""
    return json.loads(part.__getstate__()).get(name) or [] if part is not None else []


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
    """A tokenizer of the same model, in the same memory, without normaliser."""
    reader = Tokenizer(tokenizer.model)
    reader.pre_tokenizer = tokenizer.pre_tokenizer
    reader.encode_special_tokens = True
    return reader
