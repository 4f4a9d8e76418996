"""Shingles: the word n-grams of a text as 64-bit hashes, which near-duplicates and contamination are judged by.

A word is a run of letters and digits, or one character where the script has no spaces (scripts.py); case, spacing, punctuation
and compatibility forms (full-width letters, ligatures) do not count. A text of fewer than n words is one gram: all that it has.

Legend: T texts, W words of all texts, G grams of all texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np

from pipeline_lib.languages.scripts import WORD_WEIGHT, characters, is_spaced, tokens, weights

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, of 2**64 divided by the golden ratio
MAX_CACHED_WORDS = 1_000_000  # some 150 MB


class WordHashes(dict[str, int]):
    """64 bits of each word, the same on every machine; remembers the words that it saw, up to a bound."""

    def __missing__(self, word: str) -> int:
        if len(self) >= MAX_CACHED_WORDS:
            self.clear()
        value = self[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        return value


_HASHES = WordHashes()


class HashedWords(NamedTuple):
    """The hashed words of all texts, one after the other (W, uint64), where each text begins and ends (T + 1), their weights.

    Weights are of scripts.py (W); None where all words count the same.
    """

    hashes_W: np.ndarray
    offsets: np.ndarray
    weights_W: np.ndarray | None


def hash_words(texts: Sequence[str], weighed: bool = False) -> HashedWords:
    """Split and hash texts.

    Args:
        weighed: grams are to be as many words as weigh n, rather than n words.
    """
    found = [tokens(text) for text in texts]
    hashed = _hashed(found)
    if not weighed or all(map(is_spaced, texts)):
        return hashed
    return hashed._replace(weights_W=np.fromiter(chain.from_iterable(map(weights, found)), np.int64, len(hashed.hashes_W)))


def _hashed(found: Sequence[Sequence[str]]) -> HashedWords:
    offsets = np.cumsum([0, *map(len, found)])
    hashes_W = np.fromiter(map(_HASHES.__getitem__, chain.from_iterable(found)), np.uint64, int(offsets[-1]))
    return HashedWords(hashes_W, offsets, None)


def grams(words: HashedWords, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The n-grams of each text as 64-bit hashes in order (G, uint64), and where those of each text begin and end (T + 1).

    Args:
        n: words of a gram, or what they weigh together; a text of fewer words that has any is one gram.
    """
    offsets, sizes_T = words.offsets, np.diff(words.offsets)
    if words.weights_W is not None:
        starts_G, lengths_G, counts_T = _weighed(words.weights_W, offsets, n)
    else:
        counts_T = np.where(sizes_T >= n, sizes_T - n + 1, np.minimum(sizes_T, 1))
        starts_G = np.arange(counts_T.sum()) + np.repeat(offsets[:-1] - np.cumsum(counts_T) + counts_T, counts_T)
        lengths_G = np.repeat(np.minimum(sizes_T, n), counts_T)
    hashes_G = np.empty(len(starts_G), np.uint64)
    for length in np.unique(lengths_G):
        which = np.flatnonzero(lengths_G == length)
        hashes_G[which] = _fold(words.hashes_W, starts_G[which], int(length))
    return hashes_G, np.concatenate([[0], np.cumsum(counts_T)])


def _weighed(weights_W: np.ndarray, offsets: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each gram begins, its words, and the grams of each text."""
    before = np.concatenate([[0], np.cumsum(weights_W)])
    ends_W = np.searchsorted(before, before[:-1] + n * WORD_WEIGHT)
    texts_W = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    fits = ends_W <= offsets[1:][texts_W]
    counts_T = np.bincount(texts_W[fits], minlength=len(offsets) - 1)
    alone = (counts_T == 0)[texts_W] & (np.arange(len(texts_W)) == offsets[:-1][texts_W])
    starts_G = np.flatnonzero(fits | alone)
    ends_G = np.where(fits, ends_W, offsets[1:][texts_W])[starts_G]
    return starts_G, ends_G - starts_G, np.where(counts_T, counts_T, np.minimum(np.diff(offsets), 1))


def shingle_sets(texts: Sequence[str], n: int, weighed: bool = False) -> list[np.ndarray]:
    """The set of n-grams of each text: sorted, each once."""
    return _sets(hash_words(texts, weighed), n)


def character_sets(texts: Sequence[str], n: int) -> list[np.ndarray]:
    """The set of n-grams of characters, marks and spaces too, of each text without spaces between words; else an empty one."""
    return _sets(_hashed([characters(text) for text in texts]), n)


def _sets(words: HashedWords, n: int) -> list[np.ndarray]:
    hashes_G, ends = grams(words, n)
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
