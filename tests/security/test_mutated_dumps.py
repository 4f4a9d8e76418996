"""Row S06: whatever the bytes are, a reader of dumps finds texts or refuses; it raises nothing and gives valid Unicode."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from dump_files import conversion, page, read_dump, response
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.safe_open import SourceText
from pipeline_lib.sources.source_file import Form

LIMITS = ReadLimits(max_text_bytes=100_000, max_expanded_bytes=5_000_000)
XML = (
    "<mediawiki><page><title>A</title><ns>0</ns><revision><text>'''A''' {{b|c}} [[d]] &lt;ref&gt;e&lt;/ref&gt;\n"
    "== F ==\n{|\n|g\n|}</text></revision></page></mediawiki>"
)
POSTS = "<posts>" + "".join(f'<row Id="{i}" Body="&lt;p&gt;é {i} &lt;b&gt;x&lt;/b&gt;" />\n' for i in range(4)) + "</posts>"
TEX = (
    "\\documentclass{a}\n\\begin{document}\\section{É} A $x$~\\cite{b}.\n\\begin{itemize}\\item c\\end{itemize}\\end{document}"
)
LINES = b"".join(json.dumps({"text": f"é {i}", "meta": {"url": f"http://a.org/{i}"}}).encode() + b"\n" for i in range(5))


def parquet() -> bytes:
    out = io.BytesIO()
    rows = [{"text": f"Text é {i}.", "url": f"http://a.org/{i}"} for i in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=7, compression="snappy")
    return out.getvalue()


@functools.cache
def seeds() -> dict[str, tuple[Form, bytes]]:
    """A small valid file of each kind."""
    pages = [(i, b"HTTP/1.0 200 OK\r\n\r\n" + page(f"é {i}")) for i in range(3)]
    warc = [response(f"http://a.org/{i}", page(f"é {i}"), gzip=False) for i in range(3)]
    return {
        "warc": ("warc", b"".join(warc)),
        "warc.gz": ("warc", b"".join(map(gzip.compress, warc))),
        "arc": (
            "warc",
            b"".join(b"http://a.org/%d 10.0.0.1 20011231235959 text/html %d\n%s\n" % (i, len(p), p) for i, p in pages),
        ),
        "wet.gz": ("warc", conversion("http://a.org/", "Some text.") * 2),
        "html": ("html", page("é") + b"<table><tr><td>x</table><svg><p>&#x110000;&amp" * 5),
        "xml": ("mediawiki", XML.encode()),
        "xml.bz2": ("mediawiki", bz2.compress(XML.encode())),
        "jsonl": ("json_lines", LINES),
        "jsonl.zst": ("json_lines", zstandard.ZstdCompressor().compress(LINES)),
        "parquet": ("parquet", parquet()),
        "json": ("json_lines", json.dumps([{"text": f"é {i}", "more": [{"a": "]"}]} for i in range(5)], indent=1).encode()),
        "csv": ("csv", "".join(f'{i},"é {i},\nx"\r\n' for i in range(5)).join(["id,text\r\n", ""]).encode()),
        "posts.xml": ("stack_exchange", POSTS.encode()),
        "tex": ("latex", TEX.encode()),
    }


NAMES = (
    "warc",
    "warc.gz",
    "arc",
    "wet.gz",
    "html",
    "xml",
    "xml.bz2",
    "jsonl",
    "jsonl.zst",
    "parquet",
    "json",
    "csv",
    "posts.xml",
    "tex",
)
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4), st.binary(max_size=12)), min_size=1, max_size=4)


def mutated(data: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """The bytes with some replaced by others, left out or put in."""
    for where, removed, put in changes:
        at = int(where * len(data))
        data = data[:at] + put + data[at + removed :]
    return data


@pytest.mark.parametrize("name", NAMES)
@given(changes=edits)
@example(changes=[(0.45502938613760635, 4, b"")])  # a digest's header that only one of two parsers sees
@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_s06_mutated_bytes_give_texts_or_refusals(
    tmp_path_factory: pytest.TempPathFactory, name: str, changes: list[tuple[float, int, bytes]]
) -> None:
    form, seed = seeds()[name]
    path = tmp_path_factory.getbasetemp() / f"mutated.{name}"
    path.write_bytes(mutated(seed, changes))
    for found in read_dump(path, form, LIMITS):
        found.file.model_dump_json().encode()
        if isinstance(found.content, SourceText):
            assert found.content.text.encode() == found.content.data and "\0" not in found.content.text
        else:
            assert found.content.reason.isidentifier()
            f"{found.content.reason} {found.content.detail}".encode()


@pytest.mark.parametrize("name", NAMES)
@given(data=st.binary(max_size=300))
@settings(deadline=None, max_examples=60)
def test_s06_noise_gives_texts_or_refusals(tmp_path_factory: pytest.TempPathFactory, name: str, data: bytes) -> None:
    form, seed = seeds()[name]
    path = tmp_path_factory.getbasetemp() / f"noise.{name}"
    for content in (data, seed[:20] + data, data + seed):
        path.write_bytes(content)
        assert all(found.content for found in read_dump(path, form, LIMITS))
