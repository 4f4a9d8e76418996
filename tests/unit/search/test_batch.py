"""A batch writes one line a hit, leaves no line of its queries unaccounted for, and holds few of them at a time."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Sequence

import numpy as np
import pytest

from pipeline_lib.errors import UserError
from pipeline_lib.search.batch import MAX_LINE_BYTES, QUERIES_AT_ONCE, BatchCounts, check_tag, read_queries, write_run


def test_reads_json_lines_and_tabbed_lines() -> None:
    lines = [
        "q1\tparse a date",
        '{"id": "q2", "text": "größe"}',
        '{"_id": 3, "text": "of BEIR"}',
        '{"query_id": "q4", "query": "a\\tb"}',
        "",
        "q5\twith\ttabs\r",
    ]
    counts = BatchCounts()
    found = list(read_queries(io.BytesIO(b"\xef\xbb\xbf" + "\n".join(lines).encode()), counts))
    assert found == [("q1", "parse a date"), ("q2", "größe"), ("3", "of BEIR"), ("q4", "a\tb"), ("q5", "with\ttabs")]
    assert not counts.dropped


def test_a_bad_line_is_counted_and_ends_nothing() -> None:
    lines = [
        b"q1\tgood",
        b"no tab",
        b'{"id": "q2", "text": ',
        b'{"id": "q3"}',
        b'{"text": "without an id"}',
        b'{"id": true, "text": "x"}',
        b"q 4\tspace",
        b"q1\tagain",
        b"q5\t\xff\xfe",
        b"q6\t   ",
        b"q7\t" + b"x" * MAX_LINE_BYTES * 3,
        b"[" * 100,
        b'{"a":' * 5000,
        b'{"id": "\\ud800", "text": "half an id"}',
        b'{"id": "q9", "text": "half a \\udc00"}',
        b"q8\tlast",
    ]
    counts = BatchCounts()
    found = list(read_queries(io.BytesIO(b"\n".join(lines)), counts))
    assert found == [("q1", "good"), ("q9", "half a ?"), ("q8", "last")]
    assert counts.dropped == {
        "no_text": 2,
        "no_tab": 2,
        "not_json": 2,
        "no_id": 2,
        "id_with_space": 1,
        "duplicate_id": 1,
        "not_utf8": 2,
        "line_too_long": 1,
    }
    assert counts.first["line_too_long"] == 11 and counts.first["duplicate_id"] == 8


def test_writes_a_run_file_in_the_order_of_the_queries() -> None:
    def answer(texts: Sequence[str]) -> list[list[tuple[str, float]]]:
        return [[(f"{text}-a", 0.5), (f"{text}-b", 0.25)] if text != "none" else [] for text in texts]

    out = io.StringIO()
    counts = write_run(iter([("1", "x"), ("2", "none"), ("3", "y")]), answer, out, "mine")
    assert out.getvalue().splitlines() == [
        "1 Q0 x-a 1 0.5 mine",
        "1 Q0 x-b 2 0.25 mine",
        "3 Q0 y-a 1 0.5 mine",
        "3 Q0 y-b 2 0.25 mine",
    ]
    assert (counts.queries, counts.hits, counts.unanswered) == (3, 4, 1)
    assert counts.sentence() == "3 queries, 4 hits, 1 queries without a hit"


def test_few_queries_are_held_at_a_time() -> None:
    total, answered, widest = 100 * QUERIES_AT_ONCE + 1, [0], [0]
    lines = b"".join(json.dumps({"id": i, "text": f"t{i}"}).encode() + b"\n" for i in range(total))
    stream = io.BytesIO(lines)

    def answer(texts: Sequence[str]) -> list[list[tuple[str, float]]]:
        widest[0] = max(widest[0], lines[: stream.tell()].count(b"\n") - answered[0])
        answered[0] += len(texts)
        return [[("d", 1.0)]] * len(texts)

    counts = BatchCounts()
    write_run(read_queries(stream, counts), answer, io.StringIO(), counts=counts)
    in_buffer = 2 * io.DEFAULT_BUFFER_SIZE // len(b'{"id": 0, "text": "t0"}')
    assert counts.queries == total and QUERIES_AT_ONCE <= widest[0] <= QUERIES_AT_ONCE + in_buffer


def test_queries_may_be_packed_and_a_damaged_file_gives_what_it_has() -> None:
    lines = b"\xef\xbb\xbfq1\tfirst\r\n" + b"".join(b"n%d\tquery %d of %d\n" % (i, i * 7919, i) for i in range(5_000))
    packed, counts = gzip.compress(lines), BatchCounts()
    assert len(list(read_queries(io.BytesIO(packed), counts))) == 5_001 and not counts.dropped
    for damaged in (packed[: len(packed) // 2], packed[:20], packed[:2000] + b"\xff" * 2000 + packed[4000:]):
        counts = BatchCounts()
        found = list(read_queries(io.BytesIO(damaged), counts))
        assert len(found) < 5_001 and counts.dropped["damaged_gzip"] == 1, damaged[:9]
    assert list(read_queries(io.BytesIO(b""), BatchCounts())) == []


def test_who_orders_by_score_alone_reads_the_ranks_that_were_found() -> None:
    found = [("a", 1.0), ("b", 1.0), ("a", 1.0), ("c", 1.0 - 1e-12), ("d", 0.5), ("d", 0.4), ("e", -3.0), ("f", -3.0)]
    out = io.StringIO()
    counts = write_run(iter([("q", "x")]), lambda _: [found], out)
    rows = [line.split() for line in out.getvalue().splitlines()]
    scores = np.array([float(row[4]) for row in rows], np.float32)
    assert [row[2:4] for row in rows] == [[docid, str(rank)] for rank, docid in enumerate("abcdef", 1)]
    assert (np.diff(scores) < 0).all() and np.abs(scores - [1, 1, 1, 0.5, -3, -3]).max() < 1e-6
    assert (counts.hits, counts.same_pair) == (6, 2)
    assert counts.sentence() == "1 queries, 6 hits, 2 hits left out: the other passage of their pair stands above"


def test_a_tag_is_one_word() -> None:
    assert check_tag("bm25-v2") == "bm25-v2"
    for wrong in ("", "two words", "line\nbreak"):
        with pytest.raises(UserError, match="one word"):
            check_tag(wrong)
