"""Pairs of neighbouring text: adjacent, non-overlapping segments of one document (paper, section 2.1)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from textwrap import wrap
from typing import NamedTuple

from pipeline_lib.config.data import TextPairsConfig, TextView
from pipeline_lib.pairs.filters import note_drop, text_drop
from pipeline_lib.pairs.prose import Paragraph


class Segment(NamedTuple):
    """Between min_words and max_words of one document, cut at the bound of a paragraph or a sentence."""

    text: str
    size: int  # in the config's unit
    line: int  # of its first word's paragraph


@dataclass(frozen=True, slots=True)
class Section:
    """A run of prose whose segments are neighbours: a file, or one docstring."""

    name: str
    paragraphs: Sequence[Paragraph]


@dataclass(frozen=True, slots=True)
class TextPair:
    """A segment and the next one, or what else the view takes for x."""

    x: str
    y: str
    line: int  # of y
    name: str
    view: TextView = "neighbour"


class _Unit(NamedTuple):
    text: str
    size: int
    line: int
    ends_paragraph: bool


_SENTENCE_END = re.compile(r"[.!?][\"')\]]?\s+(?=[\"'(\[]?[A-Z0-9])")


def segment(paragraphs: Iterable[Paragraph], config: TextPairsConfig) -> list[Segment]:
    """Cut a document into segments, in order and without overlap; together they are its words but for a short remainder.

    A segment ends at a paragraph's end once it has `target_words`, at a sentence's end once it has twice as many, and before a
    sentence that would bring it above `max_words`. A sentence of more than max_words - min_words is cut between words. What
    is left at the end, fewer than min_words, joins the last segment where that stays within max_words, and is left out
    otherwise.
    """
    segments: list[list[_Unit]] = []
    current: list[_Unit] = []
    size = 0
    least, most = config.min_words, config.max_words
    enough, enough_inside = max(config.target_words, least), max(2 * config.target_words, least)
    for unit in _units(paragraphs, config):
        if size >= least and size + unit.size > most:
            segments.append(current)
            current, size = [], 0
        current.append(unit)
        size += unit.size
        if size >= (enough if unit.ends_paragraph else enough_inside):
            segments.append(current)
            current, size = [], 0
    if size >= least:
        segments.append(current)
    elif current and segments and size + sum(unit.size for unit in segments[-1]) <= most:
        segments[-1].extend(current)
    return [_joined(units) for units in segments]


def least_size_of_a_pair(config: TextPairsConfig) -> int:
    """Words, or characters, below which `segment` gives at most one segment, whatever the text."""
    return min(max(config.target_words, config.min_words) + config.min_words, config.max_words + 1)


def _units(paragraphs: Iterable[Paragraph], config: TextPairsConfig) -> Iterator[_Unit]:
    """Whole paragraphs where they are short, else sentences; at most max_words - min_words each, so that one always fits."""
    longest = max(1, config.max_words - config.min_words)
    whole = min(longest, config.target_words)
    by_words = config.unit == "words"
    for paragraph in paragraphs:
        size = paragraph.words if by_words else len(paragraph.text) + 1  # a space or line break ends each unit
        if size <= whole:
            yield _Unit(paragraph.text, size, paragraph.line, ends_paragraph=True)
            continue
        cut = _cut_words if by_words else _cut_characters
        chunks = [chunk for sentence in _sentences(paragraph.text) for chunk in cut(sentence, longest)]
        for index, (text, size) in enumerate(chunks):
            yield _Unit(text, size, paragraph.line, ends_paragraph=index == len(chunks) - 1)


def _cut_words(sentence: str, longest: int) -> Iterator[tuple[str, int]]:
    words = sentence.split()
    for start in range(0, len(words), longest):
        chunk = words[start : start + longest]
        yield " ".join(chunk), len(chunk)


def _cut_characters(sentence: str, longest: int) -> Iterator[tuple[str, int]]:
    for chunk in wrap(sentence, max(1, longest - 1), break_on_hyphens=False):
        yield chunk, len(chunk) + 1


def _sentences(text: str) -> Iterator[str]:
    start = 0
    for end in _SENTENCE_END.finditer(text):
        yield text[start : end.end()]
        start = end.end()
    yield text[start:]


def _joined(units: list[_Unit]) -> Segment:
    text = "".join(unit.text + ("\n" if unit.ends_paragraph else " ") for unit in units).rstrip()
    return Segment(text, sum(unit.size for unit in units), units[0].line)


def text_pairs(sections: Iterable[Section], config: TextPairsConfig, dropped: Counter[str]) -> list[TextPair]:
    """The pairs of a document, of all views: at most `max_pairs_per_document`, evenly spread over it.

    Every candidate that gives no pair is counted in `dropped`.
    """
    pairs: list[TextPair] = []
    for section in sections:
        for view, x, y in _candidates(section.paragraphs, config):
            short = view == "title" and len(x.split()) < config.min_title_words
            reason = "short_title" if short else text_drop(x, y.text, config)
            if reason is None:
                pairs.append(TextPair(x, y.text, y.line, section.name, view))
            else:
                note_drop(dropped, reason, lambda: (x, y.text))  # noqa: B023 - called at once
    most = config.max_pairs_per_document
    if len(pairs) <= most:
        return pairs
    dropped["over_document_limit"] += len(pairs) - most
    return [pairs[index * len(pairs) // most] for index in range(most)]


def _candidates(paragraphs: Sequence[Paragraph], config: TextPairsConfig) -> Iterator[tuple[TextView, str, Segment]]:
    """View, x and y, each view's in the order of the document."""
    if "neighbour" in config.views:
        for run in [paragraphs] if config.across_headings else _by_heading(paragraphs):
            yield from (("neighbour", x.text, y) for x, y in pairwise(segment(run, config)))
    if config.views == ("neighbour",):
        return
    firsts = [(run[0], segments[0]) for run in _by_heading(paragraphs) if (segments := segment(_body(run), config))]
    if "title" in config.views:
        yield from (("title", head.text, first) for head, first in firsts if head.heading)
    if "section" in config.views:
        yield from (("section", x.text, y) for (_, x), (_, y) in pairwise(firsts))


def _by_heading(paragraphs: Sequence[Paragraph]) -> list[Sequence[Paragraph]]:
    """The paragraphs cut before each heading."""
    starts = [index for index, paragraph in enumerate(paragraphs) if paragraph.heading or index == 0]
    return [paragraphs[start:end] for start, end in pairwise([*starts, len(paragraphs)])]


def _body(run: Sequence[Paragraph]) -> Sequence[Paragraph]:
    return run[1:] if run[0].heading else run
