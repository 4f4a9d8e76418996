"""Each word at most n times in a text: as a pattern that tokenizer.json can hold, and as the same rule in a tenth of its time.

The pattern is what others load; a search for a word's next occurrence at every word is what makes it dear. Both read words
between single spaces, as the normaliser leaves them, and both look REACH words ahead, so that a long text costs a constant a
word. A property test holds them against each other.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, normalizers

REACH = 100  # words between two occurrences, beyond which the first one stays; a function has as many
MOST = 8


def repeated_word(n: int) -> str:
    """A pattern for a word and its space where the word comes `n` times more, each within REACH words of the one before."""
    further = rf"(?>(?:[^ ]+ ){{0,{REACH}}}?\1 )" * (n - 1)
    return rf"(?<![^ ])([^ ]+) (?={further}(?:[^ ]+ ){{0,{REACH}}}?\1(?: |$))"


def drop_repeats(text: str, n: int) -> str:
    """What replacing `repeated_word(n)` by nothing leaves of a text of words between single spaces."""
    return " ".join(drop_repeated_words(text.split(" "), n))


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
