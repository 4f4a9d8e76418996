"""Batch search: a file of queries in, a run file of TREC's form out, both as streams.

A query is a line: a JSON object with an id and a text, under the names of BEIR and others, or `id<TAB>text`. What cannot be
searched is counted under a reason and never ends the run. The run file has a line a hit, `qid Q0 docid rank score tag`, with
which trec_eval, ranx and ir-measures compute every metric; docid is the id of a pair, see `cpt trace`. These programs read no
rank: they order by score, which trec_eval holds in 4 bytes, and equal ones by docid. A score that is not below the one before
is written as the next lower number.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any, cast

import numpy as np

from pipeline_lib.errors import UserError

QUERIES_AT_ONCE = 64  # embedded together
MAX_LINE_BYTES = 1 << 20
REMEMBERED = 1_000_000  # ids by which a second query of the same id is known, some 90 MB
IDS, TEXTS = ("id", "_id", "qid", "query_id"), ("text", "query", "title")
TAG = "cpt"
Answer = Callable[[Sequence[str]], Sequence[Sequence[tuple[str, float]]]]
_SPACE = re.compile(r"[\s\x00-\x1f\x7f]")


@dataclass
class BatchCounts:
    """What became of the lines of a file of queries.

    Attributes:
        dropped: lines that gave no query, by reason: not_utf8, not_json, no_tab, no_id, id_with_space, no_text, duplicate_id,
            line_too_long, damaged_gzip (what comes after the line cannot be read).
        first: the number of the first such line of each reason, from 1.
        unanswered: queries that no row was found for.
        same_pair: hits whose docid stands above already, for the other passage of the pair; trec_eval takes none twice.
    """

    queries: int = 0
    hits: int = 0
    unanswered: int = 0
    same_pair: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str, number: int) -> None:
        """Count a line that gives no query."""
        self.dropped[reason] += 1
        self.first.setdefault(reason, number)

    def sentence(self) -> str:
        """The counts in a line."""
        told = f"{self.queries:,} queries, {self.hits:,} hits"
        if self.unanswered:
            told += f", {self.unanswered:,} queries without a hit"
        if self.same_pair:
            told += f", {self.same_pair:,} hits left out: the other passage of their pair stands above"
        for reason, count in self.dropped.most_common():
            told += f"; {count:,} left out: {reason}, the first in line {self.first[reason]:,}"
        return told


def read_queries(stream: IO[bytes], counts: BatchCounts) -> Iterator[tuple[str, str]]:
    """(id, text) of each query of a file, in its order; other lines are counted. Empty lines are no queries."""
    seen: set[str] = set()
    for number, line in enumerate(_lines(stream), start=1):
        found = _query(line) if isinstance(line, bytes) else line
        if found is None:
            continue
        if isinstance(found, str):
            counts.drop(found, number)
        elif found[0] in seen:
            counts.drop("duplicate_id", number)
        else:
            if len(seen) < REMEMBERED:
                seen.add(found[0])
            yield found


@contextmanager
def _unpacked(stream: IO[bytes]) -> Iterator[io.BufferedIOBase]:
    """The stream, whether gzip packed it or not."""
    seen = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(cast(Any, stream))
    try:
        yield gzip.GzipFile(fileobj=seen) if seen.peek(2)[:2] == b"\x1f\x8b" else seen
    finally:
        if seen is not stream:
            seen.detach()  # thrown away whole it would close what is not its own


def _lines(packed: IO[bytes]) -> Iterator[bytes | str]:
    """The lines, the reason in place of one that cannot be read whole."""
    first = True
    with _unpacked(packed) as stream:
        try:
            while line := stream.readline(MAX_LINE_BYTES + 1):
                if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                    while (rest := stream.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                        pass
                    yield "line_too_long"
                else:
                    yield line.removeprefix(b"\xef\xbb\xbf") if first else line
                first = False
        except (EOFError, zlib.error, gzip.BadGzipFile):
            yield "damaged_gzip"


def _query(line: bytes) -> tuple[str, str] | str | None:
    """(id, text), or the reason why there is none; None for an empty line."""
    try:
        text = line.decode("utf-8").strip("\r\n")
    except UnicodeDecodeError:
        return "not_utf8"
    if not text.strip():
        return None
    if text.lstrip().startswith("{"):
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            return "not_json"
        qid, words = _value(record, IDS), _value(record, TEXTS)
    else:
        qid, tab, words = text.partition("\t")
        qid = qid.strip()
        if not tab:
            return "no_tab"
    if reason := _id_fault(qid):
        return reason
    words = words.encode("utf-8", "replace").decode()  # JSON can hold halves of characters
    return (qid, words) if words.strip() else "no_text"


def _id_fault(qid: str) -> str:
    if not qid:
        return "no_id"
    if _SPACE.search(qid):
        return "id_with_space"
    return "" if qid.encode("utf-8", "ignore").decode() == qid else "not_utf8"


def _value(record: dict[str, Any], names: Iterable[str]) -> str:
    """The first of these fields that is a string or a whole number."""
    for name in names:
        value = record.get(name)
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            return str(value).strip() if name in IDS else str(value)
    return ""


def check_tag(tag: str) -> str:
    """The tag of a run.

    Raises:
        UserError: it is empty or holds a space.
    """
    if not tag or _SPACE.search(tag):
        raise UserError(f"--tag {tag!r}: one word, as in --tag bm25")
    return tag


def write_run(
    queries: Iterator[tuple[str, str]], answer: Answer, out: IO[str], tag: str = TAG, counts: BatchCounts | None = None
) -> BatchCounts:
    """Search query by query and write a run file; at no time are more than QUERIES_AT_ONCE queries held.

    Args:
        answer: takes texts and gives for each a list of (docid, score), best first.
        counts: those that `read_queries` counts in.
    """
    counts = counts or BatchCounts()
    while batch := list(islice(queries, QUERIES_AT_ONCE)):
        for (qid, _), found in zip(batch, answer([text for _, text in batch]), strict=True):
            falling = _falling(found)
            for rank, (docid, score) in enumerate(falling, start=1):
                out.write(f"{qid} Q0 {docid} {rank} {score:.9g} {tag}\n")
            counts.queries += 1
            counts.hits += len(falling)
            counts.same_pair += len(found) - len(falling)
            counts.unanswered += not found
    return counts


def _falling(found: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Each docid once, where it stands first, and scores of which each is below the one before in 4 bytes."""
    falling: dict[str, float] = {}
    last = np.float32(np.inf)
    for docid, score in found:
        if docid not in falling:
            last = min(np.float32(score), np.nextafter(last, np.float32(-np.inf)))
            falling[docid] = float(last)
    return list(falling.items())
