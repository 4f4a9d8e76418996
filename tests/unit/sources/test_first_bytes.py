"""What a file is, its first bytes say: under any name, compressed or not; what no reader takes is refused by what it is."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from dump_files import page, response

from pipeline_lib.config.data import ExtractConfig, SourceConfig
from pipeline_lib.errors import UserError
from pipeline_lib.pairs.extract import ExtractWork, extract_file
from pipeline_lib.pairs.tables import Rows
from pipeline_lib.sources.dump_files import list_source
from pipeline_lib.sources.dump_spec import DumpSource, guess_reader, known_readers, sources_of
from pipeline_lib.sources.first_bytes import KINDS, kind_of
from pipeline_lib.sources.readers import reader_names, reader_of, texts_of
from pipeline_lib.sources.record_fields import LAYOUTS, Options
from pipeline_lib.sources.records import SourceRecord
from pipeline_lib.sources.safe_open import Refusal, SourceText

RECORDS = [{"id": f"r{i}", "text": f"The text with number {i}."} for i in range(3)]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
TABLE = b"id,text\n" + b"".join(f"r{i},The text with number {i}.\n".encode() for i in range(3))
TEX = b"% of 2024\n\\documentclass{article}\n\\begin{document}\nSome \\emph{prose}.\n\\end{document}\n"
POSTS = b'<?xml version="1.0"?>\n<posts>\n  <row Id="1" Body="&lt;p&gt;Some prose.&lt;/p&gt;" />\n</posts>'
WIKI = b"<mediawiki xml:lang='en'><page><title>A</title><ns>0</ns><revision><text>Prose.</text></revision></page></mediawiki>"
FUNCTION = {
    "repo": "o/r",
    "path": "a.py",
    "func_name": "f",
    "language": "python",
    "code": "def f(): pass",
    "docstring": "Does.",
}


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(RECORDS), out)
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("a.py")
        archive.addfile(info, io.BytesIO())
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.py", "x = 1\n")
    return out.getvalue()


CONTENTS: dict[str, tuple[str, bytes]] = {
    "lines": ("json_lines", LINES),
    "array": ("json_lines", json.dumps(RECORDS).encode()),
    "objects": ("json_lines", b"".join(json.dumps(record, indent=1).encode() for record in RECORDS)),
    "utf16": ("json_lines", json.dumps(RECORDS).encode("utf-16")),
    "functions": ("code_search_net", json.dumps(FUNCTION).encode() + b"\n"),
    "table": ("csv", TABLE),
    "tabs": ("csv", TABLE.replace(b",", b"\t")),
    "parquet": ("parquet", parquet()),
    "posts": ("stack_exchange", POSTS),
    "wiki": ("mediawiki", WIKI),
    "latex": ("latex", TEX),
    "page": ("html", b"<!DOCTYPE html>\n" + page("rain")),
    "bare page": ("html", page("rain")),
    "crawl": ("warc", response("http://a.org/", page("rain"), gzip=False)),
    "tar": ("archive", tarred()),
    "zip": ("archive", zipped()),
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


def found_at(place: str, reader: str = "") -> list[SourceRecord]:
    (source,) = sources_of(place, reader)
    return [found for file in list_source(source) for found in texts_of(file, SourceConfig())]


def texts_at(place: str, reader: str = "") -> list[str]:
    return [found.content.text for found in found_at(place, reader) if isinstance(found.content, SourceText)]


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("kind", CONTENTS)
def test_a_file_is_known_under_any_name(tmp_path: Path, kind: str, packer: str) -> None:
    reader, content = CONTENTS[kind]
    for name in (f"data{packer}", f"data.txt{packer}", f"part-0001.dat{packer}", "RS_2019-01"):
        (tmp_path / name).write_bytes(PACKERS[packer](content))
        if packer and kind in ("tar", "zip", "parquet"):  # seekable as they are; their compressed names are archives'
            continue
        assert guess_reader(str(tmp_path / name)) == reader, name


@pytest.mark.parametrize("name", ["a.json", "a.txt", "a", "a.ndjson.gz", "a.json.zst", "a.jsonl.bz2", "a.jsonl.xz", "a.dat"])
@pytest.mark.parametrize("kind", ["lines", "array", "objects"])
def test_records_are_read_under_any_name(tmp_path: Path, name: str, kind: str) -> None:
    packer = PACKERS[Path(name).suffix if Path(name).suffix in PACKERS else ""]
    (tmp_path / name).write_bytes(packer(CONTENTS[kind][1]))
    assert texts_at(str(tmp_path / name)) == [record["text"] for record in RECORDS]


REFUSED = {
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "media": b"\x89PNG\r\n\x1a\n\0\0",
    "office": b"PK\x03\x04" + b"\0" * 26 + b"[Content_Types].xml",
    "ebook": b"PK\x03\x04" + b"\0" * 26 + b"mimetypeapplication/epub+zip",
    "sqlite": b"SQLite format 3\0" + b"\0" * 100,
    "arrow": b"ARROW1\0\0" + b"\0" * 8,
    "avro": b"Obj\x01\x04",
    "hdf5": b"\x89HDF\r\n\x1a\n\0",
    "pickle": b"\x80\x04\x95\x10\0\0\0\0\0\0\0",
    "numbers": b"\x93NUMPY\x01\0",
    "rtf": b"{\\rtf1\\ansi Some words.}",
    "postscript": b"%!PS-Adobe-3.0\n",
    "program": b"\x7fELF\x02\x01",
    "script": b"#!/usr/bin/env python3\nprint(1)\n",
    "xml": b"<?xml version='1.0'?>\n<rss version='2.0'><channel><title>News</title></channel></rss>",
    "notebook": json.dumps(
        {"cells": [{"cell_type": "markdown", "source": ["# Title\n", "Prose."]}], "metadata": {}, "nbformat": 4}
    ).encode(),
    "json_lines": LINES,
    "csv": TABLE,
    "latex": TEX,
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_prose_is_refused_by_what_it_looks_like(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "some.txt"
    path.write_bytes(REFUSED[kind])
    (found,) = found_at(str(path), "text")
    assert isinstance(found.content, Refusal) and found.content.reason == f"looks_like_{kind}"
    assert KINDS[kind] in found.content.detail
    if kind in ("json_lines", "csv", "latex"):
        assert f"the reader `{kind}`" in found.content.detail


PROSE = [
    "Call me Ishmael. Some years ago, never mind how long precisely.\n",
    "[1] A note, and what it says.\n",
    "[Illustration: the house]\n\nIt stood there.\n",
    "{A poem in braces}\n",
    "Roses, red\nViolets, blue\nSugar, sweet\nAnd so are you\nOne, two\nThree, four\n",
    "<b>Bold</b> words begin this one.\n",
    "\\o/ he said\n",
    "PARIS. The city.\n",
    "RIFFRAFF is no film.\n",
    "ORCHESTRAS play. PAR1 is a road, GIF8 a word.\n",
    "ID3 and BZh are names.\n",
    "Name: Ann\nPlace: Here\n",
    '"A quotation," she said, "is not JSON."\n',
    "\n\n\n   Indented.\n",
    "Zeile eins; Zeile zwei\nNoch eine; und noch\n",
]


@pytest.mark.parametrize("text", PROSE)
def test_prose_stays_prose(tmp_path: Path, text: str) -> None:
    assert kind_of(text.encode()) == ""
    for name in ("a.txt", "a", "a.unknown"):
        (tmp_path / name).write_text(text)
        assert texts_at(str(tmp_path / name)) == [text]


@pytest.mark.parametrize("head", [b" " * 60_000 + b"x", b"\n" * 60_000, b"[" * 60_000, b'{"' + b"\\" * 60_000, b"<!--" * 15_000,
                                  b"<!DOCTYPE [" * 5_000, b"% x\n" * 15_000, b'{"a":' * 12_000, b"a,b\n" * 15_000])  # fmt: skip
def test_looking_takes_no_time_whatever_there_is(head: bytes) -> None:
    began = time.perf_counter()
    assert kind_of(head) in ("", "json_lines", "csv")
    assert time.perf_counter() - began < 2


def test_a_kind_with_a_reader_names_it() -> None:
    advised = {kind for kind, advice in KINDS.items() if f"the reader `{kind}`" in advice}
    assert advised == set(KINDS) & set(reader_names())


PAGE = (Path(__file__).parents[3] / "docs/reference/formats.md").read_text()


@pytest.mark.parametrize("name", known_readers())
def test_the_page_on_formats_says_how_each_reader_recognises_and_what_it_takes(name: str) -> None:
    table = PAGE.partition("## Fields of records")[0]
    (row,) = (line for line in table.splitlines() if line.startswith(f"| `{name}` |"))
    reader = reader_of(name)
    for suffix in reader.suffixes if reader is not None and name != "archive" else ():
        assert f"`{suffix}`" in row or f"`{suffix.removesuffix('.gz').removesuffix('.bz2')}`" in row, suffix
    if reader is not None and reader.options is not None and issubclass(reader.options, Options):
        assert all(f"`{option}`" in PAGE for option in reader.options.model_fields)


def test_the_page_on_formats_has_every_layout_and_every_reason_of_a_file_that_is_not_read() -> None:
    assert all(f"`{layout}`" in PAGE for layout in LAYOUTS)
    assert all(f"`looks_like_{kind}`" in PAGE for kind in set(KINDS) - set(reader_names()))


# ---- code and prose by their path

BODY = '''def add(items):
    """Adds all numbers of a list."""
    total = 0
    for i in items:
        total += i
    return total
'''
RUBY = "# Adds all the numbers of a list.\ndef add(items)\n  total = 0\n  items.each { |i| total += i }\n  total\nend\n"


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.py", "python"), ("a.rb", "ruby"), ("a.py.gz", "python"), ("a.md", "markdown"), ("a.rst", "restructuredtext"),
     ("a.html", "html"), ("a.tex", "latex"), ("a.txt", "plain"), ("a.php", "php"), ("README", "plain")],
)  # fmt: skip
@pytest.mark.parametrize("reader", ["", "text", "auto"])
def test_a_file_given_by_its_path_is_what_its_name_says(tmp_path: Path, name: str, form: str, reader: str) -> None:
    content = b"<html><?php echo 1; ?></html>" if name == "a.php" else b"Some words.\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    (source,) = sources_of(str(tmp_path / name), reader)
    (file,) = list_source(source)
    assert file.form == ("plain" if (name, reader) == ("a.tex", "text") else form)


def pairs_of(source: DumpSource) -> Rows:
    rows = Rows(0)
    for file in list_source(source):
        extract_file(file, ExtractWork(source=SourceConfig(), extract=ExtractConfig()), rows)
    return rows


def test_source_files_by_path_and_by_glob_give_pairs_of_code(tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text(BODY)
    for name in ("one.rb", "two.rb"):
        (tmp_path / name).write_text(RUBY)
    for place, pairs in ((tmp_path / "sums.py", 1), (tmp_path / "*.rb", 2), (tmp_path / "*.*", 3)):
        (source,) = sources_of(str(place))
        rows = pairs_of(source)
        assert (source.reader, len(rows.pairs), rows.facts["code_pairs"]) == ("text", pairs, pairs)
    entry = DumpSource(reader="text", url=str(tmp_path / "sums.py"), licence="MIT", name="sums")
    assert len(pairs_of(entry).pairs) == 1


@pytest.mark.parametrize("name", ["a.ts", "a.c", "a.rs", "Makefile", "a.toml", "a.css"])
def test_code_of_another_language_is_counted_and_not_read_as_prose(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("let x: number = 1;\n" * 100)
    (source,) = sources_of(str(tmp_path / name))
    rows = pairs_of(source)
    assert not rows.pairs and rows.dropped == {"unknown_language": 1}


# ---- folders and globs


def test_a_glob_over_files_of_several_kinds_reads_each_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(CONTENTS["array"][1])
    (tmp_path / "b.dat").write_bytes(parquet())
    (tmp_path / "c.txt").write_text("Prose.")
    (tmp_path / "d.py").write_text(BODY)
    place = str(tmp_path / "*")
    (source,) = sources_of(place)
    assert (source.reader, [file.form for file in list_source(source)]) == (
        "auto",
        ["json_lines", "parquet", "plain", "python"],
    )
    assert texts_at(place)[:3] == [record["text"] for record in RECORDS] and len(texts_at(place)) == 8


def test_a_folder_of_a_hub_is_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split, parts in (("train", 2), ("test", 1)):
        for part in range(parts):
            (tmp_path / "data" / f"{split}-{part:05}-of-{parts:05}.parquet").write_bytes(parquet())
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# A card\n")
    (tmp_path / "dataset_infos.json").write_text('{"default": {"description": "Not a text."}}')
    (tmp_path / ".gitattributes").write_text("*.parquet lfs\n")
    assert guess_reader(str(tmp_path)) == "parquet"
    assert len(texts_at(str(tmp_path))) == len(texts_at(str(tmp_path), "parquet")) == 9
    (tmp_path / "more.jsonl").write_bytes(LINES)
    assert guess_reader(str(tmp_path)) == "auto" and len(texts_at(str(tmp_path))) == 12
    assert len(texts_at(str(tmp_path), "json_lines")) == 3


def test_a_folder_with_code_or_more_prose_than_records_is_a_tree(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"a": 1}')
    (tmp_path / "guide.md").write_text("Much prose. " * 100)
    assert guess_reader(str(tmp_path)) == "tree"
    (tmp_path / "big.jsonl").write_bytes(LINES * 100)
    assert guess_reader(str(tmp_path)) == "auto"
    (tmp_path / "a.py").write_text(BODY)
    assert guess_reader(str(tmp_path)) == "tree"


def test_a_folder_without_files_for_its_reader_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Prose.")
    source = DumpSource(reader="parquet", url=str(tmp_path), licence="MIT", name="none")
    with pytest.raises(UserError, match="nothing for the reader parquet"):
        list_source(source)
