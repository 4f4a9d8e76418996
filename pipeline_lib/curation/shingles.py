"""Texts as sets of hashed word n-grams: what near-duplicates and contamination are both judged by.

A word is a run of letters and digits; case, spacing, punctuation and compatibility forms (full-width letters, ligatures)
do not count. A text of fewer than n words is one gram: all that it has.

Legend: T texts, W words of all texts, G grams of all texts.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from itertools import chain, pairwise

import numpy as np

WORD = re.compile(r"[^\W_]+")
FOLDED = {code: chr(code).lower() if chr(code).isalnum() else " " for code in range(128)}

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, of 2**64 divided by the golden ratio
MAX_CACHED_WORDS = 1_000_000  # some 150 MB


def words_of(text: str) -> list[str]:
    """The words of a text in order, case-folded and without punctuation."""
    if text.isascii():  # a third of the expression's time
        return text.translate(FOLDED).split()
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


class WordHashes(dict[str, int]):
    """64 bits of each word, the same on every machine; remembers the words that it saw, up to a bound."""

    def __missing__(self, word: str) -> int:
        if len(self) >= MAX_CACHED_WORDS:
            self.clear()
        value = self[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        return value


_HASHES = WordHashes()


def hash_words(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The hashed words of all texts, one after the other (W, uint64), and where each text begins and ends (T + 1)."""
    found = [words_of(text) for text in texts]
    offsets = np.cumsum([0, *map(len, found)])
    return np.fromiter(map(_HASHES.__getitem__, chain.from_iterable(found)), np.uint64, int(offsets[-1])), offsets


def grams(words_W: np.ndarray, offsets: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The n-grams of each text as 64-bit hashes in order (G, uint64), and where those of each text begin and end (T + 1).

    Args:
        words_W: hashed words of all texts.
        offsets: where each text begins and ends among them.
        n: words of a gram; a text of fewer words that has any is one gram.
    """
    sizes_T = np.diff(offsets)
    counts_T = np.where(sizes_T >= n, sizes_T - n + 1, np.minimum(sizes_T, 1))
    ends = np.concatenate([[0], np.cumsum(counts_T)])
    starts_G = np.arange(ends[-1]) + np.repeat(offsets[:-1] - ends[:-1], counts_T)
    lengths_G = np.repeat(np.minimum(sizes_T, n), counts_T)
    hashes_G = np.empty(len(starts_G), np.uint64)
    for length in np.unique(lengths_G):
        which = np.flatnonzero(lengths_G == length)
        hashes_G[which] = _fold(words_W, starts_G[which], int(length))
    return hashes_G, ends


def shingle_sets(texts: Sequence[str], n: int) -> list[np.ndarray]:
    """The set of n-grams of each text: sorted, each once."""
    hashes_G, ends = grams(*hash_words(texts), n)
    return [_sorted_once(hashes_G[begin:end]) for begin, end in pairwise(ends)]


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """The Jaccard index of two sets as `shingle_sets` gives them; 0 where both are empty."""
    shared = np.intersect1d(one, other, assume_unique=True).size
    return shared / max(1, one.size + other.size - shared)


def mix(values: np.ndarray) -> np.ndarray:
    """Spread 64-bit values evenly: the finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _sorted_once(values: np.ndarray) -> np.ndarray:
    values = np.sort(values)  # np.unique hashes first, which takes five times as long for some hundred values
    return values[np.flatnonzero(np.diff(values, prepend=~values[:1]))]


def _fold(words_W: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """The hash of `length` words from each start."""
    hashes = np.zeros(len(starts), np.uint64)
    for at in range(length):
        hashes = hashes * MULTIPLIER + words_W[starts + at]
    return mix(hashes)
