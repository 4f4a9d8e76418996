"""How much of a text repeats itself: the measures of Rae et al. 2021 (Gopher; arXiv 2112.11446, table A1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def repeated_share(units: Sequence[str]) -> float:
    """Share of the lines or paragraphs that came before."""
    return (len(units) - len(set(units))) / len(units) if units else 0.0


def repeated_size_share(units: Sequence[str]) -> float:
    """Share of the characters that lie in lines or paragraphs that came before."""
    size = sum(map(len, units))
    return (size - sum(map(len, set(units)))) / size if size else 0.0


def top_ngram_share(words: Sequence[str], n: int) -> float:
    """Share of the words' characters in all occurrences of the most frequent n-gram; 0 where none comes twice.

    Of equally frequent ones the longest counts. Occurrences that overlap count in full, so that the share is cut at 1.
    """
    counts = Counter(zip(*(words[start:] for start in range(n)), strict=False))
    most = max(counts.values(), default=0)
    if most < 2:
        return 0.0
    longest = max(sum(map(len, ngram)) for ngram, count in counts.items() if count == most)
    return min(1.0, most * longest / sum(map(len, words)))


def repeated_ngram_share(words: Sequence[str], n: int) -> float:
    """Share of the words' characters in n-grams that came before, none counted twice where they overlap."""
    seen: set[tuple[str, ...]] = set()
    ngrams = zip(*(words[start:] for start in range(n)), strict=False)
    again = [start for start, ngram in enumerate(ngrams) if ngram in seen or seen.add(ngram)]  # type: ignore[func-returns-value]
    repeated = counted_to = 0
    for start in again:
        repeated += sum(map(len, words[max(start, counted_to) : start + n]))
        counted_to = start + n
    return repeated / sum(map(len, words)) if repeated else 0.0
