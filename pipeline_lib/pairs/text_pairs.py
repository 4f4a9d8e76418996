"""Pairs of neighbouring text: adjacent, non-overlapping pieces of one document (paper, section 2.1)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from pipeline_lib.config import TextPairsConfig
from pipeline_lib.pairs.filters import text_drop
from pipeline_lib.pairs.prose import Paragraph


class Piece(NamedTuple):
    """Between min_words and max_words of one document, cut at the bound of a paragraph or a sentence."""

    text: str
    words: int
    line: int  # of its first word's paragraph


@dataclass(frozen=True, slots=True)
class Section:
    """A run of prose whose pieces are neighbours: a file, or one docstring."""

    name: str
    paragraphs: Sequence[Paragraph]


@dataclass(frozen=True, slots=True)
class TextPair:
    """A piece and the next one."""

    x: str
    y: str
    line: int  # of y
    name: str


class _Unit(NamedTuple):
    text: str
    words: int
    line: int
    ends_paragraph: bool


_SENTENCE_END = re.compile(r"[.!?][\"')\]]?\s+(?=[\"'(\[]?[A-Z0-9])")


def segment(paragraphs: Iterable[Paragraph], config: TextPairsConfig) -> list[Piece]:
    """Cut a document into pieces, in order and without overlap; together they are its words but for a short remainder.

    A piece ends at a paragraph's end once it has `target_words`, at a sentence's end once it has twice as many, and before a
    sentence that would bring it above `max_words`. A sentence of more than max_words - min_words is cut between words. What
    is left at the end, fewer than min_words, joins the last piece where that stays within max_words, and is left out
    otherwise.
    """
    pieces: list[list[_Unit]] = []
    current: list[_Unit] = []
    words = 0
    least, most = config.min_words, config.max_words
    enough, enough_inside = max(config.target_words, least), max(2 * config.target_words, least)
    for unit in _units(paragraphs, config):
        if words >= least and words + unit.words > most:
            pieces.append(current)
            current, words = [], 0
        current.append(unit)
        words += unit.words
        if words >= (enough if unit.ends_paragraph else enough_inside):
            pieces.append(current)
            current, words = [], 0
    if words >= least:
        pieces.append(current)
    elif current and pieces and words + sum(unit.words for unit in pieces[-1]) <= most:
        pieces[-1].extend(current)
    return [_piece(units) for units in pieces]


def least_words_of_a_pair(config: TextPairsConfig) -> int:
    """Words below which `segment` gives at most one piece, whatever the text."""
    return min(max(config.target_words, config.min_words) + config.min_words, config.max_words + 1)


def _units(paragraphs: Iterable[Paragraph], config: TextPairsConfig) -> Iterator[_Unit]:
    """Whole paragraphs where they are short, else sentences; at most max_words - min_words each, so that one always fits."""
    longest = max(1, config.max_words - config.min_words)
    whole = min(longest, config.target_words)
    for paragraph in paragraphs:
        if paragraph.words <= whole:
            yield _Unit(paragraph.text, paragraph.words, paragraph.line, ends_paragraph=True)
            continue
        chunks = [
            sentence[start : start + longest]
            for sentence in map(str.split, _sentences(paragraph.text))
            for start in range(0, len(sentence), longest)
        ]
        for index, chunk in enumerate(chunks):
            yield _Unit(" ".join(chunk), len(chunk), paragraph.line, ends_paragraph=index == len(chunks) - 1)


def _sentences(text: str) -> Iterator[str]:
    start = 0
    for end in _SENTENCE_END.finditer(text):
        yield text[start : end.end()]
        start = end.end()
    yield text[start:]


def _piece(units: list[_Unit]) -> Piece:
    text = "".join(unit.text + ("\n" if unit.ends_paragraph else " ") for unit in units).rstrip()
    return Piece(text, sum(unit.words for unit in units), units[0].line)


def text_pairs(sections: Iterable[Section], config: TextPairsConfig, dropped: Counter[str]) -> list[TextPair]:
    """The pairs (p_i, p_i+1) of a document's sections, at most `max_pairs_per_document`, evenly spread over it.

    Every neighbourhood that gives no pair is counted in `dropped`.
    """
    pairs: list[TextPair] = []
    for section in sections:
        pieces = segment(section.paragraphs, config)
        for x, y in pairwise(pieces):
            reason = text_drop(x.text, y.text, config)
            if reason is None:
                pairs.append(TextPair(x.text, y.text, y.line, section.name))
            else:
                dropped[reason] += 1
    most = config.max_pairs_per_document
    if len(pairs) <= most:
        return pairs
    dropped["over_document_limit"] += len(pairs) - most
    return [pairs[index * len(pairs) // most] for index in range(most)]
